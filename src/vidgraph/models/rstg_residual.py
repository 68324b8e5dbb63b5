"""The recurrent space-time graph as a residual inside a backbone: what it adds is exactly zero
until training has begun.

Source: the authors' code of Recurrent Space-time Graph Neural Networks (NeurIPS 2019), its
    Something-Something models.

Shapes: B batch, C channels, T frames, H W map, D width of the graph.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from vidgraph.models.norms import JointLayerNorm, LastAxisBatchNorm
from vidgraph.models.rstg import GraphOptions, RecurrentSpaceTimeGraph

ResidualNorm = Literal["layer", "batch"]


def make_residual_norm(kind: ResidualNorm, channels: int, num_axes: int) -> nn.Module:
    """The norm through which a graph joins its backbone, channels last; its output is zero at
    initialisation.

    Args:
        kind: "layer": one mean and variance per clip over the last `num_axes` axes, a bias, and
            then a scale that starts at zero; "batch": batch norm whose gain starts at zero.
        channels: of the last axis (C).
        num_axes: all but the batch.
    """
    if kind == "layer":
        return JointLayerNorm(channels, num_axes, zero_scale=True)
    norm = LastAxisBatchNorm(channels)
    nn.init.zeros_(norm.weight)
    return norm


class GraphResidual(nn.Module):
    """RSTG-to-map between two blocks of a backbone: x + norm(graph(x)); the identity at
    initialisation.

    Args:
        in_channels: channels of the map (C).
        width: of nodes and messages (D); where it differs from C, nodes are projected to D and back
            to C, else neither.
        map_size: rows and columns of the map; other sizes are allowed.
        options: which graph.
        norm: "layer" or "batch", see `make_residual_norm`.
    """

    norm_axes = 4  # T, H, W and C of a clip

    def __init__(
        self,
        in_channels: int,
        width: int,
        map_size: tuple[int, int],
        options: GraphOptions | None = None,
        norm: ResidualNorm = "layer",
    ) -> None:
        super().__init__()
        self.graph = RecurrentSpaceTimeGraph(
            in_channels, width, map_size, options, project_back=in_channels != width
        )
        self.norm = make_residual_norm(norm, in_channels, self.norm_axes)
        self.out_channels = in_channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same shape."""
        painted = self.graph.forward_map(features).permute(0, 2, 3, 4, 1)  # [B, T, H, W, C]
        added: Tensor = self.norm(painted)
        return features + added.permute(0, 4, 1, 2, 3).to(features.dtype)


class GraphVectorResidual(GraphResidual):
    """RSTG-to-vec on the last map of a backbone: norm(graph(x)), to be added to the pooled map;
    zero at initialisation.
    """

    norm_axes = 1  # C of a clip's vector

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, H, W] to one vector per clip, [B, C]."""
        added: Tensor = self.norm(self.graph(features))
        return added
