"""Boxes of one's own, from a CSV file: a row per box.

    video,frame,x0,y0,x1,y1,score
    walk/anna.mp4,0,12,30,48,110,0.9

`frame` counts from 0, corners are pixels of the frame (or fractions of it), `score` may be absent.
Other columns are ignored, so the `boxes.csv` that `vidgraph data make syncmnist` writes is such a
file too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from vidgraph.errors import DataError, nearest
from vidgraph.precompute.given import GivenBoxes
from vidgraph.precompute.tasks import Task

_CORNERS = ("x0", "y0", "x1", "y1")
_NEEDED = ("video", "frame", *_CORNERS)


def csv_tasks(path: str | Path, videos: str | Path) -> Iterator[Task]:
    """The videos of a CSV file with their boxes, for `GivenBoxesJob`.

    Args:
        path: the file.
        videos: the folder that its paths are relative to.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row holds what cannot be a box;
            with the line of the first.
    """
    table = _read(Path(path))
    frame, corners = table["frame"].to_numpy(np.int64), table[list(_CORNERS)].to_numpy(np.float64)
    scores, lines = (
        table["score"].to_numpy(np.float64),
        table.index.to_numpy(np.int64) + 2,
    )  # line 1 is the header
    for name, rows in table.groupby("video", sort=False).indices.items():
        video = Path(videos) / str(name)
        order = rows[np.argsort(frame[rows], kind="stable")]
        boxes = GivenBoxes(
            np.unique(frame[order]),
            frame[order],
            corners[order],
            scores[order],
            (f"{path}, line", lines[order]),
        )
        yield Task(video, _name(video, Path(videos)), boxes)


def _name(video: Path, root: Path) -> str:
    """Of a video in the store: its path below the root, or the whole path where it lies
    elsewhere.
    """
    path, root = Path(os.path.abspath(video)), Path(os.path.abspath(root))
    return (
        path.relative_to(root) if path.is_relative_to(root) else path.relative_to(path.anchor)
    ).as_posix()


def _read(path: Path) -> pd.DataFrame:
    """The columns that are needed, as numbers; index 0 is the first line after the header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False
            )
    except pd.errors.ParserWarning as error:
        raise DataError(f"{path}: a row has more columns than the header") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(
            f"{path}: cannot be read as CSV ({' '.join(str(error).split())})"
        ) from error
    for column in _NEEDED:
        if column not in table:
            hint = nearest(column, (str(name) for name in table.columns))
            stop = "" if hint.endswith("?") else "."
            raise DataError(
                f"{path}: has no column {column!r}{hint}{stop} A file of boxes needs "
                f"{', '.join(_NEEDED)}"
            )
    if "score" not in table:
        table["score"] = "1"
    table = table[(table[list(_NEEDED)] != "").any(axis=1)]  # blank lines
    if table.empty:
        raise DataError(f"{path}: has a header but no boxes")
    numbers = {
        column: pd.to_numeric(table[column], errors="coerce").astype(float)
        for column in ("frame", *_CORNERS, "score")
    }
    checked = table[["video"]].assign(**numbers)
    _refuse(path, table, checked)
    return checked


def _refuse(path: Path, table: pd.DataFrame, checked: pd.DataFrame) -> None:
    """Raises at the first row that cannot be a box."""
    numbers = ("frame", *_CORNERS, "score")
    faults: list[tuple[pd.Series, str, str]] = [
        (checked["video"] == "", "the video is empty", "video")
    ]
    faults += [
        (~np.isfinite(checked[column]), f"{column} is {{}}, which is not a number", column)
        for column in numbers
    ]
    faults += [
        (
            (checked["frame"] < 0) | (checked["frame"] % 1 != 0),
            "frame is {}; frames are whole numbers from 0",
            "frame",
        ),
        (checked["x0"] > checked["x1"], "the box is reversed: x0 is {}, more than x1", "x0"),
        (checked["y0"] > checked["y1"], "the box is reversed: y0 is {}, more than y1", "y0"),
    ]
    for wrong, problem, column in faults:
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            line, value = int(table.index[place]) + 2, repr(table[column].iloc[place])
            raise DataError(f"{path}, line {line}: {problem.format(value)}")
