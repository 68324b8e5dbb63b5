"""The overlay video, read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vidgraph.errors import RunError, VideoError
from vidgraph.models.grid import adjacency, node_boxes, node_names
from vidgraph.records import Explanation, Prediction
from vidgraph.visualize.overlay import write_overlay


def prediction(stages: int = 1, frame_indices: tuple[int, ...] = (0, 2, 4)) -> Prediction:
    """All attention goes from one corner of the grid to its neighbours, in another corner in each
    sampled frame."""
    grid, linked = (3, 2, 1), adjacency((3, 2, 1))
    attention = torch.zeros(stages, 3, 14, 14)
    for t, node in enumerate((0, 2, 8)):
        attention[:, t, :, node] = linked[:, node].float()
    boxes = node_boxes(grid).expand(3, -1, -1)
    explanation = Explanation(boxes, linked, attention, node_names(grid))
    name = "/clips/a_$name^that$_is_much_too_long_for_the_panel_beside_the_picture.mp4"
    return Prediction(
        name, ["clap", "wave"], torch.tensor([0.9, 0.1]), list(frame_indices), explanation
    )


def written(folder: Path, frames: Any, answer: Prediction, **how: Any) -> tuple[np.ndarray, float]:
    """The pictures of an overlay, and how many a second."""
    write_overlay(folder / "overlay.mp4", frames, answer, **how)
    return read(folder / "overlay.mp4")


def read(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return frames, float(container.streams.video[0].average_rate)


def corner_brightness(picture: np.ndarray) -> list[float]:
    """Brightness of the four corners of the drawn frame, upper left first, row by row."""
    side, step = picture.shape[0], picture.shape[0] // 3
    drawn = picture[:, :side].astype(float)
    return [
        drawn[y : y + step, x : x + step].mean() for y in (0, side - step) for x in (0, side - step)
    ]


def test_each_frame_shows_the_graph_of_the_nearest_sampled_frame(tmp_path: Path):
    black = np.zeros((5, 64, 64, 3), dtype=np.uint8)
    how: Any = {"fps": 10, "frame_numbers": range(5), "side": 256}
    frames, fps = written(tmp_path, black, prediction(), **how)
    assert frames.shape[:3] == (5, 256, 556)
    assert fps == pytest.approx(5 / 4)  # five frames for four seconds, not for half a second
    brightest = [int(np.argmax(corner_brightness(frame))) for frame in frames]
    assert brightest == [0, 0, 1, 1, 3]
    assert frames[:, 5:40, 560 - 250 :].mean() > 200  # the panel is light


def test_a_long_overlay_keeps_its_speed_and_takes_frames_one_after_another(tmp_path: Path):
    drawn: list[tuple[int, int]] = []
    numbers = sorted([0, 3, 4] * 10)

    def frames() -> Iterator[np.ndarray]:
        for place, _ in enumerate(numbers):
            # The frame before is on its way into the file before the next is asked for.
            assert len(drawn) >= place - 1
            yield np.zeros((32, 64, 3), dtype=np.uint8)

    how: Any = {"fps": 5, "frame_numbers": numbers, "side": 64}
    how["progress"] = lambda *counts: drawn.append(counts)
    pictures, fps = written(tmp_path, frames(), prediction(), **how)
    assert fps == 5
    assert pictures.shape[0] == 30
    assert drawn == [(done, 30) for done in range(1, 31)]


def test_without_a_graph_only_the_panel_is_drawn(tmp_path: Path):
    answer = prediction()
    answer.explanation = None
    bright = np.full((2, 64, 64, 3), 200, dtype=np.uint8)
    frames, _ = written(tmp_path, bright, answer, fps=10, frame_numbers=range(2), side=128)
    assert np.abs(frames[0, :, :128].astype(int) - 200).mean() < 3


def test_bad_targets_are_one_line(tmp_path: Path):
    frames = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    how: Any = {"fps": 10, "frame_numbers": range(5), "side": 64}
    with pytest.raises(VideoError, match=r"overlay\.avi: .*\.mp4"):
        write_overlay(tmp_path / "overlay.avi", frames, prediction(), **how)
    with pytest.raises(VideoError, match="no frames"):
        written(tmp_path, frames[:0], prediction(), fps=10, frame_numbers=[])
    (tmp_path / "overlay.mp4").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        written(tmp_path, frames, prediction(), **how)
