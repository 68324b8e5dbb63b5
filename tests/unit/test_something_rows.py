"""Every row of the two Something-Something tables: the authors' network at full size, and two steps
of its own training shrunken.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgraph.config import Recipe, load_recipe, recipe_rows
from vidgraph.models.build import create_model
from vidgraph.records import InputSpec
from vidgraph.training.learner import classification_loss
from vidgraph.training.optim import build_optimizer, freeze

COUNTS = json.loads((Path(__file__).parents[1] / "golden" / "param_counts.json").read_text())
ROWS = recipe_rows("something_v1")[1]
# Row: published top-1 and top-5 of the slides, and the network in the authors' list of parameter
# counts.
SLIDES = {
    "c2d": (31.7, 64.7, "smt_c2d"),
    "rstg_c2d_vec": (42.8, 73.6, "smt_c2d_rstg_final"),
    "i3d": (41.6, 72.2, "smt_i3d"),
    "i3d_nl": (44.4, 76.0, "smt_nonlocal_res3res4"),
    "rstg_i3d_vec": (47.7, 77.9, "smt_i3d_rstg_final"),
    "rstg_i3d_res2": (46.9, 76.8, "smt_i3d_rstg_res2"),
    "rstg_i3d_res3": (47.7, 77.8, "smt_i3d_rstg_res3"),
    "rstg_i3d_res4": (48.4, 78.1, "smt_i3d_rstg_res4"),
    "rstg_i3d_res3_4": (49.2, 78.8, "smt_i3d_rstg_res3_res4"),
}


@cache
def row(name: str) -> Recipe:
    return load_recipe(f"something_v1:{name}")


def test_the_rows_are_those_of_the_slides_best_first() -> None:
    assert set(ROWS) == set(SLIDES)
    for name, (top1, top5, _) in SLIDES.items():
        assert row(name).published == top1
        assert row(name).source.endswith(f"; top-5 {top5}")
    published = [row(name).published or 0.0 for name in ROWS]
    assert published == sorted(published, reverse=True)


def test_rows_differ_in_their_network_only() -> None:
    first = row(ROWS[0])
    assert all(
        (row(name).train, row(name).data, row(name).eval) == (first.train, first.data, first.eval)
        for name in ROWS
    )
    networks = [
        (row(name).model.architecture, row(name).model.options.get("placement")) for name in ROWS
    ]
    assert len(set(networks)) == len(ROWS)


def test_training_and_evaluation_are_the_authors() -> None:
    recipe = row(ROWS[0])
    data, train, score = recipe.data.table, recipe.train, recipe.eval
    assert data is not None
    assert train.lr == pytest.approx(
        1e-4 * train.batch_size
    )  # the authors' loss is the sum over a step's clips
    assert (train.optimizer, train.momentum, train.nesterov, train.schedule) == (
        "sgd",
        0.9,
        True,
        "constant",
    )
    assert (train.weight_decay, train.warmup_clips, train.clip_norm, train.epochs) == (
        0.0,
        0,
        None,
        100,
    )
    assert (data.flip, data.short_side, data.brightness, data.spread) == (
        False,
        [256],
        0.1,
        "linspace",
    )
    assert (data.train_split, data.val_split, data.test_split) == ("train", "held", "val")
    assert (score.num_views * score.crops, score.short_side, score.crop_size, score.fusion) == (
        22,
        256,
        256,
        "logits",
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_row_builds_at_full_size(name: str) -> None:
    model_recipe = row(name).model
    with torch.device("meta"):
        model = create_model(model_recipe.architecture, 174, **model_recipe.options)
        logits = model.eval()(
            torch.empty(1, 3, 32, 256, 256, dtype=torch.uint8)
        )  # a crop of the evaluation
    assert logits.shape == (1, 174)
    assert (
        sum(p.numel() for p in model.parameters() if p.requires_grad)
        == COUNTS[SLIDES[name][2]]["total_trainable"]
    )
    assert model.input_spec == InputSpec(32, 224, 224, num_segments=32)
    assert (model.dropout.p, model.window) == (0.3, (14, 14))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_takes_two_steps_shrunken(name: str) -> None:
    recipe = row(name)
    shrunken: dict[str, Any] = {"num_frames": 4, "size": 32}
    if "placement" in recipe.model.options:
        shrunken["width"] = 16
    torch.manual_seed(0)
    model = create_model(
        recipe.model.architecture, 5, **{**recipe.model.options, **shrunken}
    ).train()
    assert [
        (255 * tensor).flatten().tolist() for tensor in (model.pixels.mean, model.pixels.std)
    ] == [[114.75] * 3, [57.375] * 3]
    freeze(model, recipe.train.freeze, recipe.train.freeze_norms)
    statistics = {
        key: value.clone() for key, value in model.state_dict().items() if "running_" in key
    }
    optimizer = build_optimizer(model, recipe.train)
    for _ in range(2):
        video, label = (
            torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8),
            torch.tensor([1, 3]),
        )
        optimizer.zero_grad()
        loss = classification_loss(model(video), label)
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), (
            key
        )  # of the second step: the first finds every graph scaled by zero
    assert statistics
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in statistics.items())
