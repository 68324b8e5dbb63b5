"""Boxes that may hold something, proposed for the frames of a video.

    detector  YOLOX-nano, persons and things of COCO's 80 classes, in tracks; needs weights
    rpn       region proposal network of a COCO detector, as the STRG paper uses it; needs weights
    motion    regions that move against the background; needs none

Shapes: n boxes of one frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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

Source = Literal["detector", "rpn", "motion"]
SHORT_SIDES = {"rpn": 800, "motion": 128}  # pixels that a source looks at
_VERSION = 1  # of all


@dataclass(frozen=True)
class ProposalJob:
    """Proposes boxes on a grid of frames; a `Job`.

    Attributes:
        source: what proposes.
        count: most boxes per frame, those of highest score.
        every: distance of the frames that are looked at, in source frames; 1 for all.
        fps: in place of `every`, frames per second of video.
        short_side: pixels of the frames that the source sees; None: 800 for rpn, 128 for motion;
            the detector has a size of its own.
        weights: a file; None: torchvision's of rpn, Megvii's of the detector; `random` for rpn.

    Raises:
        DataError: both `every` and `fps`, or an option that the source does not have.
    """

    source: Source
    count: int = 50
    every: int = 1
    fps: float | None = None
    short_side: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and (self.every != 1 or not self.fps > 0):
            got = f"got {self.fps:g} and {self.every}"
            raise DataError(f"frames are chosen by fps, which is above 0, or by every; {got}")
        if self.weights is not None and self.source == "motion":
            raise DataError("the source motion has no weights; rpn and detector have")
        if self.short_side is not None and self.source == "detector":
            raise DataError("the detector sees 416 x 416 pixels; leave out --short-side")

    @property
    def use_gpu(self) -> bool:
        return self.source == "rpn"

    @property
    def method(self) -> Method:
        """See `Job`; raises WeightsError where weights are missing."""
        settings: dict[str, Any] = {"count": self.count}
        settings |= {"every": self.every} if self.fps is None else {"fps": self.fps}
        if self.source == "detector":
            from vidgraph.precompute.boxes_detected import detector_weights

            settings["weights"] = detector_weights(self.weights)[1]
            return Method(BOXES, self.source, _VERSION, settings)
        settings["short_side"] = self._short_side
        if self.source == "rpn":
            from vidgraph.precompute.networks import RPN_WEIGHTS

            settings["weights"] = RPN_WEIGHTS.name(self.weights)
        return Method(BOXES, self.source, _VERSION, settings)

    def load(self) -> FrameMethod:
        """What finds boxes as fractions of the frame and their scores, highest first, [n, 5]; the
        detector also their classes, [n, 6]."""
        if self.source == "detector":
            from vidgraph.precompute.boxes_detected import Detector

            return Detector(self.weights)
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
        found: Iterable[NDArray[np.float32]] = computed(video, frame_indices, loaded)
        if self.source == "detector":
            from vidgraph.precompute.tracks import along_tracks

            found = along_tracks([*found], frame_indices, video.num_frames)
            frame_indices = list(range(video.num_frames))
        return frame_indices, packed_boxes((rows[: self.count] for rows in found), counts)

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
