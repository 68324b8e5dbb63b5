"""Regions of a clip drawn over its frames, in the manner of the region-graph paper: what is most
similar to one box (its figure 3), and which boxes follow one another by overlap (its figure 4).

Shapes: T frames, P steps of the map, K boxes per frame, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vidgraph.records import Explanation, RegionLinks
from vidgraph.visualize.graph import Canvas, enlarge

Place = tuple[int, int]  # a step of the map and one of its boxes

PROPOSAL_COLOUR, QUERY_COLOUR, NEIGHBOUR_COLOUR = (120, 225, 130), (255, 150, 40), (70, 150, 255)
TRACK_COLOURS = ((70, 150, 255), (240, 160, 205), (240, 228, 66), (150, 235, 240))
_DIM = 0.8  # brightness of the frame under the boxes
_GAP = 6  # pixels between the frames of a strip
# a box with more of the frame than this follows nothing and is drawn only where there is no other
_MOST_OF_A_FRAME = 0.8
# IoU from which a box counts as the continuation of another; every overlap is an edge of the
# graph, but not the same thing
_FOLLOWS = 0.3
_SAME = 0.5  # IoU from which two boxes of a step show the same thing


@dataclass(frozen=True)
class Trajectory:
    """Boxes of consecutive steps, each the one that overlaps its predecessor most, by an IoU of at
    least 0.3.

    Attributes:
        places: step and box, in order of time.
        mean_iou: of neighbouring boxes.
    """

    places: tuple[Place, ...]
    mean_iou: float


@dataclass(frozen=True)
class Query:
    """A region and those most similar to it.

    Attributes:
        place: step and box.
        neighbours: step and box of each, most similar first.
        weights: of each in the similarity graph.
        even: what every region would weigh if all weighed the same.
    """

    place: Place
    neighbours: tuple[Place, ...]
    weights: tuple[float, ...]
    even: float


class RegionPictures:
    """Draws the regions of a clip.

    Args:
        explanation: of a model with regions.
    """

    def __init__(self, explanation: Explanation) -> None:
        assert explanation.regions is not None
        self.links = explanation.regions
        # Boxes of every step, fractions of the frame, [P, K, 4]
        self.boxes: np.ndarray = explanation.node_boxes_xyxy[self.links.frames].double().numpy()
        self.tracks, self.queries = (
            find_trajectories(self.links, self.boxes),
            find_queries(self.links, self.boxes),
        )

    def over_frame(self, frame: np.ndarray, t: int, *, side: int = 512) -> np.ndarray:
        """One frame with all its regions, faint, and over them the trajectories that pass, each
        with the way that it came; without overlap graphs, the boxes of the first query that lie in
        it.

        Args:
            frame: uint8 [H, W, 3], the part of the picture that the model saw.
            t: sampled frame, from 0.
            side: shorter side of the drawing in pixels.

        Returns:
            uint8 [h, w, 3].
        """
        step = int((self.links.frames <= t).sum()) - 1  # the last one that has begun
        canvas = Canvas(enlarge(frame, side), _DIM, boldness=1.0)
        self._draw_proposals(canvas, step)
        for track, colour in zip(self.tracks, TRACK_COLOURS, strict=False):
            passed = [self.boxes[place] for place in track.places if place[0] <= step]
            if passed and track.places[-1][0] >= step:
                canvas.trail([_centre(box) for box in passed], colour)
                canvas.box(passed[-1], colour, inset=0.0, width=3.0, alpha=255)
        if not self.tracks and self.queries:
            self._draw_query(canvas, self.queries[0], step)
        return canvas.pixels()

    def query(
        self, frames: np.ndarray, query: Query, *, count: int = 5, side: int = 340
    ) -> list[tuple[np.ndarray, int]]:
        """Figure 3 of the paper: a box in orange, those most similar to it in blue, all others in
        faint green, in their frames.

        Args:
            frames: uint8 [T, H, W, 3], the part of the picture that the model saw.
            query: one of `queries`.
            count: frames at most: the query's, those of its neighbours from the most similar on,
                then others, evenly.
            side: shorter side of each picture in pixels.

        Returns:
            (picture, sampled frame) in order of time.
        """
        wanted = [query.place[0], *(step for step, _ in query.neighbours), *self._evenly(count)]
        drawn = []
        for step in sorted(list(dict.fromkeys(wanted))[: min(count, len(self.boxes))]):
            t = int(self.links.frames[step])
            canvas = Canvas(enlarge(frames[t], side), _DIM, boldness=1.4)
            self._draw_proposals(canvas, step)
            self._draw_query(canvas, query, step)
            drawn.append((canvas.pixels(), t))
        return drawn

    def strip(self, frames: np.ndarray, *, count: int = 5, side: int = 300) -> np.ndarray:
        """Figure 4 of the paper: frames side by side, the boxes of each trajectory in its colour,
        and arrows along time.

        Args:
            frames: uint8 [T, H, W, 3], the part of the picture that the model saw.
            count: frames at most, evenly over the clip.
            side: shorter side of each frame in pixels.

        Returns:
            uint8 [h, w, 3].
        """
        steps = self._evenly(count)
        shown = [enlarge(frames[int(self.links.frames[step])], side) for step in steps]
        height, width = shown[0].shape[:2]
        gap = np.full((height, _GAP, 3), 255, dtype=np.uint8)
        pictures = np.concatenate(
            [part for picture in shown for part in (picture, gap)][:-1], axis=1
        )
        places = {
            step: (column * (width + _GAP) / pictures.shape[1], width / pictures.shape[1])
            for column, step in enumerate(steps)
        }
        canvas = Canvas(pictures, _DIM, boldness=1.8)
        for step, place in places.items():
            self._draw_proposals(canvas, step, *place)
        for track, colour in zip(self.tracks, TRACK_COLOURS, strict=False):
            found = [
                _squeezed(self.boxes[p, k], *places[p]) for p, k in track.places if p in places
            ]
            for box in found:
                canvas.box(box, colour, inset=0.0, width=3.0, alpha=255)
            for before, after in pairwise(found):
                canvas.arrow(_centre(before), _centre(after), 0.25, colour, bow=0.0)
        return canvas.pixels()

    def _evenly(self, count: int) -> list[int]:
        """Up to `count` steps, first and last included."""
        return sorted(
            {
                int(p)
                for p in np.linspace(0, len(self.boxes) - 1, min(count, len(self.boxes))).round()
            }
        )

    def _draw_proposals(
        self, canvas: Canvas, step: int, left: float = 0.0, share: float = 1.0
    ) -> None:
        for k in self.links.mask[step].nonzero()[:, 0].tolist():
            canvas.box(
                _squeezed(self.boxes[step, k], left, share),
                PROPOSAL_COLOUR,
                inset=0.0,
                width=1.1,
                alpha=140,
            )

    def _draw_query(self, canvas: Canvas, query: Query, step: int) -> None:
        for place in query.neighbours:
            if place[0] == step:
                canvas.box(self.boxes[place], NEIGHBOUR_COLOUR, inset=0.0, width=3.0, alpha=255)
        if query.place[0] == step:
            canvas.box(self.boxes[query.place], QUERY_COLOUR, inset=0.0, width=3.4, alpha=255)


def find_trajectories(
    links: RegionLinks, boxes: np.ndarray, count: int = len(TRACK_COLOURS)
) -> list[Trajectory]:
    """Long trajectories of boxes that overlap well and have high scores, of different things; none
    without overlap graphs.

    Args:
        links: of the clip.
        boxes: of every step, fractions of the frame, [P, K, 4].
        count: trajectories at most.
    """
    if links.overlap is None:
        return []
    overlap, scores = links.overlap.float().numpy(), links.scores.float().numpy()
    following = np.where(
        overlap.max(-1) >= _FOLLOWS, overlap.argmax(-1), -1
    )  # [P, K]: the next box of each, -1 for none
    found = []
    for start in _starts(following):
        path = _path(start, following)
        ious = [overlap[p, i, j] for (p, i), (_, j) in pairwise(path)]
        found.append(Trajectory(tuple(path), float(np.mean(ious))))
    found.sort(
        key=lambda track: (
            _fills(boxes, track.places),
            -track.mean_iou * sum(scores[place] for place in track.places),
        )
    )
    chosen: list[Trajectory] = []
    for track in found:
        if len(chosen) < count and not any(
            _alike(boxes, track.places, other.places) for other in chosen
        ):
            chosen.append(track)
    return chosen


def find_queries(links: RegionLinks, boxes: np.ndarray, count: int = 3) -> list[Query]:
    """Regions that the similarity graph links most unevenly, of different steps; none without
    similarity graph.

    Args:
        links: of the clip.
        boxes: of every step, fractions of the frame, [P, K, 4].
        count: regions at most.
    """
    if not links.neighbours.shape[-1]:
        return []
    strength = links.weights.sum(-1) / links.even[:, None]  # [P, K]
    listed = [(p, k) for p, k in links.mask.nonzero().tolist() if links.weights[p, k, 0] > 0]
    listed.sort(key=lambda place: (_fills(boxes, [place]), -float(strength[place])))
    chosen: list[Place] = []
    for place in listed:
        taken = any(
            place[0] == other[0] or _iou(boxes[place], boxes[other]) > _SAME for other in chosen
        )
        if len(chosen) < count and not taken:
            chosen.append(place)
    return [_query(links, place) for place in chosen]


def _query(links: RegionLinks, place: Place) -> Query:
    size = links.mask.shape[1]
    found = [
        (divmod(int(node), size), float(weight))
        for node, weight in zip(links.neighbours[place], links.weights[place], strict=True)
    ]
    kept = [(neighbour, weight) for neighbour, weight in found if weight > 0]
    return Query(
        place,
        tuple(neighbour for neighbour, _ in kept),
        tuple(weight for _, weight in kept),
        float(links.even[place[0]]),
    )


def _starts(following: np.ndarray) -> list[Place]:
    """Boxes that lead on and that no box leads to."""
    reached = {(p + 1, int(j)) for p, row in enumerate(following) for j in row if j >= 0}
    return [
        (p, i)
        for p, row in enumerate(following)
        for i, j in enumerate(row)
        if j >= 0 and (p, i) not in reached
    ]


def _path(start: Place, following: np.ndarray) -> list[Place]:
    path = [start]
    while following[path[-1]] >= 0:
        step, box = path[-1]
        path.append((step + 1, int(following[step, box])))
    return path


def _alike(boxes: np.ndarray, first: Sequence[Place], second: Sequence[Place]) -> bool:
    """Whether two trajectories show the same thing: they meet, or lie over one another in the steps
    that they share.
    """
    if set(first) & set(second):
        return True
    other = dict(second)
    shared = [_iou(boxes[p, k], boxes[p, other[p]]) for p, k in first if p in other]
    return bool(shared) and float(np.mean(shared)) > _SAME


def _fills(boxes: np.ndarray, places: Sequence[Place]) -> bool:
    """Whether boxes hold most of the frame."""
    sides = [(boxes[place][2:] - boxes[place][:2]).prod() for place in places]
    return float(np.mean(sides)) > _MOST_OF_A_FRAME


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(sides.clip(min=0).prod())
    union = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0


def _squeezed(box: np.ndarray, left: float, share: float) -> np.ndarray:
    """A box in a picture that begins at `left` of a wider one and has `share` of its width;
    fractions, of that one.
    """
    return np.array([left + box[0] * share, box[1], left + box[2] * share, box[3]])


def _centre(box: np.ndarray) -> tuple[float, float]:
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
