"""One function over many items, on processes of this machine or on a Ray cluster. A process that
dies costs only the item that it was at.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, Literal, NamedTuple, TypeVar

from vidgraph.errors import DataError, VidgraphError

T = TypeVar("T")
R = TypeVar("R")
Workers = int | Literal["ray"]
_TRIES = 2  # of an item whose process dies: the crash may have come from outside


class WorkerDied(NamedTuple):
    """Takes the place of a result: every process that worked on the item died."""

    times: int

    def __str__(self) -> str:
        what = f"the process that worked on it died {self.times} times"
        return f"{what}; it crashes, or memory ran out"


def parallel_map(
    function: Callable[[T], R], items: Sequence[T], *, workers: Workers = 1, use_gpu: bool = False
) -> Generator[tuple[int, R | WorkerDied]]:
    """Yields the index of each item and what the function returns for it, in the order in which
    they end. An error that it raises stops all and is raised here.

    Args:
        function: can be pickled, as the items. What it loads once per process it keeps itself.
        workers: processes of this machine, each of one thread; 1: the calling process; `ray`: the
            Ray cluster that RAY_ADDRESS names, or that this machine belongs to.
        use_gpu: each item takes a GPU, where the cluster has any.

    Raises:
        DataError: no process can be started.
        VidgraphError: Ray is not installed, or there is no cluster.
    """
    if workers == "ray":
        return _on_ray(function, items, use_gpu)
    if min(workers, len(items)) > 1:
        return _on_processes(function, items, min(workers, len(items)))
    return ((index, function(item)) for index, item in enumerate(items))


def _on_processes(
    function: Callable[[T], R], items: Sequence[T], workers: int
) -> Generator[tuple[int, R | WorkerDied]]:
    """Each process is an executor of its own, so that one that dies takes no other along."""
    context = get_context("spawn")  # forking a process that has run torch's threads may hang
    line, ours = context.Pipe(duplex=False)
    start = partial(ProcessPoolExecutor, 1, context, _start_worker, (line,))
    pools = [start() for _ in range(workers)]
    waiting, deaths = deque(range(len(items))), Counter[int]()
    running: dict[Future[R], tuple[int, int]] = {}  # which executor, and which item

    def give(pool: int) -> None:
        if waiting:
            index = waiting.popleft()
            running[pools[pool].submit(function, items[index])] = pool, index

    started = [pool.submit(os.getpid) for pool in pools]
    try:
        try:
            started[0].result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process ended as it started; a script that uses several needs the guard "
                "`if __name__ == '__main__':`, or workers=1"
            ) from error
        for pool in range(workers):
            give(pool)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, index = running.pop(future)
                if died := isinstance(future.exception(), BrokenProcessPool):
                    pools[pool].shutdown()
                    pools[pool] = start()
                    deaths[index] += 1
                if again := died and deaths[index] < _TRIES:
                    waiting.append(index)
                give(pool)
                if not again:
                    yield index, WorkerDied(_TRIES) if died else future.result()
    finally:
        ours.close()  # ends the processes, also where one is in the middle of an item
        line.close()
        for executor in pools:
            executor.shutdown(cancel_futures=True)


def _start_worker(line: Connection) -> None:
    """Called in each process as it starts. As many of them as cores are at work."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides
    Thread(target=_end_with, args=(line,), daemon=True).start()


def _end_with(line: Connection) -> None:
    """Ends this process when the calling one closes its end of a line, however that happens."""
    try:
        line.recv()
    except (EOFError, OSError):
        os._exit(1)


def _on_ray(
    function: Callable[[T], R], items: Sequence[T], use_gpu: bool
) -> Generator[tuple[int, R | WorkerDied]]:
    """Ray itself repeats an item whose process or machine is lost."""
    ray, is_ours = _connect()
    try:
        gpus = 1 if use_gpu and ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_TRIES)(_call)
        shared, waiting = ray.put(function), deque(range(len(items)))
        running: dict[Any, int] = {}
        while waiting or running:
            # A few more than can run, so that no process waits for its next item; machines that
            # join are used.
            most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < most:
                index = waiting.popleft()
                running[remote.remote(shared, items[index])] = index
            (ended,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ended)
            try:
                yield index, ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError:  # after all tries
                yield index, WorkerDied(_TRIES + 1)
    finally:
        if is_ours:
            ray.shutdown()


def _call(function: Callable[[T], R], item: T) -> R:
    import torch

    torch.set_num_threads(1)
    return function(item)


def _connect() -> tuple[Any, bool]:
    """The module `ray`, connected, and whether it was not before."""
    try:
        import ray
    except ImportError as error:
        what = "--cluster needs Ray, which is not installed here"
        raise VidgraphError(f"{what}: pip install 'vidgraph[cluster]'") from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        how = "start one with ray start --head, or set RAY_ADDRESS to HOST:PORT"
        raise VidgraphError(f"no Ray cluster is found ({str(error)[:200]}); {how}") from error
    return ray, True
