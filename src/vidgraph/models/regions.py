"""Boxes to nodes: what a feature map shows inside each region.

Source: Videos as Space-Time Region Graphs (ECCV 2018), sections 3 and 4.1.

Shapes: B batch, D width, T frames of the clip, P steps of the map, H W map, K boxes per frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidgraph.records import Regions, step_frames

_SIDE = 7  # cells per side that RoIAlign makes of a box before the maximum


def regions_of_steps(regions: Regions, num_steps: int) -> Regions:
    """The boxes of every step of a map, [B, P, K, ...], from those of every frame."""
    num_frames = regions.mask.shape[1]
    if num_frames == num_steps:
        return regions
    frames = step_frames(num_frames, num_steps, regions.mask.device)
    parts = (regions.boxes_xyxy, regions.scores, regions.mask)
    boxes, scores, mask = (part.index_select(1, frames) for part in parts)
    return Regions(boxes, scores, mask, features=regions.features)


def region_nodes(
    features: Tensor, regions: Regions, aligned: bool = True, sampling_ratio: int = 2
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
    from torchvision.ops import roi_align  # here, so that a start does not import torchvision

    batch, width, steps, height, columns = features.shape
    cells = torch.tensor([columns, height, columns, height], device=features.device)
    boxes = regions.boxes_xyxy.float().masked_fill(~regions.mask[..., None], 0) * cells
    maps = features.transpose(1, 2).flatten(0, 1).float()  # [B * P, D, H, W]
    parts = roi_align(
        maps, list(boxes.flatten(0, 1)), _SIDE, sampling_ratio=sampling_ratio, aligned=aligned
    )  # [B * P * K, D, 7, 7]
    nodes = parts.amax(dim=(2, 3)).reshape(batch, steps, -1, width)  # [B, P, K, D]
    return nodes.masked_fill(~regions.mask[..., None], 0).to(features.dtype)


def mean_over_regions(nodes: Tensor, mask: Tensor) -> Tensor:
    """Mean of the nodes that exist, [B, P, K, D] and [B, P, K] to [B, D]; zero where none does."""
    total = nodes.float().masked_fill(~mask[..., None], 0).sum(dim=(1, 2))
    return (total / mask.sum(dim=(1, 2)).clamp(min=1)[:, None]).to(nodes.dtype)
