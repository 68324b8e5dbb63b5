"""Shows where one model is better than another: their scores over the classes that have something
in common, with intervals from a bootstrap over clips that draws the same ones for both.

    vidgraph eval runs/graph --scores graph.npz
    vidgraph eval runs/plain --scores plain.npz
    python tools/by_attribute.py graph.npz plain.npz --by attributes.csv --chart errors.png

A table of attributes says something of every class: whether it is mostly part of a sequence, how
much poses vary in it, whether an object is involved:

    class,Seq,PoseVar,Obj
    c000,1,0.74796,1
    c097,0,0.73142,0

It is the error analysis of figure 5 of Videos as Space-Time Region Graphs, after Sigurdsson et al.
2017.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tool import Parser, exit_codes
from vidgraph.errors import DataError, RecipeError, nearest
from vidgraph.evaluation.metrics import Scores, load_scores, resamples
from vidgraph.util import atomic_write, check_target
from vidgraph.visualize.charts import LINE_COLOURS, to_png

# A number with more different values is cut into three groups of about as many classes.
MOST_VALUES = 6
EVERYTHING = "all"


@dataclass(frozen=True)
class Group:
    """The classes that have one value of an attribute, bool [K]."""

    attribute: str
    value: str
    classes: np.ndarray


@dataclass(frozen=True)
class GroupScore:
    """What one or two models score on a group: mAP over its classes, or the accuracy of the clips
    of its classes, in percent.

    Attributes:
        attribute: of the group.
        value: of the attribute.
        num_classes: of the group that occur.
        num_clips: clips of these classes.
        scores: of each model.
        ci95: the 95 % interval of each score, by a bootstrap over clips.
        difference: the first model's score less the second's, in points; None for one model.
        difference_ci95: its 95 % interval, from the same resamples for both models; None for one
            model.
    """

    attribute: str
    value: str
    num_classes: int
    num_clips: int
    scores: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...]
    difference: float | None
    difference_ci95: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded to a thousandth of a point."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def read_attributes(path: Path, wanted: Sequence[str] | None = None) -> pd.DataFrame:
    """Reads a table of attributes, as text; its index is the class.

    Args:
        path: CSV file with a column `class`; every other column is an attribute.
        wanted: attributes to take, in this order; None for all.

    Raises:
        DataError: no such file, one of another form, or without one of the attributes.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({str(error).strip()})") from error
    if "class" not in table or len(table.columns) < 2:
        raise DataError(f"{path}: needs a column class and at least one of an attribute")
    table = table.set_index("class")
    for name in wanted or ():
        if name not in table:
            raise DataError(f"{path}: no attribute {name!r}{nearest(name, table.columns)}")
    return table[list(wanted or table.columns)]


def group_classes(table: pd.DataFrame, class_names: Sequence[str]) -> list[Group]:
    """The groups of classes, those of one attribute one after another.

    A class is called by its name, or by the first word of it, where names are `c008 Opening a
    door`. 0 and 1 are read as no and yes. Numbers with many values become three groups; other
    values are groups as they are. An empty cell leaves the class out.

    Args:
        table: of attributes, from `read_attributes`.
        class_names: of the scores, K.

    Raises:
        DataError: an unknown class, or one that is listed twice.
    """
    words = [name.split(" ")[0] for name in class_names]
    index = {word: k for k, word in enumerate(words) if words.count(word) == 1}
    index |= {name: k for k, name in enumerate(class_names)}
    for name in table.index:
        if name not in index:
            hint = hint if "did you mean" in (hint := nearest(name, index)) else ""
            scored = f"the {len(class_names)} that were scored"
            raise DataError(f"class {name!r} of the attributes is not among {scored}{hint}")
    table = table.set_axis([index[name] for name in table.index])
    if table.index.has_duplicates:
        twice = class_names[table.index[table.index.duplicated()][0]]
        raise DataError(f"class {twice!r} is listed twice among the attributes")
    groups = []
    for attribute, values in table.items():
        for value, classes in _grouped(values[values != ""]).items():
            mask = np.zeros(len(class_names), dtype=bool)
            mask[classes] = True
            groups.append(Group(str(attribute), value, mask))
    return groups


