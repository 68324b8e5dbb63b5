"""Recipes: merging, overrides, types, errors that name the nearest key, and the round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vidgraph.config import (
    SHIPPED_RECIPES,
    Recipe,
    first_difference,
    list_recipes,
    load_data,
    load_recipe,
    load_views,
    model_overrides,
    nested,
    recipe_keys,
    save_recipe,
)
from vidgraph.data.options import TableOptions
from vidgraph.errors import RecipeError
from vidgraph.models.published import ModelOptions
from vidgraph.models.rstg import RSTGOptions
from vidgraph.video.views import ViewPlan

ALL_ROWS = [f"{name}:{row}" for name, rows in list_recipes().items() for row in rows]
TABLE_RECIPE = """
name: mine
data: {table: {path: clips.csv, columns: {label: class}, flip: true}}
model: {name: rstg_small, head: {width: 32}}
train: {epochs: 2.5, lr: 1e-3, freeze: [backbone.]}
"""


def head_of(recipe: Recipe) -> RSTGOptions:
    assert isinstance(recipe.model.options, ModelOptions)
    assert isinstance(recipe.model.options.head, RSTGOptions)
    return recipe.model.options.head


def test_shared_and_row_are_merged_key_by_key() -> None:
    recipe = load_recipe("syncmnist5:rstg_small")
    assert recipe.data.syncmnist is not None
    assert (recipe.name, recipe.row, recipe.title, recipe.model.name) == (
        *("syncmnist5", "rstg_small", "syncmnist5:rstg_small", "rstg_small"),
    )
    assert (recipe.data.syncmnist.num_digits, recipe.train.lr) == (5, 1e-3)


def test_overrides_reach_every_depth_as_text_or_typed() -> None:
    words = {
        "train.lr": "1e-4",
        "train.clips": "200_000",
        "model.head.num_stages": "2",
        "train.clip_norm": "null",
        "data.syncmnist.classes": "[0,1,2]",
    }
    typed: dict[str, Any] = {
        "train.lr": 1e-4,
        "train.clips": 200_000,
        "model.head.num_stages": 2,
        "train.clip_norm": None,
        "data.syncmnist.classes": [0, 1, 2],
    }
    recipe = load_recipe("syncmnist3:rstg_small", words)
    assert recipe == load_recipe("syncmnist3:rstg_small", typed)
    assert recipe.data.syncmnist is not None
    assert (recipe.train.lr, recipe.train.clips, recipe.train.clip_norm) == (1e-4, 200_000, None)
    assert head_of(recipe).num_stages == 2
    assert recipe.data.syncmnist.classes == [0, 1, 2]


@pytest.mark.parametrize("text", ["2024", "true", "2024_01", "1e3"])
def test_a_path_may_look_like_a_number(text: str) -> None:
    data = load_data("clips.csv", {"data.table.boxes": text})
    assert data.table == TableOptions("clips.csv", boxes=text)


def test_numbers_in_yaml_keep_their_type(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE_RECIPE)
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.data.table == TableOptions("clips.csv", {"label": "class"}, flip=True)
    assert recipe.train.lr == 0.001  # YAML itself reads 1e-3 as a text
    assert (recipe.train.epochs, recipe.train.freeze) == (2.5, ["backbone."])


@pytest.mark.parametrize("name", ALL_ROWS)
def test_a_saved_recipe_loads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, {"train.weight_decay": 1.2345e-05})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path) == load_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_recipe_of_version_0_1_means_what_it_meant(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(
        "name: mine\n"
        "data: {table: {path: t.csv, past_end: loop, folder_fps: 12.0}}\n"
        "model: {architecture: strg_small, options: {graph: sim, num_frames: 4, size: 64}}\n"
        "train: {batch_size: 8, freeze_norms: [stem.], stages: [\n"
        "  {name: backbone, clips: 8, freeze: [graph.]}, {name: joint, clips: 16}]}\n"
        "eval: {snippet_interval: 3}\n"
    )
    (tmp_path / "new.yaml").write_text(
        "name: mine\n"
        "data: {table: {path: t.csv}}\n"
        "model: {name: strg_small, head: {graph: sim},\n"
        "  input: {num_frames: 4, height: 64, width: 64}}\n"
        "train: {batch_size: 8, freeze_norms: [backbone.], phases: [\n"
        "  {name: backbone, clips: 8, freeze: [head.graph.]}, {name: joint, clips: 16}]}\n"
        "eval: {past_end: loop, folder_fps: 12, stack_interval: 3}\n"
    )
    assert load_recipe(tmp_path / "old.yaml") == load_recipe(tmp_path / "new.yaml")


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("syncmnst3", "", "", "there is no such recipe, file or folder; did you mean 'syncmnist3'"),
        ("syncmnist3:rstg_smal", "", "", "has no row 'rstg_smal'; did you mean 'rstg_small'?"),
        ("syncmnist3", "", "", "has several rows; write syncmnist3:ROW, one of all_temp_stages"),
        ("absent.yaml", "", "", "recipe file absent.yaml does not exist"),
        ("", "train.lrr", "1", "unknown key train.lrr; did you mean 'lr'?"),
        ("", "data.syncmnist.num_digit", "3", "num_digit; did you mean 'num_digits'?"),
        ("", "model.head.num_stage", "3", "model.head.num_stage; did you mean 'num_stages'?"),
        ("", "trian.lr", "1", "unknown key trian; did you mean 'train'?"),
        ("", "train.lr", "fast", "train.lr: should be a valid number"),
        ("", "train.lr", "null", "train.lr: should be a valid number"),
        ("", "train.clips", "1.5", "train.clips: should be a valid integer"),
        ("", "train.nesterov", "3", "train.nesterov: should be a valid boolean"),
        ("", "train.optimizer", "adam", "train.optimizer: should be 'adamw' or 'sgd', not 'adam'"),
        ("", "train.lr", "-1", "train.lr: should be greater than 0, not '-1'"),
        ("", "train.lr", "nan", "train.lr: should be"),
        ("", "train.batch_size", "0", "train.batch_size: should be greater than or equal to 1"),
        ("", "train.epochs", "2", "train must hold exactly one of clips and epochs"),
        ("", "data.table.path", "x.csv", "data must hold exactly one of syncmnist and table"),
        ("", "train.lr.x", "3", "train.lr: should be a valid number"),
        ("", "data.syncmnist", "3", "data.syncmnist: should be"),
        ("", "data.syncmnist.classes", "[1", "is not valid YAML"),
    ],
)
def test_faults_are_one_line_that_names_the_nearest(
    name: str, key: str, value: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name or "syncmnist3:rstg", {key: value} if key else {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "cannot be read as YAML"),
        ("- a", "the top level of a recipe is keys"),
        ("name: x\nrows: {a: {train: {lr: 1, lr: 2}}}", "the key 'lr' stands here twice"),
        ("name: x\nrows: {}", "rows must hold at least one row"),
        ("name: x\nshare: {}\nrows: {a: {}}", "unknown key 'share'; did you mean 'shared'?"),
        ("name: x\nrows: {a: {model: {name: rstg_small}}}", "data is missing"),
        ("name: x\nrows: {a: {data: {table: {path: p}}, model: {}}}", "model.name is missing"),
        (
            "name: x\nrows: {a: {data: {table: {}}, model: {name: rstg_small}}}",
            "data.table.path is missing",
        ),
    ],
)
def test_broken_recipe_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "x.yaml")
    assert message in str(caught.value)


def test_a_folder_that_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"without recipe\.yaml"):
        load_recipe(tmp_path)


def test_data_and_views_of_a_run_folder_with_overrides(tmp_path: Path) -> None:
    words = {"eval.crops": 3, "eval.past_end": "loop", "train.clips": 32}
    save_recipe(load_recipe("syncmnist3:rstg_small", words), tmp_path / "recipe.yaml")
    assert load_data(str(tmp_path), {"data.syncmnist.num_digits": "5"}).syncmnist is not None
    views = load_views(tmp_path, {"eval.num_views": "2", "data.syncmnist.num_digits": "5"})
    assert views == ViewPlan(num_views=2, crops=3, past_end="loop")
    assert load_views(None, {}) == ViewPlan()
    assert views.single() == ViewPlan(past_end="loop")
    with pytest.raises(RecipeError, match="does not change the data"):
        load_data(str(tmp_path), {"train.lr": "1"})


def test_model_overrides_are_nested_and_of_the_model_alone() -> None:
    assert model_overrides({"model.head.width": "8"}) == {"head": {"width": "8"}}
    with pytest.raises(RecipeError, match="is no option of a model"):
        model_overrides({"train.lr": "1"})
    assert nested({"a.b": "x", "a.c": "{d: 1}"}) == {"a": {"b": "x", "c": {"d": 1}}}
    for keys in (("a.b", "a.b.c"), ("a.b.c", "a.b"), ("a", "a.b.c")):
        with pytest.raises(RecipeError, match="another key is a part or the whole of it"):
            nested(dict.fromkeys(keys, "x"))


def test_recipe_keys_are_keys_that_recipes_have() -> None:
    keys = recipe_keys()
    assert {"train.lr", "eval.crops", "data.table.path", "data.syncmnist.digits"} <= {*keys}
    assert len(keys) == len({*keys})


def test_first_difference_names_key_and_values_and_ignores_what_it_may() -> None:
    one = load_recipe("syncmnist3:rstg_small")
    other = load_recipe("syncmnist3:rstg_small", {"train.workers": 2, "model.head.width": 8})
    assert first_difference(one, one) is None
    difference = first_difference(one, other, ["train.workers"])
    assert difference == "model.head.width is 96 there and 8 here"


def test_recipe_files_are_named_after_their_recipe() -> None:
    for path in SHIPPED_RECIPES.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["name"] == path.stem
    assert isinstance(load_recipe("digits"), Recipe)  # its only row may be left out
