"""What a start costs: `import torch` alone, `import vidgraph`, and `vidgraph predict` of one clip
with shipped weights, each in fresh processes, taken in turns.

    python benchmarks/startup.py [--rounds 5]

Prints wall and processor seconds (user and system, all threads). The aims: importing vidgraph at
most 1.5 of importing torch, in wall seconds; predict at most 60 % of the processor seconds that
version 0.1 took, which were 3.4 times those of `import torch`: so at most 2.07 times torch.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vidgraph.video.writer import write_video


def seconds_of(words: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one new process of this interpreter."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
        write_video(clip, noise, fps=10)
        runs = {
            "import torch": ["-c", "import torch"],
            "import vidgraph": ["-c", "import vidgraph"],
            "vidgraph predict": ["-m", "vidgraph.cli", "predict", "rstg_small_sync3", str(clip)],
        }
        for words in runs.values():
            seconds_of(words)  # the first one reads the files from disk
        taken = {name: [seconds_of(words) for _ in range(rounds)] for name, words in runs.items()}
    medians = {name: np.median(values, axis=0) for name, values in taken.items()}
    torch_wall, torch_cpu = medians["import torch"]
    for name, (wall, cpu) in medians.items():
        ratio = f"{wall / torch_wall:.2f} and {cpu / torch_cpu:.2f} times torch"
        print(f"{name:<17} {wall:.2f} s, {cpu:.2f} processor seconds ({ratio})")


if __name__ == "__main__":
    main()
