"""Boxes through the command: proposals that survive `kill -9`, boxes from files, models that take
them, and every fault in one line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, json_of

import vidgraph
from vidgraph.cli import main
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.store import StoredVideo, save_file
from vidgraph.video.writer import write_video
from vidgraph.weights import save_weights

CLASSES = ["JugglingBalls", "Lunges"]


def _files(store: Path) -> dict[str, bytes]:
    return {
        f.relative_to(store).as_posix(): f.read_bytes()
        for f in store.rglob("*")
        if f.is_file() and f.name != ".lock"
    }


@pytest.fixture(scope="module")
def videos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real clips of each of two classes, in a folder per class, and a table of them."""
    folder, rows = tmp_path_factory.mktemp("ucf"), ["video,label,split"]
    for name in CLASSES:
        for clip in sorted((shared_data / "data" / "ucf101_8" / name).glob("*.mp4"))[:3]:
            (folder / name).mkdir(exist_ok=True)
            shutil.copy(clip, folder / name / clip.name)
            rows.append(f"{name}/{clip.name},{name},test")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def boxes(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving regions of every 30th frame."""
    store = tmp_path_factory.mktemp("boxes") / "store"
    words = (
        f"extract proposals {videos} --source motion --out {store} --count 5 --every 30 --workers 1"
    )
    assert main(words.split()) == 0
    return store


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights of a small region graph: 4 frames, 5 boxes each."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    spec = {"num_frames": 4, "height": 64, "width": 64, "boxes_per_frame": 5}
    options = {"input": spec, "head": {"width": 16}}
    save_weights(vidgraph.create_model("strg_small", class_names=CLASSES, **options), folder)
    return folder


def test_files_folders_and_tables_are_the_same_videos(
    videos: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _files(boxes)
    assert len(expected) == 6
    settings = ["--source", "motion", "--count", "5", "--every", "30", "--workers", "1"]
    for number, what in enumerate(
        (
            [videos / "table.csv"],
            [videos / "JugglingBalls", videos / "Lunges"],
            sorted(videos.glob("*/*.mp4")),
        )
    ):
        store = tmp_path / str(number)
        assert main(["extract", "proposals", *map(str, what), "--out", str(store), *settings]) == 0
        assert _files(store) == expected
        assert f"{store}: 6 videos done; " in capsys.readouterr().out
    assert main(["extract", "proposals", str(videos), "--out", str(tmp_path / "0"), *settings]) == 0
    assert f"{tmp_path / '0'}: 0 videos done, 6 were there\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_and_called_again(videos: Path, tmp_path: Path) -> None:
    """`kill -9` of the command while two processes are at work: no file is half there, and the same
    call ends with the same files."""
    words = (
        f"-m vidgraph.cli extract proposals {videos} --source motion --count 10 --every 2 "
        "--workers 2"
    )
    command = [sys.executable, *words.split()]
    whole, store = tmp_path / "whole", tmp_path / "store"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "--out", str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(store.rglob("[!.]*.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = {name: content for name, content in _files(store).items() if "partial" not in name}
    assert 1 <= len(there) < 6
    assert all(_files(whole)[name] == content for name, content in there.items())
    done = subprocess.run(
        [*command, "--out", str(store)], check=True, capture_output=True, text=True
    )
    assert "were there" in done.stdout
    assert _files(store) == _files(whole)


def test_some_of_many_fail(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(videos / "Lunges", tmp_path / "videos")
    (tmp_path / "videos" / "bad.mp4").write_text("no video")
    words = [
        "extract",
        "proposals",
        tmp_path / "videos",
        "--source",
        "motion",
        "--every",
        "50",
        "--workers",
        "1",
        "--out",
        tmp_path / "store",
    ]
    assert "bad.mp4: " in error_of(capsys, *words, code=1)
    assert len(list((tmp_path / "store").rglob("*.safetensors"))) == 3
    assert "bad.mp4: " in error_of(
        capsys, *[*words[:2], tmp_path / "videos" / "bad.mp4", *words[3:]]
    )  # its fault is the command's


def test_a_model_with_boxes_is_scored_and_predicts(
    videos: Path, boxes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many views with regions; evaluation and prediction agree on the answers."""
    data = ["--data", videos / "table.csv", "--data.table.boxes", boxes, "--device", "cpu"]
    centre = json_of(capsys, "eval", model, *data)
    assert (centre["n"], centre["skipped"]) == (6, 0)
    many = json_of(
        capsys, "eval", model, *data, "--views", 2, "--eval.crops", 3, "--eval.fusion", "max"
    )
    assert many["n"] == 6
    clips = sorted(videos.glob("*/*.mp4"))
    answers = json_of(capsys, "predict", model, *clips, "--boxes", boxes, "--device", "cpu")
    right = [answer["top"][0]["class"] == Path(answer["video"]).parent.name for answer in answers]
    assert 100 * np.mean(right) == pytest.approx(centre["top1"], abs=0.01)
    assert (
        main(
            [
                "predict",
                str(model),
                str(clips[0]),
                "--boxes",
                str(boxes),
                "--views",
                "2",
                "--save",
                str(tmp_path / "a.html"),
            ]
        )
        == 0
    )


def test_boxes_of_something_else(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "data" / "something_else_samples"
    words = ["extract", "boxes", folder / "annotations.json", "--out", tmp_path / "store"]
    assert main([*map(str, words), "--videos", str(folder / "videos")]) == 0
    out = capsys.readouterr().out
    assert "13 videos done" in out
    assert "555 frames with 1.9 boxes on average; 0 frames have none" in out
    found = BoxStore(tmp_path / "store").boxes(folder / "videos" / "77005").at([0], 4)
    assert found.mask.sum() >= 1
    some = tmp_path / "some"
    some.mkdir()
    (some / "2").symlink_to(folder / "videos" / "2")
    assert main([*map(str, words[:-1]), str(tmp_path / "other"), "--videos", str(some)]) == 0
    assert f"note: 12 of 13 videos of the annotations are not in {some}" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert "holds none of the 13 videos of" in error_of(
        capsys, *words[:-1], tmp_path / "none", "--videos", tmp_path / "empty"
    )


def test_boxes_of_ones_own(
    videos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = sorted(videos.glob("*/*.mp4"))
    rows = [
        f"{clip.relative_to(videos)},{frame},10,10,90,100"
        for clip in clips[:2]
        for frame in range(0, 60, 5)
    ]
    (tmp_path / "mine.csv").write_text("video,frame,x0,y0,x1,y1\n" + "\n".join(rows) + "\n")
    store = tmp_path / "store"
    assert (
        main(f"extract boxes {tmp_path}/mine.csv --videos {videos} --out {store} --reach 2".split())
        == 0
    )
    assert "2 videos done" in capsys.readouterr().out
    assert (
        len(json_of(capsys, "predict", model, *clips[:2], "--boxes", store, "--device", "cpu")) == 2
    )
    (tmp_path / "mine.csv").write_text(
        "video,frame,x0,y0,x1,y1\n" + rows[0].replace("100", "99") + "\n"
    )
    words = [
        "extract",
        "boxes",
        tmp_path / "mine.csv",
        "--videos",
        videos,
        "--out",
        store,
        "--reach",
        2,
    ]
    assert "holds boxes of csv version 1 (sha256 " in error_of(capsys, *words)
    assert "Lunges.csv: " in error_of(
        capsys, "extract", "boxes", tmp_path / "Lunges.csv", "--out", tmp_path / "x"
    )
    assert "boxes come from .csv files, or from the .json files" in error_of(
        capsys, "extract", "boxes", clips[0], "--out", tmp_path / "x"
    )


def _rewritten(store: Path, box: list[float] | None) -> None:
    """Every file of the store again, with one box in every frame, or none."""
    rows = np.reshape([] if box is None else [*box, 1], (-1, 5)).astype(np.float32)
    for path in store.rglob("*.safetensors"):
        header = StoredVideo(path).header
        save_file(path, header, [rows] * len(header.frame_indices))


def test_bad_stores_are_one_line(
    videos: Path, boxes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = sorted(videos.glob("*/*.mp4"))[0]
    predict = ["predict", model, clip, "--boxes", tmp_path / "store", "--device", "cpu"]

    def fresh() -> Path:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        shutil.copytree(boxes, tmp_path / "store")
        return tmp_path / "store"

    def told(*parts: str) -> None:
        error = error_of(capsys, *predict)
        assert all(part in error for part in parts), error

    # No boxes at all: not asked for, no store, one without this video, one of vidgraph 0.1.
    assert (
        "takes 5 boxes per frame, and no store of boxes is given; make one with vidgraph extract "
        "proposals" in error_of(capsys, "predict", model, clip)
    )
    assert "--data.table.boxes STORE" in error_of(
        capsys, "eval", model, "--data", videos / "table.csv"
    )
    told("store: does not exist; extract again: vidgraph extract proposals")
    for store in ("boxes", "flow"):
        unread = error_of(
            capsys, "predict", "mean_lstm_small_sync3", clip, f"--{store}", tmp_path / "gone"
        )
        assert (
            unread.rstrip()
            == f"vidgraph: --{store} {tmp_path / 'gone'}: mean_lstm_small_sync3 takes no {store}; "
            "leave it out"
        )
    (fresh() / f"{clip.parent.name}/{clip.name}.safetensors").unlink()
    told("store: holds no boxes of ", clip.name, "run vidgraph extract for it too")
    for file in fresh().rglob("*.safetensors"):
        file.unlink()
    (tmp_path / "store" / "store.json").write_text("{}")
    told("store: is a store of vidgraph 0.1, which this version does not read; extract again")

    # Of other videos, half-written.
    store = fresh()
    names = sorted(path.relative_to(store) for path in store.rglob("*.safetensors"))
    shutil.copy(store / names[1], store / names[0])
    told(f"{names[0]}: holds the boxes of another video than {clip}, or of it before it changed")
    path = fresh() / names[0]
    path.write_bytes(path.read_bytes()[:-50])
    told(f"{names[0]}: is cut short", "run the same vidgraph extract again")

    # Boxes that cannot be.
    for box, problem in (
        ([0.1, float("nan"), 0.5, 0.5], "a box holds what is not a number"),
        ([0.6, 0.1, 0.5, 0.5], "a box is reversed"),
        ([0.1, 0.1, 0.5, 1.5], "a box lies outside the frame"),
    ):
        _rewritten(fresh(), box)
        told(f"{names[0]}, frame ", problem, "delete the file and extract again")

    # Fewer boxes than asked, and none in any frame, are no fault: they are masked.
    for few in ([0.1, 0.1, 0.5, 0.5], None):
        _rewritten(fresh(), few)
        assert len(json_of(capsys, *predict)) == 1


def test_bad_words_are_one_line(
    videos: Path,
    boxes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip, out = sorted(videos.glob("*/*.mp4"))[0], tmp_path / "out"
    motion = ["extract", "proposals", clip, "--source", "motion", "--out"]
    assert "'moton' is not one of 'motion', 'rpn'" in error_of(
        capsys, "extract", "proposals", clip, "--source", "moton", "--out", out
    )
    assert "No such command 'proposal'" in error_of(capsys, "extract", "proposal", clip)
    assert "--fps or --every, not both" in error_of(capsys, *motion, out, "--fps", 3, "--every", 2)
    assert "chosen by fps, which is above 0" in error_of(capsys, *motion, out, "--fps", -1)
    assert "the source motion has no weights" in error_of(
        capsys, *motion, out, "--weights", "x.pth"
    )
    assert "gone.mp4: there is no such file" in error_of(
        capsys, "extract", "proposals", tmp_path / "gone.mp4", "--source", "motion", "--out", out
    )
    assert (
        "holds boxes of motion version 1 (count 5, every 30, short_side 128), not boxes of motion "
        "version 1 (count 50, every 1, " in error_of(capsys, *motion, boxes)
    )
    assert "is not empty and no store" in error_of(capsys, *motion, videos)

    # The rpn without weights: no such file, and no network to fetch them by.
    rpn = ["extract", "proposals", clip, "--source", "rpn", "--out", out]
    assert "gone.pth: cannot be read" in error_of(capsys, *rpn, "--weights", tmp_path / "gone.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    capsys.readouterr()
    assert main([*map(str, rpn)]) == 2
    assert "the weights of the rpn cannot be fetched" in capsys.readouterr().err.splitlines()[-1]

    # A cluster without Ray.
    monkeypatch.setitem(sys.modules, "ray", None)
    assert (
        "--cluster needs Ray, which is not installed here: pip install 'vidgraph[cluster]'"
        in error_of(capsys, *motion, out, "--cluster")
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_with_boxes(
    videos: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that takes boxes from a store remembers which, and is not continued with others."""
    recipe, run = tmp_path / "mine.yaml", tmp_path / "run"
    recipe.write_text(
        f"name: mine\n"
        f"data: {{table: {{path: {videos / 'table.csv'}, boxes: {boxes}, train_split: test, "
        f"val_split: none, short_side: [72]}}}}\n"
        "model: {name: strg_small, head: {width: 16}, input: {num_frames: 4, height: 64, width: 64, "
        "boxes_per_frame: 5}}\n"
        "train: {clips: 8, batch_size: 4, lr: 1.0e-3, precision: fp32, threads: 1, tensorboard: "
        "false, device: cpu}\n"
    )
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    assert json.loads((run / "data.json").read_text())["boxes"]["method"] == "motion"
    assert json_of(capsys, "eval", run, "--device", "cpu")["n"] == 6
    others = tmp_path / "others"
    assert (
        main(
            f"extract proposals {videos} --source motion --out {others} --count 3 --every 60 "
            "--workers 1".split()
        )
        == 0
    )
    assert "data.table.boxes is " in error_of(
        capsys, "train", run, "--resume", "--data.table.boxes", others
    )
    shutil.rmtree(boxes.with_name("kept"), ignore_errors=True)
    shutil.move(boxes, boxes.with_name("kept"))
    shutil.copytree(others, boxes)
    try:
        assert "the data are not those that" in error_of(capsys, "train", run, "--resume")
    finally:
        shutil.rmtree(boxes)
        shutil.move(boxes.with_name("kept"), boxes)


@pytest.mark.slow
def test_the_rpn_end_to_end(
    videos: Path, model: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With random weights, reduced frames and few of them: the whole way from the command to a
    prediction; photos are short videos."""
    clip, store = sorted(videos.glob("*/*.mp4"))[0], tmp_path / "store"
    rpn = [
        "extract",
        "proposals",
        clip,
        "--source",
        "rpn",
        "--weights",
        "random",
        "--short-side",
        128,
        "--every",
        60,
        "--count",
        20,
    ]
    assert main([*map(str, rpn), "--out", str(store)]) == 0
    found = BoxStore(store).boxes(clip).at([0, 60], 20)
    assert found.mask.all()
    assert (np.diff(found.scores) <= 0).all()
    assert json_of(capsys, "predict", model, clip, "--boxes", store, "--device", "cpu")[0]["top"]
    photos, samples = (
        shared_data / "data" / "photos" / "detectron_demo",
        shared_data / "data" / "sample_videos",
    )
    words = (
        "--source rpn --weights random --short-side 128 --every 120 --count 20 --out "
        f"{tmp_path / 'samples'}"
    ).split()
    assert main(["extract", "proposals", str(photos), str(samples), *words]) == 0
    stored = BoxStore(tmp_path / "samples")
    for path in [photos, *samples.glob("*.mp4"), *samples.glob("*.avi")]:
        assert stored.boxes(path).at([0], 20).mask.all()


def test_a_short_still_video_has_no_boxes_and_works(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "still.mp4", np.full((3, 40, 60, 3), 90, np.uint8), fps=10)
    store = tmp_path / "store"
    assert (
        main(f"extract proposals {tmp_path / 'still.mp4'} --source motion --out {store}".split())
        == 0
    )
    assert "3 frames with 0.0 boxes on average; 3 frames have none" in capsys.readouterr().out
    assert json_of(
        capsys, "predict", model, tmp_path / "still.mp4", "--boxes", store, "--device", "cpu"
    )[0]["top"]
    assert (
        main(
            [
                "predict",
                str(model),
                str(tmp_path / "still.mp4"),
                "--boxes",
                str(store),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert (
        "There is not a single box in the frames used: the answer comes from the whole frames "
        "alone." in capsys.readouterr().out
    )
