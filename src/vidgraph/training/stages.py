"""The stages of a training: where each begins and ends, counted in clips of the whole training, and
what learns in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vidgraph.config import TrainRecipe
from vidgraph.recipe_training import train_stages
from vidgraph.training.optim import freeze


@dataclass(frozen=True)
class Stage:
    """A part of a training with an optimiser and a schedule of its own. Most trainings are one
    stage without a name.

    Attributes:
        name: as the recipe has it; empty for a training without stages.
        recipe: what holds in this stage.
        first: clips of the whole training before it.
        last: and at its end.
        total: of the whole training.
        place: such as "stage 2 of 3, joint", for people; empty without a name.
    """

    name: str
    recipe: TrainRecipe
    first: int
    last: int
    total: int
    place: str = ""


def plan_stages(recipe: TrainRecipe, num_train: int) -> list[Stage]:
    """The stages in their order, each as long as whole batches that hold its clips.

    Args:
        recipe: how to train.
        num_train: clips of the training split, for lengths in `epochs`.
    """
    own = train_stages(recipe)
    ends = [0]
    for _, part in own:
        wanted = (
            part.clips
            if part.clips is not None
            else part.epochs * num_train
            if part.epochs is not None
            else 0
        )
        ends.append(ends[-1] + math.ceil(wanted / part.batch_size) * part.batch_size)
    return [
        Stage(
            name,
            part,
            ends[i],
            ends[i + 1],
            ends[-1],
            f"stage {i + 1} of {len(own)}, {name}" if name else "",
        )
        for i, (name, part) in enumerate(own)
    ]


def total_clips(recipe: TrainRecipe, num_train: int) -> int:
    """Training clips in all, each stage rounded up to whole batches."""
    return plan_stages(recipe, num_train)[-1].last


def begin_stage(model: nn.Module, learning: Sequence[nn.Parameter], recipe: TrainRecipe) -> None:
    """Makes everything learn that is to learn at all, less what this stage freezes: what an earlier
    one froze is free again.

    Args:
        model: to be trained.
        learning: its parameters that had a gradient before the first stage.
        recipe: of the stage.

    Raises:
        RecipeError: a prefix in `freeze` or `freeze_norms` that no parameter has.
    """
    for parameter in learning:
        parameter.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    freeze(model.train(), recipe.freeze, recipe.freeze_norms)
