"""Where a model is better than another: their scores over the classes that have something in
common.

    class,Seq,PoseVar,Obj
    c000,1,0.74796,1
    c097,0,0.73142,0

Such a table says something of every class: whether it is mostly part of a sequence, how much poses
vary in it, whether an object is involved. It is the error analysis of figure 5 of Videos as
Space-Time Region Graphs, after Sigurdsson et al. 2017.

Shapes: n clips, K classes, R resamples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidgraph.errors import DataError, nearest
from vidgraph.evaluation.metrics import Scores, class_rankings, resamples

MOST_VALUES = (
    6  # a number with more different values is cut into three groups of about as many classes
)
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
        """Plain values for `eval --json`, rounded to a thousandth of a point."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


@dataclass(frozen=True)
class AttributeTable:
    """What a file says of classes: its attributes, and each row with its line."""

    source: Path
    attributes: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_attributes(path: str | Path, wanted: Sequence[str] | None = None) -> AttributeTable:
    """Reads a table of attributes.

    Args:
        path: CSV file with a column `class`; every other column is an attribute.
        wanted: attributes to take, in this order; None for all.

    Raises:
        DataError: no such file, one of another form, or without one of the attributes.
    """
    header, rows = _read(Path(path))
    attributes = [name for name in header if name != "class"]
    for name in wanted or ():
        if name not in attributes:
            raise DataError(f"{path}: no attribute {name!r}{nearest(name, attributes)}")
    return AttributeTable(Path(path), tuple(wanted or attributes), tuple(rows))


def group_classes(table: AttributeTable, class_names: Sequence[str]) -> list[Group]:
    """The groups of classes, those of one attribute one after another.

    A class is called by its name, or by the first word of it, where names are `c008 Opening a
    door`. 0 and 1 are read as no and yes. Numbers with many values become three groups; other
    values are groups as they are. An empty cell leaves the class out.

    Args:
        table: of attributes.
        class_names: of the scores, K.

    Raises:
        DataError: an unknown class, or one that is listed twice.
    """
    places = _places(class_names)
    found: dict[int, dict[str, str]] = {}
    for line, row in table.rows:
        if row["class"] not in places:
            hint = hint if "did you mean" in (hint := nearest(row["class"], places)) else ""
            what = (
                f"class {row['class']!r} is not among the {len(class_names)} that were scored{hint}"
            )
            raise DataError(f"{table.source}, line {line}: {what}")
        if found.setdefault(places[row["class"]], row) is not row:
            raise DataError(f"{table.source}, line {line}: class {row['class']!r} is listed twice")
    groups = []
    for name in table.attributes:
        values = {place: row[name] for place, row in found.items() if row[name]}
        for value, classes in _grouped(values).items():
            mask = np.zeros(len(class_names), dtype=bool)
            mask[classes] = True
            groups.append(Group(name, value, mask))
    return groups


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns, and each row with its line."""
    try:
        reader = csv.reader(
            io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True
        )
        lines = [
            (reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    header = lines[0][1] if lines else []
    if "class" not in header or len(header) < 2 or len(set(header)) < len(header):
        raise DataError(
            f"{path}: its first line must name a column class and at least one attribute, each once"
        )
    if short := next((line for line, cells in lines if len(cells) != len(header)), None):
        raise DataError(
            f"{path}, line {short}: has not as many columns as the first line, {len(header)}"
        )
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def _places(class_names: Sequence[str]) -> dict[str, int]:
    """The index of each class by its name and, where it is one class's alone, by its first word."""
    first = [name.split(" ")[0] for name in class_names]
    codes = {word: i for i, word in enumerate(first) if first.count(word) == 1}
    return codes | {name: i for i, name in enumerate(class_names)}


def _grouped(values: dict[int, str]) -> dict[str, list[int]]:
    """Classes by the value of an attribute, values in rising order."""
    distinct = sorted(set(values.values()))
    try:
        numbers = {text: float(text) for text in distinct}
    except ValueError:
        return {
            text: [place for place, value in values.items() if value == text] for text in distinct
        }
    if set(numbers.values()) <= {0.0, 1.0}:
        return {
            word: chosen
            for k, word in enumerate(("no", "yes"))
            if (chosen := [p for p, v in values.items() if numbers[v] == k])
        }
    if len(distinct) <= MOST_VALUES:
        return {
            text: [p for p, v in values.items() if v == text]
            for text in sorted(distinct, key=lambda text: numbers[text])
        }
    edges = np.quantile([numbers[value] for value in values.values()], [1 / 3, 2 / 3])
    groups = []
    for third in range(3):
        members = [
            place for place, value in values.items() if int((numbers[value] > edges).sum()) == third
        ]
        groups.append((members, [numbers[values[place]] for place in members]))
    return {f"{min(own):.4g} to {max(own):.4g}": members for members, own in groups if members}


