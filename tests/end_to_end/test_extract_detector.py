"""The detector as a source of boxes, through the command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import error_of, run, text_of

from vidgraph.precompute.boxes import BoxStore


@pytest.fixture(scope="module")
def videos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two persons who kick, and push-ups."""
    folder = tmp_path_factory.mktemp("videos")
    data = shared_data / "data"
    for path in ("ut_interaction/set1/1_1_2.avi", "ucf101_8/PushUps/v_PushUps_g01_c01.mp4"):
        shutil.copy(data / path, folder)
    return folder


def test_boxes_of_every_frame_with_classes_and_tracks(
    videos: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every sixth frame is looked at. On one process or two the files are the same; others take
    weights of another kind, or sizes, for a mistake."""
    weights = shared_data / "data" / "weights" / "yolox_nano.onnx"
    if not weights.is_file():
        pytest.skip(f"the detector's weights are not at {weights}")
    words = "--source detector --every 6 --count 4 --weights"
    detect = ["extract", "proposals", videos, *words.split(), weights, "--out"]
    printed = text_of(capsys, *detect, tmp_path / "one", "--workers", 1)
    assert "2 videos done" in printed
    run(*detect, tmp_path / "two", "--workers", 2)
    for path in (tmp_path / "one").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    stored = BoxStore(tmp_path / "one").boxes(videos / "1_1_2.avi")
    assert stored.header.method.settings["weights"].startswith("695e750a")
    assert stored.header.frame_indices == list(range(118))
    found = stored.at(range(118), 4)
    persons = found.mask & (found.classes == 0)
    assert (persons.sum(1) >= 2).mean() > 0.9
    # The two who are there all the time keep their tracks and stay on their sides.
    tracks, lengths = np.unique(found.tracks[persons], return_counts=True)
    long = tracks[lengths > 100]
    assert len(long) == 2
    centres = found.boxes_xyxy[..., [0, 2]].mean(-1)
    a, b = (centres[found.tracks == track].mean() for track in long)
    assert abs(a - b) > 0.2
    again = [*detect[:-2], videos / "1_1_2.avi", "--out", tmp_path / "none"]
    assert "is not YOLOX-nano as published" in error_of(capsys, *again)
    assert "leave out --short-side" in error_of(
        capsys, *detect, tmp_path / "none", "--short-side", 300
    )
