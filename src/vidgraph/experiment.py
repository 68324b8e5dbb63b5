"""From a recipe to a model, data sets and a run folder: the one place where names become objects.

Training and evaluation receive what is built here and know no names.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from vidgraph.config import (
    DataRecipe,
    EvalRecipe,
    Recipe,
    SyncMnistData,
    TableData,
    first_difference,
    load_recipe,
    parse_overrides,
    save_recipe,
)
from vidgraph.errors import DataError, RecipeError, RunError, nearest
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.models.compat import upgrade_options
from vidgraph.records import InputSpec
from vidgraph.training.fit import FitResult, TrainingData, fit, process_rank
from vidgraph.training.run_folder import CHECKPOINT, run_lock
from vidgraph.training.stages import total_clips
from vidgraph.typed_values import value_of
from vidgraph.util import write_json
from vidgraph.video.views import ViewPlan
from vidgraph.weights import from_pretrained, load_matching, load_state, save_weights

VALIDATION_SEED, TEST_SEED = 20_190_411, 20_190_412  # of generated clips: the same for every row
# without becoming another training; that the digits are the same ones is held by their fingerprint
MAY_CHANGE = (
    *("source", "published", "data.syncmnist.digits", "data.syncmnist.test_paths"),
    *(
        "train.workers",
        "train.threads",
        "train.device",
        "train.log_every_seconds",
        "train.tensorboard",
    ),
)


@dataclass(frozen=True)
class Experiment:
    """A recipe made real.

    Attributes:
        recipe: what was asked for.
        model: with fresh or initial weights, and the data's class names.
        data: what it is trained and validated on.
        fingerprint: what `data.json` says about the data.
        notes: what a person should know, such as tensors that initial weights did not fill.
    """

    recipe: Recipe
    model: nn.Module
    data: TrainingData
    fingerprint: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class ScoredData:
    """A split to be scored: its data set, and how many of its samples a skip list leaves out."""

    dataset: Any
    collate: Any
    class_names: list[str]
    skipped: int
    name: str


def prepare(recipe: Recipe, continued: bool = False) -> Experiment:
    """Builds the model and its training and validation data.

    Args:
        recipe: what is trained on what.
        continued: a checkpoint holds the weights, so that the initial ones are not read; they need
            not be there any more.

    Raises:
        VidgraphError: names, options or files in the recipe that do not exist or do not fit
            together.
    """
    import torch

    torch.manual_seed(recipe.train.seed)  # the initial weights
    if recipe.data.syncmnist is not None:
        return _prepare_syncmnist(recipe, recipe.data.syncmnist, continued)
    assert recipe.data.table is not None
    return _prepare_table(recipe, recipe.data.table, continued)


def default_folder(name: str, recipe: Recipe) -> Path:
    """Where a training goes without `--out`: back into the run folder that was named, else
    `runs/RECIPE-ROW`.
    """
    return (
        Path(name)
        if (Path(name) / "recipe.yaml").is_file()
        else Path("runs") / recipe.title.replace(":", "-")
    )


def train_recipe(recipe: Recipe, folder: Path, resume: bool = False) -> FitResult:
    """Trains a recipe in a run folder.

    Raises:
        RunError: the folder is in use, holds another training, or cannot be written.
        WeightsError: the weights of a finished training are damaged.
        VidgraphError: whatever in the recipe or the data is not usable.
    """
    rank, _ = process_rank()
    with run_lock(folder) if rank == 0 else nullcontext():
        _check_folder(recipe, folder, resume)
        experiment = prepare(recipe, continued=resume and (folder / CHECKPOINT).exists())
        if rank == 0:
            _open_folder(experiment, folder, resume)
        result = fit(experiment.model, experiment.data, recipe.train, folder, save_weights, resume)
    if resume and rank == 0 and result.stopped_by is None:
        from_pretrained(folder)  # what was finished long ago may have been damaged since
    return result


def scored_data(
    data: DataRecipe,
    spec: InputSpec,
    class_names: Sequence[str] | None,
    split: str,
    settings: EvalRecipe | None = None,
) -> ScoredData:
    """One split of a recipe's data, made for a model's input.

    Args:
        data: where the data are.
        spec: what the model eats.
        class_names: the model's classes, in its order; None for the data's own.
        split: `train`, `val` or `test`.
        settings: which views of each video; None for one clip and its centre. Generated clips have
            one view.

    Raises:
        VidgraphError: the data cannot be read, or their labels are not among the model's classes.
    """
    if data.syncmnist is not None:
        dataset = _syncmnist_split(data.syncmnist, split)
        _check_fits(dataset, spec)
        if class_names is not None and list(class_names) != list(dataset.class_names):
            raise DataError(
                f"the model's {len(class_names)} classes are not the {len(dataset.class_names)} "
                f"of {_syncmnist_name(data.syncmnist, split)}"
            )
        return ScoredData(
            dataset, None, list(dataset.class_names), 0, _syncmnist_name(data.syncmnist, split)
        )
    assert data.table is not None
    from vidgraph.data.clips import ClipDataset

    table, skip = _read_table(data.table)
    if class_names is not None:
        table = table.with_class_names(class_names)
    names = {
        "train": data.table.train_split,
        "val": data.table.val_split,
        "test": data.table.test_split,
    }
    views = view_plan(data.table, settings or EvalRecipe())
    stores: dict[str, Any] = {
        "boxes": _box_store(data.table, spec),
        "flow": _flow_source(data.table, spec),
    }
    dataset = ClipDataset(
        table, names.get(split, split), spec, train=False, skip=skip, views=views, **stores
    )
    return ScoredData(
        dataset,
        dataset.collate,
        dataset.class_names,
        dataset.skipped,
        f"{data.table.path} ({names.get(split, split)})",
    )


# ---- model ---------------------------------------------------------------------------------------


def _build_model(
    recipe: Recipe, class_names: Sequence[str], continued: bool
) -> tuple[VideoModel, list[str]]:
    """The model with its initial weights, unless it is continued, and what they did not fill."""
    name, overrides = upgrade_options(recipe.model.architecture, recipe.model.options)
    model = create_model(name, class_names=list(class_names), **overrides)
    source = recipe.model.initial_weights
    if source is None or continued:
        return model, []
    report = load_matching(model, load_state(source))
    groups = (
        ("start anew", [*report.missing, *report.skipped_shape]),
        ("in the file but not used", report.unexpected),
    )
    rest = "".join(f"; {what}: {_by_module(names)}" for what, names in groups if names)
    return model, [f"initial weights {source}: {len(report.loaded)} tensors loaded{rest}"]


def _by_module(names: Sequence[str]) -> str:
    """`classifier (2), graph (24)`: how many tensors under each first name."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{module} ({count})" for module, count in counts.items())


