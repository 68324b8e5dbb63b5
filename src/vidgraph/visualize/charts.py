"""Charts as PNG files: learning curves, scores, confusion; without the global state of pyplot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

# Distinct to colour-blind eyes.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_INK, _FAINT, _GRID = "#222222", "#8a8a8a", "#e6e6e6"


class Curve(NamedTuple):
    """One line of `learning_curves`."""

    name: str  # of the model
    clips: Sequence[float]  # training clips seen so far, rising
    accuracy: Sequence[float]  # in percent, one per entry of `clips`


class ScoreLine(NamedTuple):
    """One score of `score_chart` and of the table below it."""

    name: str  # of the model
    accuracy: float  # in percent
    ci95: tuple[float, float]  # its 95 % interval
    n: int  # clips scored


def learning_curves(curves: Sequence[Curve], chance: float) -> bytes:
    """Accuracy against training clips, each line named at its end, chance dashed."""
    figure, axes = new_figure(7.6, 3.9)
    longest = max(max(curve.clips) for curve in curves)
    heights = _spread([float(curve.accuracy[-1]) for curve in curves], gap=6.0)
    for curve, height, colour in zip(curves, heights, cycle(LINE_COLOURS), strict=False):
        axes.plot(curve.clips, curve.accuracy, color=colour, linewidth=2, marker="o", markersize=3)
        label = f"{curve.name}  {curve.accuracy[-1]:.1f} %"
        axes.text(longest * 1.02, height, label, va="center", **_bold(colour))
    axes.axhline(chance, color=_FAINT, linestyle="--", linewidth=1.2)
    across, text = axes.get_yaxis_transform(), f"chance {chance:.3g} %"
    axes.text(0.005, chance + 1.2, text, transform=across, va="bottom", color=_INK, fontsize=9)
    axes.set(xlim=(0, longest), ylim=(0, 100), xlabel="training clips", ylabel="accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    return to_png(figure)


def score_chart(scores: Sequence[ScoreLine], chance: float) -> bytes:
    """One dot per model with its 95 % interval, on a line from 0 to 100 %, chance dashed."""
    figure, axes = new_figure(7.6, 1.2 + 0.48 * len(scores))
    for row, (score, colour) in enumerate(zip(scores, cycle(LINE_COLOURS), strict=False)):
        low, high = score.ci95
        axes.hlines(row, low, high, color=colour, linewidth=3, alpha=0.55)
        axes.plot([score.accuracy], [row], "o", color=colour, markersize=7)
        middle, text = np.clip(score.accuracy, 5, 95), f"{score.accuracy:.1f} %"
        axes.text(middle, row - 0.16, text, va="bottom", ha="center", **_bold(colour))
    axes.axvline(chance, color=_FAINT, linestyle="--", linewidth=1.2)
    upwards, text = axes.get_xaxis_transform(), f"chance {chance:.3g} %"
    axes.text(chance + 0.8, 0.99, text, transform=upwards, va="top", color=_INK, fontsize=9)
    axes.set_yticks(range(len(scores)), [score.name for score in scores])
    axes.set(xlim=(0, 100), ylim=(len(scores) - 0.5, -0.95), xlabel="accuracy, %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    return to_png(figure)


def confusion_chart(confusion: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Share of each true class (row) taken for each class (column), from counts [K, K]; numbers up
    to 12 classes."""
    num_classes, totals = len(class_names), confusion.sum(1, keepdims=True)
    shares = 100.0 * confusion / np.where(totals > 0, totals, np.nan)
    side = min(9.5, 2.6 + 0.42 * num_classes)
    figure, axes = new_figure(side + 0.9, side, layout="compressed")  # keeps labels beside a square
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    size = 9.5 if num_classes <= 16 else max(4.5, 200 / num_classes)
    turned = 0 if max(map(len, class_names)) <= 5 and num_classes <= 16 else 90
    axes.set_xticks(range(num_classes), class_names, rotation=turned, fontsize=size)
    axes.set_yticks(range(num_classes), class_names, fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(confusion) if num_classes <= 12 else ():
        share = shares[row, column]
        ink, text = "white" if share > 55 else _INK, f"{share:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, fraction=0.04, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("% of the true class", color=_INK)
    return to_png(figure)


def new_figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> tuple[Figure, Axes]:
    """An empty chart in the style of all others; sizes in inches."""
    figure = Figure(figsize=(width, height), layout=layout)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK)
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": ""})
    return buffer.getvalue()


def _bold(colour: str) -> dict[str, Any]:
    return {"color": colour, "fontweight": "bold", "fontsize": 9.5}


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """The same values moved apart, so that labels at these heights do not overlap."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    moved = list(values)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    excess = max(0.0, max(moved) - 100)
    return [height - excess for height in moved]
