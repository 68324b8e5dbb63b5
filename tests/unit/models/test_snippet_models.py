"""The architectures of frames and flow: costs and options as the page says, what they eat, and
weights saved and loaded.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.small_resnet2d import SmallResNet2D
from vidgraph.backbones.torchvision2d import TorchvisionBackbone
from vidgraph.errors import RecipeError
from vidgraph.evaluation.profile import example_inputs, profile_model
from vidgraph.models.build import create_model, list_architectures
from vidgraph.models.build_snippets import RecurrentOptions, SnippetOptions, StreamOptions
from vidgraph.models.stpyramid import PyramidOptions
from vidgraph.weights import from_pretrained, save_weights

PAGE = (Path(__file__).parents[3] / "docs" / "stpyramid.md").read_text(encoding="utf-8")
NAMES = [name for name in list_architectures() if re.match("stpyramid|two_stream|lrcn", name)]
COSTS = {
    name: (params, gmac)
    for name, params, gmac in re.findall(
        r"^\| `(\w+)` \| .* \| ([\d,]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE
    )
}


def test_the_page_has_every_architecture() -> None:
    assert list(COSTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_the_page(name: str) -> None:
    with torch.device("meta"):
        profile = profile_model(create_model(name))
    assert (f"{profile['params']:,}", f"{profile['gmac']['total']:.2f}") == COSTS[name]


@pytest.mark.parametrize("record", [PyramidOptions, SnippetOptions, StreamOptions])
def test_option_tables_are_those_of_the_code(record: type) -> None:
    section = PAGE.partition(f"(`{record.__name__}`):")[2].partition("\n\nO")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section, re.MULTILINE)
    assert rows == [
        (field.name, repr(field.default).replace("'", '"')) for field in dataclasses.fields(record)
    ]
    assert RecurrentOptions().width == 256


@pytest.mark.parametrize(
    ("name", "network"),
    [("bn_inception", BNInception), ("r50", TorchvisionBackbone), ("vgg16", TorchvisionBackbone)],
)
def test_networks_take_frames_and_flow(name: str, network: type) -> None:
    with torch.device("meta"):
        model: Any = create_model(f"stpyramid_{name}")
    assert isinstance(model.spatial.backbone, network)
    assert isinstance(model.temporal.backbone, network)
    assert [stream.backbone.in_channels for stream in (model.spatial, model.temporal)] == [3, 20]
    caffe = name == "bn_inception"
    assert model.spatial.pixels.reverse is caffe
    assert model.temporal.pixels.std == (1.0 if caffe else 255 * 0.226)
    assert model.temporal.pixels.zero == 127.5


def test_options_reach_the_networks() -> None:
    model: Any = create_model("two_stream_small", 5, flow_zero=128.0, flow_length=3, size=32)
    assert isinstance(model.spatial.backbone, SmallResNet2D)
    assert (model.temporal.pixels.zero, model.temporal.backbone.in_channels) == (128.0, 6)
    kept = create_model("two_stream_small", 5, batch_norm="partial")
    live = [
        name for name, module in kept.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    assert live == ["spatial.backbone.norm", "temporal.backbone.norm"]
    with pytest.raises(
        RecipeError, match="has no option 'num_snipets'; did you mean 'num_stacks'"
    ):
        create_model("stpyramid_small", num_snipets=2)


@pytest.mark.parametrize("name", ["stpyramid_small", "two_stream_small", "lrcn_small"])
def test_weights_are_saved_loaded_and_headed_anew(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = (
        {"size": 32, "flow_length": 2, "features": ["motion", "attention"]}
        if name.startswith("st")
        else {"size": 32}
    )
    model: Any = create_model(name, class_names=["a", "b", "c"], **options).eval()
    save_weights(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert loaded.input_spec == model.input_spec
    inputs = {
        key: torch.randint(0, 256, value.shape, dtype=torch.uint8)
        for key, value in example_inputs(model.input_spec, 2).items()
    }
    with torch.no_grad():
        assert torch.equal(loaded(**inputs), model(**inputs))
    other: Any = from_pretrained(tmp_path, num_classes=7)
    with torch.no_grad():
        assert other(**inputs).shape == (2, 7)
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]) == (
            "classifier." not in key or value.shape == model.state_dict()[key].shape
        ), key
