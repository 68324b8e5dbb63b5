"""Similarity graph: a plain loop, masks, how even it starts, precision."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.similarity import SimilarityGraph


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
    for b in range(2):
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


def test_rows_sum_to_one_or_to_exactly_zero_and_masked_columns_are_zero() -> None:
    layer, nodes, mask = layer_and_nodes()
    graph = layer(nodes, mask)
    assert_close_to_scale(graph.sum(-1), mask.float())
    assert not graph[~mask].any()
    assert not graph.transpose(1, 2)[~mask].any()
    assert not graph[-1].any()  # a clip without any node


def test_masked_nodes_have_no_influence_and_gradients_are_finite() -> None:
    layer, nodes, mask = layer_and_nodes()
    nodes.requires_grad_()
    graph = layer(nodes, mask)
    (graph * torch.randn_like(graph)).sum().backward()
    assert nodes.grad is not None
    assert torch.isfinite(nodes.grad).all()
    assert not nodes.grad[~mask].any()
    assert nodes.grad[mask].any()
    other = nodes.detach().masked_fill(~mask[..., None], 1e4)
    assert_close_to_scale(layer(other, mask), graph)


def test_the_embeddings_learn() -> None:
    layer, nodes, mask = layer_and_nodes()
    graph = layer(nodes, mask)
    (graph * torch.randn_like(graph)).sum().backward()
    assert all(
        linear.weight.grad is not None and linear.weight.grad.abs().min() > 0
        for linear in (layer.query, layer.key)
    )


def mean_entropy(graph: Tensor) -> float:
    """Of the rows, as a share of the largest possible."""
    return -(graph * graph.clamp(min=1e-30).log()).sum(-1).mean().item() / math.log(graph.shape[-1])


def test_it_starts_nearly_even_where_other_starts_are_saturated() -> None:
    """At the paper's size. Features of unit deviation, as far as they are above zero: a map after
    ReLU.
    """
    torch.manual_seed(0)
    nodes, mask = F.relu(torch.randn(1, 800, 512)), torch.ones(1, 800, dtype=torch.bool)
    ours, scaled = SimilarityGraph(512), SimilarityGraph(512, scale=True)
    assert mean_entropy(ours(nodes, mask)) > 0.95
    for start in (
        lambda weight: nn.init.normal_(weight, std=512**-0.5),
        lambda weight: nn.init.kaiming_uniform_(weight, a=math.sqrt(5)),
    ):
        for layer in (ours, scaled):
            start(layer.query.weight)
            start(layer.key.weight)
        assert mean_entropy(ours(nodes, mask)) < 0.5
        assert mean_entropy(scaled(nodes, mask)) > 0.95


def test_autocast_does_not_reach_it() -> None:
    layer, nodes, mask = layer_and_nodes()
    plain = layer(nodes, mask)
    with torch.autocast("cpu", torch.bfloat16):
        graph = layer(nodes, mask)
    assert graph.dtype == torch.float32
    assert torch.equal(graph, plain)


def test_a_batch_of_one_and_another_order_of_nodes() -> None:
    layer, nodes, mask = layer_and_nodes()
    graph = layer(nodes, mask)
    assert_close_to_scale(layer(nodes[1:2], mask[1:2]), graph[1:2])
    order = torch.randperm(7)
    assert_close_to_scale(layer(nodes[:, order], mask[:, order]), graph[:, order][:, :, order])
