"""OpenCV's selective search, its boxes put in an order of our own.

Shapes: H W pixels of a reduced frame, n boxes, Q colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vidgraph.precompute.sources import Boxes, reduced, suppress

_STEPS = 6  # per colour channel: Q = 216 colours
_LEAST_SIDE = 0.04  # of the shorter side
_RING = 0.25  # of the box's size, on each side: the surroundings that it is held against


class SelectiveSearch:
    """Boxes of regions that grow together by colour, texture and size (Uijlings et al., IJCV 2013;
    OpenCV's fast mode).

    OpenCV hands the boxes out in an order that is half drawn at random and differs from run to run;
    which boxes there are does not. Here they are ordered by how much the colours in a box differ
    from those around it (the cue "colour contrast" of Alexe et al., CVPR 2010): half the sum of
    absolute differences of the two colour histograms, from 0 to 1. So that neither halves of the
    background nor specks come first, it is multiplied by the square of the share of these
    surroundings that lies inside the frame, and by the fourth root of the box's share of the frame.

    Args:
        short_side: pixels of the shorter side that frames are reduced to.
    """

    offsets: tuple[int, ...] = ()

    def __init__(self, short_side: int) -> None:
        cv2.setNumThreads(1)  # videos are done in parallel, not pixels
        self._short_side = short_side
        self._search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame, reduced, in the order of channels that OpenCV takes, [H, W, 3]."""
        return np.ascontiguousarray(reduced(pixels, self._short_side)[..., ::-1])

    def propose(
        self, frame: NDArray[np.uint8], neighbours: Sequence[NDArray[np.uint8]]
    ) -> tuple[Boxes, Boxes]:
        """See `BoxSource.propose`."""
        height, width = frame.shape[:2]
        self._search.setBaseImage(frame)
        self._search.switchToSelectiveSearchFast()
        found = np.asarray(self._search.process(), np.int64).reshape(-1, 4)
        boxes = np.unique(
            np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1), axis=0
        )
        sides = boxes[:, 2:] - boxes[:, :2]
        boxes = boxes[
            (sides.min(1) >= _LEAST_SIDE * min(height, width)) & (sides < (width, height)).any(1)
        ]
        scores = _contrast(frame, boxes)
        fractions = (boxes / np.array([width, height, width, height])).astype(np.float32)
        kept = suppress(fractions, scores)
        return fractions[kept], scores[kept]


def _contrast(frame: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Boxes:
    """The score of each box, [n]; see `SelectiveSearch`."""
    height, width = frame.shape[:2]
    ring = np.rint(_RING * (boxes[:, 2:] - boxes[:, :2])).astype(np.int64)
    around = np.concatenate([boxes[:, :2] - ring, boxes[:, 2:] + ring], axis=1)
    sums = _integral_histogram(frame)
    inside = _sum_in(sums, boxes)  # [n, Q]
    outside = _sum_in(sums, around.clip(0, (width, height, width, height))) - inside
    shares = [counts / np.maximum(counts.sum(1, keepdims=True), 1) for counts in (inside, outside)]
    different = 0.5 * np.abs(shares[0] - shares[1]).sum(1)
    area, whole = (np.prod(corners[:, 2:] - corners[:, :2], axis=1) for corners in (boxes, around))
    visible = outside.sum(1) / np.maximum(whole - area, 1)
    return (different * visible**2 * (area / (height * width)) ** 0.25).astype(np.float32)


def _integral_histogram(frame: NDArray[np.uint8]) -> NDArray[np.int32]:
    """How many pixels above and left of each corner have each colour, [H + 1, W + 1, Q]."""
    height, width = frame.shape[:2]
    steps = frame.astype(np.int32) * _STEPS // 256
    colours = (steps[..., 0] * _STEPS + steps[..., 1]) * _STEPS + steps[..., 2]  # [H, W]
    sums = np.zeros((height + 1, width + 1, _STEPS**3), np.int32)
    np.put_along_axis(sums[1:, 1:], colours[..., None], 1, axis=2)
    return sums.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)


def _sum_in(sums: NDArray[np.int32], boxes: NDArray[np.int64]) -> NDArray[np.int32]:
    """How many pixels of each colour every box holds, [n, Q]."""
    x0, y0, x1, y1 = boxes.T
    return sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
