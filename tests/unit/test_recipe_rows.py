"""Every row of the synchronous digits: full size builds, and a shrunken model takes two steps of
the row's own training.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reproduce import size_of
from vidgraph.config import Recipe, load_recipe, recipe_rows
from vidgraph.data.digits import load_digits
from vidgraph.data.syncmnist import SyncMnistStream
from vidgraph.models.build import create_model
from vidgraph.training.learner import classification_loss
from vidgraph.training.optim import build_optimizer, freeze
from vidgraph.weights import load_matching, read_state

TABLES = ("syncmnist3", "syncmnist5")
ROWS = [f"{name}:{row}" for name in TABLES for row in recipe_rows(name)[1]]
SHRUNKEN: dict[str, dict[str, Any]] = {
    "rstg_syncmnist": {"width": 8},
    "rstg_small": {"width": 8},
    "mean_lstm": {"width": 8},
    "mean_lstm_small": {"width": 8},
    "conv_lstm": {"width": 8, "conv_width": 8},
    "conv_lstm_small": {"width": 8, "conv_width": 8},
    "i3d_digits": {"width": 2},
    "i3d_digits_small": {"width": 2},
    "i3d_nl_digits": {"width": 2},
    "i3d_nl_digits_small": {"width": 2},
    "strg_digits_small": {"width": 8},
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_builds_at_full_size_and_takes_two_steps_shrunken(row: str) -> None:
    recipe = load_recipe(row)
    assert recipe.data.syncmnist is not None
    with torch.device("meta"):
        create_model(recipe.model.architecture, **recipe.model.options)
    torch.manual_seed(0)
    model = create_model(
        recipe.model.architecture, **{**recipe.model.options, **SHRUNKEN[recipe.model.architecture]}
    )
    source = recipe.model.initial_weights
    if source is not None and not source.startswith("runs/"):  # of a row that is trained first
        loaded = load_matching(model, read_state(source)).loaded
        assert {name for name in model.state_dict() if name.startswith("stem.")} <= set(loaded)
    freeze(model.train(), recipe.train.freeze, recipe.train.freeze_norms)
    optimizer = build_optimizer(model, recipe.train)
    stream = SyncMnistStream(
        load_digits("embedded", "train"), recipe.data.syncmnist.num_digits, 4, seed=0
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for clips in ([0, 1], [2, 3]):
        batch = stream.__getitems__(clips)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.precision == "bf16"):
            loss = classification_loss(model(**batch.inputs(model.input_spec)), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    after = model.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    frozen = (
        [name for name in after if name.startswith(tuple(recipe.train.freeze))]
        if recipe.train.freeze
        else []
    )
    assert all(torch.equal(before[name], after[name]) for name in frozen)


@pytest.mark.parametrize("table", TABLES)
def test_the_table_is_that_of_the_paper(table: str) -> None:
    """The table of the authors' slides, at the paper's size under their own names, `rstg` being the
    best of each column.
    """
    slides = {
        "mean_lstm": (77.0, None),
        "conv_lstm": (95.0, 39.7),
        "i3d_digits": (None, 90.6),
        "i3d_nl_digits": (None, 93.5),
        "space_only": (61.3, None),
        "time_only": (89.7, None),
        "homogeneous": (95.7, 58.3),
        "one_temp_stage": (97.0, 74.1),
        "all_temp_stages": (98.9, 94.5),
        "positional": (None, 97.2),
    }
    published = {row: load_recipe(f"{table}:{row}").published for row in recipe_rows(table)[1]}
    column, best = {"syncmnist3": (0, "all_temp_stages"), "syncmnist5": (1, "positional")}[table]
    expected = {row: numbers[column] for row, numbers in slides.items()}
    assert {row: p for row, p in published.items() if size_of(row) == "paper"} == {
        "rstg" if row == best else row: number for row, number in expected.items()
    }
    regions = {
        f"strg_{graph}_small": None for graph in ("avgpool", "sim", "st", "joint")
    }  # of another paper, which has no such table
    assert {row: p for row, p in published.items() if size_of(row) == "small"} == regions | {
        "rstg_small" if row == "positional" else f"{row}_small": number
        for row, number in expected.items()
    }


@pytest.mark.parametrize("table", TABLES)
def test_rows_stand_in_published_order_and_one_row_is_one_network(table: str) -> None:
    for size in ("small", "paper"):
        rows = [
            load_recipe(f"{table}:{row}") for row in recipe_rows(table)[1] if size_of(row) == size
        ]
        numbers = [row.published for row in rows if row.published is not None]
        assert numbers == sorted(numbers, reverse=True)
        networks = [(row.model.architecture, sorted(row.model.options.items())) for row in rows]
        assert all(networks.count(network) == 1 for network in networks)
        assert all(
            (row.train, row.data, row.eval) == (rows[0].train, rows[0].data, rows[0].eval)
            for row in rows
        )
        assert len({_pre_training(row) for row in rows}) == 1


def _pre_training(row: Recipe) -> str | None:
    """Where a row starts from, up to its own name."""
    source, name = row.model.initial_weights, row.title.split(":")[1]
    return (
        "itself on 3 digits" if source in (f"{name}_sync3", f"runs/syncmnist3-{name}") else source
    )


@pytest.mark.parametrize(("table", "num_digits"), [("syncmnist3", 3), ("syncmnist5", 5)])
def test_region_graphs_see_one_box_per_digit(table: str, num_digits: int) -> None:
    for graph in ("avgpool", "sim", "st", "joint"):
        model = load_recipe(f"{table}:strg_{graph}_small").model
        built = create_model(model.architecture, **model.options)
        assert (model.options["graph"], built.input_spec.boxes_per_frame) == (graph, num_digits)
        batch = SyncMnistStream(
            load_digits("embedded", "train"), num_digits, 1, seed=0
        ).__getitems__([0])
        assert batch.regions is not None
        assert batch.regions.mask.shape == (1, 10, num_digits)
