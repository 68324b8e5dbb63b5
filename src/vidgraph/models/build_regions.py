"""Models that reason over boxes: Videos as Space-Time Region Graphs on 3D ResNets, and on the stem
of synchronous digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from vidgraph.backbones.digits import strided_stem
from vidgraph.backbones.resnet3d import (
    DEPTHS,
    BackboneOptions,
    ResNet3D,
    non_local_blocks,
    resnet3d,
    stage_channels,
)
from vidgraph.errors import RecipeError
from vidgraph.models.build_clips import ClipOptions, check_clip, split_options
from vidgraph.models.build_digits import DIGIT_CLIP, digit_pixels
from vidgraph.models.graph_conv import RegionGraph, RegionGraphOptions
from vidgraph.models.nonlocal_block import NonLocalBlock
from vidgraph.models.strg import STRG, RegionOptions
from vidgraph.records import InputSpec

_SMALL_DEPTHS, _SMALL_WIDTH = (2, 2, 2, 2), 16  # as `i3d_small`


def _strg(
    spec: InputSpec,
    pixels: nn.Module,
    stem: nn.Module,
    in_channels: int,
    num_classes: int,
    options: tuple[RegionGraphOptions, RegionOptions],
    dropout: float,
) -> STRG:
    """A stem with `in_channels` channels, reduced to the graph's width, with the graph over
    regions.
    """
    graph, regions = options
    reduce = nn.Conv3d(in_channels, graph.width, 1)
    if graph.graph == "none":
        return STRG(spec, pixels, stem, reduce, None, num_classes, graph.width, regions, dropout)
    spec = replace(spec, boxes_per_frame=regions.boxes_per_frame)
    return STRG(
        spec, pixels, stem, reduce, RegionGraph(graph), num_classes, graph.width, regions, dropout
    )


def _on_resnet(
    stem: ResNet3D, clip: ClipOptions, num_classes: int, options: Mapping[str, Any]
) -> STRG:
    """On a 3D ResNet.

    Raises:
        RecipeError: clips that leave no map, or scores of windows, which regions do not have.
    """
    check_clip(stem, clip)
    if clip.windows != "whole":
        raise RecipeError(
            "windows: a graph over regions has one score for the whole frame, however large; "
            "leave windows at 'whole'"
        )
    graph, regions = split_options(options, RegionGraphOptions, RegionOptions)
    return _strg(
        clip.input_spec(),
        clip.pixel_norm(),
        stem,
        stem.out_channels,
        num_classes,
        (graph, regions),
        clip.dropout,
    )


def _strg_resnet(
    depth: Literal[50, 101], num_classes: int, non_local: bool, options: Mapping[str, Any]
) -> STRG:
    """The paper freezes all batch norms, gains and biases too."""
    options = {"norm": "frozen", **options}
    clip, backbone = split_options(options, ClipOptions, BackboneOptions)
    after = non_local_blocks(depth, backbone.norm) if non_local else {}
    return _on_resnet(resnet3d(DEPTHS[depth], backbone, after), clip, num_classes, options)


def strg_i3d_r50(num_classes: int = 157, non_local: bool = False, **region_graph: Any) -> STRG:
    """STRG on I3D with ResNet-50, as on Charades: 32 frames at 6 per second, 16 x 50 regions, both
    graphs (158 GMAC as the paper counts).

    Args:
        num_classes: classes of the last layer.
        non_local: five non-local blocks in res3 and res4.
        **region_graph: fields of `RegionGraphOptions`, `RegionOptions`, `ClipOptions` and
            `BackboneOptions` that differ from the paper's.
    """
    return _strg_resnet(50, num_classes, non_local, region_graph)


def strg_i3d_r101(num_classes: int = 157, non_local: bool = False, **region_graph: Any) -> STRG:
    """STRG on I3D with ResNet-101: 128 frames of 288 x 288 at 24 per second, one step of the map
    per eight frames; see `strg_i3d_r50`.
    """
    own = {"num_frames": 128, "size": 288, "sample_fps": 24.0, "stem": "long"}
    return _strg_resnet(101, num_classes, non_local, {**own, **region_graph})


def strg_small(num_classes: int = 157, non_local: bool = False, **region_graph: Any) -> STRG:
    """STRG on the backbone of `i3d_small`, for a CPU: 8 frames of 112 x 112, 4 x 10 regions of
    width 128.

    Args:
        num_classes: classes of the last layer.
        non_local: one non-local block in res3 and one in res4, after their first residual blocks.
        **region_graph: fields of `RegionGraphOptions`, `RegionOptions`, `ClipOptions` and
            `BackboneOptions` that differ from this size's.
    """
    options = {"num_frames": 8, "size": 112, "width": 128, "boxes_per_frame": 10, **region_graph}
    clip, backbone = split_options(options, ClipOptions, BackboneOptions)
    channels = stage_channels(_SMALL_WIDTH)
    after = {
        (stage, 0): NonLocalBlock(channels[stage], norm=backbone.norm)
        for stage in ("res3", "res4")
        if non_local
    }
    return _on_resnet(
        resnet3d(_SMALL_DEPTHS, backbone, after, _SMALL_WIDTH), clip, num_classes, options
    )


def strg_digits_small(num_classes: int = 46, **digit_regions: Any) -> STRG:
    """STRG on synchronous digits: the strided stem, one box per digit, about as many parameters as
    `rstg_small`.

    Args:
        num_classes: pairs of digits and "none".
        **digit_regions: fields of `RegionGraphOptions` and `RegionOptions` that differ from this
            size's own; `boxes_per_frame` is the number of digits.
    """
    graph, regions = split_options(
        {"width": 172, "boxes_per_frame": 3, **digit_regions}, RegionGraphOptions, RegionOptions
    )
    stem = strided_stem()
    return _strg(
        DIGIT_CLIP,
        digit_pixels(),
        stem,
        stem.out_channels,
        num_classes,
        (graph, regions),
        dropout=0.0,
    )
