"""Reads clips, runs a model over them and scores it. The views of one sample become one answer
first.

Shapes: B batch, K classes, V views.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from vidgraph.errors import DataError, RecipeError, RunError, VidgraphError
from vidgraph.evaluation.metrics import SOFTMAXED, Scores, softmaxed
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.views import Fusion, ViewPlan

Precision = Literal["fp32", "bf16"]
_MAXIMA = ("max", "max_logits")


def read_batches(
    dataset: Any, batches: Iterable[list[int]], workers: int, pin_memory: bool = False
) -> Iterator[ClipBatch]:
    """These rows of a data set, batch by batch, read by worker processes; 0 reads in this one."""
    from torch.utils.data import DataLoader

    yield from DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_joined,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # its own: the training's random numbers do not advance
    )


def split_rows(rows: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """So many rows in batches, of which process `rank` of `world_size` takes its share."""
    mine = range(rank, rows, world_size)
    return [list(mine[start : start + batch_size]) for start in range(0, len(mine), batch_size)]


def eval_batches(dataset: Any, views: ViewPlan) -> list[list[int]]:
    """Clips that are read together: as many as fit, with their crops, into one forward pass, but of
    whole frames, whose shapes differ from video to video, only those of one video."""
    if not views.full_frame:
        return split_rows(len(dataset), max(1, views.batch_size // views.views_per_clip))
    clips = views.num_views if hasattr(dataset, "views") else len(dataset)
    return [
        list(range(start, min(start + views.batch_size, first + clips)))
        for first in range(0, len(dataset), clips)
        for start in range(first, first + clips, views.batch_size)
    ]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what torch raises for a full GPU, for a killed worker process and, with a traceback in
    its text, for bad input that a worker found into errors of one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError("the GPU's memory is full; lower batch_size, or run on the CPU") from error
    except (RuntimeError, VidgraphError) as error:
        text = " ".join(str(error).split())
        if found := re.match(r"Caught .*vidgraph\.errors\.\w+: (.*)", text):
            kind = type(error) if isinstance(error, VidgraphError) else VidgraphError
            raise kind(found[1]) from error
        if "DataLoader worker" in text and not text.startswith("Caught"):
            killed = "a process that reads clips was killed, most likely for lack of memory"
            raise RunError(f"{killed}; lower the number of workers or batch_size") from error
        raise


def _joined(clips: ClipBatch | list[ClipBatch]) -> ClipBatch:
    return ClipBatch.joined(clips) if isinstance(clips, list) else clips


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the first process alone decides how to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def bf16_runs(device: str) -> bool:
    """Whether LSTMs take bf16: oneDNN has none where DNNL_MAX_CPU_ISA holds it below AVX-512."""
    if device != "cpu":
        return True
    try:
        with torch.random.fork_rng([]), torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
    except RuntimeError:
        return False
    return True


def predict_batch(
    model: nn.Module,
    batch: ClipBatch,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Logits of a batch, float32 [B, K] on the CPU, computed for `batch_size` clips at a time."""
    spec, step = cast(InputSpec, model.spec), batch_size or len(batch)
    given, own = tuple(batch.video.shape[3:]), (spec.height, spec.width)
    device, logits = torch.device(device), []
    half = precision == "bf16" and bf16_runs(device.type)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=half)
    with torch.inference_mode(), autocast:
        for start in range(0, len(batch), step):
            part = batch.part(start, start + step).to(device, non_blocking=True)
            try:
                logits.append(model(**part.inputs(spec)).float().cpu())
            except (RuntimeError, ValueError) as error:
                if given == own or isinstance(error, torch.OutOfMemoryError):
                    raise
                raise RecipeError(
                    f"the model takes frames of {own[0]}x{own[1]} pixels and cannot use views of "
                    f"{given[0]}x{given[1]} ({error}); leave out eval.full_frame and eval.crop_size"
                ) from error
    return torch.cat(logits)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each of its modules is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def view_scores(logits: Tensor, multi_label: bool, fusion: Fusion) -> Tensor:
    """What is fused over views: probabilities, or the logits themselves; float64 [B, K]."""
    logits = logits.double()
    if fusion in ("logits", "max_logits"):
        return logits
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def fuse_views(scores: Tensor, multi_label: bool, fusion: Fusion) -> Tensor:
    """Probabilities of one sample from `view_scores` of its views: [V, K] to [K]."""
    return _finish(scores.amax(0) if fusion in _MAXIMA else scores.mean(0), multi_label, fusion)


def _finish(fused: Tensor, multi_label: bool, fusion: Fusion) -> Tensor:
    """Probabilities, [..., K]; only fused logits are not yet."""
    if fusion in ("mean", "max"):
        return fused
    return fused.sigmoid() if multi_label else fused.softmax(-1)


