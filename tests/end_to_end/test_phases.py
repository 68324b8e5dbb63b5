"""`vidgraph train` in phases, killed in the second: it goes on there, with the same clips and
losses.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import error_of, run, text_of

from vidgraph.errors import WeightsError
from vidgraph.training.checkpoint import load_checkpoint, read_metrics

RECIPE = """
name: staged
data: {syncmnist: {task: digit, num_digits: 4, digits: embedded, num_frames: 1, val_clips: 64}}
model: {name: digit_stem}
train:
  batch_size: 32
  lr: 2e-3
  precision: fp32
  val_every_clips: 640
  checkpoint_every_clips: 320
  log_every_clips: 96
  log_every_seconds: 0
  threads: 1
  tensorboard: false
  device: cpu
  phases:
    - {name: head, clips: 640, freeze: [backbone.], schedule: step, drops: [0.5]}
    - {name: whole, clips: 2_560, batch_size: 16}
"""
CURVE = ("clips", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")


def _recipe(folder: Path) -> Path:
    (folder / "staged.yaml").write_text(RECIPE)
    return folder / "staged.yaml"


def _start(folder: Path, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vidgraph.cli", "train", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen([*command, "--out", str(folder)], text=True, env=environment, **pipes)


def _reaches(folder: Path, phase: str) -> bool:
    """Whether `last.ckpt` is of that phase. It is replaced whole, so that a reader never meets a
    part of it."""
    try:
        return load_checkpoint(folder)["progress"]["phase"] == phase
    except (FileNotFoundError, WeightsError):
        return False


def _curve(folder: Path) -> list[list[str]]:
    return [[row[name] for name in CURVE] for row in read_metrics(folder / "metrics.csv")]


@pytest.mark.slow
def test_a_training_killed_in_its_second_phase_continues_there(tmp_path: Path) -> None:
    recipe, whole, killed = _recipe(tmp_path), tmp_path / "whole", tmp_path / "killed"
    run("train", recipe, "--out", whole)
    process, deadline = _start(killed, recipe), time.monotonic() + 120
    while not _reaches(killed, "whole") and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = load_checkpoint(killed)["progress"]
    assert before["phase"] == "whole"
    assert 640 < before["clips_seen"] < 3200
    resumed = _start(killed, recipe, "--resume")
    out, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, out + errors
    lines = out.splitlines()
    assert not any(line.startswith("phase 1 of 2") for line in lines)
    assert any(line.startswith("phase 2 of 2, whole: 2,560 clips, ") for line in lines)
    assert _curve(killed) == _curve(whole)
    one, other = load_checkpoint(killed)["model"], load_checkpoint(whole)["model"]
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_continued_phase_keeps_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "train", _recipe(tmp_path), "--train.phases.head.clips", 64
    words += "--train.phases.whole.clips", 64
    text = text_of(capsys, *words, "--out", tmp_path / "run")
    assert "staged: 0.16 M parameters, 128 clips, in " in text
    for folder, rest, message in (
        ("run", "--train.phases.whole.lr 1 --resume",
         "another recipe: train.phases.whole.lr is None there and 1.0 here"),
        ("run", "--train.clips 64 --resume",
         "another recipe: train.clips is None there and 64 here"),
        ("run", "--train.phases.whole.freeze [backbon.]", "already holds a training"),
        ("other", "--train.phases.whole.freeze [backbon.]",
         "phase 2 of 2, whole: train.freeze: no parameter starts with 'backbon.'; did you mean"),
    ):  # fmt: skip
        assert message in error_of(capsys, *words, *rest.split(), "--out", tmp_path / folder)
