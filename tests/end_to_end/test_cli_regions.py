"""From a video to the picture of its region graph: propose boxes, predict with them, draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from commands import error_of, json_of, run

from vidgraph.models.build import create_model
from vidgraph.video.writer import write_video
from vidgraph.weights import save_weights


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two bright squares that walk over a grey ground."""
    frames = np.full((16, 64, 80, 3), 90, dtype=np.uint8)
    for t in range(16):
        frames[t, 8:28, 4 + 2 * t : 24 + 2 * t] = (250, 60, 60)
        frames[t, 40:56, 60 - 2 * t : 76 - 2 * t] = (60, 250, 60)
    write_video(tmp_path / "squares.mp4", frames, fps=8)
    return tmp_path / "squares.mp4"


def saved(folder: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    clip = {"num_frames": 8, "height": 48, "width": 48, "stride_frames": 2}
    model = create_model("strg_small", class_names=["meet", "part"], input=clip, **options)
    save_weights(model, folder / "model")
    return folder / "model"


@pytest.mark.parametrize("graph", ["avgpool", "sim", "joint"])
def test_predict_draws_the_regions(
    tmp_path: Path, clip: Path, graph: str, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, model = tmp_path / "boxes", saved(tmp_path, head={"graph": graph, "width": 16})
    run("extract", "proposals", clip, "--source", "motion", "--out", boxes, "--workers", 1)
    predict = "predict", model, clip, "--boxes", boxes
    run(*predict, "--save", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The nodes of the graph are" in text
    assert ("What follows what by overlap" in text) == (graph == "joint")
    assert ("What is similar to what" in text) == (graph != "avgpool")
    run(*predict, "--views", 2, "--save", tmp_path / "overlay.mp4")
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16
    (record,) = json_of(capsys, *predict)
    assert sum(entry["probability"] for entry in record["top"]) == pytest.approx(1)


def test_a_model_with_regions_asks_for_boxes(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, "predict", saved(tmp_path), clip)
    assert "vidgraph extract proposals, and name it with --boxes" in error
    error = error_of(capsys, "predict", "rstg_small_sync3", clip, "--boxes", tmp_path)
    assert "rstg_small_sync3 takes no boxes; leave it out" in error
