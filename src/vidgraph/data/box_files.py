"""Boxes of one's own, from a CSV file: a row per box.

    video,frame,x0,y0,x1,y1,score
    walk/anna.mp4,0,12,30,48,110,0.9

`frame` counts from 0, corners are pixels of the frame (or fractions of it), `score` may be absent.
Other columns are ignored, so the `boxes.csv` that `vidgraph data make syncmnist` writes is such a
file too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidgraph.data.cells import read_columns, refuse, to_numbers
from vidgraph.errors import DataError
from vidgraph.precompute.boxes_given import GivenBoxes
from vidgraph.precompute.extract import Task

_CORNERS = ["x0", "y0", "x1", "y1"]


def csv_tasks(path: str | Path, videos: str | Path) -> Iterator[Task]:
    """The videos of a CSV file with their boxes, for `GivenBoxesJob`.

    Args:
        path: the file.
        videos: the folder that its paths are relative to.

    Raises:
        DataError: the file has no boxes.
        TableError: it cannot be read, lacks a column, or a row holds what cannot be a box.
    """
    path, videos = Path(path), Path(videos)
    table = read_columns(path, ("video", "frame", *_CORNERS), ("score",))
    if table.empty:
        raise DataError(f"{path}: has a header but no boxes")
    refuse(path, table["video"], table["video"] == "", "the video is empty")
    frame = to_numbers(path, table["frame"])
    refuse(path, table["frame"], frame % 1 != 0, "frame is {}; frames are whole numbers from 0")
    for name in {*table.columns} & {*_CORNERS, "score"}:
        table[name] = to_numbers(path, table[name], least=-np.inf)
    for low, high in (("x0", "x1"), ("y0", "y1")):
        problem = f"the box is reversed: {low} is {{}}, more than {high}"
        refuse(path, table[low], table[low] > table[high], problem)
    table["frame"] = frame.astype(int)
    for name, rows in table.groupby("video", sort=False):
        rows = rows.sort_values("frame", kind="stable")
        scores = rows["score"] if "score" in rows else np.ones(len(rows))
        boxes = GivenBoxes(
            rows["frame"].unique(),
            rows["frame"].to_numpy(),
            rows[_CORNERS].to_numpy(float),
            np.asarray(scores, float),
            f"{path}, line",
            rows.index.to_numpy(),
        )
        yield Task(videos / str(name), _name(videos / str(name), videos), boxes)


def _name(video: Path, root: Path) -> str:
    """A video's name in the store: its path below the root, or the whole path."""
    path, root = Path(os.path.abspath(video)), Path(os.path.abspath(root))
    below = root if path.is_relative_to(root) else path.anchor
    return path.relative_to(below).as_posix()
