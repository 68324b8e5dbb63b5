"""Checkpoints of ResNets and other networks of images and clips: the authors' own logits from
converted weights, names, and what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from drawn import drawn
from torch import Tensor, nn

from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.image import mean_over_rgb
from vidgraph.backbones.resnet3d import ResNet3D, ResNet3DOptions
from vidgraph.convert import convert_tensors, head_classes
from vidgraph.errors import WeightsError
from vidgraph.models.base import ClipModel
from vidgraph.models.build import create_model

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(file: str, network: str) -> tuple[dict[str, Tensor], tuple[int, ...], np.ndarray]:
    """Weights by foreign name, size of the clip, logits: tests/golden/README.md."""
    with np.load(GOLDEN / file) as stored:
        names, shapes = (stored[f"{network}/{key}"].tolist() for key in ("names", "shapes"))
        weights = {
            name: drawn(name, tuple(map(int, shape.split())))
            for name, shape in zip(names, shapes, strict=True)
        }
        return weights, tuple(stored[f"{network}/clip"].tolist()), stored[f"{network}/logits"]


def narrow(num_classes: int = 5, non_local: bool = False, **backbone: Any) -> ClipModel:
    """I3D whose first convolution has 8 channels, as PyTorchVideo builds it unless `backbone` says
    otherwise."""
    options = {"width": 8, "layer4_stride": 2, **backbone}
    inserted = {"type": "nonlocal"} if non_local else None
    model = create_model("i3d_r50", num_classes, backbone=options, inserted=inserted)
    assert isinstance(model, ClipModel)
    return model


def logits_of(model: Any, weights: dict[str, Any], size: tuple[int, ...]) -> np.ndarray:
    """Of normalised pixels from -2 to 2."""
    model.load_state_dict(convert_tensors(weights, model).state)
    clip = np.random.RandomState(0).uniform(-2, 2, (1, 3, *size)).astype(np.float32)
    with torch.inference_mode():
        return model.eval().head(model.backbone(torch.from_numpy(clip))).numpy()


# ---- 3D ResNets ----------------------------------------------------------------------------------

BUILD: dict[str, Callable[[], Any]] = {
    "i3d_r50": lambda: create_model("i3d_r50", 400, backbone={"layer4_stride": 2}),
    "i3d_narrow": narrow,
    "c2d_narrow": lambda: narrow(inflation="none"),
    "i3d_nl_narrow": lambda: narrow(non_local=True),
}


@pytest.mark.parametrize("network", BUILD)
def test_logits_are_those_of_pytorchvideo(network: str) -> None:
    weights, size, expected = golden("i3d_r50_pytorchvideo.npz", network)
    assert expected.std() > 0.5
    found = logits_of(BUILD[network](), weights, size)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_logits_are_those_of_something_else() -> None:
    weights, size, expected = golden("i3d_r50_something_else.npz", "something_else")
    model = create_model("i3d_r50", 174, backbone={"stem": "valid"})
    np.testing.assert_allclose(logits_of(model, weights, size), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("reading", [{"stem": "valid"}, {"stem": "table1"}, {"layer4_stride": 1}])
def test_another_reading_of_the_network_gives_other_logits(reading: dict[str, Any]) -> None:
    """The parity above would notice a wrong pool or stride, which no tensor's shape tells."""
    weights, size, expected = golden("i3d_r50_pytorchvideo.npz", "i3d_narrow")
    assert np.abs(logits_of(narrow(**reading), weights, size) - expected).max() > 0.01


@pytest.mark.parametrize(
    ("name", "published"), [("c2d_r50", 24.33), ("i3d_r50", 28.04), ("i3d_nl_r50", 35.40)]
)
def test_parameters_are_those_of_pytorchvideo(name: str, published: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in create_model(name, 400).parameters())
    with np.load(GOLDEN / "i3d_r50_pytorchvideo.npz") as stored:
        assert count == stored[f"{name}/params"]
    assert round(count / 1e6, 2) == published


