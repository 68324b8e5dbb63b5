"""What happens after every step: report, log, validate, save, and stop when asked to."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch import nn

from vidgraph.errors import RunError
from vidgraph.training.learner import Learner, Validation, Window, validate
from vidgraph.training.loaders import ClipLoader
from vidgraph.training.progress import ProgressReport
from vidgraph.training.run_folder import (
    METRICS,
    MetricsFile,
    random_state,
    restore_random_state,
    save_checkpoint,
)

SaveWeights = Callable[[nn.Module, Path], None]


class TrainingRoutine(L.Callback):
    """Keeps the run folder up to date.

    Args:
        folder: the run folder.
        train_loader: for its waiting time.
        make_val_loader: gives one pass over the validation split, or None without one.
        save_weights: writes `model.safetensors` and `config.json`.
        checkpoint: content of the `last.ckpt` to continue from within this stage, or None at its
            beginning.
        seconds_before: spent in training steps already.
    """

    def __init__(
        self,
        folder: Path,
        train_loader: ClipLoader,
        make_val_loader: Callable[[], ClipLoader] | None,
        save_weights: SaveWeights,
        checkpoint: dict[str, Any] | None,
        seconds_before: float = 0.0,
    ) -> None:
        self.folder, self.train_loader, self.make_val_loader = folder, train_loader, make_val_loader
        self.save_weights, self.checkpoint = save_weights, checkpoint
        self.best: tuple[float, float] | None = (
            tuple(checkpoint["best"]) if checkpoint and checkpoint["best"] else None
        )
        self.last_validation: Validation | None = None
        self.seconds_before = seconds_before
        self.stopped_by: int | None = None
        self._old_handlers: dict[int, Any] = {}

    # ---- start and end ---------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, learner: L.LightningModule) -> None:
        assert isinstance(learner, Learner)
        continued = self.checkpoint is not None
        if self.checkpoint is not None:
            trainer.optimizers[0].load_state_dict(self.checkpoint["optimizer"])
            learner.window = Window(**self.checkpoint["window"])
            if trainer.is_global_zero:
                restore_random_state(self.checkpoint["random"])
            self.checkpoint = None  # its tensors are no longer needed
        recipe, show = learner.recipe, trainer.is_global_zero
        stage = learner.stage
        self.report = ProgressReport(
            stage.total, learner.clips_seen, recipe.log_every_seconds, show, stage.place
        )
        if continued:
            self.report.say(f"continues at {learner.clips_seen:,} of {stage.total:,} clips")
        if stage.place:
            learning = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
            self.report.say(
                f"{stage.place}: {stage.last - stage.first:,} clips, {learning / 1e6:.2f} M "
                "parameters learn"
            )
        self.metrics = MetricsFile(self.folder / METRICS, learner.clips_seen) if show else None
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = {
                s: signal.signal(s, self._request_stop) for s in (signal.SIGINT, signal.SIGTERM)
            }
        self._resumed_clock()

    def teardown(self, trainer: L.Trainer, learner: L.LightningModule, stage: str) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers = {}
        if hasattr(self, "report"):
            self.report.close()

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:  # asked twice: now
            sys.exit(128 + number)
        self.stopped_by = number

    # ---- after every step ------------------------------------------------------------------------

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        learner: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(learner, Learner)
        self.report.train_seconds += time.perf_counter() - self._clock
        recipe, before = learner.recipe, learner.clips_seen
        learner.clips_seen = seen = before + recipe.batch_size
        finished = seen >= learner.stage.last
        stop = self._should_stop(trainer)

        def due(every: int) -> bool:
            return seen // every > before // every or finished

        window = learner.window
        loss, accuracy = window.loss / window.steps, 100 * window.correct / window.clips
        self.report.step(seen, loss, accuracy, self.train_loader.wait_seconds)
        if due(recipe.log_every_clips):
            self._log_training(trainer, learner)
        if self.make_val_loader is not None and due(recipe.val_every_clips):
            self._validate(trainer, learner)
        if (due(recipe.checkpoint_every_clips) or stop) and trainer.is_global_zero:
            self._save(trainer, learner)
        if (
            finished and self.best is None and trainer.is_global_zero
        ):  # no validation split: the last weights are the result
            self.save_weights(learner.model, self.folder)
        trainer.should_stop = trainer.should_stop or stop
        self._resumed_clock()

    def _resumed_clock(self) -> None:
        """Steps are timed from here, so that validating and saving do not count as training."""
        self._clock = time.perf_counter()

    def _should_stop(self, trainer: L.Trainer) -> bool:
        stop = self.stopped_by is not None
        if trainer.world_size > 1:  # all processes must leave after the same step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        return stop

    def _log_training(self, trainer: L.Trainer, learner: Learner) -> None:
        window = _sum_windows(learner.window, trainer.world_size)
        learner.window = Window()
        self.report.measure(self.train_loader.wait_seconds)
        self._write(
            trainer,
            learner,
            train_loss=window.loss / window.steps,
            train_accuracy=100 * window.correct / window.clips,
            lr=max(group["lr"] for group in trainer.optimizers[0].param_groups),
            clips_per_second=self.report.rate,
            data_wait=self.report.waiting,
        )

    def _validate(self, trainer: L.Trainer, learner: Learner) -> None:
        assert self.make_val_loader is not None
        gather = _gather if trainer.world_size > 1 else None
        bf16 = learner.recipe.precision == "bf16"
        result = validate(
            learner.model, self.make_val_loader(), trainer.strategy.root_device, bf16, gather
        )
        best = self.best is None or result.score > self.best
        self.last_validation = result
        if best:
            self.best = result.score
            if trainer.is_global_zero:
                self.save_weights(learner.model, self.folder)
        self.report.validation(learner.clips_seen, result, best)
        self._write(
            trainer, learner, val_loss=result.loss, val_accuracy=result.accuracy, val_map=result.map
        )

    def _write(self, trainer: L.Trainer, learner: Learner, **values: float | None) -> None:
        if self.metrics is None:
            return
        self.metrics.add(
            clips=learner.clips_seen,
            seconds=self.seconds_before + self.report.train_seconds,
            **values,
        )
        present = {name: value for name, value in values.items() if value is not None}
        try:
            for logger in trainer.loggers:
                logger.log_metrics(present, step=learner.clips_seen)
        except OSError as error:
            raise RunError(
                f"{self.folder}: TensorBoard events cannot be written ({error.strerror or error})"
            ) from error

    def _save(self, trainer: L.Trainer, learner: Learner) -> None:
        content = {
            "format": 1,
            "stage": learner.stage.name,
            "clips_seen": learner.clips_seen,
            "seconds": self.seconds_before + self.report.train_seconds,
            "best": list(self.best) if self.best else None,
            "window": asdict(learner.window),
            "random": random_state(),
            "model": learner.model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
        }
        save_checkpoint(content, self.folder)


def _gather(mine: Any) -> list[Any]:
    """Every process's value, in the order of ranks."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, mine)
    return values


def _sum_windows(window: Window, world_size: int) -> Window:
    if world_size == 1:
        return window
    windows = [Window(**values) for values in _gather(asdict(window))]
    clips, correct = sum(w.clips for w in windows), sum(w.correct for w in windows)
    return Window(sum(w.loss for w in windows), correct, sum(w.steps for w in windows), clips)


def stop_message(stopped_by: int, clips_seen: int, folder: Path) -> str:
    """What the user reads after Ctrl-C."""
    name = signal.Signals(stopped_by).name
    return (
        f"stopped by {name} after {clips_seen:,} clips; saved. Continue with: vidgraph train "
        f"{folder} --resume"
    )
