"""Lock, checkpoint and metrics of a run folder under the accidents that happen to them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vidgraph.errors import RunError, WeightsError
from vidgraph.training.checkpoint import (
    COLUMNS,
    MetricsFile,
    load_checkpoint,
    read_metrics,
    run_lock,
    save_checkpoint,
)

HOLD = """
import sys, time
from pathlib import Path
from vidgraph.training.checkpoint import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """Whatever the lock file holds: it may be empty, as one that was created this moment."""
    (tmp_path / ".lock").write_text("")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match="in use by another training"), run_lock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    for _ in range(2):  # a process that was killed holds nothing, nor does one that went on
        with run_lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="cannot be used as a run folder"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass


def test_truncated_checkpoint(tmp_path: Path) -> None:
    save_checkpoint({"model": nn.Linear(50, 50).state_dict()}, tmp_path)
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
        lambda path: torch.save({"format": 2, "model": Attack()}, path),
        lambda path: path.write_bytes(pickle.dumps(Attack())),
    ):
        write(tmp_path / "last.ckpt")
        with pytest.raises(WeightsError):
            load_checkpoint(tmp_path)
    assert not (tmp_path / "attacked").exists()


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files is the full disk that every test machine has."""
    save_checkpoint({"step": 1}, tmp_path)
    code = (
        "import resource, sys, torch; from pathlib import Path; from vidgraph.errors import "
        "RunError\n"
        "from vidgraph.training.checkpoint import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save_checkpoint({'step': 2, 'model': torch.zeros(1_000_000)}, "
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


def test_metrics_rows_past_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(tmp_path, 0)
    for clips in (100, 200, 300):
        first.add(clips=clips, train_loss=1 / clips)
    with open(path, "a") as file:
        file.write("400,1.")  # cut short by a crash
    MetricsFile(tmp_path, 200).add(clips=300, train_loss=0.5, val_accuracy=None)
    rows = [(row["clips"], row["train_loss"]) for row in read_metrics(path)]
    assert rows == [("100", "0.01"), ("200", "0.005"), ("300", "0.5")]
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