def evaluate(
    model: nn.Module,
    batches: Iterable[ClipBatch],
    *,
    class_names: Sequence[str],
    skipped: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    fusion: Fusion = "mean",
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores `model` on all clips of `batches`.

    Clips of the same `index` are views of one sample and are fused before scoring. int64 labels [B]
    are single-label (softmax); float labels [B, K] are multi-label (sigmoid).

    Args:
        model: gives logits [B, K]. The modes of its modules are put back afterwards.
        batches: clips, in any order.
        class_names: K names.
        skipped: samples that were left out; each score counts them as wrong.
        device: where the model runs.
        precision: "fp32" or "bf16" (autocast).
        fusion: "mean" or "max" of probabilities, or the mean ("logits") or maximum ("max_logits")
            of logits.
        batch_size: most clips in one forward pass; None: all. It changes memory, not scores.
        progress: called with the number of clips just done.

    Raises:
        DataError: no clips, labels outside the classes or unlike for views of one sample, or
            outputs that are not finite or not one per class.
    """
    samples, model = _Samples(fusion, class_names), model.to(device)
    with evaluating(model), one_line_errors():
        for batch in batches:
            samples.add(predict_batch(model, batch, device, batch_size, precision), batch)
            if progress is not None:
                progress(len(batch))
    return samples.scores(skipped)


def scores_of_logits(logits: Tensor, labels: Tensor) -> Scores:
    """The scores of samples with one view each: logits [n, K], labels [n] or [n, K]."""
    samples = _Samples("mean", [f"class {k}" for k in range(logits.shape[1])])
    nothing = torch.empty(len(labels), 0)
    samples.add(logits, ClipBatch(nothing, labels, torch.arange(len(labels)), nothing))
    return samples.scores(skipped=0)


class _Samples:
    """Collects the views of each sample by its index."""

    def __init__(self, fusion: Fusion, class_names: Sequence[str]) -> None:
        self.fusion: Fusion = fusion
        self.class_names, self.multi_label = class_names, False
        # A running sum or maximum, so that 250 views cost no more memory than one.
        self.fused: dict[int, Tensor] = {}
        self.num_views: Counter[int] = Counter()
        self.labels: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.softmaxed = True  # until a batch is not

    def add(self, logits: Tensor, batch: ClipBatch) -> None:
        """Takes in the logits [B, K] of a batch."""
        count, self.multi_label = len(self.class_names), batch.label.ndim == 2
        if logits.shape[1] != count:
            raise DataError(
                f"the model has {logits.shape[1]} outputs but the data set has {count} classes; "
                "give it another head first"
            )
        self.softmaxed &= self.multi_label and softmaxed(logits.numpy())
        rows, finite = view_scores(logits, self.multi_label, self.fusion), logits.isfinite().all(1)
        names = batch.names or [f"clip {i}" for i in batch.index.tolist()]
        parts = (names, batch.index.tolist(), batch.label.tolist(), rows, finite.tolist())
        for name, index, label, row, is_finite in zip(*parts, strict=True):
            if not is_finite:
                raise DataError(f"{name}: the model's output is not finite; are its weights sound?")
            if self.multi_label and len(label) != count:
                raise DataError(f"{name}: labels hold {len(label)} classes, not {count}")
            if not self.multi_label and not 0 <= label < count:
                outside = f"label {label} is outside the {count} classes"
                raise DataError(f"{name}: {outside}; check the table")
            if self.labels.setdefault(index, label) != label:
                raise DataError(f"{name}: two views of sample {index} have different labels")
            seen = self.fused.get(index)
            if seen is not None:
                row = torch.maximum(seen, row) if self.fusion in _MAXIMA else seen + row
            self.fused[index], self.names[index] = row, name
            self.num_views[index] += self.fusion not in _MAXIMA

    def scores(self, skipped: int) -> Scores:
        """Fuses and scores, in the order of the data set."""
        if not self.fused:
            reason = "is the split empty, or are all its files on the skip list?"
            raise DataError(f"there are no clips to score; {reason}")
        order = sorted(self.fused)
        counts = torch.tensor([max(1, self.num_views[i]) for i in order])
        fused = torch.stack([self.fused[i] for i in order]) / counts[:, None]
        probabilities = _finish(fused, self.multi_label, self.fusion).float().numpy()
        labels, names = np.array([self.labels[i] for i in order]), [self.names[i] for i in order]
        indices, notes = np.array(order, np.int64), (SOFTMAXED,) if self.softmaxed else ()
        return Scores(probabilities, labels, self.class_names, names, indices, skipped, notes)
