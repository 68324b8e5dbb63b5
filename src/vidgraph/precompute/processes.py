"""Videos shared out among processes of this machine, each of which does one after another.

A process that dies costs only the video that it was at, which is tried once more on another
process: the crash may have come from outside. If the calling process dies, the others finish their
    video and end.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Generator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from vidgraph.errors import DataError, VidgraphError
from vidgraph.precompute.store import Store
from vidgraph.precompute.tasks import Job, Outcome, Task, do_task

TRIES = 2  # of a video whose process dies
_READY = "ready"


class _Worker:
    """A process, the line to it, and what it is doing."""

    def __init__(self, context: SpawnContext, job: Job, store: Store) -> None:
        self.line, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, job, store.folder, store.method.record), daemon=True
        )
        self.process.start()
        theirs.close()  # so that the line ends when the process does
        self.task: Task | None = None
        self.ready = False

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(OSError):  # it has just died; `receive` will tell
            self.line.send(task)

    def receive(self) -> Any:
        """What it says, or None if it has died."""
        try:
            return self.line.recv()
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self.line.close()
        self.process.terminate()
        self.process.join()


def in_processes(job: Job, tasks: list[Task], store: Store, workers: int) -> Generator[Outcome]:
    """Yields what became of each video, in the order in which they end.

    Raises:
        DataError: no process can be started.
    """
    context = multiprocessing.get_context(
        "spawn"
    )  # forking a process that has run torch's threads may hang
    waiting, tries, left = deque(tasks), Counter[str](), len(tasks)
    pool = [_Worker(context, job, store) for _ in range(workers)]
    try:
        while left:
            for line in wait([worker.line for worker in pool]):
                worker = next(worker for worker in pool if worker.line is line)
                said, task, worker.task = worker.receive(), worker.task, None
                if said is None:
                    _check_started(worker)
                    pool[pool.index(worker)] = _Worker(context, job, store)
                    worker.stop()
                    if task is not None:
                        tries[task.name] += 1
                        if tries[task.name] < TRIES:
                            waiting.append(task)
                            continue
                        said = died(task, TRIES)
                elif said == _READY:
                    worker.ready = True
                if isinstance(said, Outcome):
                    left -= 1
                    yield said
            for worker in pool:
                if worker.ready and worker.task is None and waiting:
                    worker.give(waiting.popleft())
    finally:
        for worker in pool:
            worker.stop()


def died(task: Task, times: int) -> Outcome:
    """The outcome of a video that took its process down."""
    return Outcome(
        task.name,
        f"{task.video}: the process that worked on it died {times} times; it crashes, or memory "
        "ran out",
    )


def _check_started(worker: _Worker) -> None:
    if not worker.ready:
        worker.process.join()
        guard = (
            "a script that extracts in several processes needs the guard `if __name__ == "
            "'__main__':`, or workers=1"
        )
        raise DataError(
            f"a process for the extraction ended as it started (code {worker.process.exitcode}); "
            f"{guard}"
        )


def _serve(line: Connection, job: Job, folder: Path, record: str) -> None:
    """What a process does: say that it is ready, then take videos until the line ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal; the first one decides
    use_one_thread()
    try:
        work, store = job.start(), Store(folder, record)
    except VidgraphError as error:
        line.send(Outcome("", str(error), fatal=True))
        return
    with suppress(EOFError, OSError):  # the calling process is gone
        line.send(_READY)
        while True:
            line.send(do_task(work, line.recv(), store))


def use_one_thread() -> None:
    """As many processes as cores are already at work."""
    import torch

    torch.set_num_threads(1)
