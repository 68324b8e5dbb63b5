"""How a network is trained: the part `train` of a recipe, and the stages that it may have.

train:
  batch_size: 8
  schedule: step
  drops: [0.9]
  stages:
    - {name: backbone, clips: 800_000, lr: 1.25e-3, freeze: [graph.]}
    - {name: joint, clips: 240_000, lr: 1.25e-4, schedule: constant}
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vidgraph.errors import RecipeError
from vidgraph.typed_values import convert_record

OF_THE_RUN = (
    "seed",
    "device",
    "workers",
    "threads",
    "log_every_seconds",
    "tensorboard",
    "stages",
)  # not of a single stage


@dataclass(frozen=True)
class TrainRecipe:
    """How the network is trained. Lengths are counted in clips, so that they do not depend on the
    batch size.

    Attributes:
        seed: of the initial weights, the order and the random clips.
        clips: training clips in all; or give `epochs`.
        epochs: passes over the training split, for tables.
        batch_size: clips per optimiser step, over all processes together.
        optimizer: `adamw` or `sgd`.
        lr: highest learning rate.
        weight_decay: applied to matrices and kernels, not to biases and norms.
        momentum: of sgd.
        nesterov: of sgd.
        schedule: `constant`, `cosine` down to zero at the last clip, or `step`, which lowers the
            rate at `drops`.
        drops: shares of the length, such as [0.9], after each of which `step` multiplies the rate
            by `drop_factor`.
        drop_factor: of `step`.
        warmup_clips: the rate rises linearly over these.
        clip_norm: largest norm of all gradients together; None for no limit.
        precision: `bf16` (autocast) or `fp32`.
        device: `auto` takes a GPU where there is one.
        workers: processes that prepare clips; 0 prepares them in the training process.
        threads: CPU threads of the training process; None for torch's choice.
        freeze: parameters whose names start with one of these stay as they are.
        freeze_norms: batch norms whose names start with one of these keep their statistics; their
            gains and biases learn.
        lr_factors: {name prefix: factor on the learning rate}.
        val_every_clips: distance of validations.
        checkpoint_every_clips: distance of `last.ckpt` saves.
        log_every_clips: distance of rows in metrics.csv.
        log_every_seconds: distance of progress lines where the output is not a terminal.
        tensorboard: also write TensorBoard events.
        stages: one after the other in one run, each with its own optimiser and schedule: {name,
            clips or epochs, and what else differs from the keys above}. Lengths, `drops` and
            `warmup_clips` are then those of a stage. What a stage freezes learns again in the next.
    """

    seed: int = 0
    clips: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    drops: list[float] = field(default_factory=list)
    drop_factor: float = 0.1
    warmup_clips: int = 0
    clip_norm: float | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 1
    threads: int | None = None
    freeze: list[str] = field(default_factory=list)
    freeze_norms: list[str] = field(default_factory=list)
    lr_factors: dict[str, float] = field(default_factory=dict)
    val_every_clips: int = 10_000
    checkpoint_every_clips: int = 5_000
    log_every_clips: int = 1_600
    log_every_seconds: float = 15.0
    tensorboard: bool = True
    stages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Each value in the type of its field, so that a stage from YAML and the same from the
        # command line are equal.
        object.__setattr__(
            self,
            "stages",
            [
                _typed_stage(self, stage, number)
                for number, stage in enumerate(self.stages, start=1)
            ],
        )
        names = [stage["name"] for stage in self.stages]
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise RecipeError(f"train.stages: two stages are named {twice!r}")


def train_stages(train: TrainRecipe) -> list[tuple[str, TrainRecipe]]:
    """The name of each stage and all that holds in it; without `stages` the whole training, which
    has no name.
    """
    if not train.stages:
        return [("", train)]
    return [
        (stage["name"], replace(train, **{**_without_name(stage), "stages": []}))
        for stage in train.stages
    ]


def check_train(train: TrainRecipe, where: str, has_passes: bool) -> None:
    """What types alone cannot say.

    Args:
        train: of a recipe.
        where: the recipe, for messages.
        has_passes: whether its data have an end, so that `epochs` can be counted.

    Raises:
        RecipeError: a value that makes no sense, or none or two lengths.
    """
    if train.stages and (train.clips, train.epochs) != (None, None):
        example = f"--train.stages.{train.stages[0]['name']}.clips"
        raise RecipeError(
            f"{where}: train.clips and train.epochs are ambiguous beside train.stages; give each "
            f"stage its own, as {example}"
        )
    for name, stage in train_stages(train):
        _check_stage(stage, where, f"train.stages.{name}" if name else "train", has_passes)


def refuse_ambiguous(train: Any, keys: Collection[str]) -> None:
    """Raises RecipeError if an override such as `train.lr` would not reach a stage that has a value
    of its own, and it has no override.

    Args:
        train: keys and values, as a file holds them.
        keys: of all overrides.
    """
    stages = train.get("stages") if isinstance(train, dict) and "train.stages" not in keys else None
    for key in keys:
        name = key.removeprefix("train.")
        own = [
            f"train.stages.{stage.get('name')}.{name}"
            for stage in stages or ()
            if isinstance(stage, dict) and name in stage
        ]
        if name != key and any(better not in keys for better in own):
            words = " and ".join(f"--{better}" for better in own)
            raise RecipeError(f"--{key} is ambiguous, since stages have their own; give {words}")


def _typed_stage(train: TrainRecipe, stage: Any, number: int) -> dict[str, Any]:
    """A stage with its values in the types of their fields."""
    name = stage.get("name") if isinstance(stage, Mapping) else None
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise RecipeError(
            f"train.stages: stage {number} must be keys and values with a name of letters, as "
            f"{{name: joint, clips: 1000}}"
        )
    own, prefix = _without_name(stage), f"train.stages.{name}."
    if wrong := next((key for key in own if key in OF_THE_RUN), None):
        raise RecipeError(
            f"{prefix}{wrong} cannot be of one stage; give train.{wrong}, which is of the whole "
            "training"
        )
    shared = {key: value for key, value in asdict(train).items() if key != "stages"}
    typed = convert_record(TrainRecipe, {**shared, **own}, "the recipe", prefix)
    return {"name": name} | {key: getattr(typed, key) for key in own}


def _without_name(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stage.items() if key != "name"}


def _check_stage(train: TrainRecipe, where: str, prefix: str, has_passes: bool) -> None:
    if (train.clips is None) == (train.epochs is None):
        both = (
            f"; set the other to null, as --{prefix}.epochs null" if train.clips is not None else ""
        )
        raise RecipeError(f"{where}: {prefix} must hold exactly one of clips and epochs{both}")
    if train.epochs is not None and not has_passes:
        raise RecipeError(
            f"{where}: {prefix}.epochs needs data.table; generated clips have no end, so give "
            f"{prefix}.clips"
        )
    above_0 = [
        "clips",
        "epochs",
        "batch_size",
        "lr",
        "val_every_clips",
        "checkpoint_every_clips",
        "log_every_clips",
        "threads",
    ]
    for key in [*above_0, "clip_norm", "drop_factor"]:
        value = getattr(train, key)
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"{where}: {prefix}.{key} must be above 0, got {value}")
    for key in ("weight_decay", "warmup_clips", "workers", "momentum", "log_every_seconds", "seed"):
        if not 0 <= getattr(train, key) < float("inf"):
            raise RecipeError(
                f"{where}: {prefix}.{key} must not be negative, got {getattr(train, key)}"
            )
    for key, most in (("momentum", 1), ("seed", 2**32)):
        if not getattr(train, key) < most:
            raise RecipeError(
                f"{where}: {prefix}.{key} must be below {most:,}, got {getattr(train, key)}"
            )
    rising = all(a < b for a, b in zip([0.0, *train.drops], [*train.drops, 1.0], strict=True))
    if not rising or (train.schedule == "step") != bool(train.drops):
        words = (
            "rising shares between 0 and 1, such as [0.9], with schedule step and empty without it"
        )
        raise RecipeError(
            f"{where}: {prefix}.drops must be {words}, got {train.drops} with {train.schedule}"
        )
