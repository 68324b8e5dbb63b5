"""A script for `test_extract.py`: an extraction on two processes, which kill themselves in the way
that is asked for.

crashing_job.py MODE STORE VIDEO NAME VIDEO NAME ...
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BOXES
from vidgraph.precompute.extract import Compute, Task, extract
from vidgraph.precompute.store import Method, path_in_store
from vidgraph.util import atomic_write


@dataclass(frozen=True)
class CrashingJob:
    """Stores no boxes; dies while it writes the file of the second video: always, or the first
    time."""

    mode: str
    store: str
    use_gpu = False

    @property
    def method(self) -> Method:
        return Method(BOXES, "crash", 1, {})

    def start(self) -> Compute:
        if self.mode == "no start":
            raise DataError("this job has no weights")
        return self._compute

    def _compute(self, task: Task, *_: object) -> tuple[list[int], list[Any]]:
        marker = Path(f"{self.store}.marker")
        if task.name == "a/1.mp4" and (self.mode == "always" or not marker.exists()):
            marker.touch()
            with atomic_write(path_in_store(self.store, task.name)) as temporary:
                temporary.write_text("the first half")
                os.kill(os.getpid(), signal.SIGKILL)
        return [], []


def run() -> None:
    mode, store, *videos = sys.argv[1:]
    tasks = [Task(Path(video), name) for video, name in zip(videos[::2], videos[1::2], strict=True)]
    report = extract(CrashingJob(mode, store), tasks, store, workers=2)
    print(json.dumps({"done": report.done, "failures": report.failures}))


if __name__ == "__main__":
    run()
