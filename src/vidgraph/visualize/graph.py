"""The graph of a model drawn over video frames: node boxes, and the strongest edges by attention.

Shapes: T frames, H W pixels, N nodes, S stages.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from vidgraph.records import Explanation
from vidgraph.visualize.canvas import Canvas, Legend, Point, centre, scale_colours

# Light, and distinct to colour-blind eyes.
NODE_COLOURS = ("#56b4e9", "#5ed6a0", "#f0a0cd", "#f0e442")
_SCALE = (0.30, 0.98)  # the part of the colour map that edges take
_LEAST_SCALE = 0.1  # of preference; smaller ones stay thin and dark
_MIN_GAP = 0.075  # between two node discs, as a fraction of the shorter side
_SHIFT = 0.105  # how far a disc moves away from another at the same position


class Edge(NamedTuple):
    """One edge of the graph, averaged over frames."""

    stage: int  # space stage, from 0
    source: str  # name of the node that sends
    destination: str  # name of the node that receives
    mean: float  # share of the receiver's attention to its neighbours, averaged over frames
    highest: float  # the largest share
    frame: int  # sampled frame of that share, from 0
    even_share: float  # what each neighbour would get if all got the same


class GraphPictures:
    """Draws the graph of a clip, of a model whose graph is fixed.

    A receiver's shares of attention among its true neighbours sum to 1. What is drawn is
    preference: share less an even share. Plain attention would call edges strong only because their
    receiver has few neighbours to choose from: a corner of RSTG's grid has 4, its coarsest node 13.
    """

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation
        linked = explanation.adjacency.bool().cpu().numpy()  # [N, N]
        # Raw products count by their magnitude.
        weights = np.abs(explanation.attention.detach().float().cpu().numpy()) * linked
        totals = weights.sum(-1, keepdims=True)
        # Of source j in destination i at [i, j], [S, T, N, N]; S = 0 if the model sends nothing.
        self.shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
        self.num_stages = len(self.shares)
        self._even = 1 / linked.sum(1).clip(min=1)  # [N]
        self.preferences = np.where(linked, self.shares - self._even[:, None], 0)
        # What is drawn widest and brightest, one for all stages and frames.
        self.scale = max(_LEAST_SCALE, float(self.preferences.max(initial=0)))
        self._boxes = explanation.node_boxes_xyxy.double().cpu().numpy()  # [T, N, 4]

    @cached_property
    def groups(self) -> list[int]:
        """Of each node, by the size of its box in the first frame, smallest first; one group if
        there are too many different sizes to tell them by colour."""
        areas = np.prod(self._boxes[0, :, 2:] - self._boxes[0, :, :2], axis=-1).round(4)
        sizes, groups = np.unique(areas, return_inverse=True)
        return [0] * len(areas) if len(sizes) > len(NODE_COLOURS) else groups.tolist()

    def strongest_edges(self, stage: int, count: int = 5) -> list[Edge]:
        """The `count` edges that receivers prefer most over an even share, over all frames."""
        names, preference = self.explanation.names, self.preferences[stage].mean(0)
        pairs, edges = self.explanation.adjacency.nonzero().tolist(), []
        for i, j in sorted(pairs, key=lambda pair: -preference[*pair])[:count]:
            share = self.shares[stage, :, i, j]  # [T]
            figures = float(share.mean()), float(share.max()), int(share.argmax())
            edges.append(Edge(stage, names[j], names[i], *figures, float(self._even[i])))
        return edges

    def over_frame(
        self,
        frame: np.ndarray,
        t: int,
        *,
        stage: int = -1,
        num_edges: int = 8,
        side: int = 512,
        boldness: float = 1.0,
    ) -> np.ndarray:
        """Node boxes and the strongest edges, at most `num_edges`, of a frame and a space stage.

        An arrow runs from the sender to the receiver; the wider and brighter it is, the more the
        receiver prefers it over an even share of its attention. The disc of a node grows with the
        attention that others pay to it.
        """
        canvas = Canvas(frame, side, dim=0.7, boldness=boldness)
        boxes, largest = self._boxes[t], max(self.groups)
        for node in sorted(range(len(boxes)), key=lambda n: -self.groups[n]):
            colour, inset = NODE_COLOURS[self.groups[node]], 2.0 * (1 + largest - self.groups[node])
            canvas.box(boxes[node], colour, width=1.6, alpha=0.75, inset=inset * side / 512)
        centres = _disc_centres(boxes, self.groups, canvas.width / canvas.height)
        heard = np.zeros(len(boxes))
        if self.num_stages:
            strengths = self.preferences[stage, t] / self.scale  # [N, N]
            order = np.argsort(-strengths, axis=None, kind="stable")[:num_edges]
            for i, j in reversed([divmod(int(flat), len(boxes)) for flat in order]):
                if strengths[i, j] > 0.1:  # the strongest is drawn last, on top
                    colour = attention_colour(strengths[i, j])
                    canvas.arrow(centres[j], centres[i], float(strengths[i, j]), colour)
            heard = self.shares[stage, t].sum(0)
        for node, position in enumerate(centres):
            weight = heard[node] / heard.max() if heard.max() > 0 else 0.0
            canvas.disc(position, NODE_COLOURS[self.groups[node]], float(weight))
        return canvas.pixels()

    def node_key(self, frame: np.ndarray, *, side: int = 320) -> list[np.ndarray]:
        """Which node is where: a picture per group of equal boxes with names, uint8 [h, w, 3]."""
        pictures = []
        for group in sorted(set(self.groups)):
            canvas = Canvas(frame, side, dim=0.4)
            for node in (n for n, g in enumerate(self.groups) if g == group):
                canvas.box(self._boxes[0, node], NODE_COLOURS[group], width=1.6, inset=2.0)
                canvas.label(self._boxes[0, node], self.explanation.names[node])
            pictures.append(canvas.pixels())
        return pictures

    def node_colours(self) -> list[tuple[str, str]]:
        """The colour of each group, and its first and last node."""
        members: dict[int, list[str]] = {}
        for name, group in zip(self.explanation.names, self.groups, strict=True):
            members.setdefault(group, []).append(name)
        texts = {g: n[0] if len(n) == 1 else f"{n[0]} to {n[-1]}" for g, n in members.items()}
        return [(NODE_COLOURS[group], texts[group]) for group in sorted(texts)]

    def legend(self) -> Legend | None:
        """The scale of the edges; None for a model that sends nothing."""
        if not self.num_stages:
            return None
        title = f"stage {self.num_stages} of {self.num_stages}: attention"
        return Legend(title, (), scale_colours(*_SCALE), "an even share", f"+{self.scale:.2f}")


def attention_colour(strength: float) -> str:
    """Colour of an edge: 0 weakest, 1 strongest of the clip."""
    return to_hex(colormaps["plasma"](np.interp(strength, (0, 1), _SCALE)))


def _disc_centres(boxes: np.ndarray, groups: list[int], aspect: float) -> list[Point]:
    """Each node's disc: the centre of its box, or beside it where a smaller node is."""
    width, height = max(aspect, 1.0), max(1 / aspect, 1.0)  # in units of the shorter side
    angles, taken = np.arange(-1.309, 4.9, math.pi / 6), dict[int, Point]()
    shifts = [(0.0, 0.0), *((_SHIFT * math.cos(a), _SHIFT * math.sin(a)) for a in angles)]
    for node in sorted(range(len(boxes)), key=lambda n: groups[n]):
        x, y = centre(boxes[node])
        options = [(x * width + right, y * height + down) for right, down in shifts]
        free = (p for p in options if all(math.dist(p, q) >= _MIN_GAP for q in taken.values()))
        taken[node] = next(free, options[0])
    return [(taken[n][0] / width, taken[n][1] / height) for n in range(len(boxes))]
