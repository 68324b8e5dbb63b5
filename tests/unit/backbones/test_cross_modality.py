"""Image weights in backbones of flow: the mean over RGB, names of other codebases, and what does
not fit.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from closeness import assert_close_to_scale
from torch import Tensor, nn

from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.cross_modality import image_weights, mean_over_rgb
from vidgraph.backbones.torchvision2d import TorchvisionBackbone
from vidgraph.errors import WeightsError
from vidgraph.models.norms import partial_batch_norm


def some_images(network: str = "resnet18") -> dict[str, Tensor]:
    """A state dict of torchvision's whose every tensor is drawn."""
    state = torchvision.models.get_model(network, weights=None).state_dict()
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=draw) if value.is_floating_point() else value
        for name, value in state.items()
    }


def test_mean_over_rgb_by_hand() -> None:
    kernel = torch.tensor([[1.0, 2], [3, 4], [8, 0]]).reshape(1, 3, 1, 2)
    assert mean_over_rgb(kernel, 4).tolist() == [[[[4, 2]]] * 4]


def test_flow_network_sees_in_equal_channels_what_the_image_network_sees_in_grey() -> None:
    """The response to 20 equal channels is 20 / 3 times that to a grey image: nothing is
    rescaled.
    """
    images, flow = (
        TorchvisionBackbone("resnet18").eval(),
        TorchvisionBackbone("resnet18", in_channels=20).eval(),
    )
    state = image_weights(images.state_dict(), flow, cross_modality=True)
    flow.load_state_dict(state)
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert_close_to_scale(
            flow.conv1(grey.expand(-1, 20, -1, -1)) * 3 / 20,
            images.conv1(grey.expand(-1, 3, -1, -1)),
            rel=1e-4,
        )
    same = [name for name, value in images.state_dict().items() if name != "conv1.weight"]
    assert all(torch.equal(state[name], images.state_dict()[name]) for name in same)


@pytest.mark.parametrize("network", ["resnet18", "vgg11_bn"])
def test_images_become_a_backbone_of_images_as_they_are(network: str) -> None:
    state, backbone = some_images(network), partial_batch_norm(TorchvisionBackbone(network))
    found = image_weights({f"module.{name}": value for name, value in state.items()}, backbone)
    assert found.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_the_first_published_bn_inception_has_norms_of_two_axes() -> None:
    """And temporal segment networks put `base_model.` before the names and call the classifier
    `new_fc`.
    """
    network = BNInception()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight)
    own = network.state_dict()
    published = {
        f"module.base_model.{n}": v[None] if v.dim() == 1 and "_bn" in n else v
        for n, v in own.items()
        if "num_batches" not in n
    }
    published |= {
        "module.new_fc.weight": torch.zeros(101, 1024),
        "module.new_fc.bias": torch.zeros(101),
    }
    found = image_weights(published, BNInception())
    assert all(torch.equal(found[name], value) for name, value in own.items())


def test_weights_that_do_not_fit_are_one_line() -> None:
    state = some_images()
    flow = TorchvisionBackbone("resnet18", in_channels=20)
    with pytest.raises(
        WeightsError,
        match=r"'conv1.weight': 3 channels of images where the backbone takes 20; .*cross-modality",
    ):
        image_weights(state, flow)
    with pytest.raises(WeightsError, match=r"'layer1.2.conv1.weight' has no place"):
        image_weights(some_images("resnet34"), TorchvisionBackbone("resnet18"))
    with pytest.raises(WeightsError, match=r"fills 'layer1.0.conv1.weight' \(10 in all\)"):
        image_weights(
            {name: value for name, value in state.items() if "layer1.0" not in name},
            TorchvisionBackbone("resnet18"),
        )
    wide = {**state, "bn1.weight": torch.zeros(32)}
    with pytest.raises(WeightsError, match=r"'bn1.weight': \[32\] where the backbone has \[64\]"):
        image_weights(wide, TorchvisionBackbone("resnet18"))
    other = {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(
        WeightsError,
        match=r"'conv1.weight': \[64, 3, 3, 3\] where the backbone has \[64, 20, 7, 7\]",
    ):
        image_weights(other, flow, cross_modality=True)
    ten = {
        **state,
        "conv1.weight": torch.zeros(64, 10, 7, 7),
    }  # of flow itself, whose channels are not to be mixed
    with pytest.raises(
        WeightsError,
        match=r"'conv1.weight': \[64, 10, 7, 7\] where the backbone has \[64, 20, 7, 7\]",
    ):
        image_weights(ten, flow, cross_modality=True)
