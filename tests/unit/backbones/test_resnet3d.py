"""ResNets over clips: shapes and costs equal to the published tables, strides, and layers between
blocks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidgraph.backbones.base import FrozenBatchNorm
from vidgraph.backbones.resnet3d import (
    LAYERS,
    R50,
    R101,
    STEMS,
    ResNet3D,
    ResNet3DOptions,
    channels_after,
    temporal_kernels,
)
from vidgraph.errors import RecipeError

CHARADES = 2048 * 157 + 157  # parameters of the classifier that the published counts include


def small(inserted: dict[str, nn.Module] | None = None, **changes: Any) -> ResNet3D:
    """Two blocks per layer, an eighth of the width."""
    torch.manual_seed(0)
    return ResNet3D(ResNet3DOptions(**{"depths": (2, 2, 2, 2), "width": 8, **changes}), inserted)


def resnet3d(depths: Any = R50, **changes: Any) -> ResNet3D:
    return ResNet3D(ResNet3DOptions(depths=depths, **changes))


def randomise_norms(model: nn.Module) -> None:
    """Statistics, gains and biases as training leaves them: different for every channel."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d, FrozenBatchNorm)):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
            ):
                tensor.data.uniform_(low, high)
            module.running_var.uniform_(0.5, 1.5)


def profile(build: Any, clip: tuple[int, int, int]) -> tuple[int, float, list[int]]:
    """Parameters, GMAC and shape of the last map of one clip, on shapes alone."""
    with torch.device("meta"):
        model, video = build().eval(), torch.empty(1, 3, *clip)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shape = list(model(video).shape)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9, shape


# Table of section A of the specification: reading, GMAC, parameters in millions with a classifier
# of 157 classes.
TABLE = [
    ({}, 152.47, 27.546),
    ({"stem": "valid"}, 151.28, 27.546),
    ({"inflation": "table1"}, 170.56, 32.526),
    ({"inflation": "table1", "layer4_stride": 2}, 126.78, 32.526),
    ({"layer4_stride": 2}, 113.63, 27.546),
    ({"inflation": "none"}, 111.88, 23.830),
    ({"inflation": "3x3x3"}, 230.57, 46.502),
    ({"stem": "long_valid", "layer4_stride": 2}, 32.83, 27.546),
]


@pytest.mark.parametrize(("options", "gmac", "millions"), TABLE)
def test_costs_of_resnet50_equal_the_table(
    options: dict[str, Any], gmac: float, millions: float
) -> None:
    params, counted, _ = profile(lambda: resnet3d(**options), (32, 224, 224))
    assert round(counted, 2) == gmac
    assert round((params + CHARADES) / 1e6, 3) == millions


@pytest.mark.parametrize(
    ("options", "gmac"),
    [
        ({"stem": "long_valid"}, 404.4),
        ({"stem": "long"}, 405.9),
        ({"stem": "long", "inflation": "table1"}, 457.5),
        ({"stem": "long_valid", "layer4_stride": 2}, 340.2),
    ],
)
def test_costs_of_resnet101_on_long_clips(options: dict[str, Any], gmac: float) -> None:
    params, counted, shape = profile(lambda: resnet3d(R101, **options), (128, 288, 288))
    assert round(counted, 1) == gmac
    side = 9 if options.get("layer4_stride") == 2 else 18
    assert shape == [1, 2048, 16, side, side]
    assert "inflation" in options or round(params / 1e6, 2) == 50.93


def test_cost_and_map_of_a_full_frame() -> None:
    _, counted, shape = profile(resnet3d, (32, 256, 340))
    assert round(counted, 1) == 269.7
    assert shape == [1, 2048, 16, 16, 22]


def test_shape_and_cost_of_every_layer() -> None:
    with torch.device("meta"):
        model, video = resnet3d().eval(), torch.empty(1, 3, 32, 224, 224)
    with torch.no_grad():
        maps = model.forward_intermediates(video, LAYERS)
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "layer1": (256, 32, 56, 56),
        "layer2": (512, 16, 28, 28),
        "layer3": (1024, 16, 14, 14),
        "layer4": (2048, 16, 14, 14),
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(video)
    counts = counter.get_flop_counts()
    gmac = dict.fromkeys(("conv1", *LAYERS), 0.0)
    for name, flops in counts.items():
        part = name.split(".")[1:]
        if part and part[0] in gmac and len(part) == 1 + (part[0] in LAYERS):
            gmac[part[0]] += sum(flops.values()) / 2e9
    assert [round(x, 2) for x in gmac.values()] == [18.88, 28.77, 21.37, 30.01, 53.44]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 67)])
