"""The options of models of frames and optical flow, and those of the published ones by name.

Sources: Spatiotemporal Pyramid Network (CVPR 2017); Two-Stream Convolutional Networks (NIPS 2014);
Temporal Segment Networks (ECCV 2016); Long-term Recurrent Convolutional Networks (CVPR 2015). Sizes
whose names end in `small` are ours, for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from vidgraph.backbones.image import BNInceptionOptions, SmallResNet2DOptions, TimmOptions
from vidgraph.models.baselines import MeanLSTMOptions
from vidgraph.models.normalize import NormalizeName, NormalizeOptions
from vidgraph.models.published import BackboneOptions, HeadOptions
from vidgraph.models.pyramid import FusionOptions
from vidgraph.models.two_stream import SegmentsOptions
from vidgraph.records import InputSpec, options


@options
class StreamOptions:
    """normalize -> backbone, of frames or of flow.

    Attributes:
        normalize: mean and deviation, or a name for them.
        backbone: clip to feature map; flow stacks are frames of 2 L channels.
    """

    normalize: NormalizeName | NormalizeOptions
    backbone: BackboneOptions


@options
class ScoredStreamOptions(StreamOptions):
    """normalize -> backbone -> head.

    Attributes:
        head: feature map to scores.
    """

    head: HeadOptions


@options
class TwoStreamOptions:
    """Frames and flow, each scored by itself; one of them alone where the other is None.

    Attributes:
        input: which clips the model takes.
        frames: of video.
        flow: of optical flow.
        flow_weight: of the scores of flow, where those of frames have 1.
    """

    input: InputSpec
    frames: ScoredStreamOptions | None
    flow: ScoredStreamOptions | None
    flow_weight: Annotated[float, Field(gt=0)] = 1.5
    type: Literal["two_stream"] = "two_stream"


@options
class PyramidOptions:
    """Frames and flow, fused on three levels. A stream that no feature needs is not built.

    Attributes:
        input: which clips the model takes.
        frames: of video.
        flow: of optical flow.
        fusion: which levels there are, and how they fuse.
    """

    input: InputSpec
    frames: StreamOptions
    flow: StreamOptions
    fusion: FusionOptions = FusionOptions()
    type: Literal["pyramid"] = "pyramid"


_CLIP = InputSpec(num_frames=1, height=224, width=224, whole_video=True, flow_length=10)
_SMALL_CLIP = replace(_CLIP, height=112, width=112)
_RUN = replace(_CLIP, num_frames=16, whole_video=False, stride_frames=1, flow_length=1)
_INCEPTION, _SMALL = BNInceptionOptions(), SmallResNet2DOptions()
_VGG16 = TimmOptions("vgg16", level=32, norm="partial")
_R50 = TimmOptions("resnet50", level=32, norm="partial")


def stpyramid_bn_inception() -> PyramidOptions:
    """STPyramid on BN-Inception, as in the paper: one frame, three stacks of ten flow frames."""
    frames, flow = StreamOptions("caffe", _INCEPTION), StreamOptions("caffe_flow", _INCEPTION)
    return PyramidOptions(replace(_CLIP, num_stacks=3), frames, flow)


def stpyramid_r50() -> PyramidOptions:
    """STPyramid on ResNet-50."""
    frames, flow = StreamOptions("imagenet", _R50), StreamOptions("flow", _R50)
    return PyramidOptions(replace(_CLIP, num_stacks=3), frames, flow)


def stpyramid_vgg16() -> PyramidOptions:
    """STPyramid on VGG-16, up to its last pool."""
    frames, flow = StreamOptions("imagenet", _VGG16), StreamOptions("flow", _VGG16)
    return PyramidOptions(replace(_CLIP, num_stacks=3), frames, flow)


def stpyramid_small() -> PyramidOptions:
    """STPyramid on small networks that learn from scratch on a CPU."""
    frames, flow = StreamOptions("imagenet", _SMALL), StreamOptions("flow", _SMALL)
    fusion = FusionOptions(stack_width=256, guidance_width=512, width=1024, dropout=0.5)
    return PyramidOptions(replace(_SMALL_CLIP, num_stacks=3), frames, flow, fusion)


def two_stream_bn_inception() -> TwoStreamOptions:
    """Two streams on BN-Inception, late fusion; with 3 frames, Temporal Segment Networks."""
    frames = ScoredStreamOptions("caffe", _INCEPTION, SegmentsOptions(dropout=0.8))
    flow = ScoredStreamOptions("caffe_flow", _INCEPTION, SegmentsOptions(dropout=0.7))
    return TwoStreamOptions(_CLIP, frames, flow)


def two_stream_vgg16() -> TwoStreamOptions:
    """Two streams on VGG-16."""
    frames = ScoredStreamOptions("imagenet", _VGG16, SegmentsOptions(dropout=0.8))
    flow = ScoredStreamOptions("flow", _VGG16, SegmentsOptions(dropout=0.7))
    return TwoStreamOptions(_CLIP, frames, flow)


def two_stream_small() -> TwoStreamOptions:
    """Two streams on the networks of `stpyramid_small`."""
    frames = ScoredStreamOptions("imagenet", _SMALL, SegmentsOptions(dropout=0.5))
    flow = ScoredStreamOptions("flow", _SMALL, SegmentsOptions(dropout=0.5))
    return TwoStreamOptions(_SMALL_CLIP, frames, flow)


def lrcn_bn_inception() -> TwoStreamOptions:
    """LRCN on BN-Inception: 16 consecutive frames and flow frames, an LSTM over each, 1 to 2."""
    head = MeanLSTMOptions(width=256, dropout=0.5, average=True)
    frames = ScoredStreamOptions("caffe", _INCEPTION, head)
    flow = ScoredStreamOptions("caffe_flow", _INCEPTION, head)
    return TwoStreamOptions(_RUN, frames, flow, flow_weight=2.0)


def lrcn_small() -> TwoStreamOptions:
    """LRCN on the networks of `stpyramid_small`, 8 frames."""
    head = MeanLSTMOptions(width=128, dropout=0.5, average=True)
    frames, flow = (ScoredStreamOptions(name, _SMALL, head) for name in ("imagenet", "flow"))
    spec = replace(_RUN, num_frames=8, height=112, width=112)
    return TwoStreamOptions(spec, frames, flow, flow_weight=2.0)


STREAMS: dict[str, Callable[[], TwoStreamOptions | PyramidOptions]] = {
    function.__name__: function
    for function in (
        *(stpyramid_bn_inception, stpyramid_r50, stpyramid_vgg16, stpyramid_small),
        *(two_stream_bn_inception, two_stream_vgg16, two_stream_small),
        *(lrcn_bn_inception, lrcn_small),
    )
}
UCF101 = 101  # classes of the data set that they were published for
