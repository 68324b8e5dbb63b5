"""Trainings in phases: what learns in each, its own optimiser and schedule, exact continuation,
which weights are kept.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import QUICK, Clips, ThreeParts, curve, kept_loss, kept_weights, moved, train
from torch import nn

from vidgraph.errors import DataError, RecipeError
from vidgraph.training.checkpoint import load_checkpoint, read_metrics
from vidgraph.training.optim import begin_phase
from vidgraph.training.phases import TrainOptions, plan_phases

SHARED: dict[str, Any] = {
    **QUICK,
    **{"val_every_clips": 16, "checkpoint_every_clips": 24, "log_every_clips": 16},
    **{"optimizer": "sgd", "lr": 0.1},
}
# Phases of 64, 32 and 48 clips over a split of 40, with other batches and another optimiser in the
# second.
PHASES: list[dict[str, Any]] = [
    {"name": "body", "clips": 64, "freeze": ["head."], "schedule": "step", "drops": [0.5]},
    {
        **{"name": "head", "clips": 30, "batch_size": 4, "lr": 0.02, "optimizer": "adamw"},
        **{"freeze": ["body."], "freeze_norms": ["norm."]},
    },
    {"name": "joint", "epochs": 1.2, "schedule": "constant", "lr": 0.001},
]
OPTIONS = TrainOptions(**SHARED, phases=PHASES)


def break_off(folder: Path, clips: int, **options: Any) -> dict[str, Any]:
    """The checkpoint of a training that stops after so many clips."""
    with pytest.raises(DataError, match="breaks off"):
        train(folder, OPTIONS, model=ThreeParts(clips), **options)
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = train(folder, OPTIONS)
    assert (result.clips_seen, result.stopped_by) == (144, None)
    return folder


def test_phases_follow_one_another_in_whole_batches() -> None:
    plan = plan_phases(OPTIONS, num_train=40)
    assert [(phase.name, phase.first, phase.last) for phase in plan] == [
        ("body", 0, 64),
        ("head", 64, 96),  # 30 clips in batches of 4
        ("joint", 96, 144),  # 1.2 passes over 40
    ]
    assert plan[1].title == "phase 2 of 3, head"
    (only,) = plan_phases(TrainOptions(clips=161, batch_size=8), 0)
    assert (only.name, only.title, only.first, only.last) == ("", "", 0, 168)
    (half,) = plan_phases(TrainOptions(epochs=1.5, batch_size=8), 40)
    assert half.last == 64  # 60, in whole batches


def test_what_a_phase_freezes_stays_and_moves_in_the_next(whole: Path, tmp_path: Path) -> None:
    states = [
        ThreeParts().state_dict(),
        break_off(tmp_path / "one", 64)["model"],
        break_off(tmp_path / "two", 96)["model"],
        load_checkpoint(whole)["model"],
    ]
    body, norm, head = {"body.weight"}, {"norm.weight", "norm.bias"}, {"head.weight", "head.bias"}
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert moved(states[0], states[1]) == body | norm | statistics
    # Gains and biases of norms whose statistics are frozen learn.
    assert moved(states[1], states[2]) == head | norm
    assert moved(states[2], states[3]) == body | norm | head | statistics


def test_phases_are_what_a_plain_loop_does(tmp_path: Path) -> None:
    """Plain gradient steps by hand: two phases with their own frozen part, rate and drop."""
    drops = {"schedule": "step", "drops": [0.25, 0.75], "drop_factor": 0.5}
    phases = [
        {"name": "one", "clips": 32, "freeze": ["head."], **drops},
        {"name": "two", "clips": 16, "freeze": ["body."], "lr": 0.4, "schedule": "constant"},
    ]
    model, data = ThreeParts(), Clips()
    model.drop.p = 0.0
    by_hand = copy.deepcopy(model).train()
    options = TrainOptions(**{**SHARED, "momentum": 0.0}, phases=phases)
    train(tmp_path, options, val=None, model=model, shuffle=False)
    # One order through both phases, which ends with the split and begins again.
    assert model.seen == [*range(40), *range(8)]
    for step, rate in enumerate([0.1, 0.05, 0.05, 0.025, 0.4, 0.4]):
        frozen = "head." if step < 4 else "body."
        index = torch.arange(8 * step, 8 * step + 8) % 40
        by_hand.zero_grad()
        nn.functional.cross_entropy(by_hand(data.video[index]), data.label[index]).backward()
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                if not name.startswith(frozen):
                    parameter -= rate * parameter.grad
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_curve_counts_through_and_shows_each_schedule(whole: Path) -> None:
    rows = read_metrics(whole / "metrics.csv")
    rates = {int(row["clips"]): float(row["lr"]) for row in rows if row["train_loss"]}
    # The rate of the step that ends there: 0.1, lower from half of the 64 clips on; half a cosine
    # over 32 clips; constant.
    early = {16: 0.1, 32: 0.1, 48: 0.01, 64: 0.01, 80: 0.02 * 0.691342, 96: 0.02 * 0.038060}
    assert rates == pytest.approx({**early, 112: 0.001, 128: 0.001, 144: 0.001}, rel=1e-4)
    assert [int(row["clips"]) for row in rows if row["val_loss"]] == [*range(16, 145, 16)]


@pytest.mark.parametrize(
    ("clips", "saved", "phase"),
    [(56, 48, "body"), (64, 64, "body"), (92, 72, "head"), (96, 96, "head"), (128, 120, "joint")],
)
def test_continuing_gives_the_same_losses_and_weights(
    whole: Path, tmp_path: Path, clips: int, saved: int, phase: str
) -> None:
    progress = break_off(tmp_path, clips)["progress"]
    assert (progress["clips_seen"], progress["phase"]) == (saved, phase)
    continued, uninterrupted = ThreeParts(), ThreeParts()
    assert train(tmp_path, OPTIONS, resume=True, model=continued).clips_seen == 144
    assert curve(tmp_path) == curve(whole)
    one, other = load_checkpoint(tmp_path), load_checkpoint(whole)
    assert moved(one["model"], other["model"]) == set()
    train(tmp_path / "again", OPTIONS, model=uninterrupted)
    assert continued.seen == uninterrupted.seen[saved:]


def test_the_best_weights_are_those_of_the_last_phase(tmp_path: Path) -> None:
    """The last phase unlearns, so that its first validation is its best, and every earlier one was
    better."""
    phases = [
        {"name": "learn", "clips": 400, "schedule": "constant"},
        {"name": "forget", "clips": 64, "lr": 50.0, "schedule": "constant"},
    ]
    result = train(tmp_path, TrainOptions(**SHARED, phases=phases))
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if row["val_loss"]]
    scores = [(int(r["clips"]), float(r["val_accuracy"]), -float(r["val_loss"])) for r in rows]
    first = max(score[1:] for score in scores if score[0] <= 400)
    last = max(score[1:] for score in scores if score[0] > 400)
    assert last < first
    assert (result.best, -result.best_loss) == pytest.approx(last, rel=1e-5)
    assert kept_loss(tmp_path) == pytest.approx(-last[1], rel=1e-4)


def test_without_validation_the_last_weights_of_each_phase_are_kept(tmp_path: Path) -> None:
    last = break_off(tmp_path, 64, val=None)["model"]
    assert moved(kept_weights(tmp_path), last) == set()
    train(tmp_path, OPTIONS, val=None, resume=True)
    assert moved(kept_weights(tmp_path), load_checkpoint(tmp_path)["model"]) == set()


def test_progress_names_the_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, TrainOptions(**SHARED, phases=PHASES, log_every_seconds=0))
    out, err = capsys.readouterr()
    assert "phase 2 of 3, head: 32 clips, 0.00 M parameters learn" in out.splitlines()
    begins = "phase 3 of 3, joint  validation at 144 clips  loss "
    assert any(line.startswith(begins) for line in out.splitlines())
    lines = [line for line in err.splitlines() if line.startswith(" 38.9 %  56 of 144 clips  ")]
    assert "  body loss " in lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"freeze": ["hed."]},
            "train.freeze: no parameter starts with 'hed.'; did you mean 'head.'",
        ),
        ({"lr_factors": {"bdy.": 2.0}}, "train.lr_factors: no parameter starts with 'bdy.'"),
        ({"freeze": ["body.", "norm.", "head."]}, "train.freeze leaves no parameter to train"),
    ],
)
def test_faults_of_a_late_phase_show_before_the_first(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model = ThreeParts()
    options = TrainOptions(**SHARED, phases=[*PHASES[:2], {**PHASES[2], **change}])
    with pytest.raises(RecipeError) as caught:
        train(tmp_path, options, model=model)
    assert str(caught.value).startswith(f"phase 3 of 3, joint: {message}")
    assert model.seen == []


def test_what_never_had_a_gradient_gets_none() -> None:
    """A parameter that a model keeps fixed itself is not freed by a phase that freezes nothing."""
    model = ThreeParts()
    model.norm.bias.requires_grad_(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    begin_phase(model, learning, TrainOptions(freeze=["body."]))
    begin_phase(model, learning, TrainOptions())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["norm.bias"]
