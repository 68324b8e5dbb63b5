"""Every row of the pyramid's tables: published numbers, the network at full size, its training, and
two steps of each stage shrunken.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch

from vidgraph.config import Recipe, TrainRecipe, load_recipe, recipe_rows
from vidgraph.evaluation.profile import example_inputs
from vidgraph.models.build import create_model
from vidgraph.recipe_training import train_stages
from vidgraph.records import ClipBatch
from vidgraph.training.learner import classification_loss, training_scores
from vidgraph.training.optim import build_optimizer
from vidgraph.training.stages import begin_stage, plan_stages

TABLES = {"ucf101": 101, "hmdb51": 51, "ucf101_small": 8}
ROWS = [f"{name}:{row}" for name in TABLES for row in recipe_rows(name)[1]]
# The slides: fusion of snippets, attention, models A to D, other people's networks; and the last
# table of the paper, as remembered.
PUBLISHED = {
    "ucf101": {
        "temporal": 87.0, "flow_concat_3": 88.4, "flow_concat_5": 88.5, "flow_sum_3": 87.9,
          "flow_sum_5": 87.7, "flow_stcb_3": 89.3,
        "flow_stcb_5": 89.2, "spatial": 84.5, "attention_1": 84.3, "attention_concat": 83.9,
          "attention_stcb": 86.6, "two_stream": 91.7,
        "model_b": 93.2, "model_c": 93.6, "stpyramid": 94.6, "stpyramid_r50": 93.8,
          "stpyramid_vgg16": 93.2, "two_stream_vgg16": 88.0,
        "lrcn": 82.9, "tsn": 94.0,
    },
    "hmdb51": {"stpyramid": 68.9, "stpyramid_r50": 66.5, "stpyramid_vgg16": 66.1, "tsn": 68.5,
      "two_stream": None},
    "ucf101_small": dict.fromkeys(("stpyramid_small", "two_stream_small", "temporal_small",
      "spatial_small")),
}  # fmt: skip
# Parameters at 101 classes: BN-Inception without classifier; what 20 (10, 2) channels add to its
# first convolution of 64 x 7 x 7; linear layers of 1024, 3072, 5120 and 4096 channels; the
# attention.
BACKBONE, FLOW, FLOW_5, FLOW_1, ATTENTION = (
    10_270_240,
    17 * 64 * 49,
    7 * 64 * 49,
    -1 * 64 * 49,
    2048 * 64 + 64 + 64,
)
LSTM = 4 * 256 * (1024 + 256 + 2) + 257 * 101


def head(channels: int) -> int:
    return (channels + 1) * 101


TWO, ATTENDED = 2 * BACKBONE + FLOW, 2 * BACKBONE + FLOW + ATTENTION
SIZES = {
    "stpyramid": ATTENDED + head(4096),
    "model_c": TWO + head(4096),
    "model_b": TWO + head(4096),
    "two_stream": TWO + 2 * head(1024),
    "tsn": 2 * BACKBONE + FLOW_5 + 2 * head(1024),
    "temporal": BACKBONE + FLOW + head(1024),
    "spatial": BACKBONE + head(1024),
    "lrcn": 2 * BACKBONE + FLOW_1 + 2 * LSTM,
} | {
    f"flow_{kind}_{count}": BACKBONE + FLOW + head(1024 * (count if kind == "concat" else 1))
    for kind in ("stcb", "concat", "sum")
    for count in (3, 5)
} | {f"attention_{kind}": ATTENDED + head(1024) for kind in ("1", "concat", "stcb")}  # fmt: skip


@cache
def row(name: str) -> Recipe:
    return load_recipe(name)


def built(name: str, **options: Any) -> torch.nn.Module:
    table, recipe = name.partition(":")[0], row(name).model
    return create_model(recipe.architecture, TABLES[table], **{**recipe.options, **options})


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


def test_numbers_that_were_not_looked_up_say_so() -> None:
    unsure = {name for name in ROWS if "not looked up" in row(name).source}
    assert unsure == {"ucf101:stpyramid_r50", "ucf101:stpyramid_vgg16"} | {
        f"hmdb51:{name}" for name in PUBLISHED["hmdb51"]
    } - {"hmdb51:two_stream"}


def test_training_is_that_of_temporal_segment_networks() -> None:
    for table, frames, flow in (
        ("ucf101", (3500, 1500, 3000), (18000, 10000, 16000)),
        ("hmdb51", (2500, 1000, 2000), (7000, 4000, 6000)),
    ):
        train = row(f"{table}:two_stream").train
        assert (
            train.optimizer,
            train.momentum,
            train.nesterov,
            train.weight_decay,
            train.batch_size,
        ) == ("sgd", 0.9, False, 5e-4, 128)
        spatial, temporal = plan_stages(train, 0)
        for stage, (steps, *drops), rate, clip in (
            (spatial, frames, 1e-3, 40),
            (temporal, flow, 5e-3, 20),
        ):
            assert (stage.last - stage.first) / 128 == steps
            assert [share * steps for share in stage.recipe.drops] == pytest.approx(drops, rel=1e-3)
            assert (stage.recipe.lr, stage.recipe.clip_norm) == (rate, clip)
        model: Any = built(f"{table}:two_stream", size=32)
        assert (model.spatial.dropout.p, model.temporal.dropout.p) == (0.8, 0.7)
        assert model.classifier.shares == pytest.approx([0.4, 0.6])
    assert (
        row("ucf101:flow_stcb_3").train.clips == row("ucf101:temporal").train.clips == 18_000 * 128
    )
    assert row("ucf101:spatial").train.clips == 3_500 * 128


def test_every_paper_row_is_scored_on_25_anchors_of_ten_crops() -> None:
    for name in ROWS:
        settings = row(name).eval
        if name.startswith("ucf101_small"):
            continue
        assert (settings.crops, settings.crop_places, settings.mirrored, settings.fusion) == (
            5,
            "corners",
            True,
            "logits",
        )
        assert settings.num_views == (5 if name.endswith("lrcn") else 25)
        data = row(name).data.table
        assert data is not None
        assert data.flip
        assert data.crop_scales == [1, 0.875, 0.75, 0.66]


def test_small_rows_differ_in_their_network_only() -> None:
    first, *others = (row(name) for name in ROWS if name.startswith("ucf101_small"))
    assert all(
        (other.data, other.train, other.eval) == (first.data, first.train, first.eval)
        for other in others
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_row_builds_at_full_size(name: str) -> None:
    with torch.device("meta"):
        model = built(name)
        logits = model.eval()(**example_inputs(model.input_spec, 2, "meta"))
    assert logits.shape == (2, TABLES[name.partition(":")[0]])
    if name.startswith("ucf101:") and name.partition(":")[2] in SIZES:
        assert sum(p.numel() for p in model.parameters()) == SIZES[name.partition(":")[2]]
    recipe = row(name)
    for _, stage in train_stages(
        recipe.train
    ):  # what a stage freezes, and what learns faster, exists
        begin_stage(model, list(model.parameters()), stage)
        build_optimizer(model, stage)


def test_networks_are_those_of_the_tables() -> None:
    """What the cells vary, as the models have it."""
    with torch.device("meta"):
        for name in ROWS:
            model, short = built(name), name.partition(":")[2]
            spec = model.input_spec
            snippets = {
                "flow_stcb_5": 5,
                "flow_concat_5": 5,
                "flow_sum_5": 5,
                "spatial": 1,
                "temporal": 1,
                "two_stream": 1,
                "lrcn": 1,
            }
            snippets |= {"model_b": 1, "attention_1": 1, "tsn": 1, "two_stream_vgg16": 1}
            if not name.startswith("ucf101_small"):
                assert spec.num_stacks == snippets.get(short, 3), name
                assert spec.flow_length == {"spatial": 0, "tsn": 5, "lrcn": 1}.get(short, 10), name
                assert (spec.height, spec.num_frames) == (
                    224,
                    {"tsn": 3, "lrcn": 16}.get(short, 1),
                ), name
            assert (spec.channels == 0) == (
                short.startswith("flow_") or short.startswith("temporal")
            ), name


def clips(model: Any, num_classes: int, side: int) -> ClipBatch:
    """Two clips of noise."""
    spec = model.input_spec
    video = torch.randint(
        0, 256, (2, max(1, spec.channels), spec.num_frames, side, side), dtype=torch.uint8
    )
    flow = torch.randint(
        0,
        256,
        (2, spec.num_frames, spec.num_stacks, 2 * spec.flow_length, side, side),
        dtype=torch.uint8,
    )
    index = torch.arange(2)
    return ClipBatch(
        video,
        index % num_classes,
        index,
        torch.zeros(2, spec.num_frames, dtype=torch.int64),
        flow=flow,
    )


def steps(model: Any, recipe: TrainRecipe, num_classes: int, side: int) -> set[str]:
    """Two steps by a stage's own optimiser; which parts of the model moved."""
    optimizer = build_optimizer(model, recipe)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for _ in range(2):
        batch = clips(model, num_classes, side)
        scores = training_scores(model, batch)
        loss = sum(weight * classification_loss(logits, batch.label) for weight, logits in scores)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        assert loss.isfinite()
    return {
        key.split(".")[0]
        for key, value in model.named_parameters()
        if not torch.equal(before[key], value)
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_row_takes_two_steps_of_each_stage_shrunken(name: str) -> None:
    recipe, side = row(name), 48
    architecture = re.sub("_(bn_inception|r50|vgg16|small)$", "_small", recipe.model.architecture)
    options: dict[str, Any] = {**recipe.model.options, "size": side, "batch_norm": "partial"}
    if architecture == "stpyramid_small":
        options |= {"snippet_width": 24, "guidance_width": 32, "width": 40}
    if architecture == "lrcn_small":
        options |= {"num_frames": 3, "width": 8}
    torch.manual_seed(0)
    model: Any = create_model(architecture, 5, **options)
    learning = list(model.parameters())
    statistics = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if "running_" in key and ".norm." not in key
    }
    assert statistics
    for stage_name, stage in train_stages(recipe.train):
        factors = {
            prefix: factor
            for prefix, factor in stage.lr_factors.items()
            if ".backbone." not in prefix
        }
        stage = TrainRecipe(**{**stage.__dict__, "lr_factors": factors})
        begin_stage(model, learning, stage)
        moved = steps(model, stage, 5, side)
        frozen = {prefix.removesuffix(".") for prefix in stage.freeze}
        assert moved == {key.split(".")[0] for key, _ in model.named_parameters()} - frozen, (
            stage_name
        )
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in statistics.items())
