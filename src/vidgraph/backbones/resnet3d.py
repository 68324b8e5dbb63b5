"""ResNets over clips: C2D, I3D and, with layers after their blocks, non-local I3D. One class; sizes
and variants are functions.

Source: table 1 of Videos as Space-Time Region Graphs (ECCV 2018) and the non-local networks that it
    builds on. Where the table and
the code of that line of work differ, the default is what reproduces the paper's multiply-adds
(docs/backbones.md).

Shapes: B batch, C channels, T frames, H W pixels or map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError, nearest
from vidgraph.models.nonlocal_block import NonLocalBlock
from vidgraph.models.norms import NormKind, make_batch_norm

Triple = tuple[int, int, int]  # time, height, width
Inflation = Literal["alternate", "table1", "3x3x3", "none"]
Stride = Literal[1, 2]

STAGES = ("res2", "res3", "res4", "res5")
DEPTHS: dict[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4  # channels that leave a bottleneck per channel inside it


@dataclass(frozen=True)
class Pool:
    """A max-pool.

    Attributes:
        kernel: frames, rows, columns.
        stride: of the same.
        padding: of the same.
    """

    kernel: Triple = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)

    def layer(self) -> nn.Module:
        """The pool, or nothing where it would do nothing."""
        return (
            nn.Identity()
            if self == Pool()
            else nn.MaxPool3d(self.kernel, self.stride, self.padding)
        )


@dataclass(frozen=True)
class Stem:
    """What comes before the residual stages, and the pool in time after the first of them.

    Attributes:
        kernel: of the first convolution, padded by half of it.
        stride: of the first convolution.
        pool1: before res2.
        pool2: after res2.
    """

    kernel: Triple = (5, 7, 7)
    stride: Triple = (1, 2, 2)
    pool1: Pool = Pool((1, 3, 3), (1, 2, 2), (0, 1, 1))
    pool2: Pool = Pool((2, 1, 1), (2, 1, 1))


STEMS: dict[str, Stem] = {
    # The region-graph paper's 153 GMAC: 56 x 56 cells in res2.
    "padded": Stem(),
    # The same with the pool over three frames that the paper's table prints.
    "table1": Stem(pool2=Pool((3, 1, 1), (2, 1, 1), (1, 0, 0))),
    # Caffe2 non-local networks, Something-Else and RSTG: no padding, 55 x 55 cells in res2.
    "valid": Stem(pool1=Pool((1, 3, 3), (1, 2, 2))),
    # For clips of 128 frames: one map per eight frames, as the region-graph paper's ResNet-101 has
    # it.
    "long": Stem(stride=(2, 2, 2), pool1=Pool((2, 3, 3), (2, 2, 2), (0, 1, 1))),
    # The same without padding: Caffe2 non-local networks on long clips.
    "long_valid": Stem(stride=(2, 2, 2), pool1=Pool((2, 3, 3), (2, 2, 2))),
}


def temporal_kernels(inflation: Inflation, depths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Frames that the first and the middle convolution of each block see, per stage.

    Args:
        inflation: "alternate": the first convolution of every block of res2, of every even one of
            res3 and res4, and of every odd one of res5; "table1": of every block, as the paper's
            table prints; "3x3x3": the middle one of every block; "none": C2D.
        depths: blocks per stage.

    Raises:
        RecipeError: another inflation.
    """
    known = get_args(Inflation)
    if inflation not in known:
        raise RecipeError(f"there is no inflation {inflation!r}{nearest(inflation, known)}")
    if inflation != "alternate":
        pair = {"table1": (3, 1), "3x3x3": (1, 3), "none": (1, 1)}[inflation]
        return [[pair] * depth for depth in depths]
    inflated = (lambda _: True, lambda i: i % 2 == 0, lambda i: i % 2 == 0, lambda i: i % 2 == 1)
    return [
        [(3 if rule(i) else 1, 1) for i in range(depth)]
        for rule, depth in zip(inflated, depths, strict=True)
    ]


class Bottleneck(nn.Module):
    """Residual block: convolutions a (narrow, may see several frames), b (3 x 3, has the stride), c
    (widen), ReLU after the sum.

    Args:
        in_channels: channels of the map that comes in.
        width: channels inside; `EXPANSION` times as many leave.
        frames: that a and b see.
        stride: of b and of the shortcut, over rows and columns.
        dilation: of b, over rows and columns.
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
        out, (frames_a, frames_b) = width * EXPANSION, frames
        self.a = nn.Conv3d(
            in_channels, width, (frames_a, 1, 1), padding=(frames_a // 2, 0, 0), bias=False
        )
        self.a_norm = make_batch_norm(norm, width)
        padding, spread = (frames_b // 2, dilation, dilation), (1, dilation, dilation)
        self.b = nn.Conv3d(
            width, width, (frames_b, 3, 3), (1, stride, stride), padding, spread, bias=False
        )
        self.b_norm = make_batch_norm(norm, width)
        self.c = nn.Conv3d(width, out, 1, bias=False)
        self.c_norm = make_batch_norm(norm, out)
        self.shortcut = (
            nn.Conv3d(in_channels, out, 1, (1, stride, stride), bias=False)
            if project
            else nn.Identity()
        )
        self.shortcut_norm = make_batch_norm(norm, out) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, 4 width, T, H / stride, W / stride]."""
        y = F.relu(self.a_norm(self.a(x)), inplace=True)
        y = F.relu(self.b_norm(self.b(y)), inplace=True)
        y = self.c_norm(self.c(y))
        y += self.shortcut_norm(self.shortcut(x))
        return F.relu(y, inplace=True)


