"""Temperature, calibration error, doubtful labels and unlike clips, on made arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from vidgraph.evaluation.calibration import (
    calibration_error,
    fit_temperature,
    nearest_distance,
    out_of_fold_logits,
    suspects,
    unlike_threshold,
)


def drawn_labels(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """A label of each clip, as likely as its logits say."""
    noise = np.random.default_rng(seed).gumbel(size=logits.shape)
    return np.asarray((logits + noise).argmax(1))


LOGITS = np.random.default_rng(3).normal(scale=2.0, size=(20_000, 5))
LABELS = drawn_labels(LOGITS)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_of_logits_that_are_too_large_or_small(temperature: float) -> None:
    sure = temperature * LOGITS + 7.0  # what all classes have in common changes nothing
    assert fit_temperature(sure, LABELS) == pytest.approx(temperature, rel=0.03)
    before = calibration_error(softmax(sure, 1), LABELS)
    after = calibration_error(softmax(sure / fit_temperature(sure, LABELS), 1), LABELS)
    assert after < 0.01
    assert before > 0.1 or temperature == 1


def test_temperature_is_the_least_of_the_loss() -> None:
    logits, labels = LOGITS[:50] * 2, LABELS[:50]

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, 1)[np.arange(50), labels].mean())

    best = fit_temperature(logits, labels)
    assert loss(best) < min(loss(best * 1.02), loss(best / 1.02))


def test_temperature_stays_in_bounds() -> None:
    """Labels that are always, or never, the likeliest have no best temperature."""
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(0.05, rel=0.01)
    assert fit_temperature(logits, (np.arange(3) + 1) % 3) == pytest.approx(20, rel=0.01)


def test_calibration_error_by_hand() -> None:
    """Two of three clips of confidence 0.9 are right and one of two of 0.6:
    (|2 - 2.7| + |1 - 1.2|) / 5."""
    confidence = np.array([0.9, 0.9, 0.9, 0.6, 0.6])
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([0, 0, 1, 0, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(0.9 / 5)
    assert calibration_error(probabilities, labels, num_bins=1) == pytest.approx(0.9 / 5)
    assert calibration_error(np.eye(2), np.arange(2)) == 0
    assert calibration_error(np.eye(2), 1 - np.arange(2)) == 1


def test_errors_of_one_bin_cancel() -> None:
    probabilities = np.array([[0.61, 0.39], [0.65, 0.35]])  # both in the bin from 0.6 to 0.667
    labels = np.array([0, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(abs(1 - 1.26) / 2)
    assert calibration_error(probabilities, labels, 100) == pytest.approx((0.39 + 0.65) / 2)


def clusters(num_classes: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 20] around a centre per class, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), each)
    return rng.normal(size=(num_classes, 20))[labels] * 2 + rng.normal(
        size=(len(labels), 20)
    ), labels


@pytest.mark.parametrize("num_classes", [2, 4])
def test_swapped_labels_are_the_first_suspects(num_classes: int) -> None:
    features, labels = clusters(num_classes, 60)
    swapped = np.random.default_rng(1).choice(len(labels), 10, replace=False)
    given = labels.copy()
    given[swapped] = (given[swapped] + 1) % num_classes
    logits = out_of_fold_logits(features, given, np.arange(len(labels)) % 5)
    np.testing.assert_allclose(np.exp(logits).sum(1), 1)
    found = suspects(logits, given)
    assert {suspect.row for suspect in found[:10]} == set(swapped)
    assert all(suspect.suggested == labels[suspect.row] for suspect in found[:10])
    odds = [suspect.odds for suspect in found]
    assert odds == sorted(odds, reverse=True)
    assert min(odds) > 1


def test_suspects_by_hand() -> None:
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.05, 0.05, 0.9]])
    found = suspects(logits, np.array([0, 1, 0]))
    assert [(suspect.row, suspect.suggested) for suspect in found] == [(2, 2), (1, 2)]
    assert [suspect.odds for suspect in found] == pytest.approx([18, 2])


def test_a_fold_is_not_told_by_its_own_clips() -> None:
    """Labels by chance are not learnt from other folds, however well they are from the own."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(200, 100)), rng.integers(0, 2, 200)
    logits = out_of_fold_logits(features, labels, np.arange(200) % 5)
    assert 0.35 < (logits.argmax(1) == labels).mean() < 0.65


def test_distances_by_hand() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 2.0]])
    clips = np.array([[3.0, 0.0], [1.0, 1.0], [3.0, 4.0], [0.0, 0.0]])
    wanted = [0.0, 1 - np.sqrt(0.5), 0.2, 1.0]
    np.testing.assert_allclose(nearest_distance(clips, reference), wanted, atol=1e-6)


def test_threshold_is_a_percentile_of_distances_to_other_groups() -> None:
    """A clip's own group, however near, does not count."""
    angles = np.deg2rad([0, 1, 10, 11, 40, 41])
    reference = np.stack([np.cos(angles), np.sin(angles)], 1)
    groups = np.repeat(["a", "b", "c"], 2)
    wanted = 1 - np.cos(np.deg2rad([10, 9, 9, 10, 29, 30]))
    for percentile in (0, 50, 99, 100):
        found = unlike_threshold(reference, groups, percentile)
        assert found == pytest.approx(np.percentile(wanted, percentile), abs=1e-6)
    alone = unlike_threshold(reference, np.arange(6), 100)
    assert alone == pytest.approx(1 - np.cos(np.deg2rad(1)), abs=1e-6)
    assert unlike_threshold(reference, np.zeros(6)) == np.inf


def test_threshold_of_more_clips_than_are_compared_at_once() -> None:
    features, groups = clusters(30, 20)
    each = [
        nearest_distance(features[groups == group], features[groups != group])
        for group in range(30)
    ]
    wanted = np.percentile(np.concatenate(each), 99)
    assert unlike_threshold(features, groups) == pytest.approx(wanted, abs=1e-6)
