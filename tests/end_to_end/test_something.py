"""Something-Something through the command: label files, check, training on real frames, scoring
with many views, prediction; bad input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import error_of, json_of
from PIL import Image

from vidgraph.cli import main

# Real videos; which of the 174 classes they show is not known, so that each has a class of its own.
TRAINED = ("2", "4", "862", "2003", "3201", "6981", "13201", "22983")
OTHERS = ("44862", "57082", "77005", "80962", "151201")
INPUT = "{whole_video: true, height: 48, width: 48}"


@pytest.fixture(scope="module")
def table(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and five validation videos, by label files in v1's form."""
    folder = tmp_path_factory.mktemp("something")
    classes = [f"Moving {k} somethings" for k in range(8)]
    train = "".join(f"{video};{name}\n" for video, name in zip(TRAINED, classes, strict=True))
    validation = "".join(f"{video};{name}\n" for video, name in zip(OTHERS, classes, strict=False))
    texts = {"labels": "\n".join(classes), "train": train, "validation": validation}
    for name, text in texts.items():
        (folder / f"something-something-v1-{name}.csv").write_text(text, encoding="utf-8")
    videos = shared_data / "data" / "something_else_samples" / "videos"
    make = f"data make something --labels {folder} --videos {videos} --out {folder}/table.csv"
    assert main(make.split()) == 0
    return folder / "table.csv"


def _recipe(table: Path, folder: Path) -> Path:
    """As the RSTG authors train, at a size for a test."""
    recipe = folder / "mine.yaml"
    recipe.write_text(
        f"name: mine\n"
        f"data: {{table: {{path: {table}, val_split: none, short_side: [55], brightness: 0.1}}}}\n"
        f"model: {{name: i3d_small, input: {INPUT}, head: {{dropout: 0.0}}}}\n"
        "train: {clips: 320, batch_size: 8, lr: 2.0e-3, precision: fp32, threads: 1, tensorboard: "
        "false, device: cpu}\n"
        "eval: {short_side: 55, spread: linspace}\n"
    )
    return recipe


@pytest.mark.slow
def test_real_frames_are_checked_learnt_scored_and_predicted(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(table)]) == 1
    out = capsys.readouterr().out
    assert "rows 13 (train 8, val 5), files 13, classes 8" in out
    assert "3 absent_class" in out  # nothing else: five validation videos cannot show eight classes
    assert not any(word in out for word in ("missing", "unreadable", "short", "duplicate"))

    run = tmp_path / "run"
    assert main(["train", str(_recipe(table, tmp_path)), "--out", str(run)]) == 0
    centre = json_of(capsys, "eval", run, "--split", "train", "--device", "cpu")
    assert (centre["top1"], centre["n"]) == (100.0, 8)
    for words in (
        "--eval.num_views 2 --eval.crops 11 --eval.crop_size 55 --eval.fusion logits",
        "--eval.full_frame true --eval.fusion max --views 2",
        "--eval.crops 3 --eval.fusion max_logits --batch-size 2",
    ):
        scored = "eval", run, "--split", "train", "--device", "cpu", *words.split()
        assert json_of(capsys, *scored)["n"] == 8
    videos = [line.split(",")[0] for line in table.read_text(encoding="utf-8").splitlines()[1:9]]
    answers = json_of(capsys, "predict", run, *videos, "--device", "cpu")
    first = [answer["top"][0]["class"] for answer in answers]
    assert first == [f"Moving {k} somethings" for k in range(8)]
    lengths = [sum(file.suffix == ".jpg" for file in Path(video).iterdir()) for video in videos]
    expected = [np.linspace(0, length - 1, 8).astype(int).tolist() for length in lengths]
    assert [answer["frame_indices"] for answer in answers] == expected


def _frames(folder: Path, numbers: list[int]) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(np.full((60, 80, 3), number, np.uint8)).save(folder / f"{number:05d}.jpg")


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, videos, table = tmp_path / "labels", tmp_path / "videos", tmp_path / "table.csv"
    labels.mkdir()
    (labels / "labels.csv").write_text("Holding something\nMoving something\n")
    (labels / "train.csv").write_text("1;Holding something\n2;Moving something\n")
    (labels / "validation.csv").write_text("3;Moving something\n")
    for video, numbers in (("1", [1, 2, 3, 4, 5]), ("2", [1, 2, 4, 5, 6]), ("3", [1, 2, 3])):
        _frames(videos / video, numbers)
    make = ["data", "make", "something", "--labels", labels, "--videos", videos, "--out", table]
    assert main([*map(str, make)]) == 0
    recipe = _recipe(table, tmp_path)
    train = ["train", recipe, "--out", tmp_path / "run"]
    train += ["--train.workers", 0, "--data.table.val_split", "val"]

    # A missing frame, in a training and in a prediction.
    gap = f"{videos / '2'}: a frame image is missing, after 00002.jpg comes 00004.jpg"
    gap += "; extract the frames again"
    assert f"vidgraph: {gap} (table.csv, line 3)\n" == error_of(capsys, *train)
    assert f"vidgraph: {gap}\n" == error_of(capsys, "predict", "digit_stem", videos / "2")
    (videos / "2" / "00003.jpg").write_bytes((videos / "2" / "00002.jpg").read_bytes())

    # A clip longer than the video, and sizes and settings that do not fit.
    scored = ["eval", "digit_stem", "--data", table, "--split", "val"]
    unknown = "label 'Holding something' is not among the 10 given classes"
    assert unknown in error_of(capsys, *scored)
    for option, value, message in (
        ("eval.past_end", "refuse", "a clip needs 8 frames, and the video has "),
        ("data.table.short_side", "[320, 256]", "must be [256] or a range such as [256, 320]"),
        ("data.table.short_side", "[40]", "is smaller than the model's input of 48x48 pixels"),
        ("eval.short_side", 32, "do not fit into frames whose shorter side is 32"),
        ("data.table.brightness", 2, "data.table.brightness: should be less than or equal to 1"),
        ("eval.folder_fps", 0, "eval.folder_fps: should be greater than 0"),
        ("eval.crop", 3, "unknown key eval.crop; did you mean 'crops'?"),
        ("eval.past_end", "repeat", "eval.past_end: should be 'clamp', 'loop' or 'refuse'"),
    ):
        assert message in error_of(capsys, *train, f"--{option}", value)

    # Label files.
    (labels / "labels.csv").write_text("Holding something\n")
    error = error_of(capsys, *make)
    assert "train.csv, line 2: class 'Moving something' is not among the 1 of labels.csv" in error
    error = error_of(capsys, "data", "make", "somethin")
    assert "No such command 'somethin'. Did you mean 'something'?" in error
