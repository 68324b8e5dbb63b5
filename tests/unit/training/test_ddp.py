"""Two processes under torchrun give what one gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from closeness import assert_close_to_scale

from vidgraph.training.run_folder import load_checkpoint, read_metrics

WORKER = Path(__file__).with_name("ddp_worker.py")


def _run(folder: Path, num_processes: int, *words: str) -> None:
    folder.mkdir()
    launcher = (
        []
        if num_processes == 1
        else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder), *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("staged",)], ids=["plain", "staged"])
def test_two_gloo_processes_train_like_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    _run(tmp_path / "one", 1, *words)
    _run(tmp_path / "two", 2, *words)
    one, two = (load_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one["stage"] == two["stage"] == ("joint" if words else "")
    # AdamW's first moment is a weighted sum of the gradients of all steps: eight, or the four of
    # the second stage.
    for name, state in one["optimizer"]["state"].items():
        assert_close_to_scale(
            two["optimizer"]["state"][name]["exp_avg"], state["exp_avg"], floor=0.01
        )
    for name, tensor in one["model"].items():
        assert_close_to_scale(two["model"][name], tensor, floor=0.1)
    for row, other in zip(
        *(read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two")), strict=True
    ):
        for column in ("clips", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert (row[column] == other[column] == "") or float(row[column]) == pytest.approx(
                float(other[column]), rel=2e-5
            ), column
