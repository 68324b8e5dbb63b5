"""Trainings in stages: what learns in each, its own optimiser and schedule, exact continuation,
which weights are kept.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import nn

from vidgraph.config import TrainRecipe
from vidgraph.errors import DataError, RecipeError, RunError
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.training.fit import TrainingData, fit
from vidgraph.training.run_folder import load_checkpoint, read_metrics, save_checkpoint
from vidgraph.training.stages import begin_stage, plan_stages, total_clips

SHARED: dict[str, Any] = {
    "batch_size": 8, "precision": "fp32", "workers": 0, "val_every_clips": 16,
      "checkpoint_every_clips": 24, "log_every_clips": 16,
    "tensorboard": False, "device": "cpu", "optimizer": "sgd", "lr": 0.1,
}  # fmt: skip
# Stages of 64, 32 and 48 clips over a split of 40, with other batches and another optimiser in the
# second.
STAGES: list[dict[str, Any]] = [
    {"name": "body", "clips": 64, "freeze": ["head."], "schedule": "step", "drops": [0.5]},
    {
        "name": "head",
        "clips": 30,
        "batch_size": 4,
        "freeze": ["body."],
        "freeze_norms": ["norm."],
        "lr": 0.02,
        "optimizer": "adamw",
    },
    {"name": "joint", "epochs": 1.2, "schedule": "constant", "lr": 0.001},
]
RECIPE = TrainRecipe(**SHARED, stages=STAGES)


class ThreeParts(nn.Module):
    """Tells bright from dark clips, in three parts; its dropout draws random numbers in every step.

    `seen` lists the clips that it learned from; at `break_at` of them it fails.
    """

    input_spec = InputSpec(2, 4, 4, channels=1, stride_frames=1)

    def __init__(self, break_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body, self.norm, self.drop, self.head = (
            nn.Linear(32, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 2),
        )
        self.break_at, self.seen = break_at, []

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        if self.training:
            if len(self.seen) == self.break_at:
                raise DataError("the training breaks off")
            self.seen += video[:, 0, 0, 0, 0].tolist()  # the first pixel is the clip's number
        return self.head(self.drop(self.norm(self.body(video.flatten(1).float() / 255)).relu()))


class Clips:
    """Random clips, every second brighter; the first pixel of clip i is i."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.label = torch.arange(40) % 2
        noise = torch.randint(0, 128, (40, 1, 2, 4, 4), generator=generator)
        self.video = (noise + 60 * self.label.view(-1, 1, 1, 1, 1)).to(torch.uint8)
        self.video[:, 0, 0, 0, 0] = torch.arange(40)

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, indices: list[int]) -> ClipBatch:
        index = torch.tensor(indices)
        return ClipBatch(self.video[index], self.label[index], index, index[:, None])


def _save(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "weights.pt")


def _fit(
    folder: Path,
    recipe: TrainRecipe = RECIPE,
    resume: bool = False,
    val: Any = "same",
    model: nn.Module | None = None,
    shuffle: bool = True,
) -> Any:
    folder.mkdir(exist_ok=True)
    data = TrainingData(Clips(), Clips() if val == "same" else val, shuffle=shuffle)
    return fit(model or ThreeParts(), data, recipe, folder, _save, resume)


def _break_off(
    folder: Path, clips: int, recipe: TrainRecipe = RECIPE, **options: Any
) -> dict[str, Any]:
    """The checkpoint of a training that stops after so many clips."""
    with pytest.raises(DataError, match="breaks off"):
        _fit(folder, recipe, model=ThreeParts(clips), **options)
    return load_checkpoint(folder)


