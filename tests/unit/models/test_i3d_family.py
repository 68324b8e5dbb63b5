"""C2D, I3D and non-local I3D by name: costs at full size, options, and the small one learns."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch.nn import functional as F

import vidgraph
from vidgraph.backbones.resnet3d import STEMS, BackboneOptions
from vidgraph.cli import main
from vidgraph.errors import RecipeError
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.build import create_model
from vidgraph.models.build_clips import ClipOptions
from vidgraph.models.norms import FrozenBatchNorm, fold_norms
from vidgraph.records import InputSpec
from vidgraph.weights import save_weights

SHORT = InputSpec(num_frames=32, height=224, width=224, sample_fps=6.0)
LONG = InputSpec(num_frames=128, height=288, width=288, sample_fps=24.0)


PAGE = Path(__file__).parents[3] / "docs" / "backbones.md"


@pytest.mark.parametrize(
    ("name", "clip", "gmac", "params", "shape"),
    [
        ("c2d_r50", SHORT, 111.88, 23_829_725, (2048, 16, 14, 14)),
        ("i3d_r50", SHORT, 152.47, 27_545_565, (2048, 16, 14, 14)),
        ("i3d_nl_r50", SHORT, 220.86, 34_904_029, (2048, 16, 14, 14)),
        ("c2d_r101", LONG, 289.37, 42_821_853, (2048, 16, 18, 18)),
        ("i3d_r101", LONG, 405.90, 51_256_285, (2048, 16, 18, 18)),
        ("i3d_nl_r101", LONG, 405.90 + 2 * 61.835 + 3 * 13.675, 58_614_749, (2048, 16, 18, 18)),
        ("i3d_small", InputSpec(8, 112, 112, sample_fps=6.0), 0.62, 1_123_245, (512, 4, 7, 7)),
    ],
)
def test_costs_at_full_size(
    name: str, clip: InputSpec, gmac: float, params: int, shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = create_model(name)
    profile = profile_model(model)
    assert model.input_spec == clip
    assert profile["gmac"]["total"] == pytest.approx(gmac, abs=0.005)
    assert profile["params"] == params
    assert profile["gmac"]["paper_accounting"] == profile["gmac"]["total"]
    assert profile["output_shapes"]["stem"] == [1, *shape]
    assert profile["output_shapes"]["output"] == [1, 157]
    shown = [
        " x ".join(map(str, sizes)) for sizes in ((clip.num_frames, clip.height, clip.width), shape)
    ]
    assert (
        f"| `{name}` | {shown[0]} | {shown[1]} | {params:,} | {profile['gmac']['total']:.2f} |"
        in PAGE.read_text(encoding="utf-8")
    )


def test_page_has_the_options_and_stems_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| ", text, re.MULTILINE)
    assert rows == [
        (field.name, str(field.default))
        for kind in (BackboneOptions, ClipOptions)
        for field in dataclasses.fields(kind)
    ]
    assert re.findall(
        r"^\| `(\w+)` \|",
        text.partition("| stem | difference |")[2].partition("\n\n")[0],
        re.MULTILINE,
    ) == list(STEMS)


def test_command_prints_the_published_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "i3d_r50", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert f"{printed['gmac']['total']:.2f}" == "152.47"


def test_options_reach_the_model() -> None:
    with torch.device("meta"):
        model = create_model(
            "i3d_r50",
            7,
            num_frames=8,
            size=64,
            stride_frames=8,
            norm="frozen",
            res5_stride=2,
            dropout=0.5,
        )
        whole = create_model("i3d_small", whole_video=True, windows="logits")
    assert model.input_spec == InputSpec(8, 64, 64, stride_frames=8)
    assert (model.classifier.out_features, model.dropout.p, model.stem.strides) == (
        7,
        0.5,
        (2, 32, 32),
    )
    assert isinstance(model.stem.res3[0].b_norm, FrozenBatchNorm)
    assert whole.input_spec.num_segments == 8
    assert (whole.window, whole.average) == ((7, 7), "logits")


def test_pixel_statistics_are_those_of_the_weights() -> None:
    grey = torch.full((1, 3, 2, 4, 4), 0.45)
    assert create_model("i3d_small").pixels(grey).abs().max() == 0
    by_hand = (0.45 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert_close_to_scale(
        create_model("i3d_small", pixels="imagenet").pixels(grey)[0, :, 0, 0, 0], by_hand
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inflatin": "none"}, "i3d_small has no option 'inflatin'; did you mean 'inflation'?"),
        (
            {"inflation": "all"},
            "option 'inflation' is one of alternate, table1, 3x3x3, none, not 'all'",
        ),
        ({"res5_stride": 3}, "option 'res5_stride' is one of 1, 2, not 3"),
        ({"num_frames": "many"}, "option 'num_frames' is a whole number, not 'many'"),
        ({"num_frames": True}, "option 'num_frames' is a whole number, not True"),
        ({"stride_frames": 0.5}, "option 'stride_frames' is a whole number or null, not 0.5"),
        ({"stem": "long"}, None),
        ({"stem": "shallow"}, "there is no stem 'shallow'"),
        (
            {"num_frames": 1},
            "clips of 1 frames of 112 x 112 leave no map; this backbone needs num_frames >= 2 and "
            "size >= 16",
        ),
        ({"num_frames": 4, "stem": "long"}, "needs num_frames >= 8"),
        ({"dropout": 1.0}, "dropout is a share from 0 up to, but not including, 1, not 1.0"),
        ({"pixels": "kinetic"}, "option 'pixels' is one of kinetics, imagenet"),
    ],
)
def test_options_that_are_wrong_are_one_line(options: dict[str, Any], words: str | None) -> None:
    if words is None:
        create_model("i3d_small", **options)
        return
    with pytest.raises(RecipeError) as error:
        create_model("i3d_small", **options)
    assert words in str(error.value)


def test_larger_frames_need_no_crops() -> None:
    torch.manual_seed(0)
    whole, parts = (
        create_model("i3d_small", 5).eval(),
        create_model("i3d_small", 5, windows="logits").eval(),
    )
    parts.load_state_dict(whole.state_dict())
    with torch.no_grad():
        square = torch.rand(1, 3, 8, 112, 112)
        assert_close_to_scale(parts(square), whole(square))
        wide = torch.rand(1, 3, 8, 128, 170)
        features = whole.stem(whole.pixels(wide))
        assert features.shape[3:] == (8, 11)
        assert_close_to_scale(whole(wide), whole.classifier(features.mean((2, 3, 4))))
        by_hand = [
            features[..., y : y + 7, x : x + 7].mean((2, 3, 4)) for y in range(2) for x in range(5)
        ]
        assert_close_to_scale(parts(wide), whole.classifier(torch.stack(by_hand)).mean(0))


def test_small_one_learns_to_tell_two_motions_apart() -> None:
    """The same frames forwards and backwards: no single frame tells them apart."""
    torch.manual_seed(0)
    model = create_model("i3d_small", 2, size=32, dropout=0.0)
    still = torch.rand(4, 3, 1, 32, 32).expand(-1, -1, 8, -1, -1)
    forwards = torch.stack([torch.roll(still[:, :, t], 4 * t, dims=3) for t in range(8)], dim=2)
    video, label = torch.cat([forwards, forwards.flip(2)]), torch.arange(2).repeat_interleave(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(video), label).backward()
        optimizer.step()
    assert (model(video).argmax(1) == label).float().mean() >= 0.9


def test_saved_small_one_comes_back_and_folds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("i3d_small", 3, size=32, norm="frozen_statistics").eval()
    save_weights(model, tmp_path)
    loaded, video = vidgraph.from_pretrained(tmp_path), torch.rand(2, 3, 8, 32, 32)
    assert loaded.input_spec == model.input_spec
    assert torch.equal(loaded(video), model(video))
    assert_close_to_scale(fold_norms(loaded)(video), model(video), rel=1e-4)
