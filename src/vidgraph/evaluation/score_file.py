"""The scores of every clip in one .npz file, so that two models can be compared clip by clip long
after they ran.

    probabilities [n, K], labels [n] (class indices) or [n, K] (0/1), names [n], class_names [K];
    indices [n] and skipped, if known

Any program can write one.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vidgraph.errors import DataError
from vidgraph.evaluation.metrics import Scores, score_multi_label, score_single_label
from vidgraph.util import whole_file

SUFFIX = ".npz"
_NEEDED = ("probabilities", "labels", "names", "class_names")


def save_scores(path: str | Path, scores: Scores) -> None:
    """Writes the scores of every clip, whole or not at all.

    Raises:
        DataError: the name is not one of an .npz file.
        RunError: the file cannot be written.
    """
    if Path(path).suffix.lower() != SUFFIX:
        raise DataError(f"{path}: scores are written as {SUFFIX}; name it so")
    with whole_file(path) as temporary:
        np.savez_compressed(
            temporary,
            probabilities=scores.probabilities,
            labels=scores.labels,
            names=np.array(scores.names, dtype=np.str_),
            class_names=np.array(scores.class_names, dtype=np.str_),
            indices=scores.indices,
            skipped=np.array(scores.skipped),
        )


def load_scores(path: str | Path) -> Scores:
    """Reads and scores them again.

    Raises:
        DataError: no such file, one that is damaged or holds something else, or arrays that do not
            fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or 'is it an .npz file?'})"
        ) from error
    except (ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataError(
            f"{path}: is not a whole file of scores; write it with vidgraph eval MODEL --scores "
            f"{path}"
        ) from error
    if missing := [name for name in _NEEDED if name not in arrays]:
        raise DataError(f"{path}: lacks {' and '.join(missing)}; it must hold {', '.join(_NEEDED)}")
    probabilities, labels = arrays["probabilities"].astype(np.float32), arrays["labels"]
    class_names, names = (
        arrays[name].astype(np.str_).tolist() for name in ("class_names", "names")
    )
    if problem := _problem(probabilities, labels, len(names), len(class_names)):
        raise DataError(f"{path}: {problem}")
    score = score_multi_label if labels.ndim == 2 else score_single_label
    labels = labels.astype(np.float32 if labels.ndim == 2 else np.int64)
    indices, skipped = arrays.get("indices", np.arange(len(names))), int(arrays.get("skipped", 0))
    return score(probabilities, labels, class_names, indices=indices, names=names, skipped=skipped)


def _problem(probabilities: np.ndarray, labels: np.ndarray, n: int, num_classes: int) -> str | None:
    """What does not fit together, or None."""
    if probabilities.shape != (n, num_classes) or n == 0:
        return (
            f"probabilities are of shape {probabilities.shape}, for {n} names and "
            f"{num_classes} class names"
        )
    if not np.isfinite(probabilities).all():
        return (
            f"the scores of clip {int((~np.isfinite(probabilities).all(1)).argmax())} are not "
            "finite"
        )
    if labels.shape not in ((n,), (n, num_classes)):
        return f"labels are of shape {labels.shape}, for {n} clips and {num_classes} classes"
    if labels.ndim == 1 and not (
        np.issubdtype(labels.dtype, np.integer) and ((labels >= 0) & (labels < num_classes)).all()
    ):
        return f"labels must be whole numbers from 0 to {num_classes - 1}"
    if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        return "labels of several classes must be 0 or 1"
    return None
