"""Pixels and optical flow to the numbers that a network was trained on; part of the model, saved
with it.

Shapes: B batch, C channels, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """Scales uint8 or [0, 1] pixels to zero mean and unit deviation per channel.

    Args:
        mean: of [0, 1] pixels, one per channel.
        std: of [0, 1] pixels, one per channel.
        reverse: the network takes the channels in reverse order, as those from Caffe take BGR;
            `mean` and `std` are in the order of the clips.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], reverse: bool = False) -> None:
        super().__init__()
        self.reverse = reverse
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1, 1), persistent=False)

    def forward(self, video: Tensor) -> Tensor:
        """[B, C, T, H, W] uint8 or float in [0, 1] to float of the same shape.

        Raises:
            ValueError: another number of channels than this model takes.
        """
        if video.dim() != 5 or video.shape[1] != len(self.mean):
            raise ValueError(
                f"this model takes clips [B, {len(self.mean)}, T, H, W], not {list(video.shape)}"
            )
        unit = video.float() / 255 if video.dtype == torch.uint8 else video
        normal = (unit - self.mean) / self.std
        return normal.flip(1) if self.reverse else normal


def caffe_pixels() -> PixelNorm:
    """What the published BN-Inception takes: BGR from 0 to 255, less 104, 117 and 123."""
    return PixelNorm([123 / 255, 117 / 255, 104 / 255], [1 / 255] * 3, reverse=True)


class FlowNorm(nn.Module):
    """Centres and scales optical flow that was stored in 8 bits, from 0 to 255 for minus to plus
    the bound.

    Args:
        zero: level of no motion. At 127.5 a mirrored field, 255 - x, is exactly the negative of the
            field. 128: as temporal segment networks subtract it, where a field without motion is
            stored as 128 and becomes 0, and its mirror image becomes -1.
        std: levels that become one. The default suits networks that take ImageNet's normalised
            pixels: the mean of their deviations; 1 leaves levels, as the published BN-Inception
                takes them.
    """

    def __init__(self, zero: float = 127.5, std: float = 255 * 0.226) -> None:
        super().__init__()
        self.zero, self.std = zero, std

    def forward(self, flow: Tensor) -> Tensor:
        """Flow of any shape, uint8 or float from 0 to 255, to float32 of the same shape; other
        floats keep their type.
        """
        levels = flow if flow.is_floating_point() else flow.float()
        return (levels - self.zero) / self.std

    def extra_repr(self) -> str:
        return f"zero={self.zero}, std={self.std:.5g}"
