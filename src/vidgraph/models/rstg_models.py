"""RSTG: a recurrent space-time graph over the feature map of a stem, or inside a 3D backbone, then
a classifier.

Source: Recurrent Space-time Graph Neural Networks for Video Understanding, NeurIPS 2019.

Shapes: B batch, C channels, T frames, H W map, N nodes, D width, S stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidgraph.models.grid import grid_graph
from vidgraph.models.pooling import window_means
from vidgraph.models.rstg import GraphOptions, RecurrentSpaceTimeGraph, SpaceStage
from vidgraph.models.rstg_residual import GraphVectorResidual
from vidgraph.records import Explanation, InputSpec


class RSTG(nn.Module):
    """Stem, recurrent space-time graph to a vector, classifier (the paper's "RSTG-to-vec").

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: clip to feature map.
        graph: feature map to vector.
        num_classes: classes of the last layer.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        graph: RecurrentSpaceTimeGraph,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.pixels, self.stem, self.graph = pixels, stem, graph
        self.classifier = nn.Linear(graph.out_channels, num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, num_classes]."""
        # Pixels to a feature map per frame: [B, C, T, H, W]
        features = self.stem(self.pixels(video))
        # Regions reason over space and time, and are summed: [B, D]
        vector = self.graph(features)
        # One score per class: [B, num_classes]
        logits: Tensor = self.classifier(vector)
        return logits

    @torch.no_grad()
    def explain(self, video: Tensor) -> list[Explanation]:
        """Nodes, edges and attention per clip: [B, C, T, H, W] to one explanation each."""
        _, attentions = self.graph.reason(self.stem(self.pixels(video)))
        return _explanations(self.graph.options, attentions, len(video), video.shape[2])


class BackboneRSTG(nn.Module):
    """A 3D backbone with recurrent space-time graphs, each added to what the backbone computes
    without it; then a classifier.

    Graphs between the backbone's blocks ("RSTG-to-map") are part of the backbone; the one on its
    last map ("RSTG-to-vec") is given apart. At initialisation all of them add zero: the model is
    then the backbone with a pooled classifier.

    Larger frames than in training need no crops. With `window`, every part of the map that has the
    training size is scored, and the scores are averaged, as the authors do; the classifier is
    linear, so that the means of the parts can be averaged before it.

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: the backbone, clip to feature map, with any `GraphResidual` among its layers.
        in_channels: channels of its last map (C).
        num_classes: classes of the last layer.
        on_top: the graph on the last map; None for the pooled map alone.
        dropout: before the classifier.
        window: rows and columns of the last map at the training size; None for the mean over the
            whole map.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        in_channels: int,
        num_classes: int,
        on_top: GraphVectorResidual | None = None,
        dropout: float = 0.3,
        window: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.input_spec, self.window = input_spec, window
        self.pixels, self.stem, self.on_top = pixels, stem, on_top
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, num_classes]."""
        # Pixels to a feature map, through any graphs on the way: [B, C, T, H, W]
        features = self.stem(self.pixels(video))
        # Mean over frames and the windows of the map, and what the regions of the last map have to
        # add: [B, C]
        vector = window_means(features, self.window).mean(dim=1)
        if self.on_top is not None:
            vector = vector + self.on_top(features)
        # One score per class: [B, num_classes]
        logits: Tensor = self.classifier(self.dropout(vector))
        return logits

    @torch.no_grad()
    def explain(self, video: Tensor) -> list[Explanation]:
        """Nodes, edges and attention per clip: [B, C, T, H, W] to one explanation each.

        With several graphs, the stages of one follow those of the one before it. A step of a map
        stands for all frames that it covers.
        """
        options = next(
            module.options
            for module in self.modules()
            if isinstance(module, RecurrentSpaceTimeGraph)
        )
        with _recorded_attention(self) as attentions:
            self(video)
        return _explanations(options, attentions, len(video), video.shape[2])


@contextmanager
def _recorded_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the attention of every space stage that runs, [B, T, N, N], in order."""
    attentions: list[Tensor] = []

    def record(
        _stage: nn.Module, _inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]
    ) -> None:
        attentions.append(output[1])

    handles = [
        stage.register_forward_hook(record)
        for stage in model.modules()
        if isinstance(stage, SpaceStage)
    ]
    try:
        yield attentions
    finally:
        for handle in handles:
            handle.remove()


def _explanations(
    options: GraphOptions, attentions: Sequence[Tensor], batch: int, frames: int
) -> list[Explanation]:
    """One explanation per clip from the attention of each stage, [B, T', N, N] with T' steps for
    the clip's T frames.
    """
    graph = grid_graph(options.scales)
    size = len(graph.names)
    boxes = graph.node_boxes_xyxy.expand(frames, -1, -1)  # [T, N, 4]
    stages = torch.zeros(batch, 0, frames, size, size)
    if attentions:
        steps = [torch.arange(frames) * attention.shape[1] // frames for attention in attentions]
        cut = [
            attention[..., :size].float().cpu()[:, step]
            for attention, step in zip(attentions, steps, strict=True)
        ]
        stages = torch.stack(cut, dim=1)  # [B, S, T, N, N]
    return [Explanation(boxes, graph.adjacency, attention, graph.names) for attention in stages]
