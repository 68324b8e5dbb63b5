"""What a recipe says of ten crops, corner crops and flow reaches the views and the clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgraph.config import EvalRecipe, TableData, load_data, load_recipe, save_recipe
from vidgraph.errors import RecipeError
from vidgraph.experiment import view_plan
from vidgraph.scoring import eval_batches, eval_settings
from vidgraph.video.views import ViewPlan

RECIPE = """
name: mine
data: {table: {path: t.csv, columns: {split: split01}, flow: live, crop_scales: [1, 0.875, 0.75,
  0.66]}}
model: {architecture: rstg_small}
train: {clips: 10}
eval: {num_views: 25, crops: 5, crop_places: corners, mirrored: true, short_side: 256,
  stack_interval: 1, fusion: logits}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path / "mine.yaml"


def test_the_test_of_temporal_segment_networks_as_a_recipe(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(str(recipe))
    table = loaded.data.table
    assert table is not None
    expected = ViewPlan(
        25, 5, short_side=256, crop_places="corners", mirrored=True, stack_interval=1
    )
    assert view_plan(table, loaded.eval) == expected
    assert expected.views_per_clip == loaded.eval.views_per_clip == 10
    assert table.crop_scales == [1.0, 0.875, 0.75, 0.66]
    assert (table.flow, table.flow_bound) == ("live", 20.0)
    save_recipe(loaded, tmp_path / "again.yaml")
    assert load_recipe(str(tmp_path / "again.yaml")) == loaded


def test_overrides_of_scoring() -> None:
    settings, rest = eval_settings(
        None, ["--eval.crops", "5", "--eval.crop_places", "corners", "--eval.mirrored", "true"]
    )
    assert settings == EvalRecipe(crops=5, crop_places="corners", mirrored=True)
    assert rest == []
    with pytest.raises(
        RecipeError, match=r"eval\.crop_places must be one of line, corners, got 'edges'"
    ):
        eval_settings(None, ["--eval.crop_places", "edges"])


def test_views_of_a_clip_count_for_the_batch() -> None:
    """64 views of ten crops are six clips."""
    settings = EvalRecipe(crops=5, crop_places="corners", mirrored=True)
    assert eval_batches(range(13), settings) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12]]


def test_defaults_are_what_they_were() -> None:
    assert view_plan(TableData("t.csv"), EvalRecipe()) == ViewPlan()
    assert EvalRecipe(crops=3).views_per_clip == ViewPlan(crops=3).views_per_clip == 3
    assert EvalRecipe(full_frame=True).views_per_clip == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--data.table.crop_scales [0.5,0]",
            "data.table.crop_scales must be shares above 0 and at most 1",
        ),
        ("--data.table.flow_bound -3", "data.table.flow_bound must be above 0, got -3.0"),
        (
            "--data.table.short_side [256]",
            "crop_scales and short_side both say how training crops are drawn",
        ),
    ],
)
def test_faults_are_one_line(recipe: Path, words: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_data(str(recipe), words.split())
    assert message in str(caught.value)
