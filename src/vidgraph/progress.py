"""A counter on standard error for commands that go through many files or clips; silent where that
is not a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be called with (done, in all)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def pace(what: str, every_seconds: float = 15.0) -> Iterator[Callable[[int, int], None]]:
    """The same for work that takes long: with how many per second and the time left; in a log file,
    a line every few seconds.
    """
    begin = printed = time.monotonic()

    def line(done: int, total: int) -> str:
        rate = done / max(time.monotonic() - begin, 1e-9)
        left = (
            f"{timedelta(seconds=round((total - done) / rate))} left"
            if rate
            else "the time left is not known yet"
        )
        return f"{done:,} of {total:,} {what}  {rate:.3g} {what}/s  {left}"

    def print_line(done: int, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed >= every_seconds and total:
            printed = time.monotonic()
            print(f"{100 * done / total:5.1f} %  {line(done, total)}", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield print_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        console=Console(file=sys.stderr),
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(
            task, completed=done, total=total, description=line(done, total)
        )
