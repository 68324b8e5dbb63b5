"""What the benchmarks of extraction share, and no benchmark itself: videos, and the rates at which
they are decoded and processed.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vidgraph.precompute.extract import Job, Task, extract
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

HEIGHT, WIDTH, NUM_VIDEOS = 256, 340, 4


def make_videos(folder: Path, num_frames: int) -> list[Path]:
    """Four H.264 clips: a square that wanders over a patchwork which pans by two pixels per
    frame."""
    rng = np.random.default_rng(0)
    rough = rng.integers(
        0, 256, (HEIGHT // 8, (WIDTH + 2 * num_frames) // 8 + 1, 3), dtype=np.uint8
    )
    patchwork = cv2.resize(rough, (8 * rough.shape[1], HEIGHT), interpolation=cv2.INTER_CUBIC)
    paths = [folder / f"{number}.mp4" for number in range(NUM_VIDEOS)]
    for number, path in enumerate(paths):
        frames = np.stack([patchwork[:, 2 * t : 2 * t + WIDTH] for t in range(num_frames)])
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


def job_rate(job: Job, task: Task) -> float:
    """Frames per second of processor time of a job in this process, on one thread."""
    compute = job.start()
    begin = time.process_time()
    with open_video(task.video) as video:
        count = sum(1 for _ in compute(task, video, Counter())[1])
    return count / (time.process_time() - begin)


def extraction_rate(job: Job, tasks: Sequence[Task], folder: Path, workers: int) -> float:
    """Videos per second once the processes are at work: from the first results, one of each
    process, to the last."""
    ends: list[float] = []
    report = extract(
        job, tasks, folder, workers=workers, progress=lambda *_: ends.append(time.perf_counter())
    )
    if report.failures:
        raise SystemExit(report.failures[0][1])
    return (len(ends) - 1 - workers) / (ends[-1] - ends[workers])
