"""`vidgraph train` as users meet it: a whole run, kill -9, Ctrl-C, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import error_of, run, text_of

import vidgraph
from vidgraph.config import load_recipe
from vidgraph.training.checkpoint import load_checkpoint, read_metrics

SETTINGS = {
    "data.syncmnist.digits": "embedded",
    "data.syncmnist.val_clips": 64,
    "train.clips": 1920,
    "train.batch_size": 32,
    "train.val_every_clips": 640,
    "train.checkpoint_every_clips": 320,
    "train.log_every_clips": 96,
    "train.warmup_clips": 0,
    "train.log_every_seconds": 0,
    "train.threads": 1,
    "train.tensorboard": "false",
    "train.device": "cpu",
}
SMALL = [f"--{key}={value}" for key, value in SETTINGS.items()]
CURVE = ("clips", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vidgraph.cli", "train", *words, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def _wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    file, deadline = folder / "last.ckpt", time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert file.exists(), process.communicate()


def _curve(folder: Path) -> list[list[str]]:
    return [[row[name] for name in CURVE] for row in read_metrics(folder / "metrics.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run("train", "digits:stem", "--out", folder, *SMALL)
    return folder


def test_a_run_folder_holds_what_it_should(whole: Path) -> None:
    names = {".lock", "model.safetensors", "config.json", "recipe.yaml", "metrics.csv"}
    names |= {"last.ckpt", "data.json"}
    assert {path.name for path in whole.iterdir()} == names
    recipe = load_recipe(str(whole))
    assert (recipe.title, recipe.train.clips) == ("digits:stem", 1920)
    data = json.loads((whole / "data.json").read_text())
    assert set(data) == {"files", "missing", "skipped", "sha256"}
    model = vidgraph.from_pretrained(whole)
    assert model.class_names == [str(digit) for digit in range(10)]


def test_progress_lines_can_be_read_in_a_log_file(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "digits:stem", "--out", tmp_path / "run", *SMALL, "--train.clips", 640)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("digits:stem: 0.16 M parameters, 640 clips, in ")
    assert re.search(r"^ 50\.0 %  320 of 640 clips .* left  loss \d\.\d+  waiting for ", err, re.M)
    assert any(line.startswith("validation at 640 clips  loss ") for line in lines)
    assert lines[-2].startswith("finished: 640 clips, best on validation ")
    assert lines[-1] == f"score them on the test split: vidgraph eval {tmp_path / 'run'}"


@pytest.mark.slow
def test_a_killed_training_continues_with_the_same_losses(whole: Path, tmp_path: Path) -> None:
    process = _start(tmp_path, "digits:stem", *SMALL)
    _wait_for_checkpoint(tmp_path, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 0 < load_checkpoint(tmp_path)["progress"]["clips_seen"] < 1920
    resumed = _start(tmp_path, "digits:stem", *SMALL, "--resume")
    out, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, out + errors
    assert re.search(r"^continues at \d[\d,]* of 1,920 clips$", out, re.MULTILINE), out
    assert _curve(tmp_path) == _curve(whole)
    one, other = load_checkpoint(tmp_path)["model"], load_checkpoint(whole)["model"]
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.slow
def test_ctrl_c_saves_and_names_the_command_that_continues(whole: Path, tmp_path: Path) -> None:
    process = _start(tmp_path, "digits:stem", *SMALL)
    _wait_for_checkpoint(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the data workers, too
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, out + errors
    seen = load_checkpoint(tmp_path)["progress"]["clips_seen"]
    told = (
        f"stopped by SIGINT after {seen:,} clips; saved. Continue with: vidgraph train {tmp_path}"
    )
    assert errors.splitlines() == [f"{told} --resume"]
    run("train", tmp_path, "--resume")
    assert _curve(tmp_path) == _curve(whole)


@pytest.mark.slow
def test_two_trainings_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = _start(tmp_path, "digits:stem", *SMALL, "--train.clips", "1000000")
    try:
        _wait_for_checkpoint(tmp_path, process)
        error = error_of(capsys, "train", "digits:stem", "--out", tmp_path, *SMALL)
        assert f"{tmp_path}: is in use by another training; choose another --out or stop" in error
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_another_training_is_not_overwritten(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    words = "train", "digits:stem", *SMALL, "--out"
    assert "already holds a training; add --resume" in error_of(capsys, *words, whole)
    error = error_of(capsys, *words, whole, "--train.lr", "1", "--resume")
    assert "was trained with another recipe: train.lr is 0.002 there and 1.0 here" in error
    error = error_of(capsys, *words, whole / "absent", "--resume")
    assert "holds no training to resume" in error
    assert {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_where_the_digits_lie_may_change_but_not_which_they_are(
    whole: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    elsewhere = ["digits:stem", "--out", folder, *SMALL, "--resume"]
    elsewhere += ["--data.syncmnist.digits", shared_data / "data" / "mnist"]
    assert "the data are not those that" in error_of(capsys, "train", *elsewhere)
    (folder / "data.json").write_text((shared_data / "data" / "mnist").as_posix())
    assert "data.json cannot be read" in error_of(capsys, "train", *elsewhere)
    unread = "--data.syncmnist.test_paths", tmp_path / "nowhere.npz"  # the test set's
    run("train", "digits:stem", "--out", whole, *SMALL, "--resume", *unread)


def test_resume_of_a_finished_training_says_so(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_of(capsys, "train", whole, "--resume", "--train.workers", 0)
    assert "finished: 1,920 clips" in text


def test_damaged_weights_of_a_finished_training_are_noticed(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shutil.copytree(whole, tmp_path / "run") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    error = error_of(capsys, "train", weights.parent, "--resume", "--train.workers", 0)
    assert f"{weights}: " in error


def test_what_a_training_started_from_may_be_gone_later(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shutil.copytree(whole, tmp_path / "first")
    words = f"--model.initial_weights {first} --train.clips 64 --train.workers 0".split()
    second = "--out", tmp_path / "second"
    text = text_of(capsys, "train", "digits:stem", *SMALL, *words, *second)
    assert f"initial weights {first}: " in text
    shutil.rmtree(first)
    assert "initial weights" not in text_of(capsys, "train", second[1], "--resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("syncmnst3", "there is no such recipe, file or folder; did you mean 'syncmnist3'?"),
        ("digits:stem --train.lrr 1", "unknown key train.lrr; did you mean 'lr'?"),
        ("digits:stem --lr 1", "No such option: --lr. Did you mean --train.lr? (see vidgraph"),
        (
            "digits:stem --resum",
            "No such option: --resum (Possible options: --frames, --resume, --w",
        ),
        ("digits:stem --model.name digit_stm", "'digit_stm'; did you mean 'digit_stem'?"),
        ("digits:stem --model.head.wdth 3", "unknown key model.head.wdth"),
        ("digits:stem --model.initial_weights nowhere", "nowhere"),
        ("digits:stem --data.syncmnist.digits nowhere", "nowhere"),
        (
            "digits:stem --model.name rstg_small",
            "takes clips of (1, 10, 64, 64) channels, frames, rows and columns; those of the",
        ),
        ("syncmnist3:rstg_small --data.syncmnist.num_digits 11", "num_digits is 11"),
    ],
)
def test_bad_input_is_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*words.split(), "--out", tmp_path / "run"]
    given += [] if "digits nowhere" in words else ["--data.syncmnist.digits", "embedded"]
    assert message in error_of(capsys, "train", *given)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_table_without_training_rows_and_with_an_absent_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"name: mine\ndata: {{table: {{path: {tmp_path}/t.csv}}}}\nmodel: {{name: rstg_small}}\n"
        "train: {epochs: 1}\n"
    )
    words = "train", recipe, "--out", tmp_path / "run"
    for workers, table, message in (
        (0, "video,label,split\na.mp4,x,val\n", "no rows of split 'train'"),
        (0, "video,class,split\na.mp4,x,val\n", "label"),
        (0, "video,label,split\na.mp4,x,train\na.mp4,y,val\n", "a.mp4"),
        (1, "video,label,split\na.mp4,x,train\na.mp4,y,val\n", "a.mp4"),
    ):
        (tmp_path / "t.csv").write_text(table)
        assert message in error_of(capsys, *words, "--train.workers", workers)


def test_damaged_checkpoints_are_refused_and_kept(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recipe.yaml", "data.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    content = (whole / "last.ckpt").read_bytes()[:1000]
    (tmp_path / "last.ckpt").write_bytes(content)
    assert "last.ckpt: cannot be read, it is truncated" in error_of(
        capsys, "train", tmp_path, "--resume"
    )
    assert (tmp_path / "last.ckpt").read_bytes() == content
    (tmp_path / "data.json").write_text('{"files": 3}')
    assert "the data are not those that" in error_of(capsys, "train", tmp_path, "--resume")
