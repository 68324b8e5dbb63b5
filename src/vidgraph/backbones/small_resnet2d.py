"""A small residual network of images that a CPU trains from scratch.

Shapes: N images, C channels, H W pixels or map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a shortcut; the first of them halves rows and
    columns.

    Args:
        in_channels: of the map that comes in.
        width: of the map that leaves.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(in_channels, width, 3, 2, 1, bias=False)
        self.a_norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.b_norm = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(in_channels, width, 1, 2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, width, H / 2, W / 2]."""
        y = F.relu(self.a_norm(self.a(x)), inplace=True)
        y = self.b_norm(self.b(y))
        return F.relu(y + self.shortcut_norm(self.shortcut(x)), inplace=True)


class SmallResNet2D(nn.Module):
    """A first convolution of stride 2, then one block of stride 2 per further width: 112 x 112
    pixels to 256 x 7 x 7.

    Args:
        widths: channels of the first convolution and of each block.
        in_channels: of the images: 3, or 2 L of a snippet of flow.

    Attributes:
        out_channels: channels of the map.
        stride: pixels per cell of the map; a part of a cell at the border counts as one.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, widths[-1], 2 ** len(widths)
        self.conv = nn.Conv2d(in_channels, widths[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(Block(before, width) for before, width in pairwise(widths)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He normal for the convolutions; norms start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        x: Tensor = self.blocks(F.relu(self.norm(self.conv(images)), inplace=True))
        return x
