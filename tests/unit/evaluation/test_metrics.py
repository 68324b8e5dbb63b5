"""Scores against hand-computed cases, plain loops, and the implementations of other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    top_k_accuracy_score,
)

from vidgraph.errors import DataError
from vidgraph.evaluation.metrics import (
    Scores,
    average_precision,
    paired_bootstrap,
    top_k_correct,
    wilson_interval,
)


def scored(probabilities: np.ndarray, labels: np.ndarray, skipped: int = 0) -> Scores:
    names = [f"{i}.mp4" for i in range(len(labels))]
    classes = [f"class {k}" for k in range(probabilities.shape[1])]
    return Scores(probabilities, labels, classes, names, np.arange(len(labels)), skipped)


def test_single_label_scores_of_a_case_worked_out_by_hand():
    probabilities = np.eye(3)[[0, 0, 1, 2, 1]]  # taken for 0, 0, 1, 2, 1
    scores = scored(probabilities, np.array([0, 0, 0, 2, 2]))
    assert scores.top1 == pytest.approx(60.0)  # 3 of 5
    assert scores.mean_class == pytest.approx((2 / 3 + 1 / 2) / 2 * 100)  # class 1 has no clips
    assert scores.top5 is None  # with three classes it would always be 100
    assert scores.map is None
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert [row["accuracy"] for row in scores.per_class] == [pytest.approx(200 / 3), None, 50.0]
    assert [row["n"] for row in scores.per_class] == [3, 0, 2]
    assert scores.correct.tolist() == [True, True, False, True, False]
    assert scores.accuracy == scores.top1
    assert scores.accuracy_ci95 == scores.ci95["top1"]


def test_a_skipped_clip_counts_as_wrong_in_every_score():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.random((30, 8)), rng.integers(8, size=30)
    whole, cut = scored(probabilities, labels), scored(probabilities, labels, skipped=10)
    for name in ("top1", "top5", "mean_class"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name) * 30 / 40)
    num_right = int(whole.correct.sum())
    assert cut.ci95["top1"] == wilson_interval(num_right, 40)
    assert cut.ci95["mean_class"][1] == pytest.approx(whole.ci95["mean_class"][1] * 0.75)
    assert (cut.n, cut.skipped) == (30, 10)
    many = (rng.random((30, 8)) < 0.3).astype(np.float32)
    whole, cut = scored(probabilities, many), scored(probabilities, many, skipped=10)
    assert cut.map == pytest.approx(whole.map * 0.75)


def test_top_k_is_the_sorted_list_of_a_plain_loop_and_breaks_ties_by_class_order():
    rng = np.random.default_rng(1)
    probabilities = rng.integers(0, 4, size=(200, 9)).astype(float)  # many ties
    labels = rng.integers(9, size=200)
    for k in (1, 5):
        expected = [
            label in sorted(range(9), key=lambda c, row=row: (-row[c], c))[:k]
            for row, label in zip(probabilities, labels, strict=True)
        ]
        assert top_k_correct(probabilities, labels, k).tolist() == expected
    uniform = scored(np.full((4, 4), 0.25), np.arange(4))
    assert uniform.top1 == 25.0  # a model that knows nothing gets chance, not 100
    assert uniform.confusion[:, 0].tolist() == [1, 1, 1, 1]


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(2)
    probabilities, labels = rng.random((300, 12)), rng.integers(12, size=300)
    scores, guesses = scored(probabilities, labels), probabilities.argmax(1)
    assert scores.top1 == pytest.approx(100 * accuracy_score(labels, guesses))
    top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=range(12))
    assert scores.top5 == pytest.approx(100 * top5)
    assert scores.mean_class == pytest.approx(100 * balanced_accuracy_score(labels, guesses))
    assert np.array_equal(scores.confusion, confusion_matrix(labels, guesses))
    many = rng.random((300, 12)) < 0.2
    labelled = many.any(1)
    expected = average_precision_score(many[labelled], probabilities[labelled], average="macro")
    scores = scored(probabilities[labelled], many[labelled].astype(float))
    assert scores.map == pytest.approx(100 * expected)


def plain_average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Retrieve clips one by one by falling score; the mean precision at each positive."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits, precisions = 0, []
    for place, i in enumerate(order, start=1):
        if positive[i]:
            hits += 1
            precisions.append(hits / place)
    return sum(precisions) / len(precisions)


def test_average_precision_equals_hand_case_plain_loop_and_sklearn():
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx([(1 + 2 / 3) / 2])
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores, positive = rng.random(60), rng.random(60) < 0.3
        plain = plain_average_precision(scores, positive)
        assert average_precision(scores, positive) == pytest.approx([plain], abs=1e-12)
        tied, counts = np.round(scores, 1), rng.integers(0, 3, size=(4, 60))
        weighted = [average_precision_score(positive, tied, sample_weight=row) for row in counts]
        assert average_precision(tied, positive, counts) == pytest.approx(weighted, abs=1e-12)
    assert np.isnan(average_precision(scores, np.zeros(60, dtype=bool))).all()


def test_map_leaves_out_classes_without_positives_and_ranks_unlabelled_clips_last():
    probabilities = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.5], [0.7, 0.6, 0.5], [0.95, 0.9, 0.5]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32)
    scores = scored(probabilities, labels)
    # Without the fourth clip: class 0 ranks + - +, class 1 ranks + + -.
    first = pytest.approx(100 * (1 + 2 / 3) / 2)
    assert [row["ap"] for row in scores.per_class] == [first, 100.0, None]
    assert scores.map == pytest.approx((100 * (1 + 2 / 3) / 2 + 100) / 2)
    assert (scores.top1, scores.top5, scores.mean_class) == (None, None, None)
    assert scores.accuracy == scores.map
    assert scores.accuracy_ci95 == scores.ci95["map"]
    with pytest.raises(DataError, match="several labels"):
        _ = scores.confusion


def test_wilson_interval_of_known_cases():
    assert wilson_interval(5, 10) == pytest.approx((23.659, 76.341), abs=1e-3)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 27.753), abs=1e-3)


def test_bootstrap_intervals_repeat_and_agree_with_the_normal_approximation():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(4), 200)
    right = rng.random(800) < 0.7
    guesses = np.where(right, labels, (labels + 1) % 4)
    scores = scored(np.eye(4)[guesses], labels)
    low, high = scores.ci95["mean_class"]
    width = 2 * 1.96 * np.sqrt(0.7 * 0.3 / 800) * 100
    assert low < scores.mean_class < high
    assert high - low == pytest.approx(width, rel=0.15)
    assert scores.ci95 == scored(np.eye(4)[guesses], labels).ci95


def test_bootstrap_of_map_resamples_as_a_plain_loop_does():
    rng = np.random.default_rng(5)
    probabilities = rng.random((80, 3))
    labels = (rng.random((80, 3)) < 0.4).astype(np.float32)
    labels[~labels.any(1), 0] = 1
    low, high = scored(probabilities, labels).ci95["map"]
    values = []
    for _ in range(400):
        drawn = rng.integers(80, size=80)
        values.append(100 * average_precision_score(labels[drawn], probabilities[drawn]))
    assert (low, high) == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=2.5)


def test_paired_bootstrap_sees_a_gap_that_the_single_intervals_hide():
    rng = np.random.default_rng(6)
    worse = rng.random(1000) < 0.70
    better = worse | (rng.random(1000) < 0.08)  # right wherever the other is, and on some more
    result = paired_bootstrap(better, worse)
    gap = 100 * (better.mean() - worse.mean())
    assert result.difference == pytest.approx(gap)
    assert result.ci95[0] > 0
    assert result.p_value < 0.001
    assert wilson_interval(int(better.sum()), 1000)[0] < wilson_interval(int(worse.sum()), 1000)[1]
    drawn = rng.integers(1000, size=(2000, 1000))
    plain = np.percentile(100 * (better[drawn].mean(1) - worse[drawn].mean(1)), [2.5, 97.5])
    assert result.ci95 == pytest.approx(plain, abs=0.2)


def test_paired_bootstrap_of_shares_over_several_trainings():
    """A clip counts by the share of trainings that got it right; against plain resampling of
    clips."""
    rng = np.random.default_rng(8)
    hard = rng.random(500)
    first, second = ((rng.random((3, 500)) < rate * hard).mean(0) for rate in (1.6, 1.4))
    result = paired_bootstrap(first, second)
    assert result.difference == pytest.approx(100 * (first.mean() - second.mean()))
    drawn = rng.integers(500, size=(4000, 500))
    plain = np.percentile(100 * (first - second)[drawn].mean(1), [2.5, 97.5])
    assert result.ci95 == pytest.approx(plain, abs=0.3)
    # Thirds are not exact in binary: a difference of nothing must still be nothing.
    assert paired_bootstrap(np.array([1 / 3, 2 / 3]), np.array([1 / 3, 2 / 3])).p_value == 1.0
    # Two clips, one gap of 1: half of the resamples hold it once, a quarter twice, a quarter never.
    share = paired_bootstrap(np.array([1.0, 0.0]), np.zeros(2)).p_value
    assert share == pytest.approx(0.5, abs=0.03)


def test_paired_bootstrap_of_equal_models_finds_nothing():
    same = np.array([True, False, True])
    result = paired_bootstrap(same, same)
    assert (result.difference, result.ci95, result.p_value) == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(DataError, match="same clips"):
        paired_bootstrap(same, same[:2])


def test_to_dict_is_json_with_the_agreed_keys():
    rng = np.random.default_rng(7)
    content = scored(rng.random((20, 7)), rng.integers(7, size=20), skipped=1).to_dict()
    keys = ["top1", "top5", "mean_class", "map", "n", "skipped", "ci95", "per_class"]
    assert list(content) == keys
    assert content["map"] is None
    again = json.loads(json.dumps(content, allow_nan=False))
    assert set(again["ci95"]) == {"top1", "top5", "mean_class"}
    assert set(again["per_class"][0]) == {"name", "n", "accuracy"}
