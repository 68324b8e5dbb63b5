"""The part `train` of a recipe: stages, how they are overridden and compared, and what is
refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgraph.config import Recipe, TrainRecipe, first_difference, load_recipe, save_recipe
from vidgraph.errors import RecipeError
from vidgraph.recipe_training import train_stages

STAGED = """
name: mine
data: {syncmnist: {num_digits: 2}}
model: {architecture: rstg_small}
train:
  batch_size: 8
  lr: 0.1
  weight_decay: 1e-4
  stages:
    - {name: body, clips: 1_000, freeze: [head.], schedule: step, drops: [0.5, 0.9]}
    - {name: joint, clips: 500, lr: 1e-3}
"""

OVER_A_TABLE = STAGED.replace("{syncmnist: {num_digits: 2}}", "{table: {path: clips.csv}}")


def staged(tmp_path: Path, *words: str, text: str = STAGED) -> Recipe:
    (tmp_path / "mine.yaml").write_text(text)
    return load_recipe(str(tmp_path / "mine.yaml"), words)


def test_a_stage_holds_what_differs_and_takes_the_rest(tmp_path: Path) -> None:
    (one, body), (two, joint) = train_stages(staged(tmp_path).train)
    assert (one, body.clips, body.lr, body.freeze, body.schedule, body.drops) == (
        "body",
        1000,
        0.1,
        ["head."],
        "step",
        [0.5, 0.9],
    )
    assert (two, joint.clips, joint.lr, joint.freeze, joint.schedule, joint.drops) == (
        "joint",
        500,
        0.001,
        [],
        "cosine",
        [],
    )
    assert all(
        (stage.batch_size, stage.weight_decay, stage.stages) == (8, 1e-4, [])
        for stage in (body, joint)
    )
    plain = TrainRecipe(clips=80)
    assert train_stages(plain) == [("", plain)]


def test_overrides_reach_one_stage_or_what_all_share(tmp_path: Path) -> None:
    recipe = staged(
        tmp_path,
        "--train.stages.joint.lr",
        "1e-4",
        "--train.stages.joint.momentum=0.5",
        "--train.batch_size",
        "4",
    )
    (_, body), (_, joint) = train_stages(recipe.train)
    assert (
        body.lr,
        joint.lr,
        body.momentum,
        joint.momentum,
        body.batch_size,
        joint.batch_size,
    ) == (0.1, 1e-4, 0.9, 0.5, 4, 4)
    (_, body), (_, joint) = train_stages(
        staged(tmp_path, "--train.lr", "0.2", "--train.stages.joint.lr", "2e-3").train
    )
    assert (body.lr, joint.lr) == (0.2, 2e-3)
    assert not staged(tmp_path, "--train.stages", "[]", "--train.clips", "80").train.stages
    again = staged(tmp_path, "--train.stages", "[{name: only, epochs: 2}]", text=OVER_A_TABLE)
    assert [(name, stage.epochs) for name, stage in train_stages(again.train)] == [("only", 2.0)]


def test_a_saved_recipe_with_stages_loads_back_equal(tmp_path: Path) -> None:
    recipe = staged(tmp_path, "--train.stages.joint.lr", "0.00012345")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(str(tmp_path)) == recipe
    assert (
        load_recipe(str(tmp_path), ["--train.stages.joint.lr", "1.2345e-4"]) == recipe
    )  # the same number, written otherwise
    assert (
        first_difference(recipe, staged(tmp_path))
        == "train.stages.joint.lr is 0.00012345 there and 0.001 here"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--train.lr 1",
            "--train.lr is ambiguous, since stages have their own; give --train.stages.joint.lr",
        ),
        (
            "--train.clips 80",
            "--train.clips is ambiguous, since stages have their own; give "
            "--train.stages.body.clips and --train.stages.joint.clips",
        ),
        (
            "--train.epochs 2",
            "train.clips and train.epochs are ambiguous beside train.stages; give each stage its "
            "own, as --train.stages.body",
        ),
        (
            "--train.stages.jont.lr 1",
            "there is none of the stages named 'jont'; did you mean 'joint'?",
        ),
        ("--train.stages.joint.lrr 1", "unknown key train.stages.joint.lrr; did you mean 'lr'?"),
        ("--train.stages.joint.lr fast", "train.stages.joint.lr must be a number, got 'fast'"),
        ("--train.stages.joint.lr -1", "train.stages.joint.lr must be above 0, got -1.0"),
        (
            "--train.stages.joint.clips null",
            "train.stages.joint must hold exactly one of clips and epochs",
        ),
        (
            "--train.stages.joint.epochs 1",
            "train.stages.joint must hold exactly one of clips and epochs",
        ),
        (
            "--train.stages.joint.seed 1",
            "train.stages.joint.seed cannot be of one stage; give train.seed, which is of the "
            "whole training",
        ),
        (
            "--train.stages.joint 3",
            "train.stages must be a list such as [a, b], got {'joint': '3'}",
        ),
        ("--train.stages [3]", "train.stages must be a list such as [a, b], got [3]"),
        (
            "--train.stages.joint.epochs 1 --train.stages.joint.clips null",
            "train.stages.joint.epochs needs data.table; generated clips have no",
        ),
        (
            "--train.stages.body.drops [0.9,0.5]",
            "train.stages.body.drops must be rising shares between 0 and 1, such as [0.9], with",
        ),
        (
            "--train.stages.body.drops []",
            "train.stages.body.drops must be rising shares between 0 and 1",
        ),
        ("--train.stages.joint.drops [0.5]", "empty without it, got [0.5] with cosine"),
        (
            "--train.stages.body.drops [1.0]",
            "train.stages.body.drops must be rising shares between 0 and 1",
        ),
    ],
)
def test_faults_are_one_line(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        staged(tmp_path, *words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            "[{clips: 3}]",
            "train.stages: stage 1 must be keys and values with a name of letters, as {name: "
            "joint, clips: 1000}",
        ),
        ("[{name: a.b, clips: 3}]", "stage 1 must be keys and values with a name of letters"),
        ("[{name: a, clips: 3}, {name: a, clips: 3}]", "two stages are named 'a'"),
        ("{a: {clips: 3}}", "train.stages must be a list"),
    ],
)
def test_stages_need_names_of_their_own(tmp_path: Path, stages: str, message: str) -> None:
    text = STAGED.partition("  stages:")[0] + f"  stages: {stages}\n"
    with pytest.raises(RecipeError) as caught:
        staged(tmp_path, text=text)
    assert message in str(caught.value)
