"""Whole small trainings: exact continuation, stopping, choosing the best weights, failing
loudly.
"""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest
import torch
from tiny_training import QUICK, Clips, ThreeParts, curve, kept_loss, kept_weights, moved, train
from torch import nn

from vidgraph.errors import DataError, RecipeError, RunError, WeightsError
from vidgraph.evaluation.inference import evaluate
from vidgraph.records import ClipBatch
from vidgraph.training.checkpoint import load_checkpoint, read_metrics, save_checkpoint
from vidgraph.training.losses import validate
from vidgraph.training.phases import TrainOptions

EVERY = {"val_every_clips": 40, "checkpoint_every_clips": 72, "log_every_clips": 24}
OPTIONS = TrainOptions(**QUICK, **EVERY, clips=160, clip_norm=1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = train(folder, OPTIONS)
    assert (result.clips_seen, result.stopped_by) == (160, None)
    return folder


def test_a_training_writes_its_curve_and_learns(whole: Path) -> None:
    rows = curve(whole)
    assert [row[0] for row in rows if row[1]] == ["24", "48", "72", "96", "120", "144", "160"]
    assert [row[0] for row in rows if row[4]] == ["40", "80", "120", "160"]
    losses = [float(row[4]) for row in rows if row[4]]
    assert losses[-1] < losses[0] < 0.75


def test_continuing_after_a_crash_gives_the_same_losses_and_weights(
    whole: Path, tmp_path: Path
) -> None:
    # The crash comes at clip 112, after the checkpoint of clip 72, which lies in the middle of a
    # pass; the row of metrics.csv at 96 clips is written a second time.
    with pytest.raises(DataError, match="breaks off"):
        train(tmp_path, OPTIONS, model=ThreeParts(break_at=112))
    assert load_checkpoint(tmp_path)["progress"]["clips_seen"] == 72
    torch.manual_seed(99)  # of no matter: a step's random numbers depend on its position alone
    assert train(tmp_path, OPTIONS, resume=True).clips_seen == 160
    assert curve(tmp_path) == curve(whole)
    one, other = load_checkpoint(tmp_path), load_checkpoint(whole)
    assert moved(one["model"], other["model"]) == set()
    assert moved(kept_weights(tmp_path), kept_weights(whole)) == set()


def test_an_interrupt_saves_and_continues_exactly(whole: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = train(tmp_path, OPTIONS, data=Clips(interrupt_at=50))
    assert result.stopped_by == signal.SIGINT
    assert 48 <= result.clips_seen < 72  # in the middle of a row of metrics.csv
    assert load_checkpoint(tmp_path)["progress"]["clips_seen"] == result.clips_seen
    assert signal.getsignal(signal.SIGINT) is before
    train(tmp_path, OPTIONS, resume=True)
    assert curve(tmp_path) == curve(whole)


def test_a_finished_training_is_not_trained_further(whole: Path) -> None:
    content = (whole / "last.ckpt").read_bytes()
    result = train(whole, OPTIONS, resume=True, model=ThreeParts(break_at=0))
    assert (result.clips_seen, result.stopped_by) == (160, None)
    assert result.best == load_checkpoint(whole)["progress"]["best"]
    assert (whole / "last.ckpt").read_bytes() == content


def test_no_step_reads_a_number_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading waits for the device: a training of more steps with as many rows reads no more."""
    read: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, own=own, name=name: read.append(name) or own(self)
        )
    counts = []
    for clips in (40, 320):
        model, every = ThreeParts(), {"log_every_clips": clips, "checkpoint_every_clips": clips}
        model.forward = lambda video, *_, m=model: m.head(m.body(video.flatten(1).float() / 255))
        options = dataclasses.replace(OPTIONS, optimizer="sgd", clips=clips, **every)
        train(tmp_path / str(clips), options, model=model, val=None, shuffle=False)
        counts.append(len(read))
    assert counts[1] - counts[0] == counts[0] > 0


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, schedule="constant", lr=0.05, val_every_clips=8)
    result = train(tmp_path, options)
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if row["val_loss"]]
    best = max((float(row["val_accuracy"]), -float(row["val_loss"])) for row in rows)
    assert result.best == pytest.approx(best[0])
    assert result.best_loss == pytest.approx(-best[1], rel=1e-5)
    assert kept_loss(tmp_path) == pytest.approx(-best[1], rel=1e-4)


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    assert train(tmp_path, OPTIONS, val=None).best is None
    assert moved(kept_weights(tmp_path), load_checkpoint(tmp_path)["model"]) == set()


def test_a_multi_label_checkpoint_is_chosen_by_the_reported_map(tmp_path: Path) -> None:
    """Three of the clips have no label; the evaluation ranks them behind all others."""

    class Several(Clips):
        def __getitems__(self, indices: list[int]) -> ClipBatch:
            batch = super().__getitems__(indices)
            label = torch.stack([batch.label == 0, batch.label == 1], 1).float()
            label[batch.index % 13 == 0] = 0.0
            return dataclasses.replace(batch, label=label)

    val = Several()
    result = train(tmp_path, OPTIONS, data=Several(), val=val)
    kept = ThreeParts()
    kept.load_state_dict(kept_weights(tmp_path))
    reported = evaluate(kept, [val.__getitems__([*range(40)])], class_names=["dark", "bright"])
    assert reported.map == result.best
    maps = [row["val_map"] for row in read_metrics(tmp_path / "metrics.csv") if row["val_map"]]
    assert max(map(float, maps)) == pytest.approx(result.best, rel=1e-5)
    assert validate(kept, [val.__getitems__([*range(40)])])[1:] == (reported.map, "map")


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path: Path) -> None:
    model = ThreeParts()
    with torch.no_grad():
        model.head.bias[0] = float("inf")
    with pytest.raises(RunError, match=r"the loss is (nan|inf) after 0 to 24 clips") as caught:
        train(tmp_path, OPTIONS, model=model)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_checkpoint_of_another_model_or_version_is_refused(whole: Path, tmp_path: Path) -> None:
    model = ThreeParts()
    model.head = nn.Linear(8, 3)
    with pytest.raises(WeightsError, match=r"last\.ckpt is of another model"):
        train(whole, OPTIONS, resume=True, model=model)
    save_checkpoint({**load_checkpoint(whole), "format": 1}, tmp_path)
    with pytest.raises(WeightsError, match="not a training checkpoint of this version"):
        train(tmp_path, OPTIONS, resume=True)


def test_bf16_keeps_weights_in_fp32_and_learns(tmp_path: Path) -> None:
    result = train(tmp_path, dataclasses.replace(OPTIONS, precision="bf16", clips=400))
    assert result.best is not None
    assert result.best > 60
    assert load_checkpoint(tmp_path)["model"]["body.weight"].dtype == torch.float32


def test_a_batch_that_cannot_be_shared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RecipeError, match="batch_size 8 cannot be split over 3 processes"):
        train(tmp_path, OPTIONS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_absent_gpu_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the device is to be cuda, but torch finds no GPU"):
        train(tmp_path, dataclasses.replace(OPTIONS, device="cuda"))
