"""A script for `test_engine.py`: an extraction on two processes, which kill themselves in the way
that is asked for.

crashing_job.py MODE STORE VIDEO NAME VIDEO NAME ...
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vidgraph.errors import DataError
from vidgraph.precompute.container import Method
from vidgraph.precompute.engine import extract
from vidgraph.precompute.store import BOXES
from vidgraph.precompute.tasks import Extracted, Task
from vidgraph.util import whole_file


@dataclass(frozen=True)
class CrashingJob:
    """Stores no boxes; dies while it writes the file of the second video: always, or the first
    time.
    """

    mode: str
    store: str

    def method(self) -> Method:
        return Method(BOXES, "crash", 1, {})

    def start(self) -> Callable[[Task], Extracted]:
        if self.mode == "no start":
            raise DataError("this job has no weights")
        return self._work

    def _work(self, task: Task) -> Extracted:
        marker = Path(f"{self.store}.marker")
        if task.name == "a/1.mp4" and (self.mode == "always" or not marker.exists()):
            marker.touch()
            with whole_file(Path(self.store, f"{task.name}.boxes")) as temporary:
                temporary.write_text("the first half")
                os.kill(os.getpid(), signal.SIGKILL)
        return Extracted([], 16, 64, 96, 0, [])


def run() -> None:
    mode, store, *videos = sys.argv[1:]
    tasks = [Task(Path(video), name) for video, name in zip(videos[::2], videos[1::2], strict=True)]
    report = extract(CrashingJob(mode, store), tasks, store, workers=2)
    print(json.dumps({"done": report.done, "failures": report.failures}))


if __name__ == "__main__" or sys.argv[1] == "unguarded":
    run()
