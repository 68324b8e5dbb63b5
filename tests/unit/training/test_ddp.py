"""Two processes under torchrun give what one gives, and continue as if they had not stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import curve, moved

from vidgraph.training.checkpoint import load_checkpoint

WORKER = Path(__file__).with_name("ddp_worker.py")


def run(folder: Path, num_processes: int, *words: str, fails: bool = False) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    done = subprocess.run(
        [sys.executable, *(torchrun if num_processes > 1 else []), WORKER, folder, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("phases",)], ids=["plain", "phases"])
def test_two_gloo_processes_train_like_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    run(tmp_path / "one", 1, *words)
    run(tmp_path / "two", 2, *words)
    one, two = (load_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one["progress"]["phase"] == two["progress"]["phase"] == ("joint" if words else "")
    # AdamW's first moment is a weighted sum of the gradients of all steps: eight, or the four of
    # the second phase.
    for name, state in one["optimizer"]["state"].items():
        torch.testing.assert_close(
            two["optimizer"]["state"][name]["exp_avg"], state["exp_avg"], rtol=1e-5, atol=1e-7
        )
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-5, atol=1e-6)
    for row, other in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert [float(x) for x in other if x] == pytest.approx(
            [float(x) for x in row if x], rel=1e-5
        )


@pytest.mark.slow
def test_two_processes_with_dropout_continue_exactly(tmp_path: Path) -> None:
    """They break off after 40 clips and go on from the checkpoint of 24, each with its own random
    numbers."""
    run(tmp_path / "whole", 2, "dropout")
    run(tmp_path / "broken", 2, "dropout", "break", fails=True)
    assert load_checkpoint(tmp_path / "broken")["progress"]["clips_seen"] == 24
    run(tmp_path / "broken", 2, "dropout", "resume")
    one, other = (load_checkpoint(tmp_path / name)["model"] for name in ("whole", "broken"))
    assert moved(one, other) == set()
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
