"""Batch norms of backbones: frozen ones stay as they were loaded; shapes without values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closeness import assert_close_to_scale
from torch import nn

from vidgraph.backbones.base import (
    FrozenBatchNorm,
    NormKind,
    blank_clip,
    make_batch_norm,
    partial_batch_norm,
    shown,
)
from vidgraph.backbones.image import SmallResNet2D
from vidgraph.backbones.resnet3d import ResNet3D, ResNet3DOptions
from vidgraph.records import InputSpec


def small() -> SmallResNet2D:
    return SmallResNet2D((4, 6, 8))


def test_a_network_that_is_shown_a_clip_stays_as_it_is() -> None:
    spec = InputSpec(4, 64, 48, stride_frames=1)
    network = ResNet3D(ResNet3DOptions(depths=(1, 1, 1, 1), width=4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for one in (spec, replace(spec, height=33)):
        size = shown(network, blank_clip(one)).shape
        assert size == (1, 128, 2, -(-one.height // 16), 3)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def trained_norm(width: int = 6) -> nn.BatchNorm3d:
    """As training leaves it: every channel different."""
    norm = nn.BatchNorm3d(width)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -1, 1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    norm.num_batches_tracked += 7
    return norm


@pytest.mark.parametrize("learn_affine", [False, True])
def test_frozen_norm_equals_a_batch_norm_in_evaluation_and_stays_so(learn_affine: bool) -> None:
    trained, x = trained_norm(), torch.randn(2, 6, 3, 4, 5)
    frozen = FrozenBatchNorm(6, learn_affine).train()
    assert frozen.load_state_dict(trained.state_dict()).missing_keys == []
    state = {name: value.clone() for name, value in frozen.state_dict().items()}
    expected = trained.eval()(x)
    for _ in range(2):
        assert torch.equal(frozen.train()(x), expected)
    assert all(torch.equal(value, state[name]) for name, value in frozen.state_dict().items())
    by_hand = (x - trained.running_mean.view(-1, 1, 1, 1)) / (
        trained.running_var.view(-1, 1, 1, 1) + 1e-5
    ).sqrt()
    assert_close_to_scale(
        expected, by_hand * trained.weight.view(-1, 1, 1, 1) + trained.bias.view(-1, 1, 1, 1)
    )
    trained.load_state_dict(frozen.state_dict())


def test_what_learns_in_each_kind() -> None:
    learning = {
        kind: [n for n, p in make_batch_norm(kind, 4).named_parameters() if p.requires_grad]
        for kind in NormKind.__args__
    }
    assert learning == {
        "batch": ["weight", "bias"],
        "frozen": [],
        "frozen_statistics": ["weight", "bias"],
    }


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_buffers() if "running" in name}


def test_only_the_first_norm_gathers_statistics_whatever_train_says() -> None:
    torch.manual_seed(0)
    network = partial_batch_norm(small())
    before, images = statistics(network), 3 + 2 * torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):
        network.eval()
        # what every epoch does, and what wakes a batch norm that was only put to eval
        network.train()
        network(images).square().mean().backward()
        optimizer.step()
    moved = {
        name for name, value in statistics(network).items() if not torch.equal(value, before[name])
    }
    assert moved == {"bn1.running_mean", "bn1.running_var"}
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_outputs_in_training_are_those_of_the_statistics() -> None:
    """But for the first norm, a network in training computes what it computes in evaluation."""
    torch.manual_seed(0)
    plain, images = small(), torch.randn(4, 3, 32, 32)
    for norm in (m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.load_state_dict(trained_norm(norm.num_features).state_dict())
    partial = partial_batch_norm(small())
    assert partial.load_state_dict(plain.state_dict()).missing_keys == []
    plain.eval().bn1.train()
    assert_close_to_scale(partial.train()(images), plain(images))
    assert partial.state_dict().keys() == plain.state_dict().keys()


def test_gains_and_biases_learn_or_stay() -> None:
    for learn_affine, count in ((True, 14), (False, 2)):
        network = partial_batch_norm(small(), learn_affine)
        learned = [name for name, p in network.named_parameters() if p.requires_grad]
        assert sum("bn" in name or "downsample.1" in name for name in learned) == count