PARTS = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
NON_LOCAL = [(3, 1), (3, 3), (4, 1), (4, 3), (4, 5)]


def caffe2_names() -> Iterator[tuple[str, str]]:
    """(SlowFast's name, Caffe2's) of every tensor of a non-local ResNet-50, from their sources."""
    yield "s1.pathway0_stem.conv.weight", "conv1_w"
    layers = [("s1.pathway0_stem.bn", "res_conv1_bn")]
    for stage, depth in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        for i in range(depth):
            block, blob = f"s{stage}.pathway0_res{i}", f"res{stage}_{i}"
            convs = [(f"{block}.branch2.{x}", f"{blob}_branch2{x}") for x in "abc"]
            convs += [(f"{block}.branch1", f"{blob}_branch1")] * (i == 0)
            yield from ((f"{theirs}.weight", f"{name}_w") for theirs, name in convs)
            layers += [(f"{theirs}_bn", f"{name}_bn") for theirs, name in convs]
            if (stage, i) in NON_LOCAL:
                block, blob = f"s{stage}.pathway0_nonlocal{i}", f"nonlocal_conv{stage}_{i}"
                for conv in ("theta", "phi", "g", "out"):
                    yield f"{block}.conv_{conv}.weight", f"{blob}_{conv}_w"
                    yield f"{block}.conv_{conv}.bias", f"{blob}_{conv}_b"
                layers.append((f"{block}.norm", f"{blob}_bn"))
    for theirs, name in layers:
        yield from ((f"{theirs}.{part}", f"{name}_{blob}") for part, blob in PARTS.items())
    yield from ((f"head.projection.{part}", f"pred_{part[0]}") for part in ("weight", "bias"))


@pytest.fixture(scope="module")
def slowfast() -> dict[str, Tensor]:
    return golden("i3d_r50_pytorchvideo.npz", "i3d_nl_narrow")[0]


@pytest.fixture(scope="module")
def caffe2(slowfast: dict[str, Tensor]) -> dict[str, Any]:
    """The same network as blobs of a training checkpoint, with the optimiser's and the training's
    state."""
    blobs = {blob: slowfast[name].numpy() for name, blob in caffe2_names()}
    assert len(blobs) == sum(not name.endswith("num_batches_tracked") for name in slowfast)
    learned = [name for name in blobs if not name.endswith(("_rm", "_riv"))]
    momentum = {f"{name}_momentum": blobs[name] for name in learned}
    return {**blobs, **momentum, "lr": np.array([0.01], np.float32), "model_iter": 400_000}


def test_caffe2_names_reach_the_same_tensors(
    slowfast: dict[str, Tensor], caffe2: dict[str, Any]
) -> None:
    """Also with scopes of devices, another type of number, and a fully convolutional classifier."""
    model = narrow(non_local=True)
    expected = convert_tensors(slowfast, model).state
    other = {
        f"gpu_0/{name}": value.astype(">f8") if isinstance(value, np.ndarray) else value
        for name, value in caffe2.items()
    }
    other["gpu_0/pred_w"] = other["gpu_0/pred_w"][:, :, None, None, None]
    for blobs, scope in ((caffe2, ""), (other, "gpu_0/")):
        found = convert_tensors(blobs, model)
        assert found.codebase == "Caffe2 non-local network"
        assert found.state.keys() == expected.keys() == model.state_dict().keys()
        assert all(torch.equal(found.state[name], expected[name]) for name in expected)
        assert not found.fresh
        assert len(found.names) + len(found.left_out) == len(blobs)
        assert found.left_out[f"{scope}conv1_w_momentum"] == "momentum of the optimiser"
        assert found.left_out[f"{scope}model_iter"] == "state of the training"


