"""Optical flow in 8 bits: what every source of fields offers, and how pixels become bytes and back.

A field holds how far each pixel of a frame moves up to the next one, x to the right and y down. A
byte stands for -bound to +bound, where the bound is said for a frame of 340x256 pixels (two-stream
networks, TSN: 20 pixels) and grows with the frame: x by its width, y by its height. Bytes therefore
mean the same at every size, and fields may be resized like pictures.

Shapes: n fields, H W pixels; the last axis is x, y.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.video.snippets import FieldReader

FLOW = "flow"
BOUND = 20.0  # pixels at 340x256, as in TSN's extraction
NO_MOTION = 127.5  # between two bytes, so that mirroring (255 - x) keeps it
TSN_ZERO = 128.0  # what TSN subtracts; half a level off on mirrored fields
_WIDTH, _HEIGHT = 340, 256  # the frame that a bound is said for
_HALF_RANGE = 127.5

Indices = Sequence[int] | NDArray[np.int64]


class FlowSource(Protocol):
    """Where the flow of many videos lies."""

    def method_dict(self) -> dict[str, Any]:
        """How all fields were made, in plain values."""
        ...

    def flow(self, video: str | Path) -> FieldReader:
        """The flow of one video.

        Raises:
            DataError: there is none, or it is of another video.
        """
        ...


def checked_indices(indices: Indices, num_fields: int, where: str) -> NDArray[np.int64]:
    """The fields asked for, [n].

    Raises:
        DataError: one lies outside the video.
    """
    asked = np.asarray(indices, dtype=np.int64).reshape(-1)
    if asked.size and not 0 <= asked.min() <= asked.max() < num_fields:
        outside = int(asked.max() if asked.min() >= 0 else asked.min())
        raise DataError(f"{where}: has no flow field {outside}, there are {num_fields}")
    return asked


def bounds_pixels(height: int, width: int, bound: float = BOUND) -> NDArray[np.float32]:
    """What byte 255 means in pixels of a field of this size, x and y, [2]."""
    return np.array([bound * width / _WIDTH, bound * height / _HEIGHT], np.float32)


def quantise(field: NDArray[np.float32], bound: float = BOUND) -> NDArray[np.uint8]:
    """Pixels in 8 bits: 255 (v / bound + 1) / 2, rounded, motion beyond the bound cut off.

    Halves are rounded away from the middle, so that a mirrored field gives 255 less the bytes,
    exactly. The one value that no byte can treat so is 0: it lies between 127 and 128 and becomes
    128, as in TSN's files.

    Args:
        field: motion in pixels of the field, [..., H, W, 2].
        bound: at 340x256.
    """
    height, width = field.shape[-3:-1]
    levels = field * (_HALF_RANGE / bounds_pixels(height, width, bound))
    away = np.floor(np.abs(levels)).clip(max=127)  # whole levels beyond 127 or 128
    return np.where(levels < 0, 127 - away, 128 + away).astype(np.uint8)


def dequantise(
    fields: NDArray[np.uint8], bound: float = BOUND, zero: float = NO_MOTION
) -> NDArray[np.float32]:
    """Bytes as motion in pixels of the field, at most half a level (0.08 pixels at 340x256) from
    what was within the bound.

    Args:
        fields: [..., H, W, 2].
        bound: that they were made with.
        zero: the byte of no motion: 127.5, under which a mirrored field is the exact opposite, or
            128 as TSN has it.
    """
    height, width = fields.shape[-3:-1]
    return (fields.astype(np.float32) - np.float32(zero)) * (
        bounds_pixels(height, width, bound) / _HALF_RANGE
    )
