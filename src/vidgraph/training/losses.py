"""What a training step and a validation measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgraph.evaluation.inference import Precision, evaluating, predict_batch, scores_of_logits
from vidgraph.records import ClipBatch, InputSpec


def training_loss(model: Any, batch: ClipBatch, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """The loss of a batch, over all of a model's `training_logits` by their weights; and how many
    clips' likeliest class, by the first of these, is (one of) the labels.
    """
    weighted, label = model.training_logits(**batch.inputs(spec)), batch.label
    losses = [weight * classification_loss(logits, label) for weight, logits in weighted]
    best = weighted[0][1].argmax(1)
    right = best == label if label.ndim == 1 else label.gather(1, best[:, None])[:, 0] > 0
    return torch.stack(losses).sum(), right.sum()


def classification_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy for class indices [B]; mean binary cross-entropy for 0/1 rows."""
    if label.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits.float(), label.float())
    return F.cross_entropy(logits.float(), label)


def validate(
    model: nn.Module,
    batches: Iterable[ClipBatch],
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    world_size: int = 1,
) -> tuple[float, float, str]:
    """The mean loss of all processes' batches together; their accuracy or, with several labels per
    clip, mAP in percent, as `vidgraph eval` reports them; and which it is, "accuracy" or "map".
    """
    mine: list[Tensor] = []
    with evaluating(model):
        for batch in batches:
            mine += [predict_batch(model, batch, device, precision=precision), batch.label]
    shares: list[Any] = [mine] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(shares, mine)
    logits = torch.cat([part for share in shares for part in share[::2]])
    labels = torch.cat([part for share in shares for part in share[1::2]])
    scores = scores_of_logits(logits, labels)
    loss = classification_loss(logits, labels).item()
    if scores.multi_label:
        return loss, scores.map or 0.0, "map"
    return loss, scores.accuracy, "accuracy"
