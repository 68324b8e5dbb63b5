"""What travels through the house: one record per station, with its shapes and units.

    video -> ClipBatch (+ Regions) -> model -> Prediction and Explanation

Shapes: B batch, C channels, T frames, H W pixels, K boxes per frame, N nodes, S stages of a graph
    or snippets of flow, L flow fields per
snippet, P steps of a map, M neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """What a model eats. The data pipeline, `predict` and the pictures build their inputs from it.

    Attributes:
        num_frames: frames per clip (T).
        height: rows of a clip, in pixels.
        width: columns of a clip, in pixels.
        channels: 3 for RGB, 1 for luma, 0 for models that see flow only.
        stride_frames: source frames from one sampled frame to the next, or None.
        sample_fps: sampled frames per second of video, or None.
        num_segments: the clip takes one frame from each of this many equal parts of the video, or
            None.
        flow_length: optical-flow fields per snippet in pixels per frame (L); 0 for none.
        num_snippets: snippets of flow around each sampled frame (S), where there is flow.
        snippet_interval: frames from one snippet to the next in tests (tau).
        max_snippet_interval: training draws that distance from 1 to this.
        snippet_layout: `interval`: snippets start every tau frames, so that they overlap where tau
            < L; `gap`: tau frames lie between the end of one and the start of the next.
        boxes_per_frame: region boxes per frame (K); 0 for none.

    Exactly one of `stride_frames`, `sample_fps`, `num_segments` is given; `num_segments` equals
    `num_frames`.
    """

    num_frames: int
    height: int
    width: int
    channels: int = 3
    stride_frames: int | None = None
    sample_fps: float | None = None
    num_segments: int | None = None
    flow_length: int = 0
    num_snippets: int = 1
    snippet_interval: int = 5
    max_snippet_interval: int = 10
    snippet_layout: Literal["interval", "gap"] = "interval"
    boxes_per_frame: int = 0

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("stride_frames", "sample_fps", "num_segments")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                "InputSpec needs exactly one of stride_frames, sample_fps, num_segments; got "
                f"{given or 'none'}"
            )
        if self.num_segments is not None and self.num_segments != self.num_frames:
            raise ValueError(
                f"num_segments ({self.num_segments}) must equal num_frames ({self.num_frames})"
            )
        if min(self.num_frames, self.height, self.width) < 1 or self.channels not in (
            (0, 1, 3) if self.flow_length else (1, 3)
        ):
            raise ValueError(
                f"InputSpec needs positive sizes and 1 or 3 channels, or 0 with flow; got {self}"
            )
        if (
            self.flow_length < 0
            or min(self.num_snippets, self.snippet_interval, self.max_snippet_interval) < 1
        ):
            raise ValueError(
                f"InputSpec needs whole snippets and intervals of at least one frame; got {self}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `config.json`."""
        return asdict(self)


@dataclass
class Regions:
    """Region boxes of a batch of clips.

    Attributes:
        boxes_xyxy: pixels of the crop, [B, T, K, 4].
        scores: objectness or 1, [B, T, K].
        mask: True where a box exists, [B, T, K].
    """

    boxes_xyxy: Tensor
    scores: Tensor
    mask: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Regions:
        return Regions(
            *(
                x.to(device, non_blocking=non_blocking)
                for x in (self.boxes_xyxy, self.scores, self.mask)
            )
        )

    def part(self, start: int, stop: int) -> Regions:
        return Regions(*(x[start:stop] for x in (self.boxes_xyxy, self.scores, self.mask)))

    def pin_memory(self) -> Regions:
        return Regions(
            self.boxes_xyxy.pin_memory(), self.scores.pin_memory(), self.mask.pin_memory()
        )


