"""Charts as PNG bytes: curves, scores beside chance or by attribute, confusion. Drawn without
pyplot, so nothing global changes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

LINE_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)  # distinct to colour-blind eyes
_INK, _FAINT = "#222222", "#8a8a8a"


@dataclass(frozen=True)
class Curve:
    """Accuracy against training clips, for one line of `learning_curves`.

    Attributes:
        name: what the line is called.
        clips: training clips seen so far, rising.
        accuracy: in percent, one per entry of `clips`.
    """

    name: str
    clips: Sequence[float]
    accuracy: Sequence[float]


@dataclass(frozen=True)
class ScoreLine:
    """One score of `score_chart` and of the table below it.

    Attributes:
        name: of the model.
        accuracy: in percent.
        ci95: its 95 % interval.
        n: clips scored.
    """

    name: str
    accuracy: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class AttributePanel:
    """One attribute of `attribute_chart`.

    Attributes:
        name: of the attribute.
        values: its values, from left to right.
        scores: of each model, in percent, one per value.
        ci95: of each model, the 95 % interval of each score.
    """

    name: str
    values: Sequence[str]
    scores: Sequence[Sequence[float]]
    ci95: Sequence[Sequence[tuple[float, float]]]


def learning_curves(curves: Sequence[Curve], chance: float | None = None) -> bytes:
    """Accuracy against training clips, each line named at its end, chance dashed."""
    figure, axes = new_figure(7.6, 3.9)
    longest = max((max(curve.clips) for curve in curves if len(curve.clips)), default=1.0)
    ends = [float(curve.accuracy[-1]) for curve in curves if len(curve.clips)]
    heights = iter(_spread(ends, gap=6.0))
    for number, curve in enumerate(curves):
        if not len(curve.clips):
            continue
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        marker = "o" if len(curve.clips) <= 25 else None
        axes.plot(
            curve.clips, curve.accuracy, color=colour, linewidth=2, marker=marker, markersize=3.5
        )
        label = f"{curve.name}  {curve.accuracy[-1]:.1f} %"
        axes.text(
            longest * 1.02,
            next(heights),
            label,
            color=colour,
            va="center",
            fontweight="bold",
            fontsize=9.5,
        )
    if chance is not None:
        _mark_chance(axes, chance, horizontal=True)
    axes.set_xlim(0, longest)
    axes.set_ylim(0, 100)
    axes.set_xlabel("training clips")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    return to_png(figure)


def score_chart(scores: Sequence[ScoreLine], chance: float | None = None) -> bytes:
    """One dot per model with its 95 % interval, on a line from 0 to 100 %, chance dashed."""
    figure, axes = new_figure(7.6, 1.2 + 0.48 * len(scores))
    for number, score in enumerate(scores):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        axes.plot(
            score.ci95,
            [number, number],
            color=colour,
            linewidth=3,
            solid_capstyle="butt",
            alpha=0.55,
        )
        axes.plot([score.accuracy], [number], "o", color=colour, markersize=7)
        place = min(95.0, max(5.0, score.accuracy))
        text = f"{score.accuracy:.1f} %"
        axes.text(
            place,
            number - 0.16,
            text,
            va="bottom",
            ha="center",
            color=colour,
            fontweight="bold",
            fontsize=9.5,
        )
    if chance is not None:
        _mark_chance(axes, chance, horizontal=False)
    axes.set_yticks(range(len(scores)), [score.name for score in scores])
    axes.set_ylim(len(scores) - 0.5, -0.95)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    return to_png(figure)


def confusion_chart(confusion: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Share of each true class (row) that was taken for each class (column); numbers are written in
    up to 12 classes.

    Args:
        confusion: counts, [K, K], truth in rows.
        class_names: K names.
    """
    num_classes = len(class_names)
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(
        100.0 * confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0
    )
    side = min(9.5, 2.6 + 0.42 * num_classes)
    figure, axes = new_figure(side + 0.9, side, layout="compressed")  # keeps labels beside a square
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    size = 9.5 if num_classes <= 16 else max(4.5, 200 / num_classes)
    turned = 0 if max(map(len, class_names)) <= 5 and num_classes <= 16 else 90
    axes.set_xticks(range(num_classes), class_names, rotation=turned, fontsize=size)
    axes.set_yticks(range(num_classes), class_names, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if num_classes <= 12:
        for row, column in np.ndindex(*shares.shape):
            if confusion[row, column]:
                ink = "white" if shares[row, column] > 55 else _INK
                axes.text(
                    column,
                    row,
                    f"{shares[row, column]:.0f}",
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=9.5,
                )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, fraction=0.04, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("% of the true class", color=_INK)
    return to_png(figure)


def attribute_chart(panels: Sequence[AttributePanel], models: Sequence[str], score: str) -> bytes:
    """A panel per attribute, in it a line per model over the attribute's values, with 95 %
    intervals.

    In the manner of figure 5 of Videos as Space-Time Region Graphs; all panels share one scale.

    Args:
        panels: at least one.
        models: their names, in the order of each panel's scores.
        score: what is measured, such as "mAP".
    """
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.2 + 2.6 * columns, 0.7 + 2.5 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        for number, (scores, ci95) in enumerate(zip(panel.scores, panel.ci95, strict=True)):
            places = np.arange(len(scores)) + 0.08 * (
                number - (len(panel.scores) - 1) / 2
            )  # beside each other, so that bars can be told
            low, high = np.array(ci95).T
            bars = np.abs([np.subtract(scores, low), np.subtract(high, scores)])
            axes.errorbar(
                places,
                scores,
                bars,
                color=LINE_COLOURS[number],
                marker="o",
                markersize=4,
                linewidth=1.8,
                elinewidth=1.0,
            )
        axes.set_title(panel.name, fontsize=10, color=_INK)
        axes.set_xticks(
            range(len(panel.values)),
            [value.replace(" to ", "\nto ") for value in panel.values],
            fontsize=8.5,
        )
        axes.set_xlim(-0.5, len(panel.values) - 0.5)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(f"{score}, %")
    handles = [
        Line2D([], [], color=LINE_COLOURS[i], marker="o", label=name)
        for i, name in enumerate(models)
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9.5
    )
    return to_png(figure)


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """The same values moved apart so that labels at these heights do not overlap."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(values)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    excess = max([p - 100 for p in placed] + [0.0])
    return [p - excess for p in placed]


def _mark_chance(axes: Axes, chance: float, horizontal: bool) -> None:
    text = f"chance {chance:.3g} %"
    if horizontal:
        axes.axhline(chance, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.text(
            0.995,
            chance + 1.2,
            text,
            transform=axes.get_yaxis_transform(),
            color="#666666",
            fontsize=9,
            ha="right",
            va="bottom",
        )
    else:
        axes.axvline(chance, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.text(
            chance + 0.8,
            0.99,
            text,
            transform=axes.get_xaxis_transform(),
            color="#666666",
            fontsize=9,
            ha="left",
            va="top",
        )


def new_figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout=layout)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK)
    return figure, axes


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": ""})
    return buffer.getvalue()
