"""Given boxes into a store: pixels and fractions, frames with none, and boxes that cannot belong to
the video.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_given import GivenBoxes, GivenBoxesJob, Unit
from vidgraph.precompute.extract import Task, extract
from vidgraph.video.writer import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 frames of 80 x 50 pixels."""
    path = tmp_path_factory.mktemp("given") / "a.mp4"
    write_video(path, np.zeros((10, 50, 80, 3), np.uint8), fps=10)
    return path


def given(
    boxes: list[list[float]], frame_of: list[int], frames: list[int] | None = None
) -> GivenBoxes:
    looked_at = np.array(sorted(set(frame_of)) if frames is None else frames)
    lines, scores = np.arange(2, 2 + len(boxes)), np.linspace(0.9, 0.5, len(boxes))
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return GivenBoxes(looked_at, np.array(frame_of), corners, scores, "boxes.csv, line", lines)


@pytest.mark.parametrize("unit", ["pixels", "fractions"])
def test_boxes_come_back_as_fractions(video: Path, tmp_path: Path, unit: Unit) -> None:
    boxes = [[8, 5, 40, 50], [0, 0, 80.4, 50], [-0.6, 10, 16, 20]]
    if unit == "fractions":
        boxes = [[x / size for x, size in zip(box, (80, 50, 80, 50), strict=True)] for box in boxes]
    task = Task(video, "a.mp4", given(boxes, [3, 3, 6], [0, 3, 6]))
    report = extract(GivenBoxesJob("csv", "ab", unit), [task], tmp_path / "store")
    assert (report.done, dict(report.counts)) == (1, {"frames": 3, "boxes": 3, "bare": 1})
    found = BoxStore(tmp_path / "store").boxes(video).at([3, 0, 6, 5], 2)
    nothing = [0] * 4
    expected = [[[0.1, 0.1, 0.5, 1], [0, 0, 1, 1]], [nothing] * 2]
    expected += [[[0, 0.2, 0.2, 0.4], nothing], [nothing] * 2]
    np.testing.assert_allclose(found.boxes_xyxy, expected, atol=1e-6)
    assert found.mask.tolist() == [[True, True], [False, False], [True, False], [False, False]]
    np.testing.assert_allclose(found.scores[0], [0.9, 0.7], atol=1e-6)


def test_boxes_reach_as_far_as_is_said(video: Path, tmp_path: Path) -> None:
    task = Task(video, "a.mp4", given([[0, 0, 8, 5]], [4]))
    extract(GivenBoxesJob("csv", "ab", reach_frames=2), [task], tmp_path / "store")
    mask = BoxStore(tmp_path / "store").boxes(video).at(range(10), 1).mask
    assert mask[:, 0].nonzero()[0].tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("boxes", "frames", "message"),
    [
        ([[10, 10, 90, 20]], [3], "line 2: box 10, 10, 90, 20 lies outside the frame of .*80x50"),
        ([[-2, 10, 20, 20]], [3], "box -2, 10, 20, 20 lies outside the frame"),
        ([[10, 10, 20, 20]], [10], r"csv, line 2: names frame 10 of .*a\.mp4, which has 10 frames"),
        ([], [0, 12], "csv, line: names frame 12 of"),
    ],
)
def test_boxes_and_frames_that_do_not_belong_to_the_video(
    video: Path, tmp_path: Path, boxes: list[list[float]], frames: list[int], message: str
) -> None:
    task = Task(video, "a.mp4", given(boxes, frames[: len(boxes)], frames))
    ((_, line),) = extract(GivenBoxesJob("csv", "ab"), [task], tmp_path / "store").failures
    assert re.search(message, line), line
    assert "\n" not in line
