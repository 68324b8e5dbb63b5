"""Speed of the sources of boxes, in frames per second, against decoding alone; and two processes
against one.

    python benchmarks/proposals.py [--videos FOLDER] [--frames 60] [--rounds 2]

Without `--videos`, four H.264 clips of 256x340 pixels are made in a temporary folder: a square that
wanders over a patchwork which pans. The rpn has random weights, which cost what trained ones cost.

Columns: frames per second of processor time of one process, reading included and loading not; how
many times longer a frame takes than to be decoded; and the videos per second, by the clock, of two
processes over those of one, their start not counted: 2 would be perfect on two free cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Literal

import torch
from extracting import decoding_rate, extraction_rate, job_rate, make_videos

from vidgraph.precompute.boxes_proposed import ProposalJob
from vidgraph.precompute.extract import Task
from vidgraph.util import available_cores
from vidgraph.video.listing import list_videos
from vidgraph.video.reader import open_video

# Frames per video, so that the slow source ends too.
LOOKED_AT: dict[Literal["motion", "rpn"], int] = {"motion": 10**9, "rpn": 2}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="videos of your own")
    parser.add_argument("--frames", type=int, default=60, help="frames per made video (default 60)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="how often the videos are shared out (default 2)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        paths = list_videos(args.videos) if args.videos else make_videos(Path(folder), args.frames)
        tasks = [
            Task(path, f"{number}-{turn}")
            for turn in range(args.rounds)
            for number, path in enumerate(paths)
        ]
        with open_video(paths[0]) as video:
            frames, size = video.num_frames, f"{video.height}x{video.width}"
        alone = decoding_rate(tasks[: len(paths)])
        print(
            f"{len(paths)} videos, the first of {frames} frames of {size}; one thread per process"
        )
        print(
            f"{cores} cores, load {os.getloadavg()[0]:.1f} before the start: where others are at "
            "work, two processes gain less"
        )
        print(f"{'decoding alone':<18}{alone:9.1f} frames/s")
        for source in LOOKED_AT:
            every = max(1, frames // LOOKED_AT[source])
            job = ProposalJob(
                source, count=10, every=every, weights="random" if source == "rpn" else None
            )
            rate = job_rate(job, tasks[0])
            shared = tasks[: len(paths)] if source == "rpn" else tasks
            one, two = (
                extraction_rate(job, shared, Path(folder) / f"{source}{workers}", workers)
                for workers in (1, 2)
            )
            print(
                f"{source:<18}{rate:9.2f} frames/s  {alone / rate:8.1f} times decoding   two "
                f"processes over one: {two / one:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
