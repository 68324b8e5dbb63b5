"""Extraction of features (decoding, resizing, network, storing) against the bare network, and two
processes against one.

    python benchmarks/features.py [--videos ucf101_8] [--most 60] [--frames 16] [--boxes STORE]

The network is EfficientNet-Lite0 in onnxruntime, one thread per process. After each video the bare
network sees as many images as the extraction showed it, so that both are timed side by side.
`processor` goes by seconds of the process: other work on the machine hardly changes it. `wall` does
not mean much beside other work, and two processes then gain less.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extracting import extraction_rate, make_videos
from numpy.typing import NDArray

from vidgraph.encoders import feature_job
from vidgraph.precompute.extract import Compute, Task, extract
from vidgraph.precompute.features import FeatureJob
from vidgraph.precompute.onnx import frozen_on_cpu
from vidgraph.precompute.store import Method
from vidgraph.records import InputSpec
from vidgraph.video.base import Video
from vidgraph.video.listing import list_videos

BACKBONE, SIDE = "timm:tf_efficientnet_lite0", 224


@dataclass(frozen=True)
class Beside:
    """A job that runs the bare network after every video; counts microseconds of both."""

    job: FeatureJob
    use_gpu: bool = field(default=False, init=False)

    @property
    def method(self) -> Method:
        return self.job.method

    def start(self) -> Compute:
        compute, network = self.job.start(), self.job.load()
        assert network.images is not None
        example = torch.zeros(1, 3, SIDE, SIDE)
        bare = frozen_on_cpu(network.images.eval(), example, network.name, threads=1)
        noise = np.random.default_rng(0).standard_normal((64, 3, SIDE, SIDE), np.float32)
        last = now()

        def both(
            task: Task, video: Video, counts: Counter[str]
        ) -> tuple[list[int], Iterable[NDArray[Any]]]:
            nonlocal last
            found = compute(task, video, counts)
            begin = now()
            bare(noise[: counts["encoded"]])
            end = now()
            # What was stored of the video before counts too.
            counts.update(dict(zip(("whole cpu", "whole wall"), begin - last, strict=True)))
            counts.update(dict(zip(("bare cpu", "bare wall"), end - begin, strict=True)))
            last = end
            return found

        return both


def now() -> NDArray[np.int64]:
    """Microseconds of this process, and of the clock on the wall."""
    return np.array([time.process_time_ns(), time.perf_counter_ns()]) // 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="videos of your own, such as ucf101_8")
    parser.add_argument("--most", type=int, default=60, help="so many, evenly chosen (default 60)")
    parser.add_argument("--frames", type=int, default=16, help="of each video (default 16)")
    parser.add_argument("--boxes", type=Path, help="also the crops of one thing in these boxes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = InputSpec(args.frames, SIDE, SIDE, whole_video=True, fit="pad")
    with tempfile.TemporaryDirectory() as folder:
        paths = list_videos(args.videos) if args.videos else make_videos(Path(folder), 60)
        chosen = cycle(paths[:: -(-len(paths) // args.most)])
        tasks = [
            Task(path, str(number)) for number, path in zip(range(args.most), chosen, strict=False)
        ]
        print(f"{len(tasks)} videos, {args.frames} frames each; load {os.getloadavg()[0]:.1f}")
        measure("maps", feature_job(BACKBONE, spec), tasks, Path(folder))
        if args.boxes:
            crops = replace(spec, boxes_per_frame=1, box_crops=True)
            job = feature_job(BACKBONE, crops, boxes=args.boxes)
            measure("crops", job, tasks, Path(folder))


def measure(what: str, job: FeatureJob, tasks: list[Task], folder: Path) -> None:
    beside = [
        extract(Beside(job), tasks, folder / f"{what}-beside{workers}", workers=workers).counts
        for workers in (1, 2)
    ]
    for clock, key in (("processor", "cpu"), ("wall", "wall")):
        whole, bare = (rate(beside[0], f"{part} {key}") for part in ("whole", "bare"))
        print(
            f"{what:<6} {clock:<10} extraction {whole:6.1f} frames/s   bare network {bare:6.1f}   "
            f"ratio {whole / bare:.2f}",
            flush=True,
        )
    one, two = (rate(counts, "whole cpu") for counts in beside)
    print(f"{what:<6} {'processor':<10} two processes over one: {2 * two / one:.2f}", flush=True)
    one, two = (
        extraction_rate(job, tasks, folder / f"{what}-{workers}", workers) for workers in (1, 2)
    )
    print(f"{what:<6} {'wall':<10} two processes over one: {two / one:.2f}", flush=True)


def rate(counts: Counter[str], clock: str) -> float:
    """Images per second of one process."""
    return 1e6 * counts["encoded"] / counts[clock]


if __name__ == "__main__":
    main()
