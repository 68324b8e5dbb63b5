"""Which part of a backbone learns, on every kind of backbone: none of it, what stands from a stage
on, all of it; norms that are frozen stay so; and the rate of each layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_training import moved
from torch import nn

from vidgraph.errors import RecipeError
from vidgraph.evaluation.inference import evaluating
from vidgraph.models.build import create_model
from vidgraph.training.optim import begin_phase, build_optimizer, parameter_groups
from vidgraph.training.phases import TrainOptions

_WIDTH = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 1}
_CLIP = {"num_frames": 2, "image_size": 64, "intermediate_size": 24, "crop_size": 64}


def encoder(kind: str) -> dict[str, Any]:
    config = {"model_type": kind, **_WIDTH, **_CLIP}
    return {"type": "hf", "id": kind, "weights": None, "config": config}


def timm(name: str, **how: Any) -> dict[str, Any]:
    return {"type": "timm", "name": name, "weights": None, **how}


# Each with the parts of it, in the order in which a clip passes them; training begins at the last.
BACKBONES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "resnet3d": (
        {"type": "resnet3d", "depths": [1, 1, 2, 1], "width": 4},
        ["conv1.", "bn1.", "layer1.", "layer2.", "layer3.0.", "layer3.1."],
    ),
    "small_resnet2d": (
        {"type": "small_resnet2d", "widths": [4, 8, 8]},
        ["network.conv1.", "network.bn1.", "network.blocks.0.", "network.blocks.1."],
    ),
    "bn_inception": (
        {"type": "bn_inception", "norm": "batch"},
        ["network.conv1", "network.conv2", "network.inception_3", "network.inception_4a"],
    ),
    "timm:resnet10t": (
        timm("resnet10t", level=32),
        [f"network.timm.{part}." for part in ("conv1", "bn1", "layer1", "layer2", "layer3")],
    ),
    "timm:test_efficientnet": (
        timm("test_efficientnet"),
        [f"network.timm.{part}." for part in ("conv_stem", "bn1", "blocks.0", "blocks.1")],
    ),
    "timm:test_vit": (
        timm("test_vit"),
        [f"network.timm.{part}" for part in ("cls", "pos", "patch", "blocks.0.", "blocks.1.")],
    ),
    **{
        f"hf:{kind}": (encoder(kind), [f"encoder.{p}" for p in ("embed", *layers)])
        for kind, layers in {
            "vjepa2": ("layer.0.", "layer.1."),
            "videomae": ("encoder.layer.0.", "encoder.layer.1."),
            "timesformer": ("encoder.layer.0.", "encoder.layer.1."),
            "vivit": ("layers.0.", "layers.1."),
        }.items()
    },
}


def built(name: str) -> Any:
    torch.manual_seed(0)
    spec = {"num_frames": 2, "height": 64, "width": 64}
    return create_model("pooled", 3, backbone=BACKBONES[name][0], input=spec)


def after_a_step(model: Any, **how: Any) -> set[str]:
    """Names of the tensors that a step of training moves; between two validations."""
    options = TrainOptions(optimizer="sgd", lr=0.1, **how)
    begin_phase(model, [p for p in model.parameters() if p.requires_grad], options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer, clip = build_optimizer(model, options), torch.rand(4, 3, 2, 64, 64)
    with evaluating(model):
        model(clip)
    nn.functional.cross_entropy(model(clip), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    with evaluating(model):
        model(clip)
    return moved(before, model.state_dict())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_backbone_moves_in_nothing(name: str) -> None:
    model = built(name)
    assert after_a_step(model, freeze=["backbone."]) == {
        "head.classifier.weight",
        "head.classifier.bias",
    }
    assert not any(module.training for module in model.backbone.modules())
    assert model.training
    assert model.head.training


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_learns_from_a_stage_on(name: str) -> None:
    """What stands before it moves in nothing, statistics included; no gradient reaches it."""
    model, parts = built(name), [f"backbone.{part}" for part in BACKBONES[name][1]]
    reached: list[bool] = []
    stage = next(m for key, m in model.named_modules() if f"{key}.".startswith(parts[-1]))
    stage.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0].requires_grad))
    names = set(model.state_dict())
    fixed = {key for key in names if key.startswith(tuple(parts[:-1]))}
    assert all(any(key.startswith(part) for key in fixed) for part in parts[:-1])
    found = after_a_step(model, learn_from=[parts[-1]])
    learned = {key for key, p in model.named_parameters() if p.grad is not None}
    assert learned == {key for key, _ in model.named_parameters()} - fixed
    assert not fixed & found
    assert not any(reached)
    for key, module in model.named_modules():
        if f"{key}.".startswith(tuple(parts[:-1])):
            assert not module.training
    assert stage.training


@pytest.mark.parametrize("name", ["resnet3d", "timm:test_efficientnet", "bn_inception"])
def test_frozen_statistics_stay_in_what_learns(name: str) -> None:
    model = built(name)
    found = after_a_step(
        model, learn_from=[f"backbone.{BACKBONES[name][1][-1]}"], freeze_norms=["backbone."]
    )
    assert not {key for key in found if "running" in key or "num_batches" in key}
    norms = (nn.BatchNorm2d, nn.BatchNorm3d)
    learned = [
        k for k, m in model.named_modules() if isinstance(m, norms) and m.weight.grad is not None
    ]
    assert learned
    assert {f"{key}.weight" for key in learned} <= found


def test_a_stage_of_one_of_two_streams() -> None:
    """The other backbone learns as a whole, and so do both classifiers."""
    parts = {"backbone": BACKBONES["small_resnet2d"][0]}
    size = {"height": 64, "width": 64, "flow_length": 1}
    model = create_model("two_stream_small", 3, input=size, frames=parts, flow=parts)
    options = TrainOptions(learn_from=["flow.backbone.network.blocks.1."])
    begin_phase(model, list(model.parameters()), options)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    below = ("conv1.", "bn1.", "blocks.0.")
    start = tuple(f"flow.backbone.network.{part}" for part in below)
    assert fixed == {name for name, _ in model.named_parameters() if name.startswith(start)}


# ---- the rate of each layer ----------------------------------------------------------------------

LAYERS = {
    "resnet3d": ["conv1.", "layer1.0.", "layer2.0.", "layer3.0.", "layer3.1.", "layer4.0."],
    "timm:test_vit": ["network.timm.pos", "network.timm.blocks.0.", "network.timm.blocks.1."],
    "hf:vivit": ["encoder.embed", "encoder.layers.0.", "encoder.layers.1.", "encoder.layers.2."],
    "hf:videomae": ["encoder.embed", *(f"encoder.encoder.layer.{i}." for i in range(3))],
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_has_a_rate_below_that_of_the_next(name: str) -> None:
    model, start = built(name), 0.1
    options = TrainOptions(lr=start, layer_decay=0.5, lr_factors={"head.": 3.0})
    rates = {
        id(parameter): group["lr"]
        for group in parameter_groups(model, options)
        for parameter in group["params"]
    }
    by_name = {key: rates[id(p)] for key, p in model.named_parameters()}
    assert by_name["head.classifier.weight"] == pytest.approx(0.3)
    found = []
    for layer in LAYERS[name]:
        same = {rate for key, rate in by_name.items() if key.startswith(f"backbone.{layer}")}
        found += same
        assert len(same) == 1
    assert found == sorted(found)
    steps = [after / before for before, after in pairwise(found)]
    assert steps == pytest.approx([2.0] * len(steps))
    top = max(rate for key, rate in by_name.items() if key.startswith("backbone."))
    assert top == pytest.approx(0.05)


def test_layers_inserted_in_a_backbone_have_the_full_rate() -> None:
    graph = {"type": "nonlocal", "blocks": ["layer2_0"]}
    backbone = BACKBONES["resnet3d"][0]
    spec = {"num_frames": 2, "height": 64, "width": 64}
    model = create_model("pooled", 3, backbone=backbone, inserted=graph, input=spec)
    groups = parameter_groups(model, TrainOptions(lr=0.1, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if ".inserted." in name or name.startswith("head."):
            assert rates[id(parameter)] == 0.1
        elif name.startswith("backbone.layer4."):
            assert rates[id(parameter)] == 0.05


def test_faults_are_one_line() -> None:
    model = built("timm:resnet10t")
    learning = list(model.parameters())
    hint = "'backbone.network.timm.layr3.'; did you mean 'backbone.network.timm.layer3.'"
    with pytest.raises(RecipeError, match=f"train.learn_from: no parameter starts with {hint}"):
        begin_phase(model, learning, TrainOptions(learn_from=["backbone.network.timm.layr3."]))
    with pytest.raises(RecipeError, match="no numbers tell the layers of backbone"):
        parameter_groups(built("bn_inception"), TrainOptions(layer_decay=0.5))
