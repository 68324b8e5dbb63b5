"""Opens one video of a data set to see whether it, its boxes and its optical flow can be read."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vidgraph.data.intervals import last_seconds
from vidgraph.errors import DataError, VideoError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow import FlowSource
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import SpanError, span_frames


class CheckedFile(NamedTuple):
    """One video, the rows that name it and their spans in seconds; then what opening it told: kinds
    of faults with what is wrong, frames (0: it cannot be read), frames per second, frames in each
    row's span, and when the last has been shown.
    """

    name: str
    video: str
    rows: list[int]
    spans: list[tuple[float, float]]
    faults: tuple[tuple[str, str], ...] = ()
    num_frames: int = 0
    fps: float = math.nan
    span_frames: tuple[int, ...] = ()
    end_seconds: float = math.inf


def probe_file(
    file: CheckedFile, full: bool, boxes: BoxStore | None, flow: FlowSource | None
) -> CheckedFile:
    if not os.path.exists(file.video):
        return file._replace(faults=(("missing", "does not exist"),))
    try:
        with open_video(file.video) as video:
            if full:
                deque(video.frames(), maxlen=0)
            else:
                video.read([0, video.num_frames // 2, video.num_frames - 1])
            times = video.timestamps_seconds
            return file._replace(
                faults=_store_faults(file.video, video, full, boxes, flow),
                num_frames=video.num_frames,
                fps=float(video.fps),
                span_frames=tuple(_frames_in(times, *span) for span in file.spans),
                end_seconds=last_seconds(times),
            )
    except VideoError as error:
        problem = str(error).removeprefix(file.video).lstrip(":,/ ")
        return file._replace(faults=(("unreadable", problem),))


def _store_faults(
    path: str, video: Video, full: bool, boxes: BoxStore | None, flow: FlowSource | None
) -> tuple[tuple[str, str], ...]:
    """Why the boxes or the flow of a video cannot be used."""

    def look(read: Callable[[list[int]], object], count: int) -> None:
        for index in range(count) if full else sorted({0, count // 2, count - 1}):
            read([index])

    faults = []
    try:
        if boxes is not None:
            stored = boxes.boxes(path)
            look(lambda indices: stored.at(indices, 1), video.num_frames)
    except DataError as error:
        faults.append(("boxes", str(error)))
    try:
        if flow is not None:
            reader = flow.reader(path, video)
            look(reader.read, reader.num_flow_frames)
    except (DataError, VideoError) as error:
        faults.append(("flow", str(error)))
    return tuple(faults)


def _frames_in(times: np.ndarray, start: float, end: float) -> int:
    """Frames of a span as the sampler sees it: at least the one on the screen."""
    try:
        first, stop = span_frames(times, start, end)
    except SpanError:
        return 0
    return stop - first
