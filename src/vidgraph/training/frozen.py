"""Trains heads on the maps of a frozen backbone, which are all at hand: no frame is read.

The rate is constant and the weights that count are a running average of those of the last steps, so
that the epochs chosen on validation can be repeated on more clips.

Shapes: n clips, V views (as it is; mirrored), D channels, T steps of the map, h w map, K classes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.util import atomic_write

_AVERAGED_EPOCHS = 3  # over about so many the weights are averaged
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class FrozenClips:
    """Clips as heads see them: in training one of their views, in tests the mean logits of all.

    Attributes:
        features: their maps, float16 or float32 [n, V, D, T, h, w].
        labels: class indices, int64 [n].
    """

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_views(self) -> int:
        return self.features.shape[1]

    def view(self, rows: Tensor, view: Tensor | int) -> Tensor:
        """Maps of some clips, float32 [n, D, T, h, w]."""
        return self.features[rows, view].float()

    def pooled(self) -> FrozenClips:
        """The same with the mean of each step's map in place of the map, [n, V, D, T, 1, 1]."""
        parts = self.features.split(_READ_AT_ONCE)
        means = torch.cat([part.float().mean((4, 5), keepdim=True) for part in parts])
        return replace(self, features=means)


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained.

    Attributes:
        lr: of AdamW.
        weight_decay: likewise.
        batch_size: clips per step.
        max_epochs: passes over the training clips; the best number of them is found on validation.
        patience: it ends after so many epochs without a better one.
        label_smoothing: of the loss.
    """

    lr: float = 1e-4
    weight_decay: float = 1.0
    batch_size: int = 32
    max_epochs: int = 60
    patience: int = 8
    label_smoothing: float = 0.1


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: the mean training loss, and loss and accuracy on validation."""

    train_loss: float
    val_loss: float | None = None
    val_accuracy: float | None = None


@dataclass(frozen=True)
class TrainedHead:
    """A head whose epochs were chosen on validation clips, trained again on them too.

    Attributes:
        state: its tensors.
        epochs: how many were chosen.
        history: how that training went.
        val_logits: of the validation clips, by the head that never saw them, [n, K].
        test_logits: of the test clips, by the head that counts, [n, K].
        seconds: that all of it took.
    """

    state: dict[str, Tensor]
    epochs: int
    history: list[Epoch]
    val_logits: Tensor
    test_logits: Tensor
    seconds: float


def train_and_choose(
    build: Callable[[], nn.Module],
    clips: FrozenClips,
    rows: Mapping[str, Tensor],
    how: HeadTraining,
    seed: int,
    kept: Path,
) -> TrainedHead:
    """Chooses the number of epochs on `val`, trains so long on `train` and `val` together, and
    scores `test`. What `kept` holds of an earlier call is read in place of that.

    Args:
        build: makes the head with fresh weights.
        clips: all clips.
        rows: of clips, by split; without `val`, `how.max_epochs` are trained.
        how: rates and lengths.
        seed: of the weights and of the order of clips.
        kept: file that the result is kept in.
    """
    if kept.is_file():
        return _load(kept)
    begin = time.perf_counter()
    train, val, nobody = rows["train"], rows.get("val"), torch.zeros(0, dtype=torch.int64)
    history, epochs, val_logits = list[Epoch](), how.max_epochs, torch.zeros(0)
    if val is not None:
        head, history = train_head(build, clips, train, how, seed, val=val)
        epochs, val_logits = best_epoch(history) + 1, head_logits(head, clips, val)
        train = torch.cat([train, val])
    head, _ = train_head(build, clips, train, how, seed, epochs=epochs)
    test_logits = head_logits(head, clips, rows.get("test", nobody))
    trained = TrainedHead(
        _copy(head), epochs, history, val_logits, test_logits, time.perf_counter() - begin
    )
    _save(trained, kept)
    return trained


