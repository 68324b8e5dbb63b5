"""The options of whole models, and those of the published ones by name.

Sources: RSTG: Recurrent Space-time Graph Neural Networks (NeurIPS 2019); I3D and STRG: Videos as
Space-Time Region Graphs (ECCV 2018) and Non-local Neural Networks (CVPR 2018); STPyramid:
Spatiotemporal Pyramid Network (CVPR 2017); Two-Stream Convolutional Networks (NIPS 2014); Temporal
Segment Networks (ECCV 2016); LRCN: Long-term Recurrent Convolutional Networks (CVPR 2015). Sizes
whose names end in `small` are ours, for a CPU.
"""

from __future__ import annotations

import operator
from dataclasses import is_dataclass, replace
from functools import partial, reduce
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from vidgraph.backbones import all_backbones
from vidgraph.backbones.digits import DigitsOptions, SimpleC2DOptions
from vidgraph.backbones.image import (
    BNInceptionOptions,
    ImageOptions,
    SmallResNet2DOptions,
    TimmOptions,
    timm_options,
)
from vidgraph.backbones.resnet3d import R101, ResNet3DOptions
from vidgraph.backbones.video import hf_options
from vidgraph.models import all_heads
from vidgraph.models.baselines import (
    ConvLSTMOptions,
    EvidenceOptions,
    MeanLSTMOptions,
    PooledOptions,
)
from vidgraph.models.nonlocal_block import NonLocalOptions
from vidgraph.models.normalize import NormalizeName, NormalizeOptions
from vidgraph.models.probes import (
    AttentiveProbeOptions,
    StatisticsOptions,
    TemporalTransformerOptions,
)
from vidgraph.models.pyramid import FusionOptions
from vidgraph.models.rstg_extras import RSTGExtras
from vidgraph.models.rstg_heads import SOMETHING, InsertedRSTGOptions, RSTGHeadOptions
from vidgraph.models.strg import STRGOptions
from vidgraph.models.two_stream import SegmentsOptions
from vidgraph.records import InputSpec, Positive, options


def _any_of(module: ModuleType) -> Any:
    """The records of options that a module imports, as one union told apart by `type`."""
    records = [value for value in vars(module).values() if is_dataclass(value)]
    return Annotated[reduce(operator.or_, records), Field(discriminator="type")]


if TYPE_CHECKING:
    BackboneOptions: TypeAlias = Any
    HeadOptions: TypeAlias = Any
else:
    named = BeforeValidator(lambda value: timm_options(hf_options(value)))
    BackboneOptions = Annotated[_any_of(all_backbones), named]
    HeadOptions = _any_of(all_heads)
InsertedOptions = Annotated[NonLocalOptions | InsertedRSTGOptions, Field(discriminator="type")]


@options
class ModelOptions:
    """normalize -> backbone -> head.

    Attributes:
        input: which clips the model takes.
        normalize: of pixels: mean and deviation, or a name for them.
        backbone: clip to feature map.
        head: feature map to scores.
        inserted: layers between the blocks of the backbone.
        copies: heads of this kind, trained apart, whose logits are averaged.
    """

    input: InputSpec
    normalize: NormalizeName | NormalizeOptions
    backbone: BackboneOptions
    head: HeadOptions
    inserted: InsertedOptions | None = None
    copies: Positive = 1
    type: Literal["clip"] = "clip"


@options
class StreamOptions:
    """normalize -> backbone, of frames or of flow, whose stacks are frames of 2 L channels."""

    normalize: NormalizeName | NormalizeOptions
    backbone: BackboneOptions


@options
class ScoredStreamOptions(StreamOptions):
    """normalize -> backbone -> head, which takes the feature map to scores."""

    head: HeadOptions


@options
class TwoStreamOptions:
    """Frames and flow, each scored by itself; one of them alone where the other is None.

    Attributes:
        flow_weight: of the scores of flow, where those of frames have 1.
    """

    input: InputSpec
    frames: ScoredStreamOptions | None
    flow: ScoredStreamOptions | None
    flow_weight: Annotated[float, Field(gt=0)] = 1.5
    type: Literal["two_stream"] = "two_stream"


