"""The recurrent space-time graph: the authors' outputs, and laws that any graph layer must keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.convert import convert_rstg_tensorflow
from vidgraph.errors import RecipeError
from vidgraph.models.norms import JointLayerNorm
from vidgraph.models.rstg import GraphOptions, NodeCreation, RecurrentSpaceTimeGraph, SpaceStage

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = sorted(path.name for path in GOLDEN.glob("graph_*.npz"))
NORMS = {"none": "none", "LN": "layer", "BN": "batch"}
EVERY = [
    GraphOptions(),
    GraphOptions(attention="simple", position_maps=True, node_batch_norm=True),
    GraphOptions(attention="simple", norm="layer"),
    GraphOptions(attention="dot_neighbours", readout="last"),
    GraphOptions(mask_non_edges=True, norm="layer", scalewise_update=True),
    GraphOptions(attention="simple", mask_non_edges=True, norm="batch"),
    GraphOptions(time_stages="final", position_maps=True),
    GraphOptions(time_stages="none"),
    GraphOptions(time_stages="only"),
    GraphOptions(time_stages="homogeneous"),
    GraphOptions(
        time_stages="homogeneous", attention="simple", mask_non_edges=True, position_maps=True
    ),
    GraphOptions(time_stages="homogeneous", attention="dot_neighbours"),
    GraphOptions(scales=(4, 2), num_stages=1, moments=True),
    GraphOptions(
        moments=True, differences=True, context=True, mask_non_edges=True, position_maps=True
    ),
]


def graph(
    options: GraphOptions, channels: int = 8, width: int = 8, **kwargs
) -> RecurrentSpaceTimeGraph:
    torch.manual_seed(0)
    return RecurrentSpaceTimeGraph(channels, width, (6, 6), options, **kwargs)


def from_golden(name: str) -> tuple[RecurrentSpaceTimeGraph, np.lib.npyio.NpzFile, Tensor]:
    golden = np.load(GOLDEN / name)
    config = json.loads(golden["config_json"].item())
    options = GraphOptions(
        attention=config["use_att"],
        position_maps=config["use_positional_emb"],
        scalewise_update=config["scalewise_update"],
        norm=NORMS[config["use_norm"]],
        node_batch_norm=config["dataset"] == "mnist",
    )
    size = (config["H"], config["W"])
    layer = RecurrentSpaceTimeGraph(
        config["C"],
        config["node_feat_dim"],
        size,
        options,
        project=config["project"],
        project_back=config["project"],
    )
    # The residual norms stand after the graph, in the backbone; they are tested on their own.
    own = {
        key: golden[key]
        for key in golden.files
        if key.startswith("var:") and "after_graph" not in key
    }
    layer.load_state_dict(convert_rstg_tensorflow(own, layer))
    features = (
        torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3).contiguous()
    )  # [B, C, T, H, W]
    return layer.eval(), golden, features


def close(ours: Tensor, golden: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), golden, rtol=1e-5, atol=1e-5)


def test_all_golden_graphs_are_at_hand():
    assert len(FILES) == 6


@pytest.mark.parametrize("name", FILES)
def test_outputs_equal_the_authors(name: str):
    layer, golden, features = from_golden(name)
    nodes, attentions = layer.reason(features)
    assert len(attentions) == 3
    close(nodes.transpose(0, 1), golden["out:final_nodes"])
    close(layer(features), golden["out:video_feats"])
    close(nodes.sum(dim=2).transpose(0, 1), golden["out:frames_feats"])
    close(layer.forward_map(features).permute(0, 2, 3, 4, 1), golden["out:map_out"])
    layer.options = replace(layer.options, readout="last")
    close(layer(features), golden["out:last_step_sum_PAPER"])


@pytest.mark.parametrize("name", [name for name in FILES if "graph_smt" not in name])
def test_created_nodes_equal_the_authors(name: str):
    layer, golden, features = from_golden(name)
    close(layer.create(features), golden["out:created_nodes"])


@pytest.mark.parametrize(
    "name", ["graph_simple_pos1_scalewise0.npz", "graph_dot_pos0_scalewise1.npz"]
)
def test_gradients_equal_the_authors(name: str):
    layer, golden, features = from_golden(name)
    features.requires_grad_()
    (layer(features) * torch.from_numpy(golden["loss_weights_R"])).sum().backward()
    variables = {
        "var:" + key.removeprefix("grad:"): golden[key]
        for key in golden.files
        if key.startswith("grad:") and key != "grad:input"
    }
    expected = convert_rstg_tensorflow(variables, layer)
    pairs = [
        (parameter.grad, expected[name].numpy())
        for name, parameter in layer.named_parameters()
        if "bias_hh" not in name
    ]
    assert features.grad is not None
    pairs.append((features.grad.permute(0, 2, 3, 4, 1), golden["grad:input"]))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_node_batch_norm_in_training_equals_the_authors():
    layer, golden, features = from_golden("graph_mnistBN_simple_pos1_6x6.npz")
    layer.train()
    close(layer(features), golden["out_train:video_feats"])
    close(layer.forward_map(features).permute(0, 2, 3, 4, 1), golden["out_train:map_out"])


def test_residual_norm_equals_the_authors():
    layer, golden, features = from_golden("graph_smt_LN_dot_scalewise_project_14x14.npz")
    for place, num_axes, output, expected in (
        ("final", 1, layer(features), "out:video_feats_residual_norm"),
        ("res4", 4, layer.forward_map(features).permute(0, 2, 3, 4, 1), "out:map_residual_norm"),
    ):
        residual = JointLayerNorm(48, num_axes, zero_scale=True)
        assert not residual(output).any()  # the identity at initialisation
        residual.bias.data = torch.from_numpy(golden[f"var:{place}_after_graph_ln/beta:0"])
        residual.weight.data = torch.from_numpy(golden[f"var:{place}_after_graph_ln_scale:0"])
        close(residual(output), golden[expected])


@pytest.mark.parametrize("options", EVERY)
def test_every_parameter_receives_a_finite_gradient(options: GraphOptions):
    layer = graph(options, channels=4, project=True)
    features = torch.randn(2, 4, 3, 6, 6)
    out = layer(features)
    assert out.shape == (2, 8)
    assert layer.forward_map(features).shape == (2, 8, 3, 6, 6)
    # A fresh ReLU may be dead for one draw: sum over several.
    sum((layer(torch.randn(8, 4, 3, 6, 6)) ** 2).sum() for _ in range(3)).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A softmax does not change when all its scores do, so the query's part that all keys share
        # has no gradient.
        if "attention" not in name:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("options", EVERY)
def test_a_batch_of_one_equals_a_row_of_a_batch(options: GraphOptions):
    layer = graph(options).eval()
    features = torch.randn(3, 8, 4, 6, 6)
    assert_close_to_scale(layer(features)[1:2], layer(features[1:2]), floor=0.1)


@pytest.mark.parametrize(
    "options", [options for options in EVERY if options.time_stages not in ("none", "homogeneous")]
)
def test_time_runs_forward_only(options: GraphOptions):
    if options.norm == "layer" or options.readout == "last":
        options = replace(
            options, norm="none", readout="mean"
        )  # the created nodes' norm runs over all frames
    layer = graph(options).eval()
    features = torch.randn(1, 8, 4, 6, 6)
    later = features.clone()
    later[:, :, 3] += 1
    before, after = layer.reason(features)[0], layer.reason(later)[0]
    assert_close_to_scale(before[:, :3], after[:, :3])
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-6


def test_homogeneous_time_reaches_one_frame_per_stage():
    layer = graph(GraphOptions(time_stages="homogeneous", num_stages=2)).eval()
    features = torch.randn(1, 8, 5, 6, 6)
    earlier = features.clone()
    earlier[:, :, 0] += 1
    change = (layer.reason(features)[0] - layer.reason(earlier)[0]).abs().amax(dim=(0, 2, 3))
    assert (change[:3] > 1e-7).all()
    assert (change[3:] == 0).all()


def test_sparse_messages_equal_dense_ones_under_the_mask():
    stage = graph(GraphOptions(mask_non_edges=True, position_maps=True)).space
    assert isinstance(stage, SpaceStage)
    nodes = torch.randn(2, 3, 14, 8)
    sparse, attention = stage(nodes)
    assert not attention[..., ~stage.attention.linked].any()
    dense = (attention[..., None, :] @ stage.send.all_pairs(nodes)).squeeze(-2)
    expected = stage._update(nodes, F.relu(dense + stage.gather_bias))
    assert_close_to_scale(sparse, expected)


def test_messages_equal_a_plain_loop_over_concatenated_pairs():
    send = graph(GraphOptions(position_maps=True)).space.send
    nodes = torch.randn(14, 8)
    messages = send.all_pairs(nodes[None, None])[0, 0]
    first = torch.cat([send.source.weight, send.destination.weight], dim=1)
    for i in range(14):
        for j in range(14):
            pair = torch.cat([nodes[j], send.positions[j], nodes[i], send.positions[i]])
            hidden = F.relu(first @ pair + send.destination.bias)
            assert_close_to_scale(messages[i, j], F.relu(send.second(hidden)))


@pytest.mark.parametrize("attention", ["simple", "dot", "dot_neighbours"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_a_plain_loop(attention: str, masked: bool):
    layer = graph(GraphOptions(attention=attention, mask_non_edges=masked)).space.attention
    nodes = torch.randn(14, 8)
    weights = layer(nodes[None, None])[0, 0]
    for i in range(14):
        logits = []
        for j in range(14):
            edge = float(layer.linked[i, j])
            query, key = layer.query(nodes[i]), layer.key(nodes[j])
            raw = (
                F.leaky_relu(edge * (query + key), 0.2)[0] + edge
                if attention == "simple"
                else edge * (query @ key)
            )
            logits.append(
                raw
                if edge or not masked or attention == "dot_neighbours"
                else torch.tensor(float("-inf"))
            )
        row = torch.stack([torch.as_tensor(logit) for logit in logits])
        assert_close_to_scale(weights[i], row if attention == "dot_neighbours" else row.softmax(0))


@pytest.mark.parametrize("attention", ["dot", "dot_neighbours"])
def test_an_absent_edge_has_no_influence(attention: str):
    stage = graph(GraphOptions(attention=attention, mask_non_edges=attention == "dot")).space
    nodes = torch.randn(1, 1, 14, 8)
    moved = nodes.clone()
    moved[0, 0, 0] += 1  # the corner (0, 0) of the 3x3 grid
    change = (stage(nodes)[0] - stage(moved)[0]).abs().amax(dim=(0, 1, 3))
    reached = stage.attention.linked[:, 0].clone()
    reached[0] = True
    assert not change[~reached].any()
    assert change[0] > 0


def test_mirrored_frames_mirror_the_nodes():
    """Permuting nodes along with their neighbours permutes the outputs: a mirror is such a
    permutation of the grid.
    """
    layer = graph(GraphOptions()).eval()
    mirror = torch.tensor([2, 1, 0, 5, 4, 3, 8, 7, 6, 10, 9, 12, 11, 13])
    assert torch.equal(
        layer.space.attention.linked[mirror][:, mirror], layer.space.attention.linked
    )
    features = torch.randn(2, 8, 3, 6, 6)
    assert_close_to_scale(
        layer.reason(features.flip(-1))[0], layer.reason(features)[0][:, :, mirror], floor=0.1
    )


def test_space_only_is_blind_to_the_order_of_frames_and_time_only_to_neighbours():
    features = torch.randn(1, 8, 4, 6, 6)
    space = graph(GraphOptions(time_stages="none")).eval()
    assert_close_to_scale(space(features), space(features.flip(2)))
    time = graph(GraphOptions(time_stages="only")).eval()
    touched = features.clone()
    touched[..., :2, :2] += 1
    change = (time.reason(features)[0] - time.reason(touched)[0]).abs().amax(dim=(0, 1, 3))
    assert change.nonzero().flatten().tolist() == [0, 9, 13]  # the three nodes that see that corner


def test_another_map_size_is_allowed_at_test_time():
    layer = graph(GraphOptions()).eval()
    features = torch.randn(1, 8, 2, 6, 6)
    doubled = features.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert_close_to_scale(layer(features), layer(doubled), floor=0.1)


@pytest.mark.parametrize("options", [EVERY[0], EVERY[4], EVERY[13]])
def test_bf16_and_channels_last_stay_close(options: GraphOptions):
    layer = graph(options).eval()
    features = torch.randn(2, 8, 4, 6, 6)
    plain = layer(features)
    assert_close_to_scale(
        layer(features.to(memory_format=torch.channels_last_3d)), plain, floor=0.1
    )
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(features)
    assert (rough.float() - plain).norm() / plain.norm() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("options", [EVERY[0], EVERY[13]])
def test_compiled_equals_eager(options: GraphOptions):
    layer = graph(options).eval()
    features = torch.randn(2, 8, 4, 6, 6)
    compiled = torch.compile(
        layer
    )  # torch's compiler breaks the graph at an LSTM, and runs that part as it is
    assert_close_to_scale(compiled(features), layer(features), rel=1e-4)


def test_joint_layer_norm_by_hand():
    norm = JointLayerNorm(2, num_axes=2)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    x = torch.tensor([[[1.0, 3.0], [5.0, 7.0]]])  # mean 4, variance 5
    expected = torch.tensor([[[-3.0, -2 + 5**0.5], [1.0, 6 + 5**0.5]]]) / 5**0.5
    torch.testing.assert_close(norm(x), expected)


def test_centres_tell_the_place_of_a_feature_and_not_its_strength():
    create = NodeCreation(1, (4, 4), GraphOptions(scales=(2, 1), moments=True))
    create.standardise = nn.Identity()
    for strength in (30.0, 300.0):
        features = torch.zeros(1, 1, 1, 4, 4)
        features[..., 0, 3] = strength
        mean, horizontal, vertical = create(features)[0, 0].T  # [N] each
        assert_close_to_scale(mean, strength * torch.tensor([0, 1 / 4, 0, 0, 1 / 16]))
        # By hand, in halves of the frame: 3/4 from the middle of the frame, 1/4 from the middle of
        # the upper right quarter.
        torch.testing.assert_close(
            horizontal, torch.tensor([0, 0.25, 0, 0, 0.75]), atol=2e-3, rtol=0
        )
        torch.testing.assert_close(
            vertical, torch.tensor([0, -0.25, 0, 0, -0.75]), atol=2e-3, rtol=0
        )


def test_one_step_is_one_step_at_every_scale():
    create = NodeCreation(1, (8, 8), GraphOptions(scales=(2, 1), moments=True, differences=True))
    create.standardise = nn.Identity()
    features = torch.zeros(1, 1, 2, 8, 8)
    features[0, 0, 0, 1, 4], features[0, 0, 1, 2, 6] = (
        100.0,
        100.0,
    )  # two cells to the right, one down, within the upper right quarter
    nodes = create(features)  # [1, 2, N, 6]
    assert (nodes[0, 0, :, 3:] == 0).all()  # no past: no change
    step = torch.tensor([2 * 2 / 8, 1 * 2 / 8])
    for node in (1, 4):  # that quarter, and the frame
        torch.testing.assert_close(nodes[0, 1, node, 4:], step, atol=2e-3, rtol=0)


def test_context_is_what_the_node_of_the_whole_frame_holds():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 8, 8)
    plain, create = (
        NodeCreation(3, (8, 8), GraphOptions(moments=True, differences=True, context=c))
        for c in (False, True)
    )
    plain.standardise = create.standardise = nn.Identity()
    own, nodes = plain(features), create(features)
    assert nodes.shape == (2, 4, 14, 36)
    assert_close_to_scale(nodes[..., :18], own)
    for node in range(14):
        assert_close_to_scale(nodes[:, :, node, 18:], own[:, :, 13])


def test_context_needs_a_node_of_the_whole_frame():
    with pytest.raises(RecipeError, match="the last of scales is 1, not 2"):
        GraphOptions(scales=(3, 2), context=True)
