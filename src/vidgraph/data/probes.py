"""Opens the videos of a data set, on several processes, to see whether they and their optical flow
can be read.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.context import SpawnContext
from typing import Any, NamedTuple

import numpy as np

from vidgraph.data.flow_source import VideoFlow, open_video_flow
from vidgraph.data.intervals import last_seconds
from vidgraph.errors import DataError, VideoError
from vidgraph.records import InputSpec
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import SpanError, sample_frames


class ProbeTask(NamedTuple):
    """What is to be looked at.

    Attributes:
        path: the video.
        spans: of its rows, in seconds.
        full: decode everything instead of the first, middle and last frame and field.
        flow: where its flow is and the bound of that, as `open_video_flow` takes them; None:
            nowhere.
    """

    path: str
    spans: tuple[tuple[float, float], ...]
    full: bool
    flow: tuple[str, float] | None = None


class Probe(NamedTuple):
    """What opening a video told.

    Attributes:
        kind: of fault; empty for a readable video.
        problem: what is wrong with the video, or empty.
        num_frames: of the video.
        fps: its frame rate.
        span_frames: frames in each of its rows' spans.
        end_seconds: when the last frame has been shown.
        flow_problem: what is wrong with its flow, or empty.
    """

    kind: str = ""
    problem: str = ""
    num_frames: int = 0
    fps: float = math.nan
    span_frames: tuple[int, ...] = ()
    end_seconds: float = math.inf
    flow_problem: str = ""


def _probe(task: ProbeTask) -> Probe:
    path = task.path
    if not os.path.exists(path):
        return Probe("missing", "does not exist")
    try:
        with open_video(path) as video:
            if task.full:
                deque(video.frames(), maxlen=0)
            else:
                video.read([0, video.num_frames // 2, video.num_frames - 1])
            times, fps = video.timestamps_seconds, float(video.fps)
            found = Probe(
                "",
                "",
                video.num_frames,
                fps,
                tuple(_frames_in(times, *span) for span in task.spans),
                last_seconds(times),
            )
            return (
                found
                if task.flow is None
                else found._replace(flow_problem=_flow_problem(_opened(*task.flow), video, task))
            )
    except VideoError as error:
        return Probe("unreadable", str(error).removeprefix(path).lstrip(":,/ "))


@lru_cache(maxsize=1)
def _opened(where: str, bound: float) -> VideoFlow:
    return open_video_flow(where, bound)


def _flow_problem(flow: VideoFlow, video: Video, task: ProbeTask) -> str:
    """Why the flow of a video cannot be used, or nothing where it can."""
    try:
        reader = flow.reader(task.path, video)
        last = reader.num_fields - 1
        for index in range(last + 1) if task.full else sorted({0, last // 2, last}):
            reader.read([index])
    except (DataError, VideoError) as error:
        return str(error)
    return ""


def _frames_in(times: np.ndarray[Any, Any], start: float, end: float) -> int:
    """Frames of a span as the sampler sees it: a short span between two frames still holds the one
    on the screen.
    """
    try:
        sample_frames(
            InputSpec(1, 1, 1, stride_frames=1), times, start_seconds=start, end_seconds=end
        )
    except SpanError:
        return 0
    return max(1, int(((times >= start - 1e-6) & (times < end - 1e-6)).sum()))


def probe_all(tasks: Sequence[ProbeTask], workers: int) -> Iterator[Probe]:
    """`map(_probe, tasks)` on several processes; a file on which the decoder takes its process down
    costs only itself.

    Raises:
        DataError: no process can be started.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_probe, tasks)
        return
    done, spawn = (
        0,
        multiprocessing.get_context("spawn"),
    )  # forking a process that has run torch's threads may hang
    while done < len(tasks):
        try:
            with ProcessPoolExecutor(min(workers, len(tasks) - done), mp_context=spawn) as pool:
                for probe in pool.map(_probe, tasks[done:]):
                    yield probe
                    done += 1
        except BrokenProcessPool:
            _start_a_process(spawn)
            for task in tasks[done : done + workers]:  # it is most likely one of these that did it
                yield _probe_alone(task, spawn)
                done += 1


def _start_a_process(context: SpawnContext) -> None:
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise DataError(
            "checking in several processes needs a script guarded by `if __name__ == "
            "'__main__':`, or workers=1"
        ) from error


def _probe_alone(task: ProbeTask, context: SpawnContext) -> Probe:
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_probe, task).result()
    except BrokenProcessPool:
        return Probe("unreadable", "the decoder crashed on it, or memory ran out")
