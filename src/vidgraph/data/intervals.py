"""Actions within videos: a second table beside that of the videos, one row per action.

    video,label,start_seconds,end_seconds
    Charades_v1/46GP8.mp4,c097 Walking through a doorway,24.3,30.4

Videos are named as in the first table, relative to this file's own folder or absolute.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidgraph.data.cells import read_columns, refuse, refuse_unknown
from vidgraph.data.table import VideoTable, read_spans
from vidgraph.errors import DataError

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
    by_video: dict[str, list[Interval]]
    num_classes: int
    row_word: str = "line"

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.source.read_bytes()).hexdigest()

    def seen(self, video: str, times_seconds: np.ndarray, frame_indices: np.ndarray) -> Tensor:
        """The classes of actions that last at any moment from a clip's first frame to its last.

        An action that ends after its video is cut there. A clip that loops is two or more runs of
        frames, each by itself.

        Args:
            video: its path, as the table of videos has it.
            times_seconds: when each frame of the video is shown.
            frame_indices: the clip's frames, [T].

        Returns:
            0/1 float32 [1, num_classes].

        Raises:
            DataError: an action begins after the video's end.
        """
        shown = times_seconds[frame_indices]  # [T]
        runs = np.split(shown, np.flatnonzero(np.diff(shown) < 0) + 1)
        hot = torch.zeros(1, self.num_classes)
        for action in self.by_video.get(os.path.normpath(video), ()):
            if action.start_seconds >= last_seconds(times_seconds):
                raise DataError(
                    f"the action from {action.start_seconds:g} s to {action.end_seconds:g} s "
                    f"({self.source.name}, {self.row_word} {action.row}) lies outside the video, "
                    f"whose last frame is shown at {float(times_seconds[-1]):.6g} s"
                )
            if any(action.start_seconds <= run[-1] and run[0] < action.end_seconds for run in runs):
                hot[0, action.label] = 1.0
        return hot


def last_seconds(times_seconds: np.ndarray) -> float:
    """When a video ends: its last frame is shown as long as frames are on average."""
    last = float(times_seconds[-1])
    return last + (last - float(times_seconds[0])) / max(1, len(times_seconds) - 1)


def load_intervals(path: str | Path, table: VideoTable) -> Intervals:
    """Reads the actions of the videos of `table`.

    Raises:
        TableError: the file cannot be read, or holds a video or class that `table` does not have,
            or times that are none.
    """
    source = Path(path)
    rows = read_columns(source, COLUMNS)
    videos = rows["video"].map(lambda name: os.path.normpath(source.parent / name))
    known = {os.path.normpath(video) for video in table.frame["video"]}
    name, num_classes = table.source.name, len(table.class_names)
    refuse(source, rows["video"], ~videos.isin(known), f"video {{}} is not in {name}")
    refuse_unknown(source, rows["label"], table.class_names, "label", f"classes of {name}")
    for column in COLUMNS[2:]:
        what = f"{column} is empty; an action needs both its times"
        refuse(source, rows[column], rows[column] == "", what)
    labels = rows["label"].map({name: k for k, name in enumerate(table.class_names)})
    by_video: dict[str, list[Interval]] = {}
    columns = (labels, *read_spans(source, rows), rows.index)
    for video, *action in zip(videos, *(column.tolist() for column in columns), strict=True):
        by_video.setdefault(video, []).append(Interval(*action))
    return Intervals(source, by_video, num_classes, str(rows.index.name))
