"""Runs one job over many videos and stores what it gives: one file per video, whole or not at all.

A video whose file is there is left alone, so that the same call continues what was interrupted,
even by `kill -9`. The videos are shared out among processes of this machine (`processes.py`) or of
a Ray cluster (`cluster.py`); which of them does a video, and in what order, changes no byte of its
file. A video that fails does not stop the others.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidgraph.errors import DataError, RunError
from vidgraph.precompute.cluster import on_cluster
from vidgraph.precompute.container import RecordFile, size_of
from vidgraph.precompute.processes import in_processes
from vidgraph.precompute.store import Store
from vidgraph.precompute.tasks import Job, Outcome, Task, do_task


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        done: videos whose file was written now.
        kept: videos whose file was there before.
        failures: (video, one line) of each one that has no file now, by name.
        counts: sums over the videos done now.
        seconds: of the run.
    """

    done: int
    kept: int
    failures: list[tuple[str, str]]
    counts: Counter[str]
    seconds: float


def extract(
    job: Job,
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    workers: int = 1,
    on: Literal["machine", "cluster"] = "machine",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Runs `job` on every video that has no file in the store yet.

    Args:
        job: what is done.
        tasks: the videos; their names differ.
        folder: the store; begun where it does not exist.
        workers: processes on this machine; 1 works in the calling process.
        on: "cluster" shares the videos out over a Ray cluster instead, which has to see videos and
            store under the same paths.
        progress: called with (videos done now, videos to be done now) as the run goes on.

    Raises:
        DataError: two videos of one name, a store of something else, or what the job needs is
            missing.
        RunError: the store is in use or cannot be written.
        VidgraphError: there is no Ray, or no cluster.
    """
    twice = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if twice:
        raise DataError(
            f"{twice[0]}: two videos have this name; extract them into different stores"
        )
    begin, store = time.perf_counter(), Store.claim(folder, job.method())
    with _held(store.folder):
        store.settle()
        _remove_leftovers(store.folder)
        todo, failures = [], []
        for task in tasks:
            state = _state(store, task)
            if state is None:
                todo.append(task)
            elif state:
                failures.append((task.name, state))
        kept, done, counts = len(tasks) - len(todo) - len(failures), 0, Counter[str]()
        if progress is not None:
            progress(0, len(todo))
        with closing(_outcomes(job, todo, store, workers, on)) as outcomes:
            for number, outcome in enumerate(outcomes, start=1):
                if outcome.fatal:
                    raise RunError(outcome.error)
                if outcome.error:
                    failures.append((outcome.name, outcome.error))
                else:
                    done += 1
                    counts.update(outcome.counts)
                if progress is not None:
                    progress(number, len(todo))
        _remove_leftovers(store.folder)  # of processes that were killed on the way
    return Report(done, kept, sorted(failures), counts, time.perf_counter() - begin)


def _outcomes(
    job: Job, tasks: list[Task], store: Store, workers: int, on: str
) -> Generator[Outcome]:
    workers = min(workers, len(tasks))
    if on == "cluster" and tasks:
        yield from on_cluster(job, tasks, store)
    elif workers > 1:
        yield from in_processes(job, tasks, store, workers)
    elif tasks:
        work = job.start()
        yield from (do_task(work, task, store) for task in tasks)


def _state(store: Store, task: Task) -> str | None:
    """None if the video has to be done, "" if its file is there, else why it must not be
    overwritten.

    A file that is cut short or of other settings is worth nothing and is written anew. One of
    another video is somebody's.
    """
    path = store.path_of(task.name)
    try:
        with RecordFile(path) as file:
            header = file.header
    except DataError:
        return None
    if header.method != store.method:
        return None
    try:
        same = header.source.size == size_of(task.video)
    except OSError:
        return None  # the attempt will say what is wrong with the video
    return (
        ""
        if same
        else f"{path}: holds another video of this name, or this one before it changed; delete "
        "it, or choose another --out"
    )


def _remove_leftovers(folder: Path) -> None:
    """Files that a killed process had begun."""
    for leftover in folder.rglob(".*.partial*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a store; the system forgets the lock when this process ends, however
    it ends.

    Raises:
        RunError: another run is in the store, or it cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs would do the same work twice, and write the same files
        yield
        return
    try:
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be used as a store ({error.strerror or error})"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RunError(
            f"{folder}: another extraction is writing into it; wait for it, or choose another --out"
        ) from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)
