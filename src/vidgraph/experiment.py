"""A recipe made real: data, model, run folder, training and scoring.

The rooms of training and evaluation receive what is built here and know no names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vidgraph import config
from vidgraph.config import Recipe, load_recipe
from vidgraph.data.options import DataOptions
from vidgraph.data.splits import ScoredSplit, TrainingSplits, open_source
from vidgraph.encoders import method_of
from vidgraph.errors import RecipeError, RunError
from vidgraph.evaluation.inference import eval_batches, evaluate, read_batches
from vidgraph.evaluation.metrics import Scores
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.models.matching import load_matching
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.features import CropStore, FeatureStore
from vidgraph.util import available_cores, choose_device, torch_threads, write_json
from vidgraph.video.views import ViewPlan
from vidgraph.weights import TRAINED_BY, from_pretrained, load_state, save_weights

if TYPE_CHECKING:
    from vidgraph.training.loop import Progress

# Without becoming another training; that the digits are the same is held by their fingerprint.
MAY_CHANGE = (
    *("source", "published", "data.syncmnist.digits", "data.syncmnist.test_paths"),
    *("train.workers", "train.threads", "train.device", "train.log_every_seconds"),
    "train.tensorboard",
)


@dataclass(frozen=True)
class Experiment:
    """What a recipe asks for."""

    recipe: Recipe
    model: VideoModel  # with fresh or initial weights, and the data's class names
    data: TrainingSplits
    notes: list[str]  # such as tensors that initial weights did not fill


def prepare(recipe: Recipe, continued: bool = False) -> Experiment:
    """Builds the model and opens its training and validation data. Where a training is continued,
    its checkpoint holds the weights, and the initial ones need not be there any more.
    """
    from vidgraph.training.phases import plan_phases

    torch.manual_seed(recipe.train.seed)  # the initial weights
    source = open_source(recipe.data)
    options, known = recipe.model.options, (None, source.class_names)
    parts = {name: getattr(options, name) for name in options.__dataclass_fields__}
    model = create_model(recipe.model.name, *known, multi_label=source.multi_label, **parts)
    _check_features(recipe.data, model)
    notes = [] if continued else _load_initial(model, recipe.model.initial_weights)
    num_clips = 0 if recipe.data.table else plan_phases(recipe.train, 0)[-1].last
    data = source.training(model.spec, recipe.eval, num_clips, recipe.train.seed)
    return Experiment(recipe, model, data, [*notes, *data.notes])


def _check_features(data: DataOptions, model: VideoModel) -> None:
    """Maps in a store stand for the model's own only where its backbone would make the same."""
    table = data.table
    if table is None or table.features is None:
        return
    FeatureStore(table.features).check(method_of(model))
    if model.spec.box_crops and table.box_crops and table.boxes:
        CropStore(table.box_crops).check(method_of(model, BoxStore(table.boxes).method))


def _load_initial(model: VideoModel, source: str | None) -> list[str]:
    """Loads initial weights and says what they did not fill, as `head.graph (24)`."""
    if source is None:
        return []
    report = load_matching(model, load_state(source))
    anew = [*report.missing, *report.skipped_shape]
    groups = {  # the normalisation is the recipe's own
        "start anew": [name for name in anew if not name.startswith("normalize.")],
        "in the file but not used": report.unexpected,
    }
    note = f"initial weights {source}: {len(report.loaded)} tensors loaded"
    for what, names in groups.items():
        modules = Counter(".".join(name.split(".")[:2]) for name in names)
        told = ", ".join(f"{module} ({count})" for module, count in modules.items())
        note += f"; {what}: {told}" if told else ""
    return [note]


# ---- training ------------------------------------------------------------------------------------


def default_folder(name: str, recipe: Recipe) -> Path:
    """Without `--out`: back into the run folder that was named, else `runs/RECIPE-ROW`."""
    is_run = (Path(name) / "recipe.yaml").is_file()
    return Path(name) if is_run else Path("runs") / recipe.title.replace(":", "-")


def train_recipe(recipe: Recipe, folder: Path, resume: bool = False) -> Progress:
    """Trains a recipe in a run folder.

    Raises:
        RunError: the folder is in use, holds another training, or cannot be written.
        WeightsError: the weights of a finished training are damaged.
        VidgraphError: whatever in the recipe or the data is not usable.
    """
    from vidgraph.training.checkpoint import CHECKPOINT, run_lock
    from vidgraph.training.loop import fit, process_rank

    rank, _ = process_rank()
    with run_lock(folder) if rank == 0 else nullcontext():
        _check_folder(recipe, folder, resume, CHECKPOINT)
        experiment = prepare(recipe, continued=resume and (folder / CHECKPOINT).exists())
        if rank == 0:
            _open_folder(experiment, folder, resume)
        result = fit(experiment.model, experiment.data, recipe.train, folder, save_weights, resume)
    if resume and rank == 0 and result.stopped_by is None:
        from_pretrained(folder)  # what was finished long ago may have been damaged since
    return result


