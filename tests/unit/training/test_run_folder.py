"""Lock, checkpoint and metrics of a run folder under the accidents that happen to them."""

from __future__ import annotations

import json
import os
import pickle
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vidgraph.errors import RunError, WeightsError
from vidgraph.training.run_folder import (
    COLUMNS,
    MetricsFile,
    check_matches,
    load_checkpoint,
    random_state,
    read_metrics,
    restore_random_state,
    run_lock,
    save_checkpoint,
)


def test_a_second_training_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(RunError, match=f"in use by another training .process {os.getpid()}."),
        run_lock(tmp_path),
    ):
        pass
    with run_lock(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for content in (
        json.dumps({"pid": dead.pid, "host": socket.gethostname(), "started": "1"}),
        "",
        '{"pid": ',
    ):
        (tmp_path / ".lock").write_text(content)
        with run_lock(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="start times of processes are only read on Linux"
)
def test_a_process_number_that_is_used_again_does_not_hold_the_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": "1"})
    )
    with run_lock(tmp_path):
        assert (
            json.loads((tmp_path / ".lock").read_text())["started"] != "1"
        )  # taken over, with this process's own start


def test_the_lock_of_another_machine_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "1"}))
    with (
        pytest.raises(RunError, match="process 1 on elsewhere; if that is over, delete"),
        run_lock(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="cannot be used as a run folder"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass


def test_checkpoints_hold_plain_values_and_are_read_without_running_code(tmp_path: Path) -> None:
    content = {"format": 1, "random": random_state(), "model": nn.Linear(2, 2).state_dict()}
    save_checkpoint(content, tmp_path)
    assert torch.equal(load_checkpoint(tmp_path)["model"]["weight"], content["model"]["weight"])


def test_truncated_checkpoint(tmp_path: Path) -> None:
    save_checkpoint({"format": 1, "model": nn.Linear(50, 50).state_dict()}, tmp_path)
    whole = (tmp_path / "last.ckpt").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 20):
        (tmp_path / "last.ckpt").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="truncated or not a checkpoint"):
            load_checkpoint(tmp_path)


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch attacked",))


def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda path: torch.save({"format": 1, "model": Attack()}, path),
        lambda path: path.write_bytes(pickle.dumps(Attack())),
    ):
        write(tmp_path / "last.ckpt")
        with pytest.raises(WeightsError):
            load_checkpoint(tmp_path)
    assert not (tmp_path / "attacked").exists()


def test_another_model_is_named_by_its_first_difference() -> None:
    with pytest.raises(
        WeightsError,
        match=r"of another model: weight is \(2, 3\) in the file and \(2, 2\) in this model",
    ):
        check_matches(nn.Linear(2, 2), nn.Linear(3, 2).state_dict(), Path("last.ckpt"))
    with pytest.raises(WeightsError, match="bias is absent in the file"):
        check_matches(nn.Linear(2, 2), nn.Linear(2, 2, bias=False).state_dict(), Path("last.ckpt"))


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files is the full disk that every test machine has."""
    save_checkpoint({"format": 1, "step": 1}, tmp_path)
    code = (
        "import resource, sys, torch; from pathlib import Path; from vidgraph.errors import "
        "RunError\n"
        "from vidgraph.training.run_folder import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save_checkpoint({'format': 1, 'step': 2, 'model': torch.zeros(1_000_000)}, "
        "Path(sys.argv[1]))\n"
        "except RunError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "last.ckpt: cannot be written" in done.stdout
    assert "older file there is intact" in done.stdout
    assert load_checkpoint(tmp_path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_random_numbers_continue_where_they_were() -> None:
    state = random_state()
    drawn = (random.random(), np.random.rand(), torch.rand(2).tolist())
    restore_random_state(state)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == drawn


def test_metrics_rows_past_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path, 0)
    for clips in (100, 200, 300):
        first.add(clips=clips, train_loss=1 / clips)
    with open(path, "a") as file:
        file.write("400,1.")  # cut short by a crash
    MetricsFile(path, 200).add(clips=300, train_loss=0.5, val_accuracy=None)
    rows = read_metrics(path)
    assert [(row["clips"], row["train_loss"]) for row in rows] == [
        ("100", "0.01"),
        ("200", "0.005"),
        ("300", "0.5"),
    ]
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
