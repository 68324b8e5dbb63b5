"""Checkpoints of other codebases' 3D ResNets: their own logits from converted weights, names, and
what does not fit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidgraph.backbones.resnet3d import DEPTHS, BackboneOptions, resnet3d, stage_channels
from vidgraph.convert_i3d import convert_i3d, head_classes, recognise
from vidgraph.errors import WeightsError
from vidgraph.models.build import create_model
from vidgraph.models.build_clips import ClipOptions, pooled_classifier
from vidgraph.models.nonlocal_block import NonLocalBlock

GOLDEN = Path(__file__).parents[1] / "golden"
NON_LOCAL = [("res3", 1), ("res3", 3), ("res4", 1), ("res4", 3), ("res4", 5)]


# ---- golden weights, clips and logits: tests/golden/README.md ------------------------------------


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor as the golden networks had it: uniform, by its foreign name. Gains and variances are
    positive, kernels keep the scale.
    """
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.from_numpy(draw.uniform(0.5, 1.5, shape).astype(np.float32))
    high = (
        0.3
        if len(shape) < 2
        else float(np.sqrt(3 / np.prod(shape[1:]))) * (0.2 if len(shape) == 2 else 1)
    )
    return torch.from_numpy(draw.uniform(-high, high, shape).astype(np.float32))


def drawn_clip(size: tuple[int, ...]) -> Tensor:
    """Normalised pixels [1, 3, T, H, W]."""
    return torch.from_numpy(
        np.random.RandomState(0).uniform(-2, 2, (1, 3, *size)).astype(np.float32)
    )


def golden(file: str, network: str) -> tuple[dict[str, Tensor], tuple[int, ...], np.ndarray]:
    """Weights by foreign name, size of the clip, logits."""
    with np.load(GOLDEN / file) as stored:
        rows = zip(
            stored[f"{network}/names"].tolist(), stored[f"{network}/shapes"].tolist(), strict=True
        )
        weights = {name: drawn(name, tuple(map(int, shape.split()))) for name, shape in rows}
        return weights, tuple(stored[f"{network}/clip"].tolist()), stored[f"{network}/logits"]


def narrow(num_classes: int = 5, non_local: bool = False, **backbone: object) -> nn.Module:
    """ResNet-50 with a stem of 8 channels, as PyTorchVideo builds it unless `backbone` says
    otherwise.
    """
    after = (
        {place: NonLocalBlock(stage_channels(8)[place[0]]) for place in NON_LOCAL}
        if non_local
        else {}
    )
    options = BackboneOptions(**{"res5_stride": 2, **backbone})
    return pooled_classifier(
        resnet3d(DEPTHS[50], options, after, width=8), ClipOptions(), num_classes
    )


def logits_of(model: nn.Module, weights: dict[str, Tensor], size: tuple[int, ...]) -> np.ndarray:
    model.load_state_dict(convert_i3d(weights, model).state)
    with torch.inference_mode():
        return model.eval()(drawn_clip(size) * model.pixels.std + model.pixels.mean).numpy()


BUILD: dict[str, Callable[[], nn.Module]] = {
    "i3d_r50": lambda: create_model("i3d_r50", 400, res5_stride=2),
    "i3d_narrow": narrow,
    "c2d_narrow": lambda: narrow(inflation="none"),
    "i3d_nl_narrow": lambda: narrow(non_local=True),
}


@pytest.mark.parametrize("network", BUILD)
def test_logits_are_those_of_pytorchvideo(network: str) -> None:
    weights, size, expected = golden("i3d_r50_pytorchvideo.npz", network)
    assert expected.std() > 0.5
    np.testing.assert_allclose(
        logits_of(BUILD[network](), weights, size), expected, atol=1e-4, rtol=0
    )


