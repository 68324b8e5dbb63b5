"""Non-local block: every cell of a map looks at all others, in space and time.

Source: Non-local Neural Networks (CVPR 2018) and its authors' code.

Shapes: B batch, C channels, T frames, H W map, D width inside, N cells that look, M cells that are
    looked at.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import NormKind, make_batch_norm
from vidgraph.errors import DataError
from vidgraph.records import Positive, options

Affinity = Literal["softmax", "dot"]


@options
class NonLocalOptions:
    """Non-local blocks inserted in a 3D ResNet.

    Attributes:
        blocks: of the ResNet, each followed by a non-local block.
        affinity: "softmax" of scaled dot products, or "dot": dot products divided by the number of
            cells that are looked at.
        pool: cells that are looked at are max-pooled 1 x 2 x 2.
        group_frames: clips are cut into groups of so many frames, which do not see each other; None
            for no groups.
    """

    blocks: tuple[str, ...] = ("layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5")
    affinity: Affinity = "softmax"
    pool: bool = True
    group_frames: Positive | None = None
    type: Literal["nonlocal"] = "nonlocal"


class NonLocalBlock(nn.Module):
    """Adds to each cell a weighted mean of all cells; the identity at initialisation.

    The affinities of all pairs, N x M per clip, are never held in memory: the softmax form is one
    fused attention, and the dot-product form multiplies keys with values first.

    Args:
        channels: of the map (C), in and out.
        affinity: "softmax" of scaled dot products, or "dot": dot products divided by the number of
            cells that are looked at.
        norm: after the last convolution: "batch", whose gain starts at zero; or, for backbones
            whose norms are frozen, a plain learned gain and bias ("frozen" or "frozen_statistics")
            or "none", where the last convolution starts at zero instead.
        pool: cells that are looked at are max-pooled 1 x 2 x 2.
        group_frames: clips are cut into groups of so many frames, which do not see each other; None
            for no groups.
    """

    def __init__(
        self,
        channels: int,
        affinity: Affinity = "softmax",
        norm: NormKind | Literal["none"] = "batch",
        pool: bool = True,
        group_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.affinity, self.group_frames = affinity, group_frames
        width = channels // 2
        self.theta, self.phi, self.g = (nn.Conv3d(channels, width, 1) for _ in range(3))
        self.out = nn.Conv3d(width, channels, 1)
        self.out_norm = (
            nn.Identity() if norm == "none" else make_batch_norm(_learned(norm), channels)
        )
        self.pool = nn.MaxPool3d((1, 2, 2)) if pool else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal of deviation 0.01; one factor of the last step is zero, so it adds nothing."""
        for layer in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(
            self.out_norm.weight if isinstance(self.out_norm, nn.BatchNorm3d) else self.out.weight
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same shape."""
        grouped = self._split(x)
        seen = self.pool(grouped)
        # What each cell asks for, [B, N, D], and what it finds, [B, M, D]
        query, key, value = (
            _cells(part) for part in (self.theta(grouped), self.phi(seen), self.g(seen))
        )
        found = (
            self._softmax(query, key, value)
            if self.affinity == "softmax"
            else self._dot(query, key, value)
        )
        # Back to a map, [B, D, T, H, W], and to the clip's channels
        found = found.transpose(1, 2).reshape(grouped.shape[0], -1, *grouped.shape[2:])
        added: Tensor = self.out_norm(self.out(self._join(found, x.shape[0])))
        return x + added

    def _softmax(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one head, scaled by the root of the width."""
        found = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])
        return found[:, 0]

    def _dot(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query @ (key.transpose(1, 2) @ value / key.shape[1])

    def _split(self, x: Tensor) -> Tensor:
        """Groups of frames become clips of their own."""
        batch, channels, frames, height, width = x.shape
        if self.group_frames is None or frames <= self.group_frames:
            return x
        if frames % self.group_frames:
            raise DataError(
                f"{frames} frames cannot be cut into groups of {self.group_frames}; change the "
                "length of the clips"
            )
        groups = x.reshape(batch, channels, -1, self.group_frames, height, width).transpose(1, 2)
        return groups.reshape(-1, channels, self.group_frames, height, width)

    def _join(self, x: Tensor, batch: int) -> Tensor:
        """The clips again: [B * groups, D, T / groups, H, W] to [B, D, T, H, W]."""
        _, width, frames, *size = x.shape
        return (
            x.reshape(batch, -1, width, frames, *size)
            .transpose(1, 2)
            .reshape(batch, width, -1, *size)
        )


def _learned(norm: NormKind) -> NormKind:
    """A norm whose gain and bias learn: frozen whole, a new one would stay the identity."""
    return "frozen_statistics" if norm == "frozen" else norm


def _cells(x: Tensor) -> Tensor:
    """[B, D, T, H, W] to [B, T * H * W, D]; fused attention wants the last axis to lie together."""
    return x.flatten(2).transpose(1, 2).contiguous()
