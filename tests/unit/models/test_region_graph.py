"""Graphs over regions and the convolutions along them: hand-computed cases, plain loops and full
matrices, masks, the start at zero and how it is left.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.region_graph import (
    GraphConvolution,
    RegionGraph,
    SimilarityGraph,
    collect,
    overlap_graphs,
    overlaps,
    pairwise_iou,
)
from vidgraph.models.strg import STRGOptions


def dense_graphs(front: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Both overlap graphs as the paper writes them, [B, N, N] each with node t * K + k."""
    batch, pairs, boxes = front.shape[:3]
    dense = [front.new_zeros(batch, pairs + 1, boxes, pairs + 1, boxes) for _ in range(2)]
    for t in range(pairs):
        dense[0][:, t, :, t + 1] = front[:, t]
        dense[1][:, t + 1, :, t] = back[:, t]
    return dense[0].flatten(3).flatten(1, 2), dense[1].flatten(3).flatten(1, 2)


# ---- overlap graphs ------------------------------------------------------------------------------


def random_boxes(
    batch: int = 3, frames: int = 5, count: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Boxes of which some overlap and some do not, and a mask with an empty frame and, in the last
    clip, no box at all."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, frames, count, 2, generator=generator) * 80
    boxes = torch.cat(
        [low, low + 5 + torch.rand(batch, frames, count, 2, generator=generator) * 40], dim=-1
    )
    mask = torch.rand(batch, frames, count, generator=generator) > 0.3
    mask[0, 2], mask[-1] = False, False
    return boxes, mask


def plain_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if shared > 0 else 0.0


def test_iou_by_hand() -> None:
    # a square, a point, a reversed box
    first = torch.tensor([[0.0, 0, 2, 2], [1, 1, 1, 1], [3, 3, 2, 2]])
    second = torch.tensor(
        [[1.0, 0, 3, 2], [0, 0, 2, 2], [2, 0, 4, 2], [2.4, 0, 4, 2], [1, 1, 1, 1]]
    )
    expected = torch.tensor([[1 / 3, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    torch.testing.assert_close(pairwise_iou(first, second), expected)


def test_boxes_half_a_pixel_apart_are_no_neighbours() -> None:
    """With widths of x2 - x1 + 1, as of pixel indices, they would be."""
    boxes = torch.tensor([[[[0.0, 0, 10, 10]], [[10.5, 0, 20, 10]]]])
    assert overlaps(boxes, torch.ones(1, 2, 1, dtype=torch.bool)).item() == 0


def test_graphs_by_hand_and_backward_is_not_forward_transposed() -> None:
    """Two boxes at t; the first meets both boxes at t + 1, the second only the second of them."""
    boxes = torch.tensor([[[[0.0, 0, 4, 1], [4, 0, 8, 1]], [[0, 0, 2, 1], [2, 0, 6, 1]]]])
    front, back = overlap_graphs(boxes, torch.ones(1, 2, 2, dtype=torch.bool))
    sigma = torch.tensor([[1 / 2, 1 / 3], [0, 1 / 3]])
    torch.testing.assert_close(overlaps(boxes, torch.ones(1, 2, 2, dtype=torch.bool))[0, 0], sigma)
    torch.testing.assert_close(front[0, 0], torch.tensor([[0.6, 0.4], [0, 1]]))
    torch.testing.assert_close(back[0, 0], torch.tensor([[1.0, 0], [0.5, 0.5]]))
    assert not torch.allclose(back[0, 0], front[0, 0].T)


def test_graphs_equal_a_plain_loop_over_boxes() -> None:
    boxes, mask = random_boxes()
    front, back = overlap_graphs(boxes, mask)
    batch, frames, count = mask.shape
    for b in range(batch):
        for t in range(frames - 1):
            sigma = torch.zeros(count, count)
            for i in range(count):
                for j in range(count):
                    if mask[b, t, i] and mask[b, t + 1, j]:
                        pair = boxes[b, t, i].tolist(), boxes[b, t + 1, j].tolist()
                        sigma[i, j] = plain_iou(*pair)
            for i in range(count):
                ahead, behind = sigma[i].sum(), sigma[:, i].sum()
                assert_close_to_scale(front[b, t, i], sigma[i] / ahead.clamp(min=1e-9))
                assert_close_to_scale(back[b, t, i], sigma[:, i] / behind.clamp(min=1e-9))


def test_rows_sum_to_one_or_to_exactly_zero() -> None:
    boxes, mask = random_boxes()
    # what stands in a masked box must not matter
    boxes = boxes.masked_fill(~mask[..., None], float("nan"))
    for graph in overlap_graphs(boxes, mask):
        assert torch.isfinite(graph).all()
        sums = graph.sum(-1)
        assert_close_to_scale(sums, (sums > 0).float())
        assert (sums == 0).any()
        assert not graph[-1].any()
    front, back = overlap_graphs(boxes, mask)
    assert not front[0, 1:3].any()  # into and out of the empty frame
    assert not front[0, 0][~mask[0, 0]].any()
    assert not back[0, 3][~mask[0, 4]].any()


def test_forward_brings_the_next_frame_and_backward_the_one_before() -> None:
    boxes = torch.tensor([0.0, 0, 4, 4]).expand(1, 3, 1, 4)
    front, back = overlap_graphs(boxes, torch.ones(1, 3, 1, dtype=torch.bool))
    nodes = torch.tensor([10.0, 20, 30]).reshape(1, 3, 1, 1)
    assert collect("front", front, nodes).flatten().tolist() == [20, 30, 0]
    assert collect("back", back, nodes).flatten().tolist() == [0, 10, 20]


def test_a_clip_of_one_frame_has_no_edges() -> None:
    boxes, mask = random_boxes(frames=3)
    front, back = overlap_graphs(boxes[:, :1], mask[:, :1])
    assert front.shape == back.shape == (3, 0, 6, 6)
    nodes = torch.randn(3, 1, 6, 4)
    assert not collect("front", front, nodes).any()
    assert not collect("back", back, nodes).any()


# ---- similarity graph ----------------------------------------------------------------------------


def layer_and_nodes(
    width: int = 6, batch: int = 3, size: int = 7, scale: bool = False
) -> tuple[SimilarityGraph, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = SimilarityGraph(width, scale)
    for linear in (layer.query, layer.key):
        nn.init.normal_(linear.weight)
    mask = torch.rand(batch, size) > 0.3
    mask[-1] = False
    return layer, torch.randn(batch, size, width), mask


@pytest.mark.parametrize("scale", [False, True])
def test_weights_equal_a_plain_loop(scale: bool) -> None:
    layer, nodes, mask = layer_and_nodes(scale=scale)
    graph = layer(nodes, mask)
    for b in range(3):  # the last has no node
        exists = mask[b].nonzero()[:, 0].tolist()
        for i in range(7):
            expected = torch.zeros(7)
            if i in exists:
                asked = layer.query.weight @ nodes[b, i]
                products = {
                    j: (asked @ (layer.key.weight @ nodes[b, j])).item()
                    / (math.sqrt(6) if scale else 1)
                    for j in exists
                }
                total = sum(math.exp(product) for product in products.values())
                for j, product in products.items():
                    expected[j] = math.exp(product) / total
            assert_close_to_scale(graph[b, i], expected)


def mean_entropy(graph: Tensor) -> float:
    """Of the rows, as a share of the largest possible."""
    return -(graph * graph.clamp(min=1e-30).log()).sum(-1).mean().item() / math.log(graph.shape[-1])


def test_it_starts_nearly_even_where_other_starts_are_saturated() -> None:
    """At the paper's size. Features of unit deviation, as far as they are above zero: a map after
    ReLU."""
    torch.manual_seed(0)
    nodes, mask = F.relu(torch.randn(1, 800, 512)), torch.ones(1, 800, dtype=torch.bool)
    ours, scaled = SimilarityGraph(512), SimilarityGraph(512, scale=True)
    assert mean_entropy(ours(nodes, mask)) > 0.95
    for layer in (ours, scaled):
        nn.init.normal_(layer.query.weight, std=512**-0.5)
        nn.init.normal_(layer.key.weight, std=512**-0.5)
    assert mean_entropy(ours(nodes, mask)) < 0.5
    assert mean_entropy(scaled(nodes, mask)) > 0.95


def test_autocast_does_not_reach_it() -> None:
    layer, nodes, mask = layer_and_nodes()
    plain = layer(nodes, mask)
    with torch.autocast("cpu", torch.bfloat16):
        graph = layer(nodes, mask)
    assert graph.dtype == torch.float32
    assert torch.equal(graph, plain)


# ---- graph convolutions --------------------------------------------------------------------------

WIDTH, BATCH, FRAMES, COUNT = 6, 3, 4, 5
KINDS: list[dict[str, Any]] = [
    {"graph": "sim"},
    {"graph": "st"},
    {"graph": "joint"},
    {"graph": "joint", "fusion": "joint"},
]


def region_graph(width: int = WIDTH, **options: Any) -> RegionGraph:
    how = STRGOptions(**options)
    parts = (how.num_layers, how.residual, how.affine, how.scale)
    return RegionGraph(width, how.branches(), *parts)


def awake(graph: RegionGraph) -> RegionGraph:
    """With a last layer that is not zero, so that its output says something."""
    for layers in graph.branches.values():
        for weight in layers[-1].weights.values():
            nn.init.normal_(weight.weight)
    return graph


def some_regions(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, boxes and a mask with an empty frame."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(BATCH, FRAMES, COUNT, WIDTH, generator=generator)
    low = torch.rand(BATCH, FRAMES, COUNT, 2, generator=generator) * 40
    boxes = torch.cat(
        [low, low + 10 + torch.rand(BATCH, FRAMES, COUNT, 2, generator=generator) * 30], dim=-1
    )
    mask = torch.rand(BATCH, FRAMES, COUNT, generator=generator) > 0.25
    mask[0, 1] = False
    return nodes.masked_fill(~mask[..., None], 0), boxes, mask


def plain_form(graph: RegionGraph, nodes: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
    """Equations 2 to 5 with N x N matrices, one clip at a time."""
    dense = dict(zip(("front", "back"), dense_graphs(*overlap_graphs(boxes, mask)), strict=True))
    out = torch.zeros_like(nodes)
    for b in range(BATCH):
        x0, exists = nodes[b].flatten(0, 1), mask[b].flatten()  # [N, D], [N]
        matrices = {name: matrix[b] for name, matrix in dense.items()}
        if graph.similarity is not None:
            logits = (x0 @ graph.similarity.query.weight.T) @ (x0 @ graph.similarity.key.weight.T).T
            weights = logits.masked_fill(~exists[None], float("-inf")).softmax(dim=1)
            matrices["similarity"] = weights * exists[:, None]
        for layers in graph.branches.values():
            x = x0
            for depth, layer in enumerate(layers):
                z = torch.zeros_like(x)
                for edges, weight in layer.weights.items():
                    z = z + matrices[edges] @ (x @ weight.weight.T)
                if depth < len(layers) - 1:
                    z = F.relu(F.layer_norm(z, (WIDTH,), layer.norm.weight, layer.norm.bias))
                    z = z + x if layer.residual else z
                x = z
            out[b] += x.reshape(FRAMES, COUNT, WIDTH)
    return out


@pytest.mark.parametrize(
    "options",
    [
        *KINDS,
        {"residual": True},
        {"affine": False},
        {"num_layers": 1},
        {"num_layers": 2, "graph": "st"},
    ],
)
def test_layers_equal_the_plain_form(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = awake(region_graph(**options)), some_regions()
    for name, parameter in graph.named_parameters():
        if ".norm." in name:
            nn.init.normal_(parameter)
    assert_close_to_scale(
        graph(nodes, boxes, mask), plain_form(graph, nodes, boxes, mask), rel=1e-4
    )


def test_one_layer_by_hand() -> None:
    """Two boxes at one place in two frames, width 2: Z = front X W_f + back X W_b, then layer norm
    and ReLU."""
    layer = GraphConvolution(2, ("front", "back"), last=False)
    layer.weights["front"].weight.data = torch.tensor([[1.0, 0], [0, 2]])
    layer.weights["back"].weight.data = torch.tensor([[0.0, 1], [3, 0]])
    graph = region_graph(graph="st", width=2)
    box = torch.tensor([0.0, 0, 4, 4]).expand(1, 2, 1, 4)
    nodes = torch.tensor([[1.0, 2], [3, 5]]).reshape(1, 2, 1, 2)
    links = graph.graphs(nodes, box, torch.ones(1, 2, 1, dtype=torch.bool))
    summed = GraphConvolution(2, ("front", "back"), last=True)
    summed.load_state_dict(
        {name: value for name, value in layer.state_dict().items() if name.startswith("weights")}
    )
    # frame 0 collects frame 1 = (3, 5) through the front weights, frame 1 collects frame 0 = (1, 2)
    # through the back weights
    assert summed(nodes, links).flatten(0, 2).tolist() == [[3, 10], [2, 3]]
    assert layer(nodes, links).flatten(0, 2).tolist() == [
        pytest.approx([0, 1], abs=1e-4),
        pytest.approx([0, 1], abs=1e-4),
    ]


@pytest.mark.parametrize(
    ("options", "matrices", "norms"),
    [
        ({"graph": "avgpool"}, 0, 0),
        ({"graph": "sim"}, 5, 2),
        ({"graph": "st"}, 6, 2),
        ({}, 11, 4),
        ({"fusion": "joint"}, 11, 2),
    ],
)
def test_what_each_graph_has_to_learn(options: dict[str, Any], matrices: int, norms: int) -> None:
    """Three layers; two matrices for the similarities, one per graph and layer; norms after all
    layers but the last of each branch."""
    graph = region_graph(**options)
    assert sum(p.numel() for p in graph.parameters()) == matrices * WIDTH**2 + norms * 2 * WIDTH
    plain = region_graph(**options, affine=False)
    assert sum(p.numel() for p in plain.parameters()) == matrices * WIDTH**2


def test_avgpool_leaves_the_nodes_as_they_are() -> None:
    nodes, boxes, mask = some_regions()
    assert region_graph(graph="avgpool")(nodes, boxes, mask) is nodes


@pytest.mark.parametrize("options", [*KINDS, {"residual": True}])
def test_output_is_exactly_zero_at_first_and_everything_learns_by_the_second_step(
    options: dict[str, Any],
) -> None:
    """With a ReLU or a norm after the last layer, the gradient would be zero for ever, or three
    hundred times too large."""
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = region_graph(**options), some_regions()
    target = torch.randn_like(nodes)
    assert not graph(nodes, boxes, mask).any()
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (graph(nodes, boxes, mask) * target).sum().backward()
        gradients = {name: p.grad for name, p in graph.named_parameters() if p.grad is not None}
        assert all(torch.isfinite(x).all() for x in gradients.values())
        moved.append({name for name, x in gradients.items() if x.any()})
        optimizer.step()
    last = {name for name, _ in graph.named_parameters() if ".2.weights." in name}
    assert len(last) == sum(map(len, STRGOptions(**options).branches().values()))
    assert moved[0] == last
    assert moved[1] == {name for name, _ in graph.named_parameters()}


@pytest.mark.parametrize("options", KINDS)
def test_another_order_of_boxes_and_a_batch_of_one(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = awake(region_graph(**options)), some_regions()
    expected = graph(nodes, boxes, mask)
    order = torch.argsort(torch.rand(BATCH, FRAMES, COUNT), dim=-1)

    def ordered(x: Tensor) -> Tensor:
        index = order.reshape(*order.shape, *[1] * (x.dim() - 3)).expand_as(x)
        return x.gather(2, index)

    assert_close_to_scale(graph(*map(ordered, (nodes, boxes, mask))), ordered(expected), rel=1e-4)
    assert_close_to_scale(graph(nodes[1:2], boxes[1:2], mask[1:2]), expected[1:2], rel=1e-4)


def test_time_has_a_direction_in_the_overlap_graphs_only() -> None:
    torch.manual_seed(0)
    nodes, boxes, mask = some_regions()
    similar, overlapping = awake(region_graph(graph="sim")), awake(region_graph(graph="st"))
    for graph, differs in ((similar, False), (overlapping, True)):
        forwards = graph(nodes, boxes, mask)
        backwards = graph(nodes.flip(1), boxes.flip(1), mask.flip(1)).flip(1)
        assert ((forwards - backwards)[mask].abs().max() > 0.1) == differs


@pytest.mark.parametrize("options", KINDS)
def test_bf16_stays_close(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = awake(region_graph(**options)), some_regions()
    plain = graph(nodes, boxes, mask)[mask]
    with torch.autocast("cpu", torch.bfloat16):
        rough = graph(nodes, boxes, mask)[mask]
    assert (rough.float() - plain).norm() / plain.norm() < 0.05
