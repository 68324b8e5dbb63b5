"""The RSTG authors' variables of TensorFlow: they fill our model completely, and then it computes
what theirs does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale

from vidgraph.convert import convert_tensors, head_classes
from vidgraph.errors import WeightsError
from vidgraph.models.base import ClipModel
from vidgraph.models.build import create_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "full_simpleconv_syncmnist_small.npz") as stored:
        return dict(stored)


@pytest.fixture
def variables(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a saved checkpoint of the authors' model, 32 channels wide."""
    return {name[4:]: value for name, value in golden.items() if name.startswith("var:")}


@pytest.fixture
def rstg() -> ClipModel:
    width = {"width": 32}
    model = create_model("rstg_syncmnist", 46, head=width, backbone=width)
    assert isinstance(model, ClipModel)
    return model.eval()


def test_converted_model_computes_the_authors_logits(
    golden: dict[str, np.ndarray], variables: dict[str, np.ndarray], rstg: ClipModel
) -> None:
    before = {name: value.clone() for name, value in rstg.state_dict().items()}
    found = convert_tensors(variables, rstg)
    assert all(torch.equal(before[name], value) for name, value in rstg.state_dict().items())
    assert found.fresh == []
    assert head_classes(variables) == 46
    rstg.load_state_dict(found.state)
    video = torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3)
    for pixels in (video.to(torch.uint8), video / 255):
        assert_close_to_scale(rstg(pixels), torch.from_numpy(golden["logits"]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnist_rstg_pos_simple", {}),
        ("mnist_rstg_nopos_simple", {"position_maps": False}),
        ("mnist_rstg_pos_dot", {"attention": "dot"}),
        ("mnist_rstg_pos_simple_scalewise", {"scalewise_update": True}),
    ],
)
def test_published_variables_fill_the_published_size_exactly(
    name: str, options: dict[str, Any]
) -> None:
    """Every trained variable of the authors' model becomes one of ours, by name and shape, and no
    parameter of ours is left; among them the buffers that cuDNN's LSTM works on."""
    published = json.loads((GOLDEN / "param_counts.json").read_text())[name]
    model = create_model("rstg_syncmnist", 46, head=options)
    variables = {key: np.zeros(shape, np.float32) for key, shape in published["variables"].items()}
    for kind in ("mean", "variance"):
        key = f"whole_graph_model_final/batch_normalization/moving_{kind}:0"
        variables[key] = np.ones(512, np.float32)
    found = convert_tensors(variables, model)
    assert (found.fresh, len(found.names)) == ([], len(variables))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published["total_trainable"]


def test_opaque_lstm_buffer_gives_the_same_as_the_saved_cell(
    golden: dict[str, np.ndarray], variables: dict[str, np.ndarray], rstg: ClipModel
) -> None:
    """The buffer that cuDNN works on holds the four gates i, f, g, o of the input, then of the
    state, then both biases. What a training stores beside the weights is left out."""
    expected = convert_tensors(variables, rstg).state
    opaque = {name: value for name, value in variables.items() if "lstm" not in name}
    for when in ("intern", "extern"):
        parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        buffer = np.concatenate([golden[f"torch_lstm_{when}:{part}"].ravel() for part in parts])
        opaque[f"time_update_{when}/cudnn_lstm_1/opaque_kernel:0"] = buffer
    extras = {f"{name.removesuffix(':0')}/Momentum": value for name, value in opaque.items()} | {
        "global_step": np.zeros(()),
        "whole_graph_model_final/resize_filters_3": np.zeros((3, 3, 6, 6)),
    }
    found = convert_tensors(opaque | extras, rstg)
    assert found.left_out.keys() == extras.keys()
    assert all(torch.equal(found.state[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv0/conv2d/kernel:0": None}, r"fills backbone.layers.0.weight \(1 of "),
        ({"conv7/conv2d/kernel:0": np.zeros((3, 3, 32, 32))}, "'conv7/conv2d/kernel:0' would be"),
        (
            {"whole_graph_model_final/before_graf_ln/gamma:0": np.ones(32)},
            "would be 'head.graph.node_norm.weight', which this model does not have",
        ),
        ({"conv1/conv2d/bias:0": np.zeros(45)}, r"\[45\] where 'backbone.layers.3.bias' is \[32\]"),
        (
            {"whole_graph_model_res3/my_attn/att_bias/biases:0": np.ones(32)},
            "would be 'head.graph.space.gather_bias', and another is too",
        ),
        ({"time_update_intern/cudnn_lstm_1/opaque_kernel:0": np.zeros(100)}, "100 values are no"),
    ],
)
def test_what_does_not_fit_is_named(
    variables: dict[str, np.ndarray], rstg: ClipModel, change: dict[str, Any], message: str
) -> None:
    given = {name: value for name, value in {**variables, **change}.items() if value is not None}
    with pytest.raises(WeightsError, match=message):
        convert_tensors(given, rstg)
