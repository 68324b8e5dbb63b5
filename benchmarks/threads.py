"""Training clips/s with one and with two CPU threads, on two cores alone and beside a process that
keeps one core busy: what `vidgraph.util.torch_threads` rests on.

Each figure is the median of rounds taken in turns, each in a process of its own.

    python benchmarks/threads.py [--models rstg_small:16,i3d_small:8] [--rounds 3] [--seconds 4]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

import vidgraph
from vidgraph.evaluation.profile import example_inputs, profile_model

MODELS = "digit_stem:32,rstg_small:16,i3d_small:4,strg_small:2,i3d_r50:1"
OPTIONS: dict[str, dict[str, Any]] = {
    "i3d_r50": {"input": {"num_frames": 8, "height": 112, "width": 112}}
}


def measure(name: str, batch: int, seconds: float) -> None:
    """Prints the clips/s of training steps on one batch: alone, then beside a busy process."""
    model = vidgraph.create_model(name, 10, **OPTIONS.get(name, {})).train()
    inputs = example_inputs(model.spec, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        loss = model(**inputs).float().logsumexp(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def rate() -> float:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            steps += 1
        return steps * batch / (time.perf_counter() - start)

    step()
    alone = rate()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        print(alone, rate())
    finally:
        busy.kill()
        busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS, help="NAME:BATCH,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, batch = args.one.split(":")
        measure(name, int(batch), args.seconds)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    print("                                         alone: threads      beside a busy process:")
    print("model               M params  GMAC/clip        1        2        1        2")
    for word in args.models.split(","):
        command = [sys.executable, __file__, "--one", word, "--seconds", str(args.seconds)]
        found: dict[str, list[list[float]]] = {"1": [], "2": []}
        for _ in range(args.rounds):
            for threads, rates in found.items():
                own = {**os.environ, "OMP_NUM_THREADS": threads}
                done = subprocess.run(
                    command, env=own, stdout=subprocess.PIPE, text=True, check=True
                )
                rates.append([float(rate) for rate in done.stdout.split()])
        name = word.split(":")[0]
        cost = profile_model(vidgraph.create_model(name, 10, **OPTIONS.get(name, {})))
        shown = [statistics.median(r[case] for r in found[t]) for case in (0, 1) for t in found]
        start = f"{name:<18} {cost['params'] / 1e6:9.2f}  {cost['gmac']['total']:9.3f}"
        print(start + "".join(f"{rate:9.2f}" for rate in shown), flush=True)


if __name__ == "__main__":
    main()
