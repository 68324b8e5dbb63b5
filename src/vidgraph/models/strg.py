"""STRG: a clip as a graph of its regions, reasoned over by graph convolutions, beside the clip's
global feature.

Source: Videos as Space-Time Region Graphs (ECCV 2018), figure 2.

Shapes: B batch, C channels, T frames, P steps of the map, H W pixels or map, K boxes per frame, N =
    P * K nodes, D width, M neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidgraph.errors import DataError, RecipeError
from vidgraph.models.graph_conv import RegionGraph
from vidgraph.models.overlap import overlaps
from vidgraph.models.regions import mean_over_regions, region_nodes, regions_of_steps, step_frames
from vidgraph.records import Explanation, InputSpec, RegionLinks, Regions

_NUM_NEIGHBOURS = 5  # per region in an explanation


@dataclass(frozen=True)
class RegionOptions:
    """How boxes become nodes, and what of their graph reaches the classifier.

    Attributes:
        boxes_per_frame: boxes per frame (K); a model takes clips with another number too.
        aligned: RoIAlign with the half-cell shift; False: as first published.
        sampling_ratio: points per cell and direction of RoIAlign; 0: as many as the box has cells
            of the map.
        graph_dropout: share of the graph's half of the vector that training leaves out.
    """

    boxes_per_frame: int = 50
    aligned: bool = True
    sampling_ratio: int = 2
    graph_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.boxes_per_frame < 1:
            raise RecipeError(
                f"boxes_per_frame is {self.boxes_per_frame}; give at least 1, or graph none for a "
                "model without regions"
            )
        if self.sampling_ratio < 0:
            raise RecipeError(
                f"sampling_ratio is {self.sampling_ratio}; give 0 (adaptive) or the number of "
                "points per cell"
            )
        if not 0 <= self.graph_dropout < 1:
            raise RecipeError(
                "graph_dropout is a share from 0 up to, but not including, 1, not "
                f"{self.graph_dropout}"
            )


class STRG(nn.Module):
    """Backbone, regions, graphs, one classifier on [global feature | mean of the regions after the
    graph].

    The graph's half is zero at initialisation, so that the model starts as its backbone with a
    pooled classifier. The classifier's weights of that half start at random: were they zero too,
    neither would ever learn.

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: the backbone, clip to feature map.
        reduce: convolution of that map to the graph's width.
        graph: the graph over regions; None for the backbone alone.
        num_classes: classes of the last layer.
        width: channels after `reduce` (D).
        regions: how boxes become nodes.
        dropout: share of the global feature that training leaves out.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        reduce: nn.Module,
        graph: RegionGraph | None,
        num_classes: int,
        width: int,
        regions: RegionOptions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_spec, self.regions = input_spec, regions or RegionOptions()
        self.pixels, self.stem, self.reduce, self.graph = pixels, stem, reduce, graph
        self.dropout, self.graph_dropout = (
            nn.Dropout(dropout),
            nn.Dropout(self.regions.graph_dropout),
        )
        self.classifier = nn.Linear(width if graph is None else 2 * width, num_classes)

    def forward(self, video: Tensor, regions: Regions | None = None) -> Tensor:
        """Clips to logits.

        Args:
            video: [B, C, T, H, W], uint8 or in [0, 1].
            regions: boxes of every frame in pixels of the clip, [B, T, K, ...].

        Returns:
            [B, num_classes].

        Raises:
            DataError: boxes are missing, or of another number of clips or frames.
        """
        # Pixels to a feature map of few channels: [B, D, P, H', W']
        features = self.reduce(self.stem(self.pixels(video)))
        # The whole clip: [B, D]
        vector = self.dropout(features.mean(dim=(2, 3, 4)))
        if self.graph is not None:
            # Boxes to what the map shows inside them: [B, P, K, D]
            nodes, steps = self.nodes(features, video, regions)
            # Regions reason along their graphs: [B, P, K, D]
            nodes = self.graph(nodes, steps.boxes_xyxy, steps.mask)
            # Mean over the regions that exist, beside the whole clip: [B, 2 D]
            vector = torch.cat(
                [vector, self.graph_dropout(mean_over_regions(nodes, steps.mask))], dim=1
            )
        # One score per class: [B, num_classes]
        logits: Tensor = self.classifier(vector)
        return logits

    def nodes(
        self, features: Tensor, video: Tensor, regions: Regions | None
    ) -> tuple[Tensor, Regions]:
        """What the map shows inside the boxes of each of its steps, [B, P, K, D], and these boxes,
        [B, P, K, ...].
        """
        steps = regions_of_steps(_checked(regions, video), features.shape[2])
        size, how = (video.shape[3], video.shape[4]), self.regions
        return region_nodes(
            features, steps, size, aligned=how.aligned, sampling_ratio=how.sampling_ratio
        ), steps

    @torch.no_grad()
    def explain(self, video: Tensor, regions: Regions | None = None) -> list[Explanation]:
        """Regions, their most similar others, and how they overlap from step to step: one
        explanation per clip; none without a graph.

        A frame between two steps of the map shows the boxes of the step before it: those are what
        the graph had.
        """
        if self.graph is None:
            return []
        features = self.reduce(self.stem(self.pixels(video)))
        nodes, steps = self.nodes(features, video, regions)
        links = self.graph.links(nodes, steps.boxes_xyxy, steps.mask)
        overlap = (
            None if links.front is None else overlaps(steps.boxes_xyxy, steps.mask).cpu()
        )  # [B, P - 1, K, K]
        neighbours, weights = _nearest(links.similarity, steps.mask)  # [B, P, K, M]
        num_frames, size = video.shape[2], (video.shape[3], video.shape[4])
        found = []
        for b in range(len(video)):
            between = (
                None
                if overlap is None
                else torch.cat([overlap[b], torch.zeros(1, *overlap.shape[2:])])
            )
            at = step_frames(num_frames, features.shape[2])
            exists = steps.mask[b].cpu()
            even = torch.full((len(exists),), 1 / max(1, int(exists.sum())))
            linked = RegionLinks(
                at, steps.scores[b].float().cpu(), exists, neighbours[b], weights[b], even, between
            )
            found.append(_explanation(steps.part(b, b + 1).to("cpu"), num_frames, size, linked))
        return found

    def paper_gmac(self, parts: Mapping[str, float], batch: int) -> float:
        """The paper's 158e9: all graphs as full matrices, and without the convolution that reduces
        the map.
        """
        return sum(parts.values()) - parts["reduce"]

    def skipped_gmac(self, shapes: Mapping[str, list[int]]) -> dict[str, float]:
        """Products with the zeros of the overlap graphs, which the equations have and the blocks
        leave out; per part of the model.

        Args:
            shapes: of the outputs of the parts, batch first.
        """
        if self.graph is None or not self.graph.with_overlap:
            return {}
        options, boxes = self.graph.options, self.input_spec.boxes_per_frame
        batch, width, steps = shapes["reduce"][:3]
        zeros = (steps * boxes) ** 2 - (steps - 1) * boxes**2
        return {"graph": batch * options.num_layers * 2 * zeros * width / 1e9}


