"""Every row of the region graphs' tables: published numbers, the paper's training, the network at
full size, two steps of each stage.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale

from vidgraph.config import Recipe, TrainRecipe, load_recipe, recipe_rows
from vidgraph.models.build import create_model
from vidgraph.recipe_training import train_stages
from vidgraph.records import ClipBatch, Regions
from vidgraph.training.learner import classification_loss
from vidgraph.training.optim import build_optimizer
from vidgraph.training.stages import begin_stage, plan_stages

TABLES = ("charades", "charades_lfb", "something_v1_strg")
ROWS = [f"{name}:{row}" for name in TABLES for row in recipe_rows(name)[1]]
# Tables 2a, 2b, 3 and 4 of the paper; the repository of Long-Term Feature Banks.
PUBLISHED = {
    "charades": {
        "i3d": 31.8, "strg_avgpool": 32.1, "strg_st": 34.2, "strg_sim": 35.0, "strg_joint": 36.2,
          "i3d_nl": 33.5, "strg_nl": 37.5,
        "i3d_r101": 35.5, "i3d_nl_r101": 37.5, "strg_r101": 39.1, "strg_nl_r101": 39.7,
    },
    "charades_lfb": {"i3d_nl": 38.3, "i3d_nl_r101": 40.4, "strg_nl": None, "strg_joint": None},
    "something_v1_strg": {"i3d": 41.6, "strg_joint": 43.3, "i3d_nl": 44.4, "strg_nl": 46.1},
}  # fmt: skip
TOP5 = {"i3d": 72.2, "strg_joint": 75.1, "i3d_nl": 76.0, "strg_nl": 76.8}
# Without its classifier, I3D with ResNet-50 has 27,223,872 parameters; five non-local blocks
# 7,358,464; the reduction to 512 channels 1,049,088; the two embeddings of the similarity graph
# 524,288; a d x d matrix 262,144; a layer norm 1,024.
BACKBONE, NON_LOCAL, REDUCE, EMBEDDINGS, MATRIX, NORM = (
    27_223_872,
    7_358_464,
    1_049_088,
    524_288,
    262_144,
    1_024,
)
SIZES = {
    "i3d": BACKBONE + 2049 * 157,
    "i3d_nl": BACKBONE + NON_LOCAL + 2049 * 157,
    "strg_avgpool": BACKBONE + REDUCE + 1025 * 157,
    "strg_sim": BACKBONE + REDUCE + 1025 * 157 + EMBEDDINGS + 3 * MATRIX + 2 * NORM,
    "strg_st": BACKBONE + REDUCE + 1025 * 157 + 6 * MATRIX + 2 * NORM,
    "strg_joint": 31_321_565,
    "strg_nl": 31_321_565 + NON_LOCAL,
}
# Small networks of the same parts, for the steps.
STAND_INS = {
    "i3d_r50": "i3d_small",
    "i3d_r101": "i3d_small",
    "i3d_nl_r50": "i3d_small",
    "i3d_nl_r101": "i3d_small",
}
STAND_INS |= {"strg_i3d_r50": "strg_small", "strg_i3d_r101": "strg_small"}


@cache
def row(name: str) -> Recipe:
    return load_recipe(name)


def parts_of(model: torch.nn.Module) -> set[str]:
    return {name.split(".")[0] for name, _ in model.named_parameters()}


@pytest.mark.parametrize("table", TABLES)
def test_published_numbers_stand_best_first(table: str) -> None:
    rows = recipe_rows(table)[1]
    assert {name: row(f"{table}:{name}").published for name in rows} == PUBLISHED[table]
    numbers = [number for name in rows if (number := row(f"{table}:{name}").published) is not None]
    assert numbers == sorted(numbers, reverse=True)
    networks = [
        (
            row(f"{table}:{name}").model.architecture,
            sorted(row(f"{table}:{name}").model.options.items()),
        )
        for name in rows
    ]
    assert all(networks.count(network) == 1 for network in networks)
    if table == "something_v1_strg":
        assert all(
            row(f"{table}:{name}").source.endswith(f"; top-5 {top5}") for name, top5 in TOP5.items()
        )


@pytest.mark.parametrize("name", [name for name in ROWS if "lfb" not in name])
def test_training_is_the_papers_in_its_stages(name: str) -> None:
    train = row(name).train
    assert (
        train.optimizer,
        train.momentum,
        train.nesterov,
        train.weight_decay,
        train.warmup_clips,
    ) == ("sgd", 0.9, True, 1e-4, 0)
    plan = plan_stages(train, 0)
    iterations = [(stage.last - stage.first) / stage.recipe.batch_size for stage in plan]
    assert iterations == (
        [100_000, 100_000, 30_000] if "strg_" in name.partition(":")[2] else [100_000]
    )
    for stage in plan:
        per_clip = stage.recipe.lr / stage.recipe.batch_size  # the paper's 0.00125 for 8 clips
        assert per_clip == pytest.approx((0.1 if stage.name == "joint" else 1.0) * 0.00125 / 8)
        assert (stage.recipe.schedule, stage.recipe.drops) == (
            ("constant", []) if stage.name == "joint" else ("step", [0.9])
        )


@pytest.mark.parametrize("name", [name for name in ROWS if "lfb" in name])
def test_the_stronger_schedule_is_that_of_feature_banks(name: str) -> None:
    recipe = row(name)
    first = plan_stages(recipe.train, 0)[0]
    assert (first.last / first.recipe.batch_size, first.recipe.batch_size, first.recipe.lr) == (
        24_000,
        16,
        0.02,
    )
    assert (first.recipe.weight_decay, first.recipe.schedule, first.recipe.drop_factor) == (
        1.25e-5,
        "step",
        0.1,
    )
    (share,) = first.recipe.drops
    first_low = next(step for step in range(24_000) if step * 16 >= share * first.last)
    assert first_low == 20_000
    assert (
        recipe.eval.num_views,
        recipe.eval.crops,
        recipe.eval.crop_size,
        recipe.eval.fusion,
    ) == (10, 3, 256, "max")
    assert recipe.model.options["norm"] == "frozen_statistics"


@pytest.mark.parametrize("name", ROWS)
def test_data_and_evaluation_are_the_papers(name: str) -> None:
    recipe = row(name)
    data, score = recipe.data.table, recipe.eval
    assert data is not None
    assert (data.boxes is not None, score.fusion) == (True, "max")
    something = name.startswith("something")
    assert (data.flip, data.intervals is None) == (
        not something,
        something,
    )  # left and right are classes there
    assert score.num_views == (2 if something else 10)
    large = "r101" in name and "lfb" not in name
    ratio = 288 / 224 if large else 1.0
    assert data.short_side == [round(256 * ratio), round(320 * ratio)]
    assert score.short_side == round(256 * ratio)
    assert score.full_frame == ("lfb" not in name)
    assert data.past_end == ("clamp" if "lfb" in name else "loop")
    if something:
        assert (data.val_split, data.test_split, data.folder_fps) == ("held", "val", 12)
    else:
        assert (data.val_split, data.test_split, data.label_scope) == ("val", "test", "clip")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_builds_at_full_size(name: str) -> None:
    recipe = row(name)
    num_classes = 174 if name.startswith("something") else 157
    with torch.device("meta"):
        model = create_model(recipe.model.architecture, num_classes, **recipe.model.options)
    spec: Any = model.input_spec
    boxes = 0 if "strg_" not in name.partition(":")[2] else 10 if num_classes == 174 else 50
    assert spec.boxes_per_frame == boxes
    large = "r101" in name and "lfb" not in name
    assert (spec.num_frames, spec.height, spec.sample_fps) == (
        (128, 288, 24.0) if large else (32, 224, 6.0)
    )
    assert model.dropout.p == 0.3
    if "r101" not in name:
        added = (num_classes - 157) * (1025 if boxes else 2049)
        assert sum(p.numel() for p in model.parameters()) == SIZES[name.partition(":")[2]] + added
    for _, stage in train_stages(recipe.train):  # what a stage freezes exists
        begin_stage(model, list(model.parameters()), stage)


def clips(model: torch.nn.Module, num_classes: int) -> ClipBatch:
    """Two clips of noise, with random boxes where the model takes them."""
    spec: Any = model.input_spec
    label = (
        torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
        if num_classes == 157
        else torch.tensor([1, 3])
    )
    video = torch.randint(0, 256, (2, 3, spec.num_frames, 32, 32), dtype=torch.uint8)
    corners = torch.rand(2, spec.num_frames, max(1, spec.boxes_per_frame), 2, 2) * 32
    boxes = torch.cat([corners.amin(-2), corners.amax(-2) + 2], dim=-1)
    regions = Regions(
        boxes, torch.ones(boxes.shape[:3]), torch.ones(boxes.shape[:3], dtype=torch.bool)
    )
    return ClipBatch(
        video,
        label,
        torch.arange(2),
        torch.zeros(2, spec.num_frames, dtype=torch.int64),
        regions=regions,
    )


def steps(model: Any, recipe: TrainRecipe, num_classes: int) -> set[str]:
    """Two steps by a stage's own optimiser; which parts of the model moved."""
    optimizer = build_optimizer(model, recipe)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        batch = clips(model, num_classes)
        loss = classification_loss(model(**batch.inputs(model.input_spec)), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    return {
        key.split(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(before[key], value)
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_row_takes_two_steps_of_each_stage_shrunken(name: str) -> None:
    recipe = row(name)
    num_classes = 174 if name.startswith("something") else 157
    options: dict[str, Any] = {
        "norm": "frozen",
        **recipe.model.options,
        "num_frames": 4,
        "size": 32,
    }  # as the large ones by themselves
    if "strg_" in name.partition(":")[2]:
        options |= {"width": 16, "boxes_per_frame": 3}
    torch.manual_seed(0)
    model: Any = create_model(STAND_INS[recipe.model.architecture], 5, **options)
    learning = list(model.parameters())
    statistics = {
        key: value.clone() for key, value in model.state_dict().items() if "running_" in key
    }
    for stage_name, stage in train_stages(recipe.train):
        begin_stage(model, learning, stage)
        moved = steps(model, stage, num_classes)
        frozen = {prefix.removesuffix(".") for prefix in stage.freeze}
        assert moved == parts_of(model) - frozen, stage_name
    assert statistics
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in statistics.items())


def test_stages_of_the_graph_rows_freeze_what_the_paper_freezes() -> None:
    stages = {name: stage.freeze for name, stage in train_stages(row("charades:strg_joint").train)}
    assert stages == {"backbone": ["graph."], "graph": ["stem.", "reduce."], "joint": []}
    assert {name for name, _ in train_stages(row("charades:strg_avgpool").train)} == {
        "backbone",
        "graph",
        "joint",
    }
    assert [row(f"charades:{name}").train.stages for name in ("i3d", "i3d_nl")] == [[], []]


def test_the_first_stage_is_the_baseline() -> None:
    """Stage `backbone` of a graph row against the same steps of the network without a graph: the
    same weights, to rounding.
    """
    stage = dict(train_stages(row("charades:strg_joint").train))["backbone"]
    options: dict[str, Any] = {
        "norm": "frozen",
        "num_frames": 4,
        "size": 32,
        "width": 16,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    graph: Any = create_model("strg_small", 5, boxes_per_frame=3, **options)
    plain: Any = create_model("strg_small", 5, graph="none", **options)
    plain.stem.load_state_dict(graph.stem.state_dict())
    plain.reduce.load_state_dict(graph.reduce.state_dict())
    with torch.no_grad():
        plain.classifier.weight.copy_(graph.classifier.weight[:, :16])
        plain.classifier.bias.copy_(graph.classifier.bias)
    waiting = graph.classifier.weight[:, 16:].clone()
    begin_stage(graph, list(graph.parameters()), stage)
    begin_stage(plain, list(plain.parameters()), TrainRecipe())
    for model in (graph, plain):
        torch.manual_seed(1)
        optimizer = build_optimizer(model, stage)
        for _ in range(3):
            batch = clips(graph, 157)
            loss = classification_loss(model(**batch.inputs(model.input_spec)), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for part in ("stem", "reduce"):
        for key, value in getattr(plain, part).state_dict().items():
            assert_close_to_scale(getattr(graph, part).state_dict()[key], value, floor=0.1)
    assert_close_to_scale(graph.classifier.weight[:, :16], plain.classifier.weight, floor=0.1)
    assert not torch.equal(graph.classifier.weight[:, :16], waiting)
    torch.testing.assert_close(
        graph.classifier.weight[:, 16:], waiting, rtol=1e-5, atol=0
    )  # decayed by parts in a million, no more


@pytest.mark.parametrize("name", ["strg_small", "i3d_small"])
def test_the_small_rows_on_videos_of_ones_own(name: str) -> None:
    """Alike but for the network; frames are counted, not timed; two steps move every part."""
    recipe, other = row(f"ucf101_regions_small:{name}"), row("ucf101_regions_small:strg_small")
    assert (recipe.data, recipe.train, recipe.eval) == (other.data, other.train, other.eval)
    torch.manual_seed(0)
    model: Any = create_model(recipe.model.architecture, 5, **{**recipe.model.options, "size": 32})
    spec = model.input_spec
    assert (spec.num_frames, spec.stride_frames, spec.boxes_per_frame) == (
        8,
        4,
        10 if name == "strg_small" else 0,
    )
    assert steps(model, recipe.train, 5) == parts_of(model)