def _grouped(values: pd.Series[str]) -> dict[str, list[int]]:
    """Classes by the value of an attribute, values in rising order."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        labels, rank = values, values
    elif set(numbers) <= {0, 1}:
        labels, rank = numbers.map({0: "no", 1: "yes"}), numbers
    elif values.nunique() <= MOST_VALUES:
        labels, rank = values, numbers
    else:
        edges = np.quantile(numbers, [1 / 3, 2 / 3])
        rank = pd.Series(np.searchsorted(edges, numbers), values.index)
        own = numbers.groupby(rank)
        low, high = own.transform("min"), own.transform("max")
        labels = low.map("{:.4g}".format) + " to " + high.map("{:.4g}".format)
    order = labels[rank.sort_values(kind="stable").index].unique()
    return {str(label): labels.index[labels == label].tolist() for label in order}


def score_groups(
    groups: Sequence[Group], models: Sequence[Scores], num_resamples: int = 400, seed: int = 0
) -> list[GroupScore]:
    """What one or two models score on all classes, and on each group.

    Shapes: n clips, K classes, G groups, R resamples.

    Args:
        groups: of classes; those without a clip are left out.
        models: scores of the same clips.
        num_resamples: of the bootstrap (R).
        seed: of the bootstrap.

    Raises:
        DataError: the models were scored on other clips, or on other classes.
    """
    _check_same(models)
    labels, num_classes = models[0].labels, len(models[0].class_names)
    hot = labels > 0.5 if labels.ndim == 2 else np.eye(num_classes, dtype=bool)[labels]  # [n, K]
    everything = Group(EVERYTHING, "", np.ones(num_classes, dtype=bool))
    present = hot.any(0)
    kept = [group for group in (everything, *groups) if (group.classes & present).any()]
    masks = np.stack([group.classes & present for group in kept])  # [G, K]
    scorers = [_scorer(model, masks) for model in models]
    once = np.ones((1, len(hot)), dtype=np.float32)
    measured = np.stack([score(once)[0] for score in scorers])  # [models, G]
    draws = list(resamples(len(hot), num_resamples, seed))
    drawn = np.stack([np.concatenate([score(counts) for counts in draws]) for score in scorers])
    ci95 = np.nanpercentile(drawn, [2.5, 97.5], axis=1)  # [2, models, G]
    paired = len(models) == 2
    gap_ci95 = np.nanpercentile(drawn[0] - drawn[-1], [2.5, 97.5], axis=0)  # [2, G]
    return [
        GroupScore(
            attribute=group.attribute,
            value=group.value,
            num_classes=int(mask.sum()),
            num_clips=int(hot[:, mask].any(1).sum()),
            scores=tuple(measured[:, g].tolist()),
            ci95=tuple((float(low), float(high)) for low, high in ci95[:, :, g].T),
            difference=float(measured[0, g] - measured[1, g]) if paired else None,
            difference_ci95=(float(gap_ci95[0, g]), float(gap_ci95[1, g])) if paired else None,
        )
        for g, (group, mask) in enumerate(zip(kept, masks, strict=True))
    ]


def _check_same(models: Sequence[Scores]) -> None:
    first, other = models[0], models[-1]
    if other.class_names != first.class_names:
        counts = f"{len(first.class_names)} and {len(other.class_names)}"
        raise DataError(f"the two were scored on different classes ({counts}), or in another order")
    stems = [[Path(name).stem for name in model.names] for model in (first, other)]
    if stems[0] != stems[1] or not np.array_equal(first.labels, other.labels):
        counts = f"{first.n:,} and {other.n:,}"
        raise DataError(f"the two were scored on different clips ({counts}), or in another order")


def _scorer(model: Scores, masks: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each clip counts, [R, n], to the score of each group in percent,
    [R, G]."""
    scale = 100 * model.kept
    if model.labels.ndim == 1:
        members = masks[:, model.labels].T.astype(np.float64)  # [n, G]
        hits = members * model.correct[:, None]
        return lambda counts: scale * _ratio(counts @ hits, counts @ members)

    def mean_precision(counts: np.ndarray) -> np.ndarray:
        precision = np.full((len(counts), masks.shape[1]), np.nan)  # [R, K]
        for k in np.flatnonzero(masks.any(0)):
            precision[:, k] = model.class_score(int(k), counts)
        there = ~np.isnan(precision)
        sums = np.nan_to_num(precision) @ masks.T
        return scale * _ratio(sums, there.astype(np.float64) @ masks.T)

    return mean_precision


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def to_text(rows: Sequence[GroupScore], names: Sequence[str]) -> str:
    """A table for people; `names` are those of the models."""
    columns: dict[str, list[str]] = {
        "attribute": [row.attribute for row in rows],
        "value": [row.value for row in rows],
        "classes": [str(row.num_classes) for row in rows],
        "clips": [f"{row.num_clips:,}" for row in rows],
    }
    for number, name in enumerate(names):
        columns[name] = [f"{row.scores[number]:.2f}" for row in rows]
    if len(names) == 2:
        intervals = [row.difference_ci95 or (math.nan, math.nan) for row in rows]
        columns["difference"] = [f"{row.difference:+.2f}" for row in rows]
        columns["95 % interval"] = [f"{low:+.2f} to {high:+.2f}" for low, high in intervals]
    return pd.DataFrame(columns).to_string(index=False)


