"""How a network is trained: the part `train` of a recipe, and the phases that a training may have.

train:
  batch_size: 8
  schedule: step
  drops: [0.9]
  phases:
    - {name: backbone, clips: 800_000, lr: 1.25e-3, freeze: [head.]}
    - {name: joint, clips: 240_000, lr: 1.25e-4, schedule: constant, drops: []}
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from vidgraph.errors import RecipeError
from vidgraph.records import Positive, Share, options, validated

AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@options
class PhaseOptions:
    """How one phase trains; lengths are in clips, whatever the batch size.

    Attributes:
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
        freeze: parameters whose names start with one of these stay as they are.
        learn_from: of the backbone that such a name is in, what stands before it stays as it is;
            [backbone.layer3.] trains a ResNet from its third stage on.
        freeze_norms: batch norms whose names start with one of these keep their statistics; their
            gains and biases learn.
        lr_factors: {name prefix: factor on the learning rate}.
        layer_decay: factor on the rate of a backbone's last layer, its square on the layer before,
            and so on. A layer is what the first numbers in names of parameters count, such as
            `blocks.3.1.`, or what stands between two of these.
        val_every_clips: distance of validations.
        checkpoint_every_clips: distance of `last.ckpt` saves.
        log_every_clips: distance of rows in metrics.csv.
    """

    clips: Positive | None = None
    epochs: AboveZero | None = None
    batch_size: Positive = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: AboveZero = 1e-3
    weight_decay: NotNegative = 0.0
    momentum: Share = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    drops: list[float] = field(default_factory=list)
    drop_factor: AboveZero = 0.1
    warmup_clips: Count = 0
    clip_norm: AboveZero | None = None
    freeze: list[str] = field(default_factory=list)
    learn_from: list[str] = field(default_factory=list)
    freeze_norms: list[str] = field(default_factory=list)
    lr_factors: dict[str, float] = field(default_factory=dict)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    val_every_clips: Positive = 10_000
    checkpoint_every_clips: Positive = 5_000
    log_every_clips: Positive = 1_600

    def __post_init__(self) -> None:
        rising = sorted({0.0, *self.drops, 1.0}) == [0.0, *self.drops, 1.0]
        if not rising or (self.schedule == "step") != bool(self.drops):
            raise RecipeError(
                "drops must be rising shares between 0 and 1, such as [0.9], with schedule step "
                f"and empty without it, not {self.drops} with {self.schedule}"
            )


@options
class TrainOptions(PhaseOptions):
    """How the network is trained: what its phases share, and what is of the whole training.

    Attributes:
        seed: of the initial weights, the order and the random clips.
        precision: `bf16` (autocast) or `fp32`.
        device: `auto` takes a GPU where there is one.
        workers: processes that prepare clips; 0 prepares them in the training process.
        threads: CPU threads of the training process; None for `vidgraph.util.torch_threads`.
        log_every_seconds: distance of progress lines where the output is not a terminal.
        tensorboard: also write TensorBoard events.
        phases: one after the other in one run, each with its own optimiser and schedule: {name,
            clips or epochs, and what else differs from the keys of `PhaseOptions` here}. Lengths,
            `drops` and `warmup_clips` are then those of a phase. What a phase freezes learns again
            in the next.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Count = 1
    threads: Positive | None = None
    log_every_seconds: NotNegative = 15.0
    tensorboard: bool = True
    phases: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.phases:
            super().__post_init__()
            return
        names = [str(phase.get("name", "")) for phase in self.phases]
        if not all(map(str.isidentifier, names)) or len(set(names)) < len(names):
            raise RecipeError(
                "train.phases: each phase needs a name of its own, of letters and digits, as "
                f"{{name: joint, clips: 1000}}; they are {names}"
            )
        # Each value in the type of its field: equal whether from YAML or from the command line.
        typed = [
            {"name": name} | {key: getattr(full, key) for key in phase if key != "name"}
            for phase, (name, full) in zip(self.phases, named_phases(self), strict=True)
        ]
        object.__setattr__(self, "phases", typed)

    def check_lengths(self, where: str, has_epochs: bool) -> None:
        """Raises RecipeError unless each phase has exactly one length that can be counted."""
        for name, phase in named_phases(self):
            key = f"train.phases.{name}" if name else "train"
            if (phase.clips is None) == (phase.epochs is None):
                raise RecipeError(
                    f"{where}: {key} must hold exactly one of clips and epochs; the other is null, "
                    f"as in --{key}.epochs null"
                )
            if phase.epochs is not None and not has_epochs:
                raise RecipeError(
                    f"{where}: generated clips have no end, so give {key}.clips, not epochs"
                )


class Phase(NamedTuple):
    """A part of a training with its own optimiser and schedule; most have one, unnamed."""

    name: str  # as the recipe has it; empty for a training without phases
    options: PhaseOptions
    first: int  # clips of the whole training before it
    last: int  # and at its end
    title: str  # such as "phase 2 of 3, joint"; empty without a name


def named_phases(train: TrainOptions) -> list[tuple[str, PhaseOptions]]:
    """The name of each phase and all that holds in it; the whole training has no name."""
    if not train.phases:
        return [("", train)]
    shared = {item.name: getattr(train, item.name) for item in fields(PhaseOptions)}
    of_the_run = {item.name for item in fields(TrainOptions)} - shared.keys()
    found = []
    for phase in train.phases:
        name, own = phase["name"], {key: phase[key] for key in phase if key != "name"}
        if wrong := next((key for key in own if key in of_the_run), None):
            raise RecipeError(
                f"train.phases.{name}.{wrong} cannot be of one phase; give train.{wrong}, which is "
                "of the whole training"
            )
        content, prefix = {**shared, **own}, f"train.phases.{name}."
        found.append((name, validated(PhaseOptions, content, f"phase {name}", prefix)))
    return found


def plan_phases(train: TrainOptions, num_train: int) -> list[Phase]:
    """The phases in their order, in whole batches; `num_train` clips are one epoch."""
    named, plan, first = named_phases(train), list[Phase](), 0
    for number, (name, phase) in enumerate(named, start=1):
        length = phase.clips if phase.clips is not None else (phase.epochs or 0) * num_train
        last = first + math.ceil(length / phase.batch_size) * phase.batch_size
        title = f"phase {number} of {len(named)}, {name}" if name else ""
        plan.append(Phase(name, phase, first, last, title))
        first = last
    return plan


def check_phases(train: Any, overrides: Collection[str]) -> None:
    """Raises RecipeError if an override such as `train.lr` would not reach every phase of `train`,
    which is as a recipe file holds it, for phases that have their own."""
    phases = train.get("phases") if isinstance(train, Mapping) else None
    if not isinstance(phases, list) or "train.phases" in overrides:
        return
    for key in (key for key in overrides if key.startswith("train.")):
        name = key.removeprefix("train.")
        named = (phase for phase in phases if isinstance(phase, Mapping) and name in phase)
        own = [f"train.phases.{phase.get('name')}.{name}" for phase in named]
        if not set(own) <= set(overrides):
            words = " and ".join(f"--{better}" for better in own)
            raise RecipeError(f"--{key} is ambiguous, since phases have their own; give {words}")
