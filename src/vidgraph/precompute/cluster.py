"""Videos shared out over the machines of a Ray cluster. Ray repeats the video of a process or
machine that is lost.

The cluster's machines have to see videos and store under the same paths, and to have vidgraph
installed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import lru_cache
from pathlib import Path
from typing import Any

from vidgraph.errors import VidgraphError
from vidgraph.precompute.processes import TRIES, died, use_one_thread
from vidgraph.precompute.store import Store
from vidgraph.precompute.tasks import Extracted, Job, Outcome, Task, do_task


def on_cluster(job: Job, tasks: list[Task], store: Store) -> Generator[Outcome]:
    """Yields what became of each video, in the order in which they end.

    The cluster is the one that the environment variable RAY_ADDRESS names, else the one that this
    machine belongs to.

    Raises:
        VidgraphError: Ray is not installed, or there is no cluster.
    """
    ray, is_ours = _connect()
    try:
        gpus = 1 if getattr(job, "wants_gpu", False) and ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES)(_do)
        shared, where, record = ray.put(job), store.folder.absolute(), store.method.record
        waiting = list(reversed(tasks))
        running: dict[Any, Task] = {}
        while waiting or running:
            # A few more than can run, so that no process waits for its next video, and machines
            # that join are used.
            most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < most:
                task = waiting.pop()
                running[remote.remote(shared, task, where, record)] = task
            (ended,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(ended)
            try:
                yield ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                yield Outcome(task.name, str(VidgraphError(f"{task.video}: {error.cause}")))
            except ray.exceptions.RayError:  # after all tries
                yield died(task, TRIES + 1)
    finally:
        if is_ours:
            ray.shutdown()


def _connect() -> tuple[Any, bool]:
    """The module `ray`, connected, and whether it was not before."""
    try:
        import ray
    except ImportError as error:
        raise VidgraphError(
            "--cluster needs Ray, which is not installed here: pip install 'vidgraph[cluster]'"
        ) from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise VidgraphError(
            f"no Ray cluster is found ({what}); start one with ray start --head, or set "
            "RAY_ADDRESS to HOST:PORT"
        ) from error
    return ray, True


def _do(job: Job, task: Task, folder: Path, record: str) -> Outcome:
    """One video, in a process of the cluster that does many."""
    try:
        work = _started(job)
    except VidgraphError as error:
        return Outcome(task.name, str(error), fatal=True)
    return do_task(work, task, Store(folder, record))


@lru_cache(maxsize=1)
def _started(job: Job) -> Callable[[Task], Extracted]:
    use_one_thread()
    return job.start()
