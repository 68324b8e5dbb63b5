"""The graphs over the regions of a clip, and the graph convolutions along them.

Source: Videos as Space-Time Region Graphs (ECCV 2018), sections 4 and 5. Where it leaves a choice,
docs/departures.md has ours.

Shapes: B batch, T frames, K boxes per frame, N = T * K nodes of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.norms import full_precision

Edges = Literal["similarity", "front", "back"]

_TINY = torch.finfo(torch.float32).tiny  # zero by this is zero, and no overlap is so small


class SimilarityGraph(nn.Module):
    """F(x_i, x_j) = (w x_i)^T (w' x_j), and G_ij its softmax over j (equations 1 and 2).

    The weights start small, N(0, 0.01), as in the non-local networks: at torch's own start a node
    of 512 channels would give most of its attention to one other node before anything is learned,
    and the softmax would pass hardly any gradient back.

    Args:
        width: of the nodes (D).
        scale: divide the products by the root of the width; the paper does not.
    """

    def __init__(self, width: int, scale: bool = False) -> None:
        super().__init__()
        self.scale = width**-0.5 if scale else 1.0
        self.query = nn.Linear(width, width, bias=False)  # w
        self.key = nn.Linear(width, width, bias=False)  # w'
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Nodes [B, N, D], with a mask of those that exist, to the weight of node j in node i at
        [b, i, j], float32 [B, N, N]: rows of nodes that exist sum to 1, and the rows and columns of
        all others are zero."""
        # Products of 512 channels: bf16 would move a logit by more than a softmax forgives.
        with full_precision(nodes):
            query = F.linear(nodes.float(), self.query.weight.float())  # [B, N, D]
            key = F.linear(nodes.float(), self.key.weight.float())  # [B, N, D]
            logits = query @ key.transpose(1, 2) * self.scale  # [B, N, N]
            # The least number and not minus infinity: a clip without any node would give NaN.
            logits = logits.masked_fill(~mask[:, None, :], torch.finfo(logits.dtype).min)
            return logits.softmax(dim=-1) * (mask[:, :, None] & mask[:, None, :])


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union of boxes [..., K, 4] with boxes [..., M, 4]: float32 [..., K, M].

    A box from 2 to 5 is 3 wide; boxes without area overlap nothing, also each other.
    """
    first, second = first_xyxy.float(), second_xyxy.float()
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])  # [..., K, M, 2]
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)  # [..., K, M]
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (first, second)]
    union = areas[0][..., :, None] + areas[1][..., None, :] - shared
    return shared / union.clamp(min=_TINY)


def overlaps(boxes_xyxy: Tensor, mask: Tensor) -> Tensor:
    """The paper's sigma: IoU of box i at t with box j at t + 1 at [b, t, i, j], float32
    [B, T - 1, K, K]; what stands in boxes where the mask is False has no influence."""
    boxes = boxes_xyxy.masked_fill(~mask[..., None], 0)
    return pairwise_iou(boxes[:, :-1], boxes[:, 1:])


def overlap_graphs(boxes_xyxy: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The forward and backward graphs (equation 3); the second is transposed, then normalised.

    Boxes are linked to those of the next frame only, so that of the N x N entries of a graph all
    but T - 1 blocks of K x K are zero: at 16 frames of 50 boxes 94 of 100. They are never made.

    Args:
        boxes_xyxy: [B, T, K, 4].
        mask: True where a box exists, [B, T, K].

    Returns:
        front, the share of box j at t + 1 in box i at t at [b, t, i, j];
        back, the share of box i at t in box j at t + 1 at [b, t, j, i]; float32 [B, T - 1, K, K]
        each. Every row sums to 1, or to 0 where its box overlaps none.
    """
    sigma = overlaps(boxes_xyxy, mask)
    return _normalised(sigma), _normalised(sigma.transpose(-1, -2))


def _normalised(sigma: Tensor) -> Tensor:
    """Rows divided by their sums; zero rows stay zero."""
    return sigma / sigma.sum(dim=-1, keepdim=True).clamp(min=_TINY)


def collect(edges: Edges, graph: Tensor, nodes: Tensor) -> Tensor:
    """G X: what each node [B, T, K, D] collects along a graph, [B, N, N] of "similarity", else
    [B, T - 1, K, K]; of "front" zero in the last frame, of "back" in the first."""
    graph = graph.to(nodes)
    if edges == "front":
        return F.pad(graph @ nodes[:, 1:], (0, 0, 0, 0, 0, 1))
    if edges == "back":
        return F.pad(graph @ nodes[:, :-1], (0, 0, 0, 0, 1, 0))
    return (graph @ nodes.flatten(1, 2)).reshape(nodes.shape)


class GraphConvolution(nn.Module):
    """Z = sum over graphs of G X W, each graph with its own W (equations 4 and 5); no bias.

    Args:
        width: of the nodes (D), in and out.
        edges: the graphs.
        last: the last layer is plain and its W start at zero, and so does its output; all others
            are followed by layer norm and ReLU. With a ReLU after it, it would stay zero: no
            gradient passes a ReLU that gives zero.
        residual: see `STRGOptions`, also for `affine`.
    """

    def __init__(
        self,
        width: int,
        edges: Sequence[Edges],
        last: bool,
        residual: bool = False,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.edges, self.last, self.residual = tuple(edges), last, residual and not last
        self.weights = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in edges})
        self.norm = nn.Identity() if last else nn.LayerNorm(width, elementwise_affine=affine)
        for weight in self.weights.parameters():
            if last:
                nn.init.zeros_(weight)
            else:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def forward(self, nodes: Tensor, graphs: Mapping[Edges, Tensor]) -> Tensor:
        """[B, T, K, D] along graphs as `collect` takes them, to the same shape."""
        products: list[Tensor] = [self.weights[e](collect(e, graphs[e], nodes)) for e in self.edges]
        summed = sum(products[1:], start=products[0])
        if self.last:
            return summed
        activated = F.relu(self.norm(summed))
        return nodes + activated if self.residual else activated


