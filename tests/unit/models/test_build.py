"""From names and overrides to models: what is merged, what a wrong value says, and the published
sizes and costs.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch.nn import functional as F

from vidgraph.backbones.base import FrozenBatchNorm
from vidgraph.backbones.resnet3d import ResNet3DOptions
from vidgraph.errors import RecipeError
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.base import ClipModel
from vidgraph.models.baselines import MeanLSTMOptions, PooledOptions
from vidgraph.models.build import create_model, list_models, merged, resolve_options
from vidgraph.models.published import ModelOptions, i3d_small
from vidgraph.records import InputSpec, validated

SHORT = InputSpec(num_frames=32, height=224, width=224, sample_fps=6.0)
LONG = InputSpec(num_frames=128, height=288, width=288, sample_fps=24.0)


def clip_model(name: str, *args: Any, **overrides: Any) -> ClipModel:
    model = create_model(name, *args, **overrides)
    assert isinstance(model, ClipModel)
    return model


# ---- names and overrides -------------------------------------------------------------------------


def test_overrides_go_key_by_key_and_another_type_replaces_the_part() -> None:
    options = resolve_options("i3d_small", {"head": {"dropout": 0.5}}, "here")
    assert options == replace(i3d_small(), head=PooledOptions(dropout=0.5))
    other = {"head": {"type": "mean_lstm", "width": 8}}
    assert resolve_options("i3d_small", other, "here").head == MeanLSTMOptions(width=8)
    assert resolve_options("i3d_small", {"head": MeanLSTMOptions(8)}, "here").head == (
        MeanLSTMOptions(width=8)
    )
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {
        "a": {"b": 1, "c": 4},
        "d": 3,
    }


def test_complete_options_and_the_number_of_classes_build_the_same_model() -> None:
    for name in list_models():
        options = resolve_options(name, {}, name)
        again = validated(type(options), asdict(options), name)
        assert again == options


def test_texts_of_the_command_line_are_numbers_and_lists() -> None:
    overrides = {"head": {"num_stages": "2", "scales": ["2", "1"], "position_maps": "false"}}
    head = resolve_options("rstg_small", overrides, "here").head
    assert (head.num_stages, head.scales, head.position_maps) == (2, (2, 1), False)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("rstg_smal", {}, "there is no model 'rstg_smal'; did you mean 'rstg_small'?"),
        ("i3d_small", {"bckbone": {}}, "unknown key bckbone; did you mean 'backbone'?"),
        (
            "i3d_small",
            {"backbone": {"inflatin": "none"}},
            "unknown key backbone.inflatin; did you mean 'inflation'?",
        ),
        (
            "rstg_small",
            {"head": {"extras": {"moment": True}}},
            "unknown key head.extras.moment; did you mean 'moments'?",
        ),
        (
            "rstg_i3d_small",
            {"inserted": {"graph": {"widht": 3}}},
            "unknown key inserted.graph.widht; did you mean 'width'?",
        ),
        ("i3d_small", {"backbone": {"inflation": "all"}}, "backbone.inflation: should be 'alter"),
        ("i3d_small", {"backbone": {"layer4_stride": 3}}, "backbone.layer4_stride: should be 1"),
        ("i3d_small", {"input": {"num_frames": "many"}}, "input.num_frames: should be a valid int"),
        ("i3d_small", {"input": {"stride_frames": 0}}, "input.stride_frames: should be greater"),
        ("i3d_small", {"input": {"sample_fps": "inf"}}, "input.sample_fps: should be a finite"),
        ("i3d_small", {"head": {"dropout": 1.0}}, "head.dropout: should be less than 1"),
        ("i3d_small", {"head": 3}, "head: should be a valid dictionary"),
        ("i3d_small", {"head": {"type": "pool"}}, "head: tag 'pool' found using 'type' does not"),
        ("rstg_small", {"head": {"scales": []}}, "head.scales: Tuple should have at least 1 item"),
        ("rstg_small", {"head": {"scales": [3, 0]}}, "head.scales.1: should be greater than or"),
        (
            "i3d_small",
            {"input": {"sample_fps": None}},
            "input needs one of whole_video, stride_frames and sample_fps",
        ),
        ("strg_small", {"input": {"boxes_per_frame": 0}}, "needs input.boxes_per_frame of at le"),
        ("i3d_small", {"head": {"type": "evidence"}}, "head evidence needs the backbone digits"),
        (
            "rstg_small",
            {"inserted": {"type": "nonlocal"}},
            "layers can be inserted in a resnet3d, not in a digits",
        ),
        (
            "i3d_small",
            {"inserted": {"type": "nonlocal", "blocks": ["layer2_2"]}},
            "the backbone has no block 'layer2_2'; did you mean",
        ),
        (
            "i3d_small",
            {"input": {"num_frames": 1}},
            "clips of 1 frames of 112 x 112 leave no map; the backbone needs num_frames >= 2 and "
            "sides >= 16",
        ),
        (
            "i3d_small",
            {"input": {"num_frames": 4}, "backbone": {"stem": "long"}},
            "needs num_frames >= 8",
        ),
        ("rstg_small", {"num_classes": 0}, "rstg_small needs at least one class"),
        ("rstg_small", {"class_names": []}, "rstg_small needs at least one class"),
        ("pooled", {}, "pooled needs at least one class; give num_classes or class_names"),
        ("rstg_small", {"num_classes": 3, "class_names": ["a"]}, "1 class names were given for 3"),
    ],
)
def test_what_is_wrong_is_one_line(name: str, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as error:
        create_model(name, **overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_options_reach_the_model() -> None:
    with torch.device("meta"):
        model = clip_model(
            "i3d_r50",
            7,
            input={"num_frames": 8, "height": 64, "width": 64, "stride_frames": 8},
            backbone={"norm": "frozen", "layer4_stride": 2},
            head={"dropout": 0.5},
        )
        whole = clip_model("i3d_small", input={"whole_video": True}, head={"windows": "logits"})
    spec = InputSpec(8, 64, 64, stride_frames=8, sample_fps=6.0)
    assert (model.name, model.num_classes, model.spec) == ("i3d_r50", 7, spec)
    assert model.head.classifier.out_features == 7
    assert model.head.dropout.p == 0.5
    assert model.backbone.stride == (2, 32, 32)
    assert isinstance(model.backbone.layer2[0].bn2, FrozenBatchNorm)
    assert (whole.head.window, whole.spec.whole_video) == ((7, 7), True)
    no_graph = clip_model("strg_small", head={"graph": "none"})
    assert no_graph.spec.boxes_per_frame == 0


def test_a_head_stands_on_any_backbone_by_name() -> None:
    model = clip_model(
        "rstg",
        class_names=["a", "b"],
        input={"num_frames": 2, "height": 32, "width": 32},
        backbone=ResNet3DOptions(depths=(1, 1, 1, 1), width=4),
        head={"width": 8},
    )
    assert (model.class_names, model.num_classes, model.multi_label) == (["a", "b"], 2, False)
    assert isinstance(model.options, ModelOptions)
    assert model.head.graph.grid.map_size == (2, 2)


# ---- published sizes and costs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clip", "gmac", "params", "shape"),
    [
        ("c2d_r50", SHORT, 111.88, 23_829_725, (2048, 16, 14, 14)),
        ("i3d_r50", SHORT, 152.47, 27_545_565, (2048, 16, 14, 14)),
        ("i3d_nl_r50", SHORT, 220.86, 34_904_029, (2048, 16, 14, 14)),
        ("c2d_r101", LONG, 289.37, 42_821_853, (2048, 16, 18, 18)),
        ("i3d_r101", LONG, 405.90, 51_256_285, (2048, 16, 18, 18)),
        ("i3d_nl_r101", LONG, 405.90 + 2 * 61.835 + 3 * 13.675, 58_614_749, (2048, 16, 18, 18)),
        ("i3d_small", InputSpec(8, 112, 112, sample_fps=6.0), 0.62, 1_123_245, (512, 4, 7, 7)),
    ],
)
def test_costs_at_full_size(
    name: str, clip: InputSpec, gmac: float, params: int, shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = create_model(name)
    profile = profile_model(model)
    assert model.spec == clip
    assert profile["gmac"]["total"] == pytest.approx(gmac, abs=0.005)
    assert profile["params"] == params
    assert profile["output_shapes"]["backbone"] == [1, *shape]
    assert profile["output_shapes"]["output"] == [1, 157]


def test_size_of_the_small_graph() -> None:
    """Its stages share their weights, so one stage has the parameters of three, only not their
    cost."""
    one, three = clip_model("rstg_small"), clip_model("rstg_small", head={"num_stages": 3})
    assert [sum(p.numel() for p in model.parameters()) for model in (one, three)] == [518_526] * 2
    assert (one.head.graph.num_stages, three.head.graph.num_stages) == (1, 3)


@pytest.mark.parametrize(
    "name", ["rstg_small", "mean_lstm_small", "conv_lstm_small", "i3d_nl_digits_small"]
)
def test_a_small_model_takes_all_of_the_pretrained_backbone(name: str) -> None:
    pretrained = create_model("digit_stem").state_dict()
    own = create_model(name).state_dict()
    for key, tensor in pretrained.items():
        if not key.startswith("head."):
            assert own[key].shape == tensor.shape, key


def test_larger_frames_need_no_crops() -> None:
    torch.manual_seed(0)
    whole, parts = (
        clip_model("i3d_small", 5, head={"windows": windows}).eval()
        for windows in ("whole", "logits")
    )
    parts.load_state_dict(whole.state_dict())
    with torch.no_grad():
        square = torch.rand(1, 3, 8, 112, 112)
        assert_close_to_scale(parts(square), whole(square))
        wide = torch.rand(1, 3, 8, 128, 170)
        features, classifier = whole.forward_features(wide), whole.head.classifier
        assert features.shape[3:] == (8, 11)
        assert_close_to_scale(whole(wide), classifier(features.mean((2, 3, 4))))
        by_hand = [
            features[..., y : y + 7, x : x + 7].mean((2, 3, 4)) for y in range(2) for x in range(5)
        ]
        assert_close_to_scale(parts(wide), classifier(torch.stack(by_hand)).mean(0))


def test_small_one_learns_to_tell_two_motions_apart() -> None:
    """The same frames forwards and backwards: no single frame tells them apart."""
    torch.manual_seed(0)
    spec = {"height": 32, "width": 32}
    model = create_model("i3d_small", 2, input=spec, head={"dropout": 0.0})
    still = torch.rand(4, 3, 1, 32, 32).expand(-1, -1, 8, -1, -1)
    forwards = torch.stack([torch.roll(still[:, :, t], 4 * t, dims=3) for t in range(8)], dim=2)
    video, label = torch.cat([forwards, forwards.flip(2)]), torch.arange(2).repeat_interleave(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(video), label).backward()
        optimizer.step()
    assert (model(video).argmax(1) == label).float().mean() >= 0.9
