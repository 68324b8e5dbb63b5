"""Heads for frozen maps: what they depend on, by law and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import nn

from vidgraph.models.base import AveragedHead
from vidgraph.models.build import create_model
from vidgraph.models.probes import (
    AttentiveProbe,
    AttentiveProbeOptions,
    StatisticsHead,
    StatisticsOptions,
    TemporalTransformer,
    TemporalTransformerOptions,
    positions,
)


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(2, 6, 5, 3, 4, generator=torch.Generator().manual_seed(0))


HEADS: dict[str, nn.Module] = {
    "statistics": StatisticsHead(6, 3, StatisticsOptions()).eval(),
    "transformer": TemporalTransformer(6, 3, TemporalTransformerOptions(8)).eval(),
    "probe": AttentiveProbe(6, 3, AttentiveProbeOptions(8)).eval(),
}


@pytest.mark.parametrize(("name", "sees_order"), zip(HEADS, [False, True, True], strict=True))
def test_who_sees_the_order_of_frames(name: str, sees_order: bool, maps: torch.Tensor) -> None:
    head, backwards = HEADS[name], maps.flip(2)
    if isinstance(head, StatisticsHead):
        nn.init.normal_(head.classifier.weight)
    difference = (head(backwards) - head(maps)).abs().max()
    assert (difference > 1e-4) == sees_order


@pytest.mark.parametrize(("name", "sees_place"), zip(HEADS, [False, False, False], strict=True))
def test_cells_of_a_frame_may_trade_places(name: str, sees_place: bool, maps: torch.Tensor) -> None:
    """None of them knows where in the frame something is."""
    turned = maps.flip(3, 4)
    assert_close_to_scale(HEADS[name](turned), HEADS[name](maps))


def test_statistics_by_hand() -> None:
    """Frames that show 1, 3 and 2 have mean 2, deviation sqrt(2 / 3), and change by 1.5."""
    head = StatisticsHead(1, 1, StatisticsOptions(change=True)).eval()
    with torch.no_grad():
        head.classifier.weight.copy_(torch.tensor([[1.0, 100.0, 10_000.0]]))
    clip = torch.tensor([1.0, 3.0, 2.0]).reshape(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 2)
    expected = 2 + 100 * math.sqrt(2 / 3) + 15_000
    assert float(head(clip)) == pytest.approx(expected, rel=1e-4)
    still = StatisticsHead(1, 1, StatisticsOptions(change=True)).eval()
    assert float(still(clip[:, :, :1])) == 0  # one frame changes nothing, and is no error


def test_training_standardises_what_the_classifier_sees(maps: torch.Tensor) -> None:
    head, seen = StatisticsHead(6, 3, StatisticsOptions()).train(), []
    head.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(1000 * maps + 7)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(12), rtol=0, atol=1e-4)


def test_what_a_probe_attends_to_is_told_cell_by_cell(maps: torch.Tensor) -> None:
    """Weights of a query over all cells sum to 1, in an explanation over each frame; and a cell
    whose key is the query itself gets more than its share."""
    probe = AttentiveProbe(6, 3, AttentiveProbeOptions(8)).eval()
    weights = probe.attend(maps)[1]
    assert weights.shape == (2, 5, 3, 4)
    torch.testing.assert_close(weights.sum((1, 2, 3)), torch.ones(2))
    (shown, _) = probe.explain(maps)
    assert shown.maps is not None
    torch.testing.assert_close(shown.maps.sum((1, 2)), torch.ones(5))


def test_positions_by_hand() -> None:
    found = positions(3, torch.zeros(1, 4))
    expected = [[math.sin(t), math.sin(t / 100), math.cos(t), math.cos(t / 100)] for t in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_copies_of_a_head_are_averaged_and_one_explains() -> None:
    spec = {"num_frames": 2, "height": 32, "width": 32}
    how: dict[str, Any] = {
        "backbone": {"type": "small_resnet2d", "widths": [4, 8]},
        "head": {"type": "statistics", "rstg": {"width": 8}},
    }
    model: Any = create_model("statistics", 3, input=spec, copies=3, **how).eval()
    assert isinstance(model.head, AveragedHead)
    video = torch.randint(0, 256, (2, 3, 2, 32, 32), dtype=torch.uint8)
    features = model.forward_features(video)
    each = torch.stack([head(features) for head in model.head.heads])
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(video), each.mean(0))
    one: Any = create_model("statistics", 3, input=spec, **how).eval()
    stages = one.explain(video)[0].attention.shape
    assert model.explain(video)[0].attention.shape == stages
