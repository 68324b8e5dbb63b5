"""Costs: equal to sums made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.evaluation.profile import OTHER, example_inputs, profile_model, to_text
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.records import InputSpec

SPEC = InputSpec(num_frames=5, height=12, width=8, channels=3, stride_frames=1)


class Small(VideoModel):
    """One of each thing that is counted: convolution, LSTM, attention, linear layer, and a product
    outside of any part."""

    def __init__(self) -> None:
        super().__init__(SPEC, 7)
        self.stem = nn.Conv3d(3, 16, (1, 3, 3), padding=(0, 1, 1))
        self.lstm = nn.LSTM(16, 24, batch_first=True)
        self.classifier = nn.Linear(24, 7)
        self.mix = nn.Parameter(torch.zeros(24, 24))

    def forward(self, video: Tensor) -> Tensor:
        frames = self.stem(video / 255).mean(dim=(3, 4)).transpose(1, 2)  # [B, T, 16]
        hidden, _ = self.lstm(frames)
        heads = hidden.unflatten(2, (2, 12)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return self.classifier((attended @ self.mix)[:, -1])


def by_hand(batch: int) -> dict[str, float]:
    """Multiply-adds in units of 1e9."""
    frames = 5
    return {
        "stem": batch * frames * 12 * 8 * 9 * 3 * 16 / 1e9,
        "lstm": batch * frames * 4 * 24 * (16 + 24) / 1e9,
        "classifier": batch * 24 * 7 / 1e9,
        # Attention: queries on keys, weights on values.
        OTHER: batch * (2 * 2 * frames * frames * 12 + frames * 24 * 24) / 1e9,
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_costs_equal_sums_made_by_hand(batch: int) -> None:
    profile = profile_model(Small(), batch)
    expected = by_hand(batch)
    gmac = {name: part["gmac"] for name, part in profile["parts"].items()}
    assert gmac == pytest.approx(expected, abs=1e-15)
    assert profile["gmac"]["total"] == pytest.approx(sum(expected.values()), abs=1e-15)
    assert {name: part["params"] for name, part in profile["parts"].items()} == {
        "stem": 9 * 3 * 16 + 16,
        "lstm": 4 * 24 * (16 + 24) + 2 * 4 * 24,
        "classifier": 24 * 7 + 7,
        OTHER: 24 * 24,
    }
    assert profile["params"] == sum(p.numel() for p in Small().parameters())
    assert profile["output_shapes"] == {
        "stem": [batch, 16, 5, 12, 8],
        "lstm": [batch, 5, 24],
        "classifier": [batch, 7],
        "output": [batch, 7],
    }


def test_profile_has_the_decreed_keys_and_is_json() -> None:
    profile = profile_model(Small())
    assert list(profile) == ["params", "gmac", "parts", "output_shapes"]
    assert list(profile["gmac"]) == ["total"]
    assert json.loads(json.dumps(profile)) == profile


def test_model_is_left_as_it_was() -> None:
    model = Small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile_model(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.stem._forward_hooks


def test_a_part_counts_too_where_another_of_its_methods_is_called() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(12, 24), nn.Linear(24, 5))

        def features(self, values: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(values)
            return features

    class Model(VideoModel):
        def __init__(self) -> None:
            super().__init__(InputSpec(1, 2, 2, stride_frames=1), 5)
            self.stem = Stem()

        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return self.stem.features(video.flatten(1).float())

    found = profile_model(Model())
    assert found["parts"] == {
        "stem": {"params": 12 * 24 + 24 + 24 * 5 + 5, "gmac": (12 * 24 + 24 * 5) / 1e9}
    }


def test_shared_parameters_count_once() -> None:
    model = Small()
    model.twin = nn.Linear(24, 7)
    model.twin.weight = model.classifier.weight
    profile = profile_model(model)
    assert profile["parts"]["twin"]["params"] == 7
    assert profile["params"] == sum(p.numel() for p in model.parameters())


def test_products_with_zeros_count_where_a_module_says_that_it_leaves_them_out() -> None:
    class Sparse(nn.Linear):
        def skipped_gmac(self, *inputs: Tensor) -> float:
            return len(inputs[0]) * 0.25

    model = Small()
    model.classifier = Sparse(24, 7)
    profile, expected = profile_model(model, batch=2), by_hand(2)
    assert profile["parts"]["classifier"]["gmac"] == pytest.approx(expected["classifier"] + 0.5)
    assert profile["gmac"]["executed"] == pytest.approx(sum(expected.values()))
    assert profile["gmac"]["total"] == pytest.approx(sum(expected.values()) + 0.5)
    words = f"as it runs, without products with zeros: {sum(expected.values()):.4f} GMAC"
    assert words in to_text(profile)


def test_inputs_are_what_a_model_takes() -> None:
    """Flow has 20 channels where a frame has 3, through a 7 x 7 kernel of stride 2."""
    boxes = example_inputs(InputSpec(5, 12, 8, stride_frames=1, boxes_per_frame=4), 2)["regions"]
    assert boxes.boxes_xyxy.shape == (2, 5, 4, 4)
    assert boxes.boxes_xyxy[0, 0, 0].tolist() == [0, 0, 1, 1]
    assert boxes.mask.all()
    with torch.device("meta"):
        both = create_model("two_stream_bn_inception", 5)
        alone = create_model("stpyramid_bn_inception", 5, fusion={"features": ["motion"]})
    profile = profile_model(both)
    more = profile["parts"]["flow"]["gmac"] - profile["parts"]["frames"]["gmac"]
    assert more == pytest.approx(17 * 64 * 49 * 112 * 112 / 1e9)
    assert example_inputs(both.spec, 2)["video"].shape == (2, 3, 1, 224, 224)
    inputs = example_inputs(alone.spec, 2)
    assert inputs.keys() == {"flow"}
    assert inputs["flow"].shape == (2, 1, 3, 20, 224, 224)


def test_text_shows_parts_and_total() -> None:
    rows = to_text(profile_model(create_model("rstg_small"))).splitlines()
    parts = ["part", "backbone", "head.graph", "head.classifier", "total"]
    assert [row.split()[0] for row in rows] == parts
    assert rows[-1].split()[-1] == "1x46"


def rstg_by_hand(
    width: int = 512, frames: int = 10, nodes: int = 14, stages: int = 3, places: int = 36
) -> dict[str, float]:
    """RSTG at the paper's size on synchronous digits, term by term, GMAC per clip."""
    terms: dict[str, Any] = {
        "stem": frames * 9 * (62 * 62 * 1 * width + 29 * 29 * width**2 + 12 * 12 * width**2),
        "create": frames * nodes * 6 * 6 * width,
        "first send layer, split": stages * frames * nodes * 2 * (width + places) * width,
        "first send layer, pairs": stages * frames * nodes**2 * 2 * (width + places) * width,
        "second send layer": stages * frames * nodes**2 * width**2,
        # Both projections to one number, then the weighted sum.
        "attention": stages * frames * (nodes * 2 * width + nodes**2 * width),
        "update": stages * frames * nodes * (2 * width + width) * width,
        "lstm": (stages + 1) * frames * nodes * 4 * width * (width + width),
    }
    return {name: count / 1e9 for name, count in terms.items()}


def test_rstg_at_paper_size_equals_the_analytic_counts() -> None:
    """The authors' form, with every pair concatenated, costs 23.4 + 6.3 GMAC; the split form saves
    the pairs' first layer."""
    terms = rstg_by_hand()
    profile = profile_model(create_model("rstg_syncmnist"))
    parts = profile["parts"]
    of_both_forms = ("create", "second send layer", "attention", "update", "lstm")
    shared = sum(terms[name] for name in of_both_forms)
    assert profile["params"] == 10_565_168
    assert parts["backbone"]["gmac"] == pytest.approx(terms["stem"], rel=1e-12)
    graph = shared + terms["first send layer, split"]
    assert parts["head.graph"]["gmac"] == pytest.approx(graph, rel=1e-12)
    assert terms["stem"] == pytest.approx(23.4, abs=0.05)
    assert shared + terms["first send layer, pairs"] == pytest.approx(6.3, abs=0.06)
    send = terms["second send layer"] + terms["first send layer, pairs"]
    assert (send, terms["lstm"], terms["update"]) == pytest.approx((4.84, 1.17, 0.33), abs=0.005)
    assert profile["output_shapes"]["backbone"] == [1, 512, 10, 6, 6]
