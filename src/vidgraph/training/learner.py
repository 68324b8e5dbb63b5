"""What one step does: forward, loss, optimiser and rate; and how a validation split is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgraph.errors import RunError
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.training.optim import build_optimizer, schedule_factor, set_rate
from vidgraph.training.stages import Stage


@dataclass
class Window:
    """Sums since the last row of metrics.csv; saved with the checkpoint so that a continued
    training writes the same rows.
    """

    loss: float = 0.0
    correct: float = 0.0
    steps: int = 0
    clips: int = 0


@dataclass(frozen=True)
class Validation:
    """Scores of the validation split: mean loss, and accuracy in percent or, with several labels
    per clip, mAP in percent.
    """

    loss: float
    accuracy: float | None
    map: float | None

    @property
    def score(self) -> tuple[float, float]:
        """Larger is better: accuracy or mAP, then the smaller loss."""
        return (self.accuracy if self.accuracy is not None else self.map or 0.0, -self.loss)


class Learner(L.LightningModule):
    """Wraps a model for Lightning.

    Args:
        model: has `spec`; returns logits [B, num_classes].
        stage: what to train by, and where in the whole training it lies.
        clips_seen: where in the whole training it goes on.
    """

    def __init__(self, model: nn.Module, stage: Stage, clips_seen: int) -> None:
        super().__init__()
        self.model, self.stage, self.recipe = model, stage, stage.recipe
        self.clips_seen = clips_seen
        self.window = Window()

    def training_step(self, batch: ClipBatch, batch_index: int) -> Tensor:
        scores = training_scores(self.model, batch)
        logits = scores[0][1]  # [B, num_classes]
        loss = torch.stack(
            [weight * classification_loss(part, batch.label) for weight, part in scores]
        ).sum()
        value = loss.item()
        if not math.isfinite(value):
            raise RunError(
                f"the loss is {value} after {self.clips_seen:,} clips; training stopped, "
                "last.ckpt is from before. "
                "Lower train.lr, set train.clip_norm, or use train.precision fp32"
            )
        self.window.loss += value
        self.window.correct += correct_count(logits, batch.label)
        self.window.steps += 1
        self.window.clips += len(batch)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.recipe)

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        seen, length = self.clips_seen - self.stage.first, self.stage.last - self.stage.first
        set_rate(self.trainer.optimizers[0], schedule_factor(self.recipe, seen, length))

    def transfer_batch_to_device(
        self, batch: ClipBatch, device: torch.device, dataloader_idx: int
    ) -> ClipBatch:
        return batch.to(device, non_blocking=True)


def training_scores(model: nn.Module, batch: ClipBatch) -> list[tuple[float, Tensor]]:
    """The logits that the loss is taken of, [B, num_classes] each, with the weight of each; what
    counts as right goes by the first.

    Of most models that is their output. One that is trained on several says so by a method
    `training_logits`.
    """
    inputs = batch.inputs(cast(InputSpec, model.spec))
    if not hasattr(model, "training_logits"):
        return [(1.0, model(**inputs))]
    return cast(Callable[..., list[tuple[float, Tensor]]], model.training_logits)(**inputs)


def classification_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy for class indices [B]; mean binary cross-entropy for 0/1 rows [B,
    num_classes].
    """
    if label.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits.float(), label.float())
    return F.cross_entropy(logits.float(), label)


def correct_count(logits: Tensor, label: Tensor) -> float:
    """Clips whose likeliest class is the label, or one of the labels."""
    best = logits.argmax(1)
    right = label.gather(1, best[:, None])[:, 0] > 0 if label.ndim == 2 else best == label
    return float(right.sum().item())


@torch.inference_mode()
def validate(
    model: nn.Module,
    batches: Iterable[ClipBatch],
    device: torch.device,
    bf16: bool,
    gather: Any = None,
) -> Validation:
    """Scores `batches` and leaves the model's modules in the modes that they were in.

    Args:
        gather: with several processes, a function from this process's (logits, labels) to the list
            of all processes' pairs.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    logits, labels = [], []
    for batch in batches:
        inputs = batch.to(device, non_blocking=True).inputs(cast(InputSpec, model.spec))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits.append(model(**inputs).float().cpu())
        labels.append(batch.label.cpu())
    for module, training in modes.items():
        module.training = training
    mine = (torch.cat(logits), torch.cat(labels)) if logits else None
    pairs = [pair for pair in (gather(mine) if gather else [mine]) if pair is not None]
    return score(torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs]))


def score(logits: Tensor, labels: Tensor) -> Validation:
    """Loss and accuracy or mAP over a whole split: logits [M, num_classes], labels [M] or [M,
    num_classes].
    """
    loss = classification_loss(logits, labels).item()
    if labels.ndim == 1:
        return Validation(loss, 100 * correct_count(logits, labels) / len(labels), None)
    from torchmetrics.functional.classification import multilabel_average_precision

    present = labels.sum(0) > 0  # a class that no clip shows has no average precision
    if not present.any():
        return Validation(loss, None, 0.0)
    scores = multilabel_average_precision(
        logits[:, present].sigmoid(), labels[:, present].long(), int(present.sum()), average="macro"
    )
    return Validation(loss, None, 100 * float(scores))
