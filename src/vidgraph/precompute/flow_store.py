"""Optical flow in 8 bits, and stores of it.

A flow frame holds how far each pixel of a frame moves up to the next one, x to the right and y
down; a video of N frames has N - 1. A byte stands for -bound to +bound, where the bound is said for
a frame of 340x256 pixels (two-stream networks, TSN: 20 pixels) and grows with the frame: x by its
width, y by its height. Bytes therefore mean the same at every size, and flow may be resized like
pictures.

In a store each flow frame is compressed by zlib without loss, all of x, then all of y, row by row:
uint8 [bytes].

Shapes: n flow frames, H W pixels; the last axis is x, y.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.frames import reduced_size
from vidgraph.precompute.store import Store, StoredVideo
from vidgraph.video.base import Video

FLOW = "flow"
BOUND = 20.0  # pixels at 340x256, as in TSN's extraction
_WIDTH, _HEIGHT = 340, 256  # the frame that a bound is said for
_HALF_RANGE = 127.5  # also the byte of no motion: between two, so that mirroring (255 - x) keeps it
_ZLIB_LEVEL = 6  # higher ones cost eight times as long and save 2 %


class FlowStore(Store):
    """A store of flow.

    Args:
        folder: as `vidgraph extract flow` wrote it.
        bound: pixels at 340x256 that the caller takes bytes to reach to.

    Raises:
        DataError: the folder is no store of flow, or one of another bound.
    """

    is_live = False

    def __init__(self, folder: str | Path, bound: float = BOUND) -> None:
        super().__init__(folder, FLOW)
        stored = self.method.settings.get("bound")
        if stored != bound:
            what = f"holds flow up to {stored} pixels at 340x256, and {bound:g} is asked for"
            raise DataError(f"{folder}: {what}; extract with --bound {bound:g} into a new store")

    def reader(self, path: str | Path, video: Video | None = None) -> StoredFlow:
        """The flow of one video; raises DataError as `Store.load`."""
        return StoredFlow(self.load(path))


class StoredFlow:
    """The flow of one video, from a store; see `FlowReader`."""

    def __init__(self, stored: StoredVideo) -> None:
        self._stored = stored
        self.num_flow_frames = len(stored.header.frame_indices)
        size, settings = (stored.header.height, stored.header.width), stored.header.method.settings
        self.height, self.width = reduced_size(*size, settings.get("short_side"))

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `FlowReader.read`; each flow frame is unpacked once."""
        path = self._stored.path
        asked = in_range(indices, self.num_flow_frames, path)
        shape = 2, self.height, self.width  # x and y apart, as models take them in the end
        flow = np.empty((len(asked), *shape), np.uint8)
        for index in np.unique(asked).tolist():
            try:
                unpacked = zlib.decompress(self._stored.rows(index).data)
                flow[asked == index] = np.frombuffer(unpacked, np.uint8).reshape(shape)
            except (zlib.error, ValueError) as error:
                what = f"is damaged ({error}); delete the file and extract again"
                raise DataError(f"{path}, frame {index}: {what}") from error
        return flow.transpose(0, 2, 3, 1)


def pack_flow(flow: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A flow frame [H, W, 2] as it is stored, [bytes]."""
    whole = np.ascontiguousarray(flow.transpose(2, 0, 1)).tobytes()
    return np.frombuffer(zlib.compress(whole, _ZLIB_LEVEL), np.uint8)


def in_range(
    indices: Sequence[int] | NDArray[np.int64], num_flow_frames: int, where: str | Path
) -> NDArray[np.int64]:
    """The flow frames asked for, [n]; DataError where one lies outside the video."""
    asked = np.asarray(indices, dtype=np.int64).reshape(-1)
    outside = asked[(asked < 0) | (asked >= num_flow_frames)]
    if len(outside):
        raise DataError(f"{where}: has no flow frame {outside[0]}, there are {num_flow_frames}")
    return asked


# ---- motion in 8 bits ----------------------------------------------------------------------------


def bounds_pixels(height: int, width: int, bound: float = BOUND) -> NDArray[np.float32]:
    """What byte 255 means in pixels of a flow frame of this size, x and y, [2]."""
    return np.array([bound * width / _WIDTH, bound * height / _HEIGHT], np.float32)


def quantize(motion: NDArray[np.float32], bound: float = BOUND) -> NDArray[np.uint8]:
    """Pixels in 8 bits: 255 (v / bound + 1) / 2, rounded, motion beyond the bound cut off.

    Halves are rounded away from the middle, so that a mirrored flow frame gives 255 less the bytes,
    exactly. The one value that no byte can treat so is 0: it lies between 127 and 128 and becomes
    128, as in TSN's files.

    Args:
        motion: in pixels, [..., H, W, 2].
        bound: at 340x256.
    """
    height, width = motion.shape[-3:-1]
    levels = motion * (_HALF_RANGE / bounds_pixels(height, width, bound))
    away = np.floor(np.abs(levels)).clip(max=127)  # whole levels beyond 127 or 128
    return np.where(levels < 0, 127 - away, 128 + away).astype(np.uint8)


def dequantize(flow: NDArray[np.uint8], bound: float = BOUND) -> NDArray[np.float32]:
    """Bytes as motion in pixels, at most half a level (0.08 pixels at 340x256) from what was within
    the bound. No motion is 127.5, so that a mirrored flow frame is the exact opposite.

    Args:
        flow: [..., H, W, 2].
        bound: that it was made with.
    """
    height, width = flow.shape[-3:-1]
    steps = bounds_pixels(height, width, bound) / _HALF_RANGE
    return (flow.astype(np.float32) - np.float32(_HALF_RANGE)) * steps