def test_declared_channels_and_strides_are_the_real_ones(
    stem: Any, height: int, width: int
) -> None:
    with torch.device("meta"):
        model = resnet3d((1, 1, 1, 1), stem=stem, width=4).eval()
        found = model(torch.empty(1, 3, 16, height, width))
    frames, rows, columns = model.stride
    assert found.shape[1:3] == (model.out_channels, 16 // frames) == (128, 16 // frames)
    if "valid" not in stem:  # without padding, the pool loses a row
        assert found.shape[3:] == (-(-height // rows), -(-width // columns))


def seen_frames(depths: Any, inflation: Any) -> list[list[int]]:
    return [[frames for frames, _ in layer] for layer in temporal_kernels(inflation, depths)]


def test_inflation_patterns() -> None:
    assert seen_frames(R50, "alternate") == [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]
    assert seen_frames(R101, "alternate")[2] == [3, 1] * 11 + [3]
    assert seen_frames(R50, "table1") == [[3] * 3, [3] * 4, [3] * 6, [3] * 3]
    assert seen_frames(R50, "none") == [[1] * 3, [1] * 4, [1] * 6, [1] * 3]


def test_stride_is_on_the_middle_convolution_and_the_shortcut() -> None:
    model = small()
    for layer, stride in zip(LAYERS, (1, 2, 2, 1), strict=True):
        first, other = model.get_submodule(layer).children()
        strides = (1, stride, stride)
        assert (first.conv1.stride, first.conv2.stride) == ((1, 1, 1), strides)
        assert first.downsample[0].stride == strides
        assert (len(other.downsample), other.conv2.stride) == (0, (1, 1, 1))


def test_tensors_have_torchvisions_names() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        theirs = {name for name in resnet50().state_dict() if not name.startswith("fc.")}
        assert set(resnet3d().state_dict()) == theirs
        inserted = set(small({"layer2_1": nn.Linear(2, 2)}).state_dict())
    assert {"inserted.layer2_1.weight", "inserted.layer2_1.bias"} <= inserted


def test_nothing_after_the_last_layer_that_is_asked_for_is_computed() -> None:
    model, video = small().eval(), torch.randn(1, 3, 4, 32, 32)
    ran: list[str] = []
    for name in ("layer2", "layer3"):
        block = model.get_submodule(name)[0]
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
    maps = model.forward_intermediates(video, ("layer2", "layer1"))
    assert list(maps) == ["layer2", "layer1"]
    assert ran == ["layer2"]
    assert torch.equal(model.forward_intermediates(video, ["layer4"])["layer4"], model(video))


def test_a_later_layer_does_not_write_into_an_earlier_map() -> None:
    model, video = small().eval(), torch.randn(1, 3, 4, 32, 32)
    for name, x in model.forward_intermediates(video, LAYERS).items():
        assert torch.equal(x, model.forward_intermediates(video, [name])[name]), name


def test_a_layer_follows_the_block_that_it_is_named_after() -> None:
    class Negate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x

    plain, video = small().eval(), torch.randn(1, 3, 4, 32, 32)
    model = small({"layer2_0": Negate()}).eval()
    model.load_state_dict(plain.state_dict())
    before = plain.pool2(plain.forward_intermediates(video, ["layer1"])["layer1"])
    expected = plain.layer2[1](-plain.layer2[0](before))
    assert_close_to_scale(model.forward_intermediates(video, ["layer2"])["layer2"], expected)


@pytest.mark.parametrize("block", ["layer5_0", "layer3_2", "pool2"])
def test_a_layer_after_a_block_that_does_not_exist(block: str) -> None:
    with pytest.raises(RecipeError, match=f"no block '{block}'; "):
        small({block: nn.Identity()})
    assert channels_after(ResNet3DOptions(), "layer3_5") == 1024


def test_fewer_layers_keep_the_cells_and_the_frames() -> None:
    model = resnet3d((2,), stem="digit_maps", width=4).eval()
    video = torch.randn(1, 3, 6, 8, 8)
    assert model(video).shape == (1, 16, 6, 8, 8)
    assert (model.stride, model.out_channels) == ((1, 1, 1), 16)
    # The first convolution and one of each block see a frame more on either side.
    later = video.clone()
    later[:, :, 5] += 1
    change = (model(video) - model(later)).abs().amax(dim=(0, 1, 3, 4))
    assert (change > 0).tolist() == [False, False, True, True, True, True]


def test_dilation_computes_what_weights_of_stride_two_mean() -> None:
    strided = small(depths=(1, 1, 1, 3), layer4_stride=2).eval()
    randomise_norms(strided)
    dilated = small(depths=(1, 1, 1, 3), layer4_dilation=2).eval()
    dense = small(depths=(1, 1, 1, 3)).eval()
    dilated.load_state_dict(strided.state_dict())
    dense.load_state_dict(strided.state_dict())
    video = torch.randn(1, 3, 2, 128, 128)
    expected = strided(video)
    assert dilated(video).shape[3:] == (8, 8)
    assert_close_to_scale(dilated(video)[..., ::2, ::2], expected)
    assert (dense(video)[..., ::2, ::2] - expected).abs().max() > 0.01
