"""ResNets over clips: C2D, I3D and, with layers inserted after their blocks, non-local I3D.

Source: table 1 of Videos as Space-Time Region Graphs (ECCV 2018) and the non-local networks that it
builds on. Where the table and the code of that line of work differ, the default is what reproduces
the paper's multiply-adds (docs/backbones.md). The papers' res2 to res5 are torchvision's layer1 to
layer4, whose names the tensors have.

Shapes: B batch, C channels, T frames, H W pixels or map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import NormKind, make_batch_norm
from vidgraph.errors import RecipeError, nearest
from vidgraph.records import Digits, Positive, options

Pair = tuple[int, int]
Triple = tuple[int, int, int]  # time, height, width
Pool = tuple[Triple, Triple, Triple]  # kernel, stride and padding of a max-pool
Inflation = Literal["alternate", "table1", "3x3x3", "none"]
StemName = Literal["padded", "table1", "valid", "long", "long_valid", "digits", "digit_maps"]
Depths = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)]

LAYERS = ("layer1", "layer2", "layer3", "layer4")
R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)
EXPANSION = 4  # channels that leave a bottleneck per channel inside it


@options
class ResNet3DOptions:
    """Which of the published readings of one backbone.

    Attributes:
        depths: blocks of layer1 to layer4, such as `R50`; fewer numbers for fewer layers.
        width: channels of the first convolution; layers leave 4, 8, 16 and 32 times as many.
        inflation: which convolutions see several frames: see `temporal_kernels`.
        stem: first convolution and pools: a name in `STEMS`.
        layer4_stride: over rows and columns; 1 keeps the cells of layer3, 2 halves them.
        layer4_dilation: of the 3 x 3 convolutions of layer4 but the first. With stride 1, dilation
            2 computes what weights that were trained with stride 2 mean, at every second cell
            exactly.
        norm: "batch"; "frozen": statistics, gain and bias stay as they were loaded;
            "frozen_statistics": gain and bias learn.
    """

    depths: Depths = R50
    width: Positive = 64
    inflation: Inflation = "alternate"
    stem: StemName = "padded"
    layer4_stride: Annotated[Literal[1, 2], Digits] = 1
    layer4_dilation: Annotated[Literal[1, 2], Digits] = 1
    norm: NormKind = "batch"
    type: Literal["resnet3d"] = "resnet3d"


@dataclass(frozen=True)
class Stem:
    """The first convolution, padded by half its kernel, and the pools before and after layer1."""

    kernel: Triple = (5, 7, 7)
    stride: Triple = (1, 2, 2)
    pool1: Pool = ((1, 3, 3), (1, 2, 2), (0, 1, 1))
    pool2: Pool = ((2, 1, 1), (2, 1, 1), (0, 0, 0))


_NO_POOL: Pool = ((1, 1, 1), (1, 1, 1), (0, 0, 0))
STEMS: dict[StemName, Stem] = {
    # The region-graph paper's 153 GMAC: 56 x 56 cells in layer1.
    "padded": Stem(),
    # The same with the pool over three frames that the paper's table prints.
    "table1": Stem(pool2=((3, 1, 1), (2, 1, 1), (1, 0, 0))),
    # Caffe2 non-local networks, Something-Else and RSTG: no padding, 55 x 55 cells in layer1.
    "valid": Stem(pool1=((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    # For clips of 128 frames: one map per eight frames, as the region-graph paper's ResNet-101.
    "long": Stem(stride=(2, 2, 2), pool1=((2, 3, 3), (2, 2, 2), (0, 1, 1))),
    # The same without padding: Caffe2 non-local networks on long clips.
    "long_valid": Stem(stride=(2, 2, 2), pool1=((2, 3, 3), (2, 2, 2), (0, 0, 0))),
    # 64 x 64 pixels to 32 x 32 cells in layer1.
    "digits": Stem(pool1=_NO_POOL),
    # All cells of a map that another network made.
    "digit_maps": Stem(kernel=(3, 3, 3), stride=(1, 1, 1), pool1=_NO_POOL),
}


def temporal_kernels(inflation: Inflation, depths: Sequence[int]) -> list[list[Pair]]:
    """Frames that the first and the middle convolution of each block see, per layer.

    Args:
        inflation: "alternate": the first convolution of every block of layer1, of every even one of
            layer2 and layer3, and of every odd one of layer4; "table1": of every block, as the
            paper's table prints; "3x3x3": the middle one of every block; "none": C2D.
        depths: blocks per layer.
    """
    if inflation == "alternate":
        which = ((0, 1), (0,), (0,), (1,))  # of each two blocks
        return [
            [(3 if i % 2 in seeing else 1, 1) for i in range(depth)]
            for seeing, depth in zip(which, depths, strict=False)
        ]
    pair = {"table1": (3, 1), "3x3x3": (1, 3), "none": (1, 1)}[inflation]
    return [[pair] * depth for depth in depths]


class Bottleneck(nn.Module):
    """Residual block: conv1 narrows, conv2 (3 x 3) has the stride, conv3 widens, ReLU at the end.

    `frames` are those that conv1 and conv2 see; `EXPANSION` times `width` channels leave.
    """

    def __init__(
        self, in_channels: int, width: int, frames: Pair, stride: int, dilation: int, norm: NormKind
    ) -> None:
        super().__init__()
        out, (first, middle) = width * EXPANSION, frames
        strides, spread = (1, stride, stride), (1, dilation, dilation)
        padding = (middle // 2, dilation, dilation)
        self.conv1 = nn.Conv3d(in_channels, width, (first, 1, 1), 1, (first // 2, 0, 0), bias=False)
        self.bn1 = make_batch_norm(norm, width)
        self.conv2 = nn.Conv3d(width, width, (middle, 3, 3), strides, padding, spread, bias=False)
        self.bn2 = make_batch_norm(norm, width)
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.bn3 = make_batch_norm(norm, out)
        self.downsample = nn.Sequential()
        if in_channels != out:
            self.downsample.append(nn.Conv3d(in_channels, out, 1, strides, bias=False))
            self.downsample.append(make_batch_norm(norm, out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, 4 width, T, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class ResNet3D(nn.Module):
    """Bottleneck ResNet over clips.

    Args:
        options: which reading.
        inserted: layers that follow a block, by its name, such as "layer2_1" for the second of
            layer2: maps [B, C, T, H, W] to maps of the same shape.
        in_channels: of the clip.

    Raises:
        RecipeError: a layer after a block that does not exist.
    """

    def __init__(
        self,
        options: ResNet3DOptions,
        inserted: Mapping[str, nn.Module] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        width, stem, norm = options.width, STEMS[options.stem], options.norm
        if options.inflation == "none":
            stem = replace(stem, kernel=(1, *stem.kernel[1:]))
        padding = (stem.kernel[0] // 2, stem.kernel[1] // 2, stem.kernel[2] // 2)
        self.conv1 = nn.Conv3d(in_channels, width, stem.kernel, stem.stride, padding, bias=False)
        self.bn1 = make_batch_norm(norm, width)
        self.pool1 = nn.Identity() if stem.pool1 == _NO_POOL else nn.MaxPool3d(*stem.pool1)
        self.pool2 = nn.MaxPool3d(*stem.pool2)
        self.layers = LAYERS[: len(options.depths)]
        channels, strides = width, [stem.stride, stem.pool1[1]]
        for i, kernels in enumerate(temporal_kernels(options.inflation, options.depths)):
            stride = (1, 2, 2, options.layer4_stride)[i]
            dilation = options.layer4_dilation if i == 3 else 1
            layer = nn.Sequential()
            for seen in kernels:  # the first block has the stride; only the others are dilated
                how = (1, dilation) if len(layer) else (stride, 1)
                layer.append(Bottleneck(channels, width * 2**i, seen, *how, norm))
                channels = width * 2**i * EXPANSION
            self.add_module(LAYERS[i], layer)
            strides += [(1, stride, stride)] + [stem.pool2[1]] * (i == 1)
        self.out_channels = channels
        frames, rows, columns = map(math.prod, zip(*strides, strict=True))
        self.stride: Triple = (frames, rows, columns)
        for block in inserted or {}:
            channels_after(options, block)
        self.inserted = nn.ModuleDict(inserted or {})
        # He normal; inserted layers stay as they are.
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv3d) and not name.startswith("inserted."):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] to the map of the last layer."""
        return self.forward_intermediates(clip, self.layers[-1:])[self.layers[-1]]

    def forward_intermediates(self, clip: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Maps of several of "layer1" to "layer4", {name: [B, C', T', H', W']}; nothing after the
        last is computed."""
        x, maps = self.pool1(F.relu(self.bn1(self.conv1(clip)), inplace=True)), {}
        for layer in self.layers:
            if layer == "layer2":
                x = self.pool2(x)
            for i, block in enumerate(self.get_submodule(layer).children()):
                x, name = block(x), f"{layer}_{i}"
                if name in self.inserted:
                    x = self.inserted[name](x)
            maps[layer] = x
            if set(names) <= set(maps):
                break
        return {name: maps[name] for name in names}


def channels_after(options: ResNet3DOptions, block: str) -> int:
    """Channels of the map after a block such as "layer2_1".

    Raises:
        RecipeError: there is no such block.
    """
    channels = {
        f"{layer}_{i}": options.width * EXPANSION * 2**n
        for n, (layer, depth) in enumerate(zip(LAYERS, options.depths, strict=False))
        for i in range(depth)
    }
    if block not in channels:
        raise RecipeError(f"the backbone has no block {block!r}{nearest(block, channels)}")
    return channels[block]
