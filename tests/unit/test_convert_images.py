"""`vidgraph convert` with weights of image networks: into both streams of a model of frames and
flow, and what does not fit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import vidgraph
from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.cross_modality import mean_over_rgb
from vidgraph.cli import main
from vidgraph.conversion import convert_weights
from vidgraph.errors import WeightsError
from vidgraph.weights import load_matching


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """BN-Inception's published names, with drawn values and a classifier of images."""
    draw = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(value.shape, generator=draw)
        for name, value in BNInception().state_dict().items()
        if "num_batches" not in name
    }
    return {
        **state,
        "last_linear.weight": torch.rand(1000, 1024),
        "last_linear.bias": torch.rand(1000),
    }


def test_bn_inception_fills_both_streams(
    published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(published, tmp_path / "bn_inception.pth")
    words = [
        "convert",
        str(tmp_path / "bn_inception.pth"),
        "--num-classes",
        "5",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--architecture", "two_stream_bn_inception"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"BN-Inception: {len(published) - 2} tensors converted into two_stream_bn_inception"
        in printed
    )
    assert "left out  last_linear.weight, last_linear.bias: classifier of images" in printed
    model = vidgraph.from_pretrained(tmp_path / "out")
    spatial, temporal = (part for part in model.modules() if isinstance(part, BNInception))
    for name, value in published.items():
        if name.startswith("last_linear"):
            continue
        assert torch.equal(spatial.state_dict()[name], value)
        expected = mean_over_rgb(value, 20) if name == "conv1_7x7_s2.weight" else value
        assert torch.equal(temporal.state_dict()[name], expected)
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    places = [name for name, part in model.named_modules() if isinstance(part, BNInception)]
    assert report["names"]["conv2_3x3.bias"] == " and ".join(
        f"{place}.conv2_3x3.bias" for place in places
    )
    assert all("classifier" in name for name in report["fresh"])
    assert len(report["fresh"]) == 4


def test_the_pyramid_takes_bn_inception_where_no_architecture_is_named(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({f"module.{name}": value for name, value in published.items()}, tmp_path / "w.pth")
    report = convert_weights(tmp_path / "w.pth", None, 5, {}, tmp_path / "out")
    assert (report.codebase, report.architecture) == ("BN-Inception", "stpyramid_bn_inception")
    assert report.num_converted == len(published) - 2


def test_vgg_into_one_stream(tmp_path: Path) -> None:
    state = torchvision.models.vgg16(weights=None).state_dict()
    torch.save(
        {name: value for name, value in state.items() if name.startswith("features.")},
        tmp_path / "vgg16.pth",
    )
    convert_weights(
        tmp_path / "vgg16.pth", "two_stream_vgg16", 5, {"streams": "spatial"}, tmp_path / "out"
    )
    model = vidgraph.from_pretrained(tmp_path / "out")
    found = {name: value for name, value in model.state_dict().items() if ".features." in name}
    assert len(found) == 26
    assert all(
        torch.equal(value, state[name[name.index("features.") :]]) for name, value in found.items()
    )


def test_image_networks_that_do_not_fit(published: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(published, file)
    cases: list[tuple[str, int | None, str]] = [
        ("two_stream_bn_inception", None, "--num-classes N"),
        ("stpyramid_r50", 5, r"'conv1_7x7_s2.weight' has no place"),
        ("i3d_r50", 5, "none that a torchvision ResNet with bottlenecks has"),
        (
            "rstg_small",
            5,
            "BN-Inception's weights are of a network of images, and rstg_small has none",
        ),
    ]
    for architecture, classes, words in cases:
        with pytest.raises(WeightsError, match=words):
            convert_weights(file, architecture, classes, {}, tmp_path / "out")
    torch.save({name: value for name, value in published.items() if "5b" not in name}, file)
    with pytest.raises(WeightsError, match="no tensor of the image network fills"):
        convert_weights(file, "two_stream_bn_inception", 5, {}, tmp_path / "out")


def test_kernels_of_images_are_not_left_out_of_a_network_of_flow_in_silence() -> None:
    """A first convolution that starts anew under trained layers would go unnoticed for days."""
    flow, images = (
        nn.Sequential(nn.Conv2d(20, 4, 3), nn.Conv2d(4, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)),
    )
    with pytest.raises(
        WeightsError,
        match=r"'0.weight': 3 channels of images in the weights where the model takes 20 of flow; "
        r"convert",
    ):
        load_matching(flow, images.state_dict())
    luma = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
    assert list(load_matching(luma, images.state_dict()).skipped_shape) == ["0.weight"]
