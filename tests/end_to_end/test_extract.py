"""Boxes through the command: proposals that survive `kill -9`, boxes from files, models that take
them, and every fault in one line.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, files_of, json_of, run

import vidgraph
from vidgraph.precompute.boxes import BoxStore
from vidgraph.video.writer import write_video
from vidgraph.weights import save_weights

CLASSES = ["JugglingBalls", "Lunges"]


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
    how = "--source motion --count 5 --every 30 --workers 1"
    run("extract", "proposals", videos, "--out", store, *how.split())
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
    expected = files_of(boxes)
    assert len(expected) == 6
    settings = ["--source", "motion", "--count", "5", "--every", "30", "--workers", "1"]
    folders = [videos / "JugglingBalls", videos / "Lunges"]
    for number, what in enumerate(([videos / "table.csv"], folders, sorted(videos.glob("*/*")))):
        store = tmp_path / str(number)
        run("extract", "proposals", *what, "--out", store, *settings)
        assert files_of(store) == expected
        assert f"{store}: 6 videos done; " in capsys.readouterr().out
    run("extract", "proposals", videos, "--out", tmp_path / "0", *settings)
    assert f"{tmp_path / '0'}: 0 videos done, 6 were there\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_and_called_again(videos: Path, tmp_path: Path) -> None:
    """`kill -9` of the command while two processes are at work: no file is half there, and the same
    call ends with the same files."""
    words = f"extract proposals {videos} --source motion --count 10 --every 4 --workers 2 --out"
    command = [sys.executable, "-m", "vidgraph.cli", *words.split()]
    whole, store = tmp_path / "whole", tmp_path / "store"
    subprocess.run([*command, whole], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(store.rglob("[!.]*.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    there = {name: content for name, content in files_of(store).items() if "partial" not in name}
    assert 1 <= len(there) < 6
    assert all(files_of(whole)[name] == content for name, content in there.items())
    done = subprocess.run([*command, store], check=True, capture_output=True, text=True)
    assert "were there" in done.stdout
    assert files_of(store) == files_of(whole)


def test_some_of_many_fail(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fault of a single video is the command's."""
    folder, store = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(videos / "Lunges", folder)
    (folder / "bad.mp4").write_text("no video")
    how = f"--source motion --every 50 --workers 1 --out {store}".split()
    assert "bad.mp4: " in error_of(capsys, "extract", "proposals", folder, *how, code=1)
    assert len(files_of(store)) == 3
    assert "bad.mp4: " in error_of(capsys, "extract", "proposals", folder / "bad.mp4", *how)


