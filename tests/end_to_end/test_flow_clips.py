"""Flow through the command: extract it, train on it with corner crops, score ten crops, predict
with and without a store; bad input.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import error_of, json_of, text_of
from commands import run as command
from PIL import Image

from vidgraph.video.writer import write_video

SIZE, FRAMES = 48, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random textures that rise or sink, so that a single frame tells nothing; a table, and a store
    of their flow."""
    folder, rng = tmp_path_factory.mktemp("motion"), np.random.default_rng(0)
    rows = []
    for number in range(30):
        label, sign = (("rising", -1), ("sinking", 1))[number % 2]
        split = "train" if number < 20 else "val" if number < 24 else "test"
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        texture = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        step = sign * (1 + number // 2 % 2)
        frames = np.stack([np.roll(texture, step * t, axis=0) for t in range(FRAMES)])
        write_video(folder / "videos" / f"{number:02}.mp4", frames, fps=10)
        rows.append(f"videos/{number:02}.mp4,{label},{split}")
    (folder / "t.csv").write_text("video,label,split\n" + "\n".join(rows) + "\n")
    command("extract", "flow", folder / "t.csv", "--out", folder / "flow", "--workers", 1)
    return folder


def _recipe(folder: Path, out: Path) -> Path:
    path = out / "motion.yaml"
    path.write_text(
        "name: motion\n"
        f"shared:\n  data: {{table: {{path: {folder}/t.csv, flow: {folder}/flow, flip: true, "
        f"crop_scales: [1, 0.875, 0.75, 0.66]}}}}\n"
        "  train: {batch_size: 10, clips: 160, lr: 4.0e-3, precision: fp32, threads: 1, "
        "tensorboard: false, device: cpu, workers: 0}\n"
        "  eval: {num_views: 3, crops: 5, crop_places: corners, mirrored: true, short_side: 36, "
        "fusion: logits}\n"
        "rows:\n"
        "  flow:\n"
        "    model:\n"
        "      name: two_stream_small\n"
        "      frames: null\n"
        "      flow: {head: {dropout: 0.0}}\n"
        "      input: &input {height: 32, width: 32, flow_length: 3, max_stack_interval: 2}\n"
        "  both: {model: {name: two_stream_small, input: {<<: *input, num_frames: 2}}}\n"
    )
    return path


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    command("train", f"{_recipe(folder, out)}:flow", "--out", out / "flow")
    return out / "flow"


def test_motion_is_learnt_from_flow_and_scored_on_ten_crops(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = json.loads((run / "data.json").read_text())["flow"]
    assert (fingerprint["method"], fingerprint["settings"]["bound"]) == ("dis", 20.0)
    stored = json_of(capsys, "eval", run)
    assert stored["n"] == 6
    assert stored["top1"] == stored["mean_class"] == 100
    assert json_of(capsys, "eval", run, "--data.table.flow", "live") == stored
    words = "--eval.stack_interval 1 --eval.crops 1 --eval.crop_places line --views 16"
    longer = json_of(capsys, "eval", run, *words.split())
    assert longer["top1"] == 100


def test_an_mp4_without_stored_flow_is_answered(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = folder / "videos" / "25.mp4", tmp_path / "new.mp4"
    shutil.copy(old, new)
    (live,) = json_of(capsys, "predict", run, new)
    (stored,) = json_of(capsys, "predict", run, old, "--flow", folder / "flow")
    assert live | {"video": ""} == stored | {"video": ""}
    printed = text_of(capsys, "predict", run, new)
    assert "Optical flow was computed now (dis); --flow is faster." in printed
    assert printed.splitlines()[1].strip().endswith("sinking")


def test_pixels_and_flow_train_together(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both"
    words = ["--train.clips", 20, "--data.table.flow", "live", "--data.table.flow_bound", 10]
    command("train", f"{_recipe(folder, tmp_path)}:both", "--out", out, *words)
    assert json.loads((out / "data.json").read_text())["flow"]["settings"]["bound"] == 10
    assert json_of(capsys, "eval", out, "--views", 1)["n"] == 6
    said = text_of(capsys, "predict", out, folder / "videos" / "25.mp4")
    assert "computed now (dis)" in said


def test_bad_input_is_one_line(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", f"{_recipe(folder, tmp_path)}:flow", "--out", tmp_path / "run"]
    clip, one, flow = folder / "videos" / "25.mp4", tmp_path / "one.mp4", "--data.table.flow"
    for words, message in (
        ([*train, flow, "null"], "no store of it is given; make one with vidgraph extract flow"),
        ([*train, flow, tmp_path / "none"], "none: does not exist; extract again"),
        ([*train, "--data.table.flow_bound", 10], "bound"),
        ([*train, flow, "live:dsi"], "no method 'dsi' of optical flow; did you mean 'dis'?"),
        ([*train, "--data.table.flow_bound", 0], "flow_bound: should be greater than 0"),
        ([*train, "--data.table.crop_scales", "[2]"], "crop_scales.0: should be less than"),
        ([*train, "--data.table.short_side", "[40]"], "both say how training crops are drawn"),
        (["eval", run, "--split", "tset"], "no rows of split 'tset'"),
        (["eval", run, "--eval.crops", 10], "crop_places corners are the four corners and the"),
    ):
        assert message in error_of(capsys, *words)

    # A store that lacks a video, or holds half of one.
    store = Path(shutil.copytree(folder / "flow", tmp_path / "flow"))
    (record,) = store.rglob("25.mp4.*")
    record.write_bytes(record.read_bytes()[:-30])
    error = error_of(capsys, "eval", run, flow, store)
    assert "25.mp4" in error
    assert error.endswith("(t.csv, line 27)\n")
    record.unlink()
    for words in (("eval", run, flow, store), ("predict", run, clip, "--flow", store)):
        assert "holds no flow of" in error_of(capsys, *words)

    # A video of one frame; one of several is named, and the others are answered.
    write_video(one, np.zeros((1, SIZE, SIZE, 3), np.uint8), fps=10)
    assert "one.mp4: the video has one frame" in error_of(capsys, "predict", run, one)
    command("predict", run, one, clip, code=1)
