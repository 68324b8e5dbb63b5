"""Norms: frozen ones stay as they were loaded, and folding changes no output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidgraph.backbones.resnet3d import ResNet3D, Stem
from vidgraph.errors import RecipeError
from vidgraph.layers.nonlocal_block import NonLocalBlock
from vidgraph.layers.norms import FrozenBatchNorm, NormKind, fold_norms, make_batch_norm


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
    by_hand = (x - trained.running_mean.view(-1, 1, 1, 1)) / (trained.running_var.view(-1, 1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(expected, by_hand * trained.weight.view(-1, 1, 1, 1) + trained.bias.view(-1, 1, 1, 1))
    trained.load_state_dict(frozen.state_dict())


def test_what_learns_in_each_kind() -> None:
    learning = {kind: [n for n, p in make_batch_norm(kind, 4).named_parameters() if p.requires_grad] for kind in NormKind.__args__}
    assert learning == {"batch": ["weight", "bias"], "frozen": [], "frozen_statistics": ["weight", "bias"]}
    assert [sum(p.numel() for p in make_batch_norm(kind, 4).parameters()) for kind in NormKind.__args__] == [8, 8, 8]
    with pytest.raises(RecipeError, match="no batch norm 'frozn'; did you mean 'frozen'"):
        make_batch_norm("frozn", 4)


def test_gradient_passes_through_a_frozen_norm() -> None:
    frozen = FrozenBatchNorm(6, learn_affine=True)
    frozen.load_state_dict(trained_norm().state_dict())
    x = torch.randn(2, 6, 3, 4, 5, requires_grad=True)
    frozen.train()(x).sum().backward()
    scale = frozen.weight / (frozen.running_var + 1e-5).sqrt()
    torch.testing.assert_close(x.grad, scale.detach().view(1, 6, 1, 1, 1).expand_as(x))  # a constant: no statistics of the batch
    assert frozen.bias.grad.tolist() == [120.0] * 6


@pytest.mark.parametrize("kind", ["batch", "frozen"])
def test_folded_network_gives_the_same_outputs_without_norms(kind: NormKind) -> None:
    torch.manual_seed(0)
    after = {("res3", 0): NonLocalBlock(64, norm=kind)}
    model = ResNet3D((1, 2, 1, 1), width=8, norm=kind, after=after, stem=Stem(kernel=(3, 3, 3)))
    randomise(model)
    nn.init.normal_(model.after["res3_0"].out.weight, std=0.1)
    state, video = {name: value.clone() for name, value in model.state_dict().items()}, torch.randn(2, 3, 4, 32, 32)
    folded = fold_norms(model.train())
    assert not [m for m in folded.modules() if isinstance(m, (nn.BatchNorm3d, FrozenBatchNorm))]
    with torch.no_grad():
        torch.testing.assert_close(folded(video), model.eval()(video), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_norm_that_follows_no_convolution_is_left_alone() -> None:
    model = nn.Module()
    model.first_norm, model.second, model.second_norm = nn.BatchNorm3d(4), nn.Linear(4, 4), nn.BatchNorm3d(4)
    folded = fold_norms(model)
    assert isinstance(folded.first_norm, nn.BatchNorm3d)
    assert isinstance(folded.second_norm, nn.BatchNorm3d)
