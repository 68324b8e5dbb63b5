"""Attention pooling: a mean over the places of a map whose weights another map decides.

Source: Spatiotemporal Pyramid Network (CVPR 2017), "spatiotemporal attention": two convolutions,
    softmax over the places, weighted pooling
of the spatial feature map.

Shapes: B batch, C channels of the map, G channels of the guidance, H W map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.norms import full_precision


class AttentionPool(nn.Module):
    """a = softmax over places of conv2(relu(conv1(guidance))); the pooled vector is the sum of a
    times the features at each place.

    The second convolution starts at zero, so that all weights are equal and training starts from
    average pooling. It has no bias: a softmax does not see one.

    Args:
        guidance_channels: G.
        width: channels between the two 1 x 1 convolutions.
        relu: a ReLU between them.
    """

    def __init__(self, guidance_channels: int, width: int = 64, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.conv1 = nn.Conv2d(guidance_channels, width, 1)
        self.conv2 = nn.Conv2d(width, 1, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot for the first convolution, zero for the second."""
        nn.init.xavier_uniform_(self.conv1.weight)
        assert self.conv1.bias is not None
        nn.init.zeros_(self.conv1.bias)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, features: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """Pools a map.

        Args:
            features: what is pooled, [B, C, H, W].
            guidance: what decides where, on the same places, [B, G, H, W].

        Returns:
            The pooled vector [B, C], and the weight of each place, float32 [B, H, W], which sum to
            1.

        Raises:
            ValueError: maps of another size.
        """
        if features.shape[2:] != guidance.shape[2:]:
            raise ValueError(
                f"the guidance {list(guidance.shape)} has other places than the features "
                f"{list(features.shape)}"
            )
        # One number per place: [B, 1, H, W]
        hidden = self.conv1(guidance)
        logits = self.conv2(F.relu(hidden) if self.relu else hidden)
        with full_precision(logits):
            # Weights of the places: [B, H, W]
            weights = (
                logits.float().flatten(1).softmax(dim=1).reshape(len(logits), *logits.shape[2:])
            )
            # Their mean of the features: [B, C]
            pooled = torch.einsum("bchw,bhw->bc", features.float(), weights)
        return pooled.to(features.dtype), weights
