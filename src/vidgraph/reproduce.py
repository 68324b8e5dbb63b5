"""`vidgraph reproduce`: trains the rows of a recipe one after another, scores each once on the test
split, and writes their table.

What is done is kept in run folders, one per row and seed: a finished training is skipped, an
interrupted one goes on, and a score that stands in `test.json` is not measured again. So the same
call always leads to the same table, however often it is stopped.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import torch

from vidgraph.config import Recipe, load_recipe, parse_overrides, recipe_rows
from vidgraph.errors import RecipeError, RunError, nearest
from vidgraph.evaluation.kept_score import KeptScore, keep_score, kept_score
from vidgraph.evaluation.metrics import paired_bootstrap
from vidgraph.evaluation.profile import profile_model
from vidgraph.evaluation.results import (
    Comparison,
    ResultRow,
    ResultTable,
    describe_hardware,
    load_results,
    open_results,
    split_page,
    to_markdown,
    update_results,
    write_page,
)
from vidgraph.experiment import MAY_CHANGE, train_recipe
from vidgraph.models.build import create_model
from vidgraph.models.compat import upgrade_options
from vidgraph.progress import counter
from vidgraph.scoring import score_model
from vidgraph.training.fit import FitResult, process_rank
from vidgraph.training.routine import stop_message
from vidgraph.training.run_folder import CHECKPOINT, METRICS, read_metrics, run_lock
from vidgraph.util import check_target
from vidgraph.weights import WEIGHTS_FILE, from_pretrained

Size = Literal["small", "paper"]
SIZES: tuple[Size, ...] = ("small", "paper")
SMALL_SUFFIX = "_small"
SPLIT = "test"
MADE_ANYWHERE = ("mnist", "embedded")  # digits that every machine can get by this name


@dataclass(frozen=True)
class Job:
    """One training: a row with one seed.

    Attributes:
        recipe: of the row, with the seed and all overrides.
        folder: its run folder.
        command: what trains and scores the row, for the table.
    """

    recipe: Recipe
    folder: Path
    command: str


@dataclass(frozen=True)
class Run:
    """A finished training and its test score."""

    job: Job
    fit: FitResult
    score: KeptScore


@dataclass(frozen=True)
class MeasuredRow:
    """A row of the table, and what comparisons need: the share of its trainings that got each test
    clip right, [n].
    """

    row: ResultRow
    correct: np.ndarray | None


def parse_seeds(text: str | None) -> list[int] | None:
    """`0,1,2` of the command line as numbers."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise RecipeError(
            f"--seeds {text!r}: give different whole numbers with commas between them, as 0,1,2"
        )
    return [int(part) for part in parts]


def size_of(row: str) -> Size:
    """Rows whose names end in `_small` are made for a CPU; all others have the paper's size."""
    return "small" if row.endswith(SMALL_SUFFIX) else "paper"


def reproduce_table(
    name: str,
    size: Size | None = None,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: Path = Path("runs"),
    results: Path | None = None,
    page: Path | None = None,
    overrides: Sequence[str] = (),
) -> int | None:
    """Trains, scores and writes; the table goes to standard output too.

    Args:
        name: a recipe of the package, or `file.yaml`.
        size: rows of this size only.
        rows: names of rows; None for all.
        seeds: of each row; None for the recipe's own.
        out: where the run folders are.
        results: the results file; None for `results/NAME.json`.
        page: a Markdown page that takes the tables of all results files beside `results` between
            its markers.
        overrides: of every row, as `["--data.syncmnist.digits", "embedded"]`.

    Returns:
        The signal that stopped a training; None where all came to their end.

    Raises:
        VidgraphError: whatever in the recipe, the data, a run folder or a file is not usable; as
            far as it can be seen before, then before anything is trained.
    """
    _check_alone()
    jobs = plan(name, size, rows, seeds, out, overrides)
    dataset = jobs[0].recipe.name
    target = results or Path("results") / f"{dataset}.json"
    check_target(target)  # a fault in a file must not show after hours of training
    open_results(target, dataset, SPLIT, describe_hardware())
    if page is not None:
        check_target(page)
        split_page(page)
        _all_tables(target.parent)
    above: MeasuredRow | None = None
    for _, group in groupby(jobs, key=lambda job: job.recipe.row):
        runs = []
        for job in group:
            run = _train_and_score(job)
            if isinstance(run, int):
                return run
            runs.append(run)
        below = _measure(runs)
        _write_row(target, dataset, runs, below, above, recipe_rows(name)[1])
        above = below
    print(f"\n{to_markdown(load_results(target))}\nwritten to {target}", flush=True)
    if page is not None:
        write_page(page, _all_tables(target.parent))
        print(f"tables of {target.parent} written to {page}", flush=True)
    return None


