"""The graph of a model drawn over video frames: node boxes, and the strongest edges by attention.

Shapes: T frames, H W pixels, N nodes, S stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidgraph.records import Explanation

NODE_COLOURS = (
    (86, 180, 233),
    (94, 214, 160),
    (240, 160, 205),
    (240, 228, 66),
)  # light, and distinct to colour-blind eyes
_OVERSAMPLE = 2  # drawn larger and shrunk, for smooth lines
_DIM = 0.7  # brightness of the frame under the graph
_MIN_GAP = 0.075  # between two node discs, as a fraction of the shorter side
_LEAST_SCALE = 0.1  # of preference; smaller ones stay thin and dark
_SHIFT = 0.105  # how far a disc moves when another is in its place


@dataclass(frozen=True)
class Edge:
    """One edge of the graph, averaged over frames.

    Attributes:
        stage: space stage, from 0.
        source: name of the node that sends.
        destination: name of the node that receives.
        mean: share of the receiver's attention to its neighbours, averaged over frames.
        highest: the largest share.
        frame: sampled frame of that share, from 0.
        even_share: what each neighbour would get if all got the same.
    """

    stage: int
    source: str
    destination: str
    mean: float
    highest: float
    frame: int
    even_share: float


def num_stages(explanation: Explanation) -> int:
    """Space stages with attention (S); 0 for a model that sends nothing."""
    return int(explanation.attention.shape[0])


def edge_shares(explanation: Explanation) -> np.ndarray:
    """How each receiver divides its attention among its true neighbours; float32 [S, T, N, N],
    source j of destination i at [i, j].

    The shares of a receiver sum to 1, whatever its attention to others; raw products count by
    magnitude.
    """
    linked = explanation.adjacency.bool().cpu().numpy()
    weights = np.abs(explanation.attention.detach().float().cpu().numpy()) * linked
    totals = weights.sum(-1, keepdims=True)
    shares: np.ndarray = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    return shares


def edge_preferences(explanation: Explanation) -> np.ndarray:
    """`edge_shares` less an even share, zero where there is no edge; float32 [S, T, N, N].

    Plain attention would call edges strong only because their receiver has few neighbours to choose
    from: a corner of RSTG's grid has 4, its coarsest node 13.
    """
    linked = explanation.adjacency.bool().cpu().numpy()
    preferences: np.ndarray = np.where(
        linked, edge_shares(explanation) - _even_shares(explanation)[:, None], 0
    ).astype(np.float32)
    return preferences


def preference_scale(explanation: Explanation) -> float:
    """The preference that is drawn widest and brightest, one for all stages and frames; never so
    small that even attention looks strong.
    """
    preferences = edge_preferences(explanation)
    return max(_LEAST_SCALE, float(preferences.max())) if preferences.size else _LEAST_SCALE


def strongest_edges(explanation: Explanation, stage: int, count: int = 5) -> list[Edge]:
    """The `count` edges of a stage that receivers prefer most over an even share, averaged over the
    frames; most preferred first.
    """
    shares, preference = (
        edge_shares(explanation)[stage],
        edge_preferences(explanation)[stage].mean(0),
    )
    even = _even_shares(explanation)
    listed = [(int(i), int(j)) for i, j in explanation.adjacency.nonzero().tolist()]
    listed.sort(key=lambda pair: -preference[pair])
    edges = []
    for destination, source in listed[:count]:
        share = shares[:, destination, source]  # [T]
        names = explanation.names[source], explanation.names[destination]
        edges.append(
            Edge(
                stage,
                *names,
                float(share.mean()),
                float(share.max()),
                int(share.argmax()),
                float(even[destination]),
            )
        )
    return edges


def _even_shares(explanation: Explanation) -> np.ndarray:
    """What each neighbour of a receiver would get if all got the same, [N]."""
    even: np.ndarray = 1 / explanation.adjacency.sum(1).clamp(min=1).double().cpu().numpy()
    return even


def node_groups(explanation: Explanation) -> list[int]:
    """Group of each node by the size of its box in the first frame, smallest first; one group if
    the sizes differ too much.
    """
    boxes = explanation.node_boxes_xyxy[0].double().cpu().numpy()
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).round(4)
    sizes = sorted(set(areas.tolist()))
    if len(sizes) > len(NODE_COLOURS):
        return [0] * len(areas)
    return [sizes.index(area) for area in areas.tolist()]


def draw_graph(
    frame: np.ndarray,
    explanation: Explanation,
    t: int,
    stage: int,
    *,
    num_edges: int = 8,
    side: int = 512,
    boldness: float = 1.0,
) -> np.ndarray:
    """Draws node boxes and the strongest edges of one frame and stage.

    An arrow runs from the sender to the receiver; the wider and brighter it is, the more the
    receiver prefers it over an even share of its attention, on one scale for all frames and stages.
    The disc of a node grows with the attention that others pay to it.

    Args:
        frame: uint8 [H, W, 3], the part of the picture that the model saw.
        explanation: of the clip.
        t: sampled frame, from 0.
        stage: space stage, from 0; negative counts from the last.
        num_edges: how many edges to draw at most.
        side: shorter side of the drawing in pixels; small frames are enlarged.
        boldness: factor on line widths, for drawings that are shown small.

    Returns:
        uint8 [h, w, 3].
    """
    canvas = Canvas(enlarge(frame, side), _DIM, boldness)
    boxes = explanation.node_boxes_xyxy[t].double().cpu().numpy()
    groups = node_groups(explanation)
    for node in sorted(range(len(boxes)), key=lambda n: -groups[n]):
        canvas.box(
            boxes[node], NODE_COLOURS[groups[node]], inset=2.0 + 2.0 * (max(groups) - groups[node])
        )
    places = _places(boxes, groups, canvas.aspect)
    if not num_stages(explanation):
        for node, place in enumerate(places):
            canvas.disc(place, NODE_COLOURS[groups[node]], 0.0)
        return canvas.pixels()
    strengths = edge_preferences(explanation)[stage, t] / preference_scale(explanation)  # [N, N]
    for destination, source in reversed(_top_edges(strengths, num_edges)):  # strongest last, on top
        canvas.arrow(places[source], places[destination], float(strengths[destination, source]))
    heard = edge_shares(explanation)[stage, t].sum(0)  # attention that others pay to each node, [N]
    for node, place in enumerate(places):
        canvas.disc(
            place,
            NODE_COLOURS[groups[node]],
            float(heard[node] / heard.max()) if heard.max() > 0 else 0.0,
        )
    return canvas.pixels()


def draw_node_key(
    frame: np.ndarray, explanation: Explanation, *, side: int = 320
) -> list[np.ndarray]:
    """Which node is where, in the first frame: one picture per group of equal boxes, each box with
    its name. uint8 [h, w, 3] each.
    """
    groups, boxes = node_groups(explanation), explanation.node_boxes_xyxy[0].double().cpu().numpy()
    pictures = []
    for group in sorted(set(groups)):
        canvas = Canvas(enlarge(frame, side), dim=0.4, boldness=1.0)
        for node in (n for n in range(len(groups)) if groups[n] == group):
            canvas.box(boxes[node], NODE_COLOURS[group], inset=2.0)
            canvas.label(boxes[node], explanation.names[node])
        pictures.append(canvas.pixels())
    return pictures


def enlarge(frame: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] so that its shorter side is `side` pixels, both sides even (H.264
    wants that).
    """
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    size = (2 * max(1, round(width * scale / 2)), 2 * max(1, round(height * scale / 2)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def attention_colour(strength: float) -> tuple[int, int, int]:
    """Colour of an edge: 0 weakest, 1 strongest of the clip."""
    red, green, blue, _ = matplotlib.colormaps["plasma"](
        0.30 + 0.68 * min(1.0, max(0.0, strength)), bytes=True
    )
    return int(red), int(green), int(blue)


def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that is there wherever matplotlib is."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


def _top_edges(strengths: np.ndarray, count: int) -> list[tuple[int, int]]:
    """(destination, source) of the largest strengths, largest first; those under a tenth of the
    scale are left out.
    """
    order = np.argsort(-strengths, axis=None, kind="stable")[:count]
    pairs = [divmod(int(flat), strengths.shape[1]) for flat in order]
    return [pair for pair in pairs if strengths[pair] > 0.1]


def _places(
    boxes: np.ndarray, groups: list[int], aspect: tuple[float, float]
) -> list[tuple[float, float]]:
    """Where each node's disc goes: the centre of its box, or beside it where a smaller node already
    is. Fractions of the frame.
    """
    width, height = aspect  # of the frame in units of its shorter side
    places: dict[int, tuple[float, float]] = {}
    for node in sorted(range(len(boxes)), key=lambda n: groups[n]):
        x, y = (
            (boxes[node, 0] + boxes[node, 2]) / 2 * width,
            (boxes[node, 1] + boxes[node, 3]) / 2 * height,
        )
        options = [(x, y)] + [
            (x + _SHIFT * math.cos(a), y + _SHIFT * math.sin(a))
            for a in np.arange(-1.309, 4.9, math.pi / 6)
        ]
        free = [p for p in options if all(math.dist(p, q) >= _MIN_GAP for q in places.values())]
        places[node] = free[0] if free else (x, y)
    return [(places[n][0] / width, places[n][1] / height) for n in range(len(boxes))]


class Canvas:
    """A frame to draw on, in fractions of its size; line widths scale with its shorter side.

    Args:
        frame: uint8 [H, W, 3].
        dim: brightness of the frame under the drawing.
        boldness: factor on line widths.
    """

    def __init__(self, frame: np.ndarray, dim: float, boldness: float) -> None:
        self.height, self.width = frame.shape[:2]
        self.boldness = boldness
        self.unit = boldness * min(self.height, self.width) * _OVERSAMPLE / 512
        image = Image.fromarray((frame * dim).astype(np.uint8))
        self.image = image.resize(
            (self.width * _OVERSAMPLE, self.height * _OVERSAMPLE), Image.Resampling.BILINEAR
        )
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    @property
    def aspect(self) -> tuple[float, float]:
        """Width and height in units of the shorter side."""
        shorter = min(self.width, self.height)
        return self.width / shorter, self.height / shorter

    def pixels(self) -> np.ndarray:
        """The drawing, uint8 [h, w, 3]."""
        return np.asarray(self.image.resize((self.width, self.height), Image.Resampling.LANCZOS))

    def box(
        self,
        box: np.ndarray,
        colour: tuple[int, int, int],
        inset: float,
        width: float = 1.6,
        alpha: int = 190,
    ) -> None:
        """The outline of a node's region, drawn `inset` inside so that outlines of different sizes
        lie side by side.
        """
        x0, y0, x1, y1 = self._corners(box)
        gap = min(inset * self.unit / self.boldness, (x1 - x0) / 3, (y1 - y0) / 3)
        corners = [x0 + gap, y0 + gap, max(x0 + gap, x1 - 1 - gap), max(y0 + gap, y1 - 1 - gap)]
        self.draw.rectangle(
            corners, outline=(*colour, alpha), width=max(2, round(width * self.unit))
        )

    def arrow(
        self,
        source: tuple[float, float],
        destination: tuple[float, float],
        strength: float,
        colour: tuple[int, int, int] | None = None,
        bow: float = 0.16,
    ) -> None:
        """A bowed arrow, so that two that run against each other stay apart; a dark rim keeps it
        visible on bright pixels.

        Args:
            source: where it starts, in fractions of the frame.
            destination: where it ends.
            strength: of the edge, 0 to 1: its width and, without `colour`, its colour.
            colour: of the arrow.
            bow: how far it bends; 0 for a straight one.
        """
        start, end = np.array(self._at(source)), np.array(self._at(destination))
        along = end - start
        length = float(np.hypot(*along))
        across = np.array([-along[1], along[0]])
        width = (1.6 + 5.4 * strength) * self.unit
        head = (9.0 + 8.0 * strength) * self.unit
        control = (start + end) / 2 + bow * across
        s = np.linspace(0, 1, 25)[:, None]
        curve = (1 - s) ** 2 * start + 2 * s * (1 - s) * control + s**2 * end
        tip_distance = np.hypot(*(curve - end).T)
        reach = min(9.0 * self.unit, length / 4)  # stop at the rim of the receiver's disc
        tip = curve[tip_distance >= reach][-1]
        shaft = curve[tip_distance >= min(reach + 0.8 * head, length / 2)]
        heading = (tip - shaft[-1]) / max(1e-6, float(np.hypot(*(tip - shaft[-1]))))
        side = np.array([-heading[1], heading[0]]) * head * 0.52
        wings = [tuple(tip), tuple(shaft[-1] + side), tuple(shaft[-1] - side)]
        path = [tuple(point) for point in shaft]
        rim = 1.6 * self.unit
        colour = colour or attention_colour(strength)
        self.draw.line(path, fill=(0, 0, 0, 190), width=round(width + 2 * rim), joint="curve")
        self.draw.polygon(wings, fill=(0, 0, 0, 190), outline=(0, 0, 0, 190), width=round(2 * rim))
        self.draw.line(path, fill=(*colour, 255), width=max(2, round(width)), joint="curve")
        self.draw.polygon(wings, fill=(*colour, 255))

    def trail(self, places: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        """A line from place to place, such as the way that a box has come."""
        points = [self._at(place) for place in places]
        if len(points) > 1:
            self.draw.line(points, fill=(0, 0, 0, 150), width=round(5 * self.unit), joint="curve")
            self.draw.line(
                points, fill=(*colour, 255), width=max(2, round(2.4 * self.unit)), joint="curve"
            )
        for x, y in points:
            radius = 3 * self.unit
            self.draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(*colour, 255))

    def disc(self, place: tuple[float, float], colour: tuple[int, int, int], weight: float) -> None:
        """A node; `weight` from 0 to 1 sets its size."""
        x, y = self._at(place)
        radius = (4.0 + 5.5 * weight) * self.unit
        for r, fill in ((radius + 1.8 * self.unit, (0, 0, 0, 220)), (radius, (*colour, 255))):
            self.draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def label(self, box: np.ndarray, text: str) -> None:
        """A name in the middle of a box, as large as fits."""
        x0, y0, x1, y1 = self._corners(box)
        size = 22 * self.unit
        while size > 8 * self.unit and font(size).getlength(text) > 0.88 * (x1 - x0):
            size *= 0.92
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        self.draw.text(
            middle,
            text,
            font=font(size),
            fill="white",
            anchor="mm",
            stroke_width=round(2 * self.unit),
            stroke_fill="black",
        )

    def _corners(self, box: np.ndarray) -> np.ndarray:
        corners: np.ndarray = np.clip(box, 0, 1) * np.tile([self.image.width, self.image.height], 2)
        return corners

    def _at(self, place: tuple[float, float]) -> tuple[float, float]:
        return place[0] * self.image.width, place[1] * self.image.height
