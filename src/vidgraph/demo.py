"""`vidgraph demo`: the whole way through the house on one small task, offline and in a few minutes
on two cores.

Two handwritten digits wander over the frame. Either both take the same steps or each takes its own;
every clip shows the same two digits, so a single frame says nothing and only the relation of their
motions decides.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgraph.errors import RunError

if TYPE_CHECKING:
    from vidgraph.evaluation.metrics import Scores

MODELS = {"rstg_small": "RSTG", "mean_lstm_small": "Mean + LSTM"}
CLASSES = (0, 7)
NO_SYNC_PROBABILITY = 0.5
COUNTS = {"train": 5000, "val": 300, "test": 1000}
TASK = (
    "Two handwritten digits wander over the frame. In half of the clips they take the same steps, "
    "in the other half each takes its own. "
    "Every clip shows the same two digits, so single frames say nothing: only relating the two "
    "motions helps."
)


def run_demo(
    folder: Path, overrides: Sequence[str] = (), counts: dict[str, int] | None = None
) -> Path:
    """Writes videos, checks them, trains RSTG and Mean + LSTM under equal budget, scores both, and
    explains one unseen video.

    The same call continues an interrupted demo, and a finished one only writes its report anew.

    Args:
        folder: where everything goes.
        overrides: of both recipes, such as `["--train.clips", "2000"]`.
        counts: clips per split.

    Returns:
        The path of the report.

    Raises:
        VidgraphError: the folder holds something else or cannot be written.
    """
    start = time.perf_counter()
    for row in MODELS:  # a misspelt override must not show after minutes
        _recipe(row, folder, overrides)
    table = _make_videos(folder / "digits", counts or COUNTS)
    scores = {row: _train_and_score(row, table, folder / row, overrides) for row in MODELS}
    chance = 100 * max(NO_SYNC_PROBABILITY, 1 - NO_SYNC_PROBABILITY)
    print("\nTest clips that no training saw:")
    for row, score in scores.items():
        low, high = score.accuracy_ci95
        print(
            f"  {MODELS[row]:<12} {score.accuracy:5.1f} %   95 % interval {low:.1f} to {high:.1f}"
        )
    print(f"  {'chance':<12} {chance:5.1f} %")
    report = _explain(folder, table, scores, chance, overrides)
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    print(f"\nThe report is {report}. All of it took {minutes} min {seconds} s.")
    return report


def _make_videos(folder: Path, counts: dict[str, int]) -> Path:
    """Real .mp4 files and a table, then the check that any data set should pass before it is
    trained on.
    """
    from vidgraph.data.check import check_table
    from vidgraph.data.syncmnist_files import make_dataset
    from vidgraph.data.table import load_table
    from vidgraph.util import counter

    print(f"Writing {sum(counts.values()):,} videos of moving digits to {folder}", flush=True)
    options: dict[str, Any] = {"classes": CLASSES, "no_sync_probability": NO_SYNC_PROBABILITY}
    with counter("videos") as count:
        table = make_dataset(folder, len(CLASSES), counts, "embedded", **options, report=count)
    print(f"Checking {table}", flush=True)
    with counter("files") as count:
        report = check_table(load_table(table), progress=count)
    print("\n".join(report.lines()), flush=True)
    if not report.is_good:
        raise RunError(
            f"{folder}: the videos are damaged; delete the folder and start the demo again"
        )
    return table


def _recipe(row: str, table: Path, overrides: Sequence[str]) -> Any:
    from vidgraph.config import load_recipe

    return load_recipe(f"demo:{row}", ["--data.table.path", str(table), *overrides])


def _train_and_score(row: str, table: Path, folder: Path, overrides: Sequence[str]) -> Scores:
    from vidgraph.experiment import train_recipe
    from vidgraph.util import counter
    from vidgraph.scoring import score_model
    from vidgraph.training.routine import stop_message

    print(f"\nTraining {MODELS[row]}", flush=True)
    result = train_recipe(
        _recipe(row, table, overrides), folder, resume=(folder / "last.ckpt").exists()
    )
    if result.stopped_by is not None:
        print(stop_message(result.stopped_by, result.clips_seen, folder))
        raise KeyboardInterrupt
    with counter("clips") as count:
        return score_model(str(folder), None, (), "test", None, 64, None, count)[0]


def _explain(
    folder: Path, table: Path, scores: dict[str, Scores], chance: float, overrides: Sequence[str]
) -> Path:
    """Predicts one test video with the graph network and writes the report."""
    from vidgraph.evaluation.results import describe_hardware
    from vidgraph.predictor import Predictor
    from vidgraph.visualize.charts import Curve, ScoreLine
    from vidgraph.visualize.report import write_demo_report
    from vidgraph.weights import from_pretrained

    predictor = Predictor(from_pretrained(folder / "rstg_small"))
    video, truth = _unseen_video(table)
    prediction = predictor.predict(video)
    print(f"\nOne unseen video, {video} (label {truth!r}):")
    for name, probability in prediction.top(2):
        print(f"  {100 * probability:5.1f} %  {name}")
    recipe = _recipe("rstg_small", table, overrides)
    report = folder / "report.html"
    with_graph, without = scores["rstg_small"], scores["mean_lstm_small"]
    write_demo_report(
        report,
        title="Do two digits move together?",
        lead=TASK,
        facts=[
            (
                "Budget",
                f"{recipe.train.clips:,} training clips for each model, batch "
                f"{recipe.train.batch_size}, the same pre-trained stem",
            ),
            ("Test", f"{with_graph.n:,} videos of digit images that no training saw"),
            ("Hardware", describe_hardware()),
        ],
        curves=[
            Curve(MODELS[row], *_validation_curve(folder / row / "metrics.csv")) for row in MODELS
        ],
        scores=[
            ScoreLine(MODELS[row], score.accuracy, score.accuracy_ci95, score.n)
            for row, score in scores.items()
        ],
        chance=chance,
        confusion=(MODELS["rstg_small"], with_graph.confusion, list(prediction.class_names)),
        prediction=prediction,
        frames=predictor.frames_seen(prediction),
        truth=truth,
        findings=[_finding(with_graph, without)],
    )
    return report


def _unseen_video(table: Path) -> tuple[Path, str]:
    """The first test video in which the digits move together."""
    with open(table, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    row = next((row for row in rows if row["label"] != "none"), rows[0])
    return table.parent / row["video"], row["label"]


def _validation_curve(file: Path) -> tuple[list[float], list[float]]:
    """Clips seen and validation accuracy in percent, from a run's metrics."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["val_accuracy"]]
    return [float(row["clips"]) for row in rows], [float(row["val_accuracy"]) for row in rows]


def _finding(with_graph: Scores, without: Scores) -> str:
    """What the scores say, in a sentence that holds whichever way they fell."""
    from vidgraph.evaluation.metrics import paired_bootstrap

    difference = paired_bootstrap(with_graph.correct, without.correct)
    low, high = difference.ci95
    gap = (
        f"{difference.difference:+.1f} points on the same test videos (95 % interval {low:+.1f} "
        f"to {high:+.1f})"
    )
    if low > 0:
        return (
            f"The graph network is ahead: {gap}. Averaging each frame, as Mean + LSTM does, "
            "loses which motion belongs to which digit."
        )
    if high < 0:
        return f"The graph network is behind: {gap}. More training clips may change this."
    return f"The two models do not differ clearly: {gap}. More training clips may change this."
