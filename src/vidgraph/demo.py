"""`vidgraph demo`: the whole way on one small task, offline and in a few minutes on two cores.

Two handwritten digits wander over the frame. Either both take the same steps or each takes its own;
every clip shows the same two digits, so a single frame says nothing and only the relation of their
motions decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from vidgraph.config import Recipe, load_recipe
from vidgraph.data.check import check_table
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist_files import make_dataset
from vidgraph.data.table import load_table
from vidgraph.doctor import describe_hardware
from vidgraph.errors import RunError
from vidgraph.evaluation.metrics import Scores, paired_bootstrap
from vidgraph.experiment import score_model, train_recipe
from vidgraph.predictor import Predictor
from vidgraph.training.checkpoint import CHECKPOINT, METRICS, read_metrics
from vidgraph.training.loop import end_message
from vidgraph.util import counter, duration
from vidgraph.visualize.charts import Curve, ScoreLine
from vidgraph.visualize.report import Training, write_report
from vidgraph.weights import from_pretrained

GRAPH, PLAIN = "rstg_small", "mean_lstm_small"
MODELS = {GRAPH: "RSTG", PLAIN: "Mean + LSTM"}
CLASSES = (0, 7)
CHANCE = 50.0  # percent; in half of the clips the digits move together
COUNTS = {"train": 5000, "val": 300, "test": 1000}
TASK = (
    "Two handwritten digits wander over the frame. In half of the clips they take the same steps, "
    "in the other half each takes its own. Every clip shows the same two digits, so single frames "
    "say nothing: only relating the two motions helps."
)


def run_demo(
    folder: Path, overrides: Mapping[str, str] | None = None, counts: dict[str, int] | None = None
) -> Path:
    """Writes videos, checks them, trains RSTG and Mean + LSTM alike, scores both, explains one; the
    same call continues an interrupted demo, and a finished one only writes its report anew.

    Args:
        folder: where everything goes.
        overrides: of both recipes, such as `{"train.clips": "2000"}`.
        counts: clips per split.

    Returns:
        The path of the report.
    """
    start, table = time.perf_counter(), folder / "digits" / "table.csv"
    given = {"data.table.path": str(table), **(overrides or {})}
    # First of all: a misspelt override must not show after minutes.
    recipes = {row: load_recipe(f"demo:{row}", given) for row in MODELS}
    _make_videos(table, counts or COUNTS)
    scores = {row: _train_and_score(recipes[row], folder / row) for row in MODELS}
    print("\nTest clips that no training saw:")
    for row, score in scores.items():
        low, high = score.accuracy_ci95
        interval = f"95 % interval {low:.1f} to {high:.1f}"
        print(f"  {MODELS[row]:<12} {score.accuracy:5.1f} %   {interval}")
    print(f"  {'chance':<12} {CHANCE:5.1f} %")
    report = _explain(folder, table, scores, recipes[GRAPH])
    took = duration(time.perf_counter() - start)
    print(f"\nThe report is {report}. All of it took {took}.")
    return report


def _make_videos(table: Path, counts: dict[str, int]) -> None:
    """Real .mp4 files and a table, then the check that any data set should pass."""
    print(f"Writing {sum(counts.values()):,} videos of moving digits to {table.parent}", flush=True)
    with counter("videos") as count:
        options = SyncMnistOptions(
            len(CLASSES),
            "embedded",
            classes=list(CLASSES),
            no_sync_probability=1 - CHANCE / 100,
            shuffle_layers=True,
        )
        make_dataset(table.parent, options, counts, progress=count)
    print(f"Checking {table}", flush=True)
    with counter("files") as count:
        report = check_table(load_table(table), progress=count)
    print("\n".join(report.lines()), flush=True)
    if not report.is_good:
        damaged = f"{table.parent}: the videos are damaged"
        raise RunError(f"{damaged}; delete the folder and start the demo again")


def _train_and_score(recipe: Recipe, folder: Path) -> Scores:
    print(f"\nTraining {MODELS[recipe.row]}", flush=True)
    result = train_recipe(recipe, folder, resume=(folder / CHECKPOINT).exists())
    if result.stopped_by is not None:
        print(end_message(result, folder))
        raise KeyboardInterrupt
    with counter("clips") as count:
        return score_model(str(folder), progress=count)[0]


def _explain(folder: Path, table: Path, scores: dict[str, Scores], recipe: Recipe) -> Path:
    """Predicts a test video whose digits move together, and writes the report."""
    import pandas as pd

    predictor = Predictor(from_pretrained(folder / GRAPH))
    videos = pd.read_csv(table).query("split == 'test' and label != 'none'")
    video, truth = table.parent / videos.video.iloc[0], videos.label.iloc[0]
    prediction = predictor.predict(video, explain=True)
    print(f"\nOne unseen video, {video} (label {truth!r}):")
    for name, probability in prediction.top(2):
        print(f"  {100 * probability:5.1f} %  {name}")
    train = recipe.train
    budget = f"{train.clips:,} training clips for each model, batch {train.batch_size}"
    num_test = f"{scores[GRAPH].n:,} videos of digit images that no training saw"
    training = Training(
        facts=[
            ("Budget", f"{budget}, the same pre-trained backbone"),
            ("Test", num_test),
            ("Hardware", describe_hardware()),
        ],
        curves=[_validation_curve(name, folder / row) for row, name in MODELS.items()],
        scores=[
            ScoreLine(name, scores[row].accuracy, scores[row].accuracy_ci95, scores[row].n)
            for row, name in MODELS.items()
        ],
        chance=CHANCE,
        confusion=(MODELS[GRAPH], scores[GRAPH].confusion, list(prediction.class_names)),
        findings=[_finding(scores[GRAPH], scores[PLAIN])],
    )
    report, seen = folder / "report.html", predictor.frames_seen(prediction)
    texts = {"title": "Do two digits move together?", "lead": TASK, "truth": truth}
    write_report(report, prediction, seen, training=training, **texts)
    return report


def _validation_curve(name: str, folder: Path) -> Curve:
    """Clips seen and validation accuracy in percent, from a run's metrics."""
    rows = [row for row in read_metrics(folder / METRICS) if row["val_accuracy"]]
    clips, accuracy = ([float(row[key]) for row in rows] for key in ("clips", "val_accuracy"))
    return Curve(name, clips, accuracy)


def _finding(with_graph: Scores, without: Scores) -> str:
    """What the scores say, in a sentence that holds whichever way they fell."""
    found = paired_bootstrap(with_graph.correct, without.correct)
    low, high = found.ci95
    interval = f"95 % interval {low:+.1f} to {high:+.1f}"
    gap = f"{found.difference:+.1f} points on the same test videos ({interval})"
    if low > 0:
        return (
            f"The graph network is ahead: {gap}. Averaging each frame, as Mean + LSTM does, "
            "loses which motion belongs to which digit."
        )
    verdict = "The graph network is behind" if high < 0 else "The two models do not differ clearly"
    return f"{verdict}: {gap}. More training clips may change this."
