"""Models that look at single frames and at snippets of optical flow: the spatiotemporal pyramid and
its baselines, on 2D networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from torch import nn

from vidgraph.backbones.base import partial_batch_norm
from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.small_resnet2d import SmallResNet2D
from vidgraph.backbones.torchvision2d import TorchvisionBackbone
from vidgraph.errors import RecipeError, nearest
from vidgraph.models.frame_stream import FrameStream
from vidgraph.models.normalize import Normalize, NormalizeOptions
from vidgraph.models.pooled import SegmentStream, TwoStream
from vidgraph.models.recurrent import RecurrentStream
from vidgraph.models.stpyramid import PyramidOptions, STPyramid
from vidgraph.records import InputSpec

ImageNetwork = Literal["bn_inception", "resnet50", "vgg16", "small"]
NormUse = Literal["partial", "batch"]
Streams = Literal["both", "spatial", "temporal"]


@dataclass(frozen=True)
class SnippetOptions:
    """Which frames and snippets a model eats, and what its networks do with them.

    Attributes:
        size: rows and columns of a crop.
        num_frames: frames per clip, each with its snippets: one of each equal part of the video.
        stride_frames: source frames from one of them to the next; if given, the clip is a run of
            frames instead.
        num_snippets: snippets at each frame.
        flow_length: fields per snippet.
        snippet_interval: frames from one snippet to the next in tests (tau).
        max_snippet_interval: training draws that distance from 1 to this.
        snippet_layout: "interval": from start to start; "gap": from the end of one to the start of
            the next.
        flow_zero: level of no motion: 127.5, exact under mirroring, or 128, as temporal segment
            networks subtract it.
        batch_norm: "partial": all batch norms but the first of each network keep the statistics
            that they came with; "batch": none does.
    """

    size: int = 224
    num_frames: int = 1
    stride_frames: int | None = None
    num_snippets: int = 1
    flow_length: int = 10
    snippet_interval: int = 5
    max_snippet_interval: int = 10
    snippet_layout: Literal["interval", "gap"] = "interval"
    flow_zero: float = 127.5
    batch_norm: NormUse = "partial"

    def __post_init__(self) -> None:
        whole = (
            "size",
            "num_frames",
            "stride_frames",
            "num_snippets",
            "flow_length",
            "snippet_interval",
            "max_snippet_interval",
        )
        if wrong := next(
            (name for name in whole if (value := getattr(self, name)) is not None and value < 1),
            None,
        ):
            raise RecipeError(f"{wrong} must be at least 1, not {getattr(self, wrong)}")
        for name, known in (
            ("snippet_layout", ("interval", "gap")),
            ("batch_norm", get_args(NormUse)),
        ):
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}: there is no "
                    f"{getattr(self, name)!r}{nearest(str(getattr(self, name)), known)}"
                )

    def input_spec(self, frames: bool, flow: bool) -> InputSpec:
        """Of a model that sees frames, flow, or both."""
        rate: dict[str, Any] = {"whole_video": True}
        if self.stride_frames is not None:
            rate = {"stride_frames": self.stride_frames}
        if flow:
            rate |= {
                "flow_length": self.flow_length,
                "num_stacks": self.num_snippets,
                "stack_interval": self.snippet_interval,
                "max_stack_interval": self.max_snippet_interval,
                "stack_layout": self.snippet_layout,
            }
        return InputSpec(self.num_frames, self.size, self.size, channels=3 if frames else 0, **rate)


@dataclass(frozen=True)
class StreamOptions:
    """Which streams there are, and how their scores become one.

    Attributes:
        streams: "both", or only the "spatial" one, of frames, or the "temporal" one, of flow.
        flow_weight: of the temporal stream's scores, where the spatial stream's have 1.
        dropout: of the spatial stream.
        flow_dropout: of the temporal stream.
    """

    streams: Streams = "both"
    flow_weight: float = 1.5
    dropout: float = 0.8
    flow_dropout: float = 0.7

    def __post_init__(self) -> None:
        if self.streams not in get_args(Streams):
            raise RecipeError(
                f"streams: there is no {self.streams!r}{nearest(self.streams, get_args(Streams))}"
            )
        if (
            not 0
            <= min(self.dropout, self.flow_dropout)
            <= max(self.dropout, self.flow_dropout)
            < 1
        ):
            raise RecipeError(
                "dropout and flow_dropout are shares from 0 up to, but not including, 1, not "
                f"{self.dropout}, {self.flow_dropout}"
            )
        if not self.flow_weight > 0:
            raise RecipeError(
                f"flow_weight must be above 0, not {self.flow_weight}; for one stream alone there "
                "is streams"
            )


@dataclass(frozen=True)
class RecurrentOptions:
    """Of LRCN.

    Attributes:
        width: of the LSTM of each stream.
    """

    width: int = 256


# ---- parts ---------------------------------------------------------------------------------------


def _image_network(network: ImageNetwork, in_channels: int, batch_norm: NormUse) -> nn.Module:
    backbone: nn.Module
    if network == "bn_inception":
        backbone = BNInception(in_channels)
    elif network == "small":
        backbone = SmallResNet2D(in_channels=in_channels)
    else:
        backbone = TorchvisionBackbone(network, in_channels)
    return partial_batch_norm(backbone) if batch_norm == "partial" else backbone


def _parts(network: ImageNetwork, flow: bool, clip: SnippetOptions) -> tuple[nn.Module, nn.Module]:
    """Normalisation and network of one stream. BN-Inception's weights come from Caffe, the others'
    from torchvision.
    """
    caffe = network == "bn_inception"
    if not flow:
        return Normalize("caffe" if caffe else "imagenet"), _image_network(
            network, 3, clip.batch_norm
        )
    levels = NormalizeOptions((clip.flow_zero / 255,), (1 / 255 if caffe else 0.226,))
    return Normalize(levels), _image_network(network, 2 * clip.flow_length, clip.batch_norm)


# ---- the pyramid ---------------------------------------------------------------------------------


def _stpyramid(network: ImageNetwork, num_classes: int, options: Mapping[str, Any]) -> STPyramid:
    clip, how = split_options({"num_snippets": 3, **options}, SnippetOptions, PyramidOptions)
    spatial = FrameStream(*_parts(network, False, clip)) if how.sees_frames else None
    temporal = FrameStream(*_parts(network, True, clip)) if how.sees_flow else None
    return STPyramid(
        clip.input_spec(how.sees_frames, how.sees_flow), spatial, temporal, num_classes, how
    )


def stpyramid_bn_inception(num_classes: int = 101, **pyramid: Any) -> STPyramid:
    """STPyramid on BN-Inception, as in the paper: one frame, three snippets of ten fields.

    Args:
        num_classes: classes of the last layer.
        **pyramid: fields of `PyramidOptions` and `SnippetOptions` that differ from the paper's.
    """
    return _stpyramid("bn_inception", num_classes, pyramid)


def stpyramid_r50(num_classes: int = 101, **pyramid: Any) -> STPyramid:
    """STPyramid on torchvision's ResNet-50: see `stpyramid_bn_inception`."""
    return _stpyramid("resnet50", num_classes, pyramid)


