"""Speed of the region graph of STRG.

Claims, each a ratio measured in this run:

1. overlap graphs as one block per pair of frames, for the whole batch at once, against one IoU over
    all pairs of boxes of a clip that is
   cut down to neighbouring frames afterwards (dense), and against a loop over boxes that fills N x
   N matrices, as public ports have it; at 16 x 50 and 16 x 100 boxes; 50 times as fast as the loop
   or more;
2. their product with the nodes, as blocks against full matrices;
3. RoIAlign and maximum with a backward pass over the largest cells only, against torchvision's over
    all cells;
4. a training step of the whole model with 10 and 50 boxes per frame against its backbone alone; at
    most 1.15 times as long at
   32 x 224 x 224; and how it grows with the number of boxes.

    python benchmarks/strg.py [--parts graphs,products,nodes,step] [--architecture strg_i3d_r50]
    [--frames 32] [--size 224] [--batch 1]
        [--boxes 10,25,50,100] [--precision fp32] [--repeats 5] [--threads 2] [--device cpu]
        [--clock wall]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import interleaved_medians, options
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align
from vidgraph.models.overlap import (
    dense_graphs,
    gather_next,
    gather_previous,
    overlap_graphs,
    pairwise_iou,
)

from vidgraph.evaluation.profile import profile_model
from vidgraph.models.build import create_model
from vidgraph.models.regions import region_nodes
from vidgraph.records import Regions

STEPS, WIDTH = 16, 512  # of the map, and of the nodes
AIM_LOOP, AIM_STEP = 50, 1.15


def random_boxes(batch: int, frames: int, count: int, size: int, device: str) -> Tensor:
    """Boxes of a tenth to a half of the frame's sides, in pixels, [B, T, K, 4]."""
    low = torch.rand(batch, frames, count, 2) * 0.5
    return (
        torch.cat([low, low + 0.1 + 0.4 * torch.rand(batch, frames, count, 2)], dim=-1) * size
    ).to(device)


