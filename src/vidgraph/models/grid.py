"""The fixed multi-scale grid of RSTG: its nodes, neighbours and position maps, and the way back to
a feature map.

Nodes cover the frame in regular grids, one per scale; `scales=(3, 2, 1)` gives N = 9 + 4 + 1 = 14
nodes, row by row, finest grid first. Source: Recurrent Space-time Graph Neural Networks (NeurIPS
2019), graph creation, and its authors' code.

Shapes: B batch, T frames, C channels, H W map, N nodes, P side of a position map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_POSITION_STD = 2.0  # in cells of the position map, whatever the scale (authors' code)


def num_nodes(scales: Sequence[int]) -> int:
    """Nodes of all scales together (N)."""
    return sum(scale * scale for scale in scales)


def count(size: int) -> Tensor:
    """0, 1, ..., size - 1, on the CPU even where a model is built on the meta device."""
    return torch.arange(size, dtype=torch.float64, device="cpu")


def area_weights(in_size: int, out_size: int) -> Tensor:
    """One axis of an area resize: share of input cell i in output cell o, by overlap.

    Returns:
        float64 [out_size, in_size]; each row sums to 1. Equal to TensorFlow's `resize_area`;
        torch's "area" mode is adaptive average pooling, which differs where sizes do not divide.
    """
    step = in_size / out_size
    left = count(out_size)[:, None] * step
    cell = count(in_size)[None, :]
    overlap = torch.minimum(left + step, cell + 1) - torch.maximum(left, cell)
    return overlap.clamp(min=0) / step


def pooling_matrix(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Mean of a map over the region of each node: `nodes = matrix @ map.reshape(H * W, C)`.

    Returns:
        float32 [N, H * W].
    """
    rows = [torch.kron(area_weights(height, scale), area_weights(width, scale)) for scale in scales]
    return torch.cat(rows).float()


def unpooling_matrix(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Nodes back to a map: each scale's grid is area-resized to H x W, and the scales are summed.

    Returns:
        float32 [H * W, N]: `map.reshape(H * W, C) = matrix @ nodes`.
    """
    columns = [
        torch.kron(area_weights(scale, height), area_weights(scale, width)) for scale in scales
    ]
    return torch.cat(columns, dim=1).float()


def node_boxes(scales: Sequence[int]) -> Tensor:
    """The region of each node as fractions of the frame: float32 [N, 4], xyxy."""
    boxes = [
        (column / scale, row / scale, (column + 1) / scale, (row + 1) / scale)
        for scale in scales
        for row, column in product(range(scale), repeat=2)
    ]
    return torch.tensor(boxes, device="cpu")


def adjacency(scales: Sequence[int]) -> Tensor:
    """Which nodes are neighbours: their regions overlap (across scales) or share a stretch of
    border, on a grid that all scales divide, so that no rounding decides; no node is its own.

    Returns:
        bool [N, N], symmetric; for scales (3, 2, 1): 45 undirected edges.
    """
    fine = math.lcm(*scales)
    boxes = torch.round(node_boxes(scales).double() * fine).long()
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = high - low  # [N, N, 2], x and y; negative: apart
    linked = (overlap >= 0).all(-1) & (overlap > 0).any(-1)
    return linked & ~torch.eye(len(boxes), dtype=torch.bool, device="cpu")


def position_maps(scales: Sequence[int], size: int = 6) -> Tensor:
    """Where each node is: a Gaussian bump over its own cell, zero elsewhere.

    Returns:
        float32 [N, size * size]. The paper's "positional" variant; fixed, not learned.

    Raises:
        ValueError: a scale has more cells than the map.
    """
    if (most := max(scales)) > size:
        raise ValueError(f"a position map of side {size} cannot hold a grid of {most} x {most}")
    maps = []
    for scale in scales:
        cell = size // scale
        offset = count(cell) - (cell - 1) / 2
        bump = torch.exp(-(offset**2) / (2 * _POSITION_STD**2))
        each = torch.kron(torch.eye(scale, dtype=bump.dtype, device="cpu"), bump[None])
        axis = F.pad(each, (0, size - scale * cell))  # one bump per row, [scale, size]
        maps.append(torch.kron(axis, axis))
    return torch.cat(maps).float()


def node_names(scales: Sequence[int]) -> tuple[str, ...]:
    """One short name per node, such as "3x3 (0, 1)"."""
    return tuple(
        f"{scale}x{scale} ({row}, {column})"
        for scale in scales
        for row, column in product(range(scale), repeat=2)
    )


def keep(module: nn.Module, name: str, fixed: Tensor) -> None:
    """Registers a tensor that is neither learned nor saved, on the device of the build."""
    module.register_buffer(name, fixed.to(torch.get_default_device()), persistent=False)


class Grid(nn.Module):
    """A feature map to its nodes and back, by matrices kept for maps of one size."""

    pooling: Tensor
    unpooling: Tensor

    def __init__(self, scales: Sequence[int], map_size: tuple[int, int]) -> None:
        super().__init__()
        self.scales, self.map_size = tuple(scales), map_size
        keep(self, "pooling", pooling_matrix(scales, *map_size))
        keep(self, "unpooling", unpooling_matrix(scales, *map_size))

    def means(self, features: Tensor) -> Tensor:
        """The matrix [N, H * W] that pools such a map [B, C, T, H, W]."""
        size = (features.shape[3], features.shape[4])
        return self.pooling if size == self.map_size else pooling_matrix(self.scales, *size)

    def pool(self, features: Tensor) -> Tensor:
        """Mean over the region of each node: [B, C, T, H, W] to [B, T, N, C]."""
        return self.means(features).to(features) @ flat_cells(features)

    def paint(self, nodes: Tensor, height: int, width: int) -> Tensor:
        """Each node over its region, scales summed: [B, T, N, C] to [B, C, T, H, W]."""
        kept = (height, width) == self.map_size
        matrix = self.unpooling if kept else unpooling_matrix(self.scales, height, width)
        cells = (matrix.to(nodes) @ nodes).unflatten(2, (height, width))  # [B, T, H, W, C]
        return cells.permute(0, 4, 1, 2, 3)


def flat_cells(features: Tensor) -> Tensor:
    """[B, C, T, H, W] to [B, T, H * W, C]."""
    return features.permute(0, 2, 3, 4, 1).flatten(2, 3)
