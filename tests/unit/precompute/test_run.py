"""One function over many items: the same results on processes, and what becomes of processes that
die; the Ray cluster is in tests/end_to_end/test_extract_cluster.py.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidgraph.precompute.run import WorkerDied, parallel_map

ROOTS = [float(number) for number in range(20)]


def test_results_come_with_their_index_whatever_the_number_of_processes() -> None:
    alone = dict(parallel_map(math.sqrt, ROOTS))
    assert alone == {index: math.sqrt(number) for index, number in enumerate(ROOTS)}
    assert dict(parallel_map(math.sqrt, ROOTS, workers=2)) == alone
    assert list(parallel_map(math.sqrt, [], workers=2)) == []
    assert list(parallel_map(math.sqrt, [4.0], workers=2)) == [(0, 2.0)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_stops_all(workers: int) -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        list(parallel_map(int, ["1", "2", "x", *["3"] * 50], workers=workers))


def test_a_process_that_dies_costs_at_most_its_item(tmp_path: Path) -> None:
    """`eval` stands for work of which one item takes every process down, and one the first only,
    which leaves a mark."""
    mark = repr(str(tmp_path / "mark"))
    once = f"7 if os.path.exists({mark}) else (os.mkdir({mark}), os._exit(1))"
    items = ["1 + 1", "os._exit(3)", once, "2 + 2"]
    items = [item.replace("os.", "__import__('os').") for item in items]
    results = dict(parallel_map(eval, items, workers=2))
    assert results == {0: 2, 1: WorkerDied(2), 2: 7, 3: 4}
    assert str(results[1]) == (
        "the process that worked on it died 2 times; it crashes, or memory ran out"
    )


SCRIPT = """
import sys, time
from vidgraph.precompute.run import parallel_map

def run():
    print("began", flush=True)
    for index, pid in parallel_map(eval, ["__import__('os').getpid()"] * 2 + [
        "__import__('time').sleep(600)"] * 2, workers=2):
        print(pid, flush=True)

if __name__ == "__main__" or "unguarded" in sys.argv:
    run()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_calling_one(script: Path, sent: signal.Signals) -> None:
    """Also in the middle of an item, and however the calling process ends."""
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(3)]
    pids = [int(pid) for pid in said[1:]]
    assert all(map(is_running, pids))
    os.kill(process.pid, sent)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, script, "unguarded"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "vidgraph.errors.DataError: a worker process ended as it started; a script that uses "
        "several needs the guard `if __name__ == '__main__':`, or workers=1"
    )
