"""Run by test_ddp.py under torchrun: the tiny training of test_fit.py without dropout, of which
each process draws its own.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import torch

spec = importlib.util.spec_from_file_location("test_fit", Path(__file__).with_name("test_fit.py"))
assert spec is not None
assert spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def main(folder: Path, staged: bool) -> None:
    torch.set_num_threads(1)
    model = tiny.TinyNet()
    model.drop.p = 0.0
    recipe = replace(
        tiny.RECIPE, clips=64, clip_norm=None, val_every_clips=16, checkpoint_every_clips=32
    )
    if staged:
        stages = [
            {"name": "head", "clips": 32, "freeze": ["hidden."]},
            {"name": "joint", "clips": 32, "lr": 5e-3},
        ]
        recipe = replace(recipe, clips=None, stages=stages)
    tiny.fit(
        model,
        tiny.TrainingData(tiny.Clips(), tiny.Clips(length=37)),
        recipe,
        folder,
        tiny._save,
        resume=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), "staged" in sys.argv)
