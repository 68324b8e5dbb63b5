"""From names and overrides to models: what is merged, what a wrong value says, and the published
sizes and costs.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from vidgraph.backbones.base import FrozenBatchNorm
from vidgraph.errors import RecipeError
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.base import ClipModel
from vidgraph.models.baselines import MeanLSTMOptions, PooledOptions
from vidgraph.models.build import create_model, list_models, merged, resolve_options
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
    plain = resolve_options("i3d_small", {}, "here")
    assert options == replace(plain, head=PooledOptions(dropout=0.5))
    for head in ({"type": "mean_lstm", "width": 8}, MeanLSTMOptions(8)):
        found = resolve_options("i3d_small", {"head": head}, "here")
        assert found.head == MeanLSTMOptions(width=8)
    found = merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}})
    assert found == {"a": {"b": 1, "c": 4}, "d": 3}


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
        ("rstg_small", {"head": {"extras": {"moment": 1}}}, "unknown key head.extras.moment; did"),
        ("i3d_small", {"backbone": {"inflation": "all"}}, "backbone.inflation: should be 'alter"),
        ("i3d_small", {"input": {"stride_frames": 0}}, "input.stride_frames: should be greater"),
        ("i3d_small", {"input": {"sample_fps": "inf"}}, "input.sample_fps: should be a finite"),
        ("i3d_small", {"head": 3}, "head: should be a valid dictionary"),
        ("i3d_small", {"head": {"type": "pool"}}, "head: tag 'pool' found using 'type' does not"),
        ("rstg_small", {"head": {"scales": [3, 0]}}, "head.scales.1: should be greater than or"),
        ("i3d_small", {"input": {"sample_fps": None}}, "input needs one of whole_video, stride_f"),
        ("strg_small", {"input": {"boxes_per_frame": 0}}, "needs input.boxes_per_frame of at le"),
        ("i3d_small", {"head": {"type": "evidence"}}, "head evidence needs the backbone digits"),
        ("rstg_small", {"inserted": {"type": "nonlocal"}}, "layers can be inserted in a resnet3d"),
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
