"""Whole small trainings: exact continuation, stopping, choosing the best weights, failing
loudly.
"""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vidgraph.config import TrainRecipe
from vidgraph.errors import DataError, RecipeError, RunError, WeightsError
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.training.fit import TrainingData, fit
from vidgraph.training.run_folder import load_checkpoint, read_metrics
from vidgraph.training.stages import total_clips

RECIPE = TrainRecipe(
    clips=160, batch_size=8, lr=1e-2, clip_norm=1.0, precision="fp32", workers=0,
      val_every_clips=40, checkpoint_every_clips=72,
    log_every_clips=24, tensorboard=False, device="cpu",
)  # fmt: skip


class TinyNet(nn.Module):
    """Tells bright from dark clips; its dropout draws random numbers in every step."""

    input_spec = InputSpec(2, 4, 4, channels=1, stride_frames=1)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.hidden, self.drop, self.classifier = nn.Linear(32, 8), nn.Dropout(0.3), nn.Linear(8, 2)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.drop(self.hidden(video.flatten(1).float() / 255).relu()))


class Clips:
    """Random clips, the second half of them brighter; clip `broken` cannot be read, clip `poisoned`
    interrupts the process.
    """

    def __init__(
        self, length: int = 40, broken: int | None = None, interrupt_at: int | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.label = torch.arange(length) % 2
        noise = torch.randint(0, 128, (length, 1, 2, 4, 4), generator=generator)
        self.video = (noise + 127 * self.label.view(-1, 1, 1, 1, 1)).to(torch.uint8)
        self.broken, self.interrupt_at, self.served = broken, interrupt_at, 0

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, indices: list[int]) -> ClipBatch:
        self.served += len(indices)
        if self.broken is not None and self.served > self.broken:
            raise DataError(f"clip {self.broken} cannot be read")
        if self.interrupt_at is not None and self.served > self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        index = torch.tensor(indices)
        return ClipBatch(self.video[index], self.label[index], index, index[:, None])


def _save(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "weights.pt")


def _fit(
    folder: Path,
    recipe: TrainRecipe = RECIPE,
    resume: bool = False,
    train: Any = None,
    val: Any = "same",
    model: Any = None,
) -> Any:
    folder.mkdir(exist_ok=True)
    data = TrainingData(train or Clips(), Clips() if val == "same" else val)
    return fit(model or TinyNet(), data, recipe, folder, _save, resume)


def _curve(folder: Path) -> list[tuple[str, ...]]:
    return [
        tuple(row[c] for c in ("clips", "train_loss", "train_accuracy", "lr", "val_loss"))
        for row in read_metrics(folder / "metrics.csv")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = _fit(folder)
    assert (result.clips_seen, result.stopped_by) == (160, None)
    return folder


def test_a_training_writes_its_curve_and_learns(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = _curve(whole)
    assert [row[0] for row in curve if row[1]] == ["24", "48", "72", "96", "120", "144", "160"]
    assert [row[0] for row in curve if row[4]] == ["40", "80", "120", "160"]
    losses = [float(row[4]) for row in curve if row[4]]
    assert losses[-1] < losses[0] < 0.75


def test_continuing_after_a_crash_gives_the_same_losses_and_weights(
    whole: Path, tmp_path: Path
) -> None:
    # The crash comes at clip 112, after the checkpoint of clip 72, which lies in the middle of a
    # pass and of a row of metrics.csv.
    with pytest.raises(DataError, match="clip 112 cannot be read"):
        _fit(tmp_path, train=Clips(broken=112))
    assert load_checkpoint(tmp_path)["clips_seen"] == 72
    assert _fit(tmp_path, resume=True, model=TinyNet()).clips_seen == 160
    assert _curve(tmp_path) == _curve(whole)
    one, other = load_checkpoint(tmp_path), load_checkpoint(whole)
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in other["model"])
    assert one["best"] == other["best"]


def test_an_interrupt_saves_and_continues_exactly(whole: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = _fit(tmp_path, train=Clips(interrupt_at=50))
    assert result.stopped_by == signal.SIGINT
    assert 48 <= result.clips_seen < 72
    assert load_checkpoint(tmp_path)["clips_seen"] == result.clips_seen
    assert signal.getsignal(signal.SIGINT) is before
    _fit(tmp_path, resume=True)
    assert _curve(tmp_path) == _curve(whole)


def test_a_finished_training_is_not_trained_further(whole: Path) -> None:
    content = (whole / "last.ckpt").read_bytes()
    assert _fit(whole, resume=True).clips_seen == 160
    assert (whole / "last.ckpt").read_bytes() == content


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, schedule="constant", lr=0.05, val_every_clips=8)
    result = _fit(tmp_path, recipe)
    scores = [
        (float(r["val_accuracy"]), -float(r["val_loss"]), int(r["clips"]))
        for r in read_metrics(tmp_path / "metrics.csv")
        if r["val_loss"]
    ]
    best = max(scores)
    assert result.best == pytest.approx(best[0])
    kept = TinyNet()
    kept.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    data = Clips()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(kept.eval()(data.video), data.label).item()
    assert loss == pytest.approx(-best[1], rel=1e-4)


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    assert _fit(tmp_path, val=None).best is None
    kept, last = (
        torch.load(tmp_path / "weights.pt", weights_only=True),
        load_checkpoint(tmp_path)["model"],
    )
    assert all(torch.equal(kept[name], last[name]) for name in last)


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path: Path) -> None:
    model = TinyNet()
    with torch.no_grad():
        model.classifier.bias[0] = float("inf")
    with pytest.raises(
        RunError, match=r"the loss is (nan|inf) after 0 clips; training stopped"
    ) as caught:
        _fit(tmp_path, model=model)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(whole: Path) -> None:
    model = TinyNet()
    model.classifier = nn.Linear(8, 3)
    with pytest.raises(
        WeightsError, match=r"classifier.bias is \(2,\) in the file and \(3,\) in this model"
    ):
        _fit(whole, resume=True, model=model)


def test_bf16_keeps_weights_in_fp32_and_learns(tmp_path: Path) -> None:
    assert _fit(tmp_path, dataclasses.replace(RECIPE, precision="bf16", clips=400)).best > 60
    assert load_checkpoint(tmp_path)["model"]["hidden.weight"].dtype == torch.float32


def test_epochs_count_passes_over_the_data() -> None:
    recipe = dataclasses.replace(RECIPE, clips=None, epochs=1.5)
    assert total_clips(recipe, 40) == 64  # 60, rounded up to whole batches
    assert total_clips(dataclasses.replace(RECIPE, clips=161), 0) == 168


def test_a_batch_that_cannot_be_shared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RecipeError, match="batch_size 8 cannot be split over 3 processes"):
        _fit(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_absent_gpu_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the device is to be cuda, but torch finds no GPU"):
        _fit(tmp_path, dataclasses.replace(RECIPE, device="cuda"))
