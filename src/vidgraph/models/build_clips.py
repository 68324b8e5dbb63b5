"""Models of RGB clips on 3D ResNets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

import torch

from vidgraph.backbones.resnet3d import (
    DEPTHS,
    STAGES,
    BackboneOptions,
    ResNet3D,
    non_local_blocks,
    resnet3d,
    stage_channels,
)
from vidgraph.errors import RecipeError, nearest
from vidgraph.models.normalize import PixelNorm
from vidgraph.models.norms import NormKind
from vidgraph.models.pooled import PooledClassifier
from vidgraph.models.rstg import GraphOptions
from vidgraph.models.rstg_models import BackboneRSTG
from vidgraph.models.rstg_residual import GraphResidual, GraphVectorResidual, ResidualNorm
from vidgraph.records import InputSpec

# ---- C2D, I3D and non-local I3D ------------------------------------------------------------------

# mean and deviation per channel of [0, 1] pixels: they belong to the weights that a model starts
# from
_PIXELS = {
    "kinetics": ([0.45, 0.45, 0.45], [0.225, 0.225, 0.225]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


@dataclass(frozen=True)
class ClipOptions:
    """The two ends of a model of the I3D family: which clips it eats, and its head.

    Attributes:
        num_frames: frames per clip.
        size: rows and columns of a clip.
        sample_fps: sampled frames per second of video.
        stride_frames: source frames from one sampled frame to the next; if given, it takes the
            place of `sample_fps`.
        whole_video: frames are spread over the whole video instead, however long it is.
        pixels: mean and deviation of "kinetics" (of the published Kinetics weights) or "imagenet"
            (of torchvision's).
        dropout: before the classifier.
        windows: scores on larger frames: "whole", the mean over the map; "logits" or
            "probabilities", their mean over every part of the map that has the training size.
    """

    num_frames: int = 32
    size: int = 224
    sample_fps: float = 6.0
    stride_frames: int | None = None
    whole_video: bool = False
    pixels: Literal["kinetics", "imagenet"] = "kinetics"
    dropout: float = 0.3
    windows: Literal["whole", "logits", "probabilities"] = "whole"

    def __post_init__(self) -> None:
        for name, known in (
            ("pixels", list(_PIXELS)),
            ("windows", ["whole", "logits", "probabilities"]),
        ):
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}: there is no "
                    f"{getattr(self, name)!r}{nearest(str(getattr(self, name)), known)}"
                )
        if not 0 <= self.dropout < 1:
            raise RecipeError(
                f"dropout is a share from 0 up to, but not including, 1, not {self.dropout}"
            )
        for name in ("num_frames", "size", "stride_frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RecipeError(f"{name} must be at least 1, not {value}")
        if not 0 < self.sample_fps < math.inf:
            raise RecipeError(
                f"sample_fps is frames per second of video, above 0, not {self.sample_fps}"
            )

    def input_spec(self) -> InputSpec:
        rate: dict[str, Any] = (
            {"sample_fps": self.sample_fps}
            if self.stride_frames is None
            else {"stride_frames": self.stride_frames}
        )
        if self.whole_video:
            rate = {"num_segments": self.num_frames}
        return InputSpec(self.num_frames, self.size, self.size, **rate)

    def pixel_norm(self) -> PixelNorm:
        return PixelNorm(*_PIXELS[self.pixels])


def pooled_classifier(backbone: ResNet3D, clip: ClipOptions, num_classes: int) -> PooledClassifier:
    """A backbone with the head of the I3D family.

    Raises:
        RecipeError: clips that leave no map.
    """
    check_clip(backbone, clip)
    height, width = (math.ceil(clip.size / stride) for stride in backbone.strides[1:])
    windows: Any = (
        {} if clip.windows == "whole" else {"window": (height, width), "average": clip.windows}
    )
    return PooledClassifier(
        clip.input_spec(),
        clip.pixel_norm(),
        backbone,
        backbone.out_channels,
        num_classes,
        clip.dropout,
        **windows,
    )


def check_clip(backbone: ResNet3D, clip: ClipOptions) -> None:
    """Raises a RecipeError for clips so short or small that the backbone leaves no map of them."""
    least_frames, least_size = backbone.strides[0], max(backbone.strides[1:])
    if clip.num_frames < least_frames or clip.size < least_size:
        raise RecipeError(
            f"clips of {clip.num_frames} frames of {clip.size} x {clip.size} leave no map; "
            f"this backbone needs num_frames >= {least_frames} and size >= {least_size}"
        )


def _resnet_classifier(
    depth: Literal[50, 101], num_classes: int, non_local: bool, options: Mapping[str, Any]
) -> PooledClassifier:
    """ResNet-101 eats the long clips of its paper: 128 frames at 24 per second, and a map every
    eighth frame.
    """
    own = (
        {} if depth == 50 else {"num_frames": 128, "size": 288, "sample_fps": 24.0, "stem": "long"}
    )
    clip, backbone = split_options({**own, **options}, ClipOptions, BackboneOptions)
    after = non_local_blocks(depth, backbone.norm) if non_local else {}
    return pooled_classifier(resnet3d(DEPTHS[depth], backbone, after), clip, num_classes)


def c2d_r50(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """C2D: ResNet-50 on every frame, with one pool over time.

    Args:
        num_classes: classes of the last layer.
        **clip_and_backbone: fields of `ClipOptions` and `BackboneOptions` that differ from their
            defaults.
    """
    return _resnet_classifier(50, num_classes, False, {"inflation": "none", **clip_and_backbone})


def c2d_r101(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """C2D with ResNet-101, on clips of 128 frames of 288 x 288: see `c2d_r50`."""
    return _resnet_classifier(101, num_classes, False, {"inflation": "none", **clip_and_backbone})


def i3d_r50(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """I3D: ResNet-50 whose convolutions partly see three frames; the backbone of Videos as
    Space-Time Region Graphs (153 GMAC).

    Args:
        num_classes: classes of the last layer.
        **clip_and_backbone: fields of `ClipOptions` and `BackboneOptions` that differ from their
            defaults.
    """
    return _resnet_classifier(50, num_classes, False, clip_and_backbone)


def i3d_r101(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """I3D with ResNet-101, on clips of 128 frames of 288 x 288: see `i3d_r50`."""
    return _resnet_classifier(101, num_classes, False, clip_and_backbone)


def i3d_nl_r50(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """I3D with five non-local blocks in res3 and res4: see `i3d_r50`."""
    return _resnet_classifier(50, num_classes, True, clip_and_backbone)


def i3d_nl_r101(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """I3D with ResNet-101 and five non-local blocks in res3 and res4: see `i3d_r101`."""
    return _resnet_classifier(101, num_classes, True, clip_and_backbone)


def i3d_small(num_classes: int = 157, **clip_and_backbone: Any) -> PooledClassifier:
    """I3D for a CPU: 8 frames of 112 x 112, two blocks per stage, a quarter of the width; 0.6 GMAC
    and about 1 M parameters.

    Args:
        num_classes: classes of the last layer.
        **clip_and_backbone: fields of `ClipOptions` and `BackboneOptions` that differ from this
            size's own.
    """
    clip, backbone = split_options(
        {"num_frames": 8, "size": 112, **clip_and_backbone}, ClipOptions, BackboneOptions
    )
    return pooled_classifier(resnet3d((2, 2, 2, 2), backbone, width=16), clip, num_classes)


# ---- RSTG inside C2D and I3D ---------------------------------------------------------------------

# Stages before whose last block a graph stands; "vec": none, but one on the last map.
_GRAPHS_IN: dict[str, tuple[str, ...]] = {
    "vec": (),
    "res2": ("res2",),
    "res3": ("res3",),
    "res4": ("res4",),
    "res3-4": ("res3", "res4"),
}

# The authors' Something-Something configuration.
_SOMETHING: dict[str, Any] = {
    "whole_video": True,
    "stem": "valid",
    "attention": "dot",
    "scalewise_update": True,
    "norm": "layer",
}


@dataclass(frozen=True)
class PlacementOptions:
    """Where in a backbone graphs stand.

    Attributes:
        placement: "vec": one on the last map, whose vector is added to the pooled map; "res2",
            "res3", "res4": one before the last block of that stage, whose map is added to the
            block's input; "res3-4": two.
        width: of nodes and messages.
        backbone_norm: `norm` of `BackboneOptions`, since the option `norm` is the graph's.
        residual_norm: of what a graph adds: "layer", then a scale that starts at zero; "batch",
            whose gain starts at zero.
    """

    placement: Literal["vec", "res2", "res3", "res4", "res3-4"] = "res3-4"
    width: int = 512
    backbone_norm: NormKind = "frozen_statistics"
    residual_norm: ResidualNorm = "layer"


def _backbone_rstg(
    depths: Sequence[int], base_width: int, num_classes: int, options: Mapping[str, Any]
) -> BackboneRSTG:
    """A backbone whose first convolution has `base_width` channels, with its graphs.

    Raises:
        RecipeError: options that do not fit together, or clips that leave no map.
    """
    options = {**_SOMETHING, **options}
    place, clip, graph = split_options(options, PlacementOptions, ClipOptions, GraphOptions)
    (backbone,) = split_options({**options, "norm": place.backbone_norm}, BackboneOptions)
    if clip.windows == "probabilities":
        raise RecipeError(
            "windows: RSTG averages 'logits' over windows, as its authors do, or pools the "
            "'whole' map"
        )
    if graph.norm not in (known := get_args(get_type_hints(GraphOptions)["norm"])):
        raise RecipeError(
            f"norm is the graph's, one of {', '.join(known)}, not {graph.norm!r}; that of the "
            "backbone is backbone_norm"
        )
    with torch.device("meta"), torch.no_grad():  # map sizes, from a pass that computes shapes only
        plain = resnet3d(depths, backbone, width=base_width)
        check_clip(plain, clip)
        maps = plain.maps(torch.empty(1, 3, clip.num_frames, clip.size, clip.size), STAGES)
    sizes = {stage: (found.shape[3], found.shape[4]) for stage, found in maps.items()}
    channels, blocks = stage_channels(base_width), dict(zip(STAGES, depths, strict=True))
    parts = {
        stage: (channels[stage], place.width, sizes[stage], graph, place.residual_norm)
        for stage in STAGES
    }
    after = {
        (stage, blocks[stage] - 2): GraphResidual(*parts[stage])
        for stage in _GRAPHS_IN[place.placement]
    }
    stem = resnet3d(depths, backbone, after, base_width)
    on_top = GraphVectorResidual(*parts["res5"]) if place.placement == "vec" else None
    window = None if clip.windows == "whole" else sizes["res5"]
    return BackboneRSTG(
        clip.input_spec(),
        clip.pixel_norm(),
        stem,
        stem.out_channels,
        num_classes,
        on_top,
        clip.dropout,
        window,
    )


def rstg_i3d_r50(num_classes: int = 174, **placed_graph: Any) -> BackboneRSTG:
    """RSTG in I3D with ResNet-50, as on Something-Something: 32 frames of the whole video, graphs
    in res3 and res4.

    Args:
        num_classes: classes of the last layer.
        **placed_graph: fields of `PlacementOptions`, `ClipOptions`, `BackboneOptions` and
            `GraphOptions` that differ from the authors'.
    """
    return _backbone_rstg(DEPTHS[50], 64, num_classes, placed_graph)


def rstg_c2d_r50(num_classes: int = 174, **placed_graph: Any) -> BackboneRSTG:
    """RSTG on C2D with ResNet-50, one graph on the last map: see `rstg_i3d_r50`."""
    return _backbone_rstg(
        DEPTHS[50], 64, num_classes, {"inflation": "none", "placement": "vec", **placed_graph}
    )


def rstg_i3d_small(num_classes: int = 174, **placed_graph: Any) -> BackboneRSTG:
    """RSTG in `i3d_small`, for a CPU: see `rstg_i3d_r50`."""
    own = {"num_frames": 8, "size": 112, "width": 128, "backbone_norm": "batch"}
    return _backbone_rstg((2, 2, 2, 2), 16, num_classes, {**own, **placed_graph})


def split_options(options: Mapping[str, Any], *kinds: type) -> list[Any]:
    """One record of each kind, from the options that are its fields."""
    return [
        kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
        for kind in kinds
    ]