def test_gains_and_biases_alone_are_norms(caffe2: dict[str, Any]) -> None:
    """The frozen configurations fold the statistics into gain and bias, and may drop the norm after
    a non-local block."""
    frozen = {
        name: value
        for name, value in caffe2.items()
        if not name.endswith(("_rm", "_riv", "_momentum"))
    }
    for name in [name for name in frozen if name.endswith("_bn_s")]:
        norm = name.removesuffix("s")
        gain = caffe2[name] / np.sqrt(caffe2[f"{norm}riv"] + 1e-5)
        frozen[name], frozen[f"{norm}b"] = gain, caffe2[f"{norm}b"] - caffe2[f"{norm}rm"] * gain
        if name.startswith("nonlocal_conv3_1"):
            conv = "nonlocal_conv3_1_out"
            frozen[f"{conv}_w"] = caffe2[f"{conv}_w"] * gain[:, None, None, None, None]
            frozen[f"{conv}_b"] = caffe2[f"{conv}_b"] * gain + frozen[f"{norm}b"]
            del frozen[name], frozen[f"{norm}b"]
    _, size, expected = golden("i3d_r50_pytorchvideo.npz", "i3d_nl_narrow")
    found = logits_of(narrow(non_local=True), frozen, size)
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


def test_a_backbone_within_a_larger_network() -> None:
    """Something-Else's models of boxes and pixels hold their I3D as `i3D`; their own `conv` and
    `classifier` are other layers."""
    weights, _, _ = golden("i3d_r50_something_else.npz", "something_else")
    inner = {name.replace("module.", "module.i3D."): value for name, value in weights.items()}
    others = {
        "module.conv.weight": torch.zeros(512, 2048, 1, 1, 1),
        "module.classifier.4.bias": torch.zeros(174),
    }
    model = create_model("i3d_r50", 174)
    found, expected = convert_tensors(inner | others, model), convert_tensors(weights, model)
    assert found.left_out == dict.fromkeys(others, "of another part of the network")
    assert all(torch.equal(found.state[name], expected.state[name]) for name in expected.state)


def test_another_number_of_classes_leaves_the_classifier_out(slowfast: dict[str, Tensor]) -> None:
    model = narrow(7, non_local=True)
    found = convert_tensors(slowfast, model)
    assert head_classes(slowfast) == 5
    assert found.fresh == ["head.classifier.weight", "head.classifier.bias"]
    assert set(found.left_out) == {"head.projection.weight", "head.projection.bias"}
    assert "5 classes, and the model has 7" in found.left_out["head.projection.bias"]
    own = model.state_dict()["head.classifier.weight"]
    assert torch.equal(found.state["head.classifier.weight"], own)
    last = slowfast["s5.pathway0_res2.branch2.c.weight"]
    assert torch.equal(found.state["backbone.layer4.2.conv3.weight"], last)
    bare = convert_tensors(slowfast, model.backbone)
    assert {f"backbone.{name}" for name in bare.state} == {
        name for name in found.state if name.startswith("backbone.")
    }


