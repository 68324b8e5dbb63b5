"""How the benchmarks of layers and networks take times; not a benchmark itself."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows what all of them ask: repeats, threads, device, clock."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of this process, where others are at work; with 1 thread",
    )
    return parser


def interleaved_medians(
    runs: dict[str, Callable[[], object]], args: argparse.Namespace
) -> dict[str, float]:
    """Median seconds of each, run in turns so that a drifting machine treats them alike.

    Args:
        runs: what is timed.
        args: `clock`, "wall" or the processor's; `repeats`, after one round to warm up; `device`,
            waited for where it is no CPU.
    """
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if args.device != "cpu":
                torch.cuda.synchronize()
            if repeat:  # the first round warms up
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
