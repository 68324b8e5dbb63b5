"""Scores of a set of clips, in percent, each with a 95 % interval; the files that hold them.

Every score counts the clips that were skipped as wrong: it is multiplied by n / (n + skipped),
where n clips were scored.

Shapes: n clips, K classes, R resamples.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidgraph.errors import DataError
from vidgraph.util import atomic_write

SCORES_SUFFIX = ".npz"
SOFTMAXED = (
    "the scores of every clip sum to 1, as after a softmax, though clips have several labels each: "
    "classes then take from each other what they should share, and mAP falls; score them with a "
    "sigmoid per class"
)
_NUM_RESAMPLES, _DRAWN_AT_ONCE = 200, 50  # the second bounds memory to 50 x n counts


@dataclass(frozen=True)
class Scores:
    """How well a model did on a split, in percent; None where a score makes no sense.

    Attributes:
        probabilities: of each clip, its views fused, float32 [n, K].
        labels: the truth, int64 [n]; multi-label: 0/1 [n, K].
        class_names: in the order of the columns of `probabilities`.
        names: the file that each clip comes from.
        indices: row of each clip in its data set, ascending, int64 [n].
        skipped: clips that were left out; they count as wrong in all scores and intervals.
        notes: what a reader of the scores must know, one sentence each.
    """

    probabilities: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    class_names: Sequence[str] = field(repr=False)
    names: Sequence[str] = field(repr=False)
    indices: np.ndarray = field(repr=False)
    skipped: int = 0
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Clips that were scored."""
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    @property
    def kept(self) -> float:
        """The share of clips that were scored, by which every score is multiplied."""
        return self.n / (self.n + self.skipped)

    @property
    def top1(self) -> float | None:
        """Share of clips whose likeliest class is right; single-label only."""
        return None if self.multi_label else 100 * int(self.correct.sum()) / (self.n + self.skipped)

    @property
    def top5(self) -> float | None:
        """Share whose right class is among the five likeliest; single-label, above five classes."""
        if self.multi_label or len(self.class_names) <= 5:
            return None
        right = int(top_k_correct(self.probabilities, self.labels, 5).sum())
        return 100 * right / (self.n + self.skipped)

    @property
    def mean_class(self) -> float | None:
        """Mean over classes of the share of their clips that are right; single-label only."""
        return None if self.multi_label else self._class_mean

    @property
    def map(self) -> float | None:
        """Mean over classes that have a positive clip of average precision; multi-label only."""
        return self._class_mean if self.multi_label else None

    @property
    def accuracy(self) -> float:
        """The score that a table shows: top-1, or mAP where clips have several labels.

        Raises:
            DataError: no class has a clip.
        """
        score = self.map if self.multi_label else self.top1
        if score is None:
            raise DataError("there is no accuracy: no class has a clip")
        return score

    @property
    def accuracy_ci95(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy`."""
        return self.ci95["map" if self.multi_label else "top1"]

    @cached_property
    def ci95(self) -> dict[str, tuple[float, float]]:
        """95 % interval of each score: Wilson for top1 and top5, else bootstrap over clips."""
        if self.multi_label:
            return {} if self.map is None else {"map": self._bootstrap()}
        total = self.n + self.skipped
        intervals = {"top1": wilson_interval(int(self.correct.sum()), total)}
        if self.top5 is not None:
            intervals["top5"] = wilson_interval(round(self.top5 * total / 100), total)
        return intervals | {"mean_class": self._bootstrap()}

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """`{name, n, accuracy}` (multi-label: `ap`) per class; None for one without clips."""
        everything, key = np.ones((1, self.n)), "ap" if self.multi_label else "accuracy"
        rows = []
        for k, name in enumerate(self.class_names):
            members = self.labels[:, k] > 0.5 if self.multi_label else self.labels == k
            value = float(100 * self.class_score(k, everything)[0]) if members.any() else None
            rows.append({"name": name, "n": int(members.sum()), key: value})
        return rows

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether top-1 is right, bool [n], for `paired_bootstrap`; single-label only."""
        return top_k_correct(self.probabilities, self._single_labels(), 1)

    @property
    def confusion(self) -> np.ndarray:
        """Number of clips of class i taken for class j at [i, j], int64 [K, K].

        Raises:
            DataError: the clips have several labels each.
        """
        num_classes = len(self.class_names)
        cells = self._single_labels() * num_classes + self.probabilities.argmax(1)
        return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)

    def to_text(self, title: str) -> str:
        """What `eval` prints."""
        lines = [f"{title}: {self.n:,} scored, {self.skipped:,} skipped (each counts as wrong)"]
        names = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class", "map": "mAP"}
        for key, (low, high) in self.ci95.items():
            interval = f"95 % interval {low:.2f} to {high:.2f}"
            lines.append(f"{names[key]:<12}{getattr(self, key):6.2f} %   {interval}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `eval --json`, rounded to a thousandth of a point."""

        def rounded(value: Any) -> Any:
            return round(value, 3) if isinstance(value, float) else value

        scores = ("top1", "top5", "mean_class", "map")
        return {
            **{name: rounded(getattr(self, name)) for name in scores},
            "n": self.n,
            "skipped": self.skipped,
            "ci95": {name: [*map(rounded, ends)] for name, ends in self.ci95.items()},
            "per_class": [{k: rounded(v) for k, v in row.items()} for row in self.per_class],
        }

    def _single_labels(self) -> np.ndarray:
        if self.multi_label:
            message = "the clips have several labels each, so there is no right class to count"
            raise DataError(message)
        return self.labels

    @property
    def _class_mean(self) -> float | None:
        key = "ap" if self.multi_label else "accuracy"
        found = [row[key] for row in self.per_class if row[key] is not None]
        return float(np.mean(found)) * self.kept if found else None

    def class_score(self, k: int, counts: np.ndarray) -> np.ndarray:
        """Accuracy or average precision of class k with each clip counted `counts` times: [R, n] to
        [R], shares of 1; nan where none of its clips is drawn."""
        if self.multi_label:
            return average_precision(self._ranked[:, k], self.labels[:, k] > 0.5, counts)
        members = self.labels == k
        total = counts @ members.astype(np.float32)
        right = counts @ (members & self.correct).astype(np.float32)
        return right / np.where(total > 0, total, np.nan)

    @cached_property
    def _ranked(self) -> np.ndarray:
        """The scores that rank clips; as for Charades, one without labels ranks last."""
        labelled = (self.labels > 0.5).any(1, keepdims=True)
        return np.where(labelled, self.probabilities, -np.inf)

    def _bootstrap(self) -> tuple[float, float]:
        """95 % percentile interval of the mean over classes, over resampled clips."""
        present = [k for k, row in enumerate(self.per_class) if row["n"]]
        means = [
            np.nanmean([self.class_score(k, counts) for k in present], axis=0)
            for counts in resamples(self.n, _NUM_RESAMPLES, seed=0)
        ]
        low, high = np.nanpercentile(np.concatenate(means) * 100 * self.kept, [2.5, 97.5])
        return float(low), float(high)


class PairedDifference(NamedTuple):
    """How much better a model is than another on the same clips."""

    difference: float  # accuracy of the first less that of the second, in points
    ci95: tuple[float, float]  # 95 % interval of the difference
    p_value: float  # two-sided: twice the share of resamples on the other side of zero


def softmaxed(scores: np.ndarray) -> bool:
    """Whether the scores of each clip, [n, K], sum to 1, as after a softmax."""
    several = len(scores) > 1 and scores.shape[1] > 1
    return several and bool((scores >= 0).all() and (np.abs(scores.sum(1) - 1) < 1e-3).all())


def top_k_correct(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the right class is among the k likeliest, bool [n]; of equal ones the first wins."""
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return rank < k


def average_precision(
    scores: np.ndarray, positive: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """scikit-learn's `average_precision_score` of scores [n] and positives [n] for many weightings
    of the clips at once, [R, n] to [R], which a bootstrap over the 157 classes of Charades needs:
    200 resamples take a second in place of half a minute. nan where no positive is drawn.

    It is the mean, over the positives, of the precision among all that rank at least as high; equal
    scores share one rank, so that the order of the rows does not matter.
    """
    counts = np.ones((1, len(scores))) if counts is None else counts
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    last = np.searchsorted(falling, falling, side="right") - 1  # of each group of equal scores
    weights = counts[:, order].astype(np.float64)
    seen, hits = np.cumsum(weights, axis=1), np.cumsum(weights * positive[order], axis=1)
    own, at = weights[:, positive[order]], last[positive[order]]
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(hits[:, at] / seen[:, at])
        mean: np.ndarray = (own * precision).sum(1) / own.sum(1)
    return mean


def wilson_interval(num_correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(num_correct, total).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def clustered_interval(
    correct: np.ndarray, clusters: np.ndarray, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of an accuracy of clips that come in clusters, such as films or persons:
    whole clusters are drawn with replacement (Field and Welsh 2007).

    Args:
        correct: whether each clip was right, [n].
        clusters: what each clip belongs to, [n].
        num_resamples: of the bootstrap.
        seed: of its draws.

    Returns:
        Low and high, as shares.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sizes, right = np.bincount(index), np.bincount(index, weights=correct)
    number = len(sizes)
    drawn = np.random.default_rng(seed).multinomial(number, [1 / number] * number, num_resamples)
    low, high = np.percentile((drawn @ right) / (drawn @ sizes), [2.5, 97.5])
    return float(low), float(high)


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
    n = len(correct_a)
    if n != len(correct_b) or n == 0:
        raise DataError(f"paired scores need the same clips; got {n} and {len(correct_b)}")
    difference = np.round(np.subtract(correct_a, correct_b, dtype=np.float64), 9)
    gap, counts = np.unique(difference, return_counts=True)
    # Clips differ only in their gap, which takes few values, and drawing n clips draws how often
    # each comes from a multinomial.
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=num_resamples)
    gaps = np.round(drawn @ gap, 6)
    low, high = np.percentile(100 * gaps / n, [2.5, 97.5])
    p_value = min(1.0, 2 * min(float((gaps <= 0).mean()), float((gaps >= 0).mean())))
    return PairedDifference(100.0 * float(counts @ gap) / n, (float(low), float(high)), p_value)


def resamples(n: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each clip is drawn in each resample, float32 [part of the resamples, n]."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _DRAWN_AT_ONCE):
        size = min(_DRAWN_AT_ONCE, num_resamples - start)
        drawn = rng.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)


def save_scores(path: str | Path, scores: Scores) -> None:
    """Writes the scores of every clip as .npz, so that models can be compared clip by clip.

    Raises:
        DataError: the name is not one of an .npz file.
        RunError: the file cannot be written.
    """
    if Path(path).suffix.lower() != SCORES_SUFFIX:
        raise DataError(f"{path}: scores are written as {SCORES_SUFFIX}; name it so")
    with atomic_write(path) as temporary:
        written = [item.name for item in fields(scores) if item.name != "notes"]
        np.savez_compressed(temporary, **{name: getattr(scores, name) for name in written})


def load_scores(path: str | Path) -> Scores:
    """Reads scores, also those of other programs: probabilities [n, K], labels [n] (class indices)
    or [n, K] (0/1), names [n], class_names [K]; indices [n] and skipped, if known.

    Raises:
        DataError: no such file, one that is damaged or holds something else, or arrays that do not
            fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        probabilities, labels = arrays["probabilities"].astype(np.float32), arrays["labels"]
        names, class_names = (arrays[k].astype(np.str_).tolist() for k in ("names", "class_names"))
    except OSError as error:
        reason = error.strerror or "is it an .npz file?"
        raise DataError(f"{path}: cannot be read ({reason})") from error
    except (ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataError(
            f"{path}: is not a whole file of scores; it must hold probabilities, labels, names and "
            "class_names, as vidgraph eval MODEL --scores writes them"
        ) from error
    n, num_classes, multi_label = len(names), len(class_names), labels.ndim == 2
    if probabilities.shape != (n, num_classes) or labels.shape not in ((n,), (n, num_classes)):
        raise DataError(
            f"{path}: probabilities are of shape {probabilities.shape} and labels of shape "
            f"{labels.shape}, for {n} names and {num_classes} class names"
        )
    if n == 0 or not np.isfinite(probabilities).all():
        raise DataError(f"{path}: the scores of some clips are not finite, or there are no clips")
    if not np.isin(labels, (0, 1) if multi_label else range(num_classes)).all():
        kind = "0 or 1" if multi_label else f"whole numbers from 0 to {num_classes - 1}"
        raise DataError(f"{path}: labels must be {kind}")
    labels = labels.astype(np.float32 if multi_label else np.int64)
    indices, skipped = arrays.get("indices", np.arange(n)), int(arrays.get("skipped", 0))
    notes = (SOFTMAXED,) if multi_label and softmaxed(probabilities) else ()
    return Scores(probabilities, labels, class_names, names, indices, skipped, notes)
