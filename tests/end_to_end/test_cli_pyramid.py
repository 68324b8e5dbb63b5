"""The pyramid from videos to pictures: train with flow computed on the way, score, draw features
and attention.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import error_of, json_of, text_of
from commands import run as command

import tsne
from vidgraph.video.writer import write_video
from vidgraph.weights import from_pretrained

OPTIONS = {"input.height": 32, "input.width": 32, "input.flow_length": 2, "fusion.width": 32}
TRAIN = {"clips": 16, "batch_size": 4, "warmup_clips": 0, "workers": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that walks to the right, or up: three videos of each and split."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    lines = ["video,label,split"]
    for number in range(18):
        label, split = ("across", "upward")[number % 2], ("train", "val", "test")[number % 3]
        frames = np.repeat(rng.integers(60, 120, (1, 48, 64, 3), dtype=np.uint8), 10, axis=0)
        for t in range(10):
            x, y = (4 + 3 * t, 16) if label == "across" else (24, 30 - 3 * t)
            frames[t, y : y + 14, x : x + 14] = rng.integers(150, 250, 3)
        write_video(folder / f"{number}.mp4", frames, fps=10)
        lines.append(f"{number}.mp4,{label},{split}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pyramid"
    data = ["--data.table.path", str(table), "--data.table.flow", "live"]
    options = [f"--model.{key}={value}" for key, value in OPTIONS.items()]
    options += [f"--train.{key}={value}" for key, value in TRAIN.items()]
    command("train", "ucf101_small:stpyramid_small", *data, *options, "--out", folder)
    return folder


def test_features_are_drawn_while_scoring(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ["--eval.num_views", "2", "--eval.short_side", "32", "--device", "cpu"]
    assert tsne.main([str(run), str(tmp_path / "features.png"), *views]) == 0
    assert "features of 2 classes drawn in" in capsys.readouterr().out
    assert (tmp_path / "features.png").read_bytes().startswith(b"\x89PNG")
    assert json_of(capsys, "eval", run, *views)["n"] == 6


def test_attention_is_drawn_over_frames_of_a_video_without_stored_flow(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "predict", run, table.with_name("2.mp4"), "--save"
    said = text_of(capsys, *words, tmp_path / "out.html", "--views", 3)
    assert "Optical flow was computed now" in said
    text = (tmp_path / "out.html").read_text()
    assert "Where the model looks" in text
    assert text.count("Attention over frame") == 3
    command(*words, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_the_saved_model_is_the_trained_one(run: Path) -> None:
    model = from_pretrained(run)
    assert model.class_names == ["across", "upward"]
    spec = model.spec
    assert (spec.flow_length, spec.num_stacks, model.classifier.in_features) == (2, 3, 32)


def test_bad_input_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "eval", run, "--model.input.width", "48")
    assert "does not change the data" in error
