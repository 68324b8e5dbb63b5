"""The part `train` of a recipe: phases, how they are overridden and compared, and what is
refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgraph.cli import split_overrides
from vidgraph.config import Recipe, first_difference, load_recipe, save_recipe
from vidgraph.errors import RecipeError
from vidgraph.training.phases import TrainOptions, named_phases

WITH_PHASES = """
name: mine
data: {syncmnist: {num_digits: 2}}
model: {name: rstg_small}
train:
  batch_size: 8
  lr: 0.1
  weight_decay: 1e-4
  phases:
    - {name: body, clips: 1_000, freeze: [head.], schedule: step, drops: [0.5, 0.9]}
    - {name: joint, clips: 500, lr: 1e-3}
"""

OVER_A_TABLE = WITH_PHASES.replace("{syncmnist: {num_digits: 2}}", "{table: {path: clips.csv}}")


def phased(tmp_path: Path, *words: str, text: str = WITH_PHASES) -> Recipe:
    (tmp_path / "mine.yaml").write_text(text)
    return load_recipe(tmp_path / "mine.yaml", dict(split_overrides(words)[1]))


def test_a_phase_holds_what_differs_and_takes_the_rest(tmp_path: Path) -> None:
    (one, body), (two, joint) = named_phases(phased(tmp_path).train)
    own = [(p.clips, p.lr, p.freeze, p.schedule, p.drops) for p in (body, joint)]
    assert (one, own[0]) == ("body", (1000, 0.1, ["head."], "step", [0.5, 0.9]))
    assert (two, own[1]) == ("joint", (500, 0.001, [], "cosine", []))
    assert all((phase.batch_size, phase.weight_decay) == (8, 1e-4) for phase in (body, joint))
    plain = TrainOptions(clips=80)
    assert named_phases(plain) == [("", plain)]


def test_overrides_reach_one_phase_or_what_all_share(tmp_path: Path) -> None:
    words = "--train.phases.joint.lr 1e-4 --train.phases.joint.momentum=0.5 --train.batch_size 4"
    phases = named_phases(phased(tmp_path, *words.split()).train)
    assert [(p.lr, p.momentum, p.batch_size) for _, p in phases] == [(0.1, 0.9, 4), (1e-4, 0.5, 4)]
    (_, body), (_, joint) = named_phases(
        phased(tmp_path, "--train.lr", "0.2", "--train.phases.joint.lr", "2e-3").train
    )
    assert (body.lr, joint.lr) == (0.2, 2e-3)
    assert not phased(tmp_path, "--train.phases", "[]", "--train.clips", "80").train.phases
    again = phased(tmp_path, "--train.phases", "[{name: only, epochs: 2}]", text=OVER_A_TABLE)
    assert [(name, phase.epochs) for name, phase in named_phases(again.train)] == [("only", 2.0)]


def test_a_saved_recipe_with_phases_loads_back_equal(tmp_path: Path) -> None:
    recipe = phased(tmp_path, "--train.phases.joint.lr", "0.00012345")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path) == recipe
    otherwise = {"train.phases.joint.lr": "1.2345e-4"}  # the same number
    assert load_recipe(tmp_path, otherwise) == recipe
    difference = "train.phases.joint.lr is 0.00012345 there and 0.001 here"
    assert first_difference(recipe, phased(tmp_path)) == difference


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--train.lr 1",
            "--train.lr is ambiguous, since phases have their own; give --train.phases.joint.lr",
        ),
        (
            "--train.clips 80",
            "--train.clips is ambiguous, since phases have their own; give "
            "--train.phases.body.clips and --train.phases.joint.clips",
        ),
        ("--train.epochs 2", "train.phases.body must hold exactly one of clips and epochs"),
        ("--train.phases.jont.lr 1", "phases has no entry named 'jont'; did you mean 'joint'?"),
        ("--train.phases.joint.lrr 1", "unknown key train.phases.joint.lrr; did you mean 'lr'?"),
        (
            "--train.phases.joint.lr fast",
            "phase joint: train.phases.joint.lr: should be a valid number",
        ),
        (
            "--train.phases.joint.lr -1",
            "phase joint: train.phases.joint.lr: should be greater than 0, not '-1'",
        ),
        (
            "--train.phases.joint.clips null",
            "train.phases.joint must hold exactly one of clips and epochs",
        ),
        (
            "--train.phases.joint.epochs 1",
            "train.phases.joint must hold exactly one of clips and epochs",
        ),
        (
            "--train.phases.joint.seed 1",
            "train.phases.joint.seed cannot be of one phase; give train.seed, which is of the "
            "whole training",
        ),
        ("--train.phases.joint 3", "phases.joint must hold keys and values, not '3'"),
        ("--train.phases [3]", "train.phases.0: should be a valid dictionary, not 3"),
        (
            "--train.phases.joint.epochs 1 --train.phases.joint.clips null",
            "generated clips have no end, so give train.phases.joint.clips, not epochs",
        ),
        (
            "--train.phases.body.drops [0.9,0.5]",
            "phase body: drops must be rising shares between 0 and 1, such as [0.9], with",
        ),
        ("--train.phases.body.drops []", "phase body: drops must be rising shares between 0 and 1"),
        ("--train.phases.joint.drops [0.5]", "empty without it, not [0.5] with cosine"),
        (
            "--train.phases.body.drops [1.0]",
            "phase body: drops must be rising shares between 0 and 1",
        ),
    ],
)
def test_faults_are_one_line(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        phased(tmp_path, *words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("[{clips: 3}]", "each phase needs a name of its own, of letters and digits, as {name: "),
        ("[{name: a.b, clips: 3}]", "they are ['a.b']"),
        ("[{name: a, clips: 3}, {name: a, clips: 3}]", "they are ['a', 'a']"),
        ("{a: {clips: 3}}", "train.phases: should be a valid list"),
    ],
)
def test_phases_need_names_of_their_own(tmp_path: Path, phases: str, message: str) -> None:
    text = WITH_PHASES.partition("  phases:")[0] + f"  phases: {phases}\n"
    with pytest.raises(RecipeError) as caught:
        phased(tmp_path, text=text)
    assert message in str(caught.value)


def test_run_folders_of_version_0_1_say_stages(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        WITH_PHASES.replace("phases:", "stages:").replace("name: rstg", "architecture: rstg")
    )
    assert load_recipe(tmp_path).train == phased(tmp_path).train
