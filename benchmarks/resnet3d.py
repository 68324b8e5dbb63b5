"""Speed of the forward pass of I3D ResNet-50, on clips of 8 frames of 224 x 224 with a stride of 2
in layer4, as PyTorchVideo's Kinetics weights take them.

Ratios measured in this run, in fp32 and bf16, each as the networks are made and channels-last:

1. ours against PyTorchVideo's I3D R50, where `pytorchvideo` can be imported; not slower;
2. the multiply-adds per second of each against those of a large matrix product.

    python benchmarks/resnet3d.py [--repeats 5] [--batch 1] [--size 224] [--threads 2]
    [--device cpu] [--clock wall]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from timing import interleaved_medians, options
from torch import nn

from vidgraph.backbones.resnet3d import ResNet3D, ResNet3DOptions
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.build import create_model

FRAMES = 8
STRIDE: Literal[2] = 2  # of layer4
SIDE = 4096  # of the matrix product
LAYOUTS = {"": torch.contiguous_format, ", channels-last": torch.channels_last_3d}


def pytorchvideo_i3d() -> nn.Module | None:
    """The peer's network as its hub builds it, up to the last residual stage."""
    try:
        from pytorchvideo.models.resnet import create_resnet
    except ImportError:
        return None
    inflated, not_inflated = (3, 1, 1), (1, 1, 1)
    model = create_resnet(
        stem_conv_kernel_size=(5, 7, 7),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=(
            inflated,
            [inflated, not_inflated],
            [inflated, not_inflated],
            [not_inflated, inflated],
        ),
    )
    return nn.Sequential(*model.blocks[:-1])


def backbone_gmac(size: int) -> float:
    """Of one clip."""
    model = create_model(
        "i3d_r50",
        400,
        input={"num_frames": FRAMES, "height": size, "width": size},
        backbone={"layer4_stride": STRIDE},
    )
    gmac: float = profile_model(model)["parts"]["backbone"]["gmac"]
    return gmac


def make_runs(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """One forward pass of each network in one precision."""
    networks: dict[str, nn.Module] = {"ours": ResNet3D(ResNet3DOptions(layer4_stride=STRIDE))}
    peer = pytorchvideo_i3d()
    if peer is not None:
        networks["pytorchvideo"] = peer
    runs: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        for layout, form in LAYOUTS.items():
            like = {"device": args.device, "dtype": dtype, "memory_format": form}
            model = copy.deepcopy(network).eval().to(**like)
            video = torch.randn(args.batch, 3, FRAMES, args.size, args.size).to(**like)
            runs[name + layout] = partial(model, video)
    square = torch.randn(SIDE, SIDE, dtype=dtype, device=args.device)
    runs[f"matrix product {SIDE}"] = lambda: square @ square
    return runs


def report(precision: str, seconds: dict[str, float], work: float) -> None:
    product = seconds.pop(f"matrix product {SIDE}")
    peak = SIDE**3 / 1e9 / product
    print(f"{precision}; matrix product of {SIDE}: {peak:.0f} GMAC/s")
    for name, value in seconds.items():
        print(
            f"  {name:30s} {value * 1e3:9.1f} ms  {work / value:7.0f} GMAC/s  "
            f"{work / value / peak:4.0%} of the matrix product"
        )
    for layout in LAYOUTS:
        ratio = "not measured, pytorchvideo cannot be imported"
        if f"pytorchvideo{layout}" in seconds:
            ratio = f"{seconds[f'pytorchvideo{layout}'] / seconds[f'ours{layout}']:.2f}"
        print(f"  pytorchvideo / ours{layout}: {ratio}")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    work = args.batch * backbone_gmac(args.size)
    print(f"forward, batch {args.batch}, {FRAMES} x {args.size} x {args.size}: {work:.1f} GMAC")
    print(f"{args.device}, {args.threads} threads, {args.clock} clock, median of {args.repeats}")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.inference_mode():
            seconds = interleaved_medians(make_runs(args, dtype), args)
        report(name, seconds, work)


if __name__ == "__main__":
    main()
