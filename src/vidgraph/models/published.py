"""The options of a whole model, and those of the published ones by name.

Sources: RSTG: Recurrent Space-time Graph Neural Networks (NeurIPS 2019); I3D and STRG: Videos as
Space-Time Region Graphs (ECCV 2018) and Non-local Neural Networks (CVPR 2018). Sizes whose names
end in `small` are ours, for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vidgraph.backbones.digits import DigitsOptions, SimpleC2DOptions
from vidgraph.backbones.image import ImageOptions, timm_options
from vidgraph.backbones.resnet3d import R101, ResNet3DOptions
from vidgraph.models.baselines import (
    ConvLSTMOptions,
    EvidenceOptions,
    MeanLSTMOptions,
    PooledOptions,
)
from vidgraph.models.nonlocal_block import NonLocalOptions
from vidgraph.models.normalize import NormalizeName, NormalizeOptions
from vidgraph.models.rstg_extras import RSTGExtras
from vidgraph.models.rstg_heads import SOMETHING, InsertedRSTGOptions, RSTGHeadOptions
from vidgraph.models.strg import STRGOptions
from vidgraph.models.two_stream import SegmentsOptions
from vidgraph.records import InputSpec, options

BackboneOptions = Annotated[
    ResNet3DOptions | DigitsOptions | SimpleC2DOptions | ImageOptions,
    Field(discriminator="type"),
    BeforeValidator(timm_options),
]
InsertedOptions = Annotated[NonLocalOptions | InsertedRSTGOptions, Field(discriminator="type")]
HeadOptions = Annotated[
    PooledOptions
    | SegmentsOptions
    | MeanLSTMOptions
    | ConvLSTMOptions
    | EvidenceOptions
    | RSTGHeadOptions
    | STRGOptions,
    Field(discriminator="type"),
]


@options
class ModelOptions:
    """normalize -> backbone -> head.

    Attributes:
        input: which clips the model takes.
        normalize: of pixels: mean and deviation, or a name for them.
        backbone: clip to feature map.
        head: feature map to scores.
        inserted: layers between the blocks of the backbone.
    """

    input: InputSpec
    normalize: NormalizeName | NormalizeOptions
    backbone: BackboneOptions
    head: HeadOptions
    inserted: InsertedOptions | None = None
    type: Literal["clip"] = "clip"


# ---- synchronous digits --------------------------------------------------------------------------

_DIGIT_CLIP = InputSpec(num_frames=10, height=64, width=64, channels=1, stride_frames=1)
_DIGIT_RESNET = ResNet3DOptions(width=40, stem="digits")
_SMALL_DIGIT_RESNET = ResNet3DOptions(depths=(1, 2, 1, 1), width=12, stem="digit_maps")


def rstg_syncmnist() -> ModelOptions:
    """RSTG at the size of the paper: the positional variant, 10.57 M parameters."""
    graph = RSTGHeadOptions(attention="simple", position_maps=True, node_batch_norm=True)
    return ModelOptions(_DIGIT_CLIP, "raw", SimpleC2DOptions(), graph)


def rstg_small() -> ModelOptions:
    """RSTG for a CPU: one space stage, attention over true neighbours, and all extras.

    One stage (time, space, time) and not three: it learns the task in a fraction of the clips that
    three need (docs/results.md).
    """
    graph = RSTGHeadOptions(
        width=96,
        num_stages=1,
        mask_non_edges=True,
        position_maps=True,
        extras=RSTGExtras(moments=True, differences=True, context=True, he=True),
    )
    return ModelOptions(_DIGIT_CLIP, "digits", DigitsOptions(), graph)


def mean_lstm() -> ModelOptions:
    """Mean + LSTM on the backbone of the paper."""
    return ModelOptions(_DIGIT_CLIP, "raw", SimpleC2DOptions(), MeanLSTMOptions())


def mean_lstm_small() -> ModelOptions:
    """Mean + LSTM with about as many parameters as `rstg_small`."""
    return ModelOptions(_DIGIT_CLIP, "digits", DigitsOptions(), MeanLSTMOptions(width=240))


def conv_lstm() -> ModelOptions:
    """Conv + LSTM with as many parameters as `rstg_syncmnist`; its widths are not published."""
    return ModelOptions(_DIGIT_CLIP, "raw", SimpleC2DOptions(), ConvLSTMOptions())


def conv_lstm_small() -> ModelOptions:
    """Conv + LSTM with about as many parameters as `rstg_small`."""
    head = ConvLSTMOptions(width=208, conv_width=64)
    return ModelOptions(_DIGIT_CLIP, "digits", DigitsOptions(), head)


def digit_stem() -> ModelOptions:
    """Still digits at random positions, to pre-train the small backbone of digits."""
    image = replace(_DIGIT_CLIP, num_frames=1)
    return ModelOptions(image, "digits", DigitsOptions(), EvidenceOptions())


def i3d_digits() -> ModelOptions:
    """I3D narrowed to the parameters of `rstg_syncmnist`; the paper says "a smaller ResNet"."""
    return ModelOptions(_DIGIT_CLIP, "digits", _DIGIT_RESNET, PooledOptions())


def i3d_nl_digits() -> ModelOptions:
    """`i3d_digits` with one non-local block in layer2, whose maps are too small to pool."""
    return replace(i3d_digits(), inserted=NonLocalOptions(blocks=("layer2_2",), pool=False))


def i3d_digits_small() -> ModelOptions:
    """Five residual blocks on the pre-trained digits backbone; the size of `rstg_small`."""
    backbone = DigitsOptions(resnet3d=_SMALL_DIGIT_RESNET)
    return ModelOptions(_DIGIT_CLIP, "digits", backbone, PooledOptions())


def i3d_nl_digits_small() -> ModelOptions:
    """`i3d_digits_small` with one non-local block in its second layer."""
    return replace(i3d_digits_small(), inserted=NonLocalOptions(blocks=("layer2_0",), pool=False))


def strg_digits_small() -> ModelOptions:
    """STRG with one box per digit, about as many parameters as `rstg_small`. Its nodes are of
    single frames and hold no motion."""
    spec, head = replace(_DIGIT_CLIP, boxes_per_frame=3), STRGOptions(width=172)
    return ModelOptions(spec, "digits", DigitsOptions(), head)


def strg_digits3d_small() -> ModelOptions:
    """`strg_digits_small` whose nodes hold motion, as the paper's do: two blocks of I3D on the
    pre-trained backbone of digits, with all of its cells and frames."""
    resnet3d = ResNet3DOptions(depths=(2,), width=24, stem="digit_maps")
    spec, head = replace(_DIGIT_CLIP, boxes_per_frame=3), STRGOptions(width=146)
    return ModelOptions(spec, "digits", DigitsOptions(resnet3d=resnet3d), head)


# ---- C2D, I3D and non-local I3D ------------------------------------------------------------------

_CLIP = InputSpec(num_frames=32, height=224, width=224, sample_fps=6.0)
_LONG_CLIP = InputSpec(num_frames=128, height=288, width=288, sample_fps=24.0)
_SMALL_CLIP = InputSpec(num_frames=8, height=112, width=112, sample_fps=6.0)
_SMALL_RESNET = ResNet3DOptions(depths=(2, 2, 2, 2), width=16)
_POOLED = PooledOptions(dropout=0.3)
_LONG_NON_LOCAL = NonLocalOptions(
    blocks=("layer2_1", "layer2_3", "layer3_6", "layer3_13", "layer3_20")
)


def i3d_r50() -> ModelOptions:
    """I3D, ResNet-50: the backbone of Videos as Space-Time Region Graphs (153 GMAC)."""
    return ModelOptions(_CLIP, "kinetics", ResNet3DOptions(), _POOLED)


def i3d_r101() -> ModelOptions:
    """I3D with ResNet-101 on the long clips of its paper: 128 frames, and a map every eighth."""
    return ModelOptions(_LONG_CLIP, "kinetics", ResNet3DOptions(depths=R101, stem="long"), _POOLED)


def i3d_nl_r50() -> ModelOptions:
    """I3D with five non-local blocks."""
    return replace(i3d_r50(), inserted=NonLocalOptions())


def i3d_nl_r101() -> ModelOptions:
    """I3D with ResNet-101 and five non-local blocks."""
    return replace(i3d_r101(), inserted=_LONG_NON_LOCAL)


def c2d_r50() -> ModelOptions:
    """C2D: ResNet-50 on every frame, with one pool over time."""
    return ModelOptions(_CLIP, "kinetics", ResNet3DOptions(inflation="none"), _POOLED)


def c2d_r101() -> ModelOptions:
    """C2D with ResNet-101, on the clips of `i3d_r101`."""
    backbone = ResNet3DOptions(depths=R101, stem="long", inflation="none")
    return ModelOptions(_LONG_CLIP, "kinetics", backbone, _POOLED)


def i3d_small() -> ModelOptions:
    """I3D for a CPU: two blocks per layer, a quarter of the width; 0.6 GMAC."""
    return ModelOptions(_SMALL_CLIP, "kinetics", _SMALL_RESNET, _POOLED)


# ---- RSTG inside C2D and I3D ---------------------------------------------------------------------

_WHOLE_CLIP = replace(_CLIP, whole_video=True)
_FROZEN = ResNet3DOptions(stem="valid", norm="frozen_statistics")


def rstg_i3d_r50() -> ModelOptions:
    """RSTG in I3D, as on Something-Something: 32 frames, graphs in layer2 and layer3."""
    return ModelOptions(_WHOLE_CLIP, "kinetics", _FROZEN, _POOLED, InsertedRSTGOptions())


def rstg_c2d_r50() -> ModelOptions:
    """RSTG on C2D with ResNet-50, one graph on the last map."""
    head = PooledOptions(dropout=0.3, rstg=SOMETHING)
    return ModelOptions(_WHOLE_CLIP, "kinetics", replace(_FROZEN, inflation="none"), head)


def rstg_i3d_small() -> ModelOptions:
    """RSTG in `i3d_small`, for a CPU."""
    spec = replace(_SMALL_CLIP, whole_video=True)
    graphs = InsertedRSTGOptions(
        blocks=("layer2_0", "layer3_0"), graph=replace(SOMETHING, width=128)
    )
    return ModelOptions(spec, "kinetics", replace(_SMALL_RESNET, stem="valid"), _POOLED, graphs)


# ---- STRG ----------------------------------------------------------------------------------------


def strg_i3d_r50() -> ModelOptions:
    """STRG on I3D, as on Charades: 32 frames at 6 per second, 16 x 50 regions, both graphs."""
    spec, backbone = replace(_CLIP, boxes_per_frame=50), ResNet3DOptions(norm="frozen")
    return ModelOptions(spec, "kinetics", backbone, STRGOptions(dropout=0.3))


def strg_i3d_r101() -> ModelOptions:
    """STRG on I3D with ResNet-101, on the clips of `i3d_r101`."""
    spec = replace(_LONG_CLIP, boxes_per_frame=50)
    backbone = ResNet3DOptions(depths=R101, stem="long", norm="frozen")
    return ModelOptions(spec, "kinetics", backbone, STRGOptions(dropout=0.3))


def strg_small() -> ModelOptions:
    """STRG on the backbone of `i3d_small`, for a CPU: 4 x 10 regions of width 128."""
    spec, head = replace(_SMALL_CLIP, boxes_per_frame=10), STRGOptions(width=128, dropout=0.3)
    return ModelOptions(spec, "kinetics", _SMALL_RESNET, head)


# ---- heads on any backbone -----------------------------------------------------------------------

_ANY_CLIP = InputSpec(num_frames=8, height=224, width=224, whole_video=True)


def pooled() -> ModelOptions:
    """The mean of the map, on a small I3D until another backbone is named."""
    return ModelOptions(_ANY_CLIP, "imagenet", _SMALL_RESNET, PooledOptions())


def rstg() -> ModelOptions:
    """A recurrent space-time graph, on a small I3D until another backbone is named."""
    return replace(pooled(), head=RSTGHeadOptions())


def strg() -> ModelOptions:
    """A graph over ten boxes per frame, on a small I3D until another backbone is named."""
    return replace(pooled(), input=replace(_ANY_CLIP, boxes_per_frame=10), head=STRGOptions())


# Each published name, with the number of classes of the data set that it was published for.
_SYNC, _CHARADES, _SOMETHING = 46, 157, 174
_BY_CLASSES: dict[int | None, tuple[Callable[[], ModelOptions], ...]] = {
    _SYNC: (
        *(rstg_syncmnist, rstg_small, mean_lstm, mean_lstm_small, conv_lstm, conv_lstm_small),
        *(i3d_digits, i3d_digits_small, i3d_nl_digits, i3d_nl_digits_small, strg_digits_small),
        strg_digits3d_small,
    ),
    10: (digit_stem,),
    _CHARADES: (
        *(c2d_r50, c2d_r101, i3d_r50, i3d_r101, i3d_nl_r50, i3d_nl_r101, i3d_small),
        *(strg_i3d_r50, strg_i3d_r101, strg_small),
    ),
    _SOMETHING: (rstg_i3d_r50, rstg_c2d_r50, rstg_i3d_small),
    None: (pooled, rstg, strg),
}
NAMED: dict[str, tuple[Callable[[], ModelOptions], int | None]] = {
    function.__name__: (function, classes)
    for classes, functions in _BY_CLASSES.items()
    for function in functions
}