def test_a_model_with_boxes_is_scored_and_predicts(
    videos: Path, boxes: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many views with regions; evaluation and prediction agree on the answers."""
    data = ["--data", videos / "table.csv", "--data.table.boxes", boxes, "--device", "cpu"]
    centre = json_of(capsys, "eval", model, *data)
    assert (centre["n"], centre["skipped"]) == (6, 0)
    views = ["--views", 2, "--eval.crops", 3, "--eval.fusion", "max"]
    assert json_of(capsys, "eval", model, *data, *views)["n"] == 6
    clips = sorted(videos.glob("*/*.mp4"))
    how = ["--boxes", boxes, "--device", "cpu"]
    answers = json_of(capsys, "predict", model, *clips, *how)
    right = [answer["top"][0]["class"] == Path(answer["video"]).parent.name for answer in answers]
    assert 100 * np.mean(right) == pytest.approx(centre["top1"], abs=0.01)
    run("predict", model, clips[0], *how, "--views", 2, "--save", tmp_path / "a.html")


def test_boxes_of_something_else(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "data" / "something_else_samples"
    words = ["extract", "boxes", folder / "annotations.json", "--out", tmp_path / "store"]
    run(*words, "--videos", folder / "videos")
    out = capsys.readouterr().out
    assert "13 videos done" in out
    assert "555 frames with 1.9 boxes on average; 0 frames have none" in out
    found = BoxStore(tmp_path / "store").boxes(folder / "videos" / "77005").at([0], 4)
    assert found.mask.sum() >= 1
    some, empty = tmp_path / "some", tmp_path / "empty"
    some.mkdir()
    empty.mkdir()
    (some / "2").symlink_to(folder / "videos" / "2")
    run(*words[:-1], tmp_path / "other", "--videos", some)
    assert f"note: 12 of 13 videos of the annotations are not in {some}" in capsys.readouterr().out
    error = error_of(capsys, *words[:-1], tmp_path / "none", "--videos", empty)
    assert "holds none of the 13 videos of" in error


def test_boxes_of_ones_own(
    videos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, mine = sorted(videos.glob("*/*.mp4")), tmp_path / "mine.csv"
    names = [clip.relative_to(videos) for clip in clips[:2]]
    rows = [f"{name},{frame},10,10,90,100\n" for name in names for frame in range(0, 60, 5)]
    mine.write_text("video,frame,x0,y0,x1,y1\n" + "".join(rows))
    words = f"extract boxes {mine} --videos {videos} --out {tmp_path / 'store'} --reach 2".split()
    run(*words)
    assert "2 videos done" in capsys.readouterr().out
    how = ["--boxes", tmp_path / "store", "--device", "cpu"]
    assert len(json_of(capsys, "predict", model, *clips[:2], *how)) == 2
    mine.write_text(mine.read_text().replace("100", "99"))
    assert "holds boxes of csv version 1 (sha256 " in error_of(capsys, *words)
    for file, problem in ((tmp_path / "x.csv", "x.csv: "), (clips[0], "boxes come from .csv file")):
        assert problem in error_of(capsys, "extract", "boxes", file, "--out", tmp_path / "x")


def test_stores_and_words_that_do_not_fit_are_one_line(
    videos: Path,
    boxes: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip, gone = sorted(videos.glob("*/*.mp4"))[0], tmp_path / "gone"
    motion = ["extract", "proposals", clip, "--source", "motion", "--out"]
    rpn = ["extract", "proposals", clip, "--source", "rpn", "--out"]
    none = "takes 5 boxes per frame, and no store of boxes is given; make one with vidgraph extract"
    method = "holds boxes of motion version 1 (count 5, every 30, short_side 128), not boxes of"
    small = "mean_lstm_small_sync3"
    for words, problem in (
        (["predict", model, clip], none),
        (["eval", model, "--data", videos / "table.csv"], "--data.table.boxes STORE"),
        (["predict", model, clip, "--boxes", gone], "gone: does not exist; extract again: vidgr"),
        (["predict", small, clip, "--boxes", gone], f"--boxes {gone}: {small} takes no boxes"),
        (["predict", small, clip, "--flow", gone], f"--flow {gone}: {small} takes no flow"),
        ([*motion, gone, "--fps", 3, "--every", 2], "--fps or --every, not both"),
        ([*motion, gone, "--fps", -1], "chosen by fps, which is above 0"),
        ([*motion, gone, "--weights", "x.pth"], "the source motion has no weights"),
        ([*motion, boxes], method),
        ([*motion, videos], "is not empty and no store"),
        ([*rpn, gone, "--weights", tmp_path / "gone.pth"], "gone.pth: there is no such file"),
    ):
        error = error_of(capsys, *words)
        assert problem in error, error
    monkeypatch.setitem(sys.modules, "ray", None)
    error = error_of(capsys, *motion, gone, "--cluster")
    assert "--cluster needs Ray, which is not installed here: pip install 'vidgraph[clust" in error


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_with_boxes(
    videos: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that takes boxes from a store remembers which, and is not continued with others."""
    recipe, folder, store = tmp_path / "mine.yaml", tmp_path / "run", tmp_path / "boxes"
    shutil.copytree(boxes, store)
    recipe.write_text(
        "name: mine\n"
        f"data: {{table: {{path: {videos / 'table.csv'}, boxes: {store}, train_split: test, "
        f"val_split: none, short_side: [72]}}}}\n"
        "model: {name: strg_small, head: {width: 16}, input: {num_frames: 4, height: 64, "
        "width: 64, boxes_per_frame: 5}}\n"
        "train: {clips: 8, batch_size: 4, lr: 1.0e-3, precision: fp32, threads: 1, tensorboard: "
        "false, device: cpu}\n"
    )
    run("train", recipe, "--out", folder)
    assert json.loads((folder / "data.json").read_text())["boxes"]["method"] == "motion"
    assert json_of(capsys, "eval", folder, "--device", "cpu")["n"] == 6
    others = tmp_path / "others"
    few = "--source motion --count 3 --every 60 --workers 1"
    run("extract", "proposals", videos, "--out", others, *few.split())
    again = ["train", folder, "--resume"]
    assert "data.table.boxes is " in error_of(capsys, *again, "--data.table.boxes", others)
    shutil.rmtree(store)
    shutil.copytree(others, store)
    assert "the data are not those that" in error_of(capsys, *again)


@pytest.mark.slow
def test_the_rpn_end_to_end(
    videos: Path, model: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With random weights, reduced frames and few of them: the whole way from the command to a
    prediction; photos are short videos."""
    clip, store, data = sorted(videos.glob("*/*.mp4"))[0], tmp_path / "store", shared_data / "data"
    photos, samples = data / "photos" / "detectron_demo", data / "sample_videos"
    how = "--source rpn --weights random --short-side 128 --every 120 --count 20"
    run("extract", "proposals", clip, photos, samples, *how.split(), "--out", store)
    for path in [clip, photos, *samples.glob("*.mp4"), *samples.glob("*.avi")]:
        found = BoxStore(store).boxes(path).at([0], 20)
        assert found.mask.all()
        assert (np.diff(found.scores) <= 0).all()
    assert json_of(capsys, "predict", model, clip, "--boxes", store, "--device", "cpu")[0]["top"]


def test_a_short_still_video_has_no_boxes_and_works(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still, store = tmp_path / "still.mp4", tmp_path / "store"
    write_video(still, np.full((3, 40, 60, 3), 90, np.uint8), fps=10)
    run("extract", "proposals", still, "--source", "motion", "--out", store)
    assert "3 frames with 0.0 boxes on average; 3 frames have none" in capsys.readouterr().out
    run("predict", model, still, "--boxes", store, "--device", "cpu")
    assert "There is not a single box in the frames used" in capsys.readouterr().out
