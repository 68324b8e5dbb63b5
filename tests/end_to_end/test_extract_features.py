"""Features of a frozen backbone through the command: whole, or not there; continued after
`kill -9`; of a long video in the memory of a short one.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import error_of, files_of, run, text_of

from vidgraph.precompute.features import CropStore, FeatureStore
from vidgraph.video.writer import write_video

SIZE = ["--frames", "4", "--size", "64"]


def noise(seed: int, num_frames: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, 6, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short clips of noise, in a folder per class."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        path = folder / ("turn left", "jump")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, noise(number), 12)
    return folder


@pytest.fixture(scope="module")
def maps(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("maps") / "store"
    run("extract", "features", videos, "--out", store, *SIZE, "--workers", 1)
    return files_of(store)


def command(videos: Path, store: Path, *words: str) -> list[str]:
    extract = ["extract", "features", str(videos), "--out", str(store), *SIZE, *words]
    return [sys.executable, "-m", "vidgraph.cli", *extract]


def test_maps_and_crops(
    videos: Path, maps: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside each other in two stores; a bad video is listed and costs itself only."""
    (videos / "jump" / "bad.mp4").write_text("no video")
    try:
        words = ["extract", "features", videos, "--out", tmp_path / "maps", *SIZE, "--workers", 1]
        printed = text_of(capsys, *words, code=1)
    finally:
        (videos / "jump" / "bad.mp4").unlink()
    assert "6 videos done, 1 failed" in printed
    assert "24 images through the backbone, " in printed
    assert files_of(tmp_path / "maps") == maps
    boxes, crops = tmp_path / "boxes", tmp_path / "crops"
    run("extract", "proposals", videos, "--source", "motion", "--count", 3, "--out", boxes)
    how = ["--boxes", boxes, "--crops", 2, "--out", crops, *SIZE]
    run("extract", "features", videos, *how, "--workers", 1)
    clip = videos / "jump" / "1.mp4"
    found, header = FeatureStore(tmp_path / "maps").maps(clip)
    things, beside = CropStore(crops).steps(clip)
    assert (found.shape, things.shape) == ((1280, 4, 2, 2), (4, 2, 1280))
    assert header.frame_indices == beside.frame_indices == [1, 4, 7, 10]
    assert "holds crops of timm" in error_of(
        capsys, "extract", "features", videos, "--out", crops, *SIZE
    )
    gone = ["--boxes", tmp_path / "gone", "--out", tmp_path / "x"]
    assert "gone: does not exist" in error_of(capsys, "extract", "features", videos, *gone)


def test_what_tells_left_from_right_is_not_mirrored(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless both have a class."""
    words = ["extract", "features", videos, "--out", tmp_path / "store", *SIZE, "--mirrored"]
    line = "class 'turn left' tells left from right, so its mirrored videos are of no class; leave"
    assert line in error_of(capsys, *words)
    (tmp_path / "table.csv").write_text(
        "video,label,split\n"
        f"{videos}/jump/1.mp4,turn left,train\n{videos}/jump/3.mp4,turn right,train\n"
    )
    words[2] = tmp_path / "table.csv"
    run(*words)
    assert FeatureStore(tmp_path / "store").steps(videos / "jump" / "1.mp4", True)[0].any()
    (tmp_path / "table.csv").write_text(
        f"video,label,split\n{videos}/jump/1.mp4,turn right,train\n"
    )
    assert "class 'turn right' tells left from right" in error_of(capsys, *words)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_and_called_again(
    videos: Path, maps: dict[str, bytes], tmp_path: Path
) -> None:
    """While two processes are at work; no file is half there, and the same call ends with the same
    files as one process."""
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(videos, store, "--workers", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(store.rglob("[!.]*.safetensors")) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    there = {name: content for name, content in files_of(store).items() if "partial" not in name}
    assert there
    assert all(maps[name] == content for name, content in there.items())
    done = subprocess.run(
        command(videos, store, "--workers", "2"), check=True, capture_output=True, text=True
    )
    assert "were there" in done.stdout
    assert files_of(store) == maps


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    videos: Path, maps: dict[str, bytes], tmp_path: Path, workers: str
) -> None:
    """A limit on the size of files stands for the disk."""
    limit = len(maps["jump/1.mp4.safetensors"]) - 1
    done = subprocess.run(
        command(videos, tmp_path / "store", "--workers", workers),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2
    assert "mp4.safetensors: cannot be written (File too large); " in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert not files_of(tmp_path / "store")


PEAK = """
import resource, sys
from vidgraph.cli import main
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_hour_takes_the_memory_of_ten_seconds(tmp_path: Path) -> None:
    """Up to 300 MB; it is 35. Frames of 16 x 16 pixels, so that the hour is soon written."""
    pattern = np.random.default_rng(0).integers(0, 256, (80, 16, 3), np.uint8)

    def frames(seconds: int) -> Iterator[np.ndarray]:
        return (pattern[t // 25 % 64 :][:16] for t in range(25 * seconds))

    peaks = []
    for seconds in (10, 3600):
        path = tmp_path / f"{seconds}.mp4"
        write_video(path, frames(seconds), 25)
        words = ["extract", "features", path, "--workers", "1", "--out", tmp_path / f"{seconds}"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, words)],
            check=True,
            capture_output=True,
            text=True,
        )
        code, kilobytes = done.stdout.split("\n")[-2].split()
        assert code == "0", done.stderr
        peaks.append(int(kilobytes) / 1e3)
    assert peaks[1] - peaks[0] < 300, peaks
