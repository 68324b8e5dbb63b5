"""How the benchmarks of layers take times; not a benchmark itself."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch


def interleaved_medians(runs: dict[str, Callable[[], object]], args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each, run in turns so that a drifting machine treats them alike.

    Args:
        runs: what is timed.
        args: `clock`, "wall" or the processor's; `repeats`, after one round to warm up; `device`, waited for where it is no CPU.
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
