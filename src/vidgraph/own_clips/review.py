"""What a trained recogniser says of itself and of the clips: how sure it may be, which labels it
doubts, what it has not seen; and the page that shows all of it.

Shapes: n clips, T frames, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from vidgraph.data.duplicates import NearDuplicate
from vidgraph.data.grouping import grouped_folds
from vidgraph.evaluation.calibration import (
    Suspect,
    calibration_error,
    fit_temperature,
    out_of_fold_logits,
    suspects,
    unlike_threshold,
)
from vidgraph.own_clips.heads import HeadResult, learnt, out_of_fold, tested
from vidgraph.own_clips.result import ClipResult
from vidgraph.predictor import REFERENCE, Predictor
from vidgraph.training.frozen import FrozenClips
from vidgraph.util import atomic_write, counter
from vidgraph.video.reader import open_video
from vidgraph.visualize.clips_report import (
    ClipsReport,
    HeadRow,
    LearningCurve,
    NearDuplicates,
    ScoredClip,
    drawn_clip,
    write_clips_report,
)
from vidgraph.visualize.clips_report import Suspect as ShownSuspect
from vidgraph.visualize.thumbnails import thumbnail

_DRAWN = 3  # test clips whose graphs are drawn
_SHOWN = 24  # suspects and pairs with thumbnails


@dataclass(frozen=True)
class Review:
    """What is known of a recogniser beside its scores.

    Attributes:
        temperature: logits are divided by it.
        calibration: expected calibration error on test clips before and after that.
        suspects: training and validation clips whose label is doubted, by row, most doubtful first.
        duplicates: clips of different splits that show the same.
        reference: pooled features of the clips that were trained on, float32 [n, D].
        threshold: distance to the nearest of them from which a clip is unlike them.
    """

    temperature: float
    calibration: tuple[float, float]
    suspects: list[Suspect]
    duplicates: list[NearDuplicate]
    reference: NDArray[np.float32]
    threshold: float


def review(result: ClipResult, clips: FrozenClips, duplicates: list[NearDuplicate]) -> Review:
    """Measures on clips that were left out of training; scores of the test clips choose nothing."""
    frame, chosen = result.splits.frame, result.heads[result.chosen]
    test, rows = tested(result.splits).numpy(), learnt(result.splits)
    used = rows.numpy()
    labels, groups = clips.labels.numpy(), frame["group"].to_numpy()
    pooled = clips.pooled().features[:, 0].mean(dim=(2, 3, 4)).numpy()  # [n, D]
    logits = out_of_fold(chosen, clips, rows, groups, result.training.seed).numpy()
    temperature = fit_temperature(logits, labels[used])
    probabilities = [
        torch.softmax(chosen.test_logits / t, dim=1).numpy() for t in (1.0, temperature)
    ]
    before, after = (calibration_error(p, labels[test]) for p in probabilities)
    plain = grouped_folds(labels[used], np.arange(len(used)), seed=result.training.seed)
    doubted = suspects(out_of_fold_logits(pooled[used], labels[used], plain), labels[used])
    return Review(
        temperature,
        (before, after),
        [suspect._replace(row=int(used[suspect.row])) for suspect in doubted],
        duplicates,
        pooled[used],
        unlike_threshold(pooled[used], groups[used]),
    )


def save_reference(found: Review, mirrored: bool, folder: Path) -> None:
    """What `Predictor` compares a clip with, as `reference.safetensors`."""
    tensors = {
        "features": torch.from_numpy(found.reference),
        "threshold": torch.tensor(found.threshold),
        "temperature": torch.tensor(found.temperature),
        "mirrored": torch.tensor(mirrored),
    }
    with atomic_write(folder / REFERENCE) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))


def write_report(result: ClipResult, found: Review, predictor: Predictor) -> Path:
    """Writes `report.html` into the run folder."""
    training, chosen = result.training, result.heads[result.chosen]
    frame, names = result.splits.frame, result.class_names
    test = tested(result.splits).tolist()
    shown = [s.row for s in found.suspects[:_SHOWN]]
    pairs = [row for pair in found.duplicates[:_SHOWN] for row in pair[:2]]
    films = dict(_thumbnails(result, [*test, *shown, *pairs], predictor))
    probabilities = torch.softmax(chosen.test_logits / found.temperature, dim=1)
    clips = [
        ScoredClip(frame["name"][row], int(label), int(p.argmax()), float(p.max()), films.get(row))
        for row, label, p in zip(test, frame["class_index"][test], probabilities, strict=True)
    ]
    groups = frame["group"][test].nunique()
    report = ClipsReport(
        title=f"{training.source.name}: {len(names)} classes",
        lead=". ".join([f"{len(frame)} clips, seen by {training.backbone}, frozen", *result.notes]),
        scored_on=f"{len(test)} test clips of {groups} groups",
        clusters="group",
        class_names=names,
        heads=[_head_row(head, head is chosen) for head in result.heads],
        clips=clips,
        baseline_recall=_recall(result.heads[0], frame["class_index"][test].to_numpy(), len(names)),
        suspects=[
            ShownSuspect(
                frame["name"][s.row],
                int(frame["class_index"][s.row]),
                s.suggested,
                s.odds / (1 + s.odds),
                films.get(s.row),
            )
            for s in found.suspects[:_SHOWN]
        ],
        duplicates=[
            NearDuplicates(
                (frame["name"][a], frame["name"][b]),
                (frame["split"][a], frame["split"][b]),
                value,
                (films.get(a), films.get(b)),
            )
            for a, b, value in found.duplicates[:_SHOWN]
        ],
        curves=[curve for head in result.heads for curve in _curves(head)],
        calibration_error=(100 * found.calibration[0], 100 * found.calibration[1]),
        skipped=[*result.skipped.items()],
        drawings=[*_drawings(result, test, predictor)],
        usage=[
            ("recognise a clip", f"vidgraph predict {training.out} CLIP"),
            ("in Python", f'vidgraph.Predictor("{training.out}").predict("CLIP")'),
        ],
    )
    write_clips_report(training.out / "report.html", report)
    return training.out / "report.html"


def _thumbnails(
    result: ClipResult, rows: list[int], predictor: Predictor
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Of some clips, six frames each."""
    videos, wanted = result.splits.frame["video"], list(dict.fromkeys(rows))
    with counter("thumbnails") as progress:
        for done, row in enumerate(wanted, start=1):
            with open_video(videos[row]) as video:
                indices = ((np.arange(6) + 0.5) * video.num_frames / 6).astype(int)
                yield row, thumbnail(video.read(indices))
            progress(done, len(wanted))


