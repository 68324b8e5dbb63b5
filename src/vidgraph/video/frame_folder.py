"""A folder of images as a video: sorted naturally (2.jpg before 10.jpg), all of one size.

Shapes: H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from vidgraph.errors import VideoError
from vidgraph.util import natural_key
from vidgraph.video.base import Video

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class FrameFolder(Video):
    """The images of a folder at a constant rate that the caller knows."""

    declared_num_frames = None

    def __init__(self, path: Path, fps: float) -> None:
        if not fps > 0:
            raise VideoError(
                path, f"the rate of a folder of images must be above 0 frames per second; got {fps}"
            )
        names = sorted((file.name for file in path.iterdir()), key=natural_key)
        self.files = [
            path / name
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
        if not self.files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoError(path, f"the folder holds no images ({suffixes})")
        _refuse_gaps(path, self.files)
        self.path, self.fps, self.num_frames = path, float(fps), len(self.files)
        self.timestamps_seconds = np.arange(self.num_frames, dtype=np.float64) / self.fps

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width, _ = self._decode(0).shape
        return height, width

    def frames(self) -> Iterator[np.ndarray]:
        return (pixels for _, pixels in self._read_sorted(list(range(self.num_frames))))

    def _read_sorted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            pixels = self._decode(index)
            height, width, _ = pixels.shape
            if (height, width) != self._size:
                sizes = f"{width}x{height} differs from {self.width}x{self.height}"
                problem = f"its size {sizes} of the folder's first image"
                raise VideoError(self.files[index], problem, index)
            yield index, pixels

    def _decode(self, index: int) -> np.ndarray:
        file = self.files[index]
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))  # [H, W, 3]
        except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: chunks of a PNG
            raise VideoError(file, f"the image cannot be decoded ({error})", index) from error

    def close(self) -> None:
        """Nothing is held open."""


def _refuse_gaps(folder: Path, files: list[Path]) -> None:
    """Images numbered from 0 or 1 are a video's frames, so a hole is a lost frame."""
    named = [re.fullmatch(r"(\D*)(\d+)", file.stem) for file in files]
    if not all(named) or len({name[1] for name in named if name}) > 1:
        return
    numbers = [int(name[2]) for name in named if name]
    steps = np.diff(numbers)
    missing = int(steps.sum()) - len(steps)
    if numbers[0] > 1 or not 0 < missing < len(numbers) or steps.min() != 1:
        return
    before, after = (files[int(steps.argmax()) + place].name for place in (0, 1))
    count = "a frame image is" if missing == 1 else f"{missing} frame images are"
    problem = f"{count} missing, after {before} comes {after}; extract the frames again"
    raise VideoError(folder, problem)
