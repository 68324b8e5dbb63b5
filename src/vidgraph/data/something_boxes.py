"""Something-Else's boxes of hands and objects in videos of Something-Something v2 (Materzynska et
al., CVPR 2020).

    bounding_box_smthsmth_part1.json, ...
    {"ID": [{"name": "ID/0001.jpg",
             "labels": [{"box2d": {"x1", "y1", "x2", "y2"}, "standard_category": "hand"}, ...]},
            ...]}

Each entry is a frame, known by its `name`: there may be fewer entries than frames. Corners are
pixels of the video's own size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vidgraph.data.cells import read_text
from vidgraph.data.label_files import find_videos
from vidgraph.errors import DataError
from vidgraph.precompute.boxes_given import GivenBoxes
from vidgraph.precompute.extract import Task
from vidgraph.video.reader import open_video


def something_else_tasks(path: str | Path, videos: str | Path) -> tuple[list[Task], int]:
    """The videos of one annotation file that are in a folder, with their boxes.

    Args:
        path: one of the .json files.
        videos: the folder with a .webm file, or a folder of frames, per video.

    Returns:
        a task per video that is there;
        how many are not there.

    Raises:
        DataError: the file is not such a file, or not whole.
    """
    path, videos = Path(path), Path(videos)
    text = read_text(path)
    try:
        content: dict[str, list[Any]] = dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: holds no frames by video ({error}); is it a whole file of Something-Else?"
        ) from error
    found = find_videos(videos, content.keys())
    tasks = [
        Task(videos / found[name], found[name], _boxes(path, name, entries, videos / found[name]))
        for name, entries in content.items()
        if name in found
    ]
    return tasks, len(content) - len(tasks)


def _frame_numbers(video: Path) -> dict[str, int] | None:
    """The index of each image of a folder, by name; None for a file."""
    if not video.is_dir():
        return None
    with open_video(video) as frames:
        return {file.stem: number for number, file in enumerate(getattr(frames, "files", []))}


def _boxes(path: Path, name: str, entries: list[Any], video: Path) -> GivenBoxes:
    """The boxes of one video, those of each frame in the file's order."""
    numbers, where = _frame_numbers(video), f"{path}, video {name}"
    frames, frame_of, corners, of_entry, count = [], [], [], [], 1
    try:
        for count, entry in enumerate(entries, start=1):
            stem = Path(entry["name"]).stem
            frames.append(int(stem) - 1 if numbers is None else numbers[stem])
            for label in entry["labels"]:
                corners.append([float(label["box2d"][key]) for key in ("x1", "y1", "x2", "y2")])
                frame_of.append(frames[-1])
                of_entry.append(count)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}, entry {count}: cannot be read, or names a frame that is not there ({error})"
        ) from error
    if len(set(frames)) != len(frames):
        raise DataError(f"{where}: a frame has two entries")
    boxes = np.array(corners, np.float64).reshape(-1, 4)
    if len(wrong := np.flatnonzero(~(boxes[:, :2] <= boxes[:, 2:]).all(1))):
        raise DataError(f"{where}, entry {of_entry[wrong[0]]}: a box is reversed or not a number")
    return GivenBoxes(
        np.array(sorted(frames), np.int64),
        np.array(frame_of, np.int64),
        boxes,
        np.ones(len(boxes)),
        f"{where}, entry",
        np.array(of_entry, np.int64),
    )
