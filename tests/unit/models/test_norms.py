"""Norms: frozen ones stay as they were loaded, and folding changes no output."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from closeness import assert_close_to_scale
from torch import nn

from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.resnet3d import ResNet3D, Stem
from vidgraph.backbones.small_resnet2d import SmallResNet2D
from vidgraph.backbones.torchvision2d import TorchvisionBackbone
from vidgraph.errors import RecipeError
from vidgraph.models.nonlocal_block import NonLocalBlock
from vidgraph.models.norms import (
    FrozenBatchNorm,
    NormKind,
    fold_norms,
    make_batch_norm,
    partial_batch_norm,
)


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


def randomise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm3d, FrozenBatchNorm)):
            module.load_state_dict(trained_norm(len(module.weight)).state_dict())


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
    assert [
        sum(p.numel() for p in make_batch_norm(kind, 4).parameters()) for kind in NormKind.__args__
    ] == [8, 8, 8]
    with pytest.raises(RecipeError, match="no batch norm 'frozn'; did you mean 'frozen'"):
        make_batch_norm("frozn", 4)


def test_gradient_passes_through_a_frozen_norm() -> None:
    frozen = FrozenBatchNorm(6, learn_affine=True)
    frozen.load_state_dict(trained_norm().state_dict())
    x = torch.randn(2, 6, 3, 4, 5, requires_grad=True)
    frozen.train()(x).sum().backward()
    scale = frozen.weight / (frozen.running_var + 1e-5).sqrt()
    torch.testing.assert_close(
        x.grad, scale.detach().view(1, 6, 1, 1, 1).expand_as(x)
    )  # a constant: no statistics of the batch
    assert frozen.bias.grad.tolist() == [120.0] * 6


@pytest.mark.parametrize("kind", ["batch", "frozen"])
def test_folded_network_gives_the_same_outputs_without_norms(kind: NormKind) -> None:
    torch.manual_seed(0)
    after = {("res3", 0): NonLocalBlock(64, norm=kind)}
    model = ResNet3D((1, 2, 1, 1), width=8, norm=kind, after=after, stem=Stem(kernel=(3, 3, 3)))
    randomise(model)
    nn.init.normal_(model.after["res3_0"].out.weight, std=0.1)
    state, video = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.randn(2, 3, 4, 32, 32),
    )
    folded = fold_norms(model.train())
    assert not [m for m in folded.modules() if isinstance(m, (nn.BatchNorm3d, FrozenBatchNorm))]
    with torch.no_grad():
        assert_close_to_scale(folded(video), model.eval()(video), rel=1e-4)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("build", [BNInception, SmallResNet2D])
def test_folded_networks_of_images(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = partial_batch_norm(build())
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm)):
            module.load_state_dict(trained_norm(len(module.weight)).state_dict())
    folded, images = fold_norms(network), torch.randn(2, 3, 64, 64)
    assert not [m for m in folded.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm))]
    with torch.no_grad():
        expected = network.eval()(images)
        assert_close_to_scale(folded(images), expected)


def test_a_norm_that_follows_no_convolution_is_left_alone() -> None:
    model = nn.Module()
    model.first_norm, model.second, model.second_norm = (
        nn.BatchNorm3d(4),
        nn.Linear(4, 4),
        nn.BatchNorm3d(4),
    )
    folded = fold_norms(model)
    assert isinstance(folded.first_norm, nn.BatchNorm3d)
    assert isinstance(folded.second_norm, nn.BatchNorm3d)


# ---- partial batch norm --------------------------------------------------------------------------


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_buffers() if "running" in name}


def test_only_the_first_norm_gathers_statistics_whatever_train_says() -> None:
    torch.manual_seed(0)
    network = partial_batch_norm(SmallResNet2D((4, 6, 8)))
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
    assert moved == {"norm.running_mean", "norm.running_var"}
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_outputs_in_training_are_those_of_the_statistics() -> None:
    """But for the first norm, a network in training computes what it computes in evaluation."""
    torch.manual_seed(0)
    plain, images = SmallResNet2D((4, 6, 8)), torch.randn(4, 3, 32, 32)
    for norm in (m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.load_state_dict(trained_norm(norm.num_features).state_dict())
    partial = partial_batch_norm(SmallResNet2D((4, 6, 8)))
    assert partial.load_state_dict(plain.state_dict()).missing_keys == []
    plain.eval().norm.train()
    assert_close_to_scale(partial.train()(images), plain(images))
    assert partial.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("build", "total"), [(BNInception, 69), (lambda: TorchvisionBackbone("resnet18"), 20)]
)
def test_partial_batch_norm_of_published_networks(
    build: Callable[[], nn.Module], total: int
) -> None:
    with torch.device("meta"):
        network = partial_batch_norm(build())
    kinds = [type(m) for m in network.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm))]
    assert kinds == [nn.BatchNorm2d] + [FrozenBatchNorm] * (total - 1)


def test_gains_and_biases_learn_or_stay() -> None:
    for learn_affine, count in ((True, 14), (False, 2)):
        network = partial_batch_norm(SmallResNet2D((4, 6, 8)), learn_affine)
        assert (
            sum(p.requires_grad for name, p in network.named_parameters() if "norm" in name)
            == count
        )
