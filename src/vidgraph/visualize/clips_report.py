"""The page that `vidgraph train FOLDER` ends with: scores beside plain baselines, a confusion
matrix whose cells open their clips, and what in the data a person should look at.

One file that works offline. What is computed is here; words and layout are in clips_report.html.j2.

Shapes: T frames of a clip, n of its thumbnail, H W pixels, K classes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vidgraph.records import Prediction
from vidgraph.util import duration
from vidgraph.visualize.canvas import Legend, evenly
from vidgraph.visualize.graph import GraphPictures
from vidgraph.visualize.overlay import pictures_of
from vidgraph.visualize.report import write_page
from vidgraph.visualize.thumbnails import Film, FilmMaker, webp_address

_MOST_BYTES = 10_000_000  # of all thumbnails of a page; clips beyond it are listed without one
_MOST_PER_CELL, _MOST_TILES, _MOST_CONFUSIONS = 100, 24, 8
_MOST_MISTAKES, _MOST_OF_A_KIND = 12, 3
_DRAWN_FRAMES = 4


@dataclass(frozen=True)
class HeadRow:
    """One trained head; a line of the table of scores, all in percent.

    Attributes:
        name: such as `mean + linear`.
        kind: whether it reasons over a graph.
        val_accuracy: on validation clips, by which the head was chosen; None where there are none.
        test_accuracy: on the test clips.
        interval: the 95 % interval of that, low and high.
        seconds: what training took.
        num_parameters: of the head.
        is_chosen: whether it is the model; so for one of the rows.
    """

    name: str
    kind: Literal["baseline", "graph"]
    val_accuracy: float | None
    test_accuracy: float
    interval: tuple[float, float]
    seconds: float
    num_parameters: int
    is_chosen: bool = False


@dataclass(frozen=True)
class ScoredClip:
    """A test clip and what the chosen head says of it.

    Attributes:
        video: the file, as the user named it.
        true: index of its class.
        predicted: index of the class that it was taken for.
        confidence: probability of that class.
        thumbnail: uint8 [n, H, W, 3], see `thumbnail`; None to list the clip without a picture.
    """

    video: str
    true: int
    predicted: int
    confidence: float
    thumbnail: np.ndarray | None


@dataclass(frozen=True)
class Suspect:
    """A training clip whose label looks wrong to heads that were not trained on it.

    Attributes:
        video: the file.
        label: index of the class that it was given.
        likely: index of the class that it looks like.
        probability: of that class.
        thumbnail: as of `ScoredClip`.
    """

    video: str
    label: int
    likely: int
    probability: float
    thumbnail: np.ndarray | None


@dataclass(frozen=True)
class NearDuplicates:
    """Two clips of different splits that look the same.

    Attributes:
        videos: the files.
        splits: of each.
        cosine: of the features of the two.
        thumbnails: of each, as of `ScoredClip`.
    """

    videos: tuple[str, str]
    splits: tuple[str, str]
    cosine: float
    thumbnails: tuple[np.ndarray | None, np.ndarray | None]


@dataclass(frozen=True)
class LearningCurve:
    """How the training of one head went; three sequences of equal length.

    Attributes:
        name: of the head.
        epochs: rising, from 1.
        train_loss: mean over the epoch.
        val_accuracy: in percent.
    """

    name: str
    epochs: Sequence[int]
    train_loss: Sequence[float]
    val_accuracy: Sequence[float]


@dataclass(frozen=True)
class DrawnClip:
    """What a head looked at in one test clip; see `drawn_clip`.

    Attributes:
        video: the file.
        true: name of its class.
        predicted: name of the class that it was taken for.
        confidence: probability of that class.
        pictures: frames with what is drawn over them, uint8 [H, W, 3] each, and the source frame of
            each.
        legends: what the colours mean.
        has_arrows: whether nodes send to one another along arrows.
    """

    video: str
    true: str
    predicted: str
    confidence: float
    pictures: Sequence[tuple[np.ndarray, int]]
    legends: Sequence[Legend]
    has_arrows: bool


@dataclass(frozen=True)
class ClipsReport:
    """All that the page says.

    Attributes:
        title: of the page.
        lead: one sentence of what was done.
        scored_on: what the test scores are of, such as `297 test clips of 56 films`.
        clusters: what the intervals are clustered by, such as `film`.
        class_names: K names, which indices point into.
        heads: all that were trained; baselines are shown first, else the order is kept.
        clips: all test clips.
        baseline_recall: of the first baseline per class, in percent, [K].
        suspects: likeliest to be mislabelled first.
        duplicates: most alike first.
        curves: of the heads that were trained in epochs.
        calibration_error: expected calibration error in percentage points before and after the
            temperature; None where it was not measured.
        skipped: files that could not be used, and why.
        drawings: of some test clips; none for a head that has nothing to draw.
        drawn_by: name of the head that they show.
        usage: what to do with the model, and the command that does it.
    """

    title: str
    lead: str
    scored_on: str
    clusters: str
    class_names: Sequence[str]
    heads: Sequence[HeadRow]
    clips: Sequence[ScoredClip]
    baseline_recall: Sequence[float]
    suspects: Sequence[Suspect] = ()
    duplicates: Sequence[NearDuplicates] = ()
    curves: Sequence[LearningCurve] = ()
    calibration_error: tuple[float, float] | None = None
    skipped: Sequence[tuple[str, str]] = ()
    drawings: Sequence[DrawnClip] = ()
    drawn_by: str = "the graph"
    usage: Sequence[tuple[str, str]] = ()


def drawn_clip(prediction: Prediction, frames: np.ndarray, true: str) -> DrawnClip | None:
    """The explanation of a prediction over frames that the model saw, uint8 [T, H, W, 3] at
    `prediction.frame_indices`; None without an explanation.
    """
    pictures = pictures_of(prediction.explanation)
    if pictures is None:
        return None
    legends, how = [pictures.legend()], dict[str, Any]()
    if isinstance(pictures, GraphPictures):
        legends.insert(0, Legend("nodes", pictures.node_colours()))
        how = {"num_edges": 6, "boldness": 1.5}
    shown = evenly(len(frames), _DRAWN_FRAMES)
    [(predicted, confidence)] = prediction.top(1)
    return DrawnClip(
        prediction.video,
        true,
        predicted,
        confidence,
        [
            (pictures.over_frame(frames[t], t, side=300, **how), prediction.frame_indices[t])
            for t in shown
        ],
        [legend for legend in legends if legend is not None],
        isinstance(pictures, GraphPictures) and pictures.num_stages > 0,
    )


def write_clips_report(target: str | Path, report: ClipsReport) -> None:
    """Writes the page, below 12 MB: where clips are too many for that, the right ones that are most
    certain are listed without a thumbnail.

    Raises:
        RunError: `target` cannot be written; an older file there is intact.
    """
    heads = sorted(report.heads, key=lambda head: head.kind != "baseline")
    [chosen] = [head for head in heads if head.is_chosen]
    # What is encoded first has a picture where there is no room for all.
    films = FilmMaker(_MOST_BYTES)
    suspects = [(s, films.add(s.thumbnail)) for s in report.suspects[:_MOST_TILES]]
    duplicates = [
        (pair, [films.add(frames) for frames in pair.thumbnails])
        for pair in report.duplicates[:_MOST_TILES]
    ]
    classes = _classes(report, films)
    cells = [cell for row in classes for cell in row.cells if cell is not None]
    wrong = [cell for cell in cells if not cell.is_right]
    write_page(
        target,
        "clips_report.html.j2",
        title=report.title,
        lead=report.lead,
        report=report,
        names=report.class_names,
        heads=heads,
        chosen=chosen,
        baseline=heads[0] if heads[0].kind == "baseline" and heads[0] is not chosen else None,
        chance=100 / len(report.class_names),
        classes=classes,
        cells=cells,
        confusions=sorted(wrong, key=lambda cell: -cell.num_clips)[:_MOST_CONFUSIONS],
        mistakes=_worst(wrong),
        num_mistakes=sum(cell.num_clips for cell in wrong),
        suspects=suspects,
        duplicates=duplicates,
        curves=_drawn_curves(report.curves),
        last_epoch=max((curve.epochs[-1] for curve in report.curves), default=1),
        duration=duration,
        most_per_cell=_MOST_PER_CELL,
        pieces=re.compile(r"(?<=[/\\_])").split,  # where a path may be broken
        drawings=[
            (drawn, [(webp_address(picture[None]), t) for picture, t in drawn.pictures])
            for drawn in report.drawings
        ],
    )


class _Cell(NamedTuple):
    """A cell of the confusion matrix that is not empty."""

    key: str  # of its element
    true: str
    predicted: str
    of: int  # clips of the true class
    clips: list[tuple[ScoredClip, Film | None]]

    @property
    def num_clips(self) -> int:
        return len(self.clips)

    @property
    def is_right(self) -> bool:
        return self.true == self.predicted

    @property
    def share(self) -> float:
        """Of the clips of the true class, in percent."""
        return 100 * self.num_clips / self.of

    @property
    def title(self) -> str:
        if self.is_right:
            return f"{self.true}, recognised"
        return f"{self.true} taken for {self.predicted}"


class _Class(NamedTuple):
    """A row of the confusion matrix."""

    name: str
    num_clips: int  # its test clips
    recall: float  # in percent
    baseline: float
    cells: list[_Cell | None]


def _classes(report: ClipsReport, films: FilmMaker) -> list[_Class]:
    """The confusion matrix, each cell with its clips: mistakes from the most confident one on,
    right ones from the least, which are nearly mistakes. Films are made in this order."""

    def order(clip: ScoredClip) -> tuple[bool, float]:
        right = clip.true == clip.predicted
        return right, clip.confidence if right else -clip.confidence

    inside = defaultdict[tuple[int, int], list[tuple[ScoredClip, Film | None]]](list)
    for clip in sorted(report.clips, key=order):
        cell = inside[clip.true, clip.predicted]
        cell.append((clip, films.add(clip.thumbnail) if len(cell) < _MOST_PER_CELL else None))
    totals, names, rows = Counter(clip.true for clip in report.clips), report.class_names, []
    for i, true in enumerate(names):
        row = [
            _Cell(f"cell-{i}-{j}", true, predicted, totals[i], inside[i, j])
            if (i, j) in inside
            else None
            for j, predicted in enumerate(names)
        ]
        right = row[i]
        recall = right.share if right else 0.0
        rows.append(_Class(true, totals[i], recall, report.baseline_recall[i], row))
    return rows


def _worst(wrong: Sequence[_Cell]) -> list[tuple[ScoredClip, Film | None]]:
    """The most confident mistakes, few of each kind: the clips of one film fail alike."""
    few = [item for cell in wrong for item in cell.clips[:_MOST_OF_A_KIND]]
    return sorted(few, key=lambda item: -item[0].confidence)[:_MOST_MISTAKES]


def _drawn_curves(curves: Sequence[LearningCurve]) -> list[tuple[LearningCurve, int, str, str]]:
    """Each with its best epoch, counted from 0, and its two lines as points of a box of 100 x 100:
    accuracy from 0 to 100 %, loss from 0 to the highest of all; epochs up to the last of all."""
    last = max((curve.epochs[-1] for curve in curves), default=1)
    highest = max((max(curve.train_loss) for curve in curves), default=1.0) or 1.0

    def points(curve: LearningCurve, values: Sequence[float], top: float) -> str:
        across = [100 * (epoch - 1) / max(1, last - 1) for epoch in curve.epochs]
        pairs = zip(across, values, strict=True)
        return " ".join(f"{x:.1f},{100 - 100 * y / top:.1f}" for x, y in pairs)

    return [
        (
            curve,
            int(np.argmax(curve.val_accuracy)),
            points(curve, curve.val_accuracy, 100),
            points(curve, curve.train_loss, highest),
        )
        for curve in curves
    ]
