"""Runs a model over clips and scores it. The views of one sample become one answer first.

Shapes: B batch, K classes, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from vidgraph.errors import DataError, RecipeError, nearest
from vidgraph.evaluation.metrics import (
    SOFTMAXED,
    Scores,
    score_multi_label,
    score_single_label,
    softmaxed,
)
from vidgraph.records import ClipBatch, InputSpec

ViewFusion = Literal["mean", "max", "logits", "max_logits"]

_MAXIMA = ("max", "max_logits")
_PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}


def check_fusion(views: str) -> None:
    """Raises RecipeError if views are not fused that way."""
    known = get_args(ViewFusion)
    if views not in known:
        raise RecipeError(f"views are not fused by {views!r}{nearest(views, known)}")


def evaluate(
    model: nn.Module,
    loader: Iterable[ClipBatch],
    *,
    class_names: Sequence[str],
    skipped: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    views: ViewFusion = "mean",
    chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores `model` on all clips of `loader`.

    Clips of the same `index` are views of one sample and are fused before scoring. int64 labels [B]
    are single-label (softmax); float labels [B, K] are multi-label (sigmoid).

    Args:
        model: has `spec`; gives logits [B, K]. Its training mode is put back afterwards.
        loader: batches of clips, in any order.
        class_names: K names.
        skipped: samples that were left out; each score counts them as wrong.
        device: where the model runs.
        precision: "fp32" or "bf16" (autocast).
        views: "mean" or "max" of probabilities, or the mean ("logits") or maximum ("max_logits") of
            logits.
        chunk: most clips in one forward pass; None: the whole batch. It changes memory, not scores.
        progress: called with the number of clips just done.

    Raises:
        DataError: no clips, a label outside the classes, views of one sample that disagree on the
            label, or a model whose number of outputs is not the number of classes or whose outputs
            are not finite.
    """
    fused = _Fused(views, class_names)
    model = model.to(device)
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            fused.add(predict_batch(model, batch, device, precision, chunk), batch)
            if progress is not None:
                progress(len(batch))
    finally:
        model.train(was_training)
    return fused.scores(skipped)


def predict_batch(
    model: nn.Module,
    batch: ClipBatch,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    chunk: int | None = None,
) -> Tensor:
    """Logits of a batch, float32 [B, K] on the CPU, computed for `chunk` clips at a time.

    Raises:
        RecipeError: an unknown precision, or a model that cannot take frames of another size than
            its own.
    """
    if precision not in _PRECISIONS:
        raise RecipeError(f"unknown precision {precision!r}{nearest(precision, _PRECISIONS)}")
    dtype, kind = _PRECISIONS[precision], torch.device(device).type
    spec, step = cast(InputSpec, model.spec), chunk or len(batch)
    logits = []
    with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
        for start in range(0, len(batch), step):
            part = batch.part(start, start + step).to(device)
            try:
                logits.append(model(**part.inputs(spec)).float().cpu())
            except (RuntimeError, ValueError) as error:
                raise _other_size(error, part, spec) or error from error
    return torch.cat(logits)


def _other_size(error: Exception, batch: ClipBatch, spec: InputSpec) -> RecipeError | None:
    """What to tell the user if a model fails on frames that are not of its own size; None for all
    other failures.
    """
    given, own = tuple(batch.video.shape[3:]), (spec.height, spec.width)
    if given == own or isinstance(error, torch.OutOfMemoryError):
        return None
    what = (
        f"the model takes frames of {own[0]}x{own[1]} pixels and cannot use views of "
        f"{given[0]}x{given[1]} ({error})"
    )
    return RecipeError(f"{what}; leave out eval.full_frame and eval.crop_size")


def view_scores(logits: Tensor, multi_label: bool, views: ViewFusion) -> Tensor:
    """What is fused over views: probabilities, or the logits themselves; float64 [B, K]."""
    logits = logits.double()
    if views in ("logits", "max_logits"):
        return logits
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def fuse_views(scores: Tensor, multi_label: bool, views: ViewFusion) -> Tensor:
    """Probabilities of one sample from `view_scores` of its views: [V, K] to [K]."""
    return _finish(scores.amax(0) if views in _MAXIMA else scores.mean(0), multi_label, views)


