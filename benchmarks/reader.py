"""Time of `open_video(path).read(indices)` against decoding the same file from its start by PyAV.

    python benchmarks/reader.py [--draws 7] [--seconds 30]

Makes one H.264 file per distance of key frames (30 and 250) in a temporary folder, then reads 32
frames in four ways. Every figure includes opening the file, starts with nothing cached, and uses
one thread. The peer decodes until the last wanted frame and converts wanted frames only, with one
shared converter (a new converter per frame, as `frame.to_ndarray(format=...)` makes it, would cost
the peer ten times as much per converted frame). Both are checked to return equal pixels.

Columns: milliseconds, median over draws; ratio: sum over draws of ours divided by sum of the
peer's. `+length` also asks for `num_frames`, which decodes the file's end once.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vidgraph.video.reader import clear_index_cache, open_video

HEIGHT, WIDTH, FPS, NUM_WANTED = 256, 340, 30, 32
TARGETS = {30: 0.6, 250: 1.1}


def make_video(path: Path, num_frames: int, key_frame_every: int) -> None:
    """A moving patchwork with a moving square and noise: x264 `fast`, crf 23."""
    rng = np.random.default_rng(0)
    patchwork = np.kron(
        rng.integers(0, 256, (HEIGHT // 8 + 30, WIDTH // 8 + 40, 3), dtype=np.uint8),
        np.ones((8, 8, 1), np.uint8),
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "fast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = key_frame_every
        for index in range(num_frames):
            top, left = int(100 + 90 * np.sin(index / 40)), int(index * 0.9) % 300
            pixels = patchwork[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
            pixels[100:150, (3 * index) % 300 : (3 * index) % 300 + 40] = (255, 0, 0)
            pixels += rng.integers(-6, 7, (HEIGHT, WIDTH, 1), dtype=np.int16)
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8))
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def draw_indices(num_frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """32 frames: anywhere; one per segment; a clip with stride 2; a clip with stride 5."""
    edges = np.linspace(0, num_frames, NUM_WANTED + 1)
    clips = {
        f"{NUM_WANTED}x{stride}": rng.integers(0, num_frames - stride * (NUM_WANTED - 1))
        + stride * np.arange(NUM_WANTED)
        for stride in (2, 5)
    }
    spread = {
        "random": np.sort(rng.choice(num_frames, NUM_WANTED, replace=False)),
        "segments": np.array([rng.integers(int(a), int(b)) for a, b in itertools.pairwise(edges)]),
    }
    return spread | clips


def read_ours(path: Path, indices: np.ndarray) -> np.ndarray:
    clear_index_cache()
    with open_video(path) as video:
        return video.read(indices)


def read_ours_with_length(path: Path, indices: np.ndarray) -> np.ndarray:
    clear_index_cache()
    with open_video(path) as video:
        assert video.num_frames > indices.max()
        return video.read(indices)


def read_sequentially(path: Path, indices: np.ndarray) -> np.ndarray:
    wanted, last, converter = set(indices.tolist()), int(indices.max()), VideoReformatter()
    frames = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames.append(converter.reformat(frame, format="rgb24", threads=1).to_ndarray())
            if index == last:
                break
    return np.stack(frames)


def best_of(
    read: Callable[[Path, np.ndarray], np.ndarray], path: Path, indices: np.ndarray, repeats: int
) -> tuple[float, np.ndarray]:
    """Shortest of a few runs in milliseconds, so that other work on the machine does not count, and
    the pixels."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        pixels = read(path, indices)
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times), pixels


def measure(
    path: Path,
    draws: list[dict[str, np.ndarray]],
    readers: dict[str, Callable[[Path, np.ndarray], np.ndarray]],
) -> list[float]:
    """Prints one row per pattern and returns our ratio to the sequential peer per pattern."""
    ratios = []
    for pattern in draws[0]:
        times: dict[str, list[float]] = {name: [] for name in readers}
        for draw in draws:
            pixels = {}
            for name, read in readers.items():
                milliseconds, pixels[name] = best_of(read, path, draw[pattern], repeats=3)
                times[name].append(milliseconds)
            if not np.array_equal(pixels["vidgraph"], pixels["sequential"]):
                raise SystemExit(f"{pattern}: pixels differ from a sequential decode")
        total = sum(times["sequential"])
        cells = [
            f"{statistics.median(values):8.1f} ({sum(values) / total:4.2f}x)"
            for values in times.values()
        ]
        ratios.append(sum(times["vidgraph"]) / total)
        print(f"  {pattern:>9}: " + "  ".join(cells))
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=30)
    arguments = parser.parse_args()
    readers: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {
        "vidgraph": read_ours,
        "+length": read_ours_with_length,
        "sequential": read_sequentially,
    }
    num_frames = arguments.seconds * FPS
    rng = np.random.default_rng(0)
    draws = [draw_indices(num_frames, rng) for _ in range(arguments.draws)]
    with tempfile.TemporaryDirectory() as folder:
        for key_frame_every, target in TARGETS.items():
            path = Path(folder) / f"every{key_frame_every}.mp4"
            make_video(path, num_frames, key_frame_every)
            print(
                f"key frame every {key_frame_every}, {path.stat().st_size / 1e6:.1f} MB, ms "
                "(ratio): " + ", ".join(readers)
            )
            ratios = measure(path, draws, readers)
            median, worst = statistics.median(ratios), max(ratios)
            verdict = "met" if worst <= target else "missed"
            print(
                f"  median over patterns {median:.2f}, worst pattern {worst:.2f}; target "
                f"{target}: {verdict}"
            )


if __name__ == "__main__":
    main()
