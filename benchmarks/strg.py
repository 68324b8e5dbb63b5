"""Speed of the region graph of STRG.

Claims, each a ratio measured in this run:

1. overlap graphs as one block per pair of frames, for the whole batch at once, against one IoU over
   all pairs of boxes of a clip that is cut down to neighbouring frames afterwards (dense), and
   against a loop over boxes that fills N x N matrices, as public ports have it; at 16 x 50 and
   16 x 100 boxes; at least 50 times as fast as the loop;
2. their product with the nodes, as blocks against full matrices;
3. a training step of the whole model with 10 and 50 boxes per frame against its backbone alone, at
   most 1.15 times as long at 32 x 224 x 224; and how it grows with the number of boxes.

    python benchmarks/strg.py [--parts graphs,products,step] [--architecture strg_i3d_r50]
    [--frames 32] [--size 224] [--batch 1] [--boxes 10,25,50,100] [--precision fp32] [--repeats 5]
    [--threads 2] [--device cpu] [--clock wall]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import interleaved_medians, options
from torch import Tensor
from torch.nn import functional as F

from vidgraph.evaluation.profile import profile_model
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.models.region_graph import collect, overlap_graphs, pairwise_iou
from vidgraph.records import Regions

STEPS, WIDTH = 16, 512  # of the map, and of the nodes
AIM_LOOP, AIM_STEP = 50, 1.15


def random_regions(batch: int, frames: int, count: int, device: str) -> Regions:
    """Boxes of a tenth to a half of the frame's sides, [B, T, K, 4]."""
    low = torch.rand(batch, frames, count, 2) * 0.5
    high = low + 0.1 + 0.4 * torch.rand(batch, frames, count, 2)
    ones = torch.ones(batch, frames, count)
    return Regions(torch.cat([low, high], dim=-1), ones, ones.bool()).to(device)


def full_graphs(front: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks [B, T - 1, K, K] as the paper's matrices [B, N, N], each with node t * K + k."""
    batch, pairs, count = front.shape[:3]
    size = (batch, pairs + 1, count, pairs + 1, count)
    full_front, full_back = front.new_zeros(size), back.new_zeros(size)
    for t in range(pairs):
        full_front[:, t, :, t + 1] = front[:, t]
        full_back[:, t + 1, :, t] = back[:, t]
    return full_front.flatten(3).flatten(1, 2), full_back.flatten(3).flatten(1, 2)


def normalised(front: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their sums."""
    tiny = 1e-12
    return (
        front / front.sum(dim=2, keepdim=True).clamp(min=tiny),
        back / back.sum(dim=2, keepdim=True).clamp(min=tiny),
    )


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
    return normalised(front, back)


def graphs_dense(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of boxes of a clip, then those of neighbouring frames."""
    _, frames, count = boxes.shape[:3]
    frame = torch.arange(frames, device=boxes.device).repeat_interleave(count)
    flat, following = boxes.flatten(1, 2), frame[:, None] + 1 == frame[None]
    sigma = pairwise_iou(flat, flat) * following  # [B, N, N]
    return normalised(sigma, sigma.transpose(1, 2))


def compare_graphs(args: argparse.Namespace) -> None:
    for count in (50, 100):
        regions = random_regions(args.batch, STEPS, count, args.device)
        boxes = regions.boxes_xyxy
        blocks = full_graphs(*overlap_graphs(boxes, regions.mask))
        for peer in (graphs_dense, graphs_by_loop):
            torch.testing.assert_close(peer(boxes), blocks)
        runs: dict[str, Callable[[], object]] = {
            "blocks": partial(overlap_graphs, boxes, regions.mask),
            "dense": partial(graphs_dense, boxes),
            "loop over boxes": partial(graphs_by_loop, boxes),
        }
        print(f"overlap graphs, {args.batch} clips of {STEPS} x {count} boxes")
        aims = {"loop over boxes": f"aim: at least {AIM_LOOP}"}
        report(interleaved_medians(runs, args), "blocks", aims)


def compare_products(args: argparse.Namespace) -> None:
    for count in (50, 100):
        regions = random_regions(args.batch, STEPS, count, args.device)
        front, back = overlap_graphs(regions.boxes_xyxy, regions.mask)
        full = full_graphs(front, back)
        nodes = torch.randn(args.batch, STEPS, count, WIDTH, device=args.device)
        runs: dict[str, Callable[[], object]] = {
            "blocks": partial(blocks_times, front, back, nodes),
            "full matrices": partial(matrices_times, *full, nodes.flatten(1, 2)),
        }
        clips = f"{args.batch} clips of {STEPS} x {count} boxes"
        print(f"products with nodes of width {WIDTH}, {clips}")
        report(interleaved_medians(runs, args), "blocks", {})


def blocks_times(front: Tensor, back: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    return collect("front", front, nodes), collect("back", back, nodes)


def matrices_times(front: Tensor, back: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    return front @ nodes, back @ nodes


def compare_steps(args: argparse.Namespace) -> None:
    clip = {"num_frames": args.frames, "height": args.size, "width": args.size}
    shape = (args.batch, 3, args.frames, args.size, args.size)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device)
    label = torch.zeros(args.batch, dtype=torch.int64, device=args.device)
    joint = create_model(args.architecture, input=clip).to(args.device).train()
    alone = create_model(args.architecture, input=clip, head={"graph": "none"})
    alone = alone.to(args.device).train()
    kind, low = torch.device(args.device).type, args.precision == "bf16"

    def step(model: VideoModel, regions: Regions | None) -> None:
        model.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=low):
            logits = model(video, regions=regions)
        F.cross_entropy(logits.float(), label).backward()

    runs: dict[str, Callable[[], object]] = {"backbone alone": partial(step, alone, None)}
    gmac = {"backbone alone": profile_model(alone)["gmac"]["total"]}
    for count in args.boxes:
        regions = random_regions(args.batch, args.frames, count, args.device)
        runs[f"{count} boxes"] = partial(step, joint, regions)
        model = create_model(args.architecture, input={**clip, "boxes_per_frame": count})
        counted = profile_model(model)["gmac"]
        gmac[f"{count} boxes"] = counted.get("executed", counted["total"])
    clips = f"{args.batch} clips of {args.frames} x {args.size} x {args.size}, {args.precision}"
    print(f"training step of {args.architecture}, {clips}")
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
        ratio = "" if name == ours else f"   {value / seconds[ours]:7.1f} times {ours}{aim}"
        print(f"  {name:16s} {value * 1e3:10.2f} ms{ratio}")


PARTS = {
    "graphs": compare_graphs,
    "products": compare_products,
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
