"""Pixels and optical flow to the numbers that a network was trained on; part of the model, saved
with it.

Shapes: B batch, C channels, T frames, S flow stacks per frame, L flow frames per stack, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vidgraph.records import options


@options
class NormalizeOptions:
    """Mean and deviation of values from 0 to 1.

    Attributes:
        mean: one per channel, in the order of the clips; one for all channels of flow.
        std: likewise.
        reverse: the network takes the channels in reverse order, as those from Caffe take BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse: bool = False


NormalizeName = Literal["kinetics", "imagenet", "caffe", "flow", "caffe_flow", "digits", "raw"]
NORMALIZE: dict[NormalizeName, NormalizeOptions] = {
    # Of the weights that a model starts from: the published Kinetics ones, torchvision's, Caffe's.
    "kinetics": NormalizeOptions((0.45,) * 3, (0.225,) * 3),
    "imagenet": NormalizeOptions((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": NormalizeOptions((123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3, reverse=True),
    # Flow in 8 bits, where 127.5 is no motion: the mean of ImageNet's deviations, or Caffe's 255
    # levels. Temporal segment networks have 128 for no motion: mean 128 / 255.
    "flow": NormalizeOptions((0.5,), (0.226,)),
    "caffe_flow": NormalizeOptions((0.5,), (1 / 255,)),
    "digits": NormalizeOptions((0.1,), (0.25,)),
    # 0 to 255 as they are: the preprocessing of RSTG's authors only casts.
    "raw": NormalizeOptions((0.0,), (1 / 255,)),
}


class Normalize(nn.Module):
    """Scales pixels or flow to zero mean and unit deviation per channel.

    Args:
        options: mean and deviation, or a name in `NORMALIZE`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, options: NormalizeOptions | NormalizeName) -> None:
        super().__init__()
        how = NORMALIZE[options] if isinstance(options, str) else options
        self.reverse = how.reverse
        self.register_buffer("mean", torch.tensor(how.mean).view(-1, 1, 1, 1))
        self.register_buffer("std", torch.tensor(how.std).view(-1, 1, 1, 1))

    def forward(self, clip: Tensor) -> Tensor:
        """Video or flow, uint8 from 0 to 255 or float from 0 to 1, to float of the same shape."""
        unit = clip if clip.is_floating_point() else clip.float() / 255
        normal = (unit - self.mean) / self.std
        return normal.flip(1) if self.reverse else normal
