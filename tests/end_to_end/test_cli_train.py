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

import pytest
import torch

import vidgraph
from vidgraph.cli import main
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
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while (
        not (folder / "last.ckpt").exists()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    assert (folder / "last.ckpt").exists(), process.communicate()


def _curve(folder: Path) -> list[list[str]]:
    return [[row[name] for name in CURVE] for row in read_metrics(folder / "metrics.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["train", "digits:stem", "--out", str(folder), *SMALL]) == 0
    return folder


def test_a_run_folder_holds_what_it_should(whole: Path) -> None:
    names = {
        ".lock",
        "model.safetensors",
        "config.json",
        "recipe.yaml",
        "metrics.csv",
        "last.ckpt",
        "data.json",
    }
    assert {path.name for path in whole.iterdir()} == names
    recipe = load_recipe(str(whole))
    assert (recipe.title, recipe.train.clips) == ("digits:stem", 1920)
    assert set(json.loads((whole / "data.json").read_text())) == {
        "files",
        "missing",
        "skipped",
        "sha256",
    }
    model = vidgraph.from_pretrained(whole)
    assert model.class_names == [str(digit) for digit in range(10)]


def test_progress_lines_can_be_read_in_a_log_file(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            ["train", "digits:stem", "--out", str(tmp_path / "run"), *SMALL, "--train.clips", "640"]
        )
        == 0
    )
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
    assert errors.splitlines()[-1:] == [
        f"stopped by SIGINT after {seen:,} clips; saved. Continue with: vidgraph train {tmp_path} "
        "--resume"
    ]
    assert main(["train", str(tmp_path), "--resume"]) == 0
    assert _curve(tmp_path) == _curve(whole)


@pytest.mark.slow
def test_two_trainings_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = _start(tmp_path, "digits:stem", *SMALL, "--train.clips", "1000000")
    try:
        _wait_for_checkpoint(tmp_path, process)
        assert main(["train", "digits:stem", "--out", str(tmp_path), *SMALL]) == 2
        error = capsys.readouterr().err
        assert (
            error == f"vidgraph: {tmp_path} is in use by another training; choose another --out or "
            "stop that one\n"
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["train", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vidgraph: ")
    assert error.count("\n") == 1
    return error


def test_another_training_is_not_overwritten(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert "already holds a training; add --resume" in _refusal(
        capsys, "digits:stem", "--out", whole, *SMALL
    )
    error = _refusal(capsys, "digits:stem", "--out", whole, *SMALL, "--train.lr", "1", "--resume")
    assert "was trained with another recipe: train.lr is 0.002 there and 1.0 here" in error
    assert "holds no training to resume" in _refusal(
        capsys, "digits:stem", "--out", whole / "absent", *SMALL, "--resume"
    )
    assert {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_where_the_digits_lie_may_change_but_not_which_they_are(
    whole: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    elsewhere = [
        "digits:stem",
        "--out",
        folder,
        *SMALL,
        "--resume",
        "--data.syncmnist.digits",
        shared_data / "data" / "mnist",
    ]
    assert "the data are not those that" in _refusal(capsys, *elsewhere)
    (folder / "data.json").write_text((shared_data / "data" / "mnist").as_posix())
    assert "data.json cannot be read" in _refusal(capsys, *elsewhere)
    known = [
        "digits:stem",
        "--out",
        whole,
        *SMALL,
        "--resume",
        "--data.syncmnist.test_paths",
        tmp_path / "nowhere.npz",
    ]
    assert main(["train", *map(str, known)]) == 0  # training does not read the test set


def test_resume_of_a_finished_training_says_so(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(whole), "--resume", "--train.workers", "0"]) == 0
    assert "finished: 1,920 clips" in capsys.readouterr().out


def test_damaged_weights_of_a_finished_training_are_noticed(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:-100])
    assert f"{run / 'model.safetensors'}: " in _refusal(
        capsys, run, "--resume", "--train.workers", "0"
    )


def test_what_a_training_started_from_may_be_gone_later(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shutil.copytree(whole, tmp_path / "first")
    words = [
        "--model.initial_weights",
        str(first),
        "--out",
        str(tmp_path / "second"),
        "--train.clips",
        "64",
        "--train.workers",
        "0",
    ]
    assert main(["train", "digits:stem", *SMALL, *words]) == 0
    assert f"initial weights {first}: " in capsys.readouterr().out
    shutil.rmtree(first)
    assert main(["train", str(tmp_path / "second"), "--resume"]) == 0
    assert "initial weights" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("syncmnst3", "there is no such recipe, file or folder; did you mean 'syncmnist3'?"),
        ("digits:stem --train.lrr 1", "unknown key train.lrr; did you mean 'lr'?"),
        (
            "digits:stem --lr 1",
            "No such option: --lr (Possible options: --help) Did you mean --train.lr? (see vidgraph ",
        ),
        (
            "digits:stem --resum",
            "No such option: --resum (Possible options: --resume) (see vidgraph train --help)",
        ),
        (
            "digits:stem --model.name digit_stm",
            "'digit_stm'; did you mean 'digit_stem'?",
        ),
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
    given = words.split()
    embedded = [] if "digits nowhere" in words else ["--data.syncmnist.digits", "embedded"]
    fresh = (
        []
        if "initial_weights" in words or "digits:" in words
        else ["--model.initial_weights", "null"]
    )
    assert message in _refusal(capsys, *given, *embedded, *fresh, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_table_without_training_rows_and_with_an_absent_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"name: mine\ndata: {{table: {{path: {tmp_path}/t.csv}}}}\nmodel: {{architecture: "
        f"rstg_small}}\ntrain: {{epochs: 1}}\n"
    )
    (tmp_path / "t.csv").write_text("video,label,split\na.mp4,x,val\n")
    assert "no rows of split 'train'" in _refusal(capsys, recipe, "--out", tmp_path / "run")
    (tmp_path / "t.csv").write_text("video,class,split\na.mp4,x,val\n")
    assert "label" in _refusal(capsys, recipe, "--out", tmp_path / "run")
    (tmp_path / "t.csv").write_text("video,label,split\na.mp4,x,train\na.mp4,y,val\n")
    for workers in (0, 1):
        assert "a.mp4" in _refusal(
            capsys, recipe, "--out", tmp_path / "run", "--train.workers", workers
        )


def test_damaged_checkpoints_are_refused_and_kept(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recipe.yaml", "data.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    content = (whole / "last.ckpt").read_bytes()[:1000]
    (tmp_path / "last.ckpt").write_bytes(content)
    assert "last.ckpt: cannot be read, it is truncated" in _refusal(capsys, tmp_path, "--resume")
    assert (tmp_path / "last.ckpt").read_bytes() == content
    (tmp_path / "data.json").write_text('{"files": 3}')
    assert "the data are not those that" in _refusal(capsys, tmp_path, "--resume")
