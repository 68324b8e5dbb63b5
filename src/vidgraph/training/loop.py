"""Trains a model on a data set, in a run folder. Knows neither by name: both arrive as objects.

What a step draws is decided by its position alone: the clips by `batches`, the random numbers by a
seed made of the recipe's, the process and the clips seen before. So a training that continues needs
no random states, and each of several processes goes on as it would have.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from vidgraph.errors import RecipeError, RunError, WeightsError
from vidgraph.evaluation.inference import bf16_runs, one_line_errors, read_batches, split_rows
from vidgraph.records import ClipBatch
from vidgraph.training.batches import ClipSequence, position_batches
from vidgraph.training.checkpoint import CHECKPOINT, MetricsFile, load_checkpoint, save_checkpoint
from vidgraph.training.losses import training_loss, validate
from vidgraph.training.optim import begin_phase, build_optimizer, schedule_factor, set_rate
from vidgraph.training.phases import Phase, TrainOptions, plan_phases
from vidgraph.util import choose_device, counter, duration, torch_threads

SaveWeights = Callable[[Any, Path], None]
_STEPS_TO_A_STOP = 10  # at most, where several processes have to agree on it


@dataclass
class Progress:
    """Where a training stands; `last.ckpt` keeps it."""

    clips_seen: int = 0
    seconds: float = 0.0  # spent in training steps
    best: float | None = None  # validation accuracy or mAP of the phase in percent
    best_loss: float = math.inf  # of that validation
    phase: str = ""  # name of the current one
    steps: int = 0  # since the last row of metrics.csv
    sums: tuple[float, float] = (0.0, 0.0)  # of loss and right clips in these, all processes'
    stopped_by: int | None = None  # the signal that stopped it early


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def fit(
    model: nn.Module,
    data: Any,
    options: TrainOptions,
    folder: Path,
    save_weights: SaveWeights,
    resume: bool,
) -> Progress:
    """Trains a `VideoModel`; leaves what `save_weights` writes, `metrics.csv` and `last.ckpt` in
    `folder`, which the caller has locked. With `resume` it goes on from a `last.ckpt` there.

    Each phase begins with the last weights of the one before it, not with its best. So the papers
    train, whose schedules lower the rate until the last weights are as good as any; a choice by
    validation after every phase would choose on the same clips several times; and continuing needs
    one set of weights. The best are chosen within the last phase; until it has been validated, the
    folder holds the best of the phase before.

    `data` has `train`, as `ClipSequence` takes it, `val`, which may be None, and whether to
    `shuffle`, which generated clips do not need.
    """
    torch.set_num_threads(options.threads or torch_threads(model))
    phases = plan_phases(options, len(data.train))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for phase in phases:  # a fault in a late phase must not show after days
        _check_phase(model, learning, phase)
    progress, optimizer_state = Progress(), None
    if resume and (folder / CHECKPOINT).exists():  # else killed before the first save
        progress, optimizer_state = _restore(model, folder)
    total_clips = phases[-1].last
    with _stop_on_signal() as stop, one_line_errors():
        trainer = _Trainer(model, data, options, folder, save_weights, progress, total_clips, stop)
        for phase in phases:
            if progress.clips_seen < phase.last and not stop:
                begin_phase(model, learning, phase.options)
                within = progress.clips_seen > phase.first
                trainer.run(phase, optimizer_state if within else None)
    progress.stopped_by = stop[0] if stop and progress.clips_seen < total_clips else None
    return progress


def _check_phase(model: nn.Module, learning: list[nn.Parameter], phase: Phase) -> None:
    batch_size, world_size = phase.options.batch_size, process_rank()[1]
    if batch_size % world_size:
        message = f"train.batch_size {batch_size} cannot be split over {world_size} processes"
        raise RecipeError(message)
    try:
        begin_phase(model, learning, phase.options)
        build_optimizer(model, phase.options)
    except RecipeError as error:
        raise RecipeError(f"{phase.title}: {error}") if phase.title else error from error


def _restore(model: nn.Module, folder: Path) -> tuple[Progress, Any]:
    """The progress in `last.ckpt` and the state of its optimiser; the model takes its weights."""
    checkpoint = load_checkpoint(folder)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        path = folder / CHECKPOINT
        raise WeightsError(f"{path} is of another model; start again in another --out") from error
    return Progress(**checkpoint["progress"]), checkpoint["optimizer"]


@dataclass
class _Trainer:
    """Trains one phase after the other and keeps the run folder up to date."""

    model: Any
    data: Any
    options: TrainOptions
    folder: Path
    save_weights: SaveWeights
    progress: Progress
    total_clips: int
    stop: list[int]

    def __post_init__(self) -> None:
        self.fabric, progress = _fabric(self.options, self.folder), self.progress
        self.rank, self.world_size = self.fabric.global_rank, self.fabric.world_size
        self.is_first, self.metrics, seen = self.rank == 0, None, progress.clips_seen
        self.model.to(self.fabric.device)
        if self.is_first and seen < self.total_clips:
            self.metrics = MetricsFile(self.folder, seen)
            if seen:
                print(f"continues at {seen:,} of {self.total_clips:,} clips", flush=True)
        # Added up where the model runs and read where they are shown, for reading waits for a GPU.
        own = progress.sums if self.is_first else (0.0, 0.0)
        self.sums = torch.tensor(own, dtype=torch.float64, device=self.fabric.device)
        self.waited = 0.0  # seconds for data
        self.last_row = (seen, progress.seconds, self.waited)

    def run(self, phase: Phase, optimizer_state: Any | None) -> None:
        """Trains a phase to its end or to a stop; `optimizer_state` is None at its beginning."""
        batch_size, progress = phase.options.batch_size, self.progress
        if optimizer_state is None:
            progress.phase, progress.best, progress.best_loss = phase.name, None, math.inf
        optimizer = build_optimizer(self.model, phase.options)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        network, wrapped = self.fabric.setup(self.model, optimizer)
        network.mark_forward_method("training_logits")
        if phase.title:
            learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad) / 1e6
            clips = phase.last - phase.first
            self.fabric.print(f"{phase.title}: {clips:,} clips, {learning:.2f} M parameters learn")
        positions = position_batches(progress.clips_seen, batch_size, self.rank, self.world_size)
        sequence = ClipSequence(self.data.train, self.data.shuffle, self.options.seed)
        batches = self._read(sequence, positions)
        every = self.options.log_every_seconds if self.is_first else math.inf
        with counter("clips", every, self._note) as report:
            for step in range((phase.last - progress.clips_seen) // batch_size):
                report(progress.clips_seen, self.total_clips)
                start = time.perf_counter()
                batch = next(batches).to(self.fabric.device, non_blocking=True)
                self.waited += time.perf_counter() - start
                self._step(network, wrapped, batch, phase)
                progress.seconds += time.perf_counter() - start
                if step == 0:  # it includes the start of processes and kernels
                    self.last_row = (progress.clips_seen, progress.seconds, self.waited)
                stopped = self._is_stopped(step)
                self._keep_up(phase, optimizer, stopped)
                if stopped:
                    break

    def _step(self, network: Any, optimizer: Any, batch: ClipBatch, phase: Phase) -> None:
        options, progress = phase.options, self.progress
        seen, length = progress.clips_seen - phase.first, phase.last - phase.first
        set_rate(optimizer, schedule_factor(options, seen, length))
        position = (self.options.seed, self.rank, progress.clips_seen)
        torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1)[0]))  # of dropout
        loss, right = training_loss(network, batch, self.model.spec)
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if options.clip_norm is not None:
            norm = options.clip_norm
            self.fabric.clip_gradients(network, optimizer, max_norm=norm, error_if_nonfinite=False)
        optimizer.step()
        self.sums += torch.stack([loss.detach().double(), right.double()])
        progress.steps += 1
        progress.clips_seen += options.batch_size

    def _is_stopped(self, step: int) -> bool:
        """Whether a signal asks for a stop; all processes must leave after the same step."""
        if self.world_size == 1:
            return bool(self.stop)
        if step % _STEPS_TO_A_STOP:
            return False
        asked = torch.tensor(float(bool(self.stop)), device=self.fabric.device)
        return bool(self._sum(asked))

    def _sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        return cast(Tensor, self.fabric.all_reduce(values, reduce_op="sum"))

    def _keep_up(self, phase: Phase, optimizer: torch.optim.Optimizer, stopped: bool) -> None:
        """Logs, validates and saves what is due after a step."""
        options, seen = phase.options, self.progress.clips_seen
        before, finished = seen - options.batch_size, seen >= phase.last

        def due(every: int) -> bool:
            return seen // every > before // every or finished

        log, save = due(options.log_every_clips), due(options.checkpoint_every_clips) or stopped
        val = due(options.val_every_clips) and bool(self.data.val)
        if not (log or val or save):
            return
        sums: list[float] = self._sum(self.sums.clone()).tolist()
        if not math.isfinite(sums[0]):
            since = seen - self.progress.steps * options.batch_size
            raise RunError(
                f"the loss is {sums[0]} after {since:,} to {seen:,} clips; training stopped, "
                "last.ckpt is from before. Lower train.lr, set train.clip_norm, or use "
                "train.precision fp32"
            )
        if log:
            self._log(options.batch_size, optimizer, sums)
            sums = [0.0, 0.0]
        if val:
            self._validate(options.batch_size, phase.title)
        elif finished and not self.data.val:  # the last weights are the result
            self._save_weights()
        if save and self.is_first:
            progress = {**asdict(self.progress), "sums": sums}
            state = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint({"progress": progress, **state}, self.folder)

    def _log(self, batch_size: int, optimizer: torch.optim.Optimizer, sums: list[float]) -> None:
        progress, (clips, seconds, waited) = self.progress, self.last_row
        passed = max(progress.seconds - seconds, 1e-9)
        self._write(
            train_loss=sums[0] / (progress.steps * self.world_size),
            train_accuracy=100 * sums[1] / (progress.steps * batch_size),
            lr=max(group["lr"] for group in optimizer.param_groups),
            clips_per_second=(progress.clips_seen - clips) / passed,
            data_wait=min(1.0, (self.waited - waited) / passed),
        )
        self.last_row = (progress.clips_seen, progress.seconds, self.waited)
        progress.steps = 0
        self.sums.zero_()

    def _validate(self, batch_size: int, title: str) -> None:
        split, progress = self.data.val, self.progress
        share = (2 * batch_size // self.world_size, self.rank, self.world_size)
        batches = self._read(split, split_rows(len(split), *share))
        precision, device = self.options.precision, self.fabric.device
        loss, score, name = validate(self.model, batches, device, precision, self.world_size)
        best = progress.best is None or (score, -loss) > (progress.best, -progress.best_loss)
        if best:
            progress.best, progress.best_loss = score, loss
            self._save_weights()
        self._write(**{"val_loss": loss, f"val_{name}": score})
        words = f"{title}  validation at {progress.clips_seen:,} clips  loss {loss:.4f}  "
        words += f"{'mAP' if name == 'map' else name} {score:.2f} %"
        self.fabric.print(f"{words.strip()}{'  best so far' if best else ''}")

    def _write(self, **values: float) -> None:
        clips = self.progress.clips_seen
        if self.metrics is not None:
            self.metrics.add(clips=clips, seconds=self.progress.seconds, **values)
        self.fabric.log_dict(values, step=clips)

    def _save_weights(self) -> None:
        if self.is_first:
            self.save_weights(self.model, self.folder)

    def _read(self, dataset: Any, rows: Iterable[list[int]]) -> Iterator[ClipBatch]:
        pin_memory = self.fabric.device.type == "cuda"
        return read_batches(dataset, rows, self.options.workers, pin_memory)

    def _note(self) -> str:
        """What a progress line says of the steps since the last row of metrics.csv."""
        progress, (_, seconds, waited) = self.progress, self.last_row
        if not progress.steps:
            return ""
        share = (self.waited - waited) / max(progress.seconds - seconds, 1e-9)
        loss = self.sums[0].item() / progress.steps
        return f"{progress.phase} loss {loss:.4f}  waiting for data {100 * share:.0f} %".strip()


def _fabric(options: TrainOptions, folder: Path) -> Fabric:
    """Device, precision and processes."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    (_, world_size), device = process_rank(), choose_device(options.device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    backend = "nccl" if device == "cuda" else "gloo"
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world_size // local,
        strategy=DDPStrategy(process_group_backend=backend) if world_size > 1 else "auto",
        precision="bf16-mixed" if options.precision == "bf16" and bf16_runs(device) else "32-true",
        loggers=TensorBoardLogger(folder, "tensorboard", "") if options.tensorboard else [],
    )
    fabric.launch()
    return fabric


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """The signals that have asked for a stop; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            sys.exit(128 + number)
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_message(progress: Progress, folder: Path) -> str:
    """What the user reads at the end, or after Ctrl-C."""
    clips = f"{progress.clips_seen:,} clips"
    if progress.stopped_by is not None:
        name, command = signal.Signals(progress.stopped_by).name, f"vidgraph train {folder}"
        return f"stopped by {name} after {clips}; saved. Continue with: {command} --resume"
    best = "" if progress.best is None else f"best on validation {progress.best:.2f} %, "
    done = f"{clips}, {best}{duration(progress.seconds)} of training; weights in {folder}"
    return f"finished: {done}\nscore them on the test split: vidgraph eval {folder}"
