"""The recurrent space-time graph: the authors' outputs, and laws that any graph layer must keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor
from torch.nn import functional as F

from vidgraph.convert import convert_tensors
from vidgraph.models import grid
from vidgraph.models.rstg import RecurrentSpaceTimeGraph, RSTGOptions, SpaceStage
from vidgraph.models.rstg_extras import RSTGExtras

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = sorted(path.name for path in GOLDEN.glob("graph_*.npz"))
NORMS = {"none": "none", "LN": "layer", "BN": "batch"}
EVERY = [
    RSTGOptions(),
    RSTGOptions(attention="simple", position_maps=True, node_batch_norm=True),
    RSTGOptions(attention="simple", norm="layer"),
    RSTGOptions(attention="dot_neighbours", readout="last"),
    RSTGOptions(mask_non_edges=True, norm="layer", scalewise_update=True),
    RSTGOptions(attention="simple", mask_non_edges=True, norm="batch"),
    RSTGOptions(time_stages="final", position_maps=True),
    RSTGOptions(time_stages="none"),
    RSTGOptions(time_stages="only"),
    RSTGOptions(time_stages="homogeneous"),
    RSTGOptions(
        time_stages="homogeneous", attention="simple", mask_non_edges=True, position_maps=True
    ),
    RSTGOptions(time_stages="homogeneous", attention="dot_neighbours"),
    RSTGOptions(scales=(4, 2), num_stages=1, extras=RSTGExtras(moments=True)),
    RSTGOptions(
        extras=RSTGExtras(moments=True, differences=True, context=True, he=True),
        mask_non_edges=True,
        position_maps=True,
    ),
]


def graph(options: RSTGOptions, channels: int = 8, **kwargs) -> RecurrentSpaceTimeGraph:
    torch.manual_seed(0)
    return RecurrentSpaceTimeGraph(channels, (6, 6), replace(options, width=8), **kwargs)


def vector(layer: RecurrentSpaceTimeGraph, features: Tensor) -> Tensor:
    return layer.to_vector(layer(features))


def painted(layer: RecurrentSpaceTimeGraph, features: Tensor) -> Tensor:
    """The nodes as a map, channels last, [B, T, H, W, D]."""
    return layer.grid.paint(layer(features), *features.shape[3:]).permute(0, 2, 3, 4, 1)


def from_golden(name: str) -> tuple[RecurrentSpaceTimeGraph, np.lib.npyio.NpzFile, Tensor]:
    golden = np.load(GOLDEN / name)
    config = json.loads(golden["config_json"].item())
    options = RSTGOptions(
        attention=config["use_att"],
        position_maps=config["use_positional_emb"],
        scalewise_update=config["scalewise_update"],
        norm=NORMS[config["use_norm"]],
        node_batch_norm=config["dataset"] == "mnist",
        width=config["node_feat_dim"],
    )
    size = (config["H"], config["W"])
    layer = RecurrentSpaceTimeGraph(
        config["C"], size, options, project=config["project"], project_back=config["project"]
    )
    # The residual norms stand after the graph, in the backbone; they are tested on their own.
    names = [key for key in golden.files if key.startswith("var:") and "after_graph" not in key]
    own = {key.removeprefix("var:"): golden[key] for key in names}
    layer.load_state_dict(convert_tensors(own, layer).state)
    # [B, C, T, H, W]
    features = torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3).contiguous()
    return layer.eval(), golden, features


def close(ours: Tensor, golden: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), golden, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_outputs_equal_the_authors(name: str):
    layer, golden, features = from_golden(name)
    nodes, attentions = layer.reason(features)
    assert len(attentions) == 3
    close(nodes.transpose(0, 1), golden["out:final_nodes"])
    close(vector(layer, features), golden["out:video_feats"])
    close(nodes.sum(dim=2).transpose(0, 1), golden["out:frames_feats"])
    close(painted(layer, features), golden["out:map_out"])
    layer.options = replace(layer.options, readout="last")
    close(vector(layer, features), golden["out:last_step_sum_PAPER"])


@pytest.mark.parametrize("name", [name for name in FILES if "graph_smt" not in name])
def test_created_nodes_equal_the_authors(name: str):
    layer, golden, features = from_golden(name)
    close(layer.grid.pool(features), golden["out:created_nodes"])


@pytest.mark.parametrize(
    "name", ["graph_simple_pos1_scalewise0.npz", "graph_dot_pos0_scalewise1.npz"]
)
def test_gradients_equal_the_authors(name: str):
    layer, golden, features = from_golden(name)
    features.requires_grad_()
    (vector(layer, features) * torch.from_numpy(golden["loss_weights_R"])).sum().backward()
    names = [key for key in golden.files if key.startswith("grad:") and key != "grad:input"]
    variables = {key.removeprefix("grad:"): golden[key] for key in names}
    expected = convert_tensors(variables, layer).state
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
    close(vector(layer, features), golden["out_train:video_feats"])
    close(painted(layer, features), golden["out_train:map_out"])


@pytest.mark.parametrize("options", EVERY)
def test_every_kind_learns_and_does_not_mix_clips(options: RSTGOptions):
    layer = graph(options, channels=4, project=True)
    # A fresh ReLU may be dead for one draw: sum over several.
    sum((layer(torch.randn(8, 4, 3, 6, 6)) ** 2).sum() for _ in range(3)).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A softmax does not change when all its scores do, so the query's part that all keys share
        # has no gradient.
        if "attention" not in name:
            assert parameter.grad.abs().sum() > 0, name
    features = torch.randn(3, 4, 4, 6, 6)
    nodes = layer.eval()(features)
    assert nodes.shape == (3, 4, grid.num_nodes(options.scales), 8)
    assert_close_to_scale(nodes[1:2], layer(features[1:2]), floor=0.1)


@pytest.mark.parametrize(
    "options", [options for options in EVERY if options.time_stages not in ("none", "homogeneous")]
)
def test_time_runs_forward_only(options: RSTGOptions):
    if options.norm == "layer" or options.readout == "last":
        # the created nodes' norm runs over all frames
        options = replace(options, norm="none", readout="mean")
    layer = graph(options).eval()
    features = torch.randn(1, 8, 4, 6, 6)
    later = features.clone()
    later[:, :, 3] += 1
    before, after = layer(features), layer(later)
    assert_close_to_scale(before[:, :3], after[:, :3])
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-6


def test_homogeneous_time_reaches_one_frame_per_stage():
    layer = graph(RSTGOptions(time_stages="homogeneous", num_stages=2)).eval()
    features = torch.randn(1, 8, 5, 6, 6)
    earlier = features.clone()
    earlier[:, :, 0] += 1
    change = (layer(features) - layer(earlier)).abs().amax(dim=(0, 2, 3))
    assert (change[:3] > 1e-7).all()
    assert (change[3:] == 0).all()


def test_sparse_messages_equal_dense_ones_under_the_mask():
    stage = graph(RSTGOptions(mask_non_edges=True, position_maps=True)).space
    assert isinstance(stage, SpaceStage)
    nodes = torch.randn(2, 3, 14, 8)
    sparse, attention = stage(nodes)
    assert not attention[..., ~stage.attention.linked].any()
    dense = (attention[..., None, :] @ stage.send.all_pairs(nodes)).squeeze(-2)
    expected = stage._update(nodes, F.relu(dense + stage.gather_bias))
    assert_close_to_scale(sparse, expected)


def test_messages_equal_a_plain_loop_over_concatenated_pairs():
    send = graph(RSTGOptions(position_maps=True)).space.send
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
    layer = graph(RSTGOptions(attention=attention, mask_non_edges=masked)).space.attention
    nodes = torch.randn(14, 8)
    weights = layer(nodes[None, None])[0, 0]
    for i in range(14):
        row = torch.full((14,), float("-inf"))
        for j in range(14):
            edge = float(layer.linked[i, j])
            query, key = layer.query(nodes[i]), layer.key(nodes[j])
            if attention == "simple":
                raw = F.leaky_relu(edge * (query + key), 0.2)[0] + edge
            else:
                raw = edge * (query @ key)
            if edge or not masked or attention == "dot_neighbours":
                row[j] = raw
        assert_close_to_scale(weights[i], row if attention == "dot_neighbours" else row.softmax(0))


@pytest.mark.parametrize("attention", ["dot", "dot_neighbours"])
def test_an_absent_edge_has_no_influence(attention: str):
    stage = graph(RSTGOptions(attention=attention, mask_non_edges=attention == "dot")).space
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
    permutation of the grid."""
    layer = graph(RSTGOptions()).eval()
    mirror = torch.tensor([2, 1, 0, 5, 4, 3, 8, 7, 6, 10, 9, 12, 11, 13])
    linked = layer.space.attention.linked
    assert torch.equal(linked[mirror][:, mirror], linked)
    features = torch.randn(2, 8, 3, 6, 6)
    assert_close_to_scale(layer(features.flip(-1)), layer(features)[:, :, mirror], floor=0.1)


