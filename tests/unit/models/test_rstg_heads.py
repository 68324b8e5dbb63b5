"""RSTG as a head against its authors' network, and beside a backbone: the exact identity at the
start, and learning from there on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.convert import convert_tensors
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.base import ClipModel
from vidgraph.models.build import create_model
from vidgraph.models.norms import JointLayerNorm
from vidgraph.models.rstg import RecurrentSpaceTimeGraph, RSTGOptions
from vidgraph.models.rstg_heads import GraphResidual, GraphVectorResidual
from vidgraph.records import InputSpec

GOLDEN = Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "param_counts.json").read_text())


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def clip_model(name: str, *args: Any, **overrides: Any) -> ClipModel:
    model = create_model(name, *args, **overrides)
    assert isinstance(model, ClipModel)
    return model


# ---- the head ------------------------------------------------------------------------------------


def golden_model() -> tuple[ClipModel, Any, Tensor, Tensor]:
    golden = np.load(GOLDEN / "full_simpleconv_syncmnist_small.npz")
    model = clip_model("rstg_syncmnist", backbone={"width": 32}, head={"width": 32})
    model.load_state_dict(as_ours(golden, "var:", model))
    video = torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3) / 255  # [B, 1, T, 64, 64]
    return model.eval(), golden, video, torch.from_numpy(golden["labels"])


def as_ours(golden: Any, prefix: str, model: nn.Module) -> dict[str, Tensor]:
    names = [name for name in golden.files if name.startswith((prefix, "var:"))]
    # Running statistics are neither trained nor differentiated: fill them so that every tensor has
    # its place.
    names = [name for name in names if name.startswith(prefix) or "moving_" in name]
    variables = {name.removeprefix(prefix).removeprefix("var:"): golden[name] for name in names}
    return convert_tensors(variables, model).state


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What the authors' network trains: their LSTM cell has one bias where torch's has two, so ours
    stands still."""
    return {name: value for name, value in model.named_parameters() if "bias_hh" not in name}


def test_logits_and_losses_equal_the_authors() -> None:
    model, golden, video, labels = golden_model()
    logits = model(video)
    losses = F.cross_entropy(logits, labels, reduction="none")
    levels = model((video * 255).round().to(torch.uint8))
    for ours, name in ((logits, "logits"), (losses, "loss_per_sample"), (levels, "logits")):
        np.testing.assert_allclose(ours.detach().numpy(), golden[name], rtol=1e-5, atol=1e-5)


def test_gradients_equal_the_authors() -> None:
    model, golden, video, labels = golden_model()
    # The authors' gradient is the sum over the batch. Ours is of doubles, so that all processors
    # round alike: sums over nodes cancel.
    F.cross_entropy(model.double()(video.double()), labels, reduction="sum").backward()
    expected = as_ours(golden, "grad:", model)
    for name, parameter in trained(model).items():
        theirs = expected[name]
        assert parameter.grad is not None
        tolerance = 1e-4 * float(theirs.abs().max())
        ours = parameter.grad.to(theirs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance, msg=name)