class RegionGraph(nn.Module):
    """Branches of graph convolutions, each along some of the graphs.

    Args:
        width: of the nodes (D).
        branches: the graphs of each branch, by its name; none for the nodes as they come.
        num_layers: see `STRGOptions`, also for the others.
    """

    def __init__(
        self,
        width: int,
        branches: dict[str, tuple[Edges, ...]],
        num_layers: int = 3,
        residual: bool = False,
        affine: bool = True,
        scale: bool = False,
    ) -> None:
        super().__init__()
        edges = {name for branch in branches.values() for name in branch}
        self.similarity = SimilarityGraph(width, scale) if "similarity" in edges else None
        self.with_overlap = "front" in edges
        self.num_layers, self.branches = num_layers, nn.ModuleDict()
        for name, branch in branches.items():
            lasts = [False] * (num_layers - 1) + [True]
            layers = [GraphConvolution(width, branch, last, residual, affine) for last in lasts]
            self.branches[name] = nn.ModuleList(layers)

    def graphs(self, nodes: Tensor, boxes_xyxy: Tensor, mask: Tensor) -> dict[Edges, Tensor]:
        """Made once for all layers."""
        graphs: dict[Edges, Tensor] = {}
        if self.similarity is not None:
            graphs["similarity"] = self.similarity(nodes.flatten(1, 2), mask.flatten(1, 2))
        if self.with_overlap:
            graphs["front"], graphs["back"] = overlap_graphs(boxes_xyxy, mask)
        return graphs

    def forward(self, nodes: Tensor, boxes_xyxy: Tensor, mask: Tensor) -> Tensor:
        """Nodes [B, T, K, D] with boxes [B, T, K, 4], in any unit, and a mask of those that exist
        to the sum of the branches, exactly zero at initialisation; without branches to themselves.

        Where no region exists the values mean nothing, and none of the others depends on them.
        """
        if not self.branches:
            return nodes
        # Who resembles whom, [B, N, N], and who overlaps whom one frame on and one frame back, [B,
        # T - 1, K, K] each
        graphs = self.graphs(nodes, boxes_xyxy, mask)
        # Each branch by itself through all its layers, [B, T, K, D]; summed in the end
        outputs = []
        for layers in self.branches.values():
            assert isinstance(layers, nn.ModuleList)
            x = nodes
            for layer in layers:
                x = layer(x, graphs)
            outputs.append(x)
        return sum(outputs[1:], start=outputs[0])

    def skipped_gmac(self, nodes: Tensor, *_: Tensor) -> float:
        """Multiply-adds with the zeros of the overlap graphs, which the blocks leave out."""
        batch, steps, boxes, width = nodes.shape
        zeros = (steps * boxes) ** 2 - (steps - 1) * boxes**2
        return self.with_overlap * batch * self.num_layers * 2 * zeros * width / 1e9
