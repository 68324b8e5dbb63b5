"""Boxes to nodes: what a feature map shows inside each region.

Source: Videos as Space-Time Region Graphs (ECCV 2018), sections 3 and 4.1.

Shapes: B batch, D width, T frames of the clip, P steps of the map, R = B * P maps of all steps,
H W map, K boxes per frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidgraph.records import Regions, step_frames

_SIDE = 7  # cells per side that RoIAlign makes of a box before the maximum


def regions_of_steps(regions: Regions, num_steps: int) -> Regions:
    """Boxes of every step of a map, [B, P, K, ...], from those of every frame, [B, T, K, ...]."""
    num_frames = regions.mask.shape[1]
    if num_frames == num_steps:
        return regions
    frames = step_frames(num_frames, num_steps, regions.mask.device)
    parts = (regions.boxes_xyxy, regions.scores, regions.mask)
    return Regions(*(part.index_select(1, frames) for part in parts))


def region_nodes(
    features: Tensor,
    regions: Regions,
    *,
    aligned: bool = True,
    sampling_ratio: int = 2,
) -> Tensor:
    """RoIAlign of each box on its own step of the map, 7 x 7 cells, and their maximum.

    Boxes are scaled by the size of the map in each direction, so that clips whose sides are no
    multiple of the stride are right too.

    Args:
        features: feature map, [B, D, P, H, W].
        regions: boxes of every step, [B, P, K, ...]; see `regions_of_steps`.
        aligned: cell i is the point i + 0.5, as it should be; False: the point i, as in the first
            RoIAlign.
        sampling_ratio: points per cell and direction; 0: as many as the box has cells of the map.

    Returns:
        Nodes [B, P, K, D] in the type of the map; zero where there is no box.
    """
    batch, width, steps, height, columns = features.shape
    cells = torch.tensor([columns, height, columns, height], device=features.device)
    boxes = regions.boxes_xyxy.float().masked_fill(~regions.mask[..., None], 0) * cells
    maps = features.transpose(1, 2).flatten(0, 1).float()  # [B * P, D, H, W]
    if sampling_ratio:
        nodes: Tensor = _StrongestCell.apply(maps, boxes.flatten(0, 1), sampling_ratio, aligned)
    else:
        nodes, _ = _strongest_cells(maps, boxes.flatten(0, 1), 0, aligned)
    nodes = nodes.reshape(batch, steps, -1, width)  # [B, P, K, D]
    return nodes.masked_fill(~regions.mask[..., None], 0).to(features.dtype)


def mean_over_regions(nodes: Tensor, mask: Tensor) -> Tensor:
    """Mean of the nodes that exist: [B, P, K, D] to [B, D]; zero for a clip without any."""
    total = nodes.float().masked_fill(~mask[..., None], 0).sum(dim=(1, 2))
    return (total / mask.sum(dim=(1, 2)).clamp(min=1)[:, None]).to(nodes.dtype)


def _strongest_cells(
    maps: Tensor, boxes: Tensor, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """The largest of the 7 x 7 cells of each box, per channel, and which it is: [R, K, D].

    Args:
        maps: [R, D, H, W].
        boxes: of each map, in its cells, [R, K, 4].
        sampling_ratio: points per cell and direction.
        aligned: with the half-cell shift.
    """
    from torchvision.ops import (
        roi_align,
    )  # here, so that importing the package does not import torchvision

    num_maps, count = boxes.shape[:2]
    owner = torch.arange(num_maps, device=boxes.device).repeat_interleave(count)
    rois = torch.cat([owner[:, None].to(boxes), boxes.flatten(0, 1)], dim=1)  # [R * K, 5]
    cells = roi_align(
        maps, rois, _SIDE, sampling_ratio=sampling_ratio, aligned=aligned
    )  # [R * K, D, 7, 7]
    values, cell = cells.flatten(2).max(dim=2)
    return values.unflatten(0, (num_maps, count)), cell.unflatten(0, (num_maps, count))


class _StrongestCell(torch.autograd.Function):
    """RoIAlign and maximum in one; the backward pass visits the largest cell alone.

    RoIAlign's own backward pass visits all 49, though 48 of them have a gradient of zero, and takes
    longer than all layers of the graph.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, boxes: Tensor, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        values, cell = _strongest_cells(maps, boxes, sampling_ratio, aligned)
        ctx.save_for_backward(boxes, cell)
        ctx.shape, ctx.sampling_ratio, ctx.shift = (
            maps.shape,
            sampling_ratio,
            0.5 if aligned else 0.0,
        )
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        boxes, cell = ctx.saved_tensors
        num_maps, width, height, columns = ctx.shape
        cell = cell.transpose(
            1, 2
        ).contiguous()  # [R, D, K]: each channel of each map is added to by itself
        share = gradient.transpose(1, 2).contiguous() / ctx.sampling_ratio**2
        rows = _taps(
            boxes[..., 1], boxes[..., 3], cell // _SIDE, height, ctx.sampling_ratio, ctx.shift
        )
        sides = _taps(
            boxes[..., 0], boxes[..., 2], cell % _SIDE, columns, ctx.sampling_ratio, ctx.shift
        )
        found = gradient.new_zeros(num_maps, width, height * columns)
        for y, weight_y in rows:
            for x, weight_x in sides:
                found.scatter_add_(2, y * columns + x, share * weight_y * weight_x)
        return found.reshape(ctx.shape), None, None, None


def _taps(
    low: Tensor, high: Tensor, cell: Tensor, size: int, ratio: int, shift: float
) -> list[tuple[Tensor, Tensor]]:
    """Along one axis, the cells that the points of a RoIAlign cell are read from, with shares.

    Args:
        low: where each box begins, in cells of the map, [R, K].
        high: where it ends.
        cell: which of the 7 cells of the box, [R, D, K].
        size: cells of the map.
        ratio: points per cell.
        shift: half a cell where RoIAlign is aligned.

    Returns:
        2 * ratio pairs (index, share), [R, D, K] each: two neighbours per point, whose shares sum
        to 1, or to 0 outside of the map.
    """
    start, length = (low - shift)[:, None], (high - low)[:, None]  # [R, 1, K]
    length = (length if shift else length.clamp(min=1)) / _SIDE  # of a cell
    taps = []
    for i in range(ratio):
        at = start + (cell + (i + 0.5) / ratio) * length  # [R, D, K]
        inside = ((at >= -1) & (at <= size)).to(at)
        at = at.clamp(0, size - 1)  # up to one cell outside of the map, its border counts
        below = at.floor().clamp(max=max(size - 2, 0))
        above = at - below
        taps.append((below.long(), (1 - above) * inside))
        taps.append(((below.long() + 1).clamp(max=size - 1), above * inside))
    return taps