def changed(weights: dict[str, Tensor], remove: str = "", **more: Tensor) -> dict[str, Tensor]:
    kept = {name: value for name, value in weights.items() if not remove or remove not in name}
    return kept | {name.replace("__", "."): value for name, value in more.items()}


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
BROKEN: dict[str, tuple[Change, dict[str, Any], str]] = {
    "half a classifier": (
        lambda w: changed(w, "projection.bias"),
        {},
        "fills head.classifier.bias",
    ),
    "half a norm": (
        lambda w: changed(w, "res0.branch1_bn.running_var"),
        {},
        r"fills backbone.layer1.0.downsample.1.running_var, .*\(4 of ",
    ),
    "unknown": (
        lambda w: changed(w, s1_fuse__bn__weight=torch.ones(8)),
        {},
        "'s1_fuse.bn.weight' would be 'backbone.s1_fuse.bn.weight', which this model does not have",
    ),
    "shape": (
        lambda w: changed(w, s1__pathway0_stem__bn__bias=torch.ones(9)),
        {},
        r"'s1.pathway0_stem.bn.bias': \[9\] where 'backbone.bn1.bias' is \[8\]",
    ),
    "inflated otherwise": (
        lambda w: w,
        {"inflation": "table1"},
        "'s3.pathway0_res1.branch2.a.weight': a kernel over 1 in time where .* has 3; set the",
    ),
    "twice": (
        lambda w: changed(w, s3__pathway0_nonlocal1__bn__bias=torch.ones(64)),
        {},
        "'s3.pathway0_nonlocal1.bn.bias' would be '.*layer2_1.out_norm.bias', and another is too",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_one_line(case: str, slowfast: dict[str, Tensor]) -> None:
    change, options, message = BROKEN[case]
    with pytest.raises(WeightsError, match=message) as caught:
        convert_tensors(change(slowfast), narrow(**{"non_local": True, **options}))
    assert "\n" not in str(caught.value)


# ---- networks of images --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> nn.Module:
    """torchvision's ResNet-50 with norms as training leaves them: different for every channel."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("inflation", ["alternate", "table1", "none"])
@torch.no_grad()
def test_middle_of_a_still_clip_equals_the_image_network(images: nn.Module, inflation: Any) -> None:
    network = ResNet3D(ResNet3DOptions(layer4_stride=2, inflation=inflation)).eval()
    network.load_state_dict(convert_tensors(images.state_dict(), network).state)
    image, frames = torch.randn(1, 3, 32, 32), 64
    x = images.maxpool(images.relu(images.bn1(images.conv1(image))))
    maps = network.forward_intermediates(
        image[:, :, None].expand(-1, -1, frames, -1, -1), [f"layer{i}" for i in range(1, 5)]
    )
    for name, found in maps.items():
        x = images.get_submodule(name)(x)
        half = found.shape[2] // 2
        middle = slice(None) if inflation == "none" else slice(half - 2, half + 2)
        difference = (found - x[:, :, None]).abs().amax(dim=(0, 1, 3, 4)) / x.abs().max()
        assert difference[middle].max() < 1e-5, name
        # The ends also see padding; were they equal too, nothing would look across frames.
        assert inflation == "none" or min(difference[0], difference[-1]) > 1e-3, name


def test_the_first_published_bn_inception_fills_both_streams() -> None:
    """Its norms have two axes; temporal segment networks put `base_model.` before the names, and
    call the classifier `new_fc`."""
    draw = torch.Generator().manual_seed(0)
    own = {
        name: torch.rand(value.shape, generator=draw)
        for name, value in BNInception().state_dict().items()
        if "num_batches" not in name
    }
    published = {
        f"module.base_model.{name}": value[None] if value.dim() == 1 and "_bn" in name else value
        for name, value in own.items()
    }
    published["module.new_fc.weight"] = torch.zeros(101, 1024)
    model = create_model("two_stream_bn_inception", 5)
    found = convert_tensors(published, model)
    for name, value in own.items():
        flow = mean_over_rgb(value, 20) if name == "conv1_7x7_s2.weight" else value
        assert torch.equal(found.state[f"frames.backbone.network.{name}"], value)
        assert torch.equal(found.state[f"flow.backbone.network.{name}"], flow)
    assert found.left_out == {"module.new_fc.weight": "classifier of images"}
    assert found.names["module.base_model.conv2_3x3.bias"] == (
        "frames.backbone.network.conv2_3x3.bias and flow.backbone.network.conv2_3x3.bias"
    )
    assert {name.split(".")[2] for name in found.fresh} == {"classifier"}


def test_networks_of_images_that_do_not_fit(images: nn.Module) -> None:
    state = images.state_dict()
    flow = {**state, "conv1.weight": torch.zeros(64, 10, 7, 7)}
    for tensors, name, words in (
        (state, "i3d_r101", r"fills backbone.layer3.6.conv1.weight, .*\(255 of"),
        (state, "i3d_small", r"'conv1.weight': \[64, 3, 7, 7\] where 'backbone"),
        (flow, "stpyramid_r50", r"'conv1.weight': \[64, 10, 7, 7\] where 'frames"),
    ):
        with torch.device("meta"):
            model = create_model(name, 5)
        with pytest.raises(WeightsError, match=words):
            convert_tensors(tensors, model)