@options
class PyramidOptions:
    """Frames and flow, fused on three levels. A stream that no feature needs is not built."""

    input: InputSpec
    frames: StreamOptions
    flow: StreamOptions
    fusion: FusionOptions = FusionOptions()
    type: Literal["pyramid"] = "pyramid"


NetworkOptions = Annotated[
    ModelOptions | TwoStreamOptions | PyramidOptions, Field(discriminator="type")
]


# ---- synchronous digits --------------------------------------------------------------------------

_DIGIT_CLIP = InputSpec(num_frames=10, height=64, width=64, channels=1, stride_frames=1)
_DIGITS, _DIGIT_I3D = DigitsOptions(), ResNet3DOptions(width=40, stem="digits")
_DIGITS_I3D = DigitsOptions(resnet3d=ResNet3DOptions((1, 2, 1, 1), width=12, stem="digit_maps"))
_DIGITS_I3D_LAYER1 = DigitsOptions(resnet3d=ResNet3DOptions((2,), width=24, stem="digit_maps"))
_non_local = partial(NonLocalOptions, pool=False)  # in maps that are too small to pool
_authors = partial(ModelOptions, _DIGIT_CLIP, "raw", SimpleC2DOptions())
_digits = partial(ModelOptions, _DIGIT_CLIP, "digits")
_boxed = partial(ModelOptions, replace(_DIGIT_CLIP, boxes_per_frame=3), "digits")

_SYNC_MNIST: dict[str, NetworkOptions] = {
    # At the size of the paper: the positional variant, 10.57 M parameters.
    "rstg_syncmnist": _authors(
        RSTGHeadOptions(attention="simple", position_maps=True, node_batch_norm=True)
    ),
    # For a CPU. One stage (time, space, time) and not three: it learns the task in a fraction of
    # the clips that three need (docs/results.md).
    "rstg_small": _digits(
        _DIGITS,
        RSTGHeadOptions(
            width=96,
            num_stages=1,
            mask_non_edges=True,
            position_maps=True,
            extras=RSTGExtras(moments=True, differences=True, context=True, he=True),
        ),
    ),
    # All but `mean_lstm` have about as many parameters as one of these two.
    "mean_lstm": _authors(MeanLSTMOptions()),
    "mean_lstm_small": _digits(_DIGITS, MeanLSTMOptions(width=240)),
    "conv_lstm": _authors(ConvLSTMOptions()),  # its widths are not published
    "conv_lstm_small": _digits(_DIGITS, ConvLSTMOptions(width=208, conv_width=64)),
    "i3d_digits": _digits(_DIGIT_I3D, PooledOptions()),  # the paper says "a smaller ResNet"
    "i3d_digits_small": _digits(_DIGITS_I3D, PooledOptions()),
    "i3d_nl_digits": _digits(_DIGIT_I3D, PooledOptions(), _non_local(("layer2_2",))),
    "i3d_nl_digits_small": _digits(_DIGITS_I3D, PooledOptions(), _non_local(("layer2_0",))),
    # One box per digit. Its nodes are of single frames; those of the next hold motion, as the
    # paper's do.
    "strg_digits_small": _boxed(_DIGITS, STRGOptions(width=172)),
    "strg_digits3d_small": _boxed(_DIGITS_I3D_LAYER1, STRGOptions(width=146)),
}
_STILL_DIGITS: dict[str, NetworkOptions] = {
    # Digits at random positions, to pre-train the small backbone of digits.
    "digit_stem": ModelOptions(
        replace(_DIGIT_CLIP, num_frames=1), "digits", _DIGITS, EvidenceOptions()
    ),
}

# ---- C2D and I3D; STRG as on Charades, RSTG as on Something-Something ----------------------------