# ---- synchronous digits --------------------------------------------------------------------------


def _prepare_syncmnist(recipe: Recipe, data: SyncMnistData, continued: bool) -> Experiment:
    from vidgraph.data.digits import load_digits

    digits = load_digits(data.digits, "train")
    train = _stream(data, digits, total_clips(recipe.train, 0), recipe.train.seed)
    val = _syncmnist_split(data, "val") if data.val_clips else None
    model, notes = _build_model(recipe, train.class_names, continued)
    _check_fits(train, cast(InputSpec, model.spec))
    content = hashlib.sha256(digits.images.tobytes() + digits.labels.tobytes()).hexdigest()
    fingerprint = {"files": len(digits), "missing": 0, "skipped": 0, "sha256": content}
    return Experiment(recipe, model, TrainingData(train, val, shuffle=False), fingerprint, notes)


def _syncmnist_split(data: SyncMnistData, split: str) -> Any:
    from vidgraph.data.digits import load_digits
    from vidgraph.data.syncmnist import load_test_set

    if split == "train":
        return _stream(data, load_digits(data.digits, "train"), 10_000, 0)
    if split == "val":
        return _stream(data, load_digits(data.digits, "val"), data.val_clips, VALIDATION_SEED)
    if split != "test":
        raise RecipeError(
            f"synchronous digits have no split {split!r}{nearest(split, ('train', 'val', 'test'))}"
        )
    num_clips = data.test_clips or 10_000
    if _is_published(data):
        return load_test_set(data.num_digits, data.digits, data.test_paths, num_clips)
    return _stream(data, load_digits(data.digits, "test"), num_clips, TEST_SEED)


