"""Small convolutional networks for 64 x 64 digits, frame by frame.

Shapes: B batch, C channels, E classes of still images, T frames, H W pixels or map.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vidgraph.backbones.base import frame_by_frame
from vidgraph.backbones.resnet3d import ResNet3D, ResNet3DOptions
from vidgraph.records import Positive, options

_EVIDENCE_SCALE = 1 / 8  # what pre-training gives, in units of the features beside it


@options
class SimpleC2DOptions:
    """The network of the RSTG authors.

    Attributes:
        width: channels of each convolution.
    """

    width: Positive = 512
    type: Literal["simple_c2d"] = "simple_c2d"

    def build(self, in_channels: int, size: tuple[int, int]) -> SimpleC2D:
        return SimpleC2D(self.width, in_channels)


@options
class DigitsOptions:
    """A network that a CPU can train, to be pre-trained on still digits.

    Attributes:
        num_evidence: classes of still images that the map also holds evidence for.
        resnet3d: a 3D network that takes the map in place of pixels; None: the map itself.
    """

    num_evidence: Positive = 10
    resnet3d: ResNet3DOptions | None = None
    type: Literal["digits"] = "digits"

    def build(self, in_channels: int, size: tuple[int, int]) -> DigitsBackbone:
        return DigitsBackbone(self.num_evidence, in_channels)


class SimpleC2D(nn.Module):
    """Three times 3x3 convolution without padding, ReLU, 2x2 max-pool; 64 x 64 pixels to 6 x 6."""

    stride = (1, 8, 8)

    def __init__(self, width: int = 512, in_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, width, width):
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers, self.out_channels = nn.Sequential(*layers), width

    def forward(self, clip: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C', T, H', W']."""
        return frame_by_frame(self.layers, clip)


class DigitsBackbone(nn.Module):
    """An image network on every frame, whose map also says where in the frame there is evidence for
    classes of still images; then, if given, a 3D network on these maps.

    Three convolutions of stride 2 and one of stride 1 take 64 x 64 pixels to 8 x 8 cells. Those of
    the last layer see 33 pixels, a whole digit wherever it lies; without it they see 17.

    Beside these features stand maps of evidence, one per class (Zhou et al., Learning Deep Features
    for Discriminative Localization, CVPR 2016): a linear layer at every cell, whose mean over the
    map classified the images that the network was pre-trained on. They are the last channels, and
    rectified: where nothing speaks for a class its map is zero. The features say as much, but
    mixed; a map with one thing in it has that thing's position as its centre.
    """

    def __init__(
        self, num_evidence: int = 10, in_channels: int = 1, resnet3d: ResNet3D | None = None
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, kernel, stride in ((32, 5, 2), (64, 3, 2), (96, 3, 2), (96, 3, 1)):
            conv = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            in_channels = width
        self.layers = nn.Sequential(*layers)
        self.evidence = nn.Conv2d(in_channels, num_evidence, 1, bias=False)
        self.resnet3d = resnet3d
        self.out_channels, self.stride = in_channels + num_evidence, (1, 8, 8)
        if resnet3d is not None:
            frames, rows, columns = resnet3d.stride
            self.out_channels, self.stride = resnet3d.out_channels, (frames, 8 * rows, 8 * columns)

    def forward(self, clip: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C' + E, T, H', W'], or to the map of the 3D network."""
        features = frame_by_frame(self.layers, clip)  # [B, C', T, H', W']
        evidence = nn.functional.conv3d(features, self.evidence.weight[:, :, None])
        maps = torch.cat([features, (_EVIDENCE_SCALE * evidence).relu()], dim=1)
        return maps if self.resnet3d is None else self.resnet3d(maps)
