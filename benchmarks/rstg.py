"""Speed of the recurrent space-time graph, at the size of the paper (width 512, 14 nodes, 10
frames).

Three claims, each a ratio measured in this run:

1. the send stage, whose first layer is split into a source and a destination part, against the same
    MLP on concatenated pairs;
2. the whole graph against itself with concatenated pairs, beside what the counts of multiply-adds
    allow;
3. the multiply-adds per second of the whole graph as a fraction of a large matrix product's on this
    machine.

    python benchmarks/rstg.py [--repeats 7] [--batch 4] [--threads 2] [--precision fp32]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.rstg import GraphOptions, RecurrentSpaceTimeGraph, Send

CHANNELS = WIDTH = 512
FRAMES, NODES, POSITION = 10, 14, 36


class ConcatenatedSend(nn.Module):
    """The peer: the authors' form, every pair concatenated before the first layer. Same weights,
    same messages."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self.register_buffer("positions", send.positions)
        self.first = nn.Linear(2 * send.source.in_features, WIDTH)
        self.first.weight.data = (
            torch.cat([send.source.weight, send.destination.weight], dim=1).detach().clone()
        )
        self.first.bias.data = send.destination.bias.detach().clone()
        self.second = copy.deepcopy(send.second)

    def all_pairs(self, nodes: Tensor, past: None = None) -> Tensor:
        nodes = torch.cat([nodes, self.positions.to(nodes).expand(*nodes.shape[:-1], -1)], dim=-1)
        source = nodes[..., None, :, :].expand(*nodes.shape[:2], NODES, NODES, -1)
        destination = nodes[..., :, None, :].expand_as(source)
        pairs = torch.cat([source, destination], dim=-1)  # [B, T, N, N, 2 D]
        return F.relu(self.second(F.relu(self.first(pairs))))


def interleaved_medians(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turns so that a drifting machine treats them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def multiply_adds(batch: int, split: bool) -> float:
    """Of one forward pass of the whole graph: 3 stages of LSTM, send, attention, gather and update,
    and the final LSTM."""
    frames = batch * FRAMES
    ends = 2 * (WIDTH + POSITION) * WIDTH
    send = (NODES * ends if split else NODES**2 * ends) + NODES**2 * WIDTH**2
    attention = 2 * NODES * WIDTH + NODES**2 * WIDTH
    update = NODES * 3 * WIDTH**2
    lstm = NODES * 8 * WIDTH**2
    pooling = NODES * 36 * CHANNELS
    return frames * (3 * (send + attention + update + lstm) + lstm + pooling)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    options = GraphOptions(attention="simple", position_maps=True)
    split = RecurrentSpaceTimeGraph(CHANNELS, WIDTH, (6, 6), options)
    concatenated = copy.deepcopy(split)
    assert split.space is not None
    assert concatenated.space is not None
    concatenated.space.send = ConcatenatedSend(split.space.send)  # type: ignore[assignment]
    nodes = torch.randn(args.batch, FRAMES, NODES, WIDTH)
    features = torch.randn(args.batch, CHANNELS, FRAMES, 6, 6)
    torch.testing.assert_close(concatenated(features), split(features), rtol=1e-4, atol=1e-4)

    def step(function: Callable[[Tensor], Tensor], data: Tensor) -> Callable[[], None]:
        leaf = data.clone().requires_grad_()

        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                out = function(leaf)
            out.float().sum().backward()

        return run

    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    square = torch.randn(2048, 2048, dtype=dtype)
    runs = {
        "send, split": step(split.space.send.all_pairs, nodes),
        "send, concatenated": step(concatenated.space.send.all_pairs, nodes),
        "graph, split": step(split, features),
        "graph, concatenated": step(concatenated, features),
        "matmul 2048": lambda: (torch.mm(square, square), None)[1],
    }
    seconds = interleaved_medians(runs, args.repeats)
    print(
        f"forward + backward, batch {args.batch}, {args.precision}, {args.threads} threads, "
        f"median of {args.repeats}"
    )
    for name, value in seconds.items():
        print(f"  {name:22s} {value * 1e3:9.1f} ms")
    limit = multiply_adds(args.batch, split=False) / multiply_adds(args.batch, split=True)
    print(
        "send stage, concatenated / split: "
        f"{seconds['send, concatenated'] / seconds['send, split']:.2f}"
    )
    whole = seconds["graph, concatenated"] / seconds["graph, split"]
    print(f"whole graph, concatenated / split: {whole:.2f} (arithmetic limit {limit:.2f})")
    peak = 2048**3 / seconds["matmul 2048"]
    used = (
        3 * multiply_adds(args.batch, split=True) / seconds["graph, split"]
    )  # backward costs twice the forward
    print(
        f"whole graph: {used / 1e9:.0f} GMAC/s, {used / peak:.0%} of a 2048 matrix product's "
        f"{peak / 1e9:.0f} GMAC/s"
    )


if __name__ == "__main__":
    main()