_CLIP = InputSpec(num_frames=32, height=224, width=224, sample_fps=6.0)
_LONG_CLIP = InputSpec(num_frames=128, height=288, width=288, sample_fps=24.0)
_SMALL_CLIP = InputSpec(num_frames=8, height=112, width=112, sample_fps=6.0)
_R50, _SMALL_R18 = ResNet3DOptions(), ResNet3DOptions((2, 2, 2, 2), width=16)
_R101 = ResNet3DOptions(R101, stem="long")  # a map every eighth frame
_VALID = ResNet3DOptions(stem="valid", norm="frozen_statistics")
_POOLED = PooledOptions(dropout=0.3)
_LONG_NON_LOCAL = NonLocalOptions(("layer2_1", "layer2_3", "layer3_6", "layer3_13", "layer3_20"))


def _kinetics(
    spec: InputSpec,
    backbone: ResNet3DOptions,
    inserted: InsertedOptions | None = None,
    head: PooledOptions | STRGOptions = _POOLED,
) -> ModelOptions:
    return ModelOptions(spec, "kinetics", backbone, head, inserted)


def _strg(spec: InputSpec, boxes: int, backbone: ResNet3DOptions, width: int = 512) -> ModelOptions:
    head = STRGOptions(width=width, dropout=0.3)
    return _kinetics(replace(spec, boxes_per_frame=boxes), backbone, head=head)


_CHARADES: dict[str, NetworkOptions] = {
    "c2d_r50": _kinetics(_CLIP, replace(_R50, inflation="none")),
    "c2d_r101": _kinetics(_LONG_CLIP, replace(_R101, inflation="none")),
    "i3d_r50": _kinetics(_CLIP, _R50),  # 153 GMAC
    "i3d_r101": _kinetics(_LONG_CLIP, _R101),
    "i3d_nl_r50": _kinetics(_CLIP, _R50, NonLocalOptions()),
    "i3d_nl_r101": _kinetics(_LONG_CLIP, _R101, _LONG_NON_LOCAL),
    "i3d_small": _kinetics(_SMALL_CLIP, _SMALL_R18),  # 0.6 GMAC
    "strg_i3d_r50": _strg(_CLIP, 50, replace(_R50, norm="frozen")),
    "strg_i3d_r101": _strg(_LONG_CLIP, 50, replace(_R101, norm="frozen")),
    "strg_small": _strg(_SMALL_CLIP, 10, _SMALL_R18, width=128),
}
_SOMETHING: dict[str, NetworkOptions] = {
    "rstg_i3d_r50": _kinetics(replace(_CLIP, whole_video=True), _VALID, InsertedRSTGOptions()),
    "rstg_c2d_r50": _kinetics(
        replace(_CLIP, whole_video=True),
        replace(_VALID, inflation="none"),
        head=replace(_POOLED, rstg=SOMETHING),
    ),
    "rstg_i3d_small": _kinetics(
        replace(_SMALL_CLIP, whole_video=True),
        replace(_SMALL_R18, stem="valid"),
        InsertedRSTGOptions(("layer2_0", "layer3_0"), replace(SOMETHING, width=128)),
    ),
}

# ---- heads on any backbone: on a small I3D until another is named --------------------------------

_ANY_CLIP = InputSpec(num_frames=8, height=224, width=224, whole_video=True)
_pooled = ModelOptions(_ANY_CLIP, "imagenet", _SMALL_R18, PooledOptions())

_HEADS: dict[str, NetworkOptions] = {
    "pooled": _pooled,
    "statistics": replace(_pooled, head=StatisticsOptions()),
    "temporal_transformer": replace(_pooled, head=TemporalTransformerOptions()),
    "attentive_probe": replace(_pooled, head=AttentiveProbeOptions()),
    "rstg": replace(_pooled, head=RSTGHeadOptions()),
    "strg": replace(_pooled, input=replace(_ANY_CLIP, boxes_per_frame=10), head=STRGOptions()),
}

