"""Speed of the methods of optical flow, in pairs of frames per second, against decoding alone; two
processes against one; and what a flow frame costs in bytes and in time to read.

    python benchmarks/flow.py [--videos FOLDER] [--frames 24] [--raft]

Without `--videos`, four H.264 clips of 256x340 pixels are made in a temporary folder: a square that
wanders over a patchwork which pans. `--raft` measures RAFT too, with random weights, which cost
what trained ones cost: seconds per pair on a CPU.

Columns of the first table: pairs per second of processor time of one process, reading, rounding and
packing included; how many times longer a pair takes than a frame to be decoded; the median and mean
distance from TV-L1's motion, in pixels, for what a faster method gives up; and the pairs per
second, by the clock, of two processes over those of one, both started by the engine, the start not
counted: 2 would be perfect on two free cores.

The second table compares how stores pack flow frames (zlib) with plain bytes, JPEG pairs of quality
95, as the community stores flow, and PNG: kilobytes per flow frame, milliseconds of processor time
to pack and to unpack one, and the error of its own in pixels at 340x256.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from extracting import decoding_rate, extraction_rate, job_rate, make_videos

from vidgraph.precompute.extract import Task
from vidgraph.precompute.flow import METHODS, FlowJob
from vidgraph.precompute.flow_store import bounds_pixels, pack_flow
from vidgraph.util import available_cores
from vidgraph.video.listing import list_videos
from vidgraph.video.reader import open_video

REFERENCE = "tvl1"  # the papers'
NUM_COMPARED = 4  # pairs

Codec = tuple[Callable[[np.ndarray], Any], Callable[[Any], np.ndarray]]  # pack, unpack


def some_motion(method: str, paths: Sequence[Path]) -> list[np.ndarray]:
    """Motion in pixels of a few pairs, one in the middle of each of the first videos, [H, W, 2]."""
    loaded, found = FlowJob(method, weights="random" if method == "raft" else None).load(), []
    for path in paths[:NUM_COMPARED]:
        with open_video(path) as video:
            middle = video.num_frames // 2 - 1
            first, second = map(loaded.prepare, video.read([middle, middle + 1]))
            found.append(loaded.compute(first, [second]))
    return found


def distance(method: str, paths: Sequence[Path], reference: list[np.ndarray]) -> str:
    """Median and mean distance from the reference."""
    apart = [
        np.hypot(*(a - b).reshape(-1, 2).T)
        for a, b in zip(some_motion(method, paths), reference, strict=True)
    ]
    return f"{np.median(np.concatenate(apart)):6.2f} {np.mean(np.concatenate(apart)):6.2f}"


def compare_methods(paths: Sequence[Path], methods: Sequence[str], folder: Path) -> None:
    """The first table."""
    tasks = [
        Task(path, f"{number}-{turn}") for turn in range(2) for number, path in enumerate(paths)
    ]
    alone, reference = decoding_rate(tasks[: len(paths)]), some_motion(REFERENCE, paths)
    print(f"{'decoding alone':<16}{alone:9.1f} frames/s")
    for method in methods:
        job = FlowJob(method, weights="random" if method == "raft" else None)
        rate = job_rate(job, tasks[0])
        shared = tasks if method == "dis" else tasks[: len(paths)]
        one, two = (
            extraction_rate(job, shared, folder / f"{method}{workers}", workers)
            for workers in (1, 2)
        )
        apart = "reference" if method == REFERENCE else distance(method, paths, reference)
        print(
            f"{method:<16}{rate:9.2f} pairs/s  {alone / rate:8.1f} times decoding   "
            f"from {REFERENCE}: {apart:>13} px   two processes over one: {two / one:.2f}",
            flush=True,
        )


# ---- how flow frames are packed ------------------------------------------------------------------


def image_codec(suffix: str, *settings: int) -> Codec:
    """A pair of images per flow frame."""

    def pack(flow: np.ndarray) -> list[np.ndarray]:
        images = (np.ascontiguousarray(flow[..., axis]) for axis in (0, 1))
        return [np.asarray(cv2.imencode(suffix, image, settings)[1]) for image in images]

    def unpack(record: list[np.ndarray]) -> np.ndarray:
        images = [np.asarray(cv2.imdecode(image, cv2.IMREAD_GRAYSCALE)) for image in record]
        return np.stack(images, axis=-1)

    return pack, unpack


def compare_codecs(paths: Sequence[Path], count: int = 20) -> None:
    """The second table, on the first flow frames of each video by DIS."""
    job, flow = FlowJob(), list[np.ndarray]()
    for path in paths[:8]:
        with open_video(path) as video:
            flow.extend(job.reader(path, video).read(range(min(count, video.num_frames - 1))))
    height, width = flow[0].shape[:2]
    flow = [one for one in flow if one.shape[:2] == (height, width)]

    def plain(content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8).reshape(2, height, width).transpose(1, 2, 0)

    codecs: dict[str, Codec] = {
        "plain": (lambda one: one.transpose(2, 0, 1).tobytes(), plain),
        "zlib (ours)": (pack_flow, lambda packed: plain(zlib.decompress(packed.data))),
        "JPEG pair, 95": image_codec(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95),
        "PNG pair": image_codec(".png", cv2.IMWRITE_PNG_COMPRESSION, 3),
    }
    pixels = bounds_pixels(256, 340) / 127.5
    print(
        f"{len(flow)} flow frames of {height}x{width}; rounding to 8 bits itself is off by "
        f"{20 / 255 / 3**0.5:.3f} px on average (rms)"
    )
    for name, (pack, unpack) in codecs.items():
        times = [time.process_time()]
        records = [pack(one) for one in flow]
        times.append(time.process_time())
        back = [unpack(record) for record in records]
        times.append(time.process_time())
        size = sum(sum(map(len, one)) if isinstance(one, list) else len(one) for one in records)
        errors = (np.stack(back).astype(np.float32) - np.stack(flow)) * pixels
        packing, unpacking = (1e3 * float(spent) / len(flow) for spent in np.diff(times))
        worst, rms = np.abs(errors).max(), np.sqrt((errors**2).mean())
        print(
            f"{name:<16}{size / 1e3 / len(flow):7.2f} kB   "
            f"pack {packing:6.3f} ms   unpack {unpacking:6.3f} ms   "
            f"rms {rms:.3f} px, most {worst:.2f} px"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--videos", type=Path, help="videos of your own; a few short ones are enough"
    )
    parser.add_argument("--frames", type=int, default=24, help="frames per made video (default 24)")
    parser.add_argument("--raft", action="store_true", help="measure raft too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        paths = list_videos(args.videos) if args.videos else make_videos(Path(folder), args.frames)
        with open_video(paths[0]) as video:
            size = f"{video.num_frames} frames of {video.height}x{video.width}"
        print(f"{len(paths)} videos, the first of {size}; one thread per process")
        print(
            f"{cores} cores, load {os.getloadavg()[0]:.1f} before the start: where others are at "
            "work, two processes gain less"
        )
        compare_methods(
            paths, [method for method in METHODS if args.raft or method != "raft"], Path(folder)
        )
        compare_codecs(paths)


if __name__ == "__main__":
    main()
