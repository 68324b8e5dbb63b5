"""A training that takes a moment: a network of three parts over 40 clips, for the tests of
`vidgraph.training`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidgraph.errors import DataError
from vidgraph.models.base import VideoModel
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.training.checkpoint import read_metrics
from vidgraph.training.loop import Progress, fit
from vidgraph.training.phases import TrainOptions

QUICK: dict[str, Any] = {
    **{"batch_size": 8, "lr": 1e-2, "precision": "fp32", "device": "cpu", "workers": 0},
    "tensorboard": False,
}
CURVE = ("clips", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")


class ThreeParts(VideoModel):
    """Tells bright from dark clips; its dropout draws random numbers in every step.

    `seen` lists the clips that it learned from; at `break_at` of them it fails.
    """

    def __init__(self, break_at: int | None = None) -> None:
        super().__init__(InputSpec(2, 4, 4, channels=1, stride_frames=1), num_classes=2)
        torch.manual_seed(5)
        self.body, self.norm = nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 2)
        self.break_at, self.seen = break_at, list[int]()

    def forward(self, video: Any, flow: Any = None, regions: Any = None) -> torch.Tensor:
        if self.training:
            if len(self.seen) == self.break_at:
                raise DataError("the training breaks off")
            self.seen += video[:, 0, 0, 0, 0].tolist()  # the first pixel is the clip's number
        return self.head(self.drop(self.norm(self.body(video.flatten(1).float() / 255)).relu()))


@dataclass
class Splits:
    """What a training reads."""

    train: Any
    val: Any
    shuffle: bool


class Clips:
    """Random clips, every second brighter; the first pixel of clip i is i. Before the batch that
    follows on `interrupt_at` clips it interrupts the process."""

    def __init__(self, length: int = 40, interrupt_at: int | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.label = torch.arange(length) % 2
        noise = torch.randint(0, 128, (length, 1, 2, 4, 4), generator=generator)
        self.video = (noise + 60 * self.label.view(-1, 1, 1, 1, 1)).to(torch.uint8)
        self.video[:, 0, 0, 0, 0] = torch.arange(length)
        self.interrupt_at, self.served = interrupt_at, 0

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, indices: list[int]) -> ClipBatch:
        self.served += len(indices)
        if self.interrupt_at is not None and self.served > self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        index = torch.tensor(indices)
        return ClipBatch(self.video[index], self.label[index], index, index[:, None])


def save_weights(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "weights.pt")


def kept_weights(folder: Path) -> dict[str, torch.Tensor]:
    """What `save_weights` wrote last."""
    weights: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return weights


def kept_loss(folder: Path) -> float:
    """The loss of the kept weights over all clips."""
    kept, data = ThreeParts(), Clips()
    kept.load_state_dict(kept_weights(folder))
    with torch.no_grad():
        return nn.functional.cross_entropy(kept.eval()(data.video), data.label).item()


def train(
    folder: Path,
    options: TrainOptions,
    resume: bool = False,
    *,
    data: Any = None,
    val: Any = "same",
    model: Any = None,
    shuffle: bool = True,
) -> Progress:
    folder.mkdir(exist_ok=True)
    splits = Splits(data or Clips(), Clips() if val == "same" else val, shuffle)
    return fit(model or ThreeParts(), splits, options, folder, save_weights, resume)


def curve(folder: Path) -> list[tuple[str, ...]]:
    """The rows of metrics.csv, without what depends on the clock."""
    return [tuple(row[name] for name in CURVE) for row in read_metrics(folder / "metrics.csv")]


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that differ."""
    return {name for name in one if not torch.equal(one[name], other[name])}
