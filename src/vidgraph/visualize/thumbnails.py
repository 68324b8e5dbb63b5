"""Thumbnails of clips for pages: a still, and the frames in motion, as addresses that hold them.

Shapes: T frames of a clip, n of its thumbnail, H W h w pixels.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vidgraph.visualize.canvas import evenly
from vidgraph.visualize.report import data_address

_FRAMES, _SHORT_SIDE, _LONG_SIDE = 6, 112, 200
_QUALITY, _FRAME_MILLISECONDS = 45, 220


class Film(NamedTuple):
    """A thumbnail as addresses that hold it: a still, and the frames in motion."""

    still: str
    moving: str
    width: int
    height: int


def thumbnail(frames: np.ndarray) -> np.ndarray:
    """Six frames of a clip, uint8 [T, H, W, 3], evenly and small: [n, h, w, 3]."""
    height, width = frames.shape[1:3]
    scale = _SHORT_SIDE / min(height, width), _LONG_SIDE / max(height, width)
    size = [max(1, round(side * min(*scale, 1))) for side in (width, height)]
    pictures = [Image.fromarray(frames[t]) for t in evenly(len(frames), _FRAMES)]
    lanczos = Image.Resampling.LANCZOS
    return np.stack([np.asarray(picture.resize(size, lanczos)) for picture in pictures])


class FilmMaker:
    """Encodes thumbnails while there is room for them."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def add(self, frames: np.ndarray | None) -> Film | None:
        """A thumbnail, from frames [T, H, W, 3] of any size."""
        if frames is None or self._left <= 0:
            return None
        frames = thumbnail(frames)
        still, moving = webp_address(frames[len(frames) // 2, None]), webp_address(frames)
        self._left -= len(still) + len(moving)
        height, width = frames.shape[1:3]
        return Film(still, moving, width, height)


def webp_address(frames: np.ndarray) -> str:
    """The address of an animation, or of a still, from frames [n, h, w, 3]."""
    first, *others = map(Image.fromarray, frames)
    buffer, how = io.BytesIO(), dict[str, Any]()
    if others:
        how = {
            "save_all": True,
            "append_images": others,
            "duration": _FRAME_MILLISECONDS,
            "loop": 0,
        }
    first.save(buffer, format="webp", quality=_QUALITY, **how)
    return data_address(buffer.getvalue(), "webp")
