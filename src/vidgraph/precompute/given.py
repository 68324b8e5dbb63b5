"""Boxes that somebody else made, stored as the proposals are.

Shapes: F frames looked at, n boxes of one video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.container import Method
from vidgraph.precompute.store import BOXES, encode_boxes
from vidgraph.precompute.tasks import Extracted, Task
from vidgraph.video.reader import open_video

Unit = Literal["pixels", "fractions"]
# detectors and people draw a little over the border; more is a mistake, and a box of another size
# of frame
_OVERHANG_PIXELS = 1.0


@dataclass(frozen=True)
class GivenBoxes:
    """The boxes of one video; what a task of `GivenBoxesJob` carries as `extra`.

    Attributes:
        frames: source frames that were looked at, whether they hold boxes or not, increasing, [F].
        frame_of: source frame of each box, [n].
        boxes_xyxy: pixels or fractions of the frame, [n, 4].
        scores: [n].
        places: where each box stands in its file, for messages: the file, and a number per box [n].
    """

    frames: NDArray[np.int64]
    frame_of: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    places: tuple[str, NDArray[np.int64]]

    def place(self, box: int) -> str:
        """`boxes.csv, line 7`."""
        return f"{self.places[0]} {self.places[1][box]}"


@dataclass(frozen=True)
class GivenBoxesJob:
    """Stores given boxes; a job of the engine.

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

    def method(self) -> Method:
        """See `Job.method`."""
        return Method(
            BOXES,
            self.origin,
            1,
            {"sha256": self.sha256, "unit": self.unit, "reach_frames": self.reach_frames},
        )

    def start(self) -> Callable[[Task], Extracted]:
        """See `Job.start`."""
        return self._work

    def _work(self, task: Task) -> Extracted:
        given: GivenBoxes = task.extra
        with open_video(task.video) as video:
            num_frames, height, width = video.num_frames, video.height, video.width
        if len(late := np.flatnonzero(given.frame_of >= num_frames)):
            box = int(late[0])
            raise DataError(
                f"{given.place(box)}: names frame {given.frame_of[box]} of {task.video}, which "
                f"has {num_frames} frames"
            )
        if len(given.frames) and given.frames[-1] >= num_frames:
            raise DataError(
                f"{given.places[0]}: names frame {given.frames[-1]} of {task.video}, which has "
                f"{num_frames} frames"
            )
        fractions = self._fractions(given, height, width, str(task.video))
        records, bare = [], 0
        for frame in given.frames:
            own = given.frame_of == frame
            records.append(encode_boxes(fractions[own], given.scores[own]))
            bare += not own.any()
        counts = {"frames": len(records), "boxes": len(fractions), "bare": bare}
        return Extracted(
            given.frames.tolist(), num_frames, height, width, self.reach_frames, records, counts
        )

    def _fractions(
        self, given: GivenBoxes, height: int, width: int, video: str
    ) -> NDArray[np.float64]:
        """Corners as fractions of the frame, cut off at its border, [n, 4]."""
        size = np.array([width, height, width, height], np.float64)
        pixels = given.boxes_xyxy * (size if self.unit == "fractions" else 1.0)
        over = (pixels < -_OVERHANG_PIXELS) | (pixels > size + _OVERHANG_PIXELS)
        if over.any():
            box = int(np.flatnonzero(over.any(1))[0])
            corners = ", ".join(f"{value:g}" for value in given.boxes_xyxy[box])
            raise DataError(
                f"{given.place(box)}: box {corners} lies outside the frame of {video}, which has "
                f"{width}x{height} pixels"
            )
        return (pixels / size).clip(0, 1)