def _curve(folder: Path) -> list[tuple[str, ...]]:
    columns = ("clips", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")
    return [
        tuple(row[column] for column in columns) for row in read_metrics(folder / "metrics.csv")
    ]


def _moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = _fit(folder)
    assert (result.clips_seen, result.stopped_by) == (144, None)
    return folder


def test_stages_follow_one_another_in_whole_batches() -> None:
    plan = plan_stages(RECIPE, num_train=40)
    assert [(stage.name, stage.first, stage.last, stage.total) for stage in plan] == [
        ("body", 0, 64, 144),
        ("head", 64, 96, 144),  # 30 clips in batches of 4
        ("joint", 96, 144, 144),  # 1.2 passes over 40
    ]
    assert plan[1].place == "stage 2 of 3, head"
    assert total_clips(RECIPE, 40) == 144
    (only,) = plan_stages(TrainRecipe(clips=161, batch_size=8), 0)
    assert (only.name, only.place, only.first, only.last) == ("", "", 0, 168)


def test_what_a_stage_freezes_stays_and_moves_in_the_next(whole: Path, tmp_path: Path) -> None:
    states = [
        ThreeParts().state_dict(),
        _break_off(tmp_path / "one", 64)["model"],
        _break_off(tmp_path / "two", 96)["model"],
        load_checkpoint(whole)["model"],
    ]
    body, (norm, head) = (
        {"body.weight"},
        ({f"{part}.weight", f"{part}.bias"} for part in ("norm", "head")),
    )
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert _moved(states[0], states[1]) == body | norm | statistics
    assert (
        _moved(states[1], states[2]) == head | norm
    )  # gains and biases of norms whose statistics are frozen learn
    assert _moved(states[2], states[3]) == body | norm | head | statistics


def test_stages_are_what_a_plain_loop_does(tmp_path: Path) -> None:
    """Plain gradient steps by hand: two stages with their own frozen part, rate and drop."""
    stages = [
        {
            "name": "one",
            "clips": 32,
            "freeze": ["head."],
            "schedule": "step",
            "drops": [0.25, 0.75],
            "drop_factor": 0.5,
        },
        {"name": "two", "clips": 16, "freeze": ["body."], "lr": 0.4, "schedule": "constant"},
    ]
    model = ThreeParts()
    model.drop.p = 0.0
    by_hand = copy.deepcopy(model).train()
    recipe = TrainRecipe(**{**SHARED, "momentum": 0.0, "lr": 0.1}, stages=stages)
    data = Clips()
    _fit(tmp_path, recipe, val=None, model=model, shuffle=False)
    assert model.seen == [
        *range(40),
        *range(8),
    ]  # one order through both stages, which ends with the split and begins again
    rates = [0.1, 0.05, 0.05, 0.025, 0.4, 0.4]
    for step, rate in enumerate(rates):
        frozen = "head." if step < 4 else "body."
        index = torch.arange(8 * step, 8 * step + 8) % 40
        by_hand.zero_grad()
        nn.functional.cross_entropy(by_hand(data.video[index]), data.label[index]).backward()
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                if not name.startswith(frozen):
                    parameter -= rate * parameter.grad
    for name, value in by_hand.state_dict().items():
        assert_close_to_scale(model.state_dict()[name], value, floor=0.1)


def test_the_curve_counts_through_and_shows_each_schedule(whole: Path) -> None:
    rows = [row for row in read_metrics(whole / "metrics.csv") if row["train_loss"]]
    rates = {int(row["clips"]): float(row["lr"]) for row in rows}
    # The rate of the step that ends there: 0.1, lower from half of the 64 clips on; half a cosine
    # over 32 clips; constant.
    cosine = {80: 0.02 * 0.691342, 96: 0.02 * 0.038060}
    assert rates == pytest.approx(
        {16: 0.1, 32: 0.1, 48: 0.01, 64: 0.01, **cosine, 112: 0.001, 128: 0.001, 144: 0.001},
        rel=1e-4,
    )
    assert [
        int(row["clips"]) for row in read_metrics(whole / "metrics.csv") if row["val_loss"]
    ] == [16, 32, 48, 64, 80, 96, 112, 128, 144]


@pytest.mark.parametrize(
    ("clips", "saved", "stage"),
    [(56, 48, "body"), (64, 64, "body"), (92, 72, "head"), (96, 96, "head"), (128, 120, "joint")],
)
def test_continuing_gives_the_same_losses_and_weights(
    whole: Path, tmp_path: Path, clips: int, saved: int, stage: str
) -> None:
    checkpoint = _break_off(tmp_path, clips)
    assert (checkpoint["clips_seen"], checkpoint["stage"]) == (saved, stage)
    continued, uninterrupted = ThreeParts(), ThreeParts()
    assert _fit(tmp_path, resume=True, model=continued).clips_seen == 144
    assert _curve(tmp_path) == _curve(whole)
    one, other = load_checkpoint(tmp_path), load_checkpoint(whole)
    assert _moved(one["model"], other["model"]) == set()
    assert (one["best"], one["stage"]) == (other["best"], "joint")
    _fit(tmp_path / "again", model=uninterrupted)
    assert continued.seen == uninterrupted.seen[saved:]


def test_a_finished_training_is_not_trained_further(whole: Path) -> None:
    content = (whole / "last.ckpt").read_bytes()
    result = _fit(whole, resume=True, model=ThreeParts(break_at=0))
    assert (result.clips_seen, result.best) == (144, load_checkpoint(whole)["best"][0])
    assert (whole / "last.ckpt").read_bytes() == content


def test_the_best_weights_are_those_of_the_last_stage(tmp_path: Path) -> None:
    """The last stage unlearns, so that its first validation is its best, and every earlier one was
    better.
    """
    stages = [
        {"name": "learn", "clips": 400, "schedule": "constant"},
        {"name": "forget", "clips": 64, "lr": 50.0, "schedule": "constant"},
    ]
    result = _fit(tmp_path, TrainRecipe(**SHARED, stages=stages))
    scores = [
        (float(r["val_accuracy"]), -float(r["val_loss"]), int(r["clips"]))
        for r in read_metrics(tmp_path / "metrics.csv")
        if r["val_loss"]
    ]
    first, last = max(s for s in scores if s[2] <= 400), max(s for s in scores if s[2] > 400)
    assert last[:2] < first[:2]
    assert result.best == pytest.approx(last[0])
    kept, data = ThreeParts(), Clips()
    kept.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(kept.eval()(data.video), data.label).item()
    assert loss == pytest.approx(-last[1], rel=1e-4)


def test_without_validation_the_last_weights_of_each_stage_are_kept(tmp_path: Path) -> None:
    last = _break_off(tmp_path, 64, val=None)["model"]
    assert _moved(torch.load(tmp_path / "weights.pt", weights_only=True), last) == set()
    _fit(tmp_path, val=None, resume=True)
    assert (
        _moved(
            torch.load(tmp_path / "weights.pt", weights_only=True),
            load_checkpoint(tmp_path)["model"],
        )
        == set()
    )


def test_checkpoints_from_before_stages_continue(tmp_path: Path) -> None:
    recipe = TrainRecipe(**SHARED, clips=80)
    checkpoint = _break_off(tmp_path, 56, recipe)
    assert checkpoint.pop("stage") == ""
    save_checkpoint(checkpoint, tmp_path)
    assert _fit(tmp_path, recipe, resume=True).clips_seen == 80


def test_a_checkpoint_of_another_stage_is_refused(whole: Path, tmp_path: Path) -> None:
    save_checkpoint({**load_checkpoint(whole), "stage": "body"}, tmp_path)
    with pytest.raises(RunError, match=r"144 clips do not lie in stage 'body' of this training"):
        _fit(tmp_path, resume=True)


def test_progress_names_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fit(tmp_path, replace(RECIPE, log_every_seconds=0))
    lines = capsys.readouterr().out.splitlines()
    assert "stage 2 of 3, head: 32 clips, 0.00 M parameters learn" in lines
    assert any(
        line.startswith(" 44.4 %  stage 1 of 3, body  64 of 144 clips  loss ") for line in lines
    )
    assert any(
        line.startswith("stage 3 of 3, joint  validation at 144 clips  loss ") for line in lines
    )


def test_faults_of_a_late_stage_show_before_the_first(tmp_path: Path) -> None:
    model = ThreeParts()
    for change, message in (
        (
            {"freeze": ["hed."]},
            r"stage 3 of 3, joint: train\.freeze: no parameter starts with 'hed\.'; did you mean "
            r"'head\.'",
        ),
        (
            {"lr_factors": {"bdy.": 2.0}},
            r"stage 3 of 3, joint: train\.lr_factors: no parameter starts with 'bdy\.'",
        ),
        (
            {"freeze": ["body.", "norm.", "head."]},
            r"stage 3 of 3, joint: train\.freeze leaves no parameter to train",
        ),
    ):
        recipe = TrainRecipe(**SHARED, stages=[*STAGES[:2], {**STAGES[2], **change}])
        with pytest.raises(RecipeError, match=message):
            _fit(tmp_path, recipe, model=model)
    assert model.seen == []


def test_what_never_had_a_gradient_gets_none() -> None:
    """A parameter that a model keeps fixed itself is not freed by a stage that freezes nothing."""
    model = ThreeParts()
    model.norm.bias.requires_grad_(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    begin_stage(model, learning, TrainRecipe(freeze=["body."]))
    begin_stage(model, learning, TrainRecipe())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["norm.bias"]