def _is_published(data: SyncMnistData) -> bool:
    """Whether the test set is the authors'; variants of the task are tested on generated clips of
    the test digits.
    """
    as_released = (
        data.classes is None
        and data.no_sync_probability is None
        and not data.shuffle_layers
        and data.num_frames == 10
    )
    return as_released and data.task == "sync" and data.digits != "embedded"


def _stream(data: SyncMnistData, digits: Any, num_clips: int, seed: int) -> Any:
    from vidgraph.data.syncmnist import DigitStream, SyncMnistStream

    if data.task == "digit":
        return DigitStream(digits, num_clips, seed, data.num_digits)
    options: dict[str, Any] = {"num_frames": data.num_frames, "shuffle_layers": data.shuffle_layers}
    if data.classes is not None:
        options["classes"] = data.classes
    if data.no_sync_probability is not None:
        options["no_sync_probability"] = data.no_sync_probability
    return SyncMnistStream(digits, data.num_digits, num_clips, seed, **options)


def _check_fits(dataset: Any, spec: InputSpec) -> None:
    """Generated clips have one size; a model for another must not meet them."""
    made, eaten = (
        tuple(dataset[0].video.shape[1:]),
        (spec.channels, spec.num_frames, spec.height, spec.width),
    )
    if made != eaten:
        raise RecipeError(
            f"the model takes clips of {_shape(eaten)}; the synchronous digits are clips of "
            f"{_shape(made)}"
        )


def _shape(sizes: tuple[int, ...]) -> str:
    channels, num_frames, height, width = sizes
    return f"{num_frames} frames of {height}x{width} pixels in {'luma' if channels == 1 else 'RGB'}"


def _syncmnist_name(data: SyncMnistData, split: str) -> str:
    what = "single digits" if data.task == "digit" else f"{data.num_digits} synchronous digits"
    return f"{what} ({split}, digits: {data.digits})"


# ---- tables --------------------------------------------------------------------------------------


def _prepare_table(recipe: Recipe, data: TableData, continued: bool) -> Experiment:
    from vidgraph.data.clips import ClipDataset

    table, skip = _read_table(data)
    model, notes = _build_model(recipe, table.class_names, continued)
    model.multi_label = table.multi_label  # kept with the weights
    spec = cast(InputSpec, model.spec)
    views = view_plan(
        data, EvalRecipe(short_side=recipe.eval.short_side)
    )  # one clip and its centre, at the size that is scored later
    short_side = (data.short_side[0], data.short_side[-1]) if data.short_side else None
    draws: dict[str, Any] = {
        "flip": data.flip,
        "short_side": short_side,
        "brightness": data.brightness,
        "crop_scales": data.crop_scales,
    }
    common: dict[str, Any] = {
        "skip": skip,
        "views": views,
        "boxes": _box_store(data, spec),
        "flow": _flow_source(data, spec),
    }
    draws["intervals"] = _read_intervals(data, table)
    train = ClipDataset(
        table, data.train_split, spec, train=True, seed=recipe.train.seed, **common, **draws
    )
    val = (
        ClipDataset(table, data.val_split, spec, train=False, **common)
        if data.val_split in table.splits
        else None
    )
    notes += list(table.notes)
    if kept := train.never_flipped:
        notes.append(
            "never mirrored, for left and right tell no other class apart from them: "
            f"{', '.join(kept)}"
        )
    for key, store, takes in (
        ("boxes", data.boxes, spec.boxes_per_frame),
        ("flow", data.flow, spec.flow_length),
    ):
        if store is not None and not takes:
            notes.append(
                f"{recipe.model.architecture} takes no {key}: data.table.{key} {store} is not read"
            )
    if val is None:
        notes.append(
            f"{data.path} has no split {data.val_split!r}: the weights of the last clip will be "
            "kept, not the best on validation"
        )
    if train.skipped:
        notes.append(
            f"the skip list leaves out {train.skipped} of {train.skipped + len(train)} training "
            "rows"
        )
    fingerprint = table.fingerprint(skip)
    if common["boxes"] is not None:
        fingerprint["boxes"] = common["boxes"].method.to_dict()
    if common["flow"] is not None:
        fingerprint["flow"] = common["flow"].method_dict()
    if draws["intervals"] is not None:
        fingerprint["intervals"] = draws["intervals"].sha256
    return Experiment(recipe, model, TrainingData(train, val, train.collate), fingerprint, notes)


