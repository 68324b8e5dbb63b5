"""The vectors that a model classifies, collected while it is scored: what a picture of its feature
space is drawn from.

Shapes: B clips, M samples, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidgraph.records import ClipBatch


class FeatureRecorder:
    """Collects the input of a model's classifier for every clip that passes, and averages the views
    of a sample.

    Of a model with several classifiers, such as two streams, the vectors stand side by side; of one
    that classifies every frame, their mean over frames is taken.

    Example::

        recorder = FeatureRecorder()
        with recorder.watching(model):
            evaluate(model, recorder.passing(loader), class_names=names)
    """

    def __init__(self) -> None:
        self._inputs: dict[str, Tensor] = {}
        self._vectors: list[Tensor] = []
        self._rows: list[int] = []
        self._labels: dict[int, Any] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """While open, every forward pass of the model is recorded."""
        handles = [
            module.register_forward_pre_hook(self._keep(name))
            for name, module in _classifiers(model)
        ]
        handles.append(model.register_forward_hook(self._finish))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def passing(self, batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
        """The same batches; it remembers which sample each clip belongs to."""
        for batch in batches:
            yield batch
            self._rows += batch.index.tolist()
            self._labels |= dict(zip(batch.index.tolist(), batch.label.tolist(), strict=True))

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """One vector per sample, float32 [M, D], and the labels, [M] or [M, K]; in the order of the
        data set.
        """
        vectors = torch.cat(self._vectors).double().numpy()
        rows, place = np.unique(self._rows, return_inverse=True)
        assert len(vectors) == len(place)
        sums = np.zeros((len(rows), vectors.shape[1]))
        np.add.at(sums, place, vectors)
        means: np.ndarray = (sums / np.bincount(place)[:, None]).astype(np.float32)
        return means, np.array([self._labels[row] for row in rows.tolist()])

    def _keep(self, name: str) -> Any:
        def record(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs[name] = args[0].detach().float().cpu()

        return record

    def _finish(self, _model: nn.Module, _args: Any, logits: Tensor) -> None:
        """After a pass over B clips: [B, D] of all classifiers."""
        batch = len(logits)
        parts = [
            vectors.reshape(batch, -1, vectors.shape[-1]).mean(dim=1)
            for vectors in self._inputs.values()
        ]
        self._vectors.append(torch.cat(parts, dim=1))
        self._inputs.clear()


def _classifiers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The linear layers named `classifier`, at the top or in streams; else whatever the model calls
    its classifier.
    """
    named = [
        (name, module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "classifier"
    ]
    return [pair for pair in named if isinstance(pair[1], nn.Linear)] or named
