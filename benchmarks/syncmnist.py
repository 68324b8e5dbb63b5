"""How fast synchronous digits are made: the batched generator against a plain loop over videos,
frames and digits.

Both sides make the same clips to the bit (checked first) from the same trajectories on one thread,
trajectories included on the batched side and not on the plain one. Prints clips per second and
their ratio; the promise is at least 2.

    python benchmarks/syncmnist.py --num-digits 5
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from PIL import Image

from vidgraph.data.syncmnist import Digits, SyncMnistStream, load_digits


def plain_video(digits: Digits, images: np.ndarray, path: np.ndarray) -> np.ndarray:
    """One clip as the published recipe says it: images [n], corners [T, n, 2] -> uint8 [T, 64,
    64].
    """
    frames = []
    for corners in path:
        canvas = np.zeros((100, 100))
        for image, (row, column) in zip(images, corners, strict=True):
            pixels = digits.images[image]
            under = canvas[row : row + 28, column : column + 28]
            canvas[row : row + 28, column : column + 28] = np.where(pixels >= 10, pixels, under)
        low, high = canvas.min(), canvas.max()
        stretched = ((canvas - low) * (255.0 / (high - low))).clip(0, 255) + 0.5
        frames.append(
            np.asarray(
                Image.fromarray(stretched.astype(np.uint8)).resize(
                    (64, 64), Image.Resampling.BILINEAR
                )
            )
        )
    return np.stack(frames)


def clips_per_second(seconds: list[float], num_clips: int) -> str:
    return (
        f"{num_clips / min(seconds):8.0f} best, {num_clips / float(np.median(seconds)):8.0f} median"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--digits",
        default="embedded",
        help="embedded, mnist, or a folder with MNIST's four idx files",
    )
    parser.add_argument("--num-digits", type=int, default=5)
    parser.add_argument("--clips", type=int, default=256, help="clips per repeat")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)

    digits = load_digits(args.digits, "train")
    stream = SyncMnistStream(digits, args.num_digits, args.clips, seed=0)
    batches = [
        list(range(i, min(i + args.batch_size, args.clips)))
        for i in range(0, args.clips, args.batch_size)
    ]
    images, path, _ = stream.plan(np.arange(args.clips))
    batched_seconds, plain_seconds = [], []
    for _ in range(args.repeats):  # the two take turns, so that a busy machine slows both
        start = time.perf_counter()
        batched = [stream.__getitems__(batch).video for batch in batches]
        middle = time.perf_counter()
        plain = [plain_video(digits, i, p) for i, p in zip(images, path, strict=True)]
        batched_seconds.append(middle - start)
        plain_seconds.append(time.perf_counter() - middle)
    if not np.array_equal(torch.cat(batched)[:, 0].numpy(), np.stack(plain)):
        raise SystemExit("the two do not make the same clips")

    ratios = np.array(plain_seconds) / np.array(batched_seconds)
    print(
        f"{args.clips} clips of {args.num_digits} digits, batches of {args.batch_size}, "
        f"{args.repeats} repeats, one thread; pixels equal"
    )
    print(f"plain loop   {clips_per_second(plain_seconds, args.clips)} clips/s")
    print(f"batched      {clips_per_second(batched_seconds, args.clips)} clips/s")
    print(
        f"ratio        {min(plain_seconds) / min(batched_seconds):.2f} of the best, "
        f"{np.median(ratios):.2f} median (promised: at least 2)"
    )


if __name__ == "__main__":
    main()