def stpyramid_vgg16(num_classes: int = 101, **pyramid: Any) -> STPyramid:
    """STPyramid on torchvision's VGG-16, up to its last pool: see `stpyramid_bn_inception`."""
    return _stpyramid("vgg16", num_classes, pyramid)


def stpyramid_small(num_classes: int = 101, **pyramid: Any) -> STPyramid:
    """STPyramid on small networks that learn from scratch on a CPU, 112 x 112 pixels: see
    `stpyramid_bn_inception`.
    """
    own = {"snippet_width": 256, "guidance_width": 512, "width": 1024, "dropout": 0.5}
    return _stpyramid("small", num_classes, {**_SMALL_CLIP, **own, **pyramid})


# ---- its baselines -------------------------------------------------------------------------------

_SMALL_CLIP: dict[str, Any] = {"size": 112, "batch_norm": "batch"}


def _two_stream(network: ImageNetwork, num_classes: int, options: Mapping[str, Any]) -> TwoStream:
    clip, how = split_options(options, SnippetOptions, StreamOptions)
    spatial = temporal = None
    if how.streams != "temporal":
        spatial = SegmentStream(*_parts(network, False, clip), num_classes, how.dropout)
    if how.streams != "spatial":
        temporal = SegmentStream(*_parts(network, True, clip), num_classes, how.flow_dropout)
    spec = clip.input_spec(spatial is not None, temporal is not None)
    return TwoStream(spec, spatial, temporal, num_classes, (1.0, how.flow_weight))


