"""STRG: a clip as a graph of its regions, reasoned over by graph convolutions, beside the clip's
global feature.

Source: Videos as Space-Time Region Graphs (ECCV 2018), figure 2.

Shapes: B batch, C channels, T frames, P steps of the map, H W map, K boxes per frame, N = P * K
    nodes, D width, M neighbours.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import DataError
from vidgraph.models.base import HeadInput
from vidgraph.models.region_graph import Edges, RegionGraph, overlaps
from vidgraph.models.regions import mean_over_regions, region_nodes, regions_of_steps
from vidgraph.records import (
    Explanation,
    Positive,
    RegionLinks,
    Regions,
    Share,
    options,
    step_frames,
)

_NUM_NEIGHBOURS = 5  # per region in an explanation
_OVERLAP: tuple[Edges, ...] = ("front", "back")


@options
class STRGOptions:
    """How boxes become nodes, which graphs they reason along, and what reaches the classifier.

    Attributes:
        graph: "none": no regions, the backbone alone; "avgpool": the mean of the regions' features;
            "sim": the similarity graph; "st": the two overlap graphs, in space and time; "joint":
            both.
        fusion: of "joint": "late": two branches of layers whose last outputs are summed; "joint":
            all three graphs in every layer.
        width: of the nodes and all layers (D).
        num_layers: graph convolutions, one after another.
        residual: each layer but the last adds its input to its output.
        affine: layer norms have a gain and a bias.
        scale: similarities are divided by the root of the width.
        aligned: RoIAlign with the half-cell shift; False: as first published.
        sampling_ratio: points per cell and direction of RoIAlign; 0: as many as the box has cells
            of the map.
        dropout: share of the global feature that training leaves out.
        graph_dropout: share of the graph's half of the vector that training leaves out.
    """

    graph: Literal["none", "avgpool", "sim", "st", "joint"] = "joint"
    fusion: Literal["late", "joint"] = "late"
    width: Positive = 512
    num_layers: Positive = 3
    residual: bool = False
    affine: bool = True
    scale: bool = False
    aligned: bool = True
    sampling_ratio: Annotated[int, Field(ge=0)] = 2
    dropout: Share = 0.0
    graph_dropout: Share = 0.0
    type: Literal["strg"] = "strg"

    def build(self, on: HeadInput) -> STRGHead:
        return STRGHead(on.channels, on.num_classes, self)

    def branches(self) -> dict[str, tuple[Edges, ...]]:
        """The graphs that each branch of layers works along."""
        if self.graph == "joint" and self.fusion == "joint":
            return {"all": ("similarity", *_OVERLAP)}
        branches: dict[str, tuple[Edges, ...]] = {}
        if self.graph in ("sim", "joint"):
            branches["similarity"] = ("similarity",)
        if self.graph in ("st", "joint"):
            branches["overlap"] = _OVERLAP
        return branches


class STRGHead(nn.Module):
    """Regions, graphs, and a classifier on [global feature | mean of the regions after the graph].

    The graph's half is zero at initialisation, so that the model starts as its backbone with a
    pooled classifier. The classifier's weights of that half start at random: were they zero too,
    neither would ever learn.
    """

    def __init__(self, in_channels: int, num_classes: int, options: STRGOptions) -> None:
        super().__init__()
        self.num_classes, self.options, width = num_classes, options, options.width
        self.reduce = nn.Conv3d(in_channels, width, 1)
        self.graph = None
        if options.graph != "none":
            how = (options.num_layers, options.residual, options.affine, options.scale)
            self.graph = RegionGraph(width, options.branches(), *how)
        self.dropout = nn.Dropout(options.dropout)
        self.graph_dropout = nn.Dropout(options.graph_dropout)
        self.classifier = nn.Linear(width if self.graph is None else 2 * width, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """A map [B, C, P, H, W] and boxes of every frame, [B, T, K, ...], to logits.

        Raises:
            DataError: no boxes.
        """
        # A map of few channels: [B, D, P, H, W]
        features = self.reduce(features)
        # The whole clip: [B, D]
        vector = self.dropout(features.mean(dim=(2, 3, 4)))
        if self.graph is not None:
            # Boxes to what the map shows inside them: [B, P, K, D]
            nodes, steps = self.nodes(features, regions)
            # Regions reason along their graphs: [B, P, K, D]
            nodes = self.graph(nodes, steps.boxes_xyxy, steps.mask)
            # Mean over the regions that exist, beside the whole clip: [B, 2 D]
            mean = self.graph_dropout(mean_over_regions(nodes, steps.mask))
            vector = torch.cat([vector, mean], dim=1)
        # One score per class: [B, num_classes]
        logits: Tensor = self.classifier(vector)
        return logits

    def nodes(self, features: Tensor, regions: Regions | None) -> tuple[Tensor, Regions]:
        """What the map shows in the boxes of each step, [B, P, K, D], and these boxes."""
        if regions is None or len(regions.mask) != len(features) or not regions.mask.shape[2]:
            raise DataError(
                f"{len(features)} maps need the boxes of as many clips, at least one per frame, "
                "masked or not"
            )
        steps, how = regions_of_steps(regions, features.shape[2]), self.options
        return region_nodes(features, steps, how.aligned, how.sampling_ratio), steps

    @torch.no_grad()
    def explain(self, features: Tensor, regions: Regions | None = None) -> list[Explanation]:
        """Regions, their most similar others, and their overlaps; none without a graph."""
        if self.graph is None:
            return []
        nodes, steps = self.nodes(self.reduce(features), regions)
        graphs = self.graph.graphs(nodes, steps.boxes_xyxy, steps.mask)
        neighbours, weights = _nearest(graphs.get("similarity"), steps.mask)  # [B, P, K, M]
        overlap: list[Tensor | None] = [None] * len(nodes)  # [P, K, K] each
        if "front" in graphs:
            sigma = overlaps(steps.boxes_xyxy, steps.mask)
            overlap = list(F.pad(sigma, (0, 0, 0, 0, 0, 1)).cpu())
        steps = steps.to("cpu")
        boxes = steps.boxes_xyxy.float().masked_fill(~steps.mask[..., None], 0)
        num_steps, count = steps.mask.shape[1:]
        frames = step_frames(num_steps, num_steps)
        names = tuple(f"box {k + 1}" for k in range(count))
        nobody = torch.zeros(count, count, dtype=torch.bool)  # no messages within one frame alone
        none_sent = torch.zeros(0, num_steps, count, count)
        found = []
        for b, mask in enumerate(steps.mask):
            even, scores = torch.full((num_steps,), 1 / max(1, int(mask.sum()))), steps.scores[b]
            linked = RegionLinks(
                frames, scores.float(), mask, neighbours[b], weights[b], even, overlap[b]
            )
            found.append(Explanation(boxes[b], nobody, none_sent, names, linked))
        return found


def _nearest(similarity: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The strongest neighbours of each node but itself, and their weights, [B, P, K, M]."""
    if similarity is None:
        nobody = torch.zeros(*mask.shape, 0)
        return nobody.long(), nobody
    own = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    found = similarity.masked_fill(own, 0).topk(min(_NUM_NEIGHBOURS, len(own)), dim=-1)
    weights, neighbours = (part.unflatten(1, mask.shape[1:]).cpu() for part in found)
    return neighbours, weights
