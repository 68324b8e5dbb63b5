"""Weights of one model for another: what is loaded, what is left, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vidgraph
from vidgraph import weights
from vidgraph.errors import WeightsError
from vidgraph.models.matching import load_matching


def test_load_matching_reports_every_tensor() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    state = {
        "0.weight": torch.ones(3, 2),
        "0.bias": torch.ones(5),
        "9.weight": torch.ones(1),
        "1.bias": torch.ones(4),
    }
    report = load_matching(model, state)
    assert report.loaded == ["0.weight", "1.bias"]
    assert report.skipped_shape == {"0.bias": ("[5]", "[3]")}
    assert report.missing == ["1.weight"]
    assert report.unexpected == ["9.weight"]
    assert torch.equal(model[0].weight, torch.ones(3, 2))
    assert "0.bias  [5] -> [3]" in report.to_text()


def test_load_matching_takes_a_backbone_and_refuses_weights_that_have_nothing_in_common() -> None:
    state, model = weights.load_state("digit_stem"), vidgraph.create_model("rstg_small")
    report = load_matching(model, state)
    backbone = {name for name in model.state_dict() if name.startswith("backbone.")}
    assert set(report.loaded) == backbone
    assert sorted(report.skipped_shape) == ["head.classifier.bias"]
    with pytest.raises(WeightsError, match="no tensor of these weights fits"):
        load_matching(nn.Linear(2, 2), state)
