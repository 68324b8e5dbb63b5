"""Trains the rows of a recipe one after another, scores each once on the test split, and writes
their table to results/RECIPE.json.

    python tools/reproduce.py syncmnist3 --size small
    python tools/reproduce.py syncmnist3 --rows rstg_small,mean_lstm_small --seeds 0,1,2

What is done is kept in run folders, one per row and seed: a finished training is skipped, an
interrupted one goes on, and a score that stands in `test.json` is not measured again. So the same
call always leads to the same table, however often it is stopped. Any value of the recipe can be
overridden, as in `--train.clips 50_000`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

import vidgraph
from kept_score import KeptScore, keep_score, load_score
from results import Comparison, ResultRow, load_results, open_results, to_markdown, update_results
from tool import Parser, exit_codes
from vidgraph.cli import split_overrides
from vidgraph.config import Recipe, load_recipe, recipe_rows
from vidgraph.doctor import describe_hardware
from vidgraph.errors import RecipeError, RunError, nearest
from vidgraph.evaluation.metrics import paired_bootstrap
from vidgraph.evaluation.profile import profile_model
from vidgraph.experiment import MAY_CHANGE, score_model, train_recipe
from vidgraph.training.checkpoint import CHECKPOINT, METRICS, read_metrics, run_lock
from vidgraph.training.loop import Progress, end_message
from vidgraph.util import check_target, counter

SIZES = ("small", "paper")
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
    training: Progress
    score: KeptScore


def reproduce_table(
    name: str,
    size: str | None,
    rows: Sequence[str] | None,
    seeds: Sequence[int] | None,
    out: Path,
    target: Path | None,
    overrides: Mapping[str, str],
) -> int | None:
    """Trains, scores and writes; the table goes to standard output too.

    Args:
        name: a recipe of the package, or `file.yaml`.
        size: rows of this size only.
        rows: names of rows; None for all.
        seeds: of each row; None for the recipe's own.
        out: where the run folders are.
        target: the results file; None for `results/NAME.json`.
        overrides: of every row, as `{"data.syncmnist.digits": "embedded"}`.

    Returns:
        The signal that stopped a training; None where all came to their end.

    Raises:
        VidgraphError: whatever in the recipe, the data, a run folder or a file is not usable; as
            far as it can be seen before, then before anything is trained.
    """
    jobs = plan(name, size, rows, seeds, out, overrides)
    dataset = jobs[0].recipe.name
    target = target or Path("results") / f"{dataset}.json"
    check_target(target)  # a fault in a file must not show after hours of training
    open_results(target, dataset, SPLIT, describe_hardware())
    above: tuple[str, np.ndarray | None] | None = None
    for row, group in groupby(jobs, key=lambda job: job.recipe.row):
        runs = []
        for job in group:
            run = _train_and_score(job)
            if isinstance(run, int):
                return run
            runs.append(run)
        correct = _share_correct(runs)
        update_results(
            target,
            dataset,
            SPLIT,
            _measured(runs, correct),
            " | ".join(dict.fromkeys(run.score.hardware for run in runs)),
            order=recipe_rows(name)[1],
            comparisons=_compared(above, (row, correct)),
            test_labels=runs[0].score.labels,
        )
        above = row, correct
    print(f"\n{to_markdown(load_results(target))}\nwritten to {target}", flush=True)
    return None


# ---- what is to be done --------------------------------------------------------------------------


def plan(
    name: str,
    size: str | None,
    rows: Sequence[str] | None,
    seeds: Sequence[int] | None,
    out: Path,
    overrides: Mapping[str, str],
) -> list[Job]:
    """Every training, in the order of the recipe's rows.

    Raises:
        RecipeError: rows, sizes or overrides that do not exist or contradict each other.
    """
    if "train.seed" in overrides:
        raise RecipeError("reproduce takes its seeds from --seeds, not from --train.seed")
    jobs = []
    for row in _choose_rows(name, size, rows):
        recipe = load_recipe(f"{name}:{row}", overrides)
        command = _command(name, row, seeds, overrides)
        folder = out / recipe.title.replace(":", "-")  # where `vidgraph train` puts the row too
        for seed in seeds if seeds is not None else [recipe.train.seed]:
            own = load_recipe(f"{name}:{row}", {**overrides, "train.seed": seed})
            beside = folder.with_name(f"{folder.name}-seed{seed}")
            jobs.append(Job(own, folder if seed == recipe.train.seed else beside, command))
    return jobs


def size_of(row: str) -> str:
    """Rows whose names end in `_small` are made for a CPU; all others have the paper's size."""
    return "small" if row.endswith("_small") else "paper"


def _choose_rows(name: str, size: str | None, rows: Sequence[str] | None) -> list[str]:
    """Rows of the recipe in its order: those that are asked for, or all of one size."""
    _, known = recipe_rows(name)
    for row in rows or ():
        if row not in known:
            raise RecipeError(f"recipe {name} has no row {row!r}{nearest(row, known)}")
    sizes = {size_of(row) for row in known}
    if size is None and rows is None and len(sizes) > 1:
        options = " or ".join(f"--size {option}" for option in SIZES)
        raise RecipeError(
            f"{name} has rows of several sizes; add {options}, or name rows with --rows"
        )
    chosen = [row for row in known if rows is None or row in rows]
    chosen = [row for row in chosen if size is None or size_of(row) == size]
    if not chosen:
        raise RecipeError(f"{name} has no such rows of size {size}; its rows: {', '.join(known)}")
    return chosen


