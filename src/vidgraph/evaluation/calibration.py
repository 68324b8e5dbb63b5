"""What a recogniser knows of itself: how sure it may be, which of the labels that it learnt from it
doubts, and which clips are unlike all of those.

All of it is measured on clips that were left out of training: `out_of_fold_logits` gives scores of
a linear classifier by folds, such as those of `grouped_folds`.

Shapes: n m clips, D channels, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
PERCENTILE = 99.0
_LEAST, _MOST = 0.05, 20.0  # temperatures; nothing is won beyond, and logits of 0 have no best one
_ROWS_AT_ONCE = 256
_INVERSE_PENALTY = 1e-2  # of the logistic regression, on standardised features

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def out_of_fold_logits(features: Floats, labels: Integers, folds: Integers) -> NDArray[np.float64]:
    """Logits of each clip by a logistic regression on the clips of the other folds.

    Args:
        features: pooled, [n, D].
        labels: class indices from 0 on, [n]; the training of every fold has clips of each.
        folds: of each clip, [n].

    Returns:
        Logarithms of probabilities, [n, K].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    logits = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in np.unique(folds):
        regression = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000)
        model = make_pipeline(StandardScaler(), regression)
        model.fit(features[folds != fold], labels[folds != fold])
        logits[folds == fold] = model.predict_log_proba(features[folds == fold])
    return logits


# ---- how sure ------------------------------------------------------------------------------------


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature by which logits are divided so that the labels are likeliest (Guo et al.
    2017); between 0.05 and 20.

    Args:
        logits: of clips that were left out of training, [n, K].
        labels: class indices, [n].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    above = np.asarray(logits, np.float64)
    above = above - above[np.arange(len(labels)), labels][:, None]  # the label's own logit is 0

    def loss(inverse: float) -> float:  # convex in the inverse of the temperature
        return float(logsumexp(inverse * above, axis=1).mean())

    found = minimize_scalar(loss, bounds=(1 / _MOST, 1 / _LEAST), method="bounded")
    return float(1 / found.x)


def calibration_error(probabilities: Floats, labels: Integers, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error: how far the share of right clips is from the confidence, the
    probability of the likeliest class, in equal bins of it, weighted by their clips. A share of 1.

    Args:
        probabilities: [n, K].
        labels: class indices, [n].
        num_bins: of the confidence.
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence)
    return float(np.abs(gaps).sum() / len(labels))


# ---- doubtful labels -----------------------------------------------------------------------------


class Suspect(NamedTuple):
    """A clip whose label is contradicted.

    Attributes:
        row: of the clip.
        suggested: the class that is likeliest instead.
        odds: how many times as likely it is.
    """

    row: int
    suggested: int
    odds: float


def suspects(logits: Floats, labels: Integers) -> list[Suspect]:
    """Clips whose label is not the likeliest class, the strongest contradiction first.

    The logits are best those of plain folds, not of grouped ones: what gives a wrong label away is
    that the other clips of its film or person have another. On UCF101's eight classes of the tests,
    10 swapped labels of 743 are all among the first 20 so, and 4 to 9 by films.

    Args:
        logits: of clips that were left out of training, [n, K].
        labels: class indices, [n].
    """
    rows = np.arange(len(labels))
    others = np.array(logits, np.float64)
    others[rows, labels] = -np.inf
    suggested = others.argmax(1)
    margin = others[rows, suggested] - logits[rows, labels]
    order = np.argsort(-margin, kind="stable")
    return [
        Suspect(int(i), int(suggested[i]), float(np.exp(margin[i]))) for i in order if margin[i] > 0
    ]


# ---- unlike clips --------------------------------------------------------------------------------


def nearest_distance(features: Floats, reference: Floats) -> NDArray[np.float32]:
    """Of each clip the cosine distance to the nearest clip of the reference, [m].

    The features are the means over time and map as they are. Standardised ones fail: what sets
    another world apart is channels that the training clips hardly use, whose few small values would
    count as much as all else.

    Args:
        features: of the clips, [m, D].
        reference: of the training clips, [n, D].
    """
    nearest: NDArray[np.float32] = 1 - (_unit(features) @ _unit(reference).T).max(1)
    return nearest


def unlike_threshold(reference: Floats, groups: NDArray, percentile: float = PERCENTILE) -> float:
    """The distance from which on a clip is called unlike the training clips: a percentile of their
    own distances to the nearest one of another group. Infinite where there is no other group.

    Args:
        reference: of the training clips, [n, D].
        groups: of each training clip, [n].
        percentile: from 0 to 100.
    """
    unit, (names, own) = _unit(reference), np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return float("inf")
    nearest = []
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cosines = unit[rows] @ unit.T
        cosines[own[rows, None] == own] = -1
        nearest.append(1 - cosines.max(1))
    return float(np.percentile(np.concatenate(nearest), percentile))


def _unit(features: Floats) -> NDArray[np.float32]:
    rows = np.asarray(features, np.float32)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit
