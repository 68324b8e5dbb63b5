"""RSTG on and inside C2D and I3D: the authors' parameter counts and places, the exact identity at
the start, and the two steps after it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

import vidgraph
from vidgraph.errors import RecipeError
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.build import create_model
from vidgraph.models.norms import JointLayerNorm, LastAxisBatchNorm
from vidgraph.models.rstg_models import BackboneRSTG
from vidgraph.models.rstg_residual import GraphResidual, GraphVectorResidual
from vidgraph.records import InputSpec
from vidgraph.weights import save_weights

COUNTS = json.loads((Path(__file__).parents[2] / "golden" / "param_counts.json").read_text())
PAGE = (Path(__file__).parents[3] / "docs" / "rstg.md").read_text(encoding="utf-8")
PLACEMENTS = ["vec", "res2", "res3", "res4", "res3-4"]
BACKBONE: dict[str, Any] = {"num_classes": 174, "stem": "valid", "norm": "frozen_statistics"}
TINY: dict[str, Any] = {"num_classes": 5, "num_frames": 4, "size": 64, "width": 16}


def tiny(placement: str, **options: Any) -> BackboneRSTG:
    torch.manual_seed(0)
    model = create_model("rstg_i3d_small", placement=placement, **{**TINY, **options})
    assert isinstance(model, BackboneRSTG)
    return model


def plain_twin(model: BackboneRSTG, **options: Any) -> nn.Module:
    """The same backbone and classifier without graphs."""
    own = {name: value for name, value in TINY.items() if name != "width"}
    twin = create_model("i3d_small", **{**own, "stem": "valid", "whole_video": True, **options})
    twin.load_state_dict(
        {
            name: value
            for name, value in model.state_dict().items()
            if ".after." not in name and "on_top." not in name
        }
    )
    return twin


def graphs(model: nn.Module) -> list[GraphResidual]:
    return [module for module in model.modules() if isinstance(module, GraphResidual)]


def clips(batch: int = 2, size: int = 64) -> Tensor:
    return torch.randint(
        0,
        256,
        (batch, 3, 4, size, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )


def enlivened(model: BackboneRSTG) -> BackboneRSTG:
    """As after some training: graphs have a say."""
    for layer in graphs(model):
        nn.init.normal_(layer.norm.weight)
    return model


@pytest.mark.parametrize(
    ("published", "architecture", "options"),
    [
        ("smt_c2d", "c2d_r50", BACKBONE),
        ("smt_i3d", "i3d_r50", BACKBONE),
        ("smt_nonlocal_res3res4", "i3d_nl_r50", BACKBONE),
        ("smt_i3d_rstg_final", "rstg_i3d_r50", {"placement": "vec"}),
        ("smt_c2d_rstg_final", "rstg_c2d_r50", {"placement": "vec"}),
        ("smt_i3d_rstg_res2", "rstg_i3d_r50", {"placement": "res2"}),
        ("smt_i3d_rstg_res3", "rstg_i3d_r50", {"placement": "res3"}),
        ("smt_i3d_rstg_res4", "rstg_i3d_r50", {"placement": "res4"}),
        ("smt_i3d_rstg_res3_res4", "rstg_i3d_r50", {"placement": "res3-4"}),
    ],
)
def test_parameter_counts_equal_the_authors(
    published: str, architecture: str, options: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = create_model(architecture, **options)
    assert (
        sum(p.numel() for p in model.parameters() if p.requires_grad)
        == COUNTS[published]["total_trainable"]
    )
    assert (
        sum(p.numel() for layer in graphs(model) for p in layer.parameters())
        == COUNTS[published]["rstg"]
    )


@pytest.mark.parametrize(
    ("placement", "places"),
    [
        ("res2", {"res2_1": (256, (55, 55))}),
        ("res3", {"res3_2": (512, (28, 28))}),
        ("res4", {"res4_4": (1024, (14, 14))}),
        ("res3-4", {"res3_2": (512, (28, 28)), "res4_4": (1024, (14, 14))}),
        ("vec", {}),
    ],
)
def test_graphs_stand_before_the_last_block_of_a_stage(
    placement: str, places: dict[str, tuple[int, tuple[int, int]]]
) -> None:
    with torch.device("meta"):
        model = create_model("rstg_i3d_r50", placement=placement)
    assert {
        name: (layer.out_channels, layer.graph.create.map_size)
        for name, layer in model.stem.after.items()
    } == places
    assert isinstance(model.on_top, GraphVectorResidual) == (placement == "vec")
    for layer in graphs(model):
        assert isinstance(layer.graph.project_back, nn.Linear) == (
            layer.out_channels != 512
        )  # res3 is as wide as the graph
    assert model.input_spec == InputSpec(32, 224, 224, num_segments=32)


@pytest.mark.parametrize(
    ("architecture", "placement", "gmac"),
    [
        ("rstg_c2d_r50", "vec", 117.21),
        ("rstg_i3d_r50", "vec", 157.43),
        ("rstg_i3d_r50", "res2", 163.26),
        ("rstg_i3d_r50", "res3", 157.05),
        ("rstg_i3d_r50", "res4", 157.19),
        ("rstg_i3d_r50", "res3-4", 162.96),
    ],
)
def test_costs_at_full_size(architecture: str, placement: str, gmac: float) -> None:
    """As the page of RSTG has them, beside 151.28 GMAC of I3D alone: a graph adds 5.8 at 16 steps
    and twice as much at the 32 of res2.
    """
    with torch.device("meta"):
        model = create_model(architecture, placement=placement)
    profile = profile_model(model)
    assert profile["gmac"]["total"] == pytest.approx(gmac, abs=0.01)
    assert profile["output_shapes"]["stem"] == [1, 2048, 16, 14, 14]
    assert profile["output_shapes"]["output"] == [1, 174]
    if architecture == "rstg_i3d_r50":
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{placement}` |"))
        assert line.endswith(f"| {profile['params']:,} | {gmac:.2f} |")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_plain_backbone_at_initialisation(placement: str) -> None:
    """Logits, and the gradients of all that the two have in common, are equal to the last bit."""
    model = tiny(placement, dropout=0.0)
    twin = plain_twin(model, dropout=0.0)
    video, label = clips(), torch.tensor([1, 4])
    assert torch.equal(model.eval()(video), twin.eval()(video))
    for network in (model.train(), twin.train()):
        F.cross_entropy(network(video), label).backward()
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter.grad, model.get_parameter(name).grad), name  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_parameter_learns_by_the_second_step(placement: str) -> None:
    model = tiny(placement).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(clips(4)), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_batch_of_one_equals_a_row_of_a_batch(placement: str) -> None:
    model = enlivened(tiny(placement)).eval()
    video = clips(3)
    with torch.no_grad():
        assert (
            model(video) - plain_twin(model).eval()(video)
        ).abs().max() > 1e-3  # the graphs do have a say
        assert_close_to_scale(model(video)[1:2], model(video[1:2]), rel=1e-4)


def test_larger_frames_need_no_crops() -> None:
    """With windows, each part of the map that has the training size is scored; the graph's vector
    is of the whole map.
    """
    whole = enlivened(tiny("vec")).eval()
    parts = tiny("vec", windows="logits").eval()
    parts.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert_close_to_scale(parts(clips()), whole(clips()))
        large = clips(size=96)
        features = whole.stem(whole.pixels(large))
        assert features.shape[3:] == (6, 6)
        logits = [
            whole.classifier(
                features[..., y : y + 4, x : x + 4].mean(dim=(2, 3, 4)) + whole.on_top(features)
            )
            for y in range(3)
            for x in range(3)
        ]
        assert_close_to_scale(parts(large), torch.stack(logits).mean(0))
        assert (parts(large) - whole(large)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("placement", "stages", "steps"), [("vec", 3, 2), ("res2", 3, 4), ("res3-4", 6, 2)]
)
def test_explanations_of_all_graphs_over_all_frames(
    placement: str, stages: int, steps: int
) -> None:
    model = tiny(placement).eval()
    video = clips(2)
    explanations = model.explain(video)
    attention = explanations[1].attention
    assert attention.shape == (stages, 4, 14, 14)
    assert explanations[1].node_boxes_xyxy.shape == (4, 14, 4)
    assert_close_to_scale(attention.sum(-1), torch.ones(stages, 4, 14))
    assert (
        len(attention[0].unique(dim=0)) == steps
    )  # a step of the map stands for the frames that it covers
    assert_close_to_scale(attention, model.explain(video[1:])[0].attention)
    layer = graphs(model)[0]
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(video)
        handle.remove()
        by_hand = layer.graph.reason(seen[0])[1]
    assert_close_to_scale(attention[:3, :: 4 // steps], torch.stack(by_hand, dim=1)[1])


def test_the_norm_of_what_is_added_is_an_option() -> None:
    assert isinstance(graphs(tiny("res4"))[0].norm, JointLayerNorm)
    assert isinstance(graphs(tiny("res4", residual_norm="batch"))[0].norm, LastAxisBatchNorm)
    assert isinstance(graphs(tiny("vec", residual_norm="batch"))[0].norm, LastAxisBatchNorm)


def test_an_explanation_of_time_only_has_no_stages() -> None:
    assert tiny("res3", time_stages="only").explain(clips(1))[0].attention.shape == (0, 4, 14, 14)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model = enlivened(tiny("res3-4")).eval()
    save_weights(model, tmp_path)
    loaded = vidgraph.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(clips()), model(clips()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"placement": "res5"},
            "option 'placement' is one of vec, res2, res3, res4, res3-4, not 'res5'",
        ),
        ({"windows": "probabilities"}, "windows: RSTG averages 'logits' over windows"),
        (
            {"norm": "frozen"},
            "norm is the graph's, one of none, layer, batch, not 'frozen'; that of the backbone "
            "is backbone_norm",
        ),
        ({"size": 8}, "clips of 8 frames of 8 x 8 leave no map"),
        ({"placment": "vec"}, "has no option 'placment'; did you mean 'placement'?"),
    ],
)
def test_options_that_are_wrong_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as error:
        create_model("rstg_i3d_small", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
