"""Optical flow through the command: the same bytes however it is interrupted or shared out, real
clips, and every fault in one line.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import error_of, files_of, run, text_of

from vidgraph.precompute.flow import FlowJob
from vidgraph.precompute.flow_store import FlowStore, dequantize
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video


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
    run("extract", "flow", videos / "table.csv", "--out", folder, "--workers", 1)
    return folder


def test_real_clips(store: Path, videos: Path) -> None:
    """Every flow frame is there; what is stored equals what is computed on the way; and it explains
    the next frame better than no motion."""
    clips = sorted(videos.glob("*/*.mp4"))
    assert set(files_of(store)) == {f"{clip.relative_to(videos)}.safetensors" for clip in clips}
    for clip in clips:
        flow = FlowStore(store).reader(clip)
        with open_video(clip) as video:
            shape = video.num_frames - 1, video.height, video.width
            assert (flow.num_flow_frames, flow.height, flow.width) == shape
            indices = np.linspace(0, flow.num_flow_frames - 1, 7).astype(int)
            assert np.array_equal(flow.read(indices), FlowJob().reader(clip, video).read(indices))
    frames, readers = range(0, 24, 3), map(FlowStore(store).reader, clips)
    pairs = zip(clips, readers, strict=True)
    errors = [_change(clip, reader.read(frames), frames) for clip, reader in pairs]
    followed, still = np.sum(errors, axis=0)
    assert followed < 0.7 * still


def _change(clip: Path, flow: np.ndarray, frames: range) -> tuple[float, float]:
    """Mean difference in grey levels of frames and what their flow says they become, and of frames
    and the next ones."""
    import cv2

    followed, still = 0.0, 0.0
    with open_video(clip) as video:
        for index, motion in zip(frames, dequantize(flow), strict=True):
            now, following = (
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
                for image in video.read([index, index + 1])
            )
            y, x = np.mgrid[: now.shape[0], : now.shape[1]].astype(np.float32)
            places = x + motion[..., 0], y + motion[..., 1]
            back = cv2.remap(following, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            followed += float(np.abs(back - now).mean())
            still += float(np.abs(following - now).mean())
    return followed, still


def test_files_and_two_processes_give_the_same_bytes(
    store: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = sorted(videos.glob("*/*.mp4")), ("--out", tmp_path / "two", "--workers", 2)
    said = text_of(capsys, "extract", "flow", *clips, *out)
    assert files_of(tmp_path / "two") == files_of(store)
    assert "4 videos done; " in said
    assert re.search(r" flow frames; .* % of their values reach the bound and are cut off", said)
    said = text_of(capsys, "extract", "flow", videos, "--out", store)
    assert f"{store}: 0 videos done, 4 were there\n" in said


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
    lengths = np.maximum(np.hypot(*dis.T) * np.hypot(*tvl1.T), 1e-6)
    assert np.median(((dis * tvl1).sum(1) / lengths)[moving]) > 0.97


def test_faults_are_one_line(
    videos: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = sorted(videos.glob("*/*.mp4"))[0], tmp_path / "out"
    one, gone = tmp_path / "one.mp4", tmp_path / "gone.mp4"
    write_video(one, np.zeros((1, 48, 64, 3), np.uint8), fps=10)
    held = "holds flow of dis version 1 (bound 20.0, short_side None), not flow of"
    for words, problem in (
        ([clip, "--bound", 0, "--out", out], "bound of flow is a number of pixels above 0, not 0"),
        ([clip, "--bound", 15, "--out", store], f"{held} dis version 1 (bound 15.0"),
        ([clip, "--method", "tvl1", "--out", store], f"{held} tvl1"),
        ([clip, "--weights", "x.pth", "--out", out], "the method dis has no weights"),
        ([clip, "--method", "raft", "--weights", gone, "--out", out], "there is no such file"),
        ([gone, "--out", out], "gone.mp4: there is no such file"),
        ([one, "--out", out], "one.mp4: the video has one frame, and optical flow is the motion"),
    ):
        error = error_of(capsys, "extract", "flow", *words)
        assert problem in error, error
