"""Speed of the I3D ResNet-50 forward pass, on clips of 8 frames of 224 x 224 with stride 2 in res5,
as PyTorchVideo's Kinetics weights eat.

Claims, each a ratio measured in this run, in fp32 and bf16:

1. ours against PyTorchVideo's I3D R50 with the same weights' shapes, where `pytorchvideo` can be
    imported, both as they are made and both
   channels-last; not slower;
2. ours with its norms folded into its convolutions against itself;
3. the multiply-adds per second of each as a fraction of a large matrix product's on this machine.

    python benchmarks/resnet3d.py [--repeats 5] [--batch 1] [--size 224] [--threads 2] [--device
    cpu] [--clock wall]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from timing import interleaved_medians, options
from torch import nn

from vidgraph.backbones.resnet3d import DEPTHS, BackboneOptions, ResNet3D, resnet3d
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.norms import fold_norms
from vidgraph.records import InputSpec

FRAMES = 8
SIDE = 4096  # of the matrix product


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


def gmac(model: ResNet3D, size: int) -> float:
    """Of one clip."""
    counted = nn.Module()
    counted.input_spec = InputSpec(FRAMES, size, size, stride_frames=8)  # type: ignore[assignment]
    counted.add_module("backbone", model)
    counted.forward = lambda video: model(video.float())  # type: ignore[method-assign]
    total: float = profile_model(counted)["gmac"]["total"]
    return total


def make_runs(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """One forward pass of each network in one precision."""
    ours = resnet3d(DEPTHS[50], BackboneOptions(res5_stride=2))
    networks: dict[str, nn.Module] = {"ours": ours, "ours, folded": fold_norms(ours)}
    peer = pytorchvideo_i3d()
    if peer is not None:
        networks["pytorchvideo"] = peer
    runs: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        for layout, form in (
            ("", torch.contiguous_format),
            (", channels-last", torch.channels_last_3d),
        ):
            like = {"device": args.device, "dtype": dtype, "memory_format": form}
            model = copy.deepcopy(network).eval().to(**like)
            video = torch.randn(args.batch, 3, FRAMES, args.size, args.size).to(**like)
            runs[name + layout] = lambda model=model, video=video: model(video)  # type: ignore[misc]
    square = torch.randn(SIDE, SIDE, dtype=dtype, device=args.device)
    runs[f"matrix product {SIDE}"] = lambda: square @ square
    return runs


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    work = args.batch * gmac(resnet3d(DEPTHS[50], BackboneOptions(res5_stride=2)), args.size)
    print(f"forward, batch {args.batch}, {FRAMES} x {args.size} x {args.size}: {work:.1f} GMAC")
    print(f"{args.device}, {args.threads} threads, {args.clock} clock, median of {args.repeats}")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.inference_mode():
            seconds = interleaved_medians(make_runs(args, dtype), args)
        report(name, seconds, work)


def report(precision: str, seconds: dict[str, float], work: float) -> None:
    product = seconds.pop(f"matrix product {SIDE}")
    peak = SIDE**3 / 1e9 / product
    print(f"{precision}; matrix product of {SIDE}: {peak:.0f} GMAC/s")
    for name, value in seconds.items():
        print(
            f"  {name:30s} {value * 1e3:9.1f} ms  {work / value:7.0f} GMAC/s  "
            f"{work / value / peak:4.0%} of the matrix product"
        )
    for layout in ("", ", channels-last"):
        if f"pytorchvideo{layout}" in seconds:
            print(
                f"  pytorchvideo / ours{layout}: "
                f"{seconds[f'pytorchvideo{layout}'] / seconds[f'ours{layout}']:.2f}"
            )
        else:
            print(f"  pytorchvideo / ours{layout}: not measured, pytorchvideo cannot be imported")
        print(
            f"  ours / ours folded{layout}: "
            f"{seconds[f'ours{layout}'] / seconds[f'ours, folded{layout}']:.2f}"
        )


if __name__ == "__main__":
    main()
