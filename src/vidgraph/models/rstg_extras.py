"""Additions of ours to the recurrent space-time graph, off by default: what nodes hold beside the
means of their regions, and how the layers start. docs/results.md has what each of them brings.

Shapes: B batch, C channels, T frames, H W map, N nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models import grid
from vidgraph.models.norms import LastAxisBatchNorm, full_precision
from vidgraph.records import options

_LEAST_ENERGY = 0.1  # of a feature in a region, below which its position fades to the middle


@options
class RSTGExtras:
    """Which additions.

    Attributes:
        moments: nodes also hold normalised first moments, that is where in its region a feature
            lies.
        differences: nodes also hold their change since the previous frame.
        context: nodes also hold what the node of the whole frame holds; the last scale must be 1.
        he: initial weights have gain sqrt(2) before each ReLU and a forget bias of 1, which keeps
            about three times as much of a clip's signal through three stages.
    """

    moments: bool = False
    differences: bool = False
    context: bool = False
    he: bool = False


class NodeExtras(nn.Module):
    """What nodes hold beside the means of their regions, for maps of one size and others."""

    moments: Tensor

    def __init__(
        self, in_channels: int, extras: RSTGExtras, scales: Sequence[int], map_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.extras, self.scales, self.map_size = extras, tuple(scales), map_size
        copies = (3 if extras.moments else 1) * 2 ** (extras.differences + extras.context)
        self.out_channels = in_channels * copies
        if extras.moments:
            grid.keep(self, "moments", moment_matrices(scales, *map_size))
        # Positions and differences are small beside the features: all come to one scale first.
        mixed = extras.moments or extras.differences
        self.standardise = LastAxisBatchNorm(self.out_channels) if mixed else nn.Identity()

    def forward(self, nodes: Tensor, features: Tensor, means: Tensor) -> Tensor:
        """Nodes [B, T, N, C], `means` of a map [B, C, T, H, W], to [B, T, N, out_channels]."""
        if self.extras.moments:
            nodes = torch.cat([nodes, self._centres(features, means).to(nodes)], dim=-1)
        if self.extras.differences:  # without a past: no change
            change = F.pad(nodes[:, 1:] - nodes[:, :-1], (0, 0, 0, 0, 1, 0))
            nodes = torch.cat([nodes, change], dim=-1)
        if self.extras.context:  # the last node is the whole frame's
            nodes = torch.cat([nodes, nodes[:, :, -1:].expand_as(nodes)], dim=-1)
        standard: Tensor = self.standardise(nodes)
        return standard

    def _centres(self, features: Tensor, means: Tensor) -> Tensor:
        """Where a feature's energy lies in each region: [B, C, T, H, W] to [B, T, N, 2 C].

        The share of the energy and not its amount: a digit that is half hidden, or falls between
        two cells, is still where it is.
        """
        size = (features.shape[3], features.shape[4])
        moments = self.moments if size == self.map_size else moment_matrices(self.scales, *size)
        with full_precision(features):  # a move of a tenth of a region is below what bf16 keeps
            energy = grid.flat_cells(features).float().square()  # [B, T, H * W, C]
            mass = means.to(energy.device) @ energy + _LEAST_ENERGY  # [B, T, N, C]
            x, y = moments.to(energy.device).unbind()
            return torch.cat([(x @ energy) / mass, (y @ energy) / mass], dim=-1)


def he_initialisation(graph: nn.Module) -> None:
    """The option `he`, over the weights that a graph starts with."""
    for name, layer in graph.named_modules():
        if isinstance(layer, nn.Linear) and (".send." in name or ".update." in name):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
        elif isinstance(layer, nn.LSTM):
            nn.init.ones_(layer.get_parameter("bias_ih_l0").data.chunk(4)[1])  # the forget gate


def moment_matrices(scales: Sequence[int], height: int, width: int) -> Tensor:
    """First moments of a map in each node's region, horizontal and vertical: float32 [2, N, H * W].

    Positions count from the middle of the region in halves of the frame, so that one step counts
    alike at every scale, at the centre of what a cell of the map shares with the region.
    """
    horizontal, vertical = [], []
    for scale in scales:
        rows, columns = grid.area_weights(height, scale), grid.area_weights(width, scale)
        horizontal.append(torch.kron(rows, columns * _offsets(width, scale) / scale))
        vertical.append(torch.kron(rows * _offsets(height, scale) / scale, columns))
    return torch.stack([torch.cat(horizontal), torch.cat(vertical)]).float()


def _offsets(in_size: int, out_size: int) -> Tensor:
    """Where the shared part of an input cell lies in each output cell, -1 to 1."""
    step = in_size / out_size
    left = grid.count(out_size)[:, None] * step
    cell = grid.count(in_size)[None, :]
    middle = (torch.maximum(left, cell) + torch.minimum(left + step, cell + 1)) / 2
    return (middle - left - step / 2) / (step / 2)
