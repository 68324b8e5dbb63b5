"""Seconds of `import vidgraph` beside `import torch`, each in fresh interpreters, taken in turns;
the aim is a ratio of at most 1.5.

python benchmarks/import_time.py [rounds]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

CODE = (
    "import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
)


def import_seconds(package: str) -> float:
    """One import in one new process; the interpreter's own start is not counted."""
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(package=package)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def main(rounds: int = 5) -> None:
    seconds: dict[str, list[float]] = {"torch": [], "vidgraph": []}
    import_seconds("vidgraph")  # the first one reads the files from disk
    for _ in range(rounds):
        for package, taken in seconds.items():
            taken.append(import_seconds(package))
    torch, vidgraph = (statistics.median(taken) for taken in seconds.values())
    print(f"import torch     {torch:.2f} s (median of {rounds})")
    print(f"import vidgraph  {vidgraph:.2f} s")
    print(f"ratio            {vidgraph / torch:.2f} (at most 1.5)")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
