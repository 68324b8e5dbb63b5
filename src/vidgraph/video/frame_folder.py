"""A folder of images as a video: sorted naturally (2.jpg before 10.jpg), all of one size.

Shapes: H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vidgraph.errors import VideoError
from vidgraph.util import natural_key
from vidgraph.video.base import Video

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class FrameFolder(Video):
    """The images of a folder at a constant rate that the caller knows."""

    def __init__(self, path: Path, fps: float) -> None:
        if not fps > 0:
            raise VideoError(
                path, f"the rate of a folder of images must be above 0 frames per second; got {fps}"
            )
        self.path, self._fps = path, float(fps)
        self.declared_num_frames = None
        images = (
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        self.files = sorted(images, key=lambda image: natural_key(image.name))
        if not self.files:
            raise VideoError(
                path, f"the folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        self._refuse_gaps()
        self._shape: tuple[int, ...] | None = None

    @property
    def num_frames(self) -> int:
        return len(self.files)

    @property
    def timestamps_seconds(self) -> np.ndarray:
        return np.arange(self.num_frames, dtype=np.float64) / self._fps

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def height(self) -> int:
        return self._first_shape()[0]

    @property
    def width(self) -> int:
        return self._first_shape()[1]

    def frames(self) -> Iterator[np.ndarray]:
        for index in range(self.num_frames):
            yield self._image(index)

    def _read_sorted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            yield index, self._image(index)

    def close(self) -> None:
        """Nothing is held open."""

    def _refuse_gaps(self) -> None:
        """Images numbered from 0 or 1 are a video's frames, so a hole is a lost frame."""
        named = [re.fullmatch(r"(\D*)(\d+)", file.stem) for file in self.files]
        if not all(named) or len({name[1] for name in named if name}) > 1:
            return
        numbers = [int(name[2]) for name in named if name]
        steps = np.diff(numbers)
        missing = int(steps.sum()) - len(steps)
        if numbers[0] > 1 or not 0 < missing < len(numbers) or steps.min() != 1:
            return
        before, after = (self.files[int(steps.argmax()) + place].name for place in (0, 1))
        count = "a frame image is" if missing == 1 else f"{missing} frame images are"
        raise VideoError(
            self.path, f"{count} missing, after {before} comes {after}; extract the frames again"
        )

    def _first_shape(self) -> tuple[int, ...]:
        if self._shape is None:
            self._shape = self._decode(0).shape
        return self._shape

    def _image(self, index: int) -> np.ndarray:
        pixels = self._decode(index)
        height, width = self._first_shape()[:2]
        if pixels.shape[:2] != (height, width):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise VideoError(
                self.files[index],
                f"its size {size} differs from {width}x{height} of the folder's first image",
                frame=index,
            )
        return pixels

    def _decode(self, index: int) -> np.ndarray:
        # Pillow reports broken files by OSError, SyntaxError (PNG chunks) or ValueError, depending
        # on the format.
        try:
            with Image.open(self.files[index]) as image:
                return np.asarray(image.convert("RGB"))  # [H, W, 3]
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(
                self.files[index], f"the image cannot be decoded ({error})", frame=index
            ) from error