def _finish(fused: Tensor, multi_label: bool, views: ViewFusion) -> Tensor:
    """Probabilities, [..., K]; only fused logits are not yet."""
    if views in ("mean", "max"):
        return fused
    return fused.sigmoid() if multi_label else fused.softmax(-1)


class _Fused:
    """Collects the views of each sample by its index."""

    def __init__(self, views: ViewFusion, class_names: Sequence[str]) -> None:
        check_fusion(views)
        self.views: ViewFusion = views
        self.class_names = class_names
        self.rows: dict[
            int, Tensor
        ] = {}  # running sum or maximum, so that 30 views cost no more memory than one
        self.num_views: dict[int, int] = {}
        self.labels: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.multi_label = False
        self.softmaxed = True  # until a batch is not

    def add(self, logits: Tensor, batch: ClipBatch) -> None:
        """Takes in the logits [B, K] of a batch."""
        names = batch.names or [f"clip {i}" for i in batch.index.tolist()]
        self._check(logits, batch, names)
        self.multi_label = batch.label.ndim == 2
        self.softmaxed &= self.multi_label and softmaxed(logits.numpy())
        scores = view_scores(logits, self.multi_label, self.views)
        for row, index, label, name in zip(
            scores, batch.index.tolist(), batch.label.tolist(), names, strict=True
        ):
            if self.labels.setdefault(index, label) != label:
                raise DataError(f"{name}: two views of sample {index} have different labels")
            seen = self.rows.get(index)
            self.rows[index] = (
                row
                if seen is None
                else torch.maximum(seen, row)
                if self.views in _MAXIMA
                else seen + row
            )
            self.num_views[index] = self.num_views.get(index, 0) + 1
            self.names[index] = name

    def _check(self, logits: Tensor, batch: ClipBatch, names: list[str]) -> None:
        num_classes = len(self.class_names)
        if logits.shape[1] != num_classes:
            raise DataError(
                f"the model has {logits.shape[1]} outputs but the data set has {num_classes} "
                "classes; re-head it first"
            )
        finite = torch.isfinite(logits).all(1)
        if not finite.all():
            raise DataError(
                f"{names[int((~finite).nonzero()[0])]}: the model's output is not finite; are its "
                "weights sound?"
            )
        if batch.label.ndim == 2 and batch.label.shape[1] != num_classes:
            raise DataError(
                f"{names[0]}: labels hold {batch.label.shape[1]} classes, not {num_classes}"
            )
        outside = (
            (batch.label < 0) | (batch.label >= num_classes)
            if batch.label.ndim == 1
            else torch.zeros(1, dtype=torch.bool)
        )
        if outside.any():
            place = int(outside.nonzero()[0])
            raise DataError(
                f"{names[place]}: label {int(batch.label[place])} is outside the {num_classes} "
                "classes; check the table"
            )

    def scores(self, skipped: int) -> Scores:
        """Fuses and scores, in the order of the data set."""
        if not self.rows:
            raise DataError(
                "there are no clips to score; is the split empty, or are all its files on the "
                "skip list?"
            )
        order = sorted(self.rows)
        counts = torch.tensor([1 if self.views in _MAXIMA else self.num_views[i] for i in order])
        probabilities = _finish(
            torch.stack([self.rows[i] for i in order]) / counts[:, None],
            self.multi_label,
            self.views,
        )
        score = score_multi_label if self.multi_label else score_single_label
        scores = score(
            probabilities.float().numpy(),
            np.array([self.labels[i] for i in order]),
            self.class_names,
            indices=np.array(order, dtype=np.int64),
            names=[self.names[i] for i in order],
            skipped=skipped,
        )
        return replace(scores, notes=(SOFTMAXED,)) if self.softmaxed else scores
