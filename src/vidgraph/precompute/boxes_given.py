"""Boxes that somebody else made, stored as proposals are.

Shapes: F frames looked at, n boxes of one video.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BOXES, packed_boxes
from vidgraph.precompute.extract import Compute, Task
from vidgraph.precompute.store import Method
from vidgraph.video.base import Video

Unit = Literal["pixels", "fractions"]
_OVERHANG_PIXELS = 1.0  # over the border, as detectors and people draw; more is a mistake


@dataclass(frozen=True)
class GivenBoxes:
    """The boxes of one video; what a task of `GivenBoxesJob` carries as `given`."""

    frames: NDArray[np.int64]  # that were looked at, with boxes or not, increasing, [F]
    frame_of: NDArray[np.int64]  # source frame of each box, [n]
    boxes_xyxy: NDArray[np.float64]  # pixels or fractions of the frame, [n, 4]
    scores: NDArray[np.float64]  # [n]
    file: str  # that they come from, for messages: `boxes.csv, line`
    lines: NDArray[np.int64]  # where each box stands in it, [n]


@dataclass(frozen=True)
class GivenBoxesJob:
    """Stores given boxes; a `Job`.

    Attributes:
        origin: what they are, such as `csv` or `something-else`.
        sha256: of the files that they come from, so that a store never holds boxes of two of them.
        unit: of the corners.
        reach_frames: a frame that was not looked at takes the boxes of one up to this far away; 0:
            it has none.
    """

    origin: str
    sha256: str
    unit: Unit = "pixels"
    reach_frames: int = 0
    use_gpu = False

    @property
    def method(self) -> Method:
        settings = {"sha256": self.sha256, "unit": self.unit, "reach_frames": self.reach_frames}
        return Method(BOXES, self.origin, 1, settings)

    def start(self) -> Compute:
        return self._compute

    def _compute(
        self, task: Task, video: Video, counts: Counter[str]
    ) -> tuple[list[int], Iterator[NDArray[np.float32]]]:
        given: GivenBoxes = task.given
        num_frames, height, width = video.num_frames, video.height, video.width
        for frame in given.frames[given.frames >= num_frames]:
            lines = given.lines[given.frame_of == frame]
            where = f"{given.file} {lines[0]}" if len(lines) else given.file
            what = f"names frame {frame} of {task.video}, which has {num_frames} frames"
            raise DataError(f"{where}: {what}")
        size = np.array([width, height, width, height], np.float64)
        pixels = given.boxes_xyxy * (size if self.unit == "fractions" else 1.0)
        over = ((pixels < -_OVERHANG_PIXELS) | (pixels > size + _OVERHANG_PIXELS)).any(1)
        for box in np.flatnonzero(over):
            corners = ", ".join(f"{value:g}" for value in given.boxes_xyxy[box])
            frame = f"the frame of {task.video}, which has {width}x{height} pixels"
            where = f"{given.file} {given.lines[box]}"
            raise DataError(f"{where}: box {corners} lies outside {frame}")
        rows = np.concatenate([(pixels / size).clip(0, 1), given.scores[:, None]], axis=1)
        of_frames = (rows[given.frame_of == frame] for frame in given.frames)
        return given.frames.tolist(), packed_boxes(of_frames, counts)
