"""Scores of a set of clips, in percent, each with a 95 % interval.

Every score counts the clips that were skipped as wrong: it is multiplied by n / (n + skipped),
where n clips were scored.

Shapes: n clips, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidgraph.errors import DataError

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
_CHUNK = 50  # resamples drawn at once; bounds memory to 50 x n counts
SOFTMAXED = (
    "the scores of every clip sum to 1, as after a softmax, though clips have several labels "
    "each: classes then take from each other "
    "what they should share, and mAP falls; score them with a sigmoid per class"
)


@dataclass(frozen=True)
class Scores:
    """How well a model did on a split, in percent. A score that makes no sense for the labels is
    None.

    Attributes:
        top1: clips whose likeliest class is right; single-label only.
        top5: clips whose right class is among the five likeliest; single-label with more than five
            classes only.
        mean_class: mean over classes of the share of their clips that are right; single-label only.
        map: mean over classes of average precision; multi-label only.
        n: clips that were scored.
        skipped: clips that were left out; they count as wrong in the four scores and their
            intervals.
        ci95: 95 % interval of each score that is not None. top1 and top5: Wilson; the others:
            bootstrap over clips.
        per_class: one `{name, n, accuracy}` (multi-label: `{name, n, ap}`) per class, over scored
            clips only; None for a class without clips.
        labels: the truth, int64 [n] or 0/1 [n, K].
        probabilities: mean over the views of each clip, float32 [n, K].
        indices: row of each clip in its data set, ascending, int64 [n].
        names: the file that each clip comes from.
        notes: what a reader of the scores must know, one sentence each.
    """

    top1: float | None
    top5: float | None
    mean_class: float | None
    map: float | None
    n: int
    skipped: int
    ci95: dict[str, tuple[float, float]]
    per_class: list[dict[str, Any]]
    labels: np.ndarray = field(repr=False)
    probabilities: np.ndarray = field(repr=False)
    indices: np.ndarray = field(repr=False)
    names: list[str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> list[str]:
        """In the order of the columns of `probabilities`."""
        return [row["name"] for row in self.per_class]

    @property
    def kept(self) -> float:
        """The share of clips that were scored, by which every score is multiplied."""
        return self.n / (self.n + self.skipped)

    @property
    def correct(self) -> np.ndarray:
        """Whether top-1 is right, bool [n], for `paired_bootstrap`.

        Raises:
            DataError: the clips have several labels each.
        """
        return top_k_correct(self.probabilities, self._single_labels(), 1)

    @property
    def confusion(self) -> np.ndarray:
        """Number of clips of class i taken for class j at [i, j], int64 [K, K].

        Raises:
            DataError: the clips have several labels each.
        """
        return confusion_matrix(
            self.probabilities.argmax(1), self._single_labels(), len(self.per_class)
        )

    def _single_labels(self) -> np.ndarray:
        if self.labels.ndim != 1:
            raise DataError(
                "the clips have several labels each, so there is no right class to count"
            )
        return self.labels

    @property
    def accuracy(self) -> float:
        """The score that a table shows: top-1, or mAP where clips have several labels."""
        score = self.top1 if self.top1 is not None else self.map
        if score is None:
            raise DataError("there is no accuracy: no class has a clip")
        return score

    @property
    def accuracy_ci95(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy`."""
        return self.ci95["top1" if self.top1 is not None else "map"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `eval --json`, rounded to a thousandth of a point."""
        rounded = {
            name: _round(getattr(self, name)) for name in ("top1", "top5", "mean_class", "map")
        }
        ci95 = {name: [_round(low), _round(high)] for name, (low, high) in self.ci95.items()}
        per_class = [
            {
                key: _round(value) if isinstance(value, float) else value
                for key, value in row.items()
            }
            for row in self.per_class
        ]
        return {
            **rounded,
            "n": self.n,
            "skipped": self.skipped,
            "ci95": ci95,
            "per_class": per_class,
        }


@dataclass(frozen=True)
class PairedDifference:
    """How much better a model is than another on the same clips.

    Attributes:
        difference: accuracy of the first less that of the second, in points.
        ci95: 95 % interval of the difference.
        p_value: two-sided; the share of resamples on the other side of zero, doubled.
    """

    difference: float
    ci95: tuple[float, float]
    p_value: float


def score_single_label(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    indices: np.ndarray,
    names: list[str],
    skipped: int = 0,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Top-1, top-5, mean class accuracy and the confusion matrix.

    Args:
        probabilities: [n, K]; any monotone score does.
        labels: class indices, int64 [n].
        class_names: K names.
        indices: row of each clip in its data set, [n].
        names: the file of each clip, n of them.
        skipped: clips that were left out.
        num_resamples: of the bootstrap (R).
        seed: of the bootstrap.
    """
    num_classes, n = len(class_names), len(labels)
    kept = n / (n + skipped)
    correct = top_k_correct(probabilities, labels, 1)
    members = np.eye(num_classes, dtype=np.float32)[labels]  # [n, K]
    hits = members * correct[:, None]

    def mean_class(counts: np.ndarray) -> np.ndarray:
        totals = counts @ members  # [R, K]
        accuracy = (counts @ hits) / np.where(totals > 0, totals, np.nan)
        return np.nanmean(accuracy, axis=1) * 100 * kept

    ci95 = {"top1": wilson_interval(int(correct.sum()), n + skipped)}
    top5 = None
    if num_classes > 5:
        num_top5 = int(top_k_correct(probabilities, labels, 5).sum())
        top5 = 100.0 * num_top5 / (n + skipped)
        ci95["top5"] = wilson_interval(num_top5, n + skipped)
    ci95["mean_class"] = _bootstrap(mean_class, n, num_resamples, seed)
    accuracies = [
        float(100 * correct[labels == k].mean()) if (labels == k).any() else None
        for k in range(num_classes)
    ]
    sizes = np.bincount(labels, minlength=num_classes).tolist()
    return Scores(
        top1=100.0 * int(correct.sum()) / (n + skipped),
        top5=top5,
        mean_class=float(np.mean([a for a in accuracies if a is not None])) * kept,
        map=None,
        n=n,
        skipped=skipped,
        ci95=ci95,
        per_class=[
            {"name": c, "n": m, "accuracy": a}
            for c, m, a in zip(class_names, sizes, accuracies, strict=True)
        ],
        labels=labels,
        probabilities=probabilities,
        indices=indices,
        names=names,
    )


def score_multi_label(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    indices: np.ndarray,
    names: list[str],
    skipped: int = 0,
    num_resamples: int = 200,
    seed: int = 0,
) -> Scores:
    """Mean average precision over the classes that have a positive clip; arguments as
    `score_single_label`, labels 0/1 [n, K].

    As in the official evaluation of Charades, a clip without any label ranks behind all others. A
    note warns of softmaxed scores.
    """
    n, kept = len(labels), len(labels) / (len(labels) + skipped)
    classes = class_rankings(probabilities, labels)
    alone = np.ones((1, n), dtype=np.float32)
    precisions = [
        float(100 * ranking.precision(alone)[0]) if ranking.num_positives else None
        for ranking in classes
    ]
    present = [ranking for ranking in classes if ranking.num_positives]

    def mean_precision(counts: np.ndarray) -> np.ndarray:
        return np.nanmean([ranking.precision(counts) for ranking in present], axis=0) * 100 * kept

    found = [p for p in precisions if p is not None]
    return Scores(
        top1=None,
        top5=None,
        mean_class=None,
        map=float(np.mean(found)) * kept if found else None,
        n=n,
        skipped=skipped,
        ci95={"map": _bootstrap(mean_precision, n, num_resamples, seed)} if found else {},
        per_class=[
            {"name": name, "n": ranking.num_positives, "ap": p}
            for name, ranking, p in zip(class_names, classes, precisions, strict=True)
        ],
        labels=labels,
        probabilities=probabilities,
        indices=indices,
        names=names,
        notes=(SOFTMAXED,) if softmaxed(probabilities) else (),
    )


def class_rankings(probabilities: np.ndarray, labels: np.ndarray) -> list[Ranking]:
    """The clips of each class by falling score, for `score_multi_label`: [n, K] and 0/1 [n, K] to K
    rankings.
    """
    positive = labels > 0.5
    ranked = np.where(positive.any(1, keepdims=True), probabilities, -np.inf)
    return [Ranking(ranked[:, k], positive[:, k]) for k in range(labels.shape[1])]


def softmaxed(scores: np.ndarray) -> bool:
    """Whether the scores of each clip, [n, K], sum to 1 as after a softmax. Those of independent
    classes do not, but by chance.
    """
    return (
        len(scores) > 1
        and scores.shape[1] > 1
        and bool((scores >= 0).all() and (np.abs(scores.sum(1) - 1) < 1e-3).all())
    )


def top_k_correct(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the right class is among the k likeliest; of equal ones the earlier class comes
    first. bool [n].
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return rank < k


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of clips of class i taken for class j at [i, j]; int64 [K, K]."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean, over the positives, of the precision among all that rank at least as high; nan without
    positives.

    Equal scores share one rank, so that the order of the rows does not matter.
    """
    return float(
        Ranking(scores, positive).precision(np.ones((1, len(scores)), dtype=np.float32))[0]
    )


def wilson_interval(num_correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, in percent. It stays inside 0 to 100 and is of
    use at the ends too.
    """
    if total < 1:
        raise DataError("there is no interval for a score over no clips")
    share, z2 = num_correct / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, float(100 * (centre - half))), min(100.0, float(100 * (centre + half)))


def paired_bootstrap(
    correct_a: np.ndarray, correct_b: np.ndarray, num_resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Compares two models that were scored on the same clips in the same order.

    Args:
        correct_a: `Scores.correct` of the first, bool [n], or its mean over several trainings, [n].
        correct_b: the same of the second.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: the two do not have the same number of clips, or none.
    """
    if len(correct_a) != len(correct_b) or len(correct_a) == 0:
        raise DataError(
            f"paired scores need the same clips; got {len(correct_a)} and {len(correct_b)}"
        )
    n = len(correct_a)
    gap, counts = np.unique(
        np.round(np.subtract(correct_a, correct_b, dtype=np.float64), 9), return_counts=True
    )
    # Clips differ only in their gap, which takes few values, and drawing n clips draws how often
    # each comes from a multinomial.
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=num_resamples)
    gaps = np.round(drawn @ gap, 6)
    low, high = np.percentile(100 * gaps / n, [2.5, 97.5])
    p_value = min(1.0, 2 * min(float((gaps <= 0).mean()), float((gaps >= 0).mean())))
    return PairedDifference(100.0 * float(counts @ gap) / n, (float(low), float(high)), p_value)


class Ranking:
    """The clips of one class by falling score, so that the precision of many weightings costs one
    cumulative sum each.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        sorted_scores = scores[self.order]
        self.positive = positive[self.order]
        self.num_positives = int(positive.sum())
        # Last place of each group of equal scores: all of the group are retrieved together.
        self.last = np.searchsorted(-sorted_scores, -sorted_scores, side="right") - 1

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """Average precision with each clip counted `counts` times: [R, n] to [R]; nan where no
        positive is drawn.
        """
        weights = counts[:, self.order].astype(np.float64)
        hits = np.cumsum(weights * self.positive, axis=1)
        seen = np.cumsum(weights, axis=1)
        at_positives = self.last[self.positive]
        own = weights[:, self.positive]
        shares = np.divide(
            hits[:, at_positives],
            seen[:, at_positives],
            out=np.zeros_like(own),
            where=seen[:, at_positives] > 0,
        )
        total = own.sum(1)
        result: np.ndarray = np.divide(
            (own * shares).sum(1), total, out=np.full(len(total), np.nan), where=total > 0
        )
        return result


def _bootstrap(
    score: Callable[[np.ndarray], np.ndarray], n: int, num_resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of `score` over resampled clips."""
    values = np.concatenate([score(counts) for counts in resamples(n, num_resamples, seed)])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def resamples(n: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each clip is drawn in each resample, float32 [chunk, n]."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        drawn = rng.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