def score_groups(
    groups: Sequence[Group], models: Sequence[Scores], num_resamples: int = 400, seed: int = 0
) -> list[GroupScore]:
    """What one or two models score on all classes, and on each group.

    Args:
        groups: of classes; those without a clip are left out.
        models: scores of the same clips.
        num_resamples: of the bootstrap (R).
        seed: of the bootstrap.

    Raises:
        DataError: the models were scored on other clips, or on other classes.
    """
    _check_same(models)
    labels = models[0].labels
    hot = (
        labels > 0.5 if labels.ndim == 2 else np.eye(len(models[0].class_names), dtype=bool)[labels]
    )  # [n, K]
    everything = Group(EVERYTHING, "", np.ones(hot.shape[1], dtype=bool))
    present = hot.any(0)
    kept = [group for group in (everything, *groups) if (group.classes & present).any()]
    masks = np.stack([group.classes & present for group in kept])  # [G, K]
    alone = np.ones((1, len(hot)), dtype=np.float32)
    scorers = [_scorer(model, masks) for model in models]
    measured = np.stack([scorer(alone)[0] for scorer in scorers])  # [models, G]
    drawn = np.stack(
        [
            np.concatenate(parts)
            for parts in zip(
                *([s(c) for s in scorers] for c in resamples(len(hot), num_resamples, seed)),
                strict=True,
            )
        ]
    )  # [models, R, G]
    rows = []
    for g, (group, mask) in enumerate(zip(kept, masks, strict=True)):
        paired = len(models) == 2
        rows.append(
            GroupScore(
                attribute=group.attribute,
                value=group.value,
                num_classes=int(mask.sum()),
                num_clips=int(hot[:, mask].any(1).sum()),
                scores=tuple(float(score) for score in measured[:, g]),
                ci95=tuple(_interval(values) for values in drawn[:, :, g]),
                difference=float(measured[0, g] - measured[1, g]) if paired else None,
                difference_ci95=_interval(drawn[0, :, g] - drawn[1, :, g]) if paired else None,
            )
        )
    return rows


def _check_same(models: Sequence[Scores]) -> None:
    first = models[0]
    for other in models[1:]:
        if other.class_names != first.class_names:
            counts = f"{len(first.class_names)} and {len(other.class_names)}"
            raise DataError(
                f"the two were scored on different classes ({counts}), or their classes are in "
                "another order"
            )
        same = other.labels.shape == first.labels.shape and np.array_equal(
            other.labels, first.labels
        )
        if not same or [Path(name).stem for name in other.names] != [
            Path(name).stem for name in first.names
        ]:
            raise DataError(
                f"the two were scored on different clips ({first.n:,} and {other.n:,}), or the "
                "clips are in another order"
            )


def _scorer(model: Scores, masks: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each clip counts, [R, n], to the score of each group in percent,
    [R, G].
    """
    scale = 100 * model.kept
    if model.labels.ndim == 2:
        rankings = class_rankings(model.probabilities, model.labels)
        used = masks.any(0)

        def mean_precision(counts: np.ndarray) -> np.ndarray:
            ap = np.full((len(counts), masks.shape[1]), np.nan)
            for k in np.flatnonzero(used):
                ap[:, k] = rankings[k].precision(counts)
            weights = masks.T * ~np.isnan(ap)[:, :, None]  # [R, K, G]
            return scale * _ratio(
                np.einsum("rk,rkg->rg", np.nan_to_num(ap), weights), weights.sum(1)
            )

        return mean_precision
    members = masks[:, model.labels].T.astype(np.float64)  # [n, G]
    hits = members * model.correct[:, None]
    return lambda counts: scale * _ratio(counts @ hits, counts @ members)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(
        part, whole, out=np.full(np.shape(part), np.nan, dtype=np.float64), where=whole > 0
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def to_text(rows: Sequence[GroupScore], names: Sequence[str]) -> str:
    """A table for people; `names` are those of the models."""
    head = [
        "attribute",
        "value",
        "classes",
        "clips",
        *names,
        *(["difference", "95 % interval"] if len(names) == 2 else []),
    ]
    lines = [head]
    for row in rows:
        cells = [
            row.attribute,
            row.value,
            str(row.num_classes),
            f"{row.num_clips:,}",
            *(f"{score:.2f}" for score in row.scores),
        ]
        if row.difference is not None and row.difference_ci95 is not None:
            cells += [
                f"{row.difference:+.2f}",
                f"{row.difference_ci95[0]:+.2f} to {row.difference_ci95[1]:+.2f}",
            ]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