def view_plan(data: TableData, settings: EvalRecipe) -> ViewPlan:
    """What a recipe says of the views of a video."""
    return ViewPlan(
        clips=settings.num_views,
        crops=settings.crops,
        full_frame=settings.full_frame,
        short_side=settings.short_side,
        crop_size=settings.crop_size,
        past_end=data.past_end,
        spread=data.spread,
        folder_fps=data.folder_fps,
        crop_places=settings.crop_places,
        mirrored=settings.mirrored,
        snippet_interval=settings.snippet_interval,
    )


def _read_intervals(data: TableData, table: Any) -> Any:
    """When which action happens, if training clips are labelled with what they show."""
    if data.intervals is None or data.label_scope == "video":
        return None
    from vidgraph.data.intervals import load_intervals

    return load_intervals(data.intervals, table)


def _box_store(data: TableData, spec: InputSpec) -> Any:
    """The store of boxes, if the model takes boxes and one is named."""
    if not spec.boxes_per_frame or data.boxes is None:
        return None
    from vidgraph.precompute.store import BoxStore

    return BoxStore(data.boxes)


def _flow_source(data: TableData, spec: InputSpec) -> Any:
    """The optical flow, if the model takes it and a store of it, or `live`, is named."""
    if not spec.flow_length or data.flow is None:
        return None
    from vidgraph.data.flow_source import open_video_flow

    return open_video_flow(data.flow, data.flow_bound)


def _read_table(data: TableData) -> tuple[Any, Any]:
    from vidgraph.data.table import load_table

    table = load_table(data.path, data.columns or None, multi_label=data.intervals is not None)
    if data.skip_list is None:
        return table, frozenset()
    from vidgraph.data.check import read_skip_list

    return table, read_skip_list(data.skip_list)


# ---- run folder ----------------------------------------------------------------------------------


def _check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """A folder that holds another training is not overwritten, and another training is not
    continued.
    """
    stored = folder / "recipe.yaml"
    if not resume:
        if (folder / CHECKPOINT).exists():
            raise RunError(
                f"{folder} already holds a training; add --resume to continue it, or choose "
                "another --out"
            )
        return
    if not stored.exists():
        raise RunError(f"{folder} holds no training to resume (no recipe.yaml); leave out --resume")
    difference = first_difference(load_recipe(str(folder)), recipe, MAY_CHANGE)
    if difference is not None:
        raise RunError(
            f"{folder} was trained with another recipe: {difference}; choose another --out, or "
            "resume it as it was"
        )


def _open_folder(experiment: Experiment, folder: Path, resume: bool) -> None:
    """Writes what was asked for and what the data are, and says what a person should know."""
    data_file = folder / "data.json"
    if resume and data_file.exists():
        try:
            before = json.loads(data_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{data_file} cannot be read ({error}); start again in another --out"
            ) from error
        if before != experiment.fingerprint:
            raise RunError(
                f"the data are not those that {folder} was trained on (see {data_file}); start "
                "again in another --out"
            )
    for leftover in folder.glob(".*.partial*"):  # of a process that was killed while it wrote
        leftover.unlink()
    save_recipe(experiment.recipe, folder / "recipe.yaml")
    write_json(data_file, experiment.fingerprint)
    clips = total_clips(experiment.recipe.train, len(experiment.data.train))
    num_parameters = sum(p.numel() for p in experiment.model.parameters())
    print(
        f"{experiment.recipe.title}: {num_parameters / 1e6:.2f} M parameters, {clips:,} clips, in "
        f"{folder}",
        flush=True,
    )
    for note in experiment.notes:
        print(note, flush=True)


# ---- options -------------------------------------------------------------------------------------


def model_options(overrides: Sequence[str]) -> dict[str, Any]:
    """The options of an architecture in `--model.options.width 64 ...`.

    Raises:
        RecipeError: another override.
    """
    options = {}
    for key, text in parse_overrides(overrides):
        name = key.removeprefix("model.options.")
        if name == key or "." in name:
            raise RecipeError(
                f"--{key} is not an option of a model; write --model.options.NAME VALUE"
            )
        options[name] = value_of(text)
    return options
