"""Torchvision's image networks as backbones: their own maps, declared sizes, other channels, and
networks that are no chain.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from closeness import assert_close_to_scale
from torch import Tensor, nn

from vidgraph.backbones.torchvision2d import TorchvisionBackbone
from vidgraph.errors import RecipeError

NETWORKS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "resnet18": (512, 32, {}),
    "resnet50": (2048, 32, {}),
    "mobilenet_v2": (1280, 32, {}),
    "efficientnet_b0": (1280, 32, {}),
    "regnet_y_400mf": (440, 32, {}),
    "shufflenet_v2_x1_0": (1024, 32, {}),
    "googlenet": (1024, 32, {"aux_logits": False, "init_weights": False}),
}


def settle(network: nn.Module) -> nn.Module:
    """Statistics that are not those of a new network, so that a norm that was left out would
    show.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_pooled_and_classified_it_is_torchvisions(name: str) -> None:
    """The map, through torchvision's own mean and last layers, gives torchvision's logits; no
    tensor is renamed.
    """
    torch.manual_seed(0)
    channels, stride, options = NETWORKS[name]
    theirs, ours = (
        settle(torchvision.models.get_model(name, weights=None, **options)),
        TorchvisionBackbone(name, **options).eval(),
    )
    state = theirs.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    assert (ours.out_channels, ours.stride) == (channels, stride)
    images = torch.randn(2, 3, 96, 64)
    found = ours(images)
    assert found.shape == (2, channels, 96 // stride, 64 // stride)
    head = theirs.fc if hasattr(theirs, "fc") else theirs.classifier
    assert_close_to_scale(head(found.mean(dim=(2, 3))), theirs(images), rel=1e-4)


def test_vgg16_with_and_without_its_last_pool() -> None:
    pooled, whole = TorchvisionBackbone("vgg16"), TorchvisionBackbone("vgg16", last_pool=False)
    assert (pooled.out_channels, pooled.stride) == (512, 32)
    assert (whole.out_channels, whole.stride) == (512, 16)
    assert pooled.state_dict().keys() == whole.state_dict().keys()
    assert (
        sum(p.numel() for p in pooled.parameters()) == 14_714_688
    )  # 138,357,544 less the classifier's 123,642,856
    whole.load_state_dict(pooled.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(nn.functional.max_pool2d(whole(image), 2), pooled(image))
        theirs = torchvision.models.vgg16(weights=None)
        theirs.features.load_state_dict(pooled.features.state_dict())
        assert torch.equal(theirs.features(image), pooled(image))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("resnet18", (64, 20, 7, 7)), ("vgg11_bn", (64, 20, 3, 3)), ("mobilenet_v2", (32, 20, 3, 3))],
)
def test_flow_gets_a_first_convolution_of_its_own(name: str, kernel: tuple[int, ...]) -> None:
    flow, images = TorchvisionBackbone(name, in_channels=20), TorchvisionBackbone(name)
    shapes = {key: value.shape for key, value in images.state_dict().items()}
    differ = {
        key: value.shape for key, value in flow.state_dict().items() if value.shape != shapes[key]
    }
    assert list(differ.values()) == [kernel]
    flow(torch.randn(2, 20, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in flow.parameters())


def test_built_without_numbers() -> None:
    with torch.device("meta"):
        network = TorchvisionBackbone("resnet50", in_channels=20)
        found: Tensor = network(torch.empty(2, 20, 224, 224))
    assert found.shape == (2, 2048, 7, 7)
    assert sum(p.numel() for p in network.parameters()) == 25_557_032 - 2_049_000 + 17 * 64 * 49


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet5", {}, "no network of images 'resnet5'; did you mean"),
        ("vit_b_16", {}, "vit_b_16 is no chain of parts that ends in a map"),
        ("resnet18", {"last_pool": False}, "resnet18 does not end in a max-pool"),
    ],
)
def test_networks_that_do_not_fit(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        TorchvisionBackbone(name, **options)
