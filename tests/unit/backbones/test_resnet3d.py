"""ResNets over clips: shapes and costs equal to the published tables, places, strides, and layers
between blocks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidgraph.backbones.resnet3d import (
    DEPTHS,
    STAGES,
    STEMS,
    BackboneOptions,
    ResNet3D,
    Stem,
    non_local_blocks,
    resnet3d,
    stage_channels,
    temporal_kernels,
)
from vidgraph.errors import RecipeError
from vidgraph.models.norms import FrozenBatchNorm

R50, R101 = DEPTHS[50], DEPTHS[101]
CHARADES = 2048 * 157 + 157  # parameters of the classifier that the published counts include
KINETICS = 2048 * 400 + 400


def small(**changes: Any) -> ResNet3D:
    """Two blocks per stage, an eighth of the width."""
    torch.manual_seed(0)
    return ResNet3D(**{"depths": (2, 2, 2, 2), "width": 8, **changes})


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
    ({"inflation": "table1", "res5_stride": 2}, 126.78, 32.526),
    ({"res5_stride": 2}, 113.63, 27.546),
    ({"inflation": "none"}, 111.88, 23.830),
    ({"inflation": "3x3x3"}, 230.57, 46.502),
    ({"stem": "long_valid", "res5_stride": 2}, 32.83, 27.546),
]


@pytest.mark.parametrize(("options", "gmac", "millions"), TABLE)
def test_costs_of_resnet50_equal_the_table(
    options: dict[str, Any], gmac: float, millions: float
) -> None:
    params, counted, _ = profile(lambda: resnet3d(R50, BackboneOptions(**options)), (32, 224, 224))
    assert round(counted, 2) == gmac
    assert round((params + CHARADES) / 1e6, 3) == millions


def test_costs_to_the_last_digit() -> None:
    assert profile(lambda: resnet3d(R50), (32, 224, 224))[:2] == (
        27_223_872,
        pytest.approx(152.4708, abs=5e-5),
    )
    literal = profile(lambda: resnet3d(R50, BackboneOptions(inflation="table1")), (32, 224, 224))
    assert literal[:2] == (32_204_608, pytest.approx(170.5567, abs=5e-4))


@pytest.mark.parametrize(
    ("options", "non_local", "millions"),
    [({"inflation": "none"}, False, 24.33), ({}, False, 28.04), ({}, True, 35.40)],
)
def test_parameters_at_400_classes_equal_the_published_ones(
    options: dict[str, Any], non_local: bool, millions: float
) -> None:
    params, _, _ = profile(
        lambda: resnet3d(
            R50, BackboneOptions(**options), non_local_blocks(50) if non_local else {}
        ),
        (8, 32, 32),
    )
    assert round((params + KINETICS) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("options", "gmac"),
    [
        ({"stem": "long_valid"}, 404.4),
        ({"stem": "long"}, 405.9),
        ({"stem": "long", "inflation": "table1"}, 457.5),
        ({"stem": "long_valid", "res5_stride": 2}, 340.2),
    ],
)
def test_costs_of_resnet101_on_long_clips(options: dict[str, Any], gmac: float) -> None:
    params, counted, shape = profile(
        lambda: resnet3d(R101, BackboneOptions(**options)), (128, 288, 288)
    )
    assert round(counted, 1) == gmac
    side = 9 if options.get("res5_stride") == 2 else 18
    assert shape == [1, 2048, 16, side, side]
    assert "inflation" in options or round(params / 1e6, 2) == 50.93


def test_resnet101_with_all_of_the_temporal_stride_in_the_first_convolution() -> None:
    stem = Stem(stride=(4, 2, 2))
    _, counted, shape = profile(lambda: ResNet3D(R101, stem=stem), (128, 288, 288))
    assert round(counted, 1) == 374.7
    assert shape == [1, 2048, 16, 18, 18]


def test_non_local_blocks_cost_what_the_specification_says() -> None:
    plain = profile(lambda: resnet3d(R50), (32, 224, 224))
    non_local = profile(lambda: resnet3d(R50, after=non_local_blocks(50)), (32, 224, 224))
    assert round(non_local[1] - plain[1], 1) == 68.4
    assert round((non_local[0] - plain[0]) / 1e6, 2) == 7.36
    assert list(non_local_blocks(101)) == [
        ("res3", 1),
        ("res3", 3),
        ("res4", 6),
        ("res4", 13),
        ("res4", 20),
    ]


def test_cost_and_map_of_a_full_frame() -> None:
    _, counted, shape = profile(lambda: resnet3d(R50), (32, 256, 340))
    assert round(counted, 1) == 269.7
    assert shape == [1, 2048, 16, 16, 22]


def test_shape_and_cost_of_every_stage() -> None:
    with torch.device("meta"):
        model, video = resnet3d(R50).eval(), torch.empty(1, 3, 32, 224, 224)
    with torch.no_grad():
        maps = model.maps(video, list(model.stage_channels))
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "stem": (64, 32, 112, 112),
        "pool1": (64, 32, 56, 56),
        "res2": (256, 32, 56, 56),
        "pool2": (256, 16, 56, 56),
        "res3": (512, 16, 28, 28),
        "res4": (1024, 16, 14, 14),
        "res5": (2048, 16, 14, 14),
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(video)
    gmac = {
        name: round(sum(counter.get_flop_counts()[f"ResNet3D.{name}"].values()) / 2e9, 2)
        for name in ("stem", *STAGES)
    }
    assert gmac == {"stem": 18.88, "res2": 28.77, "res3": 21.37, "res4": 30.01, "res5": 53.44}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 67)])
def test_declared_channels_and_strides_are_the_real_ones(
    stem: str, height: int, width: int
) -> None:
    with torch.device("meta"):
        model = resnet3d((1, 1, 1, 1), BackboneOptions(stem=stem), width=4)
        maps = model.eval().maps(torch.empty(1, 3, 16, height, width), list(model.stage_channels))
    assert (model.out_channels, model.strides) == (
        maps["res5"].shape[1],
        model.stage_strides["res5"],
    )
    for name, x in maps.items():
        strides = model.stage_strides[name]
        assert x.shape[1:3] == (model.stage_channels[name], 16 // strides[0])
        if "valid" not in stem:  # without padding, the pool loses a row
            assert x.shape[3:] == (-(-height // strides[1]), -(-width // strides[2]))
    assert stage_channels(4) == {name: model.stage_channels[name] for name in STAGES}


def seen_frames(depth: int, inflation: Any) -> list[list[int]]:
    return [[frames for frames, _ in stage] for stage in temporal_kernels(inflation, DEPTHS[depth])]


def test_inflation_patterns() -> None:
    assert seen_frames(50, "alternate") == [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]
    assert seen_frames(101, "alternate")[2] == [3, 1] * 11 + [3]
    assert seen_frames(50, "table1") == [[3] * 3, [3] * 4, [3] * 6, [3] * 3]
    assert seen_frames(50, "none") == [[1] * 3, [1] * 4, [1] * 6, [1] * 3]
    with pytest.raises(RecipeError, match="no inflation 'alternating'; did you mean 'alternate'"):
        temporal_kernels("alternating", R50)  # type: ignore[arg-type]


def test_stride_is_on_the_middle_convolution_and_the_shortcut() -> None:
    model = resnet3d(R50)
    for stage, stride in zip(STAGES, (1, 2, 2, 1), strict=True):
        first, *others = model.get_submodule(stage).children()
        assert (first.a.stride, first.b.stride, first.shortcut.stride) == (
            (1, 1, 1),
            (1, stride, stride),
            (1, stride, stride),
        )
        assert all(
            isinstance(block.shortcut, nn.Identity) and block.b.stride == (1, 1, 1)
            for block in others
        )


def test_names_of_the_tensors() -> None:
    names = set(small(after={("res3", 1): nn.Linear(2, 2)}).state_dict())
    expected = {
        "stem.conv.weight",
        "stem.norm.running_mean",
        "res2.0.a.weight",
        "res2.0.shortcut_norm.running_var",
        "after.res3_1.bias",
    }
    expected |= {f"res5.1.{part}_norm.weight" for part in "abc"} | {
        f"res4.0.{part}.weight" for part in ("a", "b", "c", "shortcut")
    }
    assert expected <= names
    assert not any("pool" in name or "res2.1.shortcut" in name for name in names)


def test_nothing_after_the_last_place_that_is_asked_for_is_computed() -> None:
    model, video = small().eval(), torch.randn(1, 3, 4, 32, 32)
    ran: list[str] = []
    for name in ("res3", "res4"):
        model.get_submodule(name)[0].register_forward_hook(lambda *_, name=name: ran.append(name))
    maps = model.maps(video, ("res3", "res2"))
    assert list(maps) == ["res2", "res3"]
    assert ran == ["res3"]
    assert torch.equal(model.maps(video, ["res5"])["res5"], model(video))


def test_a_later_layer_does_not_write_into_an_earlier_map() -> None:
    model, video = small().eval(), torch.randn(1, 3, 4, 32, 32)
    together = model.maps(video, list(model.stage_channels))
    for name, x in together.items():
        assert torch.equal(x, model.maps(video, [name])[name]), name


def test_a_layer_follows_the_block_that_it_is_named_after() -> None:
    class Negate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x

    plain, video = small().eval(), torch.randn(1, 3, 4, 32, 32)
    model = small(after={("res3", 0): Negate()}).eval()
    model.load_state_dict(plain.state_dict())
    before = plain.maps(video, ["pool2"])["pool2"]
    expected = plain.res3[1](-plain.res3[0](before))
    assert_close_to_scale(model.maps(video, ["res3"])["res3"], expected)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("res6", 0), "no residual stage 'res6'; did you mean"),
        (("pool2", 0), "no residual stage 'pool2'"),
        (("res4", 2), "res4 has blocks 0 to 1, .* block 2"),
    ],
)
def test_a_layer_after_a_block_that_does_not_exist(place: tuple[str, int], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        small(after={place: nn.Identity()})


def test_options_that_do_not_exist() -> None:
    with pytest.raises(RecipeError, match="no stage 'res1'; did you mean"):
        small().maps(torch.zeros(1, 3, 2, 32, 32), ["res1"])
    with pytest.raises(RecipeError, match="no stem 'valide'; did you mean 'valid'"):
        BackboneOptions(stem="valide")
    with pytest.raises(RecipeError, match="res5_stride is 1 or 2, not 3"):
        BackboneOptions(res5_stride=3)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no batch norm 'frosen'; did you mean 'frozen'"):
        small(norm="frosen")


def test_dilation_computes_what_weights_of_stride_two_mean() -> None:
    strided = small(depths=(1, 1, 1, 3), res5_stride=2).eval()
    randomise_norms(strided)
    dilated = small(depths=(1, 1, 1, 3), res5_dilation=2).eval()
    dense = small(depths=(1, 1, 1, 3)).eval()
    dilated.load_state_dict(strided.state_dict())
    dense.load_state_dict(strided.state_dict())
    video = torch.randn(1, 3, 2, 128, 128)
    expected = strided(video)
    assert dilated(video).shape[3:] == (8, 8)
    assert_close_to_scale(dilated(video)[..., ::2, ::2], expected)
    assert (dense(video)[..., ::2, ::2] - expected).abs().max() > 0.01


@pytest.mark.parametrize("norm", ["frozen", "frozen_statistics"])
def test_frozen_norms_survive_training_steps(norm: Any) -> None:
    model = small(norm=norm)
    randomise_norms(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        model(torch.randn(2, 3, 4, 32, 32)).square().mean().backward()
        optimizer.step()
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    convolutions = {
        name
        for name in before
        if name.endswith(("conv.weight", ".a.weight", ".b.weight", ".c.weight", "shortcut.weight"))
    }
    affine = {name for name in before if "norm." in name and name.endswith(("weight", "bias"))}
    assert changed == (convolutions if norm == "frozen" else convolutions | affine)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"inflation": "table1"},
        {"inflation": "3x3x3"},
        {"inflation": "none"},
        {"res5_dilation": 2},
    ],
)
def test_every_parameter_gets_a_gradient_and_clips_do_not_mix(changes: dict[str, Any]) -> None:
    model, video = small(**changes), torch.randn(2, 3, 8, 64, 64)
    model(video).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    model.eval()
    assert_close_to_scale(model(video)[:1], model(video[:1]))