class Stage(nn.Sequential):
    """Bottlenecks of one size, one after another."""

    def forward(self, x: Tensor, after: Mapping[int, nn.Module] | None = None) -> Tensor:
        """[B, C, T, H, W] through every block, and through the layers that follow blocks, by the
        block's index.
        """
        for i, block in enumerate(self):
            x = block(x)
            if after and i in after:
                x = after[i](x)
        return x


class FirstConvolution(nn.Module):
    """Convolution, norm, ReLU.

    Args:
        in_channels: of the clip.
        width: channels that leave.
        stem: kernel and stride.
        norm: kind of batch norm.
    """

    def __init__(self, in_channels: int, width: int, stem: Stem, norm: NormKind) -> None:
        super().__init__()
        padding = (stem.kernel[0] // 2, stem.kernel[1] // 2, stem.kernel[2] // 2)
        self.conv = nn.Conv3d(in_channels, width, stem.kernel, stem.stride, padding, bias=False)
        self.norm = make_batch_norm(norm, width)

    def forward(self, video: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(video)), inplace=True)


class ResNet3D(nn.Module):
    """Bottleneck ResNet over clips.

    Args:
        depths: blocks of res2 to res5.
        inflation: which convolutions see several frames: see `temporal_kernels`.
        stem: first convolution and pools.
        width: channels of the first convolution; stages leave 4, 8, 16 and 32 times as many.
        in_channels: of the clip.
        res5_stride: over rows and columns.
        res5_dilation: of the 3 x 3 convolutions of res5 but the first. With stride 1, dilation 2
            computes what weights that were trained with stride 2 mean, at every second cell
            exactly.
        norm: kind of batch norm: see `make_batch_norm`.
        after: layers that follow a block, by (stage, index of the block): maps [B, C, T, H, W] to
            maps of the same shape.

    Attributes:
        out_channels: channels of the last map.
        strides: frames, rows and columns of the clip per cell of the last map.
        stage_channels: channels of each map, by the names that `maps` takes.
        stage_strides: frames, rows and columns of the clip per cell of each map.

    Raises:
        RecipeError: a layer after a block that does not exist.
    """

    def __init__(
        self,
        depths: Sequence[int],
        inflation: Inflation = "alternate",
        stem: Stem = STEMS["padded"],
        width: int = 64,
        in_channels: int = 3,
        res5_stride: Stride = 1,
        res5_dilation: Stride = 1,
        norm: NormKind = "batch",
        after: Mapping[tuple[str, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stem = FirstConvolution(in_channels, width, stem, norm)
        self.pool1, self.pool2 = stem.pool1.layer(), stem.pool2.layer()
        channels, strides = width, (1, 2, 2, res5_stride)
        for i, frames in enumerate(temporal_kernels(inflation, depths)):
            dilation = res5_dilation if i == len(STAGES) - 1 else 1
            self.add_module(
                STAGES[i], _stage(channels, width * 2**i, frames, strides[i], dilation, norm)
            )
            channels = width * 2**i * EXPANSION
        self.after = nn.ModuleDict(_named(after or {}, depths))
        self.stage_strides = _stage_strides(stem, strides)
        everywhere = {
            "stem": width,
            "pool1": width,
            "pool2": width * EXPANSION,
            **stage_channels(width),
        }
        self.stage_channels = {place: everywhere[place] for place in self.stage_strides}
        self.out_channels, self.strides = channels, self.stage_strides["res5"]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He normal over the outputs for the backbone's own convolutions; norms start as the
        identity, `after` layers as they were made.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv3d) and not name.startswith("after."):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] to the map of res5."""
        return self.maps(video, ("res5",))["res5"]

    def maps(self, video: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Maps of any places: clips [B, C, T, H, W] to {name: [B, C', T', H', W']}; nothing after
        the last of them is computed.

        Args:
            video: normalised pixels.
            names: of "stem", "pool1", "res2", "pool2", "res3", "res4" and "res5".

        Raises:
            RecipeError: another name.
        """
        for name in names:
            if name not in self.stage_channels:
                raise RecipeError(
                    f"the backbone has no stage {name!r}{nearest(name, self.stage_channels)}"
                )
        x, found = video, {}
        for name in self.stage_channels:
            x = self._through(name, x)
            if name in names:
                found[name] = x
            if len(found) == len(set(names)):
                break
        return found

    def _through(self, name: str, x: Tensor) -> Tensor:
        """One place of the network: a stage with the layers that follow its blocks, or a single
        layer.
        """
        module = self.get_submodule(name)
        if isinstance(module, Stage):
            keys = {i: f"{name}_{i}" for i in range(len(module))}
            reached: Tensor = module(
                x, {i: self.after[key] for i, key in keys.items() if key in self.after}
            )
        else:
            reached = module(x)
        return reached


def stage_channels(width: int = 64) -> dict[str, int]:
    """Channels of each residual stage's map, for layers that are made before the backbone."""
    return {stage: width * EXPANSION * 2**i for i, stage in enumerate(STAGES)}


def _stage(
    in_channels: int,
    width: int,
    frames: Sequence[tuple[int, int]],
    stride: int,
    dilation: int,
    norm: NormKind,
) -> Stage:
    """The first block has the stride and projects its shortcut; as with stride 2, it is the others
    that look further when dilated.
    """
    blocks = [Bottleneck(in_channels, width, frames[0], stride, 1, norm, project=True)]
    blocks += [
        Bottleneck(width * EXPANSION, width, seen, 1, dilation, norm, project=False)
        for seen in frames[1:]
    ]
    return Stage(*blocks)


def _named(
    after: Mapping[tuple[str, int], nn.Module], depths: Sequence[int]
) -> dict[str, nn.Module]:
    """Keys of a ModuleDict, which may not hold a dot: `res3_1`."""
    sizes = dict(zip(STAGES, depths, strict=True))
    for stage, index in after:
        if stage not in sizes:
            raise RecipeError(
                f"the backbone has no residual stage {stage!r}{nearest(stage, sizes)}"
            )
        if not 0 <= index < sizes[stage]:
            raise RecipeError(
                f"{stage} has blocks 0 to {sizes[stage] - 1}, and a layer was to follow block "
                f"{index}"
            )
    return {f"{stage}_{index}": layer for (stage, index), layer in after.items()}


def _stage_strides(stem: Stem, strides: Sequence[int]) -> dict[str, Triple]:
    """Every place in the order of the forward pass, with the product of all strides up to it."""
    own = {
        "stem": stem.stride,
        "pool1": stem.pool1.stride,
        "res2": (1, 1, 1),
        "pool2": stem.pool2.stride,
    }
    own |= {
        stage: (1, stride, stride) for stage, stride in zip(STAGES[1:], strides[1:], strict=True)
    }
    found, so_far = {}, (1, 1, 1)
    for place, (time, height, width) in own.items():
        so_far = (so_far[0] * time, so_far[1] * height, so_far[2] * width)
        found[place] = so_far
    return found


@dataclass(frozen=True)
class BackboneOptions:
    """Which of the published readings of one backbone.

    Attributes:
        inflation: "alternate", "table1", "3x3x3" or "none": see `temporal_kernels`.
        stem: first convolution and pools: a name in `STEMS`.
        res5_stride: 1 keeps the cells of res4, 2 halves them.
        res5_dilation: 2: with stride 1, what weights trained with stride 2 mean.
        norm: "batch"; "frozen": statistics, gain and bias stay as they were loaded;
            "frozen_statistics": gain and bias learn.
    """

    inflation: Inflation = "alternate"
    stem: str = "padded"
    res5_stride: Stride = 1
    res5_dilation: Stride = 1
    norm: NormKind = "batch"

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise RecipeError(f"there is no stem {self.stem!r}{nearest(self.stem, STEMS)}")
        for name in ("res5_stride", "res5_dilation"):
            if getattr(self, name) not in get_args(Stride):
                raise RecipeError(f"{name} is 1 or 2, not {getattr(self, name)!r}")


def resnet3d(
    depths: Sequence[int],
    options: BackboneOptions | None = None,
    after: Mapping[tuple[str, int], nn.Module] | None = None,
    width: int = 64,
    in_channels: int = 3,
) -> ResNet3D:
    """I3D, or C2D with `inflation` "none", by the names of its published readings.

    Args:
        depths: blocks of res2 to res5, such as `DEPTHS[50]`.
        options: which reading.
        after: layers that follow a block: see `ResNet3D`.
        width: channels of the first convolution.
        in_channels: of the clip.
    """
    options = options or BackboneOptions()
    stem = STEMS[options.stem]
    if options.inflation == "none":
        stem = replace(stem, kernel=(1, *stem.kernel[1:]))
    readings: Any = {
        "res5_stride": options.res5_stride,
        "res5_dilation": options.res5_dilation,
        "norm": options.norm,
    }
    return ResNet3D(depths, options.inflation, stem, width, in_channels, **readings, after=after)


def non_local_blocks(
    depth: Literal[50, 101], norm: NormKind = "batch"
) -> dict[tuple[str, int], nn.Module]:
    """The five non-local blocks of the authors' I3D, by the block that each follows.

    Args:
        depth: 50 or 101.
        norm: of the backbone; where it is frozen, the blocks' own norms are a plain learned gain
            and bias.
    """
    channels = stage_channels()
    places = [("res3", 1), ("res3", 3)] + [
        ("res4", i) for i in ((1, 3, 5) if depth == 50 else (6, 13, 20))
    ]
    return {place: NonLocalBlock(channels[place[0]], norm=norm) for place in places}
