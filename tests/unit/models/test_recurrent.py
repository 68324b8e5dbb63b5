"""Recurrent baselines: what the mean cannot see and convolutions can, gradients, independence of
the batch, sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from closeness import assert_close_to_scale
from torch import nn
from torch.nn import functional as F

from vidgraph.models.build import create_model
from vidgraph.models.recurrent import ConvLSTM, MeanLSTM
from vidgraph.records import InputSpec

SPEC = InputSpec(
    num_frames=3, height=6, width=6, channels=1, stride_frames=1
)  # the spec of a clip; the maps have two


class Maps(nn.Identity):
    """A stem that hands its input on: the map is given."""

    out_channels, map_size = 2, (6, 6)


def mean_lstm() -> nn.Module:
    return MeanLSTM(SPEC, nn.Identity(), Maps(), 2, 4, 5)


def conv_lstm() -> nn.Module:
    return ConvLSTM(SPEC, nn.Identity(), Maps(), 3, 4, 5)


@pytest.mark.parametrize(("build", "sees_places"), [(mean_lstm, False), (conv_lstm, True)])
def test_only_convolutions_see_where_in_the_map_something_is(
    build: Callable[[], nn.Module], sees_places: bool
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    maps = torch.randn(2, 2, 3, 6, 6)
    moved = maps.roll((1, 2), dims=(3, 4))
    with torch.no_grad():
        same = torch.allclose(model(maps), model(moved), atol=1e-5)
    assert same is not sees_places


def test_conv_lstm_equals_a_plain_loop_over_frames() -> None:
    torch.manual_seed(1)
    model = conv_lstm().eval()
    for norm in (model.reduce[1], model.reduce[4]):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    maps = torch.randn(2, 2, 3, 6, 6)
    hidden = cell = torch.zeros(2, 4)
    with torch.no_grad():
        for frame in maps.unbind(2):
            x = F.relu(
                model.reduce[1](F.conv2d(frame, model.reduce[0].weight, stride=2, padding=1))
            )
            assert x.shape == (2, 3, 3, 3)
            x = torch.einsum(
                "bihw,oihw->bo", x, model.reduce[3].weight
            )  # as large as the map: one number per channel
            x = F.relu(model.reduce[4](x[..., None, None])[..., 0, 0])
            gates = F.linear(x, model.lstm.weight_ih_l0, model.lstm.bias_ih_l0)
            gates = gates + F.linear(hidden, model.lstm.weight_hh_l0, model.lstm.bias_hh_l0)
            take, keep, new, show = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
        assert_close_to_scale(model(maps), model.classifier(hidden))


DIGITS = {
    "mean_lstm": {"width": 8},
    "mean_lstm_small": {"width": 8},
    "conv_lstm": {"width": 8, "conv_width": 4},
    "conv_lstm_small": {"width": 8, "conv_width": 4},
    "i3d_digits": {"width": 2},
    "i3d_digits_small": {"width": 2},
    "i3d_nl_digits": {"width": 2},
    "i3d_nl_digits_small": {"width": 2},
}


def shrunken(architecture: str) -> nn.Module:
    """A narrow model whose norms have met some clips, and whose non-local block adds something."""
    torch.manual_seed(2)
    model = create_model(architecture, **DIGITS[architecture])
    for name, parameter in model.named_parameters():
        if "after" in name and "out_norm.weight" in name:
            nn.init.ones_(parameter)
    model(video())
    return model


def video() -> torch.Tensor:
    return torch.randint(
        0, 256, (3, 1, 10, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


@pytest.mark.parametrize("architecture", DIGITS)
def test_every_parameter_receives_a_gradient(architecture: str) -> None:
    model = shrunken(architecture)
    F.cross_entropy(model(video()), torch.tensor([1, 2, 45])).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0 or not p.grad.isfinite().all()
    ]
    assert silent == []


@pytest.mark.parametrize("architecture", DIGITS)
def test_a_clip_scores_the_same_alone_and_in_a_batch(architecture: str) -> None:
    model = shrunken(architecture).eval()
    with torch.no_grad():
        together = model(video())
        assert_close_to_scale(together[1:2], model(video()[1:2]), rel=1e-4)
    assert together.shape == (3, 46)
    assert not torch.allclose(together[0], together[1], atol=1e-4)


@pytest.mark.parametrize(("graph", "suffix"), [("rstg_syncmnist", ""), ("rstg_small", "_small")])
def test_rivals_have_about_as_many_parameters_as_the_graph(graph: str, suffix: str) -> None:
    def size(architecture: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in create_model(architecture).parameters())

    for rival in ("conv_lstm", "i3d_digits", "i3d_nl_digits"):
        assert 0.9 < size(rival + suffix) / size(graph) < 1.1, rival


def test_a_small_rival_takes_all_of_the_pretrained_stem() -> None:
    stem = {
        name: p
        for name, p in create_model("digit_stem").state_dict().items()
        if name.startswith("stem.")
    }
    for architecture in (
        "rstg_small",
        "mean_lstm_small",
        "conv_lstm_small",
        "i3d_digits_small",
        "i3d_nl_digits_small",
    ):
        own = {
            name: p
            for name, p in create_model(architecture).state_dict().items()
            if name.startswith("stem.")
        }
        assert {name: p.shape for name, p in own.items()} == {
            name: p.shape for name, p in stem.items()
        }


@pytest.mark.parametrize(
    ("architecture", "place"), [("i3d_nl_digits", "res3_2"), ("i3d_nl_digits_small", "res3_0")]
)
def test_one_non_local_block_before_the_last_block_of_the_second_stage(
    architecture: str, place: str
) -> None:
    with torch.device("meta"):
        model = create_model(architecture)
    backbone = model.stem if architecture == "i3d_nl_digits" else model.backbone
    assert list(backbone.after) == [place]
    assert len(backbone.res3) == int(place[-1]) + 2
