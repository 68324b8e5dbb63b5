"""Frames in memory as a video.

Shapes: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vidgraph.errors import VideoError
from vidgraph.video.base import Video


class ArrayVideo(Video):
    """Frames that a caller holds.

    Args:
        frames: uint8 in RGB, [T, H, W, 3], or a list of T frames of one size.
        fps: of them.

    Raises:
        VideoError: they are of another shape or type.
    """

    declared_num_frames = None
    path = Path("frames in memory")

    def __init__(self, frames: np.ndarray | Sequence[np.ndarray], fps: float = 25.0) -> None:
        try:
            self._frames = np.asarray(frames)
        except ValueError as error:
            raise VideoError(self.path, "frames differ in size; give all of one size") from error
        found, kind = list(self._frames.shape), self._frames.dtype
        if self._frames.ndim != 4 or found[3] != 3 or not found[0] or kind != np.uint8:
            wanted = "uint8 [T, H, W, 3] in RGB"
            raise VideoError(self.path, f"are {kind} {found}; give {wanted}")
        self.num_frames, self.fps = len(self._frames), fps
        self.timestamps_seconds = np.arange(self.num_frames) / fps

    def frames(self) -> Iterator[np.ndarray]:
        """See `Video.frames`."""
        return iter(self._frames)

    def _read_sorted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, self._frames[index]) for index in wanted)

    def close(self) -> None:
        """Nothing is open."""
