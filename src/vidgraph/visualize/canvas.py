"""A frame to draw on with matplotlib: boxes, arrows, discs and names.

Positions are fractions of the frame; line widths scale with its shorter side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

Point = tuple[float, float]
_RIM = (0, 0, 0, 0.75)


class Legend(NamedTuple):
    """What the colours of a drawing mean: boxes of one colour each, or a scale of colours."""

    title: str
    entries: Sequence[tuple[str, str]] = ()  # colour, meaning
    colours: Sequence[str] = ()  # of the scale, from its low to its high end
    low: str = ""
    high: str = ""


class Canvas:
    """A frame, uint8 [H, W, 3], resized to a shorter side of `side` pixels and dimmed, to draw on.

    `boldness` is a factor on line widths, for drawings that are shown small.
    """

    def __init__(self, frame: np.ndarray, side: int, dim: float, boldness: float = 1.0) -> None:
        self.picture = (enlarge(frame, side) * dim).astype(np.uint8)
        self.height, self.width = self.picture.shape[:2]
        self.unit = boldness * min(self.height, self.width) / 512
        self.axes = pixel_axes(self.width, self.height, "none")

    def pixels(self) -> np.ndarray:
        """The drawing, uint8 [h, w, 3]."""
        drawn, picture = Image.fromarray(rendered(self.axes)), Image.fromarray(self.picture)
        picture.paste(drawn, mask=drawn)
        return np.asarray(picture)

    def box(
        self, box: np.ndarray, colour: str, width: float = 3.0, alpha: float = 1.0, inset: float = 0
    ) -> None:
        """The outline of a box in xyxy; `inset` keeps outlines of different sizes side by side."""
        x0, y0, x1, y1 = np.clip(box, 0, 1) * np.tile((self.width, self.height), 2)
        gap = min(inset, (x1 - x0) / 3, (y1 - y0) / 3) + width * self.unit / 2
        size = max(0, x1 - x0 - 2 * gap), max(0, y1 - y0 - 2 * gap)
        style = {"edgecolor": colour, "alpha": alpha, "linewidth": max(1, width * self.unit)}
        self.axes.add_artist(Rectangle((x0 + gap, y0 + gap), *size, fill=False, **style))

    def arrow(
        self, source: Point, target: Point, strength: float, colour: str, bow: float = 0.16
    ) -> None:
        """An arrow, the wider the higher its `strength` from 0 to 1; bowed, so that two that run
        against each other stay apart, with a dark rim that keeps it visible on bright pixels."""
        width = (1.6 + 5.4 * strength) * self.unit
        rim = withStroke(linewidth=width + 3.2 * self.unit, foreground=_RIM)
        arrow = FancyArrowPatch(
            self._at(source),
            self._at(target),
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={bow}",
            mutation_scale=(19 + 17 * strength) * self.unit,
            shrinkA=0,
            shrinkB=8 * self.unit,
            color=colour,
            joinstyle="miter",
            linewidth=width,
            path_effects=[rim],
        )
        self.axes.add_artist(arrow)

    def trail(self, points: Sequence[Point], colour: str) -> None:
        """A line from point to point, such as the way that a box has come."""
        across, down = zip(*map(self._at, points), strict=True)
        rim, width = withStroke(linewidth=5 * self.unit, foreground=_RIM), 2.4 * self.unit
        self.axes.plot(across, down, color=colour, linewidth=width, path_effects=[rim])
        self.axes.plot(across, down, "o", color=colour, markersize=6 * self.unit)

    def disc(self, middle: Point, colour: str, weight: float) -> None:
        """A node; `weight` from 0 to 1 sets its size."""
        radius, rim = (4.9 + 5.5 * weight) * self.unit, 1.8 * self.unit
        style = {"facecolor": colour, "edgecolor": "black", "linewidth": rim, "zorder": 3}
        self.axes.add_artist(Circle(self._at(middle), radius, **style))

    def label(self, box: np.ndarray, text: str) -> None:
        """A name in the middle of a box, as large as fits."""
        size = min(22 * self.unit, 1.4 * (box[2] - box[0]) * self.width / len(text))
        rim = withStroke(linewidth=4 * self.unit, foreground="black")
        style: Any = {"ha": "center", "va": "center", "color": "white", "path_effects": [rim]}
        self.axes.text(*self._at(centre(box)), text, size=size, **style)

    def _at(self, point: Point) -> Point:
        return point[0] * self.width, point[1] * self.height


def pixel_axes(width: int, height: int, background: str) -> Axes:
    """Axes that fill a figure of that size; their units are pixels from the upper left corner."""
    inches = (width + 0.01) / 72, (height + 0.01) / 72  # not a pixel less by rounding
    figure = Figure(figsize=inches, dpi=72, facecolor=background)  # a point is a pixel
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return axes


def rendered(axes: Axes) -> np.ndarray:
    """The figure of the axes as pixels, uint8 [h, w, 4] with opacity."""
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def enlarge(frame: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to a shorter side of `side`, both sides even for H.264."""
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    size = (2 * max(1, round(width * scale / 2)), 2 * max(1, round(height * scale / 2)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def scale_colours(low: float, high: float, count: int = 9) -> list[str]:
    """That part of the colour map in which attention is drawn."""
    return [to_hex(colour) for colour in colormaps["plasma"](np.linspace(low, high, count))]


def centre(box: np.ndarray) -> Point:
    """The middle of a box in xyxy."""
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2


def evenly(total: int, count: int) -> list[int]:
    """Up to `count` of 0 ... total - 1, first and last included."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total)).tolist()})
