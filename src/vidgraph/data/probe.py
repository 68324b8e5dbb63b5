"""Opens one video of a data set to see whether it, its boxes and its optical flow can be read."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vidgraph.data.intervals import last_seconds
from vidgraph.errors import DataError, VideoError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow import FlowSource
from vidgraph.records import InputSpec
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import SpanError, sample_frames


class CheckedFile(NamedTuple):
    """One video, the rows that name it, and their spans in seconds."""

    name: str
    video: str
    rows: list[int]
    spans: list[tuple[float, float]]


class Probe(NamedTuple):
    """What opening a video told: the kind of fault and what is wrong, or empty texts; its frames,
    frame rate, frames in each row's span, and when the last has been shown; what is wrong with its
    boxes and its flow."""

    kind: str = ""
    problem: str = ""
    num_frames: int = 0
    fps: float = math.nan
    span_frames: tuple[int, ...] = ()
    end_seconds: float = math.inf
    of_stores: tuple[tuple[str, str], ...] = ()


def probe_file(
    file: CheckedFile, full: bool, boxes: BoxStore | None, flow: FlowSource | None
) -> Probe:
    if not os.path.exists(file.video):
        return Probe("missing", "does not exist")
    try:
        with open_video(file.video) as video:
            if full:
                deque(video.frames(), maxlen=0)
            else:
                video.read([0, video.num_frames // 2, video.num_frames - 1])
            times = video.timestamps_seconds
            frames = tuple(_frames_in(times, *span) for span in file.spans)
            problems = _store_problems(file.video, video, full, boxes, flow)
            facts = video.num_frames, float(video.fps), frames, last_seconds(times)
            return Probe("", "", *facts, problems)
    except VideoError as error:
        return Probe("unreadable", str(error).removeprefix(file.video).lstrip(":,/ "))


def _store_problems(
    path: str, video: Video, full: bool, boxes: BoxStore | None, flow: FlowSource | None
) -> tuple[tuple[str, str], ...]:
    """Why the boxes or the flow of a video cannot be used."""

    def look(read: Callable[[list[int]], object], count: int) -> None:
        for index in range(count) if full else sorted({0, count // 2, count - 1}):
            read([index])

    problems = []
    try:
        if boxes is not None:
            stored = boxes.boxes(path)
            look(lambda indices: stored.at(indices, 1), video.num_frames)
    except DataError as error:
        problems.append(("boxes", str(error)))
    try:
        if flow is not None:
            reader = flow.reader(path, video)
            look(reader.read, reader.num_flow_frames)
    except (DataError, VideoError) as error:
        problems.append(("flow", str(error)))
    return tuple(problems)


def _frames_in(times: np.ndarray[Any, Any], start: float, end: float) -> int:
    """Frames of a span as the sampler sees it: at least the one on the screen."""
    try:
        sample_frames(
            InputSpec(1, 1, 1, stride_frames=1), times, start_seconds=start, end_seconds=end
        )
    except SpanError:
        return 0
    return max(1, int(((times >= start - 1e-6) & (times < end - 1e-6)).sum()))