def _all_tables(folder: Path) -> list[ResultTable]:
    return [load_results(file) for file in sorted(folder.glob("*.json"))]


# ---- what is to be done --------------------------------------------------------------------------


def plan(
    name: str,
    size: Size | None,
    rows: Sequence[str] | None,
    seeds: Sequence[int] | None,
    out: Path,
    overrides: Sequence[str],
) -> list[Job]:
    """Every training, in the order of the recipe's rows; the models are built once on the way,
    without memory for their weights.

    Raises:
        RecipeError: rows, sizes, overrides or model options that do not exist or contradict each
            other.
    """
    if any(key == "train.seed" for key, _ in parse_overrides(overrides)):
        raise RecipeError("reproduce takes its seeds from --seeds, not from --train.seed")
    jobs = []
    for row in _choose_rows(name, size, rows):
        recipe = load_recipe(f"{name}:{row}", overrides)
        with torch.device("meta"):
            name_of_model, options = upgrade_options(
                recipe.model.architecture, recipe.model.options
            )
            create_model(name_of_model, **options)
        command = _command(name, row, seeds, overrides)
        for seed in seeds if seeds is not None else [recipe.train.seed]:
            own = load_recipe(f"{name}:{row}", [*overrides, "--train.seed", str(seed)])
            jobs.append(Job(own, _folder(recipe, seed, out), command))
    return jobs


def _choose_rows(name: str, size: Size | None, rows: Sequence[str] | None) -> list[str]:
    """Rows of the recipe in its order: those that are asked for, or all of one size."""
    _, known = recipe_rows(name)
    for row in rows or ():
        if row not in known:
            raise RecipeError(f"recipe {name} has no row {row!r}{nearest(row, known)}")
        if size is not None and size_of(row) != size:
            raise RecipeError(
                f"row {row} of {name} is of size {size_of(row)}, not {size}; leave out --size or "
                "the row"
            )
    if rows is not None:
        return [row for row in known if row in rows]
    there = sorted({size_of(row) for row in known})
    if size is None and len(there) > 1:
        raise RecipeError(
            f"{name} has rows of several sizes; add --size {' or --size '.join(SIZES)}, or name "
            "rows with --rows"
        )
    chosen = [row for row in known if size is None or size_of(row) == size]
    if not chosen:
        raise RecipeError(
            f"{name} has no rows of size {size}; its rows are of size {there[0]}: "
            f"{', '.join(known)}"
        )
    return chosen


def _folder(recipe: Recipe, seed: int, out: Path) -> Path:
    """Where `vidgraph train` puts the row too; other seeds than the recipe's own beside it."""
    own = recipe.title.replace(":", "-")
    return out / (own if seed == recipe.train.seed else f"{own}-seed{seed}")


def _command(name: str, row: str, seeds: Sequence[int] | None, overrides: Sequence[str]) -> str:
    """What others would type. Overrides that only say where files lie here, or how this machine
    works, are left out.
    """
    words = ["vidgraph", "reproduce", name, "--rows", row]
    if seeds is not None:
        words += ["--seeds", ",".join(map(str, seeds))]
    for key, value in parse_overrides(overrides):
        if key not in MAY_CHANGE or value in MADE_ANYWHERE:
            words += [f"--{key}", value]
    return shlex.join(words)


def _check_alone() -> None:
    if process_rank()[1] > 1:
        raise RunError(
            "reproduce works in one process; train rows with torchrun and vidgraph train first, "
            "reproduce then goes on from there"
        )


