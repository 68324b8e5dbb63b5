"""Training clips/s with one and with two CPU threads, on two cores alone and beside one process that
keeps a core busy: what `vidgraph.util.torch_threads` rests on.

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

import torch

import vidgraph
from vidgraph.evaluation.profile import example_inputs, profile_model

MODELS = "digit_stem:32,rstg_small:16,i3d_small:8,rstg_syncmnist:2,strg_small:4,i3d_r50:1"


def measure(name: str, batch: int, seconds: float) -> None:
    """Prints the clips/s of training steps on one batch: alone, then beside a busy process."""
    options = {"num_frames": 8, "size": 112} if name == "i3d_r50" else {}
    model = vidgraph.create_model(name, 10, **options).train()
    inputs = example_inputs(model.input_spec, batch)
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
    parser = argparse.ArgumentParser(description=__doc__)
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
    for name, batch in (word.split(":") for word in args.models.split(",")):
        found: dict[int, list[list[float]]] = {1: [], 2: []}
        for _ in range(args.rounds):
            for threads, rates in found.items():
                done = subprocess.run(
                    [
                        sys.executable,
                        __file__,
                        "--one",
                        f"{name}:{batch}",
                        "--seconds",
                        str(args.seconds),
                    ],
                    env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                rates.append([float(word) for word in done.stdout.split()])
        cost = profile_model(vidgraph.create_model(name, 10))
        medians = [
            statistics.median(r[case] for r in found[threads])
            for case in (0, 1)
            for threads in (1, 2)
        ]
        columns = "".join(f"{median:9.2f}" for median in medians)
        print(
            f"{name:<18} {cost['params'] / 1e6:9.2f}  {cost['gmac']['total']:9.3f}{columns}",
            flush=True,
        )


if __name__ == "__main__":
    main()
