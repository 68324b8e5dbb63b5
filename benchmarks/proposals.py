"""How many frames per second each source of boxes does, beside decoding alone; and two processes beside one.

    python benchmarks/proposals.py [--videos FOLDER] [--frames 60] [--rounds 2]

Without `--videos`, four H.264 clips of 256x340 pixels are made in a temporary folder: a square that wanders over a patchwork which pans.
The rpn has random weights, which cost what trained ones cost.

Columns: frames per second of processor time of one process, reading included and loading not; how many times longer a frame takes than
to be decoded; and the frames per second, by the clock, of two processes over those of one, both started by the engine, the start not
counted: 2 would be perfect on two free cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vidgraph.extraction.processes import in_processes
from vidgraph.extraction.proposals import SOURCES, ProposalJob
from vidgraph.extraction.store import Store
from vidgraph.extraction.tasks import Task
from vidgraph.recogniser import list_videos
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

HEIGHT, WIDTH, NUM_VIDEOS = 256, 340, 4
LOOKED_AT = {"motion": 10**9, "selective-search": 6, "rpn": 2}  # frames per video, so that the slow sources end too


def make_videos(folder: Path, num_frames: int) -> list[Path]:
    rng = np.random.default_rng(0)
    patchwork = np.kron(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    paths = [folder / f"{number}.mp4" for number in range(NUM_VIDEOS)]
    for number, path in enumerate(paths):
        frames = np.stack([patchwork[:, t % 200 : t % 200 + WIDTH] for t in range(num_frames)])
        for t, frame in enumerate(frames):
            left = (20 * number + 4 * t) % (WIDTH - 60)
            frame[90:150, left : left + 60] = (255, 60, 0)
        write_video(path, frames, fps=25)
    return paths


def decoding_rate(tasks: Sequence[Task]) -> float:
    """Frames per second of processor time of decoding and nothing else, on one thread."""
    begin, count = time.process_time(), 0
    for task in tasks:
        with open_video(task.video) as video:
            deque(video.frames(), maxlen=0)
            count += video.num_frames
    return count / (time.process_time() - begin)


def source_rate(job: ProposalJob, task: Task) -> float:
    """Frames per second of processor time of one source in this process, on one thread."""
    work = job.start()
    begin = time.process_time()
    count = len(list(work(task).records))
    return count / (time.process_time() - begin)


def engine_rate(job: ProposalJob, tasks: Sequence[Task], folder: Path, workers: int) -> float:
    """Videos per second of the engine once its processes are at work: from the first results, one of each process, to the last."""
    store = Store.claim(folder, job.method())
    ends = []
    for outcome in in_processes(job, list(tasks), store, workers):
        if outcome.error:
            raise SystemExit(outcome.error)
        ends.append(time.perf_counter())
    return (len(ends) - workers) / (ends[-1] - ends[workers - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="videos of your own")
    parser.add_argument("--frames", type=int, default=60, help="frames per made video (default 60)")
    parser.add_argument("--rounds", type=int, default=2, help="how often the videos are shared out (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        paths = list_videos(args.videos) if args.videos else make_videos(Path(folder), args.frames)
        tasks = [Task(path, f"{number}-{turn}") for turn in range(args.rounds) for number, path in enumerate(paths)]
        with open_video(paths[0]) as video:
            frames, size = video.num_frames, f"{video.height}x{video.width}"
        alone = decoding_rate(tasks[: len(paths)])
        print(f"{len(paths)} videos, the first of {frames} frames of {size}; one thread per process")
        print(f"{cores} cores, load {os.getloadavg()[0]:.1f} before the start: where others are at work, two processes gain less")
        print(f"{'decoding alone':<18}{alone:9.1f} frames/s")
        for source in reversed(SOURCES):  # the cheap ones first
            every = max(1, frames // LOOKED_AT[source])
            job = ProposalJob(source, count=10, every=every, weights="random" if source == "rpn" else None)
            rate = source_rate(job, tasks[0])
            shared = tasks[: len(paths)] if source == "rpn" else tasks
            one, two = (engine_rate(job, shared, Path(folder) / f"{source}{workers}", workers) for workers in (1, 2))
            print(
                f"{source:<18}{rate:9.2f} frames/s  {alone / rate:8.1f} times decoding   two processes over one: {two / one:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