def graphs_by_loop(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """One box after another, all clips at once: its IoU with the boxes of the next frame into its
    row of an N x N matrix."""
    batch, frames, count = boxes.shape[:3]
    front, back = (boxes.new_zeros(batch, frames * count, frames * count) for _ in range(2))
    for t in range(frames - 1):
        following = slice((t + 1) * count, (t + 2) * count)
        for i in range(count):
            row = pairwise_iou(boxes[:, t, i : i + 1], boxes[:, t + 1])[:, 0]  # [B, K]
            front[:, t * count + i, following] = row
            back[:, following, t * count + i] = row
    return tuple(graph / graph.sum(dim=2, keepdim=True).clamp(min=1e-12) for graph in (front, back))  # type: ignore[return-value]


def graphs_dense(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of boxes of a clip, then those of neighbouring frames."""
    _, frames, count = boxes.shape[:3]
    frame = torch.arange(frames, device=boxes.device).repeat_interleave(count)
    sigma = pairwise_iou(boxes.flatten(1, 2), boxes.flatten(1, 2)) * (
        frame[:, None] + 1 == frame[None]
    )
    return tuple(
        graph / graph.sum(dim=2, keepdim=True).clamp(min=1e-12)
        for graph in (sigma, sigma.transpose(1, 2))
    )  # type: ignore[return-value]


def torchvision_nodes(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The peer of `region_nodes`: the same forward pass, torchvision's backward pass."""
    owner = torch.arange(boxes.shape[0] * STEPS, device=boxes.device).repeat_interleave(
        boxes.shape[2]
    )
    rois = torch.cat([owner[:, None].to(boxes), boxes.flatten(0, 2)], dim=1)
    cells = roi_align(
        features.transpose(1, 2).flatten(0, 1), rois, 7, features.shape[-1] / size, 2, True
    )
    return cells.flatten(2).max(dim=2).values.reshape(*boxes.shape[:3], -1)


def compare_graphs(args: argparse.Namespace) -> None:
    for count in (50, 100):
        boxes = random_boxes(args.batch, STEPS, count, 224, args.device)
        mask = torch.ones(boxes.shape[:3], dtype=torch.bool, device=args.device)
        blocks = dense_graphs(*overlap_graphs(boxes, mask))
        for peer in (graphs_dense, graphs_by_loop):
            torch.testing.assert_close(peer(boxes), blocks)
        runs: dict[str, Callable[[], object]] = {
            "blocks": lambda boxes=boxes, mask=mask: overlap_graphs(boxes, mask),  # type: ignore[misc]
            "dense": lambda boxes=boxes: graphs_dense(boxes),  # type: ignore[misc]
            "loop over boxes": lambda boxes=boxes: graphs_by_loop(boxes),  # type: ignore[misc]
        }
        seconds = interleaved_medians(runs, args)
        print(f"overlap graphs, {args.batch} clips of {STEPS} x {count} boxes")
        report(seconds, "blocks", {"loop over boxes": f"aim: at least {AIM_LOOP}"})


def compare_products(args: argparse.Namespace) -> None:
    for count in (50, 100):
        boxes = random_boxes(args.batch, STEPS, count, 224, args.device)
        front, back = overlap_graphs(
            boxes, torch.ones(boxes.shape[:3], dtype=torch.bool, device=args.device)
        )
        dense = dense_graphs(front, back)
        nodes = torch.randn(args.batch, STEPS, count, WIDTH, device=args.device)
        flat = nodes.flatten(1, 2)

        def blocks(front: Tensor = front, back: Tensor = back, nodes: Tensor = nodes) -> None:
            gather_next(front, nodes)
            gather_previous(back, nodes)

        def full(dense: tuple[Tensor, Tensor] = dense, flat: Tensor = flat) -> None:
            for graph in dense:
                graph @ flat

        print(
            f"products with nodes of width {WIDTH}, {args.batch} clips of {STEPS} x {count} boxes"
        )
        report(interleaved_medians({"blocks": blocks, "full matrices": full}, args), "blocks", {})


def compare_nodes(args: argparse.Namespace) -> None:
    features = torch.randn(args.batch, WIDTH, STEPS, 14, 14, device=args.device, requires_grad=True)
    for count in (10, 50):
        boxes = random_boxes(args.batch, STEPS, count, 224, args.device)
        regions = Regions(
            boxes, boxes[..., 0], torch.ones(boxes.shape[:3], dtype=torch.bool, device=args.device)
        )

        def ours(regions: Regions = regions) -> None:
            region_nodes(features, regions, (224, 224)).sum().backward()

        def theirs(boxes: Tensor = boxes) -> None:
            torchvision_nodes(features, boxes, 224).sum().backward()

        torch.testing.assert_close(
            region_nodes(features, regions, (224, 224)), torchvision_nodes(features, boxes, 224)
        )
        print(
            f"RoIAlign and maximum, forward and backward, {args.batch} clips of {STEPS} x {count} "
            "boxes"
        )
        report(
            interleaved_medians({"largest cells": ours, "torchvision": theirs}, args),
            "largest cells",
            {},
        )


def compare_steps(args: argparse.Namespace) -> None:
    shape = {"num_frames": args.frames, "size": args.size}
    video = torch.randint(
        0,
        256,
        (args.batch, 3, args.frames, args.size, args.size),
        dtype=torch.uint8,
        device=args.device,
    )
    label = torch.zeros(args.batch, dtype=torch.int64, device=args.device)
    joint = create_model(args.architecture, **shape).to(args.device).train()
    alone = create_model(args.architecture, **shape, graph="none").to(args.device).train()

    def step(model: torch.nn.Module, regions: Regions | None) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            with torch.autocast(
                torch.device(args.device).type, torch.bfloat16, enabled=args.precision == "bf16"
            ):
                logits = model(video, regions)
            F.cross_entropy(logits.float(), label).backward()

        return run

    runs: dict[str, Callable[[], object]] = {"backbone alone": step(alone, None)}
    gmac = {"backbone alone": profile_model(alone)["gmac"]["total"]}
    for count in args.boxes:
        boxes = random_boxes(args.batch, args.frames, count, args.size, args.device)
        mask = torch.ones(boxes.shape[:3], dtype=torch.bool, device=args.device)
        runs[f"{count} boxes"] = step(joint, Regions(boxes, boxes[..., 0], mask))
        counted = profile_model(create_model(args.architecture, **shape, boxes_per_frame=count))[
            "gmac"
        ]
        gmac[f"{count} boxes"] = counted.get("executed", counted["total"])
    clip = f"{args.batch} clips of {args.frames} x {args.size} x {args.size}, {args.precision}"
    print(f"training step of {args.architecture}, {clip}")
    seconds = interleaved_medians(runs, args)
    for name, value in seconds.items():
        ratio, work = value / seconds["backbone alone"], gmac[name] / gmac["backbone alone"]
        aim = f"  (aim: at most {AIM_STEP})" if name in ("10 boxes", "50 boxes") else ""
        print(
            f"  {name:16s} {value * 1e3:10.1f} ms   {ratio:5.2f} times the backbone{aim}; "
            f"multiply-adds {work:.3f} times"
        )


def report(seconds: dict[str, float], ours: str, aims: dict[str, str]) -> None:
    for name, value in seconds.items():
        aim = f"  ({aims[name]})" if name in aims else ""
        print(
            f"  {name:16s} {value * 1e3:10.2f} ms"
            + ("" if name == ours else f"   {value / seconds[ours]:7.1f} times {ours}{aim}")
        )


PARTS = {
    "graphs": compare_graphs,
    "products": compare_products,
    "nodes": compare_nodes,
    "step": compare_steps,
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help="of " + ",".join(PARTS),
    )
    parser.add_argument("--architecture", default="strg_i3d_r50")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--boxes",
        type=lambda text: [int(count) for count in text.split(",")],
        default=[10, 25, 50, 100],
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"{args.device}, {args.threads} threads, {args.clock} clock, median of {args.repeats}")
    for part in args.parts:
        PARTS[part](args)


if __name__ == "__main__":
    main()