def _command(name: str, row: str, seeds: Sequence[int] | None, overrides: Mapping[str, str]) -> str:
    """What others would type. Overrides that only say where files lie here, or how this machine
    works, are left out."""
    words = ["python", "tools/reproduce.py", name, "--rows", row]
    if seeds is not None:
        words += ["--seeds", ",".join(map(str, seeds))]
    for key, value in overrides.items():
        if key not in MAY_CHANGE or value in MADE_ANYWHERE:
            words += [f"--{key}", value]
    return shlex.join(words)


# ---- doing it ------------------------------------------------------------------------------------


def _train_and_score(job: Job) -> Run | int:
    """A finished run, or the signal that stopped its training."""
    result = train_recipe(job.recipe, job.folder, resume=(job.folder / CHECKPOINT).exists())
    if result.stopped_by is not None:
        message = end_message(result, job.folder)
        print(f"{message}, or with the same reproduce command", file=sys.stderr)
        return result.stopped_by
    with run_lock(job.folder):
        score = load_score(job.folder) or _score(job)
    low, high = score.ci95
    what = f"{score.accuracy:.2f} % ({low:.2f} to {high:.2f}) on {score.measured_on}"
    title = f"{job.recipe.title}, seed {job.recipe.train.seed}"
    print(f"{title}: {result.clips_seen:,} clips, {what}", flush=True)
    return Run(job, result, score)


def _score(job: Job) -> KeptScore:
    device = None if job.recipe.train.device == "auto" else job.recipe.train.device
    with counter("clips") as count:
        scores, on = score_model(str(job.folder), split=SPLIT, device=device, progress=count)
    return keep_score(job.folder, scores, on)


# ---- what was measured ---------------------------------------------------------------------------


def _share_correct(runs: Sequence[Run]) -> np.ndarray | None:
    """The share of a row's trainings that got each test clip right, [n]; None for mAP."""
    if len({run.score.labels for run in runs}) > 1:
        clips = f"{runs[0].job.folder} and its other seeds were scored on different test clips"
        raise RunError(f"{clips}; delete their test.json to score again")
    right = [share for run in runs if (share := run.score.correct_clips()) is not None]
    return np.mean(right, axis=0) if right else None


def _measured(runs: Sequence[Run], correct: np.ndarray | None) -> ResultRow:
    """A row of the table from the runs of all its seeds."""
    first, recipe = runs[0], runs[0].job.recipe
    cost = profile_model(vidgraph.from_pretrained(first.job.folder))
    ci95 = first.score.ci95
    if len(runs) > 1 and correct is not None:
        ci95 = paired_bootstrap(correct, np.zeros_like(correct)).ci95
    commits = dict.fromkeys(run.score.commit for run in runs if run.score.commit)
    return ResultRow(
        name=recipe.row,
        weights=None,
        published=recipe.published,
        accuracy=fmean(run.score.accuracy for run in runs),
        ci95=ci95,
        seeds=tuple(run.job.recipe.train.seed for run in runs),
        params=cost["params"],
        gmac=cost["gmac"]["total"],
        clips_seen=first.training.clips_seen,
        seconds=fmean(run.training.seconds for run in runs),
        command=first.job.command,
        commit=", ".join(commits) or None,
        accuracies=tuple(run.score.accuracy for run in runs) if len(runs) > 1 else (),
        curve=_mean_curve([run.job.folder for run in runs]),
    )


def _mean_curve(folders: Sequence[Path]) -> tuple[tuple[int, float], ...]:
    """Validation accuracy by clips, the mean over the trainings that validated there."""
    found: dict[int, list[float]] = {}
    for folder in folders:
        for line in read_metrics(folder / METRICS):
            if value := line["val_accuracy"] or line["val_map"]:
                found.setdefault(int(line["clips"]), []).append(float(value))
    return tuple((clips, fmean(found[clips])) for clips in sorted(found))


def _compared(
    above: tuple[str, np.ndarray | None] | None, below: tuple[str, np.ndarray | None]
) -> list[Comparison]:
    """Of a row with the one above it in the table, where both were scored on the same clips."""
    if above is None or above[1] is None or below[1] is None or len(above[1]) != len(below[1]):
        return []
    found = paired_bootstrap(above[1], below[1])
    return [Comparison(above[0], below[0], found.difference, found.ci95, found.p_value)]


# ---- the command line ----------------------------------------------------------------------------


def parse_seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give different whole numbers with commas between them, as 0,1,2"
        )
    return [int(part) for part in parts]


@exit_codes
def main(words: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a recipe of the package, or FILE.yaml")
    add("--size", choices=SIZES, help="rows of this size: small ones suit a CPU")
    add("--rows", metavar="ROW,...", help="these rows only")
    add(
        "--seeds", metavar="N,...", type=parse_seeds, help="of each row (default: the recipe's own)"
    )
    add("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="of the run folders")
    add("--results", type=Path, metavar="FILE.json", help="(default results/RECIPE.json)")
    own, overrides = split_overrides(sys.argv[1:] if words is None else words)
    args = parser.parse_args(own)
    rows = None if args.rows is None else args.rows.split(",")
    stopped_by = reproduce_table(
        args.recipe, args.size, rows, args.seeds, args.out, args.results, overrides
    )
    return 0 if stopped_by is None else 128 + stopped_by


if __name__ == "__main__":
    sys.exit(main())