# ---- frames and optical flow ---------------------------------------------------------------------

_FLOW_CLIP = InputSpec(num_frames=1, height=224, width=224, whole_video=True, flow_length=10)
_SMALL_FLOW_CLIP = replace(_FLOW_CLIP, height=112, width=112)
_RUN = InputSpec(num_frames=16, height=224, width=224, stride_frames=1, flow_length=1)
_SMALL_RUN = replace(_RUN, num_frames=8, height=112, width=112)
_INCEPTION, _SMALL = BNInceptionOptions(), SmallResNet2DOptions()
_FUSION = FusionOptions()
_SEGMENTS = SegmentsOptions(dropout=0.8), SegmentsOptions(dropout=0.7)
_VGG16 = TimmOptions("vgg16", level=32, weights=None, norm="partial")  # up to its last pool
_FRAMES_R50 = TimmOptions("resnet50", level=32, weights=None, norm="partial")
_LSTM, _SMALL_LSTM = (MeanLSTMOptions(width, 0.5, average=True) for width in (256, 128))
_FLOW: dict[NormalizeName, NormalizeName] = {"imagenet": "flow", "caffe": "caffe_flow"}


def _pyramid(
    pixels: NormalizeName,
    backbone: ImageOptions,
    spec: InputSpec = _FLOW_CLIP,
    fusion: FusionOptions = _FUSION,
) -> PyramidOptions:
    frames, flow = StreamOptions(pixels, backbone), StreamOptions(_FLOW[pixels], backbone)
    return PyramidOptions(replace(spec, num_stacks=3), frames, flow, fusion)


def _two_stream(
    pixels: NormalizeName,
    backbone: ImageOptions,
    heads: tuple[HeadOptions, HeadOptions],
    spec: InputSpec = _FLOW_CLIP,
    flow_weight: float = 1.5,
) -> TwoStreamOptions:
    frames = ScoredStreamOptions(pixels, backbone, heads[0])
    flow = ScoredStreamOptions(_FLOW[pixels], backbone, heads[1])
    return TwoStreamOptions(spec, frames, flow, flow_weight)


_UCF101: dict[str, NetworkOptions] = {
    "stpyramid_bn_inception": _pyramid("caffe", _INCEPTION),  # as in the paper
    "stpyramid_r50": _pyramid("imagenet", _FRAMES_R50),
    "stpyramid_vgg16": _pyramid("imagenet", _VGG16),
    "stpyramid_small": _pyramid(
        "imagenet",
        _SMALL,
        _SMALL_FLOW_CLIP,
        FusionOptions(stack_width=256, guidance_width=512, width=1024, dropout=0.5),
    ),
    # With 3 frames, Temporal Segment Networks.
    "two_stream_bn_inception": _two_stream("caffe", _INCEPTION, _SEGMENTS),
    "two_stream_vgg16": _two_stream("imagenet", _VGG16, _SEGMENTS),
    "two_stream_small": _two_stream(
        "imagenet", _SMALL, (SegmentsOptions(0.5), SegmentsOptions(0.5)), _SMALL_FLOW_CLIP
    ),
    # Consecutive frames and flow frames, an LSTM over each.
    "lrcn_bn_inception": _two_stream("caffe", _INCEPTION, (_LSTM, _LSTM), _RUN, flow_weight=2),
    "lrcn_small": _two_stream(
        "imagenet", _SMALL, (_SMALL_LSTM, _SMALL_LSTM), _SMALL_RUN, flow_weight=2
    ),
}

# Each name, with the number of classes of the data set that it was published for.
NAMED: dict[str, tuple[NetworkOptions, int | None]] = {
    name: (network, classes)
    for table, classes in (
        *((_SYNC_MNIST, 46), (_STILL_DIGITS, 10), (_CHARADES, 157), (_SOMETHING, 174)),
        *((_HEADS, None), (_UCF101, 101)),
    )
    for name, network in table.items()
}
