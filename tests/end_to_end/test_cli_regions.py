"""From a video to the picture of its region graph: propose boxes, predict with them, draw."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidgraph.cli import main
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


def saved(folder: Path, graph: str) -> str:
    torch.manual_seed(0)
    options = {"num_frames": 8, "size": 48, "width": 16, "boxes_per_frame": 4, "stride_frames": 2}
    model = create_model("strg_small", class_names=["meet", "part"], graph=graph, **options)
    save_weights(model, folder / graph)
    return str(folder / graph)


@pytest.mark.parametrize("graph", ["avgpool", "sim", "joint"])
def test_predict_draws_the_regions(
    tmp_path: Path, clip: Path, graph: str, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, model = str(tmp_path / "boxes"), saved(tmp_path, graph)
    assert (
        main(
            [
                "extract",
                "proposals",
                str(clip),
                "--source",
                "motion",
                "--out",
                boxes,
                "--workers",
                "1",
            ]
        )
        == 0
    )
    assert (
        main(
            ["predict", model, str(clip), "--boxes", boxes, "--save", str(tmp_path / "report.html")]
        )
        == 0
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The nodes of the graph are" in text
    assert ("What follows what by overlap" in text) == (graph == "joint")
    assert ("What is similar to what" in text) == (graph != "avgpool")
    assert (
        main(
            [
                "predict",
                model,
                str(clip),
                "--boxes",
                boxes,
                "--views",
                "2",
                "--save",
                str(tmp_path / "overlay.mp4"),
            ]
        )
        == 0
    )
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16
    capsys.readouterr()
    assert main(["predict", model, str(clip), "--boxes", boxes, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert sum(entry["probability"] for entry in record["top"]) == pytest.approx(1)


def test_a_model_with_regions_asks_for_boxes(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", saved(tmp_path, "sim"), str(clip)]) == 2
    error = capsys.readouterr().err
    assert "boxes" in error
    assert error.count("\n") == 1
    assert main(["predict", saved(tmp_path, "none"), str(clip)]) == 0
