"""Write frames as an H.264 file that every player opens.

Shapes: T frames, H W pixels.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import ColorRange

from vidgraph.errors import VideoError
from vidgraph.util import atomic_write


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    crf: int = 18,
    lossless: bool = False,
    key_frame_every: int = 30,
) -> None:
    """Writes an .mp4 file, whole or not at all; an older one is replaced on success only.

    Equal frames give equal files whatever the number of processors: the encoder runs on one thread.

    Args:
        path: the file to write; must end in `.mp4`.
        frames: uint8 [T, H, W, 3] in RGB, or [T, H, W] in grey; may be an iterator.
        fps: frames per second.
        crf: constant rate factor of x264: 0 nearly exact, 18 hardly visible loss, 51 worst.
        lossless: every pixel is read back exactly by `open_video`. Such files use profiles that
            FFmpeg reads but few browsers show, and `crf` is ignored.
        key_frame_every: largest distance between key frames, in frames; short distances make random
            reads cheap.

    Raises:
        VideoError: wrong suffix, shape, dtype or rate; or the encoder refuses the frames.
        RunError: the folder cannot be written or the disk is full.
    """
    if Path(path).suffix.lower() != ".mp4":
        raise VideoError(path, "the name of a video to write must end in .mp4")
    checked = _checked(path, frames)
    first = next(checked)
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(path, f"fps must be above 0; got {fps}")
    is_grey = first.ndim == 2
    height, width = first.shape[:2]
    rate = Fraction(fps).limit_denominator(100_000)
    codec, pixel_format = _codec_and_format(is_grey, lossless, height, width)
    # x264's macroblock tree differs from call to call on processors with AVX-512.
    options = {"qp": "0"} if lossless else {"crf": str(crf), "x264-params": "mbtree=0"}
    with atomic_write(path) as temporary:
        try:
            with av.open(str(temporary), "w", format="mp4") as container:
                stream = container.add_stream(codec, rate=rate, options=options)
                stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
                stream.codec_context.thread_count = 1
                stream.codec_context.gop_size = key_frame_every
                if pixel_format == "gray":
                    stream.codec_context.color_range = ColorRange.JPEG
                for index, pixels in enumerate(chain([first], checked)):
                    whole = np.ascontiguousarray(pixels)
                    frame = av.VideoFrame.from_ndarray(whole, "gray" if is_grey else "rgb24")
                    frame.pts, frame.time_base = index, 1 / rate
                    if pixel_format == "gray":
                        frame.color_range = ColorRange.JPEG
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        except av.FFmpegError as error:
            # The system's refusal, not the encoder's
            if error.errno in errno.errorcode and error.errno != errno.EINVAL:
                raise OSError(error.errno, error.strerror) from error
            raise VideoError(path, f"the frames cannot be encoded ({error.strerror})") from error


def _checked(path: str | Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, at least one, each of the first one's shape."""
    shape: tuple[int, ...] | None = None
    for pixels in frames:
        is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        fits = pixels.shape == (shape or pixels.shape) and pixels.size
        if pixels.dtype != np.uint8 or not is_picture or not fits:
            wanted = f"{list(shape)} as the first" if shape else "[H, W, 3] or [H, W] and not empty"
            found = f"{pixels.dtype} {list(pixels.shape)}"
            raise VideoError(path, f"each frame must be uint8 {wanted}; got {found}")
        shape = pixels.shape
        yield pixels
    if shape is None:
        raise VideoError(path, "there are no frames to write")


def _codec_and_format(
    is_grey: bool, lossless: bool, height: int, width: int
) -> tuple[Literal["libx264", "libx264rgb"], str]:
    """4:2:0 chroma needs even sizes; odd ones keep every pixel in 4:4:4."""
    if lossless:
        return ("libx264", "gray") if is_grey else ("libx264rgb", "rgb24")
    return "libx264", "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
