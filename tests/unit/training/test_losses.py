"""Loss, counts and validation scores against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vidgraph.models.base import VideoModel
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.training.losses import classification_loss, training_loss, validate

SPEC = InputSpec(1, 2, 2, channels=1, stride_frames=1)


def test_losses() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    single, several = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = (-math.log(0.75) - math.log(0.5)) / 2, (-math.log(0.75) - 3 * math.log(0.5)) / 4
    losses = [classification_loss(logits, label).item() for label in (single, several)]
    assert losses == pytest.approx(expected)


class Pixels(VideoModel):
    """The logits are the first pixels."""

    def forward(self, video, flow=None, regions=None) -> torch.Tensor:
        return video.flatten(1)[:, :3].float()


class Helped(Pixels):
    def training_logits(self, video, flow=None, regions=None) -> list[tuple[float, torch.Tensor]]:
        return [(1.0, self(video)), (0.5, 2 * self(video))]


def clips(pixels: list[list[float]], labels: list) -> ClipBatch:
    video = torch.tensor(pixels).view(len(labels), 1, 1, 2, 2)
    index = torch.arange(len(labels))
    return ClipBatch(video, torch.tensor(labels), index, index[:, None])


@pytest.mark.parametrize(
    ("labels", "right"),
    [([0, 1], 1), ([[1, 1, 0], [0, 1, 1]], 2), ([[0, 1, 0], [0, 0, 0]], 0)],
)
def test_counts_with_one_and_with_several_labels(labels: list, right: int) -> None:
    batch = clips([[2.0, 1.0, 0.0, 0], [0.0, 1.0, 2.0, 0]], labels)
    assert training_loss(Pixels(SPEC, 3), batch, SPEC)[1].item() == right


def test_a_model_may_say_what_its_loss_is_taken_of() -> None:
    batch = clips([[3.0, 3.0, 3.0, 0], [3.0, 3.0, 3.0, 0]], [0, 1])
    assert training_loss(Pixels(SPEC, 3), batch, SPEC)[0].item() == pytest.approx(math.log(3))
    assert training_loss(Helped(SPEC, 3), batch, SPEC)[0].item() == pytest.approx(1.5 * math.log(3))


class Brightness(VideoModel):
    """Class 1 for bright clips; has one module that is kept in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(SPEC, 2)
        self.frozen, self.drop = torch.nn.BatchNorm1d(2).eval(), torch.nn.Dropout(0.5)

    def forward(self, video, flow=None, regions=None) -> torch.Tensor:
        bright = video.float().mean((1, 2, 3, 4)) / 255
        return self.drop(torch.stack([torch.full_like(bright, 0.5), bright], 1))


def test_validate_scores_whole_splits_and_restores_modes() -> None:
    values = torch.tensor([0, 255, 255, 0, 255], dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 0, 1])
    batches = []
    for part in (slice(0, 3), slice(3, 5)):
        index = torch.arange(5)[part]
        video = values[part].view(-1, 1, 1, 1, 1).expand(-1, 1, 1, 2, 2)
        batches.append(ClipBatch(video, labels[part], index, index[:, None]))
    model = Brightness().train()
    model.frozen.eval()
    loss, score, name = validate(model, batches)
    assert (score, name) == (80.0, "accuracy")
    rights = -math.log(1 / (1 + math.exp(-0.5)))  # of four clips; the fifth is wrong by as much
    assert loss == pytest.approx((4 * rights + rights + 0.5) / 5)
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