def test_weights_after_two_nesterov_steps_equal_the_authors() -> None:
    """TensorFlow 1 applies an update as soon as a variable's own gradient is known, and the rest of
    the backward pass then reads the new value: the gradient that leaves the classifier has gone
    through its updated weights. We do the same for the classifier, which takes the difference from
    4.2e-4 to 5.5e-5; other variables race too, unpredictably and by less."""
    model, golden, video, labels = golden_model()
    weights, head = trained(model), model.head
    last = torch.optim.SGD(head.classifier.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    body = [parameter for name, parameter in weights.items() if "classifier" not in name]
    rest = torch.optim.SGD(body, lr=1e-3, momentum=0.9, nesterov=True)
    for _ in range(2):
        model.zero_grad()
        vector = head.graph.to_vector(head.graph(model.forward_features(video)))
        logits = head.classifier(vector.detach())
        logits.retain_grad()
        F.cross_entropy(logits, labels, reduction="sum").backward()
        last.step()
        vector.backward(logits.grad @ head.classifier.weight.detach())
        rest.step()
    expected = as_ours(golden, "after2steps:", model)
    largest = max(float(expected[name].abs().max()) for name in weights)
    for name, parameter in weights.items():
        difference = (parameter.detach() - expected[name]).abs().max()
        assert difference <= 1e-4 * largest, name


# ---- beside and inside a backbone ----------------------------------------------------------------

_GRAPH = {"scalewise_update": True, "norm": "layer"}
VEC: dict[str, Any] = {"inserted": None, "head": {"rstg": _GRAPH}}
FROZEN = {"backbone": {"stem": "valid", "norm": "frozen_statistics"}}
PLACEMENTS: dict[str, dict[str, Any]] = {
    "vec": {"inserted": None},
    "res2": {"inserted": {"blocks": ["layer1_0"]}},
    "res3-4": {},
}


def tiny(placement: str, **head: Any) -> ClipModel:
    """Four frames of 64 x 64, without dropout."""
    torch.manual_seed(0)
    changes = dict(PLACEMENTS[placement])
    graph = {**_GRAPH, "width": 16}
    if placement != "vec":
        changes["inserted"] = {**changes.get("inserted", {}), "graph": graph}
    changes["head"] = {"rstg": graph if placement == "vec" else None, "dropout": 0.0, **head}
    spec = {"num_frames": 4, "height": 64, "width": 64}
    return clip_model("rstg_i3d_small", 5, input=spec, **changes)


def plain_twin(model: ClipModel) -> ClipModel:
    """The same backbone and classifier without graphs."""
    spec = {"num_frames": 4, "height": 64, "width": 64}
    how: dict[str, Any] = {"backbone": {"stem": "valid"}, "head": {"dropout": 0.0}}
    twin = clip_model("i3d_small", 5, input=spec, **how)
    state = model.state_dict()
    twin.load_state_dict({name: state[name] for name in twin.state_dict()})
    return twin


def graphs(model: nn.Module) -> list[GraphResidual]:
    return [module for module in model.modules() if isinstance(module, GraphResidual)]


def enlivened(model: ClipModel) -> ClipModel:
    """As after some training: graphs have a say."""
    for layer in graphs(model):
        nn.init.normal_(layer.norm.weight)
    return model


def clips(batch: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 3, 4, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("published", "name", "overrides"),
    [
        ("smt_c2d", "c2d_r50", FROZEN),
        ("smt_i3d", "i3d_r50", FROZEN),
        ("smt_nonlocal_res3res4", "i3d_nl_r50", FROZEN),
        ("smt_i3d_rstg_final", "rstg_i3d_r50", VEC),
        ("smt_c2d_rstg_final", "rstg_c2d_r50", {}),
        ("smt_i3d_rstg_res2", "rstg_i3d_r50", {"inserted": {"blocks": ["layer1_1"]}}),
        ("smt_i3d_rstg_res3", "rstg_i3d_r50", {"inserted": {"blocks": ["layer2_2"]}}),
        ("smt_i3d_rstg_res4", "rstg_i3d_r50", {"inserted": {"blocks": ["layer3_4"]}}),
        ("smt_i3d_rstg_res3_res4", "rstg_i3d_r50", {}),
    ],
)
def test_parameter_counts_on_backbones_equal_the_authors(
    published: str, name: str, overrides: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = create_model(name, 174, **overrides)
    assert count(model) == COUNTS[published]["total_trainable"]
    assert sum(map(count, graphs(model))) == COUNTS[published]["rstg"]


def test_graphs_stand_before_the_last_block_of_a_layer() -> None:
    with torch.device("meta"):
        model = clip_model("rstg_i3d_r50")
    found = {name: layer.graph for name, layer in model.backbone.inserted.items()}
    sizes = {name: (graph.out_channels, graph.grid.map_size) for name, graph in found.items()}
    assert sizes == {"layer2_2": (512, (28, 28)), "layer3_4": (1024, (14, 14))}
    # layer2 is as wide as the graph
    projected = [isinstance(graph.project_back, nn.Linear) for graph in found.values()]
    assert projected == [False, True]
    assert model.spec == InputSpec(32, 224, 224, whole_video=True, sample_fps=6.0)


@pytest.mark.parametrize(
    ("name", "overrides", "gmac"),
    [
        ("rstg_c2d_r50", {}, 117.21),
        ("rstg_i3d_r50", VEC, 157.43),
        ("rstg_i3d_r50", {"inserted": {"blocks": ["layer1_1"]}}, 163.26),
        ("rstg_i3d_r50", {"inserted": {"blocks": ["layer2_2"]}}, 157.05),
        ("rstg_i3d_r50", {"inserted": {"blocks": ["layer3_4"]}}, 157.19),
        ("rstg_i3d_r50", {}, 162.96),
    ],
)
def test_costs_at_full_size(name: str, overrides: dict[str, Any], gmac: float) -> None:
    """Beside 151.28 GMAC of I3D alone: a graph adds 5.8 at 16 steps and twice as much at 32."""
    with torch.device("meta"):
        model = create_model(name, **overrides)
    profile = profile_model(model)
    assert profile["gmac"]["total"] == pytest.approx(gmac, abs=0.01)
    assert profile["output_shapes"]["backbone"] == [1, 2048, 16, 14, 14]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_plain_backbone_at_initialisation(placement: str) -> None:
    """Logits, and the gradients of all that the two have in common, are equal to the last bit."""
    model = tiny(placement)
    twin = plain_twin(model)
    video, label = clips(), torch.tensor([1, 4])
    assert torch.equal(model.eval()(video), twin.eval()(video))
    for network in (model.train(), twin.train()):
        F.cross_entropy(network(video), label).backward()
    for name, parameter in twin.named_parameters():
        ours = model.get_parameter(name).grad
        assert parameter.grad is not None
        assert ours is not None
        assert torch.equal(parameter.grad, ours), name
    with torch.no_grad():
        assert (enlivened(model).eval()(video) - twin.eval()(video)).abs().max() > 1e-3


def test_larger_frames_need_no_crops() -> None:
    """With windows, each part of the map that has the training size is scored; the graph's vector
    is of the whole map."""
    whole = enlivened(tiny("vec")).eval()
    parts = tiny("vec", windows="logits").eval()
    parts.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert_close_to_scale(parts(clips()), whole(clips()))
        large = clips(size=96)
        features, head = whole.forward_features(large), whole.head
        assert features.shape[3:] == (6, 6)
        parts_of_map = features.unfold(3, 4, 1).unfold(4, 4, 1)  # [B, C, T, 3, 3, 4, 4]
        means = parts_of_map.mean(dim=(2, 5, 6)).flatten(2).permute(2, 0, 1)  # [9, B, C]
        logits = head.classifier(means + head.rstg(features))
        assert_close_to_scale(parts(large), logits.mean(0))
        assert (parts(large) - whole(large)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("placement", "stages", "steps"), [("vec", 3, 2), ("res2", 3, 4), ("res3-4", 6, 2)]
)
def test_explanations_of_all_graphs_over_all_frames(
    placement: str, stages: int, steps: int
) -> None:
    model, video = tiny(placement).eval(), clips(2)
    explanation = model.explain(video)[1]
    attention = explanation.attention
    assert attention.shape == (stages, 4, 14, 14)
    assert explanation.node_boxes_xyxy.shape == (4, 14, 4)
    assert_close_to_scale(attention.sum(-1), torch.ones(stages, 4, 14))
    # A step of the map stands for the frames that it covers.
    assert len(attention[0].unique(dim=0)) == steps
    assert_close_to_scale(attention, model.explain(video[1:])[0].attention)
    layer = next(m for m in model.modules() if isinstance(m, RecurrentSpaceTimeGraph))
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(video)
        handle.remove()
        by_hand = layer.reason(seen[0])[1]
    assert_close_to_scale(attention[:3, :: 4 // steps], torch.stack(by_hand, dim=1)[1])


# ---- the residual layers by themselves -----------------------------------------------------------

KINDS = [GraphResidual, GraphVectorResidual]
NARROW = RSTGOptions(width=8, scalewise_update=True, norm="layer")


@pytest.mark.parametrize(
    ("kind", "place", "expected"),
    [
        (GraphResidual, "res4", "out:map_plus_input"),
        (GraphVectorResidual, "final", "out:video_feats_residual_norm"),
    ],
)
def test_residuals_equal_the_authors(kind: type[GraphResidual], place: str, expected: str) -> None:
    golden = np.load(GOLDEN / "graph_smt_LN_dot_scalewise_project_14x14.npz")
    config = json.loads(golden["config_json"].item())
    options = RSTGOptions(width=config["node_feat_dim"], scalewise_update=True, norm="layer")
    layer = kind(config["C"], (config["H"], config["W"]), options)
    names = [key for key in golden.files if key.startswith("var:") and "after_graph" not in key]
    variables = {name.removeprefix("var:"): golden[name] for name in names}
    layer.graph.load_state_dict(convert_tensors(variables, layer.graph).state)
    layer.norm.bias.data = torch.from_numpy(golden[f"var:{place}_after_graph_ln/beta:0"])
    layer.norm.weight.data = torch.from_numpy(golden[f"var:{place}_after_graph_ln_scale:0"])
    features = torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3).contiguous()
    out = layer(features).detach()
    out = out.permute(0, 2, 3, 4, 1) if kind is GraphResidual else out
    plain = golden["input"] if kind is GraphResidual else 0
    assert np.abs(golden[expected] - plain).max() > 0.1  # the graph has a say in it
    np.testing.assert_allclose(out.numpy(), golden[expected], rtol=1e-5, atol=1e-5)


# As wide as the graph; projected to its width and back.
@pytest.mark.parametrize("channels", [8, 12])
def test_the_exact_identity_at_initialisation(channels: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, channels, 4, 7, 7)
    inside, on_top = (kind(channels, (7, 7), NARROW) for kind in KINDS)
    for training in (True, False):
        assert torch.equal(inside.train(training)(features), features)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(inside(features.bfloat16()), features.bfloat16())
        assert torch.equal(on_top.train(training)(features), torch.zeros(2, channels))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_gain_learns_in_the_first_step_and_all_the_rest_in_the_second(
    kind: type[GraphResidual],
) -> None:
    torch.manual_seed(0)
    layer = kind(12, (7, 7), NARROW)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    features = torch.randn(4, 12, 3, 7, 7)
    target = torch.randn_like(layer(features))
    moved: list[set[str]] = []
    for _ in range(2):
        optimizer.zero_grad()
        (layer(features) * target).sum().backward()
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
        assert all(x is not None and torch.isfinite(x).all() for x in gradients.values())
        moved.append({name for name, x in gradients.items() if x is not None and x.any()})
        optimizer.step()
    assert moved[0] == {"norm.weight"}  # the bias is scaled too
    # Pairs that are no edge keep logit 0 in the softmax, so that even the query's share that all
    # keys have in common has an influence.
    assert moved[1] == set(gradients)


def test_residual_norm_runs_over_a_whole_clip() -> None:
    norm = JointLayerNorm(2, num_axes=4, zero_scale=True)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 2, 1, 1, 2)  # mean 4, variance 5
    expected = torch.tensor([-3.0, 2 * (-1 + 5**0.5), 1.0, 2 * (3 + 5**0.5)]) / 5**0.5
    assert_close_to_scale(norm(x), expected.reshape(x.shape))