def _head_row(head: HeadResult, is_chosen: bool) -> HeadRow:
    low, high = (100 * share for share in head.interval)
    val = None if head.val_accuracy is None else 100 * head.val_accuracy
    size = sum(tensor.numel() for tensor in head.trained[0][0].state.values())
    plan, seconds = head.plan, head.seconds
    return HeadRow(
        plan.name, plan.kind, val, 100 * head.test_accuracy, (low, high), seconds, size, is_chosen
    )


def _recall(head: HeadResult, labels: NDArray[np.int64], num_classes: int) -> list[float]:
    """Of each class, in percent."""
    right = head.test_logits.argmax(1).numpy() == labels
    totals = np.bincount(labels, minlength=num_classes)
    shares = np.bincount(labels, weights=right, minlength=num_classes) / np.maximum(totals, 1)
    return [float(share) for share in 100 * shares]


def _curves(head: HeadResult) -> Iterator[LearningCurve]:
    """Of the first seed."""
    history = head.trained[0][0].history
    if history:
        losses = [epoch.train_loss for epoch in history]
        right = [100 * (epoch.val_accuracy or 0.0) for epoch in history]
        yield LearningCurve(head.plan.name, range(1, len(history) + 1), losses, right)


def _drawings(result: ClipResult, test: list[int], predictor: Predictor) -> Iterator:  # type: ignore[type-arg]
    """What the chosen head looked at, in a few test clips of different classes."""
    frame = result.splits.frame
    for row in frame.loc[test].drop_duplicates("label").index[:_DRAWN]:
        prediction = predictor.predict(frame["video"][row], explain=True)
        if prediction.explanation is not None:
            frames = predictor.frames_seen(prediction)
            drawn = drawn_clip(prediction, frames, frame["label"][row])
            if drawn is not None:
                yield drawn
