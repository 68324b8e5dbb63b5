"""Near-duplicates across splits, on made features."""

from __future__ import annotations

import numpy as np
import pytest

from vidgraph.data.duplicates import near_duplicates


def made_clips(n: int, seed: int = 0) -> np.ndarray:
    """Features of n clips of 8 frames, [n, 8, 64], most of which all clips have in common."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 8, 64)) + 10 * rng.normal(size=64)


def noisy(clips: np.ndarray, noise: float) -> np.ndarray:
    """The same with so many times as much noise as a clip differs from others; cosine
    1 / sqrt(1 + noise^2)."""
    return clips + noise * np.random.default_rng(1).normal(size=clips.shape)


@pytest.mark.parametrize("n", [40, 600])  # 600: more than are compared at once
def test_copies_are_found_and_nothing_else(n: int) -> None:
    clips = made_clips(n)
    rows = np.array([0, 7, n - 9])
    features = np.concatenate([clips, noisy(clips[rows], 0.5), noisy(clips[[3]], 1.0)])
    splits = np.array(["train"] * n + ["test"] * 4)
    found = near_duplicates(features.astype(np.float16), splits)
    assert {(pair.first, pair.second) for pair in found} == {
        (row, n + i) for i, row in enumerate(rows)
    }
    agreements = [pair.agreement for pair in found]
    np.testing.assert_allclose(agreements, 1 / np.sqrt(1.25), atol=0.04)
    assert agreements == sorted(agreements, reverse=True)
    lower = near_duplicates(features, splits, 0.6)
    assert (lower[-1].first, lower[-1].second) == (3, n + 3)
    assert lower[-1].agreement == pytest.approx(1 / np.sqrt(2), abs=0.06)


def test_only_across_splits_or_folds() -> None:
    clips = made_clips(20)
    features = np.concatenate([clips, clips[:3]])
    folds = np.repeat([0, 1, 2], [10, 10, 3])
    folds[20] = 0
    found = near_duplicates(features, folds)
    assert [(pair.first, pair.second) for pair in found] == [(1, 21), (2, 22)]
    assert found[0].agreement == pytest.approx(1.0, abs=1e-5)


def test_the_order_of_frames_counts() -> None:
    """A clip played backwards has the same mean, and is another clip."""
    clips = made_clips(20)
    features = np.concatenate([clips, clips[:1, ::-1]])
    assert near_duplicates(features, np.array([0] * 20 + [1])) == []


def test_clips_without_anything_in_them() -> None:
    """Equal features everywhere, of which no direction remains, agree by 0."""
    assert near_duplicates(np.ones((4, 2, 3)), np.array([0, 1, 0, 1])) == []
