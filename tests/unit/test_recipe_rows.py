"""Every row of every recipe: published numbers, what its training and its test are in the paper,
the network at full size, and two steps of each phase of a shrunken one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgraph.backbones.base import FrozenBatchNorm
from vidgraph.config import Recipe, list_recipes, load_recipe, recipe_rows
from vidgraph.evaluation.profile import example_inputs
from vidgraph.models.base import VideoModel
from vidgraph.models.build import build_model, create_model
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.training.losses import training_loss
from vidgraph.training.optim import begin_phase, build_optimizer
from vidgraph.training.phases import named_phases, plan_phases
from vidgraph.video.views import ViewPlan

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = [name for name in list_recipes() if name not in ("demo", "digits")]
ROWS = [f"{name}:{row}" for name in list_recipes() for row in recipe_rows(name)[1]]
CLASSES = {"ucf101": 101, "hmdb51": 51, "ucf101_small": 8, "ucf101_regions_small": 8}
CLASSES |= {"charades": 157, "charades_lfb": 157, "something_v1": 174, "something_v1_strg": 174}

# RSTG's slides, digits: `rstg` is the best of each column.
_DIGITS = {
    "mean_lstm": (77.0, None), "conv_lstm": (95.0, 39.7), "i3d_digits": (None, 90.6),
    "i3d_nl_digits": (None, 93.5), "space_only": (61.3, None), "time_only": (89.7, None),
    "homogeneous": (95.7, 58.3), "one_temp_stage": (97.0, 74.1), "all_temp_stages": (98.9, 94.5),
    "positional": (None, 97.2),
}  # fmt: skip


def _of_digits(column: int, best: str) -> dict[str, float | None]:
    numbers = {row: numbers[column] for row, numbers in _DIGITS.items()}
    paper = {"rstg" if row == best else row: number for row, number in numbers.items()}
    small = {f"{row}_small": number for row, number in numbers.items() if row != "positional"}
    regions = {f"strg_{graph}_small": None for graph in ("avgpool", "sim", "st", "joint")}
    regions |= {f"strg3d_{graph}_small": None for graph in ("avgpool", "sim", "st", "joint")}
    return paper | small | {"rstg_small": numbers["positional"]} | regions


# RSTG's slides, Something-Something; tables 2a, 2b, 3 and 4 of STRG and the repository of
# Long-Term Feature Banks; STPyramid's slides, and the last table of its paper as remembered.
PUBLISHED: dict[str, dict[str, float | None]] = {
    "syncmnist3": _of_digits(0, "all_temp_stages"),
    "syncmnist5": _of_digits(1, "positional"),
    "something_v1": {
        "c2d": 31.7, "i3d": 41.6, "rstg_c2d_vec": 42.8, "i3d_nl": 44.4, "rstg_i3d_res2": 46.9,
        "rstg_i3d_vec": 47.7, "rstg_i3d_res3": 47.7, "rstg_i3d_res4": 48.4, "rstg_i3d_res3_4": 49.2,
    },
    "charades": {
        "i3d": 31.8, "strg_avgpool": 32.1, "strg_st": 34.2, "strg_sim": 35.0, "strg_joint": 36.2,
        "i3d_nl": 33.5, "strg_nl": 37.5, "i3d_r101": 35.5, "i3d_nl_r101": 37.5, "strg_r101": 39.1,
        "strg_nl_r101": 39.7,
    },
    "charades_lfb": {"i3d_nl": 38.3, "i3d_nl_r101": 40.4, "strg_nl": None, "strg_joint": None},
    "something_v1_strg": {"i3d": 41.6, "strg_joint": 43.3, "i3d_nl": 44.4, "strg_nl": 46.1},
    "ucf101": {
        "temporal": 87.0, "flow_concat_3": 88.4, "flow_concat_5": 88.5, "flow_sum_3": 87.9,
        "flow_sum_5": 87.7, "flow_stcb_3": 89.3, "flow_stcb_5": 89.2, "spatial": 84.5,
        "attention_1": 84.3, "attention_concat": 83.9, "attention_stcb": 86.6, "two_stream": 91.7,
        "model_b": 93.2, "model_c": 93.6, "stpyramid": 94.6, "stpyramid_r50": 93.8,
        "stpyramid_vgg16": 93.2, "two_stream_vgg16": 88.0, "lrcn": 82.9, "tsn": 94.0,
    },
    "hmdb51": {
        "stpyramid": 68.9, "stpyramid_r50": 66.5, "stpyramid_vgg16": 66.1, "tsn": 68.5,
        "two_stream": None,
    },
}  # fmt: skip

# Trainable parameters: the authors' own counts; sums of the parts that the papers name.
_COUNTS = json.loads((GOLDEN / "param_counts.json").read_text())
_AUTHORS = {
    "c2d": "smt_c2d", "rstg_c2d_vec": "smt_c2d_rstg_final", "i3d": "smt_i3d",
    "i3d_nl": "smt_nonlocal_res3res4", "rstg_i3d_vec": "smt_i3d_rstg_final",
    "rstg_i3d_res2": "smt_i3d_rstg_res2", "rstg_i3d_res3": "smt_i3d_rstg_res3",
    "rstg_i3d_res4": "smt_i3d_rstg_res4", "rstg_i3d_res3_4": "smt_i3d_rstg_res3_res4",
}  # fmt: skip
SIZES = {f"something_v1:{k}": _COUNTS[v]["total_trainable"] for k, v in _AUTHORS.items()}
# I3D with ResNet-50 without classifier, five non-local blocks, the reduction to 512 channels, the
# embeddings of the similarity graph, a d x d matrix, a layer norm.
_I3D, _NL, _REDUCE, _EMBED, _MATRIX, _NORM = 27_223_872, 7_358_464, 1_049_088, 524_288, 512**2, 1024
_GRAPH = _I3D + _REDUCE + 1025 * 157
SIZES |= {
    "charades:i3d": _I3D + 2049 * 157,
    "charades:i3d_nl": _I3D + _NL + 2049 * 157,
    "charades:strg_avgpool": _GRAPH,
    "charades:strg_sim": _GRAPH + _EMBED + 3 * _MATRIX + 2 * _NORM,
    "charades:strg_st": _GRAPH + 6 * _MATRIX + 2 * _NORM,
    "charades:strg_joint": 31_321_565,
    "charades:strg_nl": 31_321_565 + _NL,
}
# BN-Inception without classifier; what 2 L channels add to its first convolution of 64 x 7 x 7; the
# attention; an LSTM of 256 with its classifier; a classifier of 101.
_BNI, _ATTENTION, _LSTM = 10_270_240, 2048 * 64 + 64 + 64, 4 * 256 * (1024 + 256 + 2) + 257 * 101


def _flow(channels: int) -> int:
    return _BNI + (channels - 3) * 64 * 49


def _classifier(channels: int) -> int:
    return (channels + 1) * 101


_TWO = _BNI + _flow(20)
SIZES |= {
    "ucf101:stpyramid": _TWO + _ATTENTION + _classifier(4096),
    "ucf101:model_c": _TWO + _classifier(4096),
    "ucf101:model_b": _TWO + _classifier(4096),
    "ucf101:two_stream": _TWO + 2 * _classifier(1024),
    "ucf101:tsn": _BNI + _flow(10) + 2 * _classifier(1024),
    "ucf101:temporal": _flow(20) + _classifier(1024),
    "ucf101:spatial": _BNI + _classifier(1024),
    "ucf101:lrcn": _BNI + _flow(2) + 2 * _LSTM,
    "ucf101:flow_concat_5": _flow(20) + _classifier(5 * 1024),
    "ucf101:flow_stcb_5": _flow(20) + _classifier(1024),
    "ucf101:attention_1": _TWO + _ATTENTION + _classifier(1024),
}


@cache
def row(name: str) -> Recipe:
    return load_recipe(name)


def full_size(name: str) -> VideoModel:
    """The network of a row on the meta device, which costs nothing."""
    recipe = row(name).model
    with torch.device("meta"):
        parts = {key: getattr(recipe.options, key) for key in asdict(recipe.options)}
        return create_model(recipe.name, CLASSES.get(name.partition(":")[0]), **parts)


@pytest.mark.parametrize("table", TABLES)
def test_published_numbers_and_networks_of_a_table(table: str) -> None:
    rows = recipe_rows(table)[1]
    published = {name: row(f"{table}:{name}").published for name in rows}
    assert published == PUBLISHED.get(table, dict.fromkeys(rows))
    for small in (True, False):
        of_size = [name for name in rows if name.endswith("small") == small]
        numbers = [number for name in of_size if (number := published[name]) is not None]
        assert numbers == sorted(numbers, reverse=True)
        networks = [row(f"{table}:{name}").model.options for name in of_size]
        assert all(networks.count(network) == 1 for network in networks)
    assert all(row(f"{table}:{name}").source for name in rows)


@pytest.mark.parametrize("table", ["syncmnist3", "syncmnist5", "something_v1", "ucf101_small"])
def test_compared_rows_differ_in_their_network_only(table: str) -> None:
    for small in (True, False):
        names = [name for name in recipe_rows(table)[1] if name.endswith("small") == small]
        rows = [row(f"{table}:{name}") for name in names]
        assert all(
            (r.train, r.data, r.eval) == (rows[0].train, rows[0].data, rows[0].eval) for r in rows
        )


def test_numbers_that_were_not_looked_up_say_so() -> None:
    unsure = {name for name in ROWS if "not looked up" in row(name).source}
    hmdb51 = {f"hmdb51:{name}" for name in PUBLISHED["hmdb51"]} - {"hmdb51:two_stream"}
    assert unsure == {"ucf101:stpyramid_r50", "ucf101:stpyramid_vgg16"} | hmdb51


TEN_CROPS = ViewPlan(
    25, 5, "corners", mirrored=True, short_side=256, fusion="logits", stack_interval=1
)
# Row, key and value: what the papers and the authors' configurations say of training and test.
FACTS: list[tuple[str, str, Any]] = [
    # The RSTG authors' loss is the sum over a step's clips, ours the mean.
    ("something_v1:i3d", "train.lr", 1e-4 * 16),
    ("something_v1:i3d", "train.batch_size", 16),
    ("something_v1:i3d", "train.schedule", "constant"),
    ("something_v1:i3d", "train.weight_decay", 0.0),
    ("something_v1:i3d", "data.table.flip", False),
    ("something_v1:i3d", "data.table.brightness", 0.1),
    ("something_v1:i3d", "eval.spread", "linspace"),
    ("something_v1:i3d", "eval.num_views", 2),
    ("something_v1:i3d", "eval.crops", 11),
    ("something_v1:i3d", "eval.crop_size", 256),
    ("charades:strg_joint", "train.weight_decay", 1e-4),
    ("charades:strg_joint", "train.momentum", 0.9),
    ("charades:strg_joint", "train.nesterov", True),
    ("charades:strg_joint", "eval.full_frame", True),
    ("charades:strg_joint", "eval.num_views", 10),
    ("charades:strg_joint", "eval.fusion", "max"),
    ("charades:strg_joint", "eval.past_end", "loop"),
    ("charades:strg_joint", "data.table.label_scope", "clip"),
    ("charades:strg_r101", "data.table.short_side", [329, 411]),
    ("charades:strg_r101", "eval.short_side", 329),
    ("something_v1_strg:strg_joint", "eval.num_views", 2),
    ("something_v1_strg:strg_joint", "eval.folder_fps", 12),
    ("something_v1_strg:strg_joint", "data.table.flip", False),  # left and right are classes
    ("charades_lfb:i3d_nl", "train.lr", 0.02),
    ("charades_lfb:i3d_nl", "train.weight_decay", 1.25e-5),
    ("charades_lfb:i3d_nl", "eval.crops", 3),
    ("charades_lfb:i3d_nl", "eval.past_end", "clamp"),
    ("ucf101:two_stream", "train.momentum", 0.9),
    ("ucf101:two_stream", "train.nesterov", False),
    ("ucf101:two_stream", "train.weight_decay", 5e-4),
    ("ucf101:two_stream", "train.batch_size", 128),
    ("ucf101:two_stream", "data.table.crop_scales", [1, 0.875, 0.75, 0.66]),
    ("ucf101:lrcn", "eval.num_views", 5),
    ("ucf101:spatial", "train.clips", 3_500 * 128),
    ("ucf101:temporal", "train.clips", 18_000 * 128),
]


@pytest.mark.parametrize(("name", "key", "value"), FACTS)
def test_training_and_test_are_the_papers(name: str, key: str, value: Any) -> None:
    found: Any = row(name)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("name", ["ucf101:stpyramid", "ucf101:tsn", "hmdb51:two_stream"])
def test_ten_crops_of_25_anchors(name: str) -> None:
    assert replace(row(name).eval, batch_size=64, stack_interval=1) == TEN_CROPS


# Steps, rate, gradient clip, and the steps after which the rate falls, of each phase.
PHASES: dict[str, list[tuple[float, float, float | None, list[float]]]] = {
    "charades:strg_joint": [
        (100_000, 1.25e-3, None, [90_000]),
        (100_000, 1.25e-3, None, [90_000]),
        (30_000, 1.25e-4, None, []),
    ],
    "charades:i3d": [(100_000, 1.25e-3, None, [90_000])],
    "charades_lfb:i3d_nl": [(24_000, 0.02, None, [20_000])],
    "ucf101:two_stream": [(3500, 1e-3, 40, [1500, 3000]), (18_000, 5e-3, 20, [10_000, 16_000])],
    "hmdb51:two_stream": [(2500, 1e-3, 40, [1000, 2000]), (7000, 5e-3, 20, [4000, 6000])],
}


@pytest.mark.parametrize("name", PHASES)
def test_phases_are_the_papers(name: str) -> None:
    plan = plan_phases(row(name).train, 0)
    assert len(plan) == len(PHASES[name])
    for phase, (steps, rate, clip, drops) in zip(plan, PHASES[name], strict=True):
        options = phase.options
        assert (phase.last - phase.first) / options.batch_size == steps
        assert options.lr == pytest.approx(rate)
        assert options.clip_norm == clip
        assert [share * steps for share in options.drops] == pytest.approx(drops, rel=1e-3)


def test_phases_of_the_graph_rows_freeze_what_the_paper_freezes() -> None:
    frozen = {name: p.freeze for name, p in named_phases(row("charades:strg_joint").train)}
    assert frozen == {
        "backbone": ["head.graph."],
        "graph": ["backbone.", "head.reduce."],
        "joint": [],
    }
    assert row("charades:i3d").train.phases == []


@pytest.mark.parametrize("name", ROWS)
def test_a_row_builds_at_full_size(name: str) -> None:
    model = full_size(name)
    logits = model.eval()(**example_inputs(model.spec, 1, "meta"))
    assert logits.shape == (1, model.num_classes)
    if name in SIZES:
        learned = [p for p in model.parameters() if p.requires_grad or "charades" in name]
        assert sum(p.numel() for p in learned) == SIZES[name]
    for _, options in named_phases(row(name).train):  # what a phase freezes or speeds up exists
        begin_phase(model, list(model.parameters()), options)
        build_optimizer(model, options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("something_v1:i3d", InputSpec(32, 224, 224, whole_video=True, sample_fps=6.0)),
        ("charades:i3d", InputSpec(32, 224, 224, sample_fps=6.0)),
        ("charades:strg_r101", InputSpec(128, 288, 288, sample_fps=24.0, boxes_per_frame=50)),
        (
            "something_v1_strg:strg_joint",
            InputSpec(32, 224, 224, sample_fps=6.0, boxes_per_frame=10),
        ),
    ],
)
def test_clips_are_the_papers(name: str, expected: InputSpec) -> None:
    assert full_size(name).spec == expected


@pytest.mark.parametrize(
    ("name", "flow"),
    [
        ("stpyramid", (3, 10, 1)),
        ("flow_stcb_5", (5, 10, 1)),
        ("model_b", (1, 10, 1)),
        ("tsn", (1, 5, 3)),
        ("lrcn", (1, 1, 16)),
        ("spatial", (1, 0, 1)),
    ],
)
def test_flow_stacks_are_the_papers(name: str, flow: tuple[int, int, int]) -> None:
    spec = full_size(f"ucf101:{name}").spec
    assert (spec.num_stacks, spec.flow_length, spec.num_frames) == flow
    assert (spec.channels, spec.height) == (0 if name.startswith("flow_") else 3, 224)


SMALL = {
    "width": 8,
    "conv_width": 8,
    "stack_width": 24,
    "guidance_width": 32,
    "attention_width": 8,
    "boxes_per_frame": 3,
}
SMALL_IMAGES = {"type": "small_resnet2d", "widths": [8, 8]}


def shrunken(content: dict[str, Any], digits: bool) -> dict[str, Any]:
    """The same options with narrow parts, small frames and a small image network."""
    result: dict[str, Any] = {}
    for key, value in content.items():
        if key == "input":
            side = 64 if digits else 48
            frames = 8 if value["num_frames"] > 32 else min(value["num_frames"], 4)
            value = value | {"height": side, "width": side, "num_frames": frames}
            value |= {"boxes_per_frame": min(value["boxes_per_frame"], 3)}
        elif isinstance(value, dict) and value.get("type") in ("bn_inception", "timm"):
            value = SMALL_IMAGES | {"norm": value["norm"]}
        elif isinstance(value, dict):
            value = shrunken(value, digits)
        elif value:
            value = SMALL.get(key, value)
        result[key] = value
    return result


def random_batch(spec: InputSpec, labels: torch.Tensor) -> ClipBatch:
    """Two clips of noise, with what a model takes."""
    size, frames = (spec.height, spec.width), spec.num_frames
    video = torch.randint(0, 256, (2, max(1, spec.channels), frames, *size), dtype=torch.uint8)
    shape = (2, frames, spec.num_stacks, 2 * spec.flow_length, *size)
    corners = torch.rand(2, frames, max(1, spec.boxes_per_frame), 2, 2)
    boxes = torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)
    exists = torch.ones(boxes.shape[:3], dtype=torch.bool)
    return ClipBatch(
        video,
        labels,
        torch.arange(2),
        torch.zeros(2, frames, dtype=torch.int64),
        regions=Regions(boxes, exists.float(), exists),
        flow=torch.randint(0, 256, shape, dtype=torch.uint8),
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_row_takes_two_steps_of_each_phase_shrunken(name: str) -> None:
    """What moves is what the phase does not freeze; frozen statistics stay."""
    recipe, table = row(name), name.partition(":")[0]
    digits = recipe.data.syncmnist is not None or table == "demo"
    torch.manual_seed(0)
    content = shrunken(asdict(recipe.model.options), digits)
    options = create_model(recipe.model.name, 5, **content).options
    model = build_model(options, 5)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm):  # random weights would grow from block to block
            torch.nn.init.constant_(module.weight, 0.3)
    labels = torch.tensor([1, 3])
    if table.startswith("charades"):
        labels = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for phase, how in named_phases(recipe.train):
        own = {prefix for prefix, _ in model.named_parameters()}
        factors = {k: v for k, v in how.lr_factors.items() if any(n.startswith(k) for n in own)}
        how = replace(how, lr_factors=factors)
        begin_phase(model, learning, how)
        optimizer = build_optimizer(model, how)
        before = {key: value.clone() for key, value in model.named_parameters()}
        for _ in range(2):
            loss, _ = training_loss(model, random_batch(model.spec, labels), model.spec)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert loss.isfinite()
        after = dict(model.named_parameters())
        moved = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
        free = {key.split(".")[0] for key, value in after.items() if value.requires_grad}
        assert moved == free, phase
        frozen = [key for key in after if key.startswith(tuple(how.freeze))] if how.freeze else []
        assert all(torch.equal(before[key], after[key]) for key in frozen), phase
