"""Moving regions: found on a still and on a moving background, the same every time, and none where
nothing moves.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vidgraph.precompute.boxes_motion import MovingRegions
from vidgraph.precompute.frames import computed
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

HEIGHT, WIDTH, T = 96, 128, 20


def scene(pan: float, step: int, seed: int = 0) -> np.ndarray:
    """A smooth patchwork that pans by `pan` pixels per frame, and over it a square of 24 pixels
    that moves by `step`, [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 160, (18, 40, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (320, HEIGHT), interpolation=cv2.INTER_CUBIC)
    square = cv2.resize(
        rng.integers(150, 255, (6, 6, 3), dtype=np.uint8), (24, 24), interpolation=cv2.INTER_NEAREST
    )
    frames = np.empty((T, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(T):
        move = np.array([[1, 0, -40 - pan * t], [0, 1, 0]])
        frames[t] = cv2.warpAffine(wide, move, (WIDTH, HEIGHT))
        left, top, _, _ = square_at(t, step)
        frames[t, top : top + 24, left : left + 24] = square
    return frames


def square_at(t: int, step: int) -> tuple[int, int, int, int]:
    return 30 + step * t, 36, 54 + step * t, 60


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(high - low, 0))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))


def proposals(frames: np.ndarray, path: Path) -> list[np.ndarray]:
    write_video(path, frames, fps=10, lossless=True)
    with open_video(path) as video:
        return list(computed(video, range(len(frames)), MovingRegions(128)))


@pytest.mark.parametrize("pan", [0.0, 2.0, -1.5])
def test_the_moving_square_comes_first(tmp_path: Path, pan: float) -> None:
    found = proposals(scene(pan, step=3), tmp_path / "a.mp4")
    size = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    overlaps = [iou(rows[0, :4] * size, np.array(square_at(t, 3))) for t, rows in enumerate(found)]
    assert np.median(overlaps) > 0.7, overlaps
    assert min(overlaps) > 0.5, overlaps  # also where the video begins and ends
    for rows in found:
        boxes, scores = rows[:, :4], rows[:, 4]
        assert rows.dtype == np.float32
        assert (np.diff(scores) <= 0).all()
        assert ((scores > 0) & (scores <= 1)).all()
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()


def test_nothing_moves_nothing_is_found(tmp_path: Path) -> None:
    above = np.ascontiguousarray(scene(2.0, step=0)[:, :30])  # a background that pans, alone
    for frames in (scene(0.0, step=0), above, scene(0.0, 3)[:1]):
        found = proposals(frames, tmp_path / "a.mp4")
        assert [rows.shape for rows in found] == [(0, 5)] * len(frames)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (30, 128), (400, 20), (66, 2000)])
def test_frames_of_odd_shapes(tmp_path: Path, height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (8, height, width, 3), dtype=np.uint8)
    for rows in proposals(frames, tmp_path / "a.mp4"):
        assert ((rows[:, :4] >= 0) & (rows[:, :4] <= 1)).all()


def test_equal_every_time(tmp_path: Path) -> None:
    first, second = (proposals(scene(1.0, 3), tmp_path / "a.mp4") for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_first_box_is_on_the_actor_of_a_real_clip(shared_data: Path) -> None:
    """A man who juggles in the middle of a lawn: all motion lies within the columns that he
    fills."""
    clip = shared_data / "data" / "ucf101_8" / "JugglingBalls" / "v_JugglingBalls_g01_c04.mp4"
    with open_video(clip) as video:
        for rows in computed(video, [60, 122, 180], MovingRegions(128)):
            x0, y0, x1, y1 = rows[0, :4]
            assert 0.25 < x0 < x1 < 0.70
            assert 0.05 < (x1 - x0) * (y1 - y0) < 0.25
