"""Foreign weights: the RSTG authors' variables fill our model completely, and then it computes what
theirs does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vidgraph.convert import convert_rstg_tensorflow
from vidgraph.errors import WeightsError
from vidgraph.models.build import create_model

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = {
    "mnist_rstg_pos_simple": {},
    "mnist_rstg_nopos_simple": {"position_maps": False},
    "mnist_rstg_pos_dot": {"attention": "dot"},
    "mnist_rstg_pos_simple_scalewise": {"scalewise_update": True},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "full_simpleconv_syncmnist_small.npz"))


@pytest.fixture
def model() -> nn.Module:
    return create_model("rstg_syncmnist", num_classes=46, width=32).eval()


def test_converted_model_computes_the_authors_logits(
    golden: dict[str, np.ndarray], model: nn.Module
) -> None:
    model.load_state_dict(convert_rstg_tensorflow(golden, model))
    video = torch.from_numpy(golden["input"]).permute(0, 4, 1, 2, 3)
    for pixels in (video.to(torch.uint8), video / 255):
        np.testing.assert_allclose(
            model(pixels).detach().numpy(), golden["logits"], rtol=1e-5, atol=1e-5
        )


def test_conversion_does_not_touch_the_model(
    golden: dict[str, np.ndarray], model: nn.Module
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    convert_rstg_tensorflow(golden, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_variables_fill_the_published_size_exactly(name: str) -> None:
    """Every trained variable of the authors' model finds its place, by name and shape, and no
    parameter of ours is left.
    """
    published = json.loads((GOLDEN / "param_counts.json").read_text())[name]
    ours = create_model("rstg_syncmnist", num_classes=46, **PUBLISHED[name])
    variables = {key: np.zeros(shape, np.float32) for key, shape in published["variables"].items()}
    statistics = {
        f"whole_graph_model_final/batch_normalization/moving_{kind}:0": np.ones(512, np.float32)
        for kind in ("mean", "variance")
    }
    ours.load_state_dict(convert_rstg_tensorflow({**variables, **statistics}, ours))
    assert sum(parameter.numel() for parameter in ours.parameters()) == published["total_trainable"]


def test_opaque_lstm_buffer_gives_the_same_as_the_saved_cell(
    golden: dict[str, np.ndarray], model: nn.Module
) -> None:
    """The buffer that cuDNN works on holds the four gates i, f, g, o of the input, then of the
    state, then both biases.
    """
    expected = convert_rstg_tensorflow(golden, model)
    variables = {
        name: value
        for name, value in golden.items()
        if name.startswith("var:") and "lstm" not in name
    }
    for scope, when in (
        ("time_update_intern/cudnn_lstm_1", "intern"),
        ("whole_graph_model_final/time_update_extern/cudnn_lstm_2", "extern"),
    ):
        parts = [
            golden[f"torch_lstm_{when}:{part}_l0"].ravel()
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        variables[f"var:{scope}/opaque_kernel:0"] = np.concatenate(parts)
    state = convert_rstg_tensorflow(variables, model)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_checkpoint_extras_are_left_out(golden: dict[str, np.ndarray], model: nn.Module) -> None:
    """A training checkpoint also holds its optimiser's slots, the step counter and the fixed resize
    filters.
    """
    plain = {
        name.removeprefix("var:").removesuffix(":0"): value
        for name, value in golden.items()
        if name.startswith("var:")
    }
    extras = {f"{name}/Momentum": value for name, value in plain.items()} | {
        "global_step": np.zeros(()),
        "whole_graph_model_final/resize_filters_3": np.zeros((3, 3, 6, 6)),
    }
    expected = convert_rstg_tensorflow(golden, model)
    state = convert_rstg_tensorflow({**plain, **extras}, model)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def broken(golden: dict[str, np.ndarray], case: str) -> dict[str, np.ndarray]:
    variables = {name: value for name, value in golden.items() if name.startswith("var:")}
    if case == "missing":
        del variables["var:pred/kernel:0"]
    if case == "unknown":
        variables["var:conv7/conv2d/kernel:0"] = np.zeros((3, 3, 32, 32))
    if case == "without a place":
        variables["var:whole_graph_model_final/before_graf_ln/gamma:0"] = np.ones(32)
    if case == "shape":
        variables["var:pred/bias:0"] = np.zeros(45)
    if case == "two graphs":
        variables["var:whole_graph_model_res3/before_graf_ln/gamma:0"] = np.ones(32)
    if case == "opaque size":
        variables["var:time_update_intern/cudnn_lstm_1/opaque_kernel:0"] = np.zeros(100)
    return variables


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no variable fills classifier.weight \\(1 of "),
        ("unknown", "'conv7/conv2d/kernel' is none that RSTG on a vector has"),
        ("without a place", "would be 'graph.node_norm.weight', which this model does not have"),
        ("shape", "'pred/bias': \\[45\\] where 'classifier.bias' is \\[46\\]"),
        ("two graphs", "hold 2 graphs"),
        ("opaque size", "100 values where 'time.lstm' has 8448"),
    ],
)
def test_what_does_not_fit_is_named(
    golden: dict[str, np.ndarray], model: nn.Module, case: str, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        convert_rstg_tensorflow(broken(golden, case), model)
