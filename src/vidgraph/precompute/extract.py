"""Computes something of many videos and stores it: one file per video, whole or not at all.

A video whose file is there is left alone, so that the same call continues what was interrupted,
even by `kill -9`. Which process computes a video, and in what order, changes no byte of its file. A
video that fails does not stop the others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from vidgraph.errors import DataError, RunError, VideoError, VidgraphError
from vidgraph.precompute.run import WorkerDied, Workers, parallel_map
from vidgraph.precompute.store import (
    SUFFIX,
    Header,
    Method,
    StoredVideo,
    fingerprint,
    path_in_store,
    save_file,
    size_bytes,
    stored_method,
)
from vidgraph.util import available_cores, folder_lock
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video


@dataclass(frozen=True)
class Task:
    """One video to compute something of.

    Attributes:
        video: the file or folder of images.
        name: of the video in the store: its path below what is extracted.
        given: what else the job needs to know of it, such as given boxes.
    """

    video: Path
    name: str
    given: Any = None


# What a job does to one open video: gives the source frames that it stores something of, and the
# rows of each, which may be a generator; counts what people want to know of them on the way.
Compute = Callable[[Task, Video, Counter[str]], tuple[list[int], Iterable[NDArray[Any]]]]


class Job(Protocol):
    """What is computed of each video. A frozen dataclass: it travels to other processes."""

    @property
    def use_gpu(self) -> bool:
        """Whether it is done on a GPU, where there is one."""
        ...

    @property
    def method(self) -> Method:
        """How it is computed, as the store remembers it. Fails early where something is missing."""
        ...

    def start(self) -> Compute:
        """Loads what all videos share, such as a network."""
        ...

    def __hash__(self) -> int: ...


@dataclass
class Report:
    """What an extraction did.

    Attributes:
        done: videos whose file was written now.
        kept: videos whose file was there before.
        failures: (video, one line) of each one that has no file now, by name.
        counts: sums over the videos done now.
        seconds: of the run.
    """

    done: int = 0
    kept: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, task: Task, result: Counter[str] | str | WorkerDied) -> None:
        """What became of a video: its counts, or why it has no file."""
        if isinstance(result, Counter):
            self.done += 1
            self.counts.update(result)
            return
        line = str(result)
        named = line if str(task.video) in line else f"{task.video}: {line}"
        self.failures.append((task.name, named))

    def summary(self) -> str:
        """For people: how many videos were done, and what was found in them; may be two lines."""
        kept = f", {self.kept:,} were there" if self.kept else ""
        failed = f", {len(self.failures):,} failed" if self.failures else ""
        speed = f"; {self.done / self.seconds:.3g} videos/s" if self.done else ""
        text, counts = f"{self.done:,} videos done{kept}{failed}{speed}", self.counts
        if frames := counts["frames"]:
            mean = f"{counts['boxes'] / frames:.1f} boxes on average"
            text += f"\n{frames:,} frames with {mean}; {counts['bare']:,} frames have none"
        if flow := counts["flow_frames"]:
            share = f"{100 * counts['cut_off'] / counts['values']:.2g} % of their values"
            text += f"\n{flow:,} flow frames; {share} reach the bound and are cut off there"
        if encoded := counts["encoded"]:
            text += (
                f"\n{encoded:,} images through the backbone, {encoded / self.seconds:.3g} a second"
            )
        return text


def extract(
    job: Job,
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    workers: Workers | None = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Runs `job` on every video that has no file in the store yet.

    Args:
        job: what is computed.
        tasks: the videos; their names differ.
        folder: the store; made where it does not exist, unless not a single video can be done.
        workers: as for `parallel_map`; a cluster has to see videos and store under the same paths.
            None: a process per core, or a single one for what wants a GPU.
        progress: called with (videos done now, videos to be done now) as the run goes on.

    Raises:
        DataError: two videos of one name, a store of something else, or what the job needs is
            missing.
        RunError: the store is in use or cannot be written.
        VidgraphError: there is no Ray, or no cluster.
    """
    begin, report, method = time.perf_counter(), Report(), job.method
    folder, names = Path(folder).absolute(), Counter(task.name for task in tasks)
    for name in (name for name, times in names.items() if times > 1):
        raise DataError(f"{name}: two videos have this name; extract them into different stores")
    if workers is None:
        workers = 1 if job.use_gpu else available_cores()
    _check_folder(folder)
    is_new = not folder.exists()
    taken = "another extraction is writing into it; wait for it, or choose another --out"
    with folder_lock(folder, "a store", taken):
        stored = stored_method(folder)
        if stored not in (None, method):
            what = f"holds {stored}, not {method}"
            raise DataError(f"{folder}: {what}; choose another --out, or ask for the same")
        _remove_leftovers(folder)
        try:
            todo = _todo(tasks, folder, report)
            progress(0, len(todo))
            work = partial(_extract_video, job, method, folder)
            with closing(parallel_map(work, todo, workers=workers, use_gpu=job.use_gpu)) as results:
                for number, (index, result) in enumerate(results, start=1):
                    report.add(todo[index], result)
                    progress(number, len(todo))
        finally:
            _remove_leftovers(folder)  # of processes that were killed on the way
            if is_new and stored_method(folder) is None:
                with suppress(OSError):
                    (folder / ".lock").unlink()
                    folder.rmdir()
    report.failures.sort()
    report.seconds = time.perf_counter() - begin
    return report


def _todo(tasks: Sequence[Task], folder: Path, report: Report) -> list[Task]:
    """The videos that have to be done; says in the report what becomes of the others.

    A file that is not whole is worth nothing and is written anew. One of another video is
    somebody's.
    """
    todo = []
    for task in tasks:
        path = path_in_store(folder, task.name)
        try:
            same = StoredVideo(path).header.size == size_bytes(task.video)
        except (DataError, OSError):
            todo.append(task)  # the attempt will say what is wrong with the video
            continue
        if same:
            report.kept += 1
        else:
            what = "holds another video of this name, or this one before it changed"
            line = f"{path}: {what}; delete it, or choose another --out"
            report.failures.append((task.name, line))
    return todo


def _extract_video(job: Job, method: Method, folder: Path, task: Task) -> Counter[str] | str:
    """Computes and stores what belongs to one video. Returns its counts, or in one line why there
    is no file: one video must not stop the others, but a full disk or a job that cannot start does.
    """
    compute, counts = _started(job), Counter[str]()
    try:
        with open_video(task.video) as video:
            frame_indices, frames = compute(task, video, counts)
            known = task.name, size_bytes(task.video), fingerprint(task.video)
            size = video.num_frames, video.height, video.width
            header = Header(method, *known, *size, frame_indices)
            save_file(path_in_store(folder, task.name), header, frames)
    except RunError:
        raise
    except VidgraphError as error:
        return str(error)
    except Exception as error:
        return str(VideoError(task.video, f"{type(error).__name__}: {error}"))
    return counts


@lru_cache(maxsize=1)
def _started(job: Job) -> Compute:
    return job.start()


def _remove_leftovers(folder: Path) -> None:
    """Files that a killed process had begun."""
    for leftover in folder.rglob(".*.partial*"):
        leftover.unlink(missing_ok=True)


def _check_folder(folder: Path) -> None:
    """Files of others are left alone.

    Raises:
        DataError: it is a file, or holds something else than a store.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; name a folder for the store")
    others = (path for path in folder.rglob("[!.]*") if path.suffix != SUFFIX and path.is_file())
    if any(others):
        what = "is not empty and no store; name a new or empty folder, or a store"
        raise DataError(f"{folder}: {what}")
