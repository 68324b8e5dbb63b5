"""What the nodes of a region graph tell of synchronous digits, by linear fits: which digit, where,
and how far it moves.

A node stands for the true box of one digit in one frame. Ridge regressions on half of the clips are
tried on the other half: of the digit (share right), of the centre of its box and of that centre's
way to the next frame (shares of variance explained, R2). Inputs are the nodes before the graph, and
what each graph gathers for them from their neighbours.

    python benchmarks/region_probe.py results/weights/syncmnist3-strg_joint_small --digits mnist

Shapes: B clips, T frames, K digits per clip, D width, P what a fit sees, Q what it predicts.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidgraph import from_pretrained
from vidgraph.data.digits import load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import FRAME, SyncMnistStream
from vidgraph.models.base import ClipModel
from vidgraph.models.region_graph import collect
from vidgraph.models.strg import STRGHead

RIDGE = 1e-3
BATCH = 50


def look(
    model: ClipModel, head: STRGHead, stream: SyncMnistStream, num_clips: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Inputs of the fits by name, [B, T, K, D] each; centres of the boxes in pixels [B, T, K, 2];
    digits [B, T, K]."""
    seen: dict[str, list[Tensor]] = {}
    centres, digits = [], []
    for start in range(0, num_clips, BATCH):
        rows = np.arange(start, min(start + BATCH, num_clips))
        clips, (images, _, _) = stream.__getitems__(rows.tolist()), stream.plan(rows)
        assert clips.video is not None
        features = head.reduce(model.forward_features(clips.video))
        nodes, steps = head.nodes(features, clips.regions)
        seen.setdefault("nodes", []).append(nodes)
        if head.graph is not None:
            graphs = head.graph.graphs(nodes, steps.boxes_xyxy, steps.mask)
            for edges in graphs.keys() & {"similarity", "front"}:
                seen.setdefault(edges, []).append(collect(edges, graphs[edges], nodes))
        centres.append((steps.boxes_xyxy[..., :2] + steps.boxes_xyxy[..., 2:]) / 2 * FRAME)
        shown = torch.from_numpy(stream.digits.labels[images]).long()  # [B, K]
        digits.append(shown[:, None].expand(nodes.shape[:3]))
    found = {name: torch.cat(parts).float() for name, parts in seen.items()}
    if "front" in found:
        found["nodes + front"] = torch.cat([found["nodes"], found["front"]], dim=-1)
    return found, torch.cat(centres), torch.cat(digits)


def fit(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A ridge regression on the first half of [B, T, K, P] to [B, T, K, Q]; its predictions and the
    truth on the second half."""
    half = len(inputs) // 2
    known, new = inputs[:half].flatten(0, 2).double(), inputs[half:].flatten(0, 2).double()
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    known, new = (F.pad((part - mean) / deviation, (0, 1), value=1.0) for part in (known, new))
    wanted, truth = targets[:half].flatten(0, 2).double(), targets[half:].flatten(0, 2).double()
    damped = known.T @ known + RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    return new @ torch.linalg.solve(damped, known.T @ wanted), truth


def explained(inputs: Tensor, targets: Tensor) -> float:
    """R2 on the clips that the fit had not seen."""
    predicted, truth = fit(inputs, targets)
    return 1 - float((predicted - truth).square().sum() / (truth - truth.mean(0)).square().sum())


def share_right(inputs: Tensor, digits: Tensor) -> float:
    """How often the largest of ten fitted scores is the digit's, on the clips that the fit had not
    seen."""
    predicted, truth = fit(inputs, F.one_hot(digits, 10))
    return float((predicted.argmax(1) == truth.argmax(1)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", help="a run folder or weights of a strg_..._small row of syncmnist3"
    )
    parser.add_argument(
        "--digits", default="mnist", help="embedded, mnist, or a folder with MNIST's four idx files"
    )
    parser.add_argument("--num-digits", type=int, default=3)
    parser.add_argument("--clips", type=int, default=1200)
    args = parser.parse_args()
    torch.set_num_threads(1)

    model = from_pretrained(args.model).eval()
    if not isinstance(model, ClipModel) or not isinstance(model.head, STRGHead):
        parser.error(f"{args.model} has no region graph")
    stream = SyncMnistStream(
        load_digits(args.digits, "test"), SyncMnistOptions(args.num_digits), args.clips, seed=5
    )
    with torch.inference_mode():
        found, centres, digits = look(model, model.head, stream, args.clips)
    moves = centres[:, 1:] - centres[:, :-1]
    print(
        f"{args.clips} clips, fits on half of them; digits move {moves.std():.1f} pixels per "
        "frame in each direction (deviation)"
    )
    for name in ("nodes", "similarity", "front", "nodes + front"):
        if name in found:
            held = found[name][:, :-1]  # the last frame has no next
            print(
                f"{name:<20}digit {share_right(held, digits[:, :-1]):.0%}   "
                f"position R2 {explained(held, centres[:, :-1]):.2f}   "
                f"displacement R2 {explained(held, moves):.2f}"
            )


if __name__ == "__main__":
    main()
