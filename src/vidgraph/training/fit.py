"""Trains a model on a data set, in a run folder. Knows no name of a model or a data set: both
arrive as objects.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from vidgraph.config import TrainRecipe
from vidgraph.errors import RecipeError, RunError
from vidgraph.training.learner import Learner
from vidgraph.training.loaders import (
    ClipLoader,
    ClipSequence,
    Collate,
    PositionBatches,
    killed_worker,
    validation_batches,
)
from vidgraph.training.optim import parameter_groups
from vidgraph.training.routine import SaveWeights, TrainingRoutine
from vidgraph.training.run_folder import CHECKPOINT, check_matches, load_checkpoint
from vidgraph.training.stages import Stage, begin_stage, plan_stages


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        train: map-style data set of `ClipBatch`es (`__getitems__`) or of samples.
        val: the validation split, or None.
        collate: makes a batch of samples; unused where the data sets make batches themselves.
        shuffle: False for generated streams, whose clips come in random order already.
    """

    train: Any
    val: Any | None
    collate: Collate | None = None
    shuffle: bool = True


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        clips_seen: in all, earlier parts of a continued training included.
        best: best validation accuracy or mAP in percent; None without validation.
        seconds: spent in training steps, earlier parts included.
        stopped_by: the signal that stopped it early, or None.
    """

    clips_seen: int
    best: float | None
    seconds: float
    stopped_by: int | None


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def fit(
    model: nn.Module,
    data: TrainingData,
    recipe: TrainRecipe,
    folder: Path,
    save_weights: SaveWeights,
    resume: bool,
) -> FitResult:
    """Trains `model` and leaves `model.safetensors` (best on validation), `metrics.csv` and
    `last.ckpt` in `folder`.

    With stages, each begins where the one before it ended: with its last weights, not its best. So
    the papers train, whose schedules lower the rate until the last weights are as good as any; a
    choice by validation after every stage would choose on the same clips several times; and
    continuing needs one set of weights. The best are chosen within the last stage; until it has
    been validated, the folder holds the best of the stage before.

    Args:
        model: has `spec`; takes `ClipBatch.inputs` and returns logits.
        data: what it learns from.
        recipe: how.
        folder: the run folder, locked by the caller.
        save_weights: writes a model's weights and configuration into a folder.
        resume: continue from `last.ckpt` where there is one.

    Raises:
        RecipeError: the batch cannot be split over the processes, or frozen names do not exist.
        RunError: a loss that is not finite, or a file that cannot be written.
        WeightsError: `last.ckpt` is truncated or of another model.
        VidgraphError: whatever the data set raises.
    """
    _quieten_lightning()
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    stages, learning = (
        plan_stages(recipe, len(data.train)),
        [p for p in model.parameters() if p.requires_grad],
    )
    for stage in stages:  # a fault in a late stage must not show after days
        _check_stage(model, learning, stage)
    checkpoint = _checkpoint_to_continue(model, folder, stages) if resume else None
    done = FitResult(0, None, 0.0, None)
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
        done = FitResult(
            checkpoint["clips_seen"],
            checkpoint["best"][0] if checkpoint["best"] else None,
            checkpoint["seconds"],
            None,
        )
    for stage in stages:
        if done.clips_seen < stage.last and done.stopped_by is None:
            begin_stage(model, learning, stage.recipe)
            within = checkpoint if done.clips_seen > stage.first else None
            done = _fit_stage(model, data, stage, folder, save_weights, done, within)
    return replace(done, stopped_by=done.stopped_by if done.clips_seen < stages[-1].last else None)


def _check_stage(model: nn.Module, learning: Sequence[nn.Parameter], stage: Stage) -> None:
    world_size = process_rank()[1]
    if stage.recipe.batch_size % world_size:
        raise RecipeError(
            f"train.batch_size {stage.recipe.batch_size} cannot be split over {world_size} "
            "processes"
        )
    try:
        begin_stage(model, learning, stage.recipe)
        parameter_groups(model, stage.recipe)
    except RecipeError as error:
        raise RecipeError(f"{stage.place}: {error}") if stage.place else error from error


def _checkpoint_to_continue(
    model: nn.Module, folder: Path, stages: Sequence[Stage]
) -> dict[str, Any] | None:
    if not (folder / CHECKPOINT).exists():
        return None  # killed before the first save: starts from the beginning
    checkpoint = load_checkpoint(folder)
    check_matches(model, checkpoint["model"], folder / CHECKPOINT)
    seen, name = checkpoint["clips_seen"], checkpoint.get("stage", "")
    if not any(stage.name == name and stage.first < seen <= stage.last for stage in stages):
        raise RunError(
            f"{folder / CHECKPOINT}: {seen:,} clips do not lie in stage {name!r} of this "
            "training; start again in another --out"
        )
    return checkpoint


def _fit_stage(
    model: nn.Module,
    data: TrainingData,
    stage: Stage,
    folder: Path,
    save_weights: SaveWeights,
    before: FitResult,
    checkpoint: dict[str, Any] | None,
) -> FitResult:
    """Trains one stage from its beginning, or from a `checkpoint` within it; `before` is how the
    training stands.
    """
    recipe, (rank, world_size) = stage.recipe, process_rank()
    learner = Learner(model, stage, before.clips_seen)
    train_loader, make_val_loader = _loaders(data, recipe, learner.clips_seen, rank, world_size)
    routine = TrainingRoutine(
        folder, train_loader, make_val_loader, save_weights, checkpoint, before.seconds
    )
    torch.manual_seed(
        recipe.seed + 1_000_003 * rank + learner.clips_seen
    )  # dropout; a continued training restores its own state
    try:
        _trainer(recipe, folder, routine, learner).fit(learner, train_loader)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU's memory is full after {learner.clips_seen:,} clips; lower "
            "train.batch_size, or train.device cpu"
        ) from error
    except RuntimeError as error:
        raise killed_worker(error) or error from error
    best = routine.best[0] if routine.best else None
    return FitResult(
        learner.clips_seen, best, before.seconds + routine.report.train_seconds, routine.stopped_by
    )


def _loaders(
    data: TrainingData, recipe: TrainRecipe, first: int, rank: int, world_size: int
) -> tuple[ClipLoader, Callable[[], ClipLoader] | None]:
    pin = accelerator(recipe.device) == "cuda"
    sequence = ClipSequence(data.train, data.collate, data.shuffle, recipe.seed)
    train = ClipLoader(
        sequence, PositionBatches(first, recipe.batch_size, rank, world_size), recipe.workers, pin
    )
    if data.val is None or len(data.val) == 0:
        return train, None
    batches = validation_batches(
        len(data.val), 2 * recipe.batch_size // world_size, rank, world_size
    )
    val_sequence = ClipSequence(data.val, data.collate, shuffle=False, seed=0)
    return train, lambda: ClipLoader(val_sequence, batches, recipe.workers, pin)


def _trainer(
    recipe: TrainRecipe, folder: Path, routine: TrainingRoutine, learner: Learner
) -> L.Trainer:
    """Lightning does device, precision, clipping and processes; what is kept on disk is the
    routine's.
    """
    _, world_size = process_rank()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = accelerator(recipe.device)
    strategy = (
        DDPStrategy(process_group_backend="nccl" if device == "cuda" else "gloo")
        if world_size > 1
        else "auto"
    )
    return L.Trainer(
        accelerator=device,
        devices=local,
        num_nodes=world_size // local,
        strategy=strategy,
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
        max_steps=(learner.stage.last - learner.clips_seen) // recipe.batch_size,
        gradient_clip_val=recipe.clip_norm,
        callbacks=[routine],
        logger=TensorBoardLogger(folder, name="tensorboard", version="")
        if recipe.tensorboard
        else False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )


def accelerator(wanted: str) -> str:
    """`cuda` or `cpu` for `auto`, `cuda` or `cpu`.

    Raises:
        RecipeError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RecipeError("the device is to be cuda, but torch finds no GPU; see vidgraph doctor")
    return "cuda" if available and wanted != "cpu" else "cpu"


def _quieten_lightning() -> None:
    """Its hints are about loaders and loggers that it does not manage here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.(pytorch|fabric).*")