def attribute_chart(rows: Sequence[GroupScore], models: Sequence[str], score: str) -> bytes:
    """A PNG with a panel per attribute, in it a line per model over the attribute's values, with
    95 % intervals; all panels share one scale.

    Args:
        rows: of `score_groups`, at least one of an attribute.
        models: their names.
        score: what is measured, such as "mAP".
    """
    of_attributes = groupby((row for row in rows if row.value), key=lambda row: row.attribute)
    panels = {attribute: list(own) for attribute, own in of_attributes}
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.2 + 2.6 * columns, 0.7 + 2.5 * lines), layout="constrained")
    grid = np.atleast_1d(figure.subplots(lines, columns, sharey=True)).ravel()
    for axes, (attribute, own) in zip(grid, panels.items(), strict=False):
        for number, name in enumerate(models):
            scores = np.array([row.scores[number] for row in own])
            bars = np.abs(np.array([row.ci95[number] for row in own]).T - scores)
            # Beside each other, so that bars can be told.
            at = np.arange(len(own)) + 0.08 * (number - (len(models) - 1) / 2)
            style = {"color": LINE_COLOURS[number], "marker": "o", "markersize": 4}
            axes.errorbar(at, scores, bars, label=name, linewidth=1.8, elinewidth=1.0, **style)
        axes.set_title(attribute, fontsize=10)
        values = [row.value.replace(" to ", "\nto ") for row in own]
        axes.set_xticks(range(len(own)), values, fontsize=8.5)
        axes.set_xlim(-0.5, len(own) - 0.5)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(f"{score}, %")
    handles, labels = grid[0].get_legend_handles_labels()
    style = {"ncols": len(labels), "frameon": False, "fontsize": 9.5}
    figure.legend(handles, labels, loc="outside upper center", **style)
    return to_png(figure)


@exit_codes
def main(words: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("scores", type=Path, metavar="SCORES.npz", help="of vidgraph eval --scores")
    add("against", type=Path, nargs="?", metavar="SCORES.npz", help="of a second model")
    add("--by", type=Path, metavar="FILE.csv", help="attributes of the classes")
    add("--attributes", metavar="NAME,...", help="these attributes only")
    add("--chart", type=Path, metavar="FILE.png", help="draw the scores by attribute")
    add("--json", action="store_true", help="plain values instead of text")
    args = parser.parse_args(words)
    if (args.attributes is not None or args.chart is not None) and args.by is None:
        raise RecipeError("--attributes and --chart need --by FILE.csv")
    files = [path for path in (args.scores, args.against) if path is not None]
    if args.chart is not None:
        check_target(args.chart, [*files, args.by])
    models = [load_scores(path) for path in files]
    groups = []
    if args.by is not None:
        wanted = args.attributes.split(",") if args.attributes else None
        groups = group_classes(read_attributes(args.by, wanted), models[0].class_names)
    rows = score_groups(groups, models)
    stems = [path.stem for path in files]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in files]
    if args.chart is not None:
        if not any(row.value for row in rows):
            raise DataError(f"{args.by}: none of its classes has a clip; there is nothing to draw")
        score = "accuracy" if models[0].map is None else "mAP"
        with atomic_write(args.chart) as temporary:
            temporary.write_bytes(attribute_chart(rows, names, score))
    print(
        json.dumps([row.to_dict() for row in rows], indent=2) if args.json else to_text(rows, names)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
