"""Heads that are trained on maps at hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidgraph.models.probes import StatisticsHead, StatisticsOptions
from vidgraph.training.frozen import (
    Epoch,
    FrozenClips,
    HeadTraining,
    best_epoch,
    head_logits,
    train_and_choose,
    train_head,
)

QUICK = HeadTraining(lr=1e-2, weight_decay=0.01, max_epochs=12, patience=4)
BUILD = partial(StatisticsHead, 8, 3, StatisticsOptions())
ROWS = {name: torch.arange(start, 60, 3) for start, name in enumerate(("train", "val", "test"))}


@pytest.fixture
def clips() -> FrozenClips:
    """Sixty clips of three classes, each bright in channels of its own; and mirrored."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) // 3 % 3
    features = torch.randn(60, 2, 8, 4, 3, 3, generator=generator)
    features[torch.arange(60), :, labels] += 1
    return FrozenClips(features.half(), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def test_a_head_learns_what_is_there_to_learn(clips: FrozenClips, tmp_path: Path) -> None:
    trained = train_and_choose(BUILD, clips, ROWS, QUICK, 0, tmp_path / "head.safetensors")
    assert accuracy(trained.test_logits, clips.labels[ROWS["test"]]) == 1
    assert 1 <= trained.epochs <= len(trained.history) <= 12
    losses = [epoch.train_loss for epoch in trained.history]
    assert losses[-1] < losses[0]
    head = BUILD()
    head.load_state_dict(trained.state)
    assert torch.equal(head_logits(head, clips, ROWS["test"]), trained.test_logits)


def test_what_was_trained_before_is_read(clips: FrozenClips, tmp_path: Path) -> None:
    file = tmp_path / "heads" / "head.safetensors"
    first = train_and_choose(BUILD, clips, ROWS, QUICK, 0, file)
    again = train_and_choose(partial(pytest.fail, "trained again"), clips, ROWS, QUICK, 0, file)
    assert again.history == first.history
    assert again.epochs == first.epochs
    assert torch.equal(again.test_logits, first.test_logits)
    assert all(torch.equal(again.state[name], first.state[name]) for name in first.state)
    file.unlink()
    anew = train_and_choose(BUILD, clips, ROWS, QUICK, 0, file)
    assert torch.equal(anew.test_logits, first.test_logits)  # the seed decides all


def test_validation_clips_only_choose(clips: FrozenClips) -> None:
    """Whatever stands in their place: the head that chooses is the same at its first epoch."""
    other = FrozenClips(clips.features.clone(), clips.labels)
    other.features[ROWS["val"]] = 0
    first, second = (
        train_head(BUILD, c, ROWS["train"], QUICK, 0, val=ROWS["val"])[1] for c in (clips, other)
    )
    assert first[0].train_loss == second[0].train_loss
    assert first[0].val_loss != second[0].val_loss


def test_the_best_epoch_is_that_of_least_loss() -> None:
    assert best_epoch([Epoch(1, 0.5, 0.9), Epoch(1, 0.3, 0.8), Epoch(1, 0.4, 1.0)]) == 1


def test_logits_are_the_mean_over_views(clips: FrozenClips) -> None:
    head, rows = BUILD().eval(), torch.arange(5)
    torch.nn.init.normal_(head.classifier.weight)
    views = [head(clips.features[rows, view].float()) for view in range(2)]
    torch.testing.assert_close(head_logits(head, clips, rows), (views[0] + views[1]) / 2)


def test_heads_that_only_pool_see_pooled_maps_alike(clips: FrozenClips) -> None:
    head, rows = BUILD().eval(), torch.arange(60)
    torch.nn.init.normal_(head.classifier.weight)
    whole, pooled = (head_logits(head, c, rows) for c in (clips, clips.pooled()))
    torch.testing.assert_close(pooled, whole, rtol=0, atol=1e-4)
