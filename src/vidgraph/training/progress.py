"""Progress of a training: a moving bar in a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from vidgraph.training.learner import Validation
from vidgraph.util import duration


class ProgressReport:
    """Shows clips, loss, accuracy, clips/s and the share of time spent waiting for data.

    Args:
        total_clips: of the whole training.
        first_clip: where it continues.
        log_every_seconds: distance of lines where standard output is not a terminal.
        show: False on all processes but the first.
        place: the stage, such as "stage 2 of 3, joint", where there are several.
    """

    def __init__(
        self,
        total_clips: int,
        first_clip: int,
        log_every_seconds: float,
        show: bool,
        place: str = "",
    ) -> None:
        self.total, self.every, self.show = total_clips, log_every_seconds, show
        self._place = f"{place}  " if place else ""
        self.train_seconds = 0.0
        self.rate = self.waiting = 0.0
        self._last = (
            first_clip,
            0.0,
            0.0,
        )  # clips, training seconds, waiting seconds at the last measurement
        self._first_step = True
        self._clips, self._printed_at = first_clip, time.monotonic()
        self._loss = self._accuracy = float("nan")
        self._live: Live | None = None
        if show and sys.stdout.isatty():
            self._live = Live(
                get_renderable=self._render, console=Console(file=sys.stdout), refresh_per_second=4
            )
            self._live.start()

    def step(self, clips: int, loss: float, accuracy: float, wait_seconds: float) -> None:
        """After a step: clips seen, mean loss and accuracy (percent) lately, and all seconds that
        were waited for data so far.
        """
        self._clips, self._loss, self._accuracy = clips, loss, accuracy
        if (
            self._first_step
        ):  # took the start of workers and of kernels: not a measure of what follows
            self._first_step, self._last = False, (clips, self.train_seconds, wait_seconds)
        elif self.train_seconds - self._last[1] >= 2.0:
            self.measure(wait_seconds)
        if self._live is None and self.show and time.monotonic() - self._printed_at >= self.every:
            self._printed_at = time.monotonic()
            self.say(f"{100 * clips / self.total:5.1f} %  {self.line()}")

    def measure(self, wait_seconds: float) -> None:
        """Renews clips/s and the waiting share from what passed since the last measurement."""
        clips, seconds, waited = self._last
        elapsed = self.train_seconds - seconds
        if elapsed <= 0:
            return
        self.rate = (self._clips - clips) / elapsed
        self.waiting = min(1.0, (wait_seconds - waited) / elapsed)
        self._last = (self._clips, self.train_seconds, wait_seconds)

    def line(self) -> str:
        scores = (
            f"{self._place}{self._clips:,} of {self.total:,} clips  loss {self._loss:.4f}  "
            f"accuracy {self._accuracy:.1f} %"
        )
        if not self.rate:
            return scores
        left = duration((self.total - self._clips) / self.rate)
        return (
            f"{scores}  {self.rate:.0f} clips/s  waiting for data {100 * self.waiting:.0f} %  "
            f"{left} left"
        )

    def _render(self) -> Group:
        """A bar, and below it the numbers, which may wrap."""
        return Group(ProgressBar(total=self.total, completed=self._clips), Text(self.line()))

    def validation(self, clips: int, result: Validation, best: bool) -> None:
        name, value = (
            ("accuracy", result.accuracy)
            if result.accuracy is not None
            else ("mAP", result.map or 0.0)
        )
        scores = f"loss {result.loss:.4f}  {name} {value:.2f} %{'  best so far' if best else ''}"
        self.say(f"{self._place}validation at {clips:,} clips  {scores}")

    def say(self, text: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self._live is not None:
            self._live.console.print(text, highlight=False)
        elif self.show:
            print(text, flush=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
