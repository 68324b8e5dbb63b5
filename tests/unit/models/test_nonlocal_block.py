"""Non-local block: equal to the plain form, without its matrix; the identity at first, but not
dead.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidgraph.models.nonlocal_block import NonLocalBlock


def block(channels: int = 16, **options: Any) -> NonLocalBlock:
    """With weights that make affinities uneven and the last convolution count."""
    torch.manual_seed(0)
    layer = NonLocalBlock(channels, **options).eval()
    for module in (layer.theta, layer.phi, layer.g, layer.out):
        nn.init.normal_(module.weight, std=0.4)
        nn.init.normal_(module.bias, std=0.1)
    if isinstance(layer.out_norm, nn.BatchNorm3d):
        nn.init.uniform_(layer.out_norm.weight, 0.5, 1.5)
    return layer


def plain(layer: NonLocalBlock, x: Tensor) -> Tensor:
    """The papers' formula with every affinity written out."""
    seen = F.max_pool3d(x, (1, 2, 2)) if isinstance(layer.pool, nn.MaxPool3d) else x
    theta, phi, g = layer.theta(x).flatten(2), layer.phi(seen).flatten(2), layer.g(seen).flatten(2)
    affinity = theta.transpose(1, 2) @ phi  # [B, N, M]
    weights = (affinity / theta.shape[1] ** 0.5).softmax(-1)
    found = (weights @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
    return x + layer.out_norm(layer.out(found))


@pytest.mark.parametrize("norm", ["batch", "frozen_statistics"])
@pytest.mark.parametrize("pool", [True, False])
def test_equals_the_plain_form_in_outputs_and_gradients(norm: Any, pool: bool) -> None:
    layer, x = block(norm=norm, pool=pool).double(), torch.randn(2, 16, 3, 6, 5).double()
    answers = []
    for form in (layer, lambda x: plain(layer, x)):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        out = form(leaf)
        out.square().sum().backward()
        answers.append([out.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    for fused, written_out in zip(*answers, strict=True):
        torch.testing.assert_close(fused, written_out)
    assert (answers[0][0] - x).abs().max() > 0.1


def test_uneven_weights_are_those_of_the_paper() -> None:
    """One channel, two cells, by hand: theta x = (0, ln 3), phi x = (0, 1), so the second cell
    weighs them 1 : 3.
    """
    layer = NonLocalBlock(2, pool=False)
    for module, row in ((layer.theta, [1.0, 0.0]), (layer.phi, [0.0, 1.0]), (layer.g, [0.0, 1.0])):
        module.weight.data = torch.tensor(row).view(1, 2, 1, 1, 1)
    layer.out.weight.data = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    layer.out_norm = nn.Identity()
    x = torch.tensor([[0.0, 1.0986123], [0.0, 1.0]]).view(1, 2, 1, 1, 2)
    added = (layer(x) - x).flatten()
    torch.testing.assert_close(added, torch.tensor([0.5, 0.75, 5.0, 7.5]))


@pytest.mark.parametrize("norm", ["batch", "frozen", "frozen_statistics"])
def test_identity_at_first_but_not_dead(norm: Any) -> None:
    torch.manual_seed(0)
    layer, x = NonLocalBlock(8, norm=norm).train(), torch.randn(4, 8, 2, 4, 4)
    assert torch.equal(layer(x), x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    touched: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        (layer(x) - x.roll(1, 0)).square().mean().backward()
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        touched |= {name for name, x in gradients.items() if x is not None and x.any()}
        optimizer.step()
    # The same number is added to every logit of a row by phi's bias, and a batch norm takes off
    # what a bias before it adds.
    no_effect = {"phi.bias", "g.bias", "out.bias"}
    assert {name for name, _ in layer.named_parameters()} - no_effect <= touched
    assert not torch.equal(layer(x), x)


class Sizes(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.largest = max(
            [self.largest, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))]
        )
        return out


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_the_matrix_of_all_pairs_never_exists(memory: torch.memory_format) -> None:
    x = torch.randn(1, 16, 4, 16, 16).to(memory_format=memory).requires_grad_()
    layer = block()
    pairs = (4 * 16 * 16) * (4 * 8 * 8)
    with Sizes() as sizes:
        layer(x).sum().backward()
    assert sizes.largest <= x.numel()
    with Sizes() as sizes:
        plain(layer, x).sum().backward()
    assert sizes.largest == pairs  # so the measure would have seen it


def test_names_and_initial_weights() -> None:
    layer = NonLocalBlock(64)
    parts = {name.split(".")[0] for name in layer.state_dict()}
    assert parts == {"theta", "phi", "g", "out", "out_norm"}
    for conv in (layer.theta, layer.phi, layer.g, layer.out):
        assert abs(conv.weight.std().item() - 0.01) < 0.001
        assert not conv.bias.any()
    assert not layer.out_norm.weight.any()
    assert not NonLocalBlock(64, norm="frozen").out.weight.any()
