"""Small videos in many formats, encoded where a test needs them, and the plain way to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidgraph.video.reader import clear_index_cache

HEIGHT, WIDTH = 48, 64


@pytest.fixture(autouse=True)
def _forget_indices() -> Iterator[None]:
    clear_index_cache()
    yield
    clear_index_cache()


def moving_patches(num_frames: int) -> np.ndarray:
    """Frames that all differ, [T, 48, 64, 3]."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (24, 48, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = []
    for index in range(num_frames):
        top, left = int(50 + 45 * np.sin(index / 9)), 3 * index % 300
        frame = patches[top : top + HEIGHT, left : left + WIDTH].copy()
        column = 5 * index % 50
        frame[10:20, column : column + 10] = (7 * index % 256, 255 - index % 256, 40)
        frames.append(frame)
    return np.stack(frames)


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """`encode(path, codec, num_frames, ...)` writes `moving_patches` and returns the path."""

    def write(
        path: Path,
        codec: str = "libx264",
        num_frames: int = 60,
        options: dict[str, str] | None = None,
        pixel_format: str = "yuv420p",
        key_frame_every: int = 12,
        max_b_frames: int | None = None,
        ticks: list[int] | None = None,
        time_base: Fraction = Fraction(1, 25),
        container_options: dict[str, str] | None = None,
        prepare: Callable[[Any], None] | None = None,
    ) -> Path:
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=25, options=options or {})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
            stream.codec_context.gop_size = key_frame_every
            stream.codec_context.time_base = time_base
            if max_b_frames is not None:
                stream.codec_context.max_b_frames = max_b_frames
            if prepare is not None:
                prepare(stream)
            for index, pixels in enumerate(moving_patches(num_frames)):
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts, frame.time_base = ticks[index] if ticks else index, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def decode_all() -> Callable[[Path], list[np.ndarray]]:
    """The reference: decode everything from the start, in the plainest way."""

    def decode(path: Path) -> list[np.ndarray]:
        with av.open(str(path), metadata_errors="ignore") as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    return decode
