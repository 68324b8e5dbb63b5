"""STRG by name: published costs, sizes, options, and what the page says of them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgraph.cli import main
from vidgraph.data.digits import load_digits
from vidgraph.data.syncmnist import SyncMnistStream
from vidgraph.errors import RecipeError
from vidgraph.evaluation.profile import profile_model, to_text
from vidgraph.models.build import create_model, options_of
from vidgraph.models.graph_conv import RegionGraphOptions
from vidgraph.models.nonlocal_block import NonLocalBlock
from vidgraph.models.norms import FrozenBatchNorm
from vidgraph.models.strg import RegionOptions
from vidgraph.records import InputSpec

PAGE = Path(__file__).parents[3] / "docs" / "strg.md"
ARCHITECTURES = ["strg_i3d_r50", "strg_i3d_r101", "strg_small", "strg_digits_small"]
NODES, WIDTH, LAYERS = 16 * 50, 512, 3


def profile(name: str, **options: Any) -> dict[str, Any]:
    with torch.device("meta"):
        return profile_model(create_model(name, **options))


def graph_by_hand(similarity: bool = True, overlap: bool = True) -> float:
    """GMAC of all graphs as N x N matrices: X W and G X per graph and layer, two embeddings, their
    products.
    """
    graphs = similarity + 2 * overlap
    layers = LAYERS * graphs * (NODES * WIDTH**2 + NODES**2 * WIDTH)
    return (layers + similarity * (2 * NODES * WIDTH**2 + NODES**2 * WIDTH)) / 1e9


def test_command_prints_the_published_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "strg_i3d_r50", "--num_classes", "157", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["params"] == 31_321_565
    assert f"{printed['gmac']['paper_accounting']:.2f}" == "158.05"
    assert f"{printed['gmac']['total']:.2f}" == "161.34"
    assert f"{printed['gmac']['executed']:.2f}" == "159.49"
    assert printed["output_shapes"]["stem"] == [1, 2048, 16, 14, 14]
    assert printed["output_shapes"]["reduce"] == [1, 512, 16, 14, 14]
    assert printed["output_shapes"]["graph"] == [1, 16, 50, 512]


def test_the_inflation_that_the_table_prints_has_five_million_more() -> None:
    table1 = profile("strg_i3d_r50", inflation="table1")
    assert table1["params"] == 36_302_301
    assert table1["parts"]["stem"]["gmac"] == pytest.approx(170.56, abs=0.005)


def test_parts_add_up_as_the_paper_counts_them() -> None:
    """152.47 GMAC for the backbone and 5.58 for the graph, whose cost grows faster than the number
    of boxes.
    """
    full = profile("strg_i3d_r50")
    assert {name: part["params"] for name, part in full["parts"].items() if part["params"]} == {
        "stem": 27_223_872,
        "reduce": 2048 * 512 + 512,
        "graph": 2 * 512**2 + 9 * 512**2 + 4 * 2 * 512,
        "classifier": 1024 * 157 + 157,
    }
    assert full["parts"]["stem"]["gmac"] == pytest.approx(152.47, abs=0.005)
    assert full["parts"]["reduce"]["gmac"] == pytest.approx(3.29, abs=0.005)
    assert full["parts"]["graph"]["gmac"] == pytest.approx(graph_by_hand(), rel=1e-12)
    assert graph_by_hand() == pytest.approx(5.58, abs=0.005)
    few = profile("strg_i3d_r50", boxes_per_frame=10)["parts"]["graph"]["gmac"]
    many = profile("strg_i3d_r50", boxes_per_frame=100)["parts"]["graph"]["gmac"]
    assert (few, many) == (pytest.approx(0.59, abs=0.005), pytest.approx(17.7, abs=0.05))


@pytest.mark.parametrize(
    ("graph", "by_hand"),
    [("sim", graph_by_hand(overlap=False)), ("st", graph_by_hand(similarity=False))],
)
def test_what_runs_is_the_blocks_only(graph: str, by_hand: float) -> None:
    counted = profile("strg_i3d_r50", graph=graph)
    assert counted["parts"]["graph"]["gmac"] == pytest.approx(by_hand, rel=1e-12)
    if graph == "sim":
        assert "executed" not in counted["gmac"]
        return
    zeros = 2 * LAYERS * (NODES**2 - 15 * 50**2) * WIDTH / 1e9
    assert counted["gmac"]["total"] - counted["gmac"]["executed"] == pytest.approx(zeros, rel=1e-9)
    assert (
        f"as it runs, without products with zeros: {counted['gmac']['executed']:.4f} GMAC"
        in to_text(counted)
    )


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("strg_i3d_r50", InputSpec(32, 224, 224, sample_fps=6.0, boxes_per_frame=50)),
        ("strg_i3d_r101", InputSpec(128, 288, 288, sample_fps=24.0, boxes_per_frame=50)),
        ("strg_small", InputSpec(8, 112, 112, sample_fps=6.0, boxes_per_frame=10)),
        (
            "strg_digits_small",
            InputSpec(10, 64, 64, channels=1, stride_frames=1, boxes_per_frame=3),
        ),
    ],
)
def test_sizes_are_those_of_the_page(name: str, clip: InputSpec) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert model.input_spec == clip
    counted = profile_model(model)
    steps, boxes, width = (counted["output_shapes"]["graph"][i] for i in (1, 2, 3))
    size = f"{clip.num_frames} x {clip.height} x {clip.width} | {steps} x {boxes} | {width}"
    row = (
        f"| `{name}` | {size} | {counted['params']:,} | {counted['gmac']['total']:.2f} | "
        f"{counted['gmac']['executed']:.2f} |"
    )
    assert row in PAGE.read_text(encoding="utf-8")


def test_page_has_the_options_of_the_code() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(.+?)` \| ",
        PAGE.read_text(encoding="utf-8").partition("## Options")[2],
        re.MULTILINE,
    )
    expected = [
        (f.name, repr(f.default).replace("'", '"'))
        for kind in (RegionGraphOptions, RegionOptions)
        for f in dataclasses.fields(kind)
    ]
    assert rows == expected
    assert (
        {name for name, _ in rows} <= options_of("strg_digits_small") < options_of("strg_i3d_r50")
    )


def test_one_step_of_the_map_per_eight_frames_in_the_long_model() -> None:
    assert profile("strg_i3d_r101")["output_shapes"]["stem"] == [1, 2048, 16, 18, 18]


def test_norms_are_frozen_at_full_size_and_learn_in_the_small_ones() -> None:
    with torch.device("meta"):
        large, small = (
            create_model("strg_i3d_r50", non_local=True),
            create_model("strg_small", non_local=True),
        )
    assert isinstance(large.stem.res2[0].a_norm, FrozenBatchNorm)
    assert not large.stem.res2[0].a_norm.weight.requires_grad
    assert not any(isinstance(module, FrozenBatchNorm) for module in small.modules())
    places = [
        [name for name, module in model.stem.named_modules() if isinstance(module, NonLocalBlock)]
        for model in (large, small)
    ]
    assert places[0] == [
        "after.res3_1",
        "after.res3_3",
        "after.res4_1",
        "after.res4_3",
        "after.res4_5",
    ]
    assert places[1] == ["after.res3_0", "after.res4_0"]


def test_frozen_norms_do_not_move_in_training() -> None:
    torch.manual_seed(0)
    model = create_model(
        "strg_small", 3, num_frames=4, size=32, width=8, boxes_per_frame=2, norm="frozen"
    ).train()
    before = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "_norm." in name or ".norm." in name
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    from vidgraph.evaluation.profile import example_inputs

    inputs = example_inputs(model.input_spec, 2)
    inputs["video"] = torch.randint(0, 256, inputs["video"].shape, dtype=torch.uint8)
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs)[:, 0].sum().backward()
        optimizer.step()
    after = model.state_dict()
    stem = [name for name in before if name.startswith("stem.")]
    assert len(stem) > 100
    assert all(torch.equal(before[name], after[name]) for name in stem)
    assert any(
        not torch.equal(before[name], after[name]) for name in before if name.startswith("graph.")
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"graph": "similarity"},
            "option 'graph' is one of none, avgpool, sim, st, joint, not 'similarity'",
        ),
        (
            {"boxes_per_frame": 0},
            "boxes_per_frame is 0; give at least 1, or graph none for a model without regions",
        ),
        ({"windows": "logits"}, "windows: a graph over regions has one score for the whole frame"),
        (
            {"sampling_ratio": -1},
            "sampling_ratio is -1; give 0 (adaptive) or the number of points per cell",
        ),
        (
            {"graph_dropout": 1.0},
            "graph_dropout is a share from 0 up to, but not including, 1, not 1.0",
        ),
        ({"num_frames": 1}, "leave no map"),
        ({"boxes": 5}, "strg_small has no option 'boxes'; did you mean"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as error:
        create_model("strg_small", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("digits", [3, 5])
@pytest.mark.parametrize("graph", ["avgpool", "sim", "st", "joint"])
def test_synchronous_digits_take_two_steps_with_their_own_boxes(digits: int, graph: str) -> None:
    torch.manual_seed(0)
    model = create_model("strg_digits_small", width=8, boxes_per_frame=digits, graph=graph).train()
    stream = SyncMnistStream(load_digits("embedded", "train"), digits, 8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for start in (0, 4):
        batch = stream.__getitems__(list(range(start, start + 4)))
        loss = torch.nn.functional.cross_entropy(
            model(**batch.inputs(model.input_spec)), batch.label
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [
        name for name, value in model.named_parameters() if torch.equal(before[name], value)
    ] == []


def test_size_of_the_digit_model_is_that_of_rstgs() -> None:
    ours, rstgs = (
        sum(p.numel() for p in create_model(name).parameters())
        for name in ("strg_digits_small", "rstg_small")
    )
    assert ours == pytest.approx(rstgs, rel=0.01)
