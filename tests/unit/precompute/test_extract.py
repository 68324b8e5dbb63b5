"""Extraction: whole files, the same on one process and on several, continued where they stopped;
faults cost their own video only.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import files_of

from vidgraph.errors import DataError, RunError, WeightsError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_proposed import ProposalJob
from vidgraph.precompute.extract import Task, extract
from vidgraph.precompute.store import path_in_store
from vidgraph.video.writer import write_video

JOB = ProposalJob("motion", count=5, every=2)


def moving_square(path: Path, seed: int, num_frames: int = 16) -> None:
    """A bright square that wanders over a grey patchwork."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(60, 140, (8, 12, 1), np.uint8)
    background = np.kron(patches, np.ones((8, 8, 3), np.uint8))  # [64, 96, 3]
    frames = np.stack([background] * num_frames)
    for t in range(num_frames):
        left = 4 + 3 * t + 5 * seed
        frames[t, 20 + 2 * seed : 44 + 2 * seed, left : left + 20] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps=10, lossless=True)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("videos")
    names = ["a/0.mp4", "a/1.mp4", "b/0.mp4", "b/2.mp4"]
    for seed, name in enumerate(names):
        moving_square(folder / name, seed)
    return [Task(folder / name, name) for name in names]


@pytest.fixture(scope="module")
def done(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("done") / "store"
    seen: list[tuple[int, int]] = []
    report = extract(JOB, tasks, folder, progress=lambda *counts: seen.append(counts))
    assert (report.done, report.kept, report.failures) == (4, 0, [])
    assert (report.counts["frames"], report.counts["bare"]) == (32, 0)
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    return files_of(folder)


def test_a_file_per_video_that_reads_back(
    done: dict[str, bytes], tasks: list[Task], tmp_path: Path
) -> None:
    assert set(done) == {f"{task.name}.safetensors" for task in tasks}
    for name, content in done.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    store = BoxStore(tmp_path)
    for task in tasks:
        boxes = store.boxes(task.video)
        header = boxes.header
        assert (header.source, header.frame_indices) == (task.name, list(range(0, 16, 2)))
        assert (header.num_frames, header.height, header.width) == (16, 64, 96)
        assert boxes.at(range(16), 5).mask.any(1).all()


def test_several_processes_write_the_same_bytes(
    done: dict[str, bytes], tasks: list[Task], tmp_path: Path
) -> None:
    report = extract(JOB, tasks, tmp_path / "store", workers=2)
    assert (report.done, report.failures) == (4, [])
    assert files_of(tmp_path / "store") == done


def test_what_is_there_is_kept_and_what_is_broken_is_done_again(
    done: dict[str, bytes], tasks: list[Task], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    assert extract(JOB, tasks[:2], folder).done == 2
    kept, cut = (path_in_store(folder, task.name) for task in tasks[:2])
    cut.write_bytes(cut.read_bytes()[:-20])
    partial = folder / "a" / ".1.mp4.123.partial.safetensors"
    partial.write_bytes(b"begun by a process that was killed")
    before = kept.stat().st_mtime_ns
    report = extract(JOB, tasks, folder)
    assert (report.done, report.kept, report.failures) == (3, 1, [])
    assert kept.stat().st_mtime_ns == before
    assert files_of(folder) == done
    assert extract(JOB, tasks, folder).kept == 4


def test_a_store_whose_only_file_is_broken_is_continued(tasks: list[Task], tmp_path: Path) -> None:
    extract(JOB, tasks[:1], tmp_path)
    path = path_in_store(tmp_path, tasks[0].name)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert extract(JOB, tasks[:1], tmp_path).done == 1
    assert path.read_bytes() == whole


def test_a_bad_video_is_listed_and_the_others_are_done(
    done: dict[str, bytes], tasks: list[Task], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    faulty = [Task(tmp_path / "gone.mp4", "gone.mp4"), *tasks[:2], Task(bad, "bad.mp4"), *tasks[2:]]
    report = extract(JOB, faulty, tmp_path / "store")
    assert report.done == 4
    assert [name for name, _ in report.failures] == ["bad.mp4", "gone.mp4"]
    assert report.failures[1][1] == f"{tmp_path / 'gone.mp4'}: there is no such file"
    assert all("\n" not in line for _, line in report.failures)
    assert files_of(tmp_path / "store") == done


def test_a_store_in_which_nothing_could_be_stored_is_not_left_behind(
    tasks: list[Task], tmp_path: Path
) -> None:
    gone = [Task(tmp_path / "gone.mp4", "gone.mp4")]
    assert len(extract(JOB, gone, tmp_path / "store").failures) == 1
    assert not list(tmp_path.iterdir())
    assert extract(JOB, tasks[:1], tmp_path / "store").done == 1
    assert len(extract(JOB, gone, tmp_path / "store").failures) == 1
    assert extract(JOB, tasks[:1], tmp_path / "store").kept == 1


def test_a_file_of_another_video_is_not_overwritten(tasks: list[Task], tmp_path: Path) -> None:
    extract(JOB, [Task(tasks[0].video, "0.mp4")], tmp_path / "store")
    before = files_of(tmp_path / "store")
    report = extract(JOB, [Task(tasks[2].video, "0.mp4")], tmp_path / "store")
    assert (report.done, report.kept) == (0, 0)
    line = "0.mp4.safetensors: holds another video of this name, or this one before it changed"
    assert line in report.failures[0][1]
    assert files_of(tmp_path / "store") == before
    two = [Task(tasks[0].video, "0.mp4"), Task(tasks[2].video, "0.mp4")]
    with pytest.raises(DataError, match=r"0\.mp4: two videos have this name"):
        extract(JOB, two, tmp_path / "other")


def test_one_run_at_a_time(tasks: list[Task], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="store: another extraction is writing into it"):
            extract(JOB, tasks, folder)
    assert extract(JOB, tasks[:1], folder).done == 1


def test_a_store_is_of_one_method(tasks: list[Task], tmp_path: Path) -> None:
    """A run without a single success leaves it open to any."""
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    folder, other = tmp_path / "store", ProposalJob("motion", count=3, every=2)
    assert len(extract(JOB, [Task(tmp_path / "bad.mp4", "bad.mp4")], folder).failures) == 1
    assert extract(other, tasks[:1], folder).done == 1
    message = r"holds boxes of motion version 1 \(count 3, every 2.*not "
    with pytest.raises(DataError, match=message):
        extract(JOB, tasks, folder)


def test_folders_that_are_no_store_are_left_alone(tasks: list[Task], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is a file; name a folder for the store"):
        extract(JOB, tasks, tmp_path / "file")
    with pytest.raises(DataError, match="is not empty and no store"):
        extract(JOB, tasks, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_store_that_cannot_be_written_stops_all(
    tasks: list[Task], tmp_path: Path, workers: int
) -> None:
    """A file where the folder of class `b` should be: no video of that class could ever be
    stored."""
    (tmp_path / "b.safetensors").write_text("")
    tasks = [Task(task.video, f"b.safetensors/{task.name}") for task in tasks]
    with pytest.raises(RunError, match=r"mp4\.safetensors: cannot be written"):
        extract(JOB, tasks, tmp_path, workers=workers)


CRASHING = """
import json, os, signal, sys
from dataclasses import dataclass
from pathlib import Path
from vidgraph.precompute.extract import Task, extract
from vidgraph.precompute.store import Method, path_in_store
from vidgraph.util import atomic_write

@dataclass(frozen=True)
class CrashingJob:
    use_gpu = False
    method = Method("boxes", "crash", 1, {})

    def start(self):
        return self.compute

    def compute(self, task, video, counts):
        if task.name == "a/1.mp4":
            with atomic_write(path_in_store(sys.argv[1], task.name)) as temporary:
                temporary.write_text("the first half")
                os.kill(os.getpid(), signal.SIGKILL)
        return [], []

if __name__ == "__main__":
    videos = sys.argv[2:]
    tasks = [Task(Path(video), name) for video, name in zip(videos[::2], videos[1::2])]
    report = extract(CrashingJob(), tasks, sys.argv[1], workers=2)
    print(json.dumps({"done": report.done, "failures": report.failures}))
"""


@pytest.mark.slow
def test_a_video_that_kills_its_process_costs_itself_only(
    tasks: list[Task], tmp_path: Path
) -> None:
    """And what was written of it is gone."""
    script, store = tmp_path / "script.py", tmp_path / "store"
    script.write_text(CRASHING)
    videos = [word for task in tasks for word in (str(task.video), task.name)]
    done = subprocess.run([sys.executable, script, store, *videos], capture_output=True, check=True)
    died = "the process that worked on it died 2 times; it crashes, or memory ran out"
    failures = [["a/1.mp4", f"{tasks[1].video}: {died}"]]
    assert json.loads(done.stdout) == {"done": 3, "failures": failures}
    names = ("a/0.mp4", "b/0.mp4", "b/2.mp4")
    assert set(files_of(store)) == {f"{name}.safetensors" for name in names}


def test_a_job_that_cannot_start_is_told(tasks: list[Task], tmp_path: Path) -> None:
    job = ProposalJob("rpn", weights=str(tmp_path / "gone.pth"))
    with pytest.raises(WeightsError, match="there is no such file"):
        extract(job, tasks, tmp_path / "store", workers=2)
    assert not (tmp_path / "store").exists()
