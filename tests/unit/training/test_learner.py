"""Loss, counts and validation scores against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vidgraph.config import TrainRecipe
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.training.learner import (
    Learner,
    classification_loss,
    correct_count,
    score,
    training_scores,
    validate,
)
from vidgraph.training.stages import Stage


def test_losses() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    assert classification_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(
        (-math.log(0.75) - math.log(0.5)) / 2, rel=1e-5
    )
    hot = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert classification_loss(logits, hot).item() == pytest.approx(
        (-math.log(0.75) - 3 * math.log(0.5)) / 4, rel=1e-5
    )


def test_counts_with_one_and_with_several_labels() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert correct_count(logits, torch.tensor([0, 1])) == 1
    assert correct_count(logits, torch.tensor([[1, 1, 0], [0, 1, 1]])) == 2
    assert correct_count(logits, torch.tensor([[0, 1, 0], [0, 0, 0]])) == 0


def test_a_model_may_say_what_its_loss_is_taken_of() -> None:
    batch = ClipBatch(
        torch.full((2, 1, 1, 2, 2), 3.0),
        torch.tensor([0, 1]),
        torch.arange(2),
        torch.zeros(2, 1, dtype=torch.int64),
    )

    class Plain(nn.Module):
        input_spec = InputSpec(1, 2, 2, channels=1, stride_frames=1)

        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return video.mean((2, 3, 4)).expand(-1, 2)

    class Helped(Plain):
        def training_logits(self, video: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
            return [(1.0, self(video)), (0.5, 2 * self(video))]

    assert [(weight, logits.tolist()) for weight, logits in training_scores(Plain(), batch)] == [
        (1.0, [[3.0, 3.0], [3.0, 3.0]])
    ]
    assert [
        (weight, logits[0, 0].item()) for weight, logits in training_scores(Helped(), batch)
    ] == [(1.0, 3.0), (0.5, 6.0)]
    step = Learner.training_step(
        Learner(Helped(), Stage("", TrainRecipe(clips=2), 0, 2, 2), 0), batch, 0
    )
    assert step.item() == pytest.approx(1.5 * math.log(2), rel=1e-5)


def test_multi_label_score_is_the_mean_over_classes_that_occur() -> None:
    logits = torch.tensor([[3.0, 0.0, 9.0], [2.0, 1.0, 9.0], [1.0, 2.0, 9.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    result = score(logits, labels)
    assert result.accuracy is None
    assert result.map == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1 / 3) / 2, rel=1e-5)


class Brightness(nn.Module):
    """Class 1 for bright clips; has one module that is kept in evaluation mode."""

    input_spec = InputSpec(1, 2, 2, channels=1, stride_frames=1)

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.drop = nn.BatchNorm1d(2).eval(), nn.Dropout(0.5)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        bright = video.float().mean((1, 2, 3, 4)) / 255
        return self.drop(torch.stack([torch.full_like(bright, 0.5), bright], 1))


def test_validate_scores_whole_splits_and_restores_modes() -> None:
    values = torch.tensor([0, 255, 255, 0, 255], dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 0, 1])
    batches = []
    for part in (slice(0, 3), slice(3, 5)):
        index = torch.arange(5)[part]
        batches.append(
            ClipBatch(
                values[part].view(-1, 1, 1, 1, 1).expand(-1, 1, 1, 2, 2),
                labels[part],
                index,
                index[:, None],
            )
        )
    model = Brightness().train()
    model.frozen.eval()
    result = validate(model, batches, torch.device("cpu"), bf16=False)
    assert result.accuracy == 80.0
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
    halves = [batches[:1], batches[1:]]  # two processes, each with its share

    def gather(mine: object) -> list[object]:
        other = torch.cat([model.eval()(b.video) for b in halves[1]]), labels[3:]
        return [mine, other]

    assert validate(model, halves[0], torch.device("cpu"), False, gather).loss == pytest.approx(
        result.loss, rel=1e-5
    )
