"""BN-Inception: the image network of temporal segment networks and of the spatiotemporal pyramid.

Sources: Batch Normalization (ICML 2015), whose network it is; names of tensors, pools and biases as
    in the published PyTorch weights, which came from Caffe, so that those load as they are.

Shapes: N images, C channels, H W pixels or map.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Unit(NamedTuple):
    """Channels of an inception unit: four branches side by side, or three that halve the map."""

    name: str
    one: int | None  # of the 1 x 1 convolution; None: the unit halves the map
    three: tuple[int, int]  # before and after the 3 x 3 convolution
    double: tuple[int, int]  # before and after the two 3 x 3 convolutions
    projection: int | None  # after the pool; None where the unit halves the map
    pool: Literal["average", "max"] = "average"

    def out_channels(self, in_channels: int) -> int:
        return (self.one or 0) + self.three[1] + self.double[1] + (self.projection or in_channels)


UNITS = (
    Unit("3a", 64, (64, 64), (64, 96), 32),
    Unit("3b", 64, (64, 96), (64, 96), 64),
    Unit("3c", None, (128, 160), (64, 96), None, "max"),
    Unit("4a", 224, (64, 96), (96, 128), 128),
    Unit("4b", 192, (96, 128), (96, 128), 128),
    Unit("4c", 160, (128, 160), (128, 160), 128),
    Unit("4d", 96, (128, 192), (160, 192), 128),
    Unit("4e", None, (128, 192), (192, 256), None, "max"),
    Unit("5a", 352, (192, 320), (160, 224), 128),
    Unit("5b", 352, (192, 320), (192, 224), 128, "max"),
)


class BNInception(nn.Module):
    """BN-Inception without classifier: 10,270,240 parameters, 224 x 224 to 1024 x 7 x 7.

    All layers stand at the top of the module under the published names: `inception_3a_3x3_reduce`
    and its norm `inception_3a_3x3_reduce_bn`. Norms have torch's momentum; the published port's 0.9
    is Caffe's way to say 0.1.

    Args:
        in_channels: of the images: 3, or 2 L of a flow stack.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stride = 32
        self._add("conv1_7x7_s2", in_channels, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        channels = 192
        for unit in UNITS:
            self._add_unit(unit, channels)
            channels = unit.out_channels(channels)
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 1024, H / 32, W / 32]."""
        # A quarter of the rows and columns: [N, 64, H / 4, W / 4]
        x = _halve(self._convolve("conv1_7x7_s2", images))
        # An eighth: [N, 192, H / 8, W / 8]
        x = _halve(self._convolve("conv2_3x3", self._convolve("conv2_3x3_reduce", x)))
        # Ten units, of which 3c and 4e halve the map: [N, 1024, H / 32, W / 32]
        for unit in UNITS:
            x = self._inception(unit, x)
        return x

    def _inception(self, unit: Unit, x: Tensor) -> Tensor:
        """One unit: its branches, joined in the order of the published weights."""
        name = f"inception_{unit.name}"
        three = self._convolve(f"{name}_3x3", self._convolve(f"{name}_3x3_reduce", x))
        double = self._convolve(f"{name}_double_3x3_reduce", x)
        double = self._convolve(f"{name}_double_3x3_1", double)
        double = self._convolve(f"{name}_double_3x3_2", double)
        if unit.one is None:
            # Odd maps: the convolutions round up and Caffe's pool does not. After a ReLU, a zero
            # wins nowhere.
            even = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
            return torch.cat([three, double, _halve(even)], dim=1)
        one = self._convolve(f"{name}_1x1", x)
        pooled = F.avg_pool2d(x, 3, 1, 1) if unit.pool == "average" else F.max_pool2d(x, 3, 1, 1)
        projected = self._convolve(f"{name}_pool_proj", pooled)
        return torch.cat([one, three, double, projected], dim=1)

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        """Convolution, norm, ReLU."""
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)), inplace=True)

    def _add(self, name: str, inside: int, outside: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(inside, outside, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outside))

    def _add_unit(self, unit: Unit, channels: int) -> None:
        name, stride = f"inception_{unit.name}", 2 if unit.one is None else 1
        if unit.one is not None:
            self._add(f"{name}_1x1", channels, unit.one, 1)
        self._add(f"{name}_3x3_reduce", channels, unit.three[0], 1)
        self._add(f"{name}_3x3", *unit.three, 3, stride)
        self._add(f"{name}_double_3x3_reduce", channels, unit.double[0], 1)
        self._add(f"{name}_double_3x3_1", *unit.double, 3)
        self._add(f"{name}_double_3x3_2", unit.double[1], unit.double[1], 3, stride)
        if unit.projection is not None:
            self._add(f"{name}_pool_proj", channels, unit.projection, 1)


def _halve(x: Tensor) -> Tensor:
    """Max-pool of Caffe, which counts a part of a window at the border as one: 112 cells to 56."""
    return F.max_pool2d(x, 3, 2, ceil_mode=True)