def _save(trained: TrainedHead, file: Path) -> None:
    tensors = {f"state.{name}": tensor.contiguous() for name, tensor in trained.state.items()}
    tensors |= {"val_logits": trained.val_logits, "test_logits": trained.test_logits}
    facts = {
        "epochs": trained.epochs,
        "seconds": trained.seconds,
        "history": [asdict(epoch) for epoch in trained.history],
    }
    with atomic_write(file) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))


def _load(file: Path) -> TrainedHead:
    with safetensors.safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(opened.metadata()["facts"])
    logits = tensors.pop("val_logits"), tensors.pop("test_logits")
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
    history = [Epoch(**epoch) for epoch in facts["history"]]
    return TrainedHead(state, facts["epochs"], history, *logits, facts["seconds"])


def train_head(
    build: Callable[[], nn.Module],
    clips: FrozenClips,
    train: Tensor,
    how: HeadTraining,
    seed: int,
    *,
    val: Tensor | None = None,
    epochs: int | None = None,
) -> tuple[nn.Module, list[Epoch]]:
    """A trained head in evaluation mode, and how its epochs went.

    Args:
        build: makes the head with fresh weights.
        clips: all clips.
        train: rows to train on.
        how: rates and lengths.
        seed: of the weights and of the order of clips.
        val: rows to choose the number of epochs on: the head is that of the best epoch.
        epochs: without `val`: train so many.
    """
    torch.manual_seed(seed)
    head = build()
    optimizer = torch.optim.AdamW(_groups(head, how), lr=how.lr)
    steps = max(1, len(train) // how.batch_size)
    averaged = torch.optim.swa_utils.AveragedModel(
        head,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(1 - 1 / (_AVERAGED_EPOCHS * steps)),
        use_buffers=True,
    )
    best, kept, history = float("inf"), None, list[Epoch]()
    for number in range(epochs or how.max_epochs):
        loss = _train_epoch(head.train(), averaged, optimizer, clips, train, how)
        here = Epoch(loss)
        if val is not None:
            logits = head_logits(averaged.module, clips, val)
            loss = float(F.cross_entropy(logits, clips.labels[val]))
            right = (logits.argmax(1) == clips.labels[val]).float().mean()
            here = Epoch(here.train_loss, loss, float(right))
            if loss < best:
                best, kept = loss, _copy(averaged.module)
        history.append(here)
        if val is not None and number - best_epoch(history) >= how.patience:
            break
    trained: nn.Module = averaged.module
    if kept is not None:
        trained.load_state_dict(kept)
    return trained.eval(), history


def best_epoch(history: Sequence[Epoch]) -> int:
    """The index of the epoch of the least loss on validation."""
    losses = [float("inf") if epoch.val_loss is None else epoch.val_loss for epoch in history]
    return losses.index(min(losses))


def head_logits(head: nn.Module, clips: FrozenClips, rows: Tensor) -> Tensor:
    """Logits of some clips, float32 [n, K]."""
    head.eval()
    with torch.inference_mode():
        views = [
            torch.cat([head(clips.view(part, view)) for part in rows.split(_READ_AT_ONCE)])
            for view in range(clips.num_views)
        ]
    return torch.stack(views).mean(dim=0)


def _train_epoch(
    head: nn.Module,
    averaged: Any,
    optimizer: torch.optim.Optimizer,
    clips: FrozenClips,
    train: Tensor,
    how: HeadTraining,
) -> float:
    """One pass over the clips in a new order; returns the mean loss."""
    order, total = train[torch.randperm(len(train))], 0.0
    count = max(1, round(len(order) / how.batch_size))
    for rows in order.tensor_split(count):
        logits = head(clips.view(rows, torch.randint(clips.num_views, (len(rows),))))
        loss = F.cross_entropy(logits, clips.labels[rows], label_smoothing=how.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(head)
        total += loss.item() * len(rows)
    return total / len(order)


def _groups(head: nn.Module, how: HeadTraining) -> list[dict[str, Any]]:
    """Vectors are not decayed."""
    decayed = [p for p in head.parameters() if p.ndim > 1]
    others = [p for p in head.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": how.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _copy(head: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in head.state_dict().items()}
