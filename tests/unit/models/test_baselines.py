"""Heads without a graph: what is averaged, on the training size and on larger frames, and what the
mean cannot see and convolutions can.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.baselines import (
    ConvLSTMHead,
    ConvLSTMOptions,
    MeanLSTMHead,
    MeanLSTMOptions,
    PooledHead,
    PooledOptions,
    mean_probability,
    window_means,
)
from vidgraph.models.build import create_model


def pooled(multi_label: bool = False, **options: Any) -> PooledHead:
    """For maps of three channels and 3 x 4 cells."""
    torch.manual_seed(0)
    return PooledHead(3, 5, PooledOptions(**options), (3, 4), multi_label).eval()


@pytest.mark.parametrize("windows", ["whole", "logits", "probabilities"])
def test_at_the_training_size_and_below_all_are_the_same(windows: Any) -> None:
    head, features = pooled(windows=windows), torch.randn(2, 3, 2, 3, 4)
    for given in (features, features[..., :2, :2]):
        expected = given.mean(dim=(2, 3, 4)) @ head.classifier.weight.T + head.classifier.bias
        assert_close_to_scale(head(given), expected)


def test_windows_stand_one_cell_apart_row_by_row() -> None:
    features = torch.randn(2, 3, 4, 5, 7)
    parts = [
        features[..., y : y + 3, x : x + 6].mean(dim=(2, 3, 4)) for y in range(3) for x in range(2)
    ]
    assert_close_to_scale(window_means(features, (3, 6)), torch.stack(parts, dim=1))
    for window in (None, (5, 7), (9, 9)):
        assert_close_to_scale(window_means(features, window), features.mean((2, 3, 4))[:, None])


@pytest.mark.parametrize("multi_label", [False, True])
def test_windows_of_a_larger_frame_are_classified_one_by_one(multi_label: bool) -> None:
    """With several labels per clip, a probability is a sigmoid's, which a softmax would not be."""
    plain, features = pooled(), 5 * torch.randn(2, 3, 2, 5, 7)
    parts = torch.stack(
        [plain(features[..., y : y + 3, x : x + 4]) for y in range(3) for x in range(4)]
    )
    assert_close_to_scale(pooled(windows="logits")(features), parts.mean(0))
    fused = pooled(multi_label, windows="probabilities")(features)
    probability = torch.sigmoid if multi_label else lambda logits: logits.softmax(-1)
    assert_close_to_scale(probability(fused), probability(parts).mean(0))
    assert (fused - parts.mean(0)).abs().max() > 0.01


def test_mean_probability_of_certain_windows_is_finite() -> None:
    """A sigmoid of 100 is 1 in single precision."""
    certain = torch.tensor([[[100.0, -100.0], [100.0, -100.0]]])
    found = mean_probability(certain, multi_label=True)
    torch.testing.assert_close(found, torch.tensor([[100.0, -100.0]]))


def test_dropout_acts_in_training_only() -> None:
    head, features = pooled(dropout=0.5), torch.randn(1, 3, 2, 3, 4)
    assert torch.equal(head(features), head(features))
    head.train()
    answers = torch.stack([head(features) for _ in range(200)])
    all_left_out = (head.classifier.bias.expand_as(answers) == answers).all(dim=(1, 2))
    assert all_left_out.float().mean().item() == pytest.approx(0.125, abs=0.08)


def mean_lstm() -> nn.Module:
    return MeanLSTMHead(2, 5, MeanLSTMOptions(width=4))


def conv_lstm() -> ConvLSTMHead:
    return ConvLSTMHead(2, 5, ConvLSTMOptions(width=4, conv_width=3), (6, 6))


def test_only_convolutions_see_where_in_the_map_something_is() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 2, 3, 6, 6)
    moved = maps.roll((1, 2), dims=(3, 4))
    for head, same in ((mean_lstm().eval(), True), (conv_lstm().eval(), False)):
        assert torch.allclose(head(maps), head(moved), atol=1e-5) is same


def plain_lstm(lstm: nn.LSTM, steps: list[Tensor]) -> Tensor:
    """The last state, gate by gate."""
    hidden = cell = torch.zeros(len(steps[0]), lstm.hidden_size)
    for x in steps:
        gates = F.linear(x, lstm.weight_ih_l0, lstm.bias_ih_l0)
        gates = gates + F.linear(hidden, lstm.weight_hh_l0, lstm.bias_hh_l0)
        take, keep, new, show = gates.chunk(4, dim=1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
    return hidden


def test_lstm_heads_equal_a_plain_loop_over_frames() -> None:
    torch.manual_seed(1)
    head, maps = conv_lstm().eval(), torch.randn(2, 2, 3, 6, 6)
    first, norm, _, second, last_norm, _ = head.reduce
    for layer in (norm, last_norm):
        nn.init.uniform_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    steps = []
    for frame in maps.unbind(2):
        x = F.relu(norm(F.conv2d(frame, first.weight, stride=2, padding=1)))
        assert x.shape == (2, 3, 3, 3)
        # As large as the map: one number per channel.
        x = torch.einsum("bihw,oihw->bo", x, second.weight)
        steps.append(F.relu(last_norm(x[..., None, None])[..., 0, 0]))
    assert_close_to_scale(head(maps), head.classifier(plain_lstm(head.lstm, steps)))
    mean = mean_lstm().eval()
    steps = list(maps.mean(dim=(3, 4)).unbind(2))
    assert_close_to_scale(mean(maps), mean.classifier(plain_lstm(mean.lstm, steps)))


@pytest.mark.parametrize(("graph", "suffix"), [("rstg_syncmnist", ""), ("rstg_small", "_small")])
def test_rivals_have_about_as_many_parameters_as_the_graph(graph: str, suffix: str) -> None:
    def size(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in create_model(name).parameters())

    for rival in ("conv_lstm", "i3d_digits", "i3d_nl_digits"):
        assert 0.9 < size(rival + suffix) / size(graph) < 1.1, rival
