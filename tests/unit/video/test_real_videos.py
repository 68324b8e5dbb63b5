"""`open_video` on files that people really have, against decoding everything from the start."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vidgraph.video.reader import VideoFile, open_video

DecodeAll = Callable[[Path], list[np.ndarray]]


def check(path: Path, expected: list[np.ndarray], num_reads: int = 12) -> None:
    draw = random.Random(0)
    with open_video(path) as video:
        assert isinstance(video, VideoFile)
        assert video.num_frames == len(expected) == len(video.timestamps_seconds)
        for turn in range(num_reads):
            if turn == num_reads // 2:
                video._kept.clear()
            wanted = [draw.randrange(len(expected)) for _ in range(draw.choice([1, 4, 16]))]
            clip = video.read(wanted)
            assert np.array_equal(clip, np.stack([expected[index] for index in wanted])), wanted
        assert all(np.array_equal(*pair) for pair in zip(video.frames(), expected, strict=True))


# One of each kind: packed b-frames; a header that promises 120 of 116 frames; metadata that are not
# UTF-8; plain.
QUICK = {
    "sample_videos/mmaction2__test.avi": (164, 164, 25.0),
    "ucf101_8/originals/v_JumpingJack_g20_c01.avi": (116, 120, 28.9626),
    "torchvision_assets/test/assets/videos/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_"
    "6.avi": (83, 84, 30.0),
    "torchvision_assets/test/assets/videos/TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, 49, 30.0),
    "sample_videos/mmaction2__demo_spatiotemporal_det.mp4": (57, 57, 6.0),
    "weizmann/video/run/ido_run.avi": (36, 36, 25.0),
}


@pytest.mark.parametrize("name", QUICK)
def test_length_rate_and_pixels(shared_data: Path, decode_all: DecodeAll, name: str) -> None:
    num_frames, declared, fps = QUICK[name]
    path = shared_data / "data" / name
    with open_video(path) as video:
        assert (video.num_frames, video.declared_num_frames) == (num_frames, declared)
        assert video.fps == pytest.approx(fps, abs=1e-3)
    check(path, decode_all(path))


def all_files(root: Path) -> list[Path]:
    folders = ("sample_videos", "torchvision_assets", "weizmann", "ucf101_8/originals")
    files = [file for folder in folders for file in sorted((root / folder).rglob("*"))]
    videos = [file for file in files if file.suffix in (".avi", ".mp4")]
    return videos + sorted((root / "ucf101_8").glob("*/*.mp4"))[::40]


@pytest.mark.slow
def test_every_sample_video(shared_data: Path, decode_all: DecodeAll) -> None:
    files = all_files(shared_data / "data")
    assert len(files) >= 140
    for path in files:
        check(path, decode_all(path))


def test_frame_folders_of_something_something(shared_data: Path) -> None:
    root = shared_data / "data" / "something_else_samples"
    folders = sorted({file.parent for file in root.rglob("*.jpg")})
    assert len(folders) == 13
    (annotations,) = root.rglob("annotations.json")
    assert json.loads(annotations.read_text())
    for folder in folders:
        with open_video(folder, folder_fps=12) as video:
            assert video.num_frames == len(list(folder.glob("*.jpg")))
            clip = video.read([0, video.num_frames - 1])
            assert clip.shape == (2, video.height, video.width, 3)
