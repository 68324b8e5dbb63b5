"""Boxes in a store: read by frame, padded and masked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BOXES, BoxStore, packed_boxes
from vidgraph.precompute.store import (
    Header,
    Method,
    fingerprint,
    path_in_store,
    save_file,
    size_bytes,
)

FRAMES = {
    0: [[0.1, 0.2, 0.3, 0.4, 0.25], [0.5, 0.5, 1.0, 1.0, 0.75]],
    4: [],
    8: [[0, 0, 1, 1, 0.5], [0, 0, 0.5, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75, 0.875]],
}


def write(folder: Path, video: Path, frames: dict[int, np.ndarray], **settings: int) -> None:
    known = size_bytes(video), fingerprint(video)
    method = Method(BOXES, "by-hand", 1, settings)
    header = Header(method, video.name, *known, 11, 48, 64, list(frames))
    save_file(path_in_store(folder, video.name), header, frames.values())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Stands for a video: a store looks at its name and bytes only."""
    (tmp_path / "anna.mp4").write_bytes(b"anna walks")
    return tmp_path / "anna.mp4"


def packed(rows: list[list[float]] | np.ndarray) -> np.ndarray:
    (found,) = packed_boxes([np.reshape(rows, (-1, 5))], Counter())
    return found


def stored(tmp_path: Path, video: Path, **settings: int) -> BoxStore:
    write(tmp_path / "boxes", video, {f: packed(FRAMES[f]) for f in FRAMES}, **settings)
    return BoxStore(tmp_path / "boxes")


def test_boxes_of_a_frame_are_sorted_by_score() -> None:
    rows = np.random.default_rng(0).random((7, 5)).astype(np.float32) / 2
    rows[:, 2:4] += rows[:, :2]
    rows[:, 4] = [0.2, 0.9, 0.2, 0.5, 0.9, 0.1, 0.2]
    assert np.array_equal(packed(rows), rows[[1, 4, 3, 0, 2, 6, 5]])  # equal ones stay in order


def test_boxes_of_frames_padded_masked_and_cut(tmp_path: Path, video: Path) -> None:
    found = stored(tmp_path, video).boxes(video).at([8, 0, 4, 0], count=2)
    assert found.boxes_xyxy.dtype == np.float32
    first = [[0.5, 0.5, 1, 1], [0.1, 0.2, 0.3, 0.4]]
    best = [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]]  # of three, the first of equal ones
    expected = np.array([best, first, [[0] * 4] * 2, first], np.float32)
    assert np.array_equal(found.boxes_xyxy, expected)
    assert found.scores.tolist() == [[0.875, 0.5], [0.75, 0.25], [0, 0], [0.75, 0.25]]
    assert found.mask.tolist() == [[True, True], [True, True], [False, False], [True, True]]
    five = stored(tmp_path, video).boxes(video).at(np.array([0, 8]), count=5)
    assert five.mask.sum(1).tolist() == [2, 3]
    assert not five.boxes_xyxy[~five.mask].any()
    assert not five.scores[~five.mask].any()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 3]),
        ({"reach_frames": 1}, [2, 2, 0, 0, 0, 0, 0, 3, 3, 3, 0]),
        ({"reach_frames": 0}, [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]),
    ],
)
def test_frames_between_take_the_nearest_within_reach(
    tmp_path: Path, video: Path, settings: dict[str, int], expected: list[int]
) -> None:
    """Of frames 0, 4 and 8 with two, none and three boxes; of two equally near the earlier."""
    found = stored(tmp_path, video, **settings).boxes(video).at(range(11), count=3)
    assert found.mask.sum(1).tolist() == expected


def test_frames_outside_the_video_are_refused(tmp_path: Path, video: Path) -> None:
    boxes = stored(tmp_path, video).boxes(video)
    for frame in (11, -1):
        with pytest.raises(DataError, match=f"has no frame {frame}, for its video has 11 frames"):
            boxes.at([3, frame], count=2)


def test_boxes_end_at_the_border() -> None:
    assert packed([[-1e-7, 0, 1 + 1e-7, 1, 0.5]])[0].tolist() == [0, 0, 1, 1, 0.5]


def test_classes_and_tracks_where_they_are_stored(tmp_path: Path, video: Path) -> None:
    """Rows of seven values give them; of rows of five they are not known."""
    person, ball = [0, 0, 0.5, 1, 0.75, 0, 3], [0.5, 0.5, 0.75, 1, 0.5, 32, 7]
    rows = np.array([person, ball], np.float32)
    write(tmp_path / "boxes", video, {2: rows})
    found = BoxStore(tmp_path / "boxes").boxes(video).at([2], count=3)
    assert found.classes.tolist() == [[0, 32, -1]]
    assert found.tracks.tolist() == [[3, 7, -1]]
    assert found.mask.tolist() == [[True, True, False]]
    assert found.boxes_xyxy.tolist() == [[person[:4], ball[:4], [0] * 4]]
    write(tmp_path / "old", video, {2: rows[:, :5]})
    old = BoxStore(tmp_path / "old").boxes(video).at([2], count=3)
    assert old.classes.tolist() == old.tracks.tolist() == [[-1] * 3]
    for name in ("boxes_xyxy", "scores", "mask"):
        assert np.array_equal(getattr(old, name), getattr(found, name))
