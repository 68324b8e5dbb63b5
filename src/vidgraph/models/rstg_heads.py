"""Where a recurrent space-time graph stands: a head of its own ("RSTG-to-vec"), or beside a
backbone, where what it adds is exactly zero until training has begun.

Source: the authors' code of Recurrent Space-time Graph Neural Networks (NeurIPS 2019); the residual
forms are those of its Something-Something models.

Shapes: B batch, C channels, T frames, H W map, K classes, N nodes, D width of the graph.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from vidgraph.models.base import HeadInput
from vidgraph.models.norms import JointLayerNorm
from vidgraph.models.rstg import RecurrentSpaceTimeGraph, RSTGOptions
from vidgraph.records import Regions, options

SOMETHING = RSTGOptions(scalewise_update=True, norm="layer")  # the authors' configuration


@options
class InsertedRSTGOptions:
    """Graphs inserted in a 3D ResNet, whose maps are added to its own ("RSTG-to-map").

    Attributes:
        blocks: of the ResNet, each followed by a graph.
        graph: which graph.
    """

    blocks: tuple[str, ...] = ("layer2_2", "layer3_4")
    graph: RSTGOptions = SOMETHING
    type: Literal["rstg"] = "rstg"


@options
class RSTGHeadOptions(RSTGOptions):
    """The graph as a head ("RSTG-to-vec"); see `RSTGOptions`."""

    def build(self, on: HeadInput) -> RSTGHead:
        return RSTGHead(on.channels, on.num_classes, self, on.map_size)


class RSTGHead(nn.Module):
    """The graph to a vector, and a classifier."""

    def __init__(
        self, in_channels: int, num_classes: int, options: RSTGOptions, map_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.graph = RecurrentSpaceTimeGraph(in_channels, map_size, options)
        self.classifier = nn.Linear(self.graph.out_channels, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, C, T, H, W] to logits [B, K]."""
        # Regions reason over space and time: [B, T, N, D]
        nodes = self.graph(features)
        # Their sum, then one score per class: [B, K]
        logits: Tensor = self.classifier(self.graph.to_vector(nodes))
        return logits


class GraphResidual(nn.Module):
    """RSTG-to-map between two blocks of a backbone: x + norm(graph(x)), where the norm has one mean
    and variance per clip, a bias, and then a scale that starts at zero.

    Where the graph has another width than the map has channels, nodes are projected to it and back.
    """

    norm_axes = 4  # T, H, W and C of a clip

    def __init__(
        self, in_channels: int, map_size: tuple[int, int], options: RSTGOptions = SOMETHING
    ) -> None:
        super().__init__()
        back = in_channels != options.width
        self.graph = RecurrentSpaceTimeGraph(in_channels, map_size, options, project_back=back)
        self.norm = JointLayerNorm(in_channels, self.norm_axes, zero_scale=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same shape; the identity at initialisation."""
        painted = self.graph.grid.paint(self.graph(features), *features.shape[3:])
        added: Tensor = self.norm(painted.permute(0, 2, 3, 4, 1))  # [B, T, H, W, C]
        return features + added.permute(0, 4, 1, 2, 3).to(features.dtype)


class GraphVectorResidual(GraphResidual):
    """RSTG-to-vec on the last map of a backbone: norm(graph(x)), to be added to the pooled map."""

    norm_axes = 1  # C of a clip's vector

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, H, W] to one vector per clip, [B, C]; zero at initialisation."""
        added: Tensor = self.norm(self.graph.to_vector(self.graph(features)))
        return added
