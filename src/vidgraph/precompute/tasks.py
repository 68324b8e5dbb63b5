"""What the engine and its processes tell each other: a job, its videos, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vidgraph.errors import RunError, VideoError, VidgraphError
from vidgraph.precompute.container import Header, Method, source_of, write_records
from vidgraph.precompute.store import Store


@dataclass(frozen=True)
class Task:
    """One video to do.

    Attributes:
        video: the file or folder of images.
        name: of the video in the store: its path below what was extracted.
        extra: what else the job needs to know of it, such as given boxes.
    """

    video: Path
    name: str
    extra: Any = None


@dataclass(frozen=True)
class Extracted:
    """What a job found in one video.

    Attributes:
        frame_indices: source frames that have a record, increasing.
        num_frames: of the video.
        height: rows of its frames.
        width: columns of its frames.
        reach_frames: how far from its own frame a record also stands.
        records: one per entry of `frame_indices`; may be a generator.
        counts: what to say of it in the end, such as {"boxes": 120}; read when all records have
            been taken.
    """

    frame_indices: list[int]
    num_frames: int
    height: int
    width: int
    reach_frames: int
    records: Iterable[bytes]
    counts: Mapping[str, int] = field(default_factory=dict)


class Job(Protocol):
    """What is done to each video. A frozen dataclass: it travels to other processes, which start it
    once and use it for many videos.
    """

    def __hash__(self) -> int: ...

    def method(self) -> Method:
        """How the records are made, as the store remembers it. Fails early where something that
        every video needs is missing.
        """
        ...

    def start(self) -> Callable[[Task], Extracted]:
        """Loads what all videos share, such as a network, and gives the function that does one
        video.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one video, or of the whole run if it is fatal.

    Attributes:
        name: of the video in the store.
        error: one line, or empty if its file was written.
        fatal: the error would hit every other video too: the disk is full, or the job cannot start.
        counts: of the job.
    """

    name: str
    error: str = ""
    fatal: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


def do_task(work: Callable[[Task], Extracted], task: Task, store: Store) -> Outcome:
    """Does one video and writes its file. Whatever goes wrong is told in the outcome, for one video
    must not stop the others.
    """
    try:
        found = work(task)
        source = source_of(task.video, task.name)
        sizes = (found.num_frames, found.height, found.width, found.reach_frames)
        write_records(
            store.path_of(task.name),
            Header(store.method, source, *sizes, found.frame_indices),
            found.records,
        )
    except RunError as error:  # the disk is full, or the store is not writable
        return Outcome(task.name, str(error), fatal=True)
    except VidgraphError as error:
        return Outcome(
            task.name,
            str(error)
            if str(task.video) in str(error)
            else str(VideoError(task.video, str(error))),
        )
    except Exception as error:
        return Outcome(task.name, str(VideoError(task.video, f"{type(error).__name__}: {error}")))
    return Outcome(task.name, counts=dict(found.counts))