def _checked(regions: Regions | None, video: Tensor) -> Regions:
    if regions is None:
        raise DataError(
            "this model looks at regions, and the clips came without boxes; give a store of boxes "
            "(data.table.boxes, --boxes)"
        )
    if regions.mask.shape[:2] != (len(video), video.shape[2]) or regions.mask.shape[2] < 1:
        raise DataError(
            f"the video is of {len(video)} clips of {video.shape[2]} frames, and the boxes of "
            f"{regions.mask.shape[0]} clips of "
            f"{regions.mask.shape[1]} frames with {regions.mask.shape[2]} each; give at least one "
            "box, masked or not, for every frame"
        )
    return regions


def _nearest(similarity: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The strongest neighbours of each node and their weights, on the CPU, [B, P, K, M]; a node is
    not its own neighbour.
    """
    batch, steps, boxes = mask.shape
    size = steps * boxes
    if similarity is None:
        return torch.zeros(batch, steps, boxes, 0, dtype=torch.int64), torch.zeros(
            batch, steps, boxes, 0
        )
    others = similarity.masked_fill(torch.eye(size, dtype=torch.bool, device=similarity.device), 0)
    weights, neighbours = others.topk(min(_NUM_NEIGHBOURS, size), dim=-1)  # [B, N, M]
    return neighbours.reshape(batch, steps, boxes, -1).cpu(), weights.reshape(
        batch, steps, boxes, -1
    ).cpu()


def _explanation(
    steps: Regions, num_frames: int, size: tuple[int, int], links: RegionLinks
) -> Explanation:
    """Of one clip, whose boxes are `steps` [1, P, K, ...] in pixels."""
    height, width = size
    boxes = steps.boxes_xyxy[0].float().masked_fill(~steps.mask[0, ..., None], 0) / torch.tensor(
        [width, height, width, height]
    )
    count = boxes.shape[1]
    step = (
        torch.searchsorted(links.frames, torch.arange(num_frames), right=True) - 1
    )  # the last one that has begun at each frame
    names = tuple(f"box {k + 1}" for k in range(count))
    nobody = torch.zeros(count, count, dtype=torch.bool)  # no messages within one frame alone
    return Explanation(boxes[step], nobody, torch.zeros(0, num_frames, count, count), names, links)
