"""Run by test_ddp.py under torchrun: FOLDER, how many clips of the validation split, and words."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2]))

from tiny_training import QUICK, Clips, ThreeParts, train

from vidgraph.training.phases import TrainOptions

EVERY = {"val_every_clips": 16, "checkpoint_every_clips": 24, "log_every_clips": 16}
OPTIONS = TrainOptions(**QUICK, **EVERY, clips=64, threads=1)
PHASES = [
    {"name": "head", "clips": 32, "freeze": ["body."]},
    {"name": "joint", "clips": 32, "lr": 5e-3},
]


def main(folder: Path, words: list[str]) -> None:
    model = ThreeParts(break_at=20 if "break" in words else None)  # of its own 4 of every batch
    if "dropout" not in words:  # each process draws its own
        model.drop.p = 0.0
    model.norm = torch.nn.LayerNorm(8)  # batch norms take the statistics of a process's own share
    options = replace(OPTIONS, clips=None, phases=PHASES) if "phases" in words else OPTIONS
    train(folder, options, "resume" in words, val=Clips(length=37), model=model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
