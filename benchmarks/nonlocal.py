"""Time and peak memory of a non-local block with fused attention, against the same block with its
matrix of all pairs written out.

At the sizes of I3D R50 on clips of 32 x 224 x 224: res3 (512 channels, 16 x 28 x 28 cells that look
at 16 x 14 x 14) and res4 (1024 channels, 16 x 14 x 14 that look at 16 x 7 x 7), forward and
backward, with equal outputs. Three claims per size, each a ratio measured in this run: time, and
peak memory beyond the start, plain / fused; and the multiply-adds per second of the fused block as
a fraction of a large matrix product's. Each form runs in a process of its own, so that its memory
is its own.

    python benchmarks/nonlocal.py [--repeats 5] [--threads 2] [--precision fp32] [--device cpu]
    [--clock wall]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from typing import Any

import torch
from timing import interleaved_medians, options
from torch import Tensor, nn

from vidgraph.models.nonlocal_block import NonLocalBlock

SIZES = {"res3": (512, 16, 28), "res4": (1024, 16, 14)}  # channels, frames, rows and columns
SIDE = 2048  # of the matrix product


class PlainBlock(NonLocalBlock):
    """The peer: every affinity of the clip in one matrix, as the authors' code has it."""

    def forward(self, x: Tensor) -> Tensor:
        seen = self.pool(x)
        maps = (self.theta(x), self.phi(seen), self.g(seen))
        query, key, value = (part.flatten(2).transpose(1, 2) for part in maps)  # [B, N or M, D]
        scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5  # [B, N, M]
        found = (scores.softmax(dim=-1) @ value).transpose(1, 2)  # [B, D, N]
        added: Tensor = self.out_norm(self.out(found.unflatten(2, x.shape[2:])))
        return x + added


def multiply_adds(channels: int, frames: int, side: int) -> float:
    """Of one forward pass: four projections, and queries on keys and weights on values."""
    looking, seen, width = frames * side**2, frames * (side // 2) ** 2, channels // 2
    return (2 * looking + 2 * seen) * channels * width + 2 * looking * seen * width


def run(
    kind: type[NonLocalBlock], size: tuple[int, int, int], args: argparse.Namespace, answers: Any
) -> None:
    """Puts median seconds, peak memory in MiB and some outputs of one form into `answers`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    channels, frames, side = size
    block = kind(channels, norm="frozen").to(args.device)
    nn.init.normal_(block.out.weight, std=0.01)
    video = torch.randn(1, channels, frames, side, side, device=args.device, requires_grad=True)
    # A first small step: what the libraries themselves need is no part of the block's memory.
    block(video.detach()[:, :, :1, :2, :2]).sum().backward()
    on_gpu = args.device != "cpu"
    outs: list[list[float]] = []

    def step() -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            out = block(video)
        out.float().square().sum().backward()
        outs[:] = [out.detach()[0, :4, 0, 0].float().tolist()]

    before = memory(on_gpu)
    seconds = interleaved_medians({"step": step}, args)["step"]
    answers.put((seconds, memory(on_gpu) - before, outs[0]))


def memory(on_gpu: bool) -> float:
    """The largest so far, in MiB."""
    return (
        torch.cuda.max_memory_allocated() / 2**20
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )


def product_seconds(args: argparse.Namespace) -> float:
    torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    square = torch.randn(SIDE, SIDE, dtype=dtype, device=args.device)
    return interleaved_medians({"product": lambda: square @ square}, args)["product"]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()

    print("forward + backward, one clip")
    print(
        f"{args.precision}, {args.device}, {args.threads} threads, {args.clock} clock, median of "
        f"{args.repeats}"
    )
    peak = SIDE**3 / product_seconds(args)
    context = multiprocessing.get_context("spawn")
    for name, size in SIZES.items():
        found = {}
        for kind in (NonLocalBlock, PlainBlock):
            answers = context.Queue()
            process = context.Process(target=run, args=(kind, size, args, answers))
            process.start()
            found[kind] = answers.get()
            process.join()
        fused, fused_memory, ours = found[NonLocalBlock]
        plain, plain_memory, theirs = found[PlainBlock]
        rtol, atol = (2e-2, 2e-2) if args.precision == "bf16" else (1e-4, 1e-5)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
        used = 3 * multiply_adds(*size) / fused  # backward costs twice the forward
        print(
            f"{name}: fused {fused * 1e3:.0f} ms, {fused_memory:.0f} MiB; plain {plain * 1e3:.0f} "
            f"ms, {plain_memory:.0f} MiB"
        )
        print(
            f"  time, plain / fused: {plain / fused:.2f}   peak memory, plain / fused: "
            f"{plain_memory / fused_memory:.2f}"
        )
        print(
            f"  fused: {used / 1e9:.0f} GMAC/s, {used / peak:.0%} of a {SIDE} matrix product's "
            f"{peak / 1e9:.0f} GMAC/s"
        )


if __name__ == "__main__":
    main()
