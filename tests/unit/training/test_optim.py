"""Parameter groups, freezing and the schedule, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

from vidgraph.errors import RecipeError
from vidgraph.training.optim import (
    begin_phase,
    build_optimizer,
    parameter_groups,
    schedule_factor,
    set_rate,
)
from vidgraph.training.phases import TrainOptions


def _model() -> nn.Module:
    return nn.ModuleDict(
        {"stem": nn.Conv2d(1, 2, 3), "norm": nn.LayerNorm(4), "classifier": nn.Linear(4, 3)}
    )


def test_vectors_are_not_decayed_and_factors_apply_by_prefix() -> None:
    recipe = TrainOptions(lr=0.1, weight_decay=0.5, lr_factors={"stem.": 0.1, "stem.bias": 0.2})
    groups = parameter_groups(_model(), recipe)
    sizes = {
        (round(g["lr"], 6), g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups
    }
    assert sizes == {(0.01, 0.5): 18, (0.02, 0.0): 2, (0.1, 0.0): 8 + 3, (0.1, 0.5): 12}


def test_frozen_parameters_are_in_no_group() -> None:
    model = _model()
    begin_phase(model, [], TrainOptions(freeze=["stem.", "norm."]))
    groups = parameter_groups(model, TrainOptions())
    assert sum(p.numel() for g in groups for p in g["params"]) == 15


def test_frozen_statistics_stay_while_gains_learn() -> None:
    """A batch norm under `freeze_norms` keeps its mean and variance; one under `freeze` its gain
    and bias too; others follow the batch."""
    model = nn.ModuleDict({name: nn.BatchNorm1d(2) for name in ("stem", "fixed", "head")})
    begin_phase(model, [], TrainOptions(freeze=["fixed."], freeze_norms=["stem."]))
    batch = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    sum((model[name](batch) ** 3).sum() for name in model).backward()
    assert {name: model[name].running_mean.tolist() for name in model} == {
        "stem": [0.0, 0.0],
        "fixed": [0.0, 0.0],
        "head": pytest.approx([0.2, 0.4]),  # momentum 0.1 of the means 2 and 4
    }
    assert model["stem"].weight.grad.abs().min() > 0
    assert model["fixed"].weight.grad is None


def test_unknown_prefixes_name_the_nearest() -> None:
    for key, prefix, nearest in (("freeze_norms", "nrm.", "norm."), ("freeze", "stm.", "stem.")):
        message = f"train.{key}: no parameter starts with '{prefix}'; did you mean '{nearest}'"
        with pytest.raises(RecipeError, match=re.escape(message)):
            begin_phase(_model(), [], TrainOptions(**{key: [prefix]}))
    with pytest.raises(RecipeError, match=r"train\.lr_factors"):
        parameter_groups(_model(), TrainOptions(lr_factors={"head.": 2.0}))
    model = _model().requires_grad_(False)
    with pytest.raises(RecipeError, match="leaves no parameter to train"):
        parameter_groups(model, TrainOptions())


def test_optimizer_kinds() -> None:
    assert isinstance(build_optimizer(_model(), TrainOptions()), torch.optim.AdamW)
    sgd = build_optimizer(_model(), TrainOptions(optimizer="sgd", momentum=0.9))
    assert isinstance(sgd, torch.optim.SGD)
    assert all(g["nesterov"] and g["momentum"] == 0.9 for g in sgd.param_groups)
    plain = build_optimizer(_model(), TrainOptions(optimizer="sgd", momentum=0.0))
    assert not plain.param_groups[0]["nesterov"]


def test_cosine_with_warmup() -> None:
    recipe = TrainOptions(batch_size=10, warmup_clips=100)
    factors = [
        schedule_factor(recipe, seen, 1100) for seen in (0, 40, 90, 100, 350, 600, 850, 1100)
    ]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    constant = dataclasses.replace(recipe, schedule="constant")
    assert [schedule_factor(constant, seen, 1100) for seen in (0, 500, 1090)] == [0.1, 1.0, 1.0]


def test_steps_lower_the_rate_at_shares_of_the_length() -> None:
    recipe = TrainOptions(
        batch_size=10, schedule="step", drops=[0.5, 0.9], drop_factor=0.1, warmup_clips=20
    )
    factors = [schedule_factor(recipe, seen, 1000) for seen in (0, 10, 20, 490, 500, 890, 900, 990)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_set_rate_keeps_the_factors_of_groups() -> None:
    optimizer = build_optimizer(_model(), TrainOptions(lr=0.2, lr_factors={"stem.": 0.5}))
    set_rate(optimizer, 0.25)
    set_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.05, 0.1])
