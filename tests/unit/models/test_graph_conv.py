"""Graph convolutions over regions: a plain form with full matrices, the start at zero and how it is
left, masks, order.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError
from vidgraph.models.graph_conv import GraphConvolution, RegionGraph, RegionGraphOptions
from vidgraph.models.overlap import dense_graphs, overlap_graphs

WIDTH, BATCH, FRAMES, COUNT = 6, 3, 4, 5
KINDS: list[dict[str, Any]] = [
    {"graph": "sim"},
    {"graph": "st"},
    {"graph": "joint"},
    {"graph": "joint", "fusion": "joint"},
]


def region_graph(**options: Any) -> RegionGraph:
    return RegionGraph(RegionGraphOptions(**{"width": WIDTH, **options}))


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
                    z = z + x if graph.options.residual else z
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
    for norm in (
        module
        for module in graph.modules()
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine
    ):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    assert_close_to_scale(
        graph(nodes, boxes, mask), plain_form(graph, nodes, boxes, mask), rel=1e-4
    )


def test_one_layer_by_hand() -> None:
    """Two boxes at one place in two frames, width 2: Z = front X W_f + back X W_b, then layer norm
    and ReLU.
    """
    layer = GraphConvolution(2, ("front", "back"), last=False)
    layer.weights["front"].weight.data = torch.tensor([[1.0, 0], [0, 2]])
    layer.weights["back"].weight.data = torch.tensor([[0.0, 1], [3, 0]])
    graph = region_graph(graph="st", width=2)
    box = torch.tensor([0.0, 0, 4, 4]).expand(1, 2, 1, 4)
    nodes = torch.tensor([[1.0, 2], [3, 5]]).reshape(1, 2, 1, 2)
    links = graph.links(nodes, box, torch.ones(1, 2, 1, dtype=torch.bool))
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
    layers but the last of each branch.
    """
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
    hundred times too large.
    """
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = region_graph(**options), some_regions()
    target = torch.randn_like(nodes)
    assert not graph(nodes, boxes, mask).any()
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (graph(nodes, boxes, mask) * target).sum().backward()
        moved.append(
            {
                name
                for name, parameter in graph.named_parameters()
                if parameter.grad is not None and parameter.grad.any()
            }
        )
        assert all(
            parameter.grad is None or torch.isfinite(parameter.grad).all()
            for parameter in graph.parameters()
        )
        optimizer.step()
    last = {name for name, _ in graph.named_parameters() if ".2.weights." in name}
    assert len(last) == sum(len(edges) for edges in graph.options.branches().values())
    assert moved[0] == last
    assert moved[1] == {name for name, _ in graph.named_parameters()}


@pytest.mark.parametrize("options", KINDS)
def test_what_is_masked_has_no_influence(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = awake(region_graph(**options)), some_regions()
    expected = graph(nodes, boxes, mask)
    other_nodes = nodes + 100 * torch.randn_like(nodes) * ~mask[..., None]
    other_boxes = torch.where(mask[..., None], boxes, torch.tensor([0.0, 0, 1e4, 1e4]))
    assert_close_to_scale(graph(other_nodes, other_boxes, mask)[mask], expected[mask])


@pytest.mark.parametrize("options", KINDS)
def test_another_order_of_boxes_and_a_batch_of_one(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = awake(region_graph(**options)), some_regions()
    expected = graph(nodes, boxes, mask)
    order = torch.argsort(
        torch.rand(BATCH, FRAMES, COUNT), dim=-1
    )  # each frame has an order of its own

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


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"fusion": "joint"}])
def test_compiled_equals_eager(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    graph, (nodes, boxes, mask) = awake(region_graph(**options)), some_regions()
    compiled = torch.compile(graph, fullgraph=True)
    assert_close_to_scale(compiled(nodes, boxes, mask), graph(nodes, boxes, mask), rel=1e-4)


@pytest.mark.parametrize("name", ["width", "num_layers"])
def test_sizes_below_one_are_one_line(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} is 0; a graph over regions needs at least 1"):
        RegionGraphOptions(**{name: 0})