def _check_folder(recipe: Recipe, folder: Path, resume: bool, checkpoint: str) -> None:
    """Another training is neither overwritten nor continued."""
    stored = folder / "recipe.yaml"
    if not resume:
        if (folder / checkpoint).exists():
            how = "add --resume to continue it, or choose another --out"
            raise RunError(f"{folder} already holds a training; {how}")
        return
    if not stored.exists():
        raise RunError(f"{folder} holds no training to resume (no recipe.yaml); leave out --resume")
    difference = config.first_difference(load_recipe(folder), recipe, MAY_CHANGE)
    if difference is not None:
        what = f"was trained with another recipe: {difference}"
        raise RunError(f"{folder} {what}; choose another --out, or resume it as it was")


def _open_folder(experiment: Experiment, folder: Path, resume: bool) -> None:
    """Writes what was asked for and what the data are, and says what a person should know."""
    from vidgraph.training.phases import plan_phases

    data_file = folder / "data.json"
    if resume and data_file.exists():
        try:
            before = json.loads(data_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            what = f"{data_file} cannot be read ({error})"
            raise RunError(f"{what}; start again in another --out") from error
        if before != experiment.data.fingerprint:
            what = f"the data are not those that {folder} was trained on (see {data_file})"
            raise RunError(f"{what}; start again in another --out")
    for leftover in folder.glob(".*.partial*"):  # of a process that was killed while it wrote
        leftover.unlink()
    config.save_recipe(experiment.recipe, folder / "recipe.yaml")
    write_json(data_file, experiment.data.fingerprint)
    recipe, data = experiment.recipe, experiment.data
    clips = plan_phases(recipe.train, len(data.train))[-1].last  # type: ignore[arg-type]
    millions = sum(p.numel() for p in experiment.model.parameters()) / 1e6
    title = f"{recipe.title}: {millions:.2f} M parameters, {clips:,} clips, in {folder}"
    print(title, *experiment.notes, sep="\n", flush=True)


# ---- scoring -------------------------------------------------------------------------------------


def score_model(
    name: str,
    data: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    split: str = "test",
    *,
    device: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Scores, str]:
    """Scores saved weights on a split; returns the scores and what they were measured on.

    Args:
        name: what `from_pretrained` takes.
        data: a recipe, table or folder; None for what a run folder or shipped weights were trained
            on.
        overrides: of the data and of the views, as `{"data.syncmnist.digits": "embedded",
            "eval.crops": 3}`.
        split: `train`, `val` or `test`.
        device: `cpu`, `cuda`, or None for a GPU if there is one.
        workers: processes that read clips; None: one per core.
        progress: called with (clips done, clips in all).

    Raises:
        VidgraphError: weights or data that do not exist or do not fit together.
    """
    model, found, views = open_split(name, data, overrides or {}, split)
    batches = eval_batches(found.dataset, views)
    total = sum(map(len, batches)) * views.views_per_clip
    workers, done = available_cores() if workers is None else workers, 0
    torch.set_num_threads(torch_threads(model))

    def count(num_clips: int) -> None:
        nonlocal done
        done += num_clips
        progress(done, total)

    scores = evaluate(
        model,
        read_batches(found.dataset, batches, workers),
        class_names=found.class_names,
        skipped=found.skipped,
        fusion=views.fusion,
        batch_size=views.batch_size,
        device=choose_device(device),
        progress=count,
    )
    return scores, found.title


def open_split(
    name: str, data: str | None, overrides: Mapping[str, Any], split: str
) -> tuple[VideoModel, ScoredSplit, ViewPlan]:
    """Saved weights, the split that they are to be scored on, and the views taken of it."""
    model = from_pretrained(name)  # first, so that a misspelt name is called that
    is_run = (Path(name) / "recipe.yaml").is_file()
    data = data or TRAINED_BY.get(name)
    if data is None and not is_run:
        how = "add --data RECIPE, TABLE or FOLDER"
        raise RecipeError(f"{name} does not say what it was trained on; {how}")
    views = config.load_views(name if is_run else None, overrides)
    rest = {key: value for key, value in overrides.items() if not key.startswith("eval.")}
    source = open_source(config.load_data(data or name, rest), model.class_names)
    return model, source.scored(split, model.spec, views), views