def two_stream_bn_inception(num_classes: int = 101, **streams: Any) -> TwoStream:
    """Two streams on BN-Inception, late fusion: one frame and one snippet; with `num_frames` of 3,
    Temporal Segment Networks.

    Args:
        num_classes: classes of the last layers.
        **streams: fields of `StreamOptions` and `SnippetOptions` that differ from theirs.
    """
    return _two_stream("bn_inception", num_classes, streams)


def two_stream_vgg16(num_classes: int = 101, **streams: Any) -> TwoStream:
    """Two streams on VGG-16: see `two_stream_bn_inception`."""
    return _two_stream("vgg16", num_classes, streams)


def two_stream_small(num_classes: int = 101, **streams: Any) -> TwoStream:
    """Two streams on the networks of `stpyramid_small`: see `two_stream_bn_inception`."""
    return _two_stream(
        "small", num_classes, {**_SMALL_CLIP, "dropout": 0.5, "flow_dropout": 0.5, **streams}
    )


def _lrcn(network: ImageNetwork, num_classes: int, options: Mapping[str, Any]) -> TwoStream:
    """Runs of frames, each with the one field that leaves it."""
    own = {
        "num_frames": 16,
        "stride_frames": 1,
        "flow_length": 1,
        "dropout": 0.5,
        "flow_dropout": 0.5,
        "flow_weight": 2.0,
    }
    clip, how, recurrent = split_options(
        {**own, **options}, SnippetOptions, StreamOptions, RecurrentOptions
    )
    spatial = temporal = None
    if how.streams != "temporal":
        spatial = RecurrentStream(
            *_parts(network, False, clip), recurrent.width, num_classes, how.dropout
        )
    if how.streams != "spatial":
        temporal = RecurrentStream(
            *_parts(network, True, clip), recurrent.width, num_classes, how.flow_dropout
        )
    spec = clip.input_spec(spatial is not None, temporal is not None)
    return TwoStream(spec, spatial, temporal, num_classes, (1.0, how.flow_weight))


def lrcn_bn_inception(num_classes: int = 101, **recurrent_streams: Any) -> TwoStream:
    """LRCN on BN-Inception: 16 consecutive frames and fields, an LSTM over each, late fusion 1 to
    2.

    Args:
        num_classes: classes of the last layers.
        **recurrent_streams: fields of `RecurrentOptions`, `StreamOptions` and `SnippetOptions` that
            differ from its own.
    """
    return _lrcn("bn_inception", num_classes, recurrent_streams)


def lrcn_small(num_classes: int = 101, **recurrent_streams: Any) -> TwoStream:
    """LRCN on the networks of `stpyramid_small`, 8 frames: see `lrcn_bn_inception`."""
    return _lrcn(
        "small", num_classes, {**_SMALL_CLIP, "num_frames": 8, "width": 128, **recurrent_streams}
    )


def split_options(options: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """One record of each kind, from the options that are its fields."""
    return [
        kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
        for kind in kinds
    ]
