"""Which frames are looked at, what a source is shown, and what a job remembers of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.precompute.boxes_proposed import ProposalJob, frame_grid
from vidgraph.precompute.extract import Task
from vidgraph.precompute.frames import computed
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video


class Values:
    """Keeps one pixel's value of each frame, which tells its number, and finds these numbers."""

    def __init__(self, offsets: tuple[int, ...]) -> None:
        self.offsets = offsets
        self.prepared: list[int] = []

    def prepare(self, pixels: np.ndarray) -> int:
        self.prepared.append(int(pixels[0, 0, 0]) // 4)
        return self.prepared[-1]

    def compute(self, frame: Any, neighbours: Sequence[Any]) -> np.ndarray:
        return np.array([frame, *neighbours], np.float32)  # None becomes NaN


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 12.5 per second; frame t is a grey of 4 t."""
    path = tmp_path_factory.mktemp("numbered") / "a.mp4"
    frames = 4 * np.arange(60, dtype=np.uint8).repeat(32 * 48 * 3).reshape(60, 32, 48, 3)
    write_video(path, frames, fps=12.5, lossless=True)
    return path


def test_grids_of_frames(numbered: Path) -> None:
    with open_video(numbered) as video:
        assert frame_grid(video, 1, None) == list(range(60))
        assert frame_grid(video, 25, None) == [0, 25, 50]
        assert frame_grid(video, 1, 2.5) == list(range(0, 60, 5))  # 12.5 / 2.5
        assert frame_grid(video, 1, 5.0) == [0, 2, 5, 7, 10, 12] + [
            k + d for k in range(15, 60, 5) for d in (0, 2)
        ]  # on the screen then
        assert frame_grid(video, 1, 100.0) == list(range(60))


@pytest.mark.parametrize("frames", [range(60), range(0, 60, 7), [0, 3, 4, 58, 59], [31]])
@pytest.mark.parametrize("offsets", [(), (-5, -2, 2, 5), (3,)])
def test_a_method_is_shown_each_frame_with_its_neighbours(
    numbered: Path, frames: Sequence[int], offsets: tuple[int, ...]
) -> None:
    method = Values(offsets)
    with open_video(numbered) as video:
        shown = np.stack(list(computed(video, list(frames), method)))
    near = np.array(frames)[:, None] + np.array([0, *offsets])
    expected = np.where((near >= 0) & (near < 60), near, np.nan)
    np.testing.assert_array_equal(shown, expected)
    assert sorted(method.prepared) == np.unique(expected[~np.isnan(expected)]).tolist()  # once each


def test_a_job_remembers_what_its_boxes_depend_on() -> None:
    assert ProposalJob("motion").method.settings == {"count": 50, "every": 1, "short_side": 128}
    by_time = ProposalJob("motion", 10, fps=3.0, short_side=64).method.settings
    assert by_time == {"count": 10, "fps": 3.0, "short_side": 64}
    chosen = "frames are chosen by fps, which is above 0, or by every; got 3 and 2"
    for options, message in (
        ({"every": 2, "fps": 3.0}, chosen),
        ({"fps": 0.0}, "which is above 0"),
        ({"weights": "x.pth"}, "the source motion has no weights; rpn and detector have"),
    ):
        with pytest.raises(DataError, match=message):
            ProposalJob("motion", **options)
    with pytest.raises(DataError, match="the detector sees 416 x 416 pixels; leave out"):
        ProposalJob("detector", short_side=128)


def test_real_videos_of_many_shapes(shared_data: Path) -> None:
    """At most K boxes in each frame of the grid, best first, none the same as another."""
    compute = ProposalJob("motion", count=6, every=40).start()
    for path in sorted((shared_data / "data" / "sample_videos").glob("*.mp4")):
        counts = Counter[str]()
        with open_video(path) as video:
            frame_indices, found = compute(Task(path, path.name), video, counts)
            frames = list(found)
            assert frame_indices == list(range(0, video.num_frames, 40))
        assert counts == {
            "frames": len(frames),
            "boxes": sum(map(len, frames)),
            "bare": sum(len(rows) == 0 for rows in frames),
        }
        for rows in frames:
            assert len(rows) == len(np.unique(rows, axis=0)) <= 6
            assert (np.diff(rows[:, 4]) <= 0).all()
