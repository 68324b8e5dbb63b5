"""What looks for boxes or for motion in a video: shown its frames with their neighbours, each
decoded and prepared once.

Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidgraph.video.base import Video

Image = NDArray[np.uint8]
_STREAM_SHARE = 1 / 4  # where more of the frames are wanted, decoding all is cheaper than seeking
_READ_AT_ONCE = 8


class FrameMethod(Protocol):
    """Finds something in a frame, looking at some of its neighbours too."""

    offsets: tuple[int, ...]  # of these neighbours, counted in source frames

    def prepare(self, pixels: Image) -> Any:
        """What is kept of a frame, [H, W, 3] in RGB."""
        ...

    def compute(self, frame: Any, neighbours: Sequence[Any]) -> NDArray[np.float32]:
        """What is found in a frame, from what `prepare` kept of it and of its neighbours; None
        where the video has no such frame."""
        ...


def computed(
    video: Video, frame_indices: Sequence[int], method: FrameMethod
) -> Iterator[NDArray[np.float32]]:
    """What a method finds in each of some frames (increasing), one after another."""
    end, furthest = video.num_frames, max(map(abs, method.offsets), default=0)
    near = {frame: [frame + offset for offset in method.offsets] for frame in frame_indices}
    needed = {
        index for frame, others in near.items() for index in (frame, *others) if 0 <= index < end
    }
    read, held = _read(video, sorted(needed)), dict[int, Any]()
    for frame, others in near.items():
        while not needed.isdisjoint((frame, *others)):
            index, pixels = next(read)
            needed.discard(index)
            held[index] = method.prepare(pixels)
        yield method.compute(held[frame], [held.get(index) for index in others])
        held = {index: kept for index, kept in held.items() if index >= frame - furthest}


def _read(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Image]]:
    """Frames `wanted` (increasing) with their indices."""
    if len(wanted) > _STREAM_SHARE * video.num_frames:
        chosen = set(wanted)
        yield from (item for item in enumerate(video.frames()) if item[0] in chosen)
        return
    for start in range(0, len(wanted), _READ_AT_ONCE):
        part = wanted[start : start + _READ_AT_ONCE]
        yield from zip(part, video.read(part), strict=True)


def reduced(pixels: Image, short_side: int | None) -> Image:
    """A frame whose shorter side has at most so many pixels, [H, W, 3]; None leaves it."""
    import cv2

    height, width = reduced_size(pixels.shape[0], pixels.shape[1], short_side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def reduced_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Rows and columns of a `reduced` frame."""
    scale = min(1.0, (short_side or min(height, width)) / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def grey(pixels: Image, short_side: int | None) -> Image:
    """A `reduced` frame in grey, [H, W]."""
    import cv2

    return np.asarray(cv2.cvtColor(reduced(pixels, short_side), cv2.COLOR_RGB2GRAY), np.uint8)
