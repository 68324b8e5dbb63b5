"""Boxes that may hold something, proposed for the frames of a video.

    rpn       region proposal network of a COCO detector, as the STRG paper uses it; needs weights
    motion    regions that move against the background; needs none

Shapes: n boxes of one frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BOXES, packed_boxes
from vidgraph.precompute.extract import Compute, Task
from vidgraph.precompute.frames import FrameMethod, computed
from vidgraph.precompute.store import Method
from vidgraph.video.base import Video

SHORT_SIDES = {"rpn": 800, "motion": 128}  # pixels that a source looks at
_VERSION = 1  # of both


@dataclass(frozen=True)
class ProposalJob:
    """Proposes boxes on a grid of frames; a `Job`.

    Attributes:
        source: `rpn` or `motion`.
        count: most boxes per frame, those of highest score.
        every: distance of the frames that are looked at, in source frames; 1 for all.
        fps: in place of `every`, frames per second of video.
        short_side: pixels of the frames that the source sees; None: 800 for rpn, 128 for motion.
        weights: of rpn: None for torchvision's, a file, or `random`.

    Raises:
        DataError: both `every` and `fps`, or weights for a source that has none.
    """

    source: Literal["rpn", "motion"]
    count: int = 50
    every: int = 1
    fps: float | None = None
    short_side: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and (self.every != 1 or not self.fps > 0):
            got = f"got {self.fps:g} and {self.every}"
            raise DataError(f"frames are chosen by fps, which is above 0, or by every; {got}")
        if self.weights is not None and self.source != "rpn":
            raise DataError(f"the source {self.source} has no weights; they belong to rpn")

    @property
    def use_gpu(self) -> bool:
        return self.source == "rpn"

    @property
    def method(self) -> Method:
        """See `Job`; raises WeightsError where the rpn has no weights."""
        settings: dict[str, Any] = {"count": self.count}
        settings |= {"every": self.every} if self.fps is None else {"fps": self.fps}
        settings["short_side"] = self._short_side
        if self.source == "rpn":
            from vidgraph.precompute.networks import RPN_WEIGHTS

            settings["weights"] = RPN_WEIGHTS.name(self.weights)
        return Method(BOXES, self.source, _VERSION, settings)

    def load(self) -> FrameMethod:
        """What finds boxes as fractions of the frame and their scores, highest first, [n, 5]."""
        if self.source == "rpn":
            from vidgraph.precompute.networks import RegionProposals

            return RegionProposals(self.weights, self._short_side)
        from vidgraph.precompute.boxes_motion import MovingRegions

        return MovingRegions(self._short_side)

    def start(self) -> Compute:
        """See `Job`."""
        return partial(self._compute, self.load())

    def _compute(
        self, loaded: FrameMethod, task: Task, video: Video, counts: Counter[str]
    ) -> tuple[list[int], Iterator[NDArray[np.float32]]]:
        frame_indices = frame_grid(video, self.every, self.fps)
        found = (rows[: self.count] for rows in computed(video, frame_indices, loaded))
        return frame_indices, packed_boxes(found, counts)

    @property
    def _short_side(self) -> int:
        return self.short_side or SHORT_SIDES[self.source]


def frame_grid(video: Video, every: int, fps: float | None) -> list[int]:
    """The frames that are looked at: 0, `every`, 2 `every`, ...; or those at `fps`."""
    if fps is None:
        return list(range(0, video.num_frames, every))
    times = video.timestamps_seconds
    wanted = np.arange(int(np.floor(times[-1] * fps)) + 1) / fps
    shown = np.searchsorted(times, wanted + 1e-3, side="right") - 1
    return sorted(set(shown.clip(min=0).tolist()))
