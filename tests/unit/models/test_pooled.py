"""Heads that pool: what is averaged, on the training size and on larger frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import nn

from vidgraph.models.pooled import PooledClassifier
from vidgraph.records import InputSpec

SPEC = InputSpec(num_frames=2, height=3, width=4, channels=3, stride_frames=1)


def classifier(**options: Any) -> PooledClassifier:
    """The clip is its own feature map."""
    torch.manual_seed(0)
    return PooledClassifier(
        SPEC, nn.Identity(), nn.Identity(), in_channels=3, num_classes=5, **options
    ).eval()


def windows(video: torch.Tensor) -> list[torch.Tensor]:
    """Every part of 3 x 4 cells, by hand."""
    height, width = video.shape[-2:]
    return [video[..., y : y + 3, x : x + 4] for y in range(height - 2) for x in range(width - 3)]


@pytest.mark.parametrize(
    "options",
    [{}, {"window": (3, 4)}, {"window": (3, 4), "average": "probabilities"}, {"window": (9, 9)}],
)
def test_at_the_training_size_all_are_the_same(options: dict[str, Any]) -> None:
    model, video = classifier(**options), torch.randn(2, 3, 2, 3, 4)
    expected = video.mean(dim=(2, 3, 4)) @ model.classifier.weight.T + model.classifier.bias
    assert_close_to_scale(model(video), expected)


def test_whole_map_of_a_larger_frame_is_one_mean() -> None:
    model, video = classifier(), torch.randn(2, 3, 2, 5, 7)
    assert_close_to_scale(model(video), model.classifier(video.mean(dim=(2, 3, 4))))


def test_windows_of_a_larger_frame_are_classified_one_by_one() -> None:
    plain, video = classifier(), 5 * torch.randn(2, 3, 2, 5, 7)
    parts = torch.stack([plain(part) for part in windows(video)])
    assert len(parts) == 12
    logits = classifier(window=(3, 4))(video)
    assert_close_to_scale(logits, parts.mean(0))
    probabilities = classifier(window=(3, 4), average="probabilities")(video).softmax(-1)
    assert_close_to_scale(probabilities, parts.softmax(-1).mean(0))
    assert (probabilities - logits.softmax(-1)).abs().max() > 0.01


def test_dropout_acts_in_training_only() -> None:
    model, video = classifier(dropout=0.5), torch.randn(1, 3, 2, 3, 4)
    assert torch.equal(model(video), model(video))
    model.train()
    answers = torch.stack([model(video) for _ in range(200)])
    assert answers.std(0).min() > 0
    left_out = model.classifier.bias.expand_as(answers) == answers
    assert left_out.all(dim=(1, 2)).float().mean().item() == pytest.approx(
        0.125, abs=0.08
    )  # all three channels at once
