"""The errors that a user can meet. Each is one line: what, where, what to do; the command turns
them into exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class VidgraphError(ValueError):
    """Base of every error that bad input can cause; `str(error)` is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class VideoError(VidgraphError):
    """A video, or one frame of it, cannot be read or written.

    Attributes:
        path: the file or frame folder.
        problem: what is wrong, without path and frame.
        frame: the source frame index, or None where the whole file is at fault.
    """

    def __init__(self, path: str | Path, problem: str, frame: int | None = None) -> None:
        place = str(path) if frame is None else f"{path}, frame {frame}"
        super().__init__(f"{place}: {problem}")
        self.path, self.problem, self.frame = Path(path), problem, frame

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.problem, self.frame)  # data workers pickle it


class TableError(VidgraphError):
    """A table of videos is not usable: a missing column, a broken row, an unknown label."""


class DataError(VidgraphError):
    """A data set is not usable: a missing file, a wrong checksum, no rows for a split."""


class RecipeError(VidgraphError):
    """A recipe does not exist, or a key or value in it is not one that the recipe has."""


class WeightsError(VidgraphError):
    """Weights cannot be loaded: truncated, of another model, or in a format that could run code."""


class RunError(VidgraphError):
    """A run folder cannot be used: another training's, not writable, or the disk is full."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: the nearest known one, or all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
