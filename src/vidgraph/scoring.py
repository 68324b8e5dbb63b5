"""Scores saved weights on a split, with as many views of each video as the recipe says; what
`vidgraph eval` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from vidgraph.config import EvalRecipe, load_data, load_recipe, parse_overrides
from vidgraph.errors import RecipeError
from vidgraph.evaluation.features import FeatureRecorder
from vidgraph.evaluation.inference import ViewFusion, evaluate
from vidgraph.evaluation.metrics import Scores
from vidgraph.evaluation.score_file import SUFFIX, load_scores
from vidgraph.experiment import scored_data, view_plan
from vidgraph.records import InputSpec
from vidgraph.training.fit import accelerator
from vidgraph.training.loaders import ClipLoader, ClipSequence, validation_batches
from vidgraph.typed_values import with_overrides
from vidgraph.video.views import ViewPlan
from vidgraph.weights import from_pretrained


def scores_of(
    name: str,
    data: str | None,
    overrides: Sequence[str],
    split: str,
    num_views: int | None,
    batch_size: int | None,
    device: str | None,
    progress: Callable[[int, int], None],
    recorder: FeatureRecorder | None = None,
) -> tuple[Scores, str]:
    """The scores in a file that `save_scores` wrote, or those of a model, which is then scored;
    arguments and errors as `score_model`.
    """
    if not name.endswith(SUFFIX):
        return score_model(
            name, data, overrides, split, num_views, batch_size, device, progress, recorder
        )
    if recorder is not None:
        raise RecipeError(
            f"{name} holds scores, and an embedding needs features; give the model that made them"
        )
    if data is not None or overrides or num_views or batch_size:
        raise RecipeError(
            f"{name} holds scores as they were measured; --data, --views, --batch-size and "
            "overrides belong to a model"
        )
    return load_scores(name), "what the file was measured on"


def score_model(
    name: str,
    data: str | None,
    overrides: Sequence[str],
    split: str,
    num_views: int | None,
    batch_size: int | None,
    device: str | None,
    progress: Callable[[int, int], None],
    recorder: FeatureRecorder | None = None,
) -> tuple[Scores, str]:
    """Scores saved weights on a split; returns the scores and what they were measured on.

    Args:
        name: what `from_pretrained` takes.
        data: a recipe, table or folder; None for the data of the run folder `name`.
        overrides: of the data and of how they are scored, as `["--data.syncmnist.digits",
            "embedded", "--eval.crops", "3"]`.
        split: `train`, `val` or `test`.
        num_views: clips per video; None for what the overrides, else the run folder's recipe say,
            else 1.
        batch_size: views per forward pass; None likewise, else 64.
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        progress: called with (clips done, clips in all).
        recorder: collects the features of every sample.

    Raises:
        VidgraphError: weights or data that do not exist or do not fit together.
    """
    model = from_pretrained(name)  # first, so that a misspelt name is called that
    is_run = (Path(name) / "recipe.yaml").is_file()
    if data is None and not is_run:
        raise RecipeError(
            f"{name} does not say what it was trained on; add --data RECIPE, TABLE or FOLDER"
        )
    settings, overrides = eval_settings(name if is_run else None, overrides)
    settings = replace(
        settings,
        num_views=num_views or settings.num_views,
        batch_size=batch_size or settings.batch_size,
    )
    spec = cast(InputSpec, model.spec)
    found = scored_data(load_data(data or name, overrides), spec, _names_of(model), split, settings)
    batches = eval_batches(found.dataset, settings)
    loader = ClipLoader(
        ClipSequence(found.dataset, found.collate, shuffle=False, seed=0),
        batches,
        workers=1,
        pin_memory=False,
    )
    done, total = 0, len(found.dataset) * settings.views_per_clip

    def count(num_clips: int) -> None:
        nonlocal done
        done += num_clips
        progress(done, total)

    options: dict[str, Any] = {
        "views": settings.fusion,
        "chunk": settings.batch_size,
        "device": accelerator(device or "auto"),
    }
    options |= {"class_names": found.class_names, "skipped": found.skipped, "progress": count}
    if recorder is None:
        return evaluate(model, loader, **options), found.name
    with recorder.watching(model):
        return evaluate(model, recorder.passing(loader), **options), found.name


def eval_settings(run: str | None, overrides: Sequence[str]) -> tuple[EvalRecipe, list[str]]:
    """The settings of a run folder with the `--eval.` overrides, and the other overrides."""
    pairs = list(parse_overrides(overrides))
    own = [pair for pair in pairs if pair[0].startswith("eval.")]
    rest = [f"--{key}={text}" for key, text in pairs if not key.startswith("eval.")]
    return with_overrides(
        load_recipe(run).eval if run else EvalRecipe(), own, "eval", "eval."
    ), rest


def eval_batches(dataset: Any, settings: EvalRecipe) -> list[list[int]]:
    """Clips that are read together: as many as fit, with their crops, into one forward pass, but at
    least one.

    Whole frames differ in shape from video to video, so that only clips of one video go together.
    """
    if not settings.full_frame:
        return validation_batches(
            len(dataset), max(1, settings.batch_size // settings.views_per_clip)
        )
    clips = settings.num_views if hasattr(dataset, "views") else len(dataset)
    per_video = [list(range(start, start + clips)) for start in range(0, len(dataset), clips)]
    return [
        video[start : start + settings.batch_size]
        for video in per_video
        for start in range(0, clips, settings.batch_size)
    ]


def _names_of(model: nn.Module) -> list[str] | None:
    names = getattr(model, "class_names", None)
    return None if names is None else list(names)


def prediction_views(name: str, num_views: int) -> tuple[ViewPlan, ViewFusion]:
    """How a prediction looks at a video: the centres of `num_views` clips, taken and fused as the
    run folder `name` says.

    Its crops are left to `vidgraph eval`: an answer for one video should not cost as much as a
    measurement.
    """
    if not (Path(name) / "recipe.yaml").is_file():
        return ViewPlan(clips=num_views), "mean"
    recipe = load_recipe(name)
    settings = EvalRecipe(num_views=num_views, short_side=recipe.eval.short_side)
    return ViewPlan(clips=num_views) if recipe.data.table is None else view_plan(
        recipe.data.table, settings
    ), recipe.eval.fusion