def test_logits_are_those_of_something_else() -> None:
    weights, size, expected = golden("i3d_r50_something_else.npz", "something_else")
    model = create_model("i3d_r50", 174, stem="valid", pixels="imagenet")
    np.testing.assert_allclose(logits_of(model, weights, size), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("reading", [{"stem": "valid"}, {"stem": "table1"}, {"res5_stride": 1}])
def test_another_reading_of_the_network_gives_other_logits(reading: dict[str, object]) -> None:
    """The parity above would notice a wrong pool or stride, which no tensor's shape tells."""
    weights, size, expected = golden("i3d_r50_pytorchvideo.npz", "i3d_narrow")
    assert np.abs(logits_of(narrow(**reading), weights, size) - expected).max() > 0.01


@pytest.mark.parametrize(
    ("architecture", "published"), [("c2d_r50", 24.33), ("i3d_r50", 28.04), ("i3d_nl_r50", 35.40)]
)
def test_parameters_are_those_of_pytorchvideo(architecture: str, published: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in create_model(architecture, 400).parameters())
    with np.load(GOLDEN / "i3d_r50_pytorchvideo.npz") as stored:
        assert count == stored[f"{architecture}/params"]
    assert round(count / 1e6, 2) == published


# ---- names of the codebases, from their sources --------------------------------------------------

PARTS = ["weight", "bias", "running_mean", "running_var"]


def caffe2_names(non_local: bool) -> Iterator[tuple[str, str]]:
    """(SlowFast's name, Caffe2's) of every tensor of a ResNet-50."""
    blobs = dict(zip(PARTS, ["s", "b", "rm", "riv"], strict=True))
    yield "s1.pathway0_stem.conv.weight", "conv1_w"
    yield from (
        (f"s1.pathway0_stem.bn.{part}", f"res_conv1_bn_{blob}") for part, blob in blobs.items()
    )
    for stage, depth in zip((2, 3, 4, 5), DEPTHS[50], strict=True):
        for i in range(depth):
            layers = [(f"branch2.{letter}", f"branch2{letter}") for letter in "abc"] + [
                ("branch1", "branch1")
            ] * (i == 0)
            for theirs, blob in layers:
                yield f"s{stage}.pathway0_res{i}.{theirs}.weight", f"res{stage}_{i}_{blob}_w"
                for part in PARTS:
                    yield (
                        f"s{stage}.pathway0_res{i}.{theirs}_bn.{part}",
                        f"res{stage}_{i}_{blob}_bn_{blobs[part]}",
                    )
            if non_local and (f"res{stage}", i) in NON_LOCAL:
                for conv in ("theta", "phi", "g", "out"):
                    yield (
                        f"s{stage}.pathway0_nonlocal{i}.conv_{conv}.weight",
                        f"nonlocal_conv{stage}_{i}_{conv}_w",
                    )
                    yield (
                        f"s{stage}.pathway0_nonlocal{i}.conv_{conv}.bias",
                        f"nonlocal_conv{stage}_{i}_{conv}_b",
                    )
                for part in PARTS:
                    yield (
                        f"s{stage}.pathway0_nonlocal{i}.norm.{part}",
                        f"nonlocal_conv{stage}_{i}_bn_{blobs[part]}",
                    )
    yield from ((f"head.projection.{part}", f"pred_{part[0]}") for part in ("weight", "bias"))


@pytest.fixture(scope="module")
def slowfast() -> dict[str, Tensor]:
    return golden("i3d_r50_pytorchvideo.npz", "i3d_nl_narrow")[0]


@pytest.fixture(scope="module")
def caffe2(slowfast: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The same network as blobs of a training checkpoint, with the optimiser's and the training's
    state.
    """
    blobs = {blob: slowfast[name].numpy() for name, blob in caffe2_names(non_local=True)}
    assert len(blobs) == sum(not name.endswith("num_batches_tracked") for name in slowfast)
    momentum = {
        f"{name}_momentum": value
        for name, value in blobs.items()
        if not name.endswith(("_rm", "_riv"))
    }
    return {**blobs, **momentum, "lr": np.array([0.01], np.float32), "model_iter": 400_000}


def test_caffe2_names_reach_the_same_tensors(
    slowfast: dict[str, Tensor], caffe2: dict[str, np.ndarray]
) -> None:
    model = narrow(non_local=True)
    found, expected = convert_i3d(caffe2, model), convert_i3d(slowfast, model)
    assert recognise(caffe2).name == "Caffe2 non-local network"
    assert found.state.keys() == expected.state.keys() == model.state_dict().keys()
    assert all(torch.equal(found.state[name], expected.state[name]) for name in expected.state)
    assert not found.fresh
    assert set(found.left_out) == set(caffe2) - {blob for _, blob in caffe2_names(non_local=True)}
    assert found.left_out["conv1_w_momentum"] == "momentum of the optimiser"
    assert found.left_out["lr"] == found.left_out["model_iter"] == "state of the training"


def test_gains_and_biases_alone_are_norms(caffe2: dict[str, np.ndarray]) -> None:
    """The frozen configurations fold the statistics into gain and bias, and may drop the norm after
    a non-local block.
    """
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
    np.testing.assert_allclose(
        logits_of(narrow(non_local=True), frozen, size), expected, atol=1e-3, rtol=0
    )


def test_a_fully_convolutional_classifier_and_device_scopes(caffe2: dict[str, np.ndarray]) -> None:
    model = narrow(non_local=True)
    scoped = {f"gpu_0/{name}": value for name, value in caffe2.items()} | {
        "gpu_0/pred_w": caffe2["pred_w"][:, :, None, None, None]
    }
    found, expected = convert_i3d(scoped, model).state, convert_i3d(caffe2, model).state
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_backbone_within_a_larger_network() -> None:
    """Something-Else's models of boxes and pixels hold their I3D as `i3D`; their own `conv` and
    `classifier` are other layers.
    """
    weights, _, _ = golden("i3d_r50_something_else.npz", "something_else")
    inner = {name.replace("module.", "module.i3D."): value for name, value in weights.items()}
    others = {
        "module.conv.weight": torch.zeros(512, 2048, 1, 1, 1),
        "module.classifier.4.bias": torch.zeros(174),
    }
    model = create_model("i3d_r50", 174)
    found, expected = convert_i3d(inner | others, model), convert_i3d(weights, model)
    assert found.left_out == dict.fromkeys(others, "of another part of the network")
    assert all(torch.equal(found.state[name], expected.state[name]) for name in expected.state)


def test_another_number_of_classes_leaves_the_classifier_out(slowfast: dict[str, Tensor]) -> None:
    model = narrow(7, non_local=True)
    found = convert_i3d(slowfast, model)
    assert head_classes(slowfast, recognise(slowfast)) == 5
    assert found.fresh == ["classifier.weight", "classifier.bias"]
    assert set(found.left_out) == {"head.projection.weight", "head.projection.bias"}
    assert "5 classes, and the model has 7" in found.left_out["head.projection.bias"]
    assert torch.equal(found.state["classifier.weight"], model.state_dict()["classifier.weight"])
    assert torch.equal(
        found.state["stem.res5.2.c.weight"], slowfast["s5.pathway0_res2.branch2.c.weight"]
    )


def test_a_bare_backbone_takes_the_same_tensors(slowfast: dict[str, Tensor]) -> None:
    model = narrow(non_local=True)
    whole, bare = convert_i3d(slowfast, model), convert_i3d(slowfast, model.stem)
    assert whole.state.keys() == {f"stem.{name}" for name in bare.state} | {
        "classifier.weight",
        "classifier.bias",
    }
    assert set(bare.left_out.values()) == {"the model has no classifier"}


# ---- what does not fit ---------------------------------------------------------------------------


def changed(weights: dict[str, Tensor], remove: str = "", **more: Tensor) -> dict[str, Tensor]:
    return {
        name: value for name, value in weights.items() if not remove or remove not in name
    } | more


BROKEN: dict[
    str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], dict[str, object], str]
] = {
    "no such tensor": (
        lambda w: changed(w, "s4.pathway0_res2.branch2.b.w"),
        {},
        r"fills stem.res4.2.b.weight \(1 of 385\)",
    ),
    "half a classifier": (
        lambda w: changed(w, "projection.bias"),
        {},
        "fills classifier.bias, but the rest of the classifier is there",
    ),
    "half a norm": (
        lambda w: changed(w, "res0.branch1_bn.running_var"),
        {},
        r"fills stem.res2.0.shortcut_norm.running_var, .*\(4 of 385\)",
    ),
    "unknown": (
        lambda w: w | {"s1_fuse.bn.weight": torch.ones(8)},
        {},
        "'s1_fuse.bn.weight' is none that a 3D ResNet of SlowFast has",
    ),
    "shape": (
        lambda w: w | {"s1.pathway0_stem.bn.bias": torch.ones(9)},
        {},
        r"'s1.pathway0_stem.bn.bias': \[9\] where 'stem.stem.norm.bias' is \[8\]",
    ),
    "no non-local blocks": (
        lambda w: w,
        {"non_local": False},
        "would be 'stem.after.res3_1.theta.weight', which this model does not have",
    ),
    "inflated otherwise": (
        lambda w: w,
        {"inflation": "table1"},
        "'s3.pathway0_res1.branch2.a.weight': a kernel over 1 in time where .* has 3; set the",
    ),
    "twice": (
        lambda w: w | {"s3.pathway0_nonlocal1.bn.bias": torch.ones(64)},
        {},
        "'s3.pathway0_nonlocal1.norm.bias' and 's3.pathway0_nonlocal1.bn.bias' would both be",
    ),
    "another network": (
        lambda _: {"features.0.weight": torch.ones(3)},
        {},
        "no 3D ResNet of .* its first tensors are features.0.weight;",
    ),
    "nothing": (lambda _: {}, {}, "its first tensors are none"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_one_line(case: str, slowfast: dict[str, Tensor]) -> None:
    change, options, message = BROKEN[case]
    with pytest.raises(WeightsError, match=message) as caught:
        convert_i3d(change(slowfast), narrow(**{"non_local": True, **options}))
    assert "\n" not in str(caught.value)


def test_literal_inflation_into_the_alternate_network() -> None:
    """Weights of a network whose every block sees three frames, which the table of the paper
    prints.
    """
    weights, _, _ = golden("i3d_r50_pytorchvideo.npz", "i3d_narrow")
    name = "blocks.3.res_blocks.1.branch2.conv_a.weight"
    literal = weights | {name: weights[name].repeat(1, 1, 3, 1, 1) / 3}
    with pytest.raises(
        WeightsError,
        match=f"'{name}': a kernel over 3 in time where 'stem.res3.1.a.weight' has 1; set the",
    ):
        convert_i3d(literal, narrow())


def test_a_model_without_a_3d_resnet(slowfast: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="a 3D ResNet's, and a MeanLSTM has none"):
        convert_i3d(slowfast, create_model("mean_lstm_small"))


def test_arrays_of_another_byte_order_and_width(caffe2: dict[str, np.ndarray]) -> None:
    model = narrow(non_local=True)
    other = {
        name: value.astype(">f8") if isinstance(value, np.ndarray) else value
        for name, value in caffe2.items()
    }
    found, expected = convert_i3d(other, model).state, convert_i3d(caffe2, model).state
    assert all(torch.equal(found[name], expected[name]) for name in expected)