def test_space_only_is_blind_to_the_order_of_frames_and_time_only_to_neighbours():
    features = torch.randn(1, 8, 4, 6, 6)
    space = graph(RSTGOptions(time_stages="none")).eval()
    assert_close_to_scale(vector(space, features), vector(space, features.flip(2)))
    time = graph(RSTGOptions(time_stages="only")).eval()
    touched = features.clone()
    touched[..., :2, :2] += 1
    change = (time(features) - time(touched)).abs().amax(dim=(0, 1, 3))
    assert change.nonzero().flatten().tolist() == [0, 9, 13]  # the three nodes that see that corner


def test_another_map_size_is_allowed_at_test_time():
    layer = graph(RSTGOptions()).eval()
    features = torch.randn(1, 8, 2, 6, 6)
    doubled = features.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert_close_to_scale(layer(features), layer(doubled), floor=0.1)


@pytest.mark.parametrize("options", [EVERY[0], EVERY[4], EVERY[13]])
def test_bf16_and_channels_last_stay_close(options: RSTGOptions):
    layer = graph(options).eval()
    features = torch.randn(2, 8, 4, 6, 6)
    plain = layer(features)
    strided = features.to(memory_format=torch.channels_last_3d)
    assert_close_to_scale(layer(strided), plain, floor=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(features)
    assert (rough.float() - plain).norm() / plain.norm() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("options", [EVERY[0], EVERY[13]])
def test_compiled_equals_eager(options: RSTGOptions):
    layer = graph(options).eval()
    features = torch.randn(2, 8, 4, 6, 6)
    # torch's compiler breaks the graph at an LSTM, and runs that part as it is
    compiled = torch.compile(layer)
    assert_close_to_scale(compiled(features), layer(features), rel=1e-4)
