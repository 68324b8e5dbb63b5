"""What every source of frames offers: a file, a folder of images.

Shapes: T frames asked for, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from vidgraph.errors import VideoError


class Video(ABC):
    """An open video, a context manager. Frame `i` is the i-th shown, counted from 0.

    Attributes:
        path: the file or folder.
        num_frames: how many frames there are to read, found by decoding, never from the header.
        declared_num_frames: what the file's header says, None where it is silent; for reports only.
        timestamps_seconds: when each frame is shown, float64 [num_frames]; the first is 0.
        fps: average frames per second.
    """

    path: Path
    num_frames: int
    declared_num_frames: int | None
    timestamps_seconds: np.ndarray
    fps: float

    @property
    def height(self) -> int:
        """Rows of a frame as it is shown (after rotation), in pixels."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Columns of a frame as it is shown (after rotation), in pixels."""
        return self._size[1]

    @cached_property
    def _size(self) -> tuple[int, int]:
        return next(pixels.shape[:2] for _, pixels in self._read_sorted([0]))

    @abstractmethod
    def frames(self) -> Iterator[np.ndarray]:
        """All frames in order, uint8 [H, W, 3] in RGB; equal to `read`, in one pass.

        Raises:
            VideoError: at the first frame that cannot be decoded.
        """

    @abstractmethod
    def _read_sorted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, pixels [H, W, 3]) once for each index of `wanted`, in any order."""

    @abstractmethod
    def close(self) -> None:
        """Releases the file. Reading afterwards is an error."""

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Reads frames in the order asked; an index may repeat and is decoded once.

        Args:
            indices: frame indices, [T].

        Returns:
            Pixels in RGB, uint8 [T, H, W, 3].

        Raises:
            VideoError: an index lies outside the video, or its frame cannot be decoded;
                `error.frame` is the index.
        """
        asked = np.asarray(indices, dtype=np.int64).reshape(-1)
        if asked.size == 0:
            return np.empty((0, self.height, self.width, 3), dtype=np.uint8)
        for index in (int(asked.min()), int(asked.max())):
            if not self._has(index):
                problem = f"there is no such frame; {self._length_in_words()}"
                raise VideoError(self.path, problem, index)
        clip: np.ndarray | None = None
        for index, pixels in self._read_sorted(np.unique(asked).tolist()):
            if clip is None:
                clip = np.empty((len(asked), *pixels.shape), dtype=np.uint8)  # [T, H, W, 3]
            if pixels.shape != clip.shape[1:]:
                sizes = f"{_in_words(pixels.shape)} differs from {_in_words(clip.shape[1:])}"
                problem = f"its size {sizes} of the frames before it; re-encode to one size"
                raise VideoError(self.path, problem, index)
            clip[asked == index] = pixels
        assert clip is not None
        return clip

    def _has(self, index: int) -> bool:
        return 0 <= index < self.num_frames

    def _length_in_words(self) -> str:
        declared = self.declared_num_frames
        header = "" if declared in (None, self.num_frames) else f" (its header says {declared})"
        return f"the video has {self.num_frames} frame{'s' * (self.num_frames != 1)}{header}"

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _in_words(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
