"""Inflation: on a long clip that stands still, an inflated network computes what the image network
computes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from vidgraph.backbones.inflate import inflate, inflate_resnet, our_name
from vidgraph.backbones.resnet3d import DEPTHS, BackboneOptions, ResNet3D, resnet3d
from vidgraph.errors import WeightsError

FRAMES = 64


@pytest.fixture(scope="module")
def image_net() -> nn.Module:
    """torchvision's ResNet-50 with norms as training leaves them: different for every channel."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def image_maps(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Maps of one image, by the names of ours."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    maps = {}
    for i in range(1, 5):
        x = getattr(model, f"layer{i}")(x)
        maps[f"res{i + 1}"] = x
    return maps


def inflated(image_net: nn.Module, **options: Any) -> ResNet3D:
    model = resnet3d(DEPTHS[50], BackboneOptions(res5_stride=2, **options)).eval()
    model.load_state_dict(inflate_resnet(image_net.state_dict(), model))
    return model


@pytest.mark.parametrize("inflation", ["alternate", "table1", "none"])
@torch.no_grad()
def test_middle_of_a_still_clip_equals_the_image_network(
    image_net: nn.Module, inflation: Any
) -> None:
    image = torch.randn(1, 3, 32, 32)
    expected = image_maps(image_net, image)
    maps = inflated(image_net, inflation=inflation).maps(
        image[:, :, None].expand(-1, -1, FRAMES, -1, -1), list(expected)
    )
    for name, x in maps.items():
        scale = expected[name].abs().max()
        frames = x.shape[2]
        middle = slice(None) if inflation == "none" else slice(frames // 2 - 2, frames // 2 + 2)
        difference = (x - expected[name][:, :, None]).abs().amax(dim=(0, 1, 3, 4)) / scale
        assert difference[middle].max() < 1e-5, name
        if (
            inflation != "none"
        ):  # the ends also see padding; were they equal too, nothing would look across frames
            assert min(difference[0], difference[-1]) > 1e-3, name


def test_every_slice_is_a_share_of_the_kernel() -> None:
    kernel = torch.randn(4, 3, 7, 7)
    long = inflate(kernel, torch.Size([4, 3, 5, 7, 7]))
    assert long.shape == (4, 3, 5, 7, 7)
    assert all(torch.equal(long[:, :, t], kernel / 5) for t in range(5))
    assert torch.equal(inflate(kernel, torch.Size([4, 3, 1, 7, 7]))[:, :, 0], kernel)


def test_names() -> None:
    assert our_name("conv1.weight") == "stem.conv.weight"
    assert our_name("bn1.running_var") == "stem.norm.running_var"
    assert our_name("layer1.0.downsample.1.bias") == "res2.0.shortcut_norm.bias"
    assert our_name("layer4.2.conv2.weight") == "res5.2.b.weight"


def test_layers_between_blocks_keep_what_they_have(image_net: nn.Module) -> None:
    model = resnet3d(DEPTHS[50], after={("res3", 1): nn.Conv3d(512, 512, 1, groups=512)})
    state = inflate_resnet(image_net.state_dict(), model)
    assert torch.equal(state["after.res3_1.weight"], model.after["res3_1"].weight)
    assert list(state) == list(model.state_dict())


def test_weights_of_another_network_are_refused(image_net: nn.Module) -> None:
    state = image_net.state_dict()
    with torch.device("meta"):
        deeper = resnet3d(DEPTHS[101])
    with pytest.raises(WeightsError, match=r"fills 'res4\.6\.a\.weight' \(306 in all\)"):
        inflate_resnet(state, deeper)
    with pytest.raises(
        WeightsError,
        match=r"'conv1\.weight': \[64, 3, 7, 7\] where 'stem\.conv\.weight' is \[32, 3, 5, 7, 7\]",
    ):
        inflate_resnet(state, ResNet3D(DEPTHS[50], width=32))
    with pytest.raises(
        WeightsError, match=r"'features\.0\.weight' is none that a torchvision ResNet"
    ):
        inflate_resnet({"features.0.weight": torch.zeros(1)}, ResNet3D((1, 1, 1, 1), width=4))
    with pytest.raises(WeightsError, match=r"'layer1\.2\.conv1\.weight' has no place"):
        inflate_resnet({"layer1.2.conv1.weight": torch.zeros(1)}, ResNet3D((1, 1, 1, 1), width=4))
