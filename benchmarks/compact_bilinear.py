"""Speed of compact bilinear fusion.

For k inputs of 1024 channels at the positions of a batch of 7 x 7 maps, ratios to forms with the
same hashes, measured in this run:

1. bare: the equation in five lines, additions into buckets and Fourier transforms, without
   precision, options or checks; the fusion takes at most 1.5 times as long;
2. dense: each sketch as a matrix product, which is the fusion's deterministic form;
3. gather: each sketch as a sum over a table of the channels of every bucket, deterministic too;
4. scatter: additions by scatter_add, as public codes have it.

    python benchmarks/compact_bilinear.py [--orders 2,3] [--sizes 2048,4096,8192] [--batch 32]
    [--channels 1024] [--backward] [--repeats 5] [--threads 2] [--device cpu] [--clock wall]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial, reduce

import torch
from timing import interleaved_medians, options
from torch import Tensor

from vidgraph.models.compact_bilinear import CompactBilinear

POSITIONS = 7 * 7
AIM = 1.5

Sketch = Callable[[Tensor, Tensor, Tensor], Tensor]


def fuse(
    inputs: list[Tensor], hashes: list[tuple[Tensor, Tensor]], size: int, sketch: Sketch
) -> Tensor:
    """Product of the spectra of all sketches."""
    spectra = [
        torch.fft.rfft(sketch(x, buckets, signs))
        for x, (buckets, signs) in zip(inputs, hashes, strict=True)
    ]
    return torch.fft.irfft(reduce(torch.mul, spectra), n=size)


def gather_table(buckets: Tensor, size: int) -> Tensor:
    """Channels of each bucket, [d, most channels of a bucket], padded with n."""
    table = torch.full(
        (size, int(torch.bincount(buckets).max())), len(buckets), device=buckets.device
    )
    filled = [0] * size
    for channel, bucket in enumerate(buckets.tolist()):
        table[bucket, filled[bucket]] = channel
        filled[bucket] += 1
    return table


def peers(fusion: CompactBilinear) -> dict[str, Callable[[list[Tensor]], Tensor]]:
    """Other forms of the same fusion; what does not change is made once."""
    hashes = [
        (fusion.get_buffer(f"buckets_{i}"), fusion.get_buffer(f"signs_{i}"))
        for i in range(len(fusion.in_channels))
    ]
    size = fusion.out_channels
    tables = {id(buckets): gather_table(buckets, size) for buckets, _ in hashes}
    matrices = {}
    for buckets, signs in hashes:
        matrices[id(buckets)] = torch.zeros(len(buckets), size, device=signs.device).scatter_(
            1, buckets[:, None], signs[:, None]
        )

    def bare(x: Tensor, buckets: Tensor, signs: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], size).index_add_(-1, buckets, x * signs)

    def scatter(x: Tensor, buckets: Tensor, signs: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], size).scatter_add_(-1, buckets.expand_as(x), x * signs)

    def dense(x: Tensor, buckets: Tensor, _: Tensor) -> Tensor:
        return x @ matrices[id(buckets)]

    def gather(x: Tensor, buckets: Tensor, signs: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x * signs, (0, 1))
        return reduce(torch.add, (padded[..., column] for column in tables[id(buckets)].T))

    forms: dict[str, Sketch] = {"bare": bare, "scatter": scatter, "dense": dense, "gather": gather}
    return {
        name: partial(fuse, hashes=hashes, size=size, sketch=form) for name, form in forms.items()
    }


def compare(order: int, size: int, args: argparse.Namespace) -> None:
    fusion = CompactBilinear([args.channels] * order, size).to(args.device)
    inputs = [
        torch.randn(args.batch, POSITIONS, args.channels, device=args.device).relu()
        for _ in range(order)
    ]
    inputs = [x.requires_grad_(args.backward) for x in inputs]
    forms: dict[str, Callable[[list[Tensor]], Tensor]] = {
        "fusion": lambda xs: fusion(*xs),
        **peers(fusion),
    }
    expected = forms["fusion"](inputs).detach()
    for form in forms.values():
        torch.testing.assert_close(
            form(inputs).detach(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )

    def run(form: Callable[[list[Tensor]], Tensor]) -> Callable[[], None]:
        def once() -> None:
            fused = form(inputs)
            if args.backward:
                torch.autograd.grad(fused, inputs, torch.ones_like(fused))

        return once

    seconds = interleaved_medians({name: run(form) for name, form in forms.items()}, args)
    print(f"k = {order}, d = {size}: fusion {seconds['fusion'] * 1e3:.2f} ms")
    ratio = seconds["fusion"] / seconds["bare"]
    print(f"  fusion / bare   {ratio:6.2f}  (aim: at most {AIM})")
    for name in ("scatter", "dense", "gather"):
        print(f"  {name:7s} / fusion {seconds[name] / seconds['fusion']:5.2f}")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--orders", type=lambda text: [int(order) for order in text.split(",")], default=[2, 3]
    )
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[2048, 4096, 8192],
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--backward", action="store_true", help="time the backward pass too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    what = "forward and backward" if args.backward else "forward"
    print(
        f"{what}, {args.batch} x {POSITIONS} positions of {args.channels} channels, {args.device}, "
        f"{args.threads} threads, {args.clock} clock"
    )
    for order in args.orders:
        for size in args.sizes:
            compare(order, size, args)


if __name__ == "__main__":
    main()
