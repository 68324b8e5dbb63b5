"""Non-local block: every cell of a map looks at all others, in space and time.

Source: Non-local Neural Networks (CVPR 2018) and its authors' code.

Shapes: B batch, C channels, T frames, H W map, D width inside, N cells that look, M looked at.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import NormKind, make_batch_norm
from vidgraph.records import options


@options
class NonLocalOptions:
    """Non-local blocks inserted in a 3D ResNet.

    Attributes:
        blocks: of the ResNet, each followed by a non-local block.
        pool: cells that are looked at are max-pooled 1 x 2 x 2.
    """

    blocks: tuple[str, ...] = ("layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5")
    pool: bool = True
    type: Literal["nonlocal"] = "nonlocal"


class NonLocalBlock(nn.Module):
    """Adds to each cell a mean of all cells, weighted by the softmax of scaled dot products; the
    identity at initialisation. The weights of all pairs, N x M per clip, are never held in memory.

    Args:
        channels: of the map (C), in and out.
        norm: after the last convolution, of the kind that the backbone has: "batch", whose gain
            starts at zero; else a plain learned gain and bias, where the last convolution starts at
            zero instead.
        pool: cells that are looked at are max-pooled 1 x 2 x 2.
    """

    def __init__(self, channels: int, norm: NormKind = "batch", pool: bool = True) -> None:
        super().__init__()
        width = channels // 2
        self.theta, self.phi, self.g = (nn.Conv3d(channels, width, 1) for _ in range(3))
        self.out = nn.Conv3d(width, channels, 1)
        # A new norm that is frozen whole would be the identity for ever.
        learned: NormKind = "batch" if norm == "batch" else "frozen_statistics"
        self.out_norm = make_batch_norm(learned, channels)
        self.pool = nn.MaxPool3d((1, 2, 2)) if pool else nn.Identity()
        for layer in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        # One factor of the last step starts at zero, and so does what the block adds.
        nn.init.zeros_(
            self.out_norm.get_parameter("weight") if norm == "batch" else self.out.weight
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same shape."""
        seen = self.pool(x)
        # What each cell asks for, [B, 1, N, D], and what it finds, [B, 1, M, D]
        query, key, value = map(_cells, (self.theta(x), self.phi(seen), self.g(seen)))
        found = F.scaled_dot_product_attention(query, key, value)[:, 0]
        # Back to a map, [B, D, T, H, W], and to the clip's channels
        added: Tensor = self.out_norm(self.out(found.transpose(1, 2).unflatten(2, x.shape[2:])))
        return x + added


def _cells(x: Tensor) -> Tensor:
    """[B, D, T, H, W] to one head, [B, 1, T * H * W, D], contiguous for the fused attention."""
    return x.flatten(2).transpose(1, 2).contiguous()[:, None]
