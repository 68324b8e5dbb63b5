"""Regions of a clip drawn over its frames, in the manner of the region-graph paper: what is most
similar to one box (its figure 3), and which boxes follow one another by overlap (its figure 4).

Shapes: T frames, P steps of the map, K boxes per frame, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from vidgraph.records import Explanation, RegionLinks
from vidgraph.visualize.canvas import Canvas, Legend, centre, enlarge, evenly

Node = tuple[int, int]  # a step of the map and one of its boxes

PROPOSAL_COLOUR, QUERY_COLOUR, NEIGHBOUR_COLOUR = "#78e182", "#ff9628", "#4696ff"
QUERY_KEY = ((QUERY_COLOUR, "one region"), (NEIGHBOUR_COLOUR, "most similar to it"))
TRACK_COLOURS = ("#4696ff", "#f0a0cd", "#f0e442", "#96ebf0")
_DIM = 0.8  # brightness of the frame under the boxes
_GAP = 6  # pixels between the frames of a strip
# A box with more of the frame than this is followed and drawn only where there is no other.
_MOST_OF_A_FRAME = 0.8
# IoU from which a box counts as the continuation of another. Every overlap is an edge of the graph,
# but that is not the same thing.
_FOLLOWS = 0.3
_SAME = 0.5  # IoU from which two boxes of a step show the same thing


class Trajectory(NamedTuple):
    """Boxes of consecutive steps, each overlapping its predecessor most, IoU from 0.3."""

    nodes: tuple[Node, ...]  # in order of time
    mean_iou: float  # of neighbouring boxes


class Query(NamedTuple):
    """A region and those most similar to it."""

    node: Node
    neighbours: tuple[Node, ...]  # most similar first
    weights: tuple[float, ...]  # of each in the similarity graph
    even: float  # what every region would weigh if all weighed the same


class RegionPictures:
    """Draws the regions of a clip and how they are linked."""

    def __init__(self, explanation: Explanation) -> None:
        assert explanation.regions is not None
        self.links = explanation.regions
        # Boxes of every step, fractions of the frame, [P, K, 4]
        self.boxes: np.ndarray = explanation.node_boxes_xyxy[self.links.frames].double().numpy()
        self.tracks = find_trajectories(self.links, self.boxes)
        self.queries = find_queries(self.links, self.boxes)

    def over_frame(self, frame: np.ndarray, t: int, *, side: int = 512) -> np.ndarray:
        """A frame with all its regions, faint, and over them the trajectories that pass, each with
        the way that it came; without overlap graphs, the boxes of the first query that lie in it.
        """
        step = int((self.links.frames <= t).sum()) - 1  # the last one that has begun
        canvas = Canvas(frame, side, _DIM)
        self._draw_proposals(canvas, self.boxes, step)
        for track, colour in zip(self.tracks, TRACK_COLOURS, strict=False):
            passed = [self.boxes[node] for node in track.nodes if node[0] <= step]
            if passed and track.nodes[-1][0] >= step:
                canvas.trail([centre(box) for box in passed], colour)
                canvas.box(passed[-1], colour)
        if not self.tracks and self.queries:
            self._draw_query(canvas, self.queries[0], step)
        return canvas.pixels()

    def query(
        self, frames: np.ndarray, query: Query, *, count: int = 5, side: int = 340
    ) -> list[tuple[np.ndarray, int]]:
        """Figure 3 of the paper: a box in orange, the most similar in blue, others faint.

        Drawn are at most `count` frames of [T, H, W, 3]: the query's, those of its neighbours from
        the most similar on, then others, evenly; (picture, sampled frame) in order of time.
        """
        others = evenly(len(self.boxes), count)
        wanted = [query.node[0], *(step for step, _ in query.neighbours), *others]
        drawn = []
        for step in sorted(list(dict.fromkeys(wanted))[: min(count, len(self.boxes))]):
            t = int(self.links.frames[step])
            canvas = Canvas(frames[t], side, _DIM, boldness=1.4)
            self._draw_proposals(canvas, self.boxes, step)
            self._draw_query(canvas, query, step)
            drawn.append((canvas.pixels(), t))
        return drawn

    def strip(self, frames: np.ndarray, *, count: int = 5, side: int = 300) -> np.ndarray:
        """Figure 4 of the paper: frames side by side, the boxes of each trajectory in its colour,
        and arrows along time; up to `count` frames of [T, H, W, 3], evenly over the clip."""
        steps = evenly(len(self.boxes), count)
        shown = [enlarge(frames[int(self.links.frames[step])], side) for step in steps]
        width = shown[0].shape[1]
        padded = [np.pad(p, ((0, 0), (0, _GAP), (0, 0)), constant_values=255) for p in shown]
        pictures = np.concatenate(padded, axis=1)[:, :-_GAP]
        canvas = Canvas(pictures, side, _DIM, boldness=1.8)
        boxes = self.boxes.copy()  # as fractions of the strip
        boxes[..., ::2] *= width / pictures.shape[1]
        for column, step in enumerate(steps):
            boxes[step, :, ::2] += column * (width + _GAP) / pictures.shape[1]
            self._draw_proposals(canvas, boxes, step)
        for track, colour in zip(self.tracks, TRACK_COLOURS, strict=False):
            found = [boxes[node] for node in track.nodes if node[0] in steps]
            for box in found:
                canvas.box(box, colour)
            for before, after in pairwise(found):
                canvas.arrow(centre(before), centre(after), 0.25, colour, bow=0.0)
        return canvas.pixels()

    def legend(self) -> Legend:
        """What the boxes of `over_frame` mean."""
        entries = [(PROPOSAL_COLOUR, "regions")]
        if self.tracks:
            entries.append((TRACK_COLOURS[0], "followed by overlap"))
        elif self.queries:
            entries += QUERY_KEY
        return Legend("boxes", entries)

    def _draw_proposals(self, canvas: Canvas, boxes: np.ndarray, step: int) -> None:
        for box in boxes[step, self.links.mask[step].numpy()]:
            canvas.box(box, PROPOSAL_COLOUR, width=1.1, alpha=0.55)

    def _draw_query(self, canvas: Canvas, query: Query, step: int) -> None:
        for node in query.neighbours:
            if node[0] == step:
                canvas.box(self.boxes[node], NEIGHBOUR_COLOUR)
        if query.node[0] == step:
            canvas.box(self.boxes[query.node], QUERY_COLOUR, width=3.4)


def find_trajectories(links: RegionLinks, boxes: np.ndarray) -> list[Trajectory]:
    """Long trajectories of boxes [P, K, 4] that overlap well and have high scores, of different
    things; none without overlap graphs."""
    if links.overlap is None:
        return []
    overlap, scores = links.overlap.float().numpy(), links.scores.float().numpy()
    # The next box of each, -1 for none, [P, K]
    following = np.where(overlap.max(-1) >= _FOLLOWS, overlap.argmax(-1), -1)
    after = {(p, i): (p + 1, int(following[p, i])) for p, i in np.argwhere(following >= 0).tolist()}
    found, chosen, reached = list[Trajectory](), list[Trajectory](), set(after.values())
    for start in (node for node in after if node not in reached):
        path = [start]
        while path[-1] in after:
            path.append(after[path[-1]])
        ious = [overlap[p, i, j] for (p, i), (_, j) in pairwise(path)]
        found.append(Trajectory(tuple(path), float(np.mean(ious))))
    found.sort(key=lambda t: -t.mean_iou * sum(scores[node] for node in t.nodes))
    found.sort(key=lambda t: _fills(boxes, t.nodes))
    for track in found:
        alike = (_alike(boxes, track, other) for other in chosen)
        if len(chosen) < len(TRACK_COLOURS) and not any(alike):
            chosen.append(track)
    return chosen


def find_queries(links: RegionLinks, boxes: np.ndarray) -> list[Query]:
    """The three regions, boxes [P, K, 4], that the similarity graph links most unevenly, of
    different steps and things; none without similarity graph."""
    if not links.neighbours.shape[-1]:
        return []
    strength = links.weights.sum(-1) / links.even[:, None]  # [P, K]
    nodes = [(p, k) for p, k in links.mask.nonzero().tolist() if links.weights[p, k, 0] > 0]
    nodes.sort(key=lambda node: (_fills(boxes, [node]), -float(strength[node])))
    chosen: list[Query] = []
    for node in nodes:
        others = (query.node for query in chosen)
        near = (node[0] == o[0] or _iou(boxes[node], boxes[o]) > _SAME for o in others)
        if len(chosen) < 3 and not any(near):
            kept = links.weights[node] > 0
            indices, weights = links.neighbours[node][kept], links.weights[node][kept]
            neighbours = tuple(divmod(index, links.mask.shape[1]) for index in indices.tolist())
            even = float(links.even[node[0]])
            chosen.append(Query(node, neighbours, tuple(weights.tolist()), even))
    return chosen


def _alike(boxes: np.ndarray, first: Trajectory, second: Trajectory) -> bool:
    """Whether two trajectories show the same thing: they meet or lie over one another."""
    if set(first.nodes) & set(second.nodes):
        return True
    other = dict(second.nodes)
    shared = [_iou(boxes[p, k], boxes[p, other[p]]) for p, k in first.nodes if p in other]
    return bool(shared) and float(np.mean(shared)) > _SAME


def _fills(boxes: np.ndarray, nodes: Sequence[Node]) -> bool:
    """Whether boxes hold most of the frame."""
    areas = [(boxes[node][2:] - boxes[node][:2]).prod() for node in nodes]
    return float(np.mean(areas)) > _MOST_OF_A_FRAME


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(sides.clip(min=0).prod())
    union = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
