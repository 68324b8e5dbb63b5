"""Speed of the recurrent space-time graph, at the size of the paper (width 512, 14 nodes, 10
frames).

Three claims, each a ratio measured in this run:

1. the send stage, whose first layer is split into a source and a destination part, against the same
   MLP on concatenated pairs;
2. the whole graph against itself with concatenated pairs, beside what the counts of multiply-adds
   allow;
3. the multiply-adds per second of the whole graph as a fraction of a large matrix product's.

    python benchmarks/rstg.py [--repeats 5] [--batch 4] [--precision fp32] [--threads 2]
    [--device cpu] [--clock wall]
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from timing import interleaved_medians, options
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.rstg import RecurrentSpaceTimeGraph, RSTGOptions, Send

CHANNELS = WIDTH = 512
FRAMES, NODES, POSITION = 10, 14, 36
SIDE = 2048  # of the matrix product


class ConcatenatedSend(nn.Module):
    """The peer: the authors' form, every pair concatenated before the first layer. Same weights,
    same messages."""

    positions: Tensor

    def __init__(self, send: Send) -> None:
        super().__init__()
        self.register_buffer("positions", send.positions)
        self.first = nn.Linear(2 * send.source.in_features, WIDTH)
        with torch.no_grad():
            self.first.weight.copy_(torch.cat([send.source.weight, send.destination.weight], dim=1))
            self.first.bias.copy_(send.destination.bias)
        self.second = copy.deepcopy(send.second)

    def all_pairs(self, nodes: Tensor, past: None = None) -> Tensor:
        nodes = torch.cat([nodes, self.positions.to(nodes).expand(*nodes.shape[:-1], -1)], dim=-1)
        source = nodes[..., None, :, :].expand(*nodes.shape[:2], NODES, NODES, -1)
        destination = nodes[..., :, None, :].expand_as(source)
        pairs = torch.cat([source, destination], dim=-1)  # [B, T, N, N, 2 D]
        return F.relu(self.second(F.relu(self.first(pairs))))


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
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    how = RSTGOptions(width=WIDTH, attention="simple", position_maps=True)
    split = RecurrentSpaceTimeGraph(CHANNELS, (6, 6), how).to(args.device)
    concatenated = copy.deepcopy(split)
    assert split.space is not None
    assert concatenated.space is not None
    peer = ConcatenatedSend(split.space.send).to(args.device)
    concatenated.space.send = peer  # type: ignore[assignment]
    nodes = torch.randn(args.batch, FRAMES, NODES, WIDTH, device=args.device)
    features = torch.randn(args.batch, CHANNELS, FRAMES, 6, 6, device=args.device)
    torch.testing.assert_close(concatenated(features), split(features), rtol=1e-4, atol=1e-4)

    def step(function: Callable[[Tensor], Tensor], data: Tensor) -> Callable[[], None]:
        leaf = data.clone().requires_grad_()
        kind, low = torch.device(args.device).type, args.precision == "bf16"

        def run() -> None:
            with torch.autocast(kind, torch.bfloat16, enabled=low):
                out = function(leaf)
            out.float().sum().backward()

        return run

    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    square = torch.randn(SIDE, SIDE, dtype=dtype, device=args.device)
    runs: dict[str, Callable[[], object]] = {
        "send, split": step(split.space.send.all_pairs, nodes),
        "send, concatenated": step(peer.all_pairs, nodes),
        "graph, split": step(split, features),
        "graph, concatenated": step(concatenated, features),
        "matrix product": lambda: square @ square,
    }
    seconds = interleaved_medians(runs, args)
    print(
        f"forward + backward, batch {args.batch}, {args.precision}, {args.device}, "
        f"{args.threads} threads, {args.clock} clock, median of {args.repeats}"
    )
    for name, value in seconds.items():
        print(f"  {name:22s} {value * 1e3:9.1f} ms")
    send = seconds["send, concatenated"] / seconds["send, split"]
    print(f"send stage, concatenated / split: {send:.2f}")
    limit = multiply_adds(args.batch, split=False) / multiply_adds(args.batch, split=True)
    whole = seconds["graph, concatenated"] / seconds["graph, split"]
    print(f"whole graph, concatenated / split: {whole:.2f} (arithmetic limit {limit:.2f})")
    peak = SIDE**3 / seconds["matrix product"]
    # The backward pass costs twice the forward.
    used = 3 * multiply_adds(args.batch, split=True) / seconds["graph, split"]
    print(
        f"whole graph: {used / 1e9:.0f} GMAC/s, {used / peak:.0%} of the {peak / 1e9:.0f} of a "
        f"matrix product of {SIDE}"
    )


if __name__ == "__main__":
    main()
