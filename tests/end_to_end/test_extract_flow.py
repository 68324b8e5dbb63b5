"""Optical flow through the command: the same bytes however it is interrupted or shared out, real
clips, and every fault in one line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import error_of

from vidgraph.cli import main
from vidgraph.precompute.flow import FlowJob
from vidgraph.precompute.flow_store import FlowStore, dequantize
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video


def _error(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    return error_of(capsys, "extract", "flow", *words, code=code)


def _files(store: Path) -> dict[str, bytes]:
    return {
        f.relative_to(store).as_posix(): f.read_bytes()
        for f in store.rglob("*")
        if f.is_file() and f.name != ".lock"
    }


@pytest.fixture(scope="module")
def videos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rather short real clips of each of two classes, in a folder per class, and a table of
    them."""
    folder, rows = tmp_path_factory.mktemp("ucf"), ["video,label,split"]
    for name in ("Lunges", "PushUps"):
        clips = (shared_data / "data" / "ucf101_8" / name).glob("*.mp4")
        for clip in sorted(clips, key=lambda clip: (clip.stat().st_size, clip.name))[:40:20]:
            (folder / name).mkdir(exist_ok=True)
            shutil.copy(clip, folder / name / clip.name)
            rows.append(f"{name}/{clip.name},{name},test")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flow of all four, by one process."""
    folder = tmp_path_factory.mktemp("flow") / "store"
    assert main(f"extract flow {videos / 'table.csv'} --out {folder} --workers 1".split()) == 0
    return folder


def test_real_clips(store: Path, videos: Path) -> None:
    """Every flow frame is there; what is stored equals what is computed on the way; and it explains
    the next frame better than no motion."""
    clips = sorted(videos.glob("*/*.mp4"))
    assert set(_files(store)) == {f"{clip.relative_to(videos)}.safetensors" for clip in clips}
    for clip in clips:
        flow = FlowStore(store).reader(clip)
        with open_video(clip) as video:
            assert (flow.num_flow_frames, flow.height, flow.width) == (
                video.num_frames - 1,
                video.height,
                video.width,
            )
            indices = np.linspace(0, flow.num_flow_frames - 1, 7).astype(int)
            assert np.array_equal(flow.read(indices), FlowJob().reader(clip, video).read(indices))
    errors = [
        _change(clip, FlowStore(store).reader(clip).read(range(0, 24, 3)), range(0, 24, 3))
        for clip in clips
    ]
    followed, still = np.sum(errors, axis=0)
    assert followed < 0.7 * still


def _change(clip: Path, fields: np.ndarray, frames: range) -> tuple[float, float]:
    """Mean difference in grey levels of frames and what their flow says they become, and of frames
    and the next ones."""
    import cv2

    followed, still = 0.0, 0.0
    with open_video(clip) as video:
        for index, field in zip(frames, dequantize(fields), strict=True):
            now, following = (
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
                for image in video.read([index, index + 1])
            )
            y, x = np.mgrid[: now.shape[0], : now.shape[1]].astype(np.float32)
            back = cv2.remap(
                following,
                x + field[..., 0],
                y + field[..., 1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            followed, still = (
                followed + float(np.abs(back - now).mean()),
                still + float(np.abs(following - now).mean()),
            )
    return followed, still


def test_files_and_two_processes_give_the_same_bytes(
    store: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "extract",
                "flow",
                *map(str, sorted(videos.glob("*/*.mp4"))),
                "--out",
                str(tmp_path / "two"),
                "--workers",
                "2",
            ]
        )
        == 0
    )
    assert _files(tmp_path / "two") == _files(store)
    said = capsys.readouterr().out
    assert "4 videos done; " in said
    assert " flow frames; " in said
    assert " % of their values reach the bound and are cut off there" in said
    assert main(["extract", "flow", str(videos), "--out", str(store)]) == 0
    assert f"{store}: 0 videos done, 4 were there\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_and_called_again(videos: Path, store: Path, tmp_path: Path) -> None:
    """`kill -9` of the command while two processes are at work: no file is half there, and the same
    call ends with the same files."""
    command = [
        sys.executable,
        *f"-m vidgraph.cli extract flow {videos} --workers 2 --out {tmp_path / 'flow'}".split(),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "flow").rglob("[!.]*.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = _files(store)
    there = {
        name: content
        for name, content in _files(tmp_path / "flow").items()
        if "partial" not in name
    }
    assert 1 <= len(there) < 4
    assert all(whole[name] == content for name, content in there.items())
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "were there" in done.stdout
    assert _files(tmp_path / "flow") == whole


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shared_out_over_a_cluster(videos: Path, store: Path, cluster: Any, tmp_path: Path) -> None:
    command = [
        sys.executable,
        *f"-m vidgraph.cli extract flow {videos} --out {tmp_path / 'flow'} --cluster".split(),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert _files(tmp_path / "flow") == _files(store)


@pytest.mark.slow
def test_dis_agrees_with_tvl1_on_real_frames(videos: Path) -> None:
    """The paper's method and the fast one, on pairs of real frames: where TV-L1 sees motion, DIS
    sees it too, the same way."""
    methods = {name: FlowJob(name).load() for name in ("dis", "tvl1")}
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for clip in sorted(videos.glob("*/*.mp4")):
        with open_video(clip) as video:
            for index in (10, 20):
                pair = video.read([index, index + 1])
                for name, method in methods.items():
                    first, second = map(method.prepare, pair)
                    found[name].append(method.compute(first, [second]))
    dis, tvl1 = (np.stack(found[name]).reshape(-1, 2) for name in ("dis", "tvl1"))
    assert np.median(np.hypot(*(dis - tvl1).T)) < 0.2
    moving = np.hypot(*tvl1.T) > 1
    assert moving.mean() > 0.03
    assert np.median(np.hypot(*(dis - tvl1)[moving].T)) < np.median(np.hypot(*tvl1[moving].T)) / 4
    cosine = (dis * tvl1).sum(1)[moving] / np.maximum(np.hypot(*dis.T) * np.hypot(*tvl1.T), 1e-6)[
        moving
    ]
    assert np.median(cosine) > 0.97


def test_faults_are_one_line(
    videos: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = sorted(videos.glob("*/*.mp4"))[0], tmp_path / "out"
    assert "'dsi' is not one of 'dis', 'tvl1', 'raft'" in _error(
        capsys, clip, "--method", "dsi", "--out", out
    )
    assert "the bound of flow is a number of pixels above 0, not 0" in _error(
        capsys, clip, "--bound", 0, "--out", out
    )
    for words, other in (
        (("--bound", 15), r"dis version 1 \(bound 15"),
        (("--method", "tvl1"), "tvl1"),
    ):
        expected = (
            rf"holds flow of dis version 1 \(bound 20.0, short_side None\), not flow of {other}"
        )
        assert re.search(expected, _error(capsys, clip, *words, "--out", store))
    assert "the method dis has no weights" in _error(
        capsys, clip, "--weights", "x.pth", "--out", out
    )
    assert "gone.pth: cannot be read" in _error(
        capsys, clip, "--method", "raft", "--weights", tmp_path / "gone.pth", "--out", out
    )
    assert "gone.mp4: there is no such file" in _error(capsys, tmp_path / "gone.mp4", "--out", out)
    write_video(tmp_path / "one.mp4", np.zeros((1, 48, 64, 3), np.uint8), fps=10)
    assert "one.mp4: the video has one frame, and optical flow is the motion between two" in _error(
        capsys, tmp_path / "one.mp4", "--out", out
    )
    many = tmp_path / "many"
    many.mkdir()
    shutil.copy(tmp_path / "one.mp4", many)
    write_video(many / "two.mp4", np.zeros((2, 48, 64, 3), np.uint8), fps=10)
    assert "one.mp4: the video has one frame" in _error(
        capsys, many, "--out", tmp_path / "some", "--workers", 1, code=1
    )
    assert FlowStore(tmp_path / "some").reader(many / "two.mp4").read([0]).min() == 128
