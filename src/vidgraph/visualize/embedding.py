"""A picture of a feature space: every sample a dot, near those whose features are like its own
(t-SNE).

Shapes: M samples, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from vidgraph.errors import DataError
from vidgraph.util import whole_file
from vidgraph.visualize.charts import LINE_COLOURS, new_figure, to_png

MOST_CLASSES = 10  # as the pyramid's slides show
_MOST_POINTS = 2000
_LEAST_POINTS = 5
_MARKERS = "os^Dv"


def chosen_classes(labels: np.ndarray, num_classes: int = MOST_CLASSES, seed: int = 0) -> list[int]:
    """The classes that are drawn: all that occur, or so many of them at random, in rising order.

    Args:
        labels: class of each sample, [M].
        num_classes: most classes.
        seed: of the choice.
    """
    there = np.unique(labels)
    chosen = (
        there
        if len(there) <= num_classes
        else np.random.default_rng(seed).choice(there, num_classes, replace=False)
    )
    return sorted(int(k) for k in chosen)


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Places in the plane by t-SNE, [M, D] to [M, 2]: cosine distances, perplexity 30, or less
    where there are few samples.

    Raises:
        DataError: fewer than five samples.
    """
    if len(features) < _LEAST_POINTS:
        raise DataError(
            f"an embedding of {len(features)} samples shows nothing; give a split with at least "
            f"{_LEAST_POINTS}"
        )
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    places: np.ndarray = TSNE(
        2, perplexity=perplexity, metric="cosine", init="random", random_state=seed
    ).fit_transform(features)
    return places


def embedding_chart(places: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Dots at `places` [M, 2], a colour and a mark per class. Axes are left out: those of t-SNE
    mean nothing.
    """
    figure, axes = new_figure(7.6, 5.2)
    handles = []
    for number, k in enumerate(sorted({int(label) for label in labels})):
        style: dict[str, Any] = {
            "color": LINE_COLOURS[number % len(LINE_COLOURS)],
            "marker": _MARKERS[number // len(LINE_COLOURS) % len(_MARKERS)],
        }
        own = labels == k
        axes.plot(
            *places[own].T, linestyle="", markersize=4.5, alpha=0.8, markeredgewidth=0, **style
        )
        handles.append(Line2D([], [], linestyle="", markersize=6, label=class_names[k], **style))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9.5)
    return to_png(figure)


def write_embedding(
    path: str | Path,
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
            "an embedding colours each sample by its class, and these have several labels each; "
            "leave out --embedding"
        )
    classes = chosen_classes(labels, seed=seed)
    rows = np.flatnonzero(np.isin(labels, classes))
    if len(rows) > _MOST_POINTS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_POINTS, replace=False))
    chart = embedding_chart(embed(features[rows], seed), labels[rows], class_names)
    with whole_file(path) as temporary:
        temporary.write_bytes(chart)
    return [class_names[k] for k in classes]
