"""The same extraction on a Ray cluster of two nodes of this machine: the same files, whatever is
killed on the way.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import files_of, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = ["--source", "motion", "--count", "8", "--every", "2"]


@pytest.fixture(scope="module")
def videos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten real clips."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("PushUps", "Punch"):
        for clip in sorted((shared_data / "data" / "ucf101_8" / name).glob("*.mp4"))[:5]:
            shutil.copy(clip, folder / clip.name)
    return folder


@pytest.fixture(scope="module")
def expected(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process on this machine writes."""
    store = tmp_path_factory.mktemp("expected") / "store"
    run("extract", "proposals", videos, "--out", store, *SETTINGS, "--workers", 1)
    return files_of(store)


def test_without_a_cluster_one_line(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(tmp_path)}
    words: Any = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run(command(videos, tmp_path / "store"), env=environment, **words)
    assert done.returncode == 2
    assert done.stderr.startswith("vidgraph: no Ray cluster is found (")
    assert done.stderr.endswith("with ray start --head, or set RAY_ADDRESS to HOST:PORT\n")
    assert done.stderr.count("\n") == 1


def command(videos: Path, store: Path) -> list[str]:
    words = ["extract", "proposals", str(videos), "--out", str(store), *SETTINGS, "--cluster"]
    return [sys.executable, "-m", "vidgraph.cli", *words]


def workers() -> list[int]:
    """Processes of our own cluster that are at a video: their parent is a node's, whose parent is
    this process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, parent = (entry / "cmdline").read_bytes(), parent_of(int(entry.name))
                if name.startswith(b"ray::_call") and parent_of(parent) == os.getpid():
                    found.append(int(entry.name))
            except OSError:  # it has just ended
                continue
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def disturbed(
    videos: Path, store: Path, disturb: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Runs the command, calls `disturb` as soon as a new file is there, and returns the exit code
    and what was printed."""
    before = len(list(store.rglob("[!.]*.safetensors")))
    process = subprocess.Popen(
        command(videos, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while len(list(store.rglob("[!.]*.safetensors"))) <= before and process.poll() is None:
        time.sleep(0.02)
    disturb(process)
    out, error = process.communicate()
    return process.returncode, out + error


def test_a_worker_killed_midway(
    videos: Path, expected: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(process: subprocess.Popen[str]) -> None:
        while not killed and process.poll() is None:
            killed.extend(workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    code, said = disturbed(videos, tmp_path / "store", kill)
    assert (code, len(killed)) == (0, 1), said
    assert f"{tmp_path / 'store'}: 10 videos done; " in said
    assert files_of(tmp_path / "store") == expected


def test_a_machine_lost_midway_and_the_command_killed(
    videos: Path, expected: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    """First the command goes by `kill -9`; it is called again, and one of the two machines goes
    too."""
    code, _ = disturbed(videos, tmp_path / "store", lambda process: process.kill())
    assert code == -signal.SIGKILL
    there = [name for name in files_of(tmp_path / "store") if "partial" not in name]
    assert 1 <= len(there) < 10
    (second,) = cluster.worker_nodes
    code, said = disturbed(
        videos,
        tmp_path / "store",
        lambda process: cluster.remove_node(second, allow_graceful=False),
    )
    assert code == 0, said
    assert files_of(tmp_path / "store") == expected
