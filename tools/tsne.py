"""Draws the feature space of a model: every clip of a split a dot, near those whose features are
like its own (t-SNE with cosine distances), for up to ten classes at random.

    python tools/tsne.py runs/mine features.png

Features are what the model's classifier sees, averaged over the views of a clip; of several
classifiers, such as two streams, side by side. Any value of the recipe can be overridden, as in
`--data.table.path mine.csv`.

Shapes: B clips, M samples, D width, K classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tool import Parser, exit_codes
from vidgraph.cli import split_overrides
from vidgraph.errors import DataError, RecipeError
from vidgraph.evaluation.inference import eval_batches, evaluate, read_batches
from vidgraph.experiment import open_split
from vidgraph.records import ClipBatch
from vidgraph.util import atomic_write, available_cores, check_target, choose_device
from vidgraph.visualize.charts import LINE_COLOURS, new_figure, to_png

MOST_CLASSES = 10  # as the pyramid's slides show
_MOST_POINTS, _LEAST_POINTS = 2000, 5
_MARKERS = "os^Dv"


class FeatureRecorder:
    """Collects the input of a model's classifier for every clip that passes, and averages the views
    of a sample; of a model that classifies every frame, the mean over frames is taken.

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
        named = model.named_modules()
        classifiers = [pair for pair in named if pair[0].rpartition(".")[2] == "classifier"]
        handles = [
            module.register_forward_pre_hook(self._keep(name)) for name, module in classifiers
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
        data set."""
        vectors = torch.cat(self._vectors).double().numpy()
        rows, index = np.unique(self._rows, return_inverse=True)
        sums = np.zeros((len(rows), vectors.shape[1]))
        np.add.at(sums, index, vectors)
        means = (sums / np.bincount(index)[:, None]).astype(np.float32)
        return means, np.array([self._labels[row] for row in rows.tolist()])

    def _keep(self, name: str) -> Any:
        def record(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs[name] = args[0].detach().float().cpu()

        return record

    def _finish(self, _model: nn.Module, _args: Any, logits: Tensor) -> None:
        """After a pass over B clips: [B, D] of all classifiers."""
        size = len(logits)
        parts = [x.reshape(size, -1, x.shape[-1]).mean(dim=1) for x in self._inputs.values()]
        self._vectors.append(torch.cat(parts, dim=1))
        self._inputs.clear()


def chosen_classes(labels: np.ndarray, num_classes: int = MOST_CLASSES, seed: int = 0) -> list[int]:
    """The classes that are drawn: all that occur, or so many of them at random, in rising order."""
    there = np.unique(labels)
    if len(there) > num_classes:
        there = np.random.default_rng(seed).choice(there, num_classes, replace=False)
    return sorted(there.tolist())


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Positions in the plane by t-SNE, [M, D] to [M, 2]: cosine distances, perplexity 30, or less
    where there are few samples.

    Raises:
        DataError: fewer than five samples.
    """
    if len(features) < _LEAST_POINTS:
        few = f"an embedding of {len(features)} samples shows nothing"
        raise DataError(f"{few}; give a split with at least {_LEAST_POINTS}")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    positions: np.ndarray = tsne.fit_transform(features)
    return positions


def embedding_chart(positions: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Dots at `positions` [M, 2], a colour and a mark per class. Axes are left out: those of t-SNE
    mean nothing."""
    figure, axes = new_figure(7.6, 5.2)
    for number, k in enumerate(np.unique(labels).tolist()):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        mark = _MARKERS[number // len(LINE_COLOURS) % len(_MARKERS)]
        own = positions[labels == k].T
        axes.plot(*own, mark, color=colour, markersize=4.5, alpha=0.8, label=class_names[k])
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9.5)
    return to_png(figure)


def write_embedding(
    path: Path,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    seed: int = 0,
) -> list[str]:
    """Draws the features of up to ten classes and 2,000 samples.

    Args:
        path: the .png file; written whole or not at all.
        features: [M, D].
        labels: class of each sample, [M].
        class_names: of all classes.
        seed: of the choice of classes and samples, and of t-SNE.

    Returns:
        Names of the classes that are drawn.

    Raises:
        DataError: several labels per sample, or too few samples.
        RunError: the file cannot be written.
    """
    if labels.ndim != 1:
        raise DataError(
            "an embedding colours each sample by its class, and these have several labels each"
        )
    classes = chosen_classes(labels, seed=seed)
    rows = np.flatnonzero(np.isin(labels, classes))
    if len(rows) > _MOST_POINTS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_POINTS, replace=False))
    chart = embedding_chart(embed(features[rows], seed), labels[rows], class_names)
    with atomic_write(path) as temporary:
        temporary.write_bytes(chart)
    return [class_names[k] for k in classes]


@exit_codes
def main(words: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="shipped weights, a run folder or a model on the hub")
    add("picture", type=Path, metavar="FILE.png", help="what is drawn")
    add("--data", metavar="RECIPE|TABLE|FOLDER", help="(default: what a run was trained on)")
    add("--split", default="test", help="train, val or test (default test)")
    add("--device", choices=["cpu", "cuda"], help="(default: a GPU where there is one)")
    own, overrides = split_overrides(sys.argv[1:] if words is None else words)
    args = parser.parse_args(own)
    if args.picture.suffix.lower() != ".png":
        raise RecipeError(f"{args.picture}: it is written as .png; name it so")
    check_target(args.picture)
    model, split, views = open_split(args.model, args.data, overrides, args.split)
    recorder = FeatureRecorder()
    with recorder.watching(model):
        rows = eval_batches(split.dataset, views)
        batches = read_batches(split.dataset, rows, available_cores())
        evaluate(
            model,
            recorder.passing(batches),
            class_names=split.class_names,
            batch_size=views.batch_size,
            device=choose_device(args.device),
        )
    classes = write_embedding(args.picture, *recorder.features(), split.class_names)
    print(f"features of {len(classes)} classes drawn in {args.picture}: {', '.join(classes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
