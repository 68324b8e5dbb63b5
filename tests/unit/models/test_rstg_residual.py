"""The graph inside a backbone: the authors' residual outputs, the exact identity at the start, and
learning from there on.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor

from vidgraph.convert import convert_rstg_tensorflow
from vidgraph.models.rstg import GraphOptions
from vidgraph.models.rstg_residual import GraphResidual, GraphVectorResidual, make_residual_norm

GOLDEN = Path(__file__).parents[2] / "golden"
SOMETHING = GraphOptions(attention="dot", scalewise_update=True, norm="layer")
KINDS = [GraphResidual, GraphVectorResidual]


def from_golden(
    kind: type[GraphResidual], place: str
) -> tuple[GraphResidual, np.lib.npyio.NpzFile, Tensor]:
    golden = np.load(GOLDEN / "graph_smt_LN_dot_scalewise_project_14x14.npz")
    config = json.loads(golden["config_json"].item())
    layer = kind(config["C"], config["node_feat_dim"], (config["H"], config["W"]), SOMETHING)
    graph = {
        name: golden[name]
        for name in golden.files
        if name.startswith("var:") and "after_graph" not in name
    }
    layer.graph.load_state_dict(convert_rstg_tensorflow(graph, layer.graph))
    layer.norm.bias.data = torch.from_numpy(golden[f"var:{place}_after_graph_ln/beta:0"])
    layer.norm.weight.data = torch.from_numpy(golden[f"var:{place}_after_graph_ln_scale:0"])
    return layer, golden, torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3).contiguous()


def test_map_plus_residual_equals_the_authors() -> None:
    layer, golden, features = from_golden(GraphResidual, "res4")
    out = layer(features).permute(0, 2, 3, 4, 1).detach().numpy()
    assert (
        np.abs(golden["out:map_plus_input"] - golden["input"]).max() > 0.1
    )  # the graph has a say in it
    np.testing.assert_allclose(out, golden["out:map_plus_input"], rtol=1e-5, atol=1e-5)


def test_vector_residual_equals_the_authors() -> None:
    layer, golden, features = from_golden(GraphVectorResidual, "final")
    assert np.abs(golden["out:video_feats_residual_norm"]).max() > 0.1
    np.testing.assert_allclose(
        layer(features).detach().numpy(),
        golden["out:video_feats_residual_norm"],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize(
    "channels", [8, 12]
)  # as wide as the graph; projected to its width and back
def test_the_exact_identity_at_initialisation(norm: str, channels: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, channels, 4, 7, 7)
    for training in (True, False):
        inside = GraphResidual(channels, 8, (7, 7), SOMETHING, norm).train(training)
        assert torch.equal(inside(features), features)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(inside(features.bfloat16()), features.bfloat16())
        on_top = GraphVectorResidual(channels, 8, (7, 7), SOMETHING, norm).train(training)
        assert torch.equal(on_top(features), torch.zeros(2, channels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_only_the_gain_learns_in_the_first_step_and_all_the_rest_in_the_second(
    kind: type[GraphResidual], norm: str
) -> None:
    torch.manual_seed(0)
    layer = kind(12, 8, (7, 7), SOMETHING, norm)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    features = torch.randn(4, 12, 3, 7, 7)
    target = torch.randn_like(layer(features))
    moved: list[set[str]] = []
    for _ in range(2):
        optimizer.zero_grad()
        (layer(features) * target).sum().backward()
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
        assert all(
            gradient is not None and torch.isfinite(gradient).all()
            for gradient in gradients.values()
        )
        moved.append(
            {
                name
                for name, gradient in gradients.items()
                if gradient is not None and gradient.any()
            }
        )
        optimizer.step()
    # The bias of the layer form is scaled too; that of batch norm is not.
    assert moved[0] == ({"norm.weight"} if norm == "layer" else {"norm.weight", "norm.bias"})
    # Pairs that are no edge keep logit 0 in the softmax, so that even the query's share that all
    # keys have in common has an influence.
    assert moved[1] == set(gradients)


def test_projections_are_there_only_where_widths_differ() -> None:
    names = {name for name, _ in GraphResidual(8, 8, (4, 4), SOMETHING).named_parameters()}
    assert not [name for name in names if "project" in name]
    names = {name for name, _ in GraphResidual(12, 8, (4, 4), SOMETHING).named_parameters()}
    assert {name for name in names if "project" in name} == {
        f"graph.{layer}.{part}"
        for layer in ("project", "project_back")
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_equals_a_row_of_a_batch_at_any_map_size(kind: type[GraphResidual]) -> None:
    torch.manual_seed(0)
    layer = kind(12, 8, (7, 7), SOMETHING).eval()
    torch.nn.init.normal_(layer.norm.weight)
    features = torch.randn(3, 12, 3, 8, 9)
    assert_close_to_scale(layer(features)[1:2], layer(features[1:2]))


def test_residual_norm_runs_over_a_whole_clip() -> None:
    norm = make_residual_norm("layer", 2, num_axes=4)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 2, 1, 1, 2)  # mean 4, variance 5
    expected = (
        torch.tensor([-3.0, 2 * (-1 + 5**0.5), 1.0, 2 * (3 + 5**0.5)]).reshape(x.shape) / 5**0.5
    )
    assert_close_to_scale(norm(x), expected)
