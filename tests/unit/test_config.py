"""Recipes: merging, overrides, types, errors that name the nearest key, and the round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from vidgraph.config import (
    SHIPPED_RECIPES,
    Recipe,
    first_difference,
    list_recipes,
    load_recipe,
    parse_overrides,
    save_recipe,
)
from vidgraph.errors import RecipeError
from vidgraph.models.build import create_model

ALL_ROWS = [f"{name}:{row}" for name, rows in list_recipes().items() for row in rows]
TABLE_RECIPE = """
name: mine
data: {table: {path: clips.csv, columns: {label: class}, flip: true}}
model: {architecture: rstg_small, options: {width: 32}}
train: {epochs: 2.5, lr: 1e-3, freeze: [stem.]}
"""


def test_shared_and_row_are_merged_key_by_key() -> None:
    recipe = load_recipe("syncmnist5:rstg_small")
    assert recipe.data.syncmnist is not None
    assert (recipe.name, recipe.row, recipe.title) == (
        "syncmnist5",
        "rstg_small",
        "syncmnist5:rstg_small",
    )
    assert (recipe.data.syncmnist.num_digits, recipe.model.architecture, recipe.train.lr) == (
        5,
        "rstg_small",
        1e-3,
    )


def test_overrides_reach_every_depth_and_take_both_spellings() -> None:
    words = (
        "--train.lr 1e-4 --train.clips=200_000 --model.options.num_stages 2 --train.clip_norm "
        "null --data.syncmnist.classes [0,1,2]"
    )
    recipe = load_recipe("syncmnist3:rstg_small", words.split())
    assert recipe.data.syncmnist is not None
    assert (recipe.train.lr, recipe.train.clips, recipe.train.clip_norm) == (1e-4, 200_000, None)
    assert recipe.model.options["num_stages"] == 2
    assert recipe.data.syncmnist.classes == [0, 1, 2]


def test_numbers_in_yaml_keep_their_type(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE_RECIPE)
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe.data.table is not None
    assert recipe.train.lr == 0.001  # YAML itself reads 1e-3 as a text
    assert (recipe.train.epochs, recipe.train.freeze, recipe.data.table.columns) == (
        2.5,
        ["stem."],
        {"label": "class"},
    )


@pytest.mark.parametrize("name", ALL_ROWS)
def test_a_saved_recipe_loads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["--train.weight_decay", "1.2345e-05"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(str(tmp_path)) == recipe
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


@pytest.mark.parametrize("name", ALL_ROWS)
def test_every_shipped_row_names_an_architecture_with_its_options(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        assert (
            create_model(recipe.model.architecture, **recipe.model.options).input_spec is not None
        )
    assert recipe.source
    assert recipe.train.clips is None or recipe.train.clips % recipe.train.batch_size == 0


def test_compared_rows_get_equal_training() -> None:
    for name in ("syncmnist3", "syncmnist5"):
        ours, baseline = load_recipe(f"{name}:rstg_small"), load_recipe(f"{name}:mean_lstm_small")
        assert (ours.train, ours.data, ours.eval) == (baseline.train, baseline.data, baseline.eval)


def test_published_numbers_of_the_paper() -> None:
    assert [load_recipe(f"syncmnist{n}:rstg").published for n in (3, 5)] == [98.9, 97.2]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("syncmnst3", "", "no recipe named 'syncmnst3'; did you mean 'syncmnist3'?"),
        (
            "syncmnist3:rstg_smal",
            "",
            "recipe syncmnist3 has no row 'rstg_smal'; did you mean 'rstg_small'?",
        ),
        (
            "syncmnist3",
            "",
            "recipe syncmnist3 has several rows; write syncmnist3:ROW with one of "
            "all_temp_stages_small, conv_lstm, ",
        ),
        (
            "syncmnist3:rstg",
            "--train.leraning_rate 1",
            "recipe syncmnist3:rstg: unknown key train.leraning_rate; known: ",
        ),
        (
            "syncmnist3:rstg",
            "--train.lrr 1",
            "recipe syncmnist3:rstg: unknown key train.lrr; did you mean 'lr'?",
        ),
        (
            "syncmnist3:rstg",
            "--data.syncmnist.num_digit 3",
            "unknown key data.syncmnist.num_digit; did you mean 'num_digits'?",
        ),
        ("syncmnist3:rstg", "--trian.lr 1", "unknown key trian; did you mean 'train'?"),
        ("syncmnist3:rstg", "--train.lr fast", "train.lr must be a number, got 'fast'"),
        ("syncmnist3:rstg", "--train.lr null", "train.lr must be a number, got null"),
        (
            "syncmnist3:rstg",
            "--train.clips 1.5",
            "train.clips must be a whole number or null, got 1.5",
        ),
        ("syncmnist3:rstg", "--train.nesterov 3", "train.nesterov must be true or false, got 3"),
        (
            "syncmnist3:rstg",
            "--train.optimizer adam",
            "train.optimizer must be one of adamw, sgd, got 'adam'",
        ),
        ("syncmnist3:rstg", "--train.lr -1", "train.lr must be above 0, got -1.0"),
        ("syncmnist3:rstg", "--train.batch_size 0", "train.batch_size must be above 0, got 0"),
        ("syncmnist3:rstg", "--train.momentum 3", "train.momentum must be below 1, got 3.0"),
        (
            "syncmnist3:rstg",
            "--train.seed 99999999999",
            "train.seed must be below 4,294,967,296, got 99999999999",
        ),
        ("syncmnist3:rstg", "--train.lr nan", "train.lr must be above 0, got nan"),
        (
            "syncmnist3:rstg",
            "--train.epochs 2",
            "train must hold exactly one of clips and epochs; set the other to null, as --train.",
        ),
        (
            "syncmnist3:rstg",
            "--data.table.path x.csv",
            "data must hold exactly one of syncmnist and table",
        ),
        (
            "syncmnist3:rstg",
            "--train 3",
            "'--train' is not an option and not an override; an override is written --train.lr "
            "1e-3",
        ),
        ("syncmnist3:rstg", "--train.lr", "--train.lr needs a value, as in --train.lr VALUE"),
        ("syncmnist3:rstg", "--train.lr.x 3", "train.lr must be a number, got {'x': '3'}"),
        (
            "syncmnist3:rstg",
            "--data.syncmnist 3",
            "data.syncmnist must hold keys and values, got '3'",
        ),
        ("absent.yaml", "", "recipe file absent.yaml does not exist"),
    ],
)
def test_faults_are_one_line_that_names_the_nearest(name: str, words: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_with_nothing_below_it_is_empty() -> None:
    recipe = load_recipe("syncmnist3:rstg", ["--model.options", "null", "--train.freeze", "null"])
    assert (recipe.model.options, list(recipe.train.freeze)) == ({}, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "cannot be read as YAML"),
        ("- a", "holds no recipe"),
        ("name: x\nrows: {a: {train: {lr: 1, lr: 2}}}", "the key 'lr' stands here twice"),
        ("name: x\nrows: {}", "rows must hold at least one row"),
        ("name: x\nshare: {}\nrows: {a: {}}", "unknown key 'share'; did you mean 'shared'?"),
        ("name: x\nrows: {a: {model: {architecture: m}}}", "data is missing"),
        (
            "name: x\nrows: {a: {data: {table: {path: p}}, model: {architecture: }}}",
            "model.architecture must be a text, got null",
        ),
        (
            "name: x\nrows: {a: {data: {table: {}}, model: {architecture: m}}}",
            "data.table.path is missing",
        ),
    ],
)
def test_broken_recipe_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message.replace("[", r"\[").replace("?", r"\?")):
        load_recipe(str(tmp_path / "x.yaml"))


def test_a_folder_that_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"without recipe\.yaml"):
        load_recipe(str(tmp_path))


def test_parse_overrides_turns_dashes_into_underscores() -> None:
    assert list(parse_overrides(["--train.batch-size", "8", "--train.lr=a=b"])) == [
        ("train.batch_size", "8"),
        ("train.lr", "a=b"),
    ]


def test_first_difference_names_key_and_values_and_ignores_what_it_may() -> None:
    one = load_recipe("syncmnist3:rstg_small")
    other = load_recipe("syncmnist3:rstg_small", ["--train.workers", "2", "--train.lr", "1e-4"])
    assert first_difference(one, one) is None
    assert (
        first_difference(one, other, ["train.workers"]) == "train.lr is 0.001 there and 0.0001 here"
    )


def test_recipe_files_are_named_after_their_recipe() -> None:
    for path in SHIPPED_RECIPES.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["name"] == path.stem
    assert isinstance(load_recipe("digits"), Recipe)  # its only row may be left out