@dataclass
class ClipBatch:
    """A batch of clips, as the data pipeline hands it to a model.

    Attributes:
        video: uint8 pixels in RGB or luma, [B, C, T, H, W].
        label: class indices, int64 [B]; multi-label: 0/1 float [B, num_classes].
        index: row of each clip in its data set, int64 [B].
        frame_indices: source frame of each sampled frame, int64 [B, T].
        names: the video file (or generated clip) that each sample comes from.
        regions: boxes of each frame, where the data set has them.
        flow: snippets of optical flow at each sampled frame, uint8 [B, T, S, 2 L, H, W]: x and y of
            the first field, of the second, and so on; 0 to 255 for minus to plus the bound, so that
            no motion is 127.5.
    """

    video: Tensor
    label: Tensor
    index: Tensor
    frame_indices: Tensor
    names: list[str] = field(default_factory=list)
    regions: Regions | None = None
    flow: Tensor | None = None

    def __len__(self) -> int:
        return self.video.shape[0]

    def inputs(self, spec: InputSpec) -> dict[str, Any]:
        """The keyword arguments of a model's `forward`: what its `spec` asks for of video, flow and
        boxes.
        """
        inputs: dict[str, Any] = {"video": self.video} if spec.channels else {}
        if spec.flow_length:
            inputs["flow"] = self.flow
        if spec.boxes_per_frame:
            inputs["regions"] = self.regions
        return inputs

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _TENSORS
        }
        regions = None if self.regions is None else self.regions.to(device, non_blocking)
        flow = None if self.flow is None else self.flow.to(device, non_blocking=non_blocking)
        return ClipBatch(**moved, names=self.names, regions=regions, flow=flow)

    def part(self, start: int, stop: int) -> ClipBatch:
        """The clips from `start` to before `stop`."""
        kept = {name: getattr(self, name)[start:stop] for name in _TENSORS}
        regions = None if self.regions is None else self.regions.part(start, stop)
        return ClipBatch(
            **kept,
            names=self.names[start:stop],
            regions=regions,
            flow=None if self.flow is None else self.flow[start:stop],
        )

    def pin_memory(self) -> ClipBatch:
        pinned = {name: getattr(self, name).pin_memory() for name in _TENSORS}
        regions = None if self.regions is None else self.regions.pin_memory()
        return ClipBatch(
            **pinned,
            names=self.names,
            regions=regions,
            flow=None if self.flow is None else self.flow.pin_memory(),
        )


_TENSORS = ("video", "label", "index", "frame_indices")


@dataclass(frozen=True)
class Graph:
    """A space-time graph that is the same for every clip.

    Attributes:
        node_boxes_xyxy: where each node looks, as fractions of the frame, [N, 4].
        adjacency: True from source j to destination i at [i, j], [N, N].
        names: one short name per node, such as "3x3 (0, 1)".
    """

    node_boxes_xyxy: Tensor
    adjacency: Tensor
    names: tuple[str, ...]


@dataclass
class RegionLinks:
    """How the regions of a clip are linked, of a model whose nodes are boxes. Node p * K + k is box
    k of step p.

    Attributes:
        frames: sampled frame whose boxes each step of the graph has, int64 [P].
        scores: of the boxes, [P, K].
        mask: True where a box exists, [P, K].
        neighbours: the nodes most similar to each one, most similar first, without itself, int64
            [P, K, M]; M = 0 without similarity graph.
        weights: of each neighbour in the similarity graph, [P, K, M]; zero where there are fewer
            than M.
        even: what each region of the clip would weigh if all weighed the same, [P].
        overlap: IoU of box i of step p with box j of step p + 1 at [p, i, j], zero in the last
            step, [P, K, K]; None without such graphs.
    """

    frames: Tensor
    scores: Tensor
    mask: Tensor
    neighbours: Tensor
    weights: Tensor
    even: Tensor
    overlap: Tensor | None = None


@dataclass
class Explanation:
    """What a model looked at, for one clip.

    Attributes:
        node_boxes_xyxy: where each node looks, as fractions of the frame, [T, N, 4].
        adjacency: True where source j may send to destination i, at [i, j], [N, N].
        attention: weight of source j in destination i per stage and frame, [S, T, N, N]; S = 0
            where nothing is sent.
        names: one short name per node.
        regions: how the nodes are linked across frames, where they are boxes; node n of frame t is
            then box n of that frame.
        maps: weight of every cell of each frame's map, [T, h, w], where a model without nodes
            attends to cells; sums to 1 in each frame.
    """

    node_boxes_xyxy: Tensor
    adjacency: Tensor
    attention: Tensor
    names: tuple[str, ...]
    regions: RegionLinks | None = None
    maps: Tensor | None = None

    @classmethod
    def of_maps(cls, maps: Tensor) -> Explanation:
        """Of a model without nodes, from the weight of every cell, [T, h, w]."""
        frames = len(maps)
        nobody = torch.zeros(0, 0, dtype=torch.bool)
        return cls(torch.zeros(frames, 0, 4), nobody, torch.zeros(0, frames, 0, 0), (), maps=maps)


@dataclass
class Prediction:
    """The answer for one video.

    Attributes:
        video: the file.
        class_names: all classes, in the model's order.
        probabilities: one per class, float [num_classes].
        frame_indices: source frames that were looked at, [T].
        explanation: nodes, edges and attention, where the model has a graph.
    """

    video: str
    class_names: Sequence[str]
    probabilities: Tensor
    frame_indices: list[int]
    explanation: Explanation | None = None

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities, likeliest first."""
        values, order = self.probabilities.topk(min(count, len(self.class_names)))
        return [
            (self.class_names[i], v) for i, v in zip(order.tolist(), values.tolist(), strict=True)
        ]

    def to_dict(self, count: int = 5) -> dict[str, Any]:
        """Plain values for `predict --json`."""
        top = [{"class": name, "probability": probability} for name, probability in self.top(count)]
        return {"video": self.video, "top": top, "frame_indices": self.frame_indices}