# ---- doing it ------------------------------------------------------------------------------------


def _train_and_score(job: Job) -> Run | int:
    """A finished run, or the signal that stopped its training."""
    result = train_recipe(job.recipe, job.folder, resume=(job.folder / CHECKPOINT).exists())
    if result.stopped_by is not None:
        print(
            f"{stop_message(result.stopped_by, result.clips_seen, job.folder)}, or with the same "
            "reproduce command",
            file=sys.stderr,
        )
        return result.stopped_by
    weights = job.folder / WEIGHTS_FILE
    with run_lock(job.folder):
        score = kept_score(job.folder, weights)
        if score is None:
            device = None if job.recipe.train.device == "auto" else job.recipe.train.device
            with counter("clips") as count:
                scores, measured_on = score_model(
                    str(job.folder), None, (), SPLIT, None, None, device, count
                )
            score = keep_score(job.folder, weights, scores, measured_on)
    low, high = score.ci95
    what = f"{score.accuracy:.2f} % ({low:.2f} to {high:.2f}) on {score.measured_on}"
    print(
        f"{job.recipe.title}, seed {job.recipe.train.seed}: {result.clips_seen:,} clips, {what}",
        flush=True,
    )
    return Run(job, result, score)


def _measure(runs: Sequence[Run]) -> MeasuredRow:
    """A row of the table from the runs of all its seeds."""
    first, recipe = runs[0], runs[0].job.recipe
    if len({run.score.labels for run in runs}) > 1:
        raise RunError(
            f"{first.job.folder} and its other seeds were scored on different test clips; delete "
            "their test.json to score again"
        )
    cost = profile_model(from_pretrained(first.job.folder))
    shares = [share for run in runs if (share := run.score.correct_clips()) is not None]
    correct = np.mean(shares, axis=0) if len(shares) == len(runs) else None
    ci95 = first.score.ci95
    if len(runs) > 1 and correct is not None:
        ci95 = paired_bootstrap(correct, np.zeros_like(correct)).ci95
    row = ResultRow(
        name=recipe.row,
        weights=None,
        published=recipe.published,
        accuracy=fmean(run.score.accuracy for run in runs),
        ci95=ci95,
        seeds=tuple(run.job.recipe.train.seed for run in runs),
        params=cost["params"],
        gmac=cost["gmac"]["total"],
        clips_seen=first.fit.clips_seen,
        seconds=fmean(run.fit.seconds for run in runs),
        command=first.job.command,
        commit=", ".join(dict.fromkeys(run.score.commit for run in runs if run.score.commit))
        or None,
        accuracies=tuple(run.score.accuracy for run in runs) if len(runs) > 1 else (),
        curve=_mean_curve([run.job.folder for run in runs]),
    )
    return MeasuredRow(row, correct)


def _mean_curve(folders: Sequence[Path]) -> tuple[tuple[int, float], ...]:
    """Validation accuracy by clips, the mean over the trainings that validated there."""
    found: dict[int, list[float]] = {}
    for folder in folders:
        for line in read_metrics(folder / METRICS):
            value = line["val_accuracy"] or line["val_map"]
            if value:
                found.setdefault(int(line["clips"]), []).append(float(value))
    return tuple((clips, fmean(found[clips])) for clips in sorted(found))


def _write_row(
    target: Path,
    dataset: str,
    runs: Sequence[Run],
    new: MeasuredRow,
    above: MeasuredRow | None,
    order: Sequence[str],
) -> None:
    """Puts the row into the results file, compared with the row above it in the table."""
    comparisons = []
    if (
        above is not None
        and above.correct is not None
        and new.correct is not None
        and len(above.correct) == len(new.correct)
    ):
        found = paired_bootstrap(above.correct, new.correct)
        comparisons.append(
            Comparison(above.row.name, new.row.name, found.difference, found.ci95, found.p_value)
        )
    hardware, labels = (
        " | ".join(dict.fromkeys(run.score.hardware for run in runs)),
        runs[0].score.labels,
    )
    update_results(
        target,
        dataset,
        SPLIT,
        new.row,
        hardware,
        order=order,
        comparisons=comparisons,
        test_labels=labels,
    )
