"""Actions within videos: a second table beside that of the videos, one row per action.

    video,label,start_seconds,end_seconds
    Charades_v1/46GP8.mp4,c097 Walking through a doorway,24.3,30.4

Videos are named as in the first table, relative to this file's own folder or absolute. Shapes: T
frames of a clip.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidgraph.data.table import VideoTable, near_only, raise_first, read_rows, span_problem
from vidgraph.errors import DataError, TableError

COLUMNS = ("video", "label", "start_seconds", "end_seconds")


@dataclass(frozen=True)
class Interval:
    """An action: the index of its class, when it happens, and its row in the file."""

    label: int
    start_seconds: float
    end_seconds: float
    row: int


@dataclass(frozen=True)
class Intervals:
    """All actions of a data set.

    Attributes:
        source: the file.
        by_video: the actions of each video, by its path in normal form.
        num_classes: of the table that the file belongs to.
        row_word: what rows are counted in, "line" or "row".
    """

    source: Path
    by_video: dict[str, tuple[Interval, ...]]
    num_classes: int
    row_word: str = "line"

    @property
    def sha256(self) -> str:
        """Of the file, for the fingerprint of the data."""
        return hashlib.sha256(self.source.read_bytes()).hexdigest()

    def seen(self, video: str, times_seconds: np.ndarray, frame_indices: np.ndarray) -> Tensor:
        """The classes that are seen in a clip: of actions that last at any moment from its first
        frame to its last.

        An action that ends after its video is cut there. A clip that loops is two or more runs of
        frames, each by itself.

        Args:
            video: its path, as the table of videos has it.
            times_seconds: when each frame of the video is shown, increasing.
            frame_indices: the clip's frames, [T].

        Returns:
            0/1 float32 [1, num_classes].

        Raises:
            DataError: an action of this video begins after the video's end.
        """
        shown = times_seconds[frame_indices]  # [T]
        runs = np.split(shown, np.flatnonzero(np.diff(shown) < 0) + 1)
        hot = torch.zeros(1, self.num_classes)
        for action in self.by_video.get(os.path.normpath(video), ()):
            self._check(action, times_seconds)
            if any(action.start_seconds <= run[-1] and run[0] < action.end_seconds for run in runs):
                hot[0, action.label] = 1.0
        return hot

    def _check(self, action: Interval, times_seconds: np.ndarray) -> None:
        if action.start_seconds >= last_seconds(times_seconds):
            where = f"{self.source.name}, {self.row_word} {action.row}"
            span = f"the action from {action.start_seconds:g} s to {action.end_seconds:g} s"
            raise DataError(
                f"{span} ({where}) lies outside the video, whose last frame is shown at "
                f"{float(times_seconds[-1]):.6g} s"
            )


def last_seconds(times_seconds: np.ndarray) -> float:
    """When a video ends: its last frame is shown as long as frames are on average."""
    last = float(times_seconds[-1])
    return last + (last - float(times_seconds[0])) / max(1, len(times_seconds) - 1)


def load_intervals(path: str | Path, table: VideoTable) -> Intervals:
    """Reads the actions of the videos of `table`.

    Raises:
        TableError: no such file, a column is absent, a video or class that `table` does not have,
            or times that are none.
    """
    source = Path(path)
    word, header, lines = read_rows(source)
    place = f"{source}, line 1" if word == "line" else str(source)
    for name in COLUMNS:
        if header.count(name) != 1:
            what = "no" if name not in header else "more than one"
            raise TableError(
                f"{place}: {what} column {name!r}{near_only(name, set(header) - set(COLUMNS))}"
            )
    records = [(row, {name: cells[header.index(name)] for name in COLUMNS}) for row, cells in lines]
    classes = {name: i for i, name in enumerate(table.class_names)}
    videos = {os.path.normpath(video) for video in table.frame["video"]}
    names = {
        cells["video"]: os.path.normpath(source.parent / cells["video"]) for _, cells in records
    }
    missing = {name for name, video in names.items() if video not in videos}
    raise_first(
        source,
        word,
        [
            (row, problem)
            for row, cells in records
            if (problem := _problem(cells, classes, missing, table))
        ],
    )
    found: dict[str, list[Interval]] = defaultdict(list)
    for row, cells in records:
        action = Interval(
            classes[cells["label"]], float(cells["start_seconds"]), float(cells["end_seconds"]), row
        )
        found[names[cells["video"]]].append(action)
    return Intervals(
        source, {video: tuple(actions) for video, actions in found.items()}, len(classes), word
    )


def _problem(
    cells: dict[str, str], classes: dict[str, Any], missing: set[str], table: VideoTable
) -> str | None:
    """What is wrong with one row, or None."""
    if cells["video"] in missing:
        return f"video {cells['video']!r} is not in {table.source.name}"
    if cells["label"] not in classes:
        hint = near_only(cells["label"], classes)
        return (
            f"label {cells['label']!r} is not among the {len(classes)} classes of "
            f"{table.source.name}{hint}"
        )
    if empty := next((column for column in COLUMNS[2:] if not cells[column]), None):
        return f"{empty} is empty; an action needs both its times"
    return span_problem(cells)
