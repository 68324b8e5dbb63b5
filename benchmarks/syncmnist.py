"""Speed of making clips of synchronous digits on one thread, trajectories, drawing and resizing
included; the aim is at least 300 clips per second.

    python benchmarks/syncmnist.py --num-digits 5
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from vidgraph.data.digits import load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import SyncMnistStream


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--digits", default="embedded", help="embedded, mnist, or a folder with MNIST's idx files"
    )
    parser.add_argument("--num-digits", type=int, default=5)
    parser.add_argument("--clips", type=int, default=256, help="clips per repeat")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)

    stream = SyncMnistStream(
        load_digits(args.digits, "train"), SyncMnistOptions(args.num_digits), args.clips, seed=0
    )
    rates = []  # per second of processor time, which other processes hardly change
    for _ in range(args.repeats):
        start = time.process_time()
        for first in range(0, args.clips, args.batch_size):
            stream.__getitems__(range(first, min(first + args.batch_size, args.clips)))
        rates.append(args.clips / (time.process_time() - start))
    print(
        f"{args.clips} clips of {args.num_digits} digits, batches of {args.batch_size}, "
        f"{args.repeats} repeats, one thread: {max(rates):.0f} clips/s best, "
        f"{np.median(rates):.0f} median (aim: at least 300)"
    )


if __name__ == "__main__":
    main()
