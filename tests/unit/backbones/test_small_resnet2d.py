"""The small residual network of images: sizes, a plain form, gradients."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale
from torch.nn import functional as F

from vidgraph.backbones.small_resnet2d import SmallResNet2D


@pytest.mark.parametrize(
    ("widths", "size"), [((32, 64, 128, 256), (112, 112)), ((8, 16), (33, 50)), ((8,), (16, 7))]
)
def test_declared_sizes_are_those_of_the_map(
    widths: tuple[int, ...], size: tuple[int, int]
) -> None:
    network = SmallResNet2D(widths, in_channels=20)
    cells = [-(-pixels // network.stride) for pixels in size]
    assert network(torch.randn(2, 20, *size)).shape == (2, network.out_channels, *cells)


def test_size_of_the_default() -> None:
    network = SmallResNet2D()
    assert (network.out_channels, network.stride) == (256, 16)
    assert sum(p.numel() for p in network.parameters()) == 1_209_376


@torch.no_grad()
def test_map_equals_its_layers_one_by_one() -> None:
    torch.manual_seed(0)
    network, images = SmallResNet2D((4, 6)).eval(), torch.randn(2, 3, 16, 16)
    block = network.blocks[0]
    x = F.relu(network.norm(network.conv(images)))
    inside = F.relu(block.a_norm(block.a(x)))
    expected = F.relu(block.b_norm(block.b(inside)) + block.shortcut_norm(block.shortcut(x)))
    assert_close_to_scale(network(images), expected)
    assert_close_to_scale(network(images[1:]), expected[1:])


def test_everything_learns() -> None:
    network = SmallResNet2D((4, 6, 8))
    network(torch.randn(3, 3, 32, 32)).square().sum().backward()
    assert [
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()
    ] == []
