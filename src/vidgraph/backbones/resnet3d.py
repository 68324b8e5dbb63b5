"""ResNets over clips: C2D, I3D and, with layers inserted after their blocks, non-local I3D.

Source: table 1 of Videos as Space-Time Region Graphs (ECCV 2018) and the non-local networks that it
builds on. Where the table and the code of that line of work differ, the default is what reproduces
the paper's multiply-adds (docs/backbones.md). The papers' res2 to res5 are torchvision's layer1 to
layer4, whose names the tensors have.

Shapes: B batch, C channels, T frames, H W pixels or map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import NormKind, make_batch_norm
from vidgraph.errors import RecipeError, nearest
from vidgraph.records import Digits, Positive, options

Triple = tuple[int, int, int]  # time, height, width
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
class Pool:
    """A max-pool: kernel, stride and padding over frames, rows and columns."""

    kernel: Triple = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)

    def layer(self) -> nn.Module:
        """The pool, or nothing where it would do nothing."""
        if self == Pool():
            return nn.Identity()
        return nn.MaxPool3d(self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class Stem:
    """What comes before the residual layers, and the pool in time after the first of them.

    Attributes:
        kernel: of the first convolution, padded by half of it.
        stride: of the first convolution.
        pool1: before layer1.
        pool2: after layer1.
    """

    kernel: Triple = (5, 7, 7)
    stride: Triple = (1, 2, 2)
    pool1: Pool = Pool((1, 3, 3), (1, 2, 2), (0, 1, 1))
    pool2: Pool = Pool((2, 1, 1), (2, 1, 1))


STEMS: dict[StemName, Stem] = {
    # The region-graph paper's 153 GMAC: 56 x 56 cells in layer1.
    "padded": Stem(),
    # The same with the pool over three frames that the paper's table prints.
    "table1": Stem(pool2=Pool((3, 1, 1), (2, 1, 1), (1, 0, 0))),
    # Caffe2 non-local networks, Something-Else and RSTG: no padding, 55 x 55 cells in layer1.
    "valid": Stem(pool1=Pool((1, 3, 3), (1, 2, 2))),
    # For clips of 128 frames: one map per eight frames, as the region-graph paper's ResNet-101.
    "long": Stem(stride=(2, 2, 2), pool1=Pool((2, 3, 3), (2, 2, 2), (0, 1, 1))),
    # The same without padding: Caffe2 non-local networks on long clips.
    "long_valid": Stem(stride=(2, 2, 2), pool1=Pool((2, 3, 3), (2, 2, 2))),
    # 64 x 64 pixels to 32 x 32 cells in layer1.
    "digits": Stem(pool1=Pool()),
    # All cells of a map that another network made.
    "digit_maps": Stem(kernel=(3, 3, 3), stride=(1, 1, 1), pool1=Pool()),
}


def temporal_kernels(inflation: Inflation, depths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Frames that the first and the middle convolution of each block see, per layer.

    Args:
        inflation: "alternate": the first convolution of every block of layer1, of every even one of
            layer2 and layer3, and of every odd one of layer4; "table1": of every block, as the
            paper's table prints; "3x3x3": the middle one of every block; "none": C2D.
        depths: blocks per layer.
    """
    if inflation == "alternate":
        rules = (lambda _: True, lambda i: i % 2 == 0, lambda i: i % 2 == 0, lambda i: i % 2 == 1)
        return [
            [(3 if rule(i) else 1, 1) for i in range(depth)]
            for rule, depth in zip(rules, depths, strict=False)
        ]
    pair = {"table1": (3, 1), "3x3x3": (1, 3), "none": (1, 1)}[inflation]
    return [[pair] * depth for depth in depths]


class Bottleneck(nn.Module):
    """Residual block: conv1 narrows, conv2 (3 x 3) has the stride, conv3 widens, ReLU at the end.

    Args:
        in_channels: channels of the map that comes in.
        width: channels inside; `EXPANSION` times as many leave.
        frames: that conv1 and conv2 see.
        stride: of conv2 and of the shortcut, over rows and columns.
        dilation: of conv2, over rows and columns.
        norm: kind of batch norm.
        project: the shortcut is a convolution.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        frames: tuple[int, int],
        stride: int,
        dilation: int,
        norm: NormKind,
        project: bool,
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
        if project:
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

    Attributes:
        out_channels: channels of the last map.
        stride: frames, rows and columns of the clip per cell of the last map.

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
        self.pool1, self.pool2 = stem.pool1.layer(), stem.pool2.layer()
        self.layers = LAYERS[: len(options.depths)]
        channels, self.stride = width, _product(stem.stride, stem.pool1.stride)
        for i, kernels in enumerate(temporal_kernels(options.inflation, options.depths)):
            stride = (1, 2, 2, options.layer4_stride)[i]
            dilation = options.layer4_dilation if i == 3 else 1
            layer = _layer(channels, width * 2**i, kernels, stride, dilation, norm)
            self.add_module(LAYERS[i], layer)
            channels = width * 2**i * EXPANSION
            if i == 1:
                self.stride = _product(self.stride, stem.pool2.stride)
            self.stride = _product(self.stride, (1, stride, stride))
        self.out_channels = channels
        for block in inserted or {}:
            channels_after(options, block)
        self.inserted = nn.ModuleDict(inserted or {})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He normal for the backbone's own convolutions; inserted layers stay as they are."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv3d) and not name.startswith("inserted."):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] to the map of the last layer."""
        return self.forward_intermediates(clip, self.layers[-1:])[self.layers[-1]]

    def forward_intermediates(self, clip: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Maps of several layers, {name: [B, C', T', H', W']}; nothing after the last is computed.

        Args:
            clip: normalised pixels.
            names: of "layer1" to "layer4".
        """
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


def _product(one: Triple, other: Triple) -> Triple:
    return (one[0] * other[0], one[1] * other[1], one[2] * other[2])


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


def _layer(
    in_channels: int,
    width: int,
    frames: Sequence[tuple[int, int]],
    stride: int,
    dilation: int,
    norm: NormKind,
) -> nn.Sequential:
    """The first block has the stride and projects its shortcut; only the others are dilated."""
    first = Bottleneck(in_channels, width, frames[0], stride, 1, norm, project=True)
    others = [
        Bottleneck(width * EXPANSION, width, seen, 1, dilation, norm, project=False)
        for seen in frames[1:]
    ]
    return nn.Sequential(first, *others)
