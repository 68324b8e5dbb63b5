"""`vidgraph train FOLDER|TABLE`: from clips to a trained recogniser without a recipe.

Videos are checked and split, a frozen backbone computes their maps once, and a few heads are
trained on the same maps: plain ones, which any graph has to beat, and a graph. What is chosen is
chosen on validation clips; then every head is trained again on training and validation clips
together, and scored on the test clips once.

Shapes: n clips, D channels, T steps of the map, H W map, K classes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidgraph.data.check import check_table, read_skip_list
from vidgraph.data.duplicates import NearDuplicate, near_duplicates
from vidgraph.data.extraction import video_tasks
from vidgraph.data.grouping import Splits, split_clips
from vidgraph.data.mirroring import mirrored_classes
from vidgraph.data.table import VideoTable, load_table, parse_columns
from vidgraph.encoders import feature_job
from vidgraph.errors import DataError, RunError
from vidgraph.models.base import AveragedHead, ClipModel
from vidgraph.models.build import create_model
from vidgraph.models.grid import pooling_matrix
from vidgraph.own_clips.heads import (
    CELLS,
    NUM_SEEDS,
    PLANS,
    HeadPlan,
    final_states,
    try_heads,
)
from vidgraph.own_clips.result import ClipResult, ClipTraining
from vidgraph.own_clips.review import review, save_reference, write_report
from vidgraph.precompute.extract import extract
from vidgraph.precompute.features import FeatureJob, FeatureStore
from vidgraph.predictor import Predictor
from vidgraph.training.frozen import FrozenClips
from vidgraph.util import counter, folder_lock, write_json
from vidgraph.weights import save_weights

ASKED = "training.json"  # in the run folder: what was asked for
_SAID = 5  # near-duplicates, before training


def train(
    source: str | Path, out: str | Path | None = None, *, resume: bool = False, **options: Any
) -> ClipResult:
    """Trains a recogniser on clips.

    Args:
        source: a folder with one folder of videos per class, or a table; or the run folder of such
            a training, which then says all else.
        out: the run folder; None: `runs/` and the name of the source.
        resume: go on with what is in the run folder.
        **options: see `ClipTraining`.

    Raises:
        VidgraphError: see `train_clips`.
    """
    path = Path(source)
    if (path / ASKED).is_file():
        asked: dict[str, Any] = json.loads((path / ASKED).read_text(encoding="utf-8"))
        asked |= {key: Path(asked[key]) for key in ("source", "out")}
        return train_clips(ClipTraining(**asked, workers=options.get("workers")), resume)
    folder = Path("runs") / path.absolute().stem if out is None else Path(out)
    return train_clips(ClipTraining(path, folder, **options), resume)


def train_clips(training: ClipTraining, resume: bool = False) -> ClipResult:
    """Checks, splits, extracts, trains, chooses, scores and saves; see the module.

    Raises:
        RunError: the run folder is in use, holds another training, or cannot be written.
        VidgraphError: clips or options that cannot be used.
    """
    with folder_lock(training.out, "a run folder", "is in use by another training; wait for it"):
        _open_folder(training, resume)
        table, skipped = _checked_table(training)
        splits = split_clips(table, training.group_by, training.seed)
        told = mirrored_classes(table.class_names) != [*range(len(table.class_names))]
        job = feature_job(training.backbone, training.spec, mirrored=not told)
        print(*_plan_in_words(training, splits, job), sep="\n", flush=True)
        clips = _load_clips(splits, _extract(training, splits, job))
        duplicates = _duplicates(splits, clips)
        kept = training.out / "heads"
        results = try_heads(PLANS, splits, clips, training.seed, kept, training.workers)
        scores = [result.val_accuracy or 0.0 for result in results]
        result = ClipResult(
            training, list(table.class_names), splits, results, scores.index(max(scores))
        )
        result.skipped, result.notes = skipped, [*table.notes, *splits.notes]
        _save(result, clips)
        found = review(result, clips, duplicates)
        save_reference(found, clips.num_views > 1, training.out)
        print(f"report: {write_report(result, found, Predictor(training.out))}")
    return result


# ---- data ----------------------------------------------------------------------------------------


def _open_folder(training: ClipTraining, resume: bool) -> None:
    """Another training is neither overwritten nor continued."""
    file, asked = training.out / ASKED, _plain(training)
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if not resume:
            raise RunError(
                f"{training.out}: already holds a training; add --resume to continue it, or choose "
                "another --out"
            )
        different = [key for key in asked if asked[key] != before.get(key)]
        if different:
            key = different[0]
            raise RunError(
                f"{training.out}: was begun with {key} {before.get(key)}, not {asked[key]}; choose "
                "another --out, or resume it as it was"
            )
    write_json(file, asked)


def _plain(training: ClipTraining) -> dict[str, Any]:
    values = {key: value for key, value in vars(training).items() if key != "workers"}
    return {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in values.items()}


def _checked_table(training: ClipTraining) -> tuple[VideoTable, dict[str, str]]:
    """The table of what can be used, and which files cannot, and why."""
    table = load_table(training.source, parse_columns(training.columns) or None, split_needed=False)
    if table.multi_label:
        raise DataError(f"{training.source}: clips with several labels each need a recipe")
    with counter("files checked") as progress:
        report = check_table(table, workers=training.workers, progress=progress)
    listed = training.out / "skip_list.txt"
    skipped = report.write_skip_list(listed)
    if not skipped:
        listed.unlink()
        return table, {}
    skip = read_skip_list(listed)
    kept = [not table.is_skipped(name, skip) for name in table.frame["name"]]
    if not any(kept):
        raise DataError(
            f"{training.source}: not one of its {skipped} files can be read; see {listed}"
        )
    print(f"{skipped} files are skipped; they and the reasons are in {listed}")
    whole = replace(table, frame=table.frame[kept].reset_index(drop=True))
    reasons = dict.fromkeys(sorted(skip), "") | {
        finding.file: finding.message for finding in report.findings if finding.file in skip
    }
    return whole, reasons


def _plan_in_words(training: ClipTraining, splits: Splits, job: FeatureJob) -> list[str]:
    """What will be done and about how long, by the time that the first clips take."""
    frame = splits.frame
    counts = ", ".join(f"{name} {n}" for name, n in frame["split"].value_counts().items())
    lines = [f"{len(frame)} clips of {frame['label'].nunique()} classes ({counts})", *splits.notes]
    names = ", ".join(plan.name for plan in PLANS)
    lines.append(f"eyes: {job.method.name}, frozen; heads: {names}; {NUM_SEEDS} seeds each")
    return lines


def _extract(training: ClipTraining, splits: Splits, job: FeatureJob) -> FeatureStore:
    """The maps of all clips, of which those that are there already are kept."""
    tasks = video_tasks([Path(video) for video in dict.fromkeys(splits.frame["video"])])
    with counter("clips seen") as progress:
        report = extract(job, tasks, training.store, workers=training.workers, progress=progress)
    if report.failures:
        raise DataError(f"{report.failures[0][1]}; list it in a skip list, or mend it")
    return FeatureStore(training.store)


def _load_clips(splits: Splits, store: FeatureStore) -> FrozenClips:
    """What heads see of every clip: the means of 3 x 3 parts of each map, float16."""
    clips, mirrored = [], [False, True] if store.method.settings["mirrored"] else [False]
    for video in splits.frame["video"]:
        for flip in mirrored:
            maps, _ = store.maps(video, flip)  # [D, T, H, W]
            matrix = pooling_matrix([CELLS], *maps.shape[2:])  # [9, H * W]
            cells = torch.from_numpy(maps.reshape(*maps.shape[:2], -1)).float() @ matrix.T
            clips.append(cells.half().unflatten(2, (CELLS, CELLS)))  # [D, T, 3, 3]
    labels = torch.tensor(splits.frame["class_index"].to_numpy(np.int64))
    return FrozenClips(torch.stack(clips).unflatten(0, (len(labels), -1)), labels)


def _duplicates(splits: Splits, clips: FrozenClips) -> list[NearDuplicate]:
    """Clips of different splits that show the same; said before training."""
    frames = clips.pooled().features[:, 0, ..., 0, 0].transpose(1, 2).numpy()  # [n, T, D]
    found = near_duplicates(frames, splits.frame["split"].to_numpy())
    names = splits.frame["name"]
    for first, second, value in found[:_SAID]:
        print(f"near-duplicates in two splits ({value:.2f}): {names[first]} and {names[second]}")
    if len(found) > _SAID:
        print(f"and {len(found) - _SAID} more pairs; all are in the report")
    return found


# ---- what is kept --------------------------------------------------------------------------------


def _save(result: ClipResult, clips: FrozenClips) -> None:
    """The recogniser, and the scores of all heads.

    The tensors of a head fit maps of any size, since what it was trained on, the means over 3 x 3
    cells, is all that it sees of them.
    """
    training, chosen = result.training, result.heads[result.chosen]
    model = _model(training, chosen.plan, result.class_names)
    assert isinstance(model.head, AveragedHead)
    states = final_states(chosen, clips, training.seed)
    for head, state in zip(model.head.heads, states, strict=True):
        head.load_state_dict(state)
    save_weights(model, training.out)
    write_json(training.out / "scores.json", result.to_dict())


def _model(training: ClipTraining, plan: HeadPlan, class_names: list[str]) -> ClipModel:
    """A recogniser with the heads of a plan, one per seed, untrained."""
    model = create_model(
        plan.head.type,
        class_names=class_names,
        backbone=training.backbone,
        input=vars(training.spec),
        head=plan.head,
        copies=NUM_SEEDS,
    )
    assert isinstance(model, ClipModel)
    return model
