"""Something-Else's boxes of hands and objects in videos of Something-Something v2 (Materzynska et
al., CVPR 2020).

    bounding_box_smthsmth_part1.json, ...    {"ID": [{"name": "ID/0001.jpg", "labels": [{"box2d":
    {"x1", "y1", "x2", "y2"},
                                              "standard_category": "hand" or "0000", ...}, ...]},
                                              ...]}

Each entry is a frame, known by its `name`: there may be fewer entries than frames. Corners are
pixels of the video's own size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vidgraph.errors import DataError
from vidgraph.precompute.given import GivenBoxes
from vidgraph.precompute.tasks import Task
from vidgraph.video.reader import open_video

_VIDEO_SUFFIX = ".webm"


def something_else_tasks(path: str | Path, videos: str | Path) -> tuple[list[Task], int]:
    """The videos of one file of annotations that are in a folder, with their boxes, for
    `GivenBoxesJob`.

    Args:
        path: one of the .json files.
        videos: the folder with a .webm file, or a folder of frames, per video.

    Returns:
        a task per video that is there;
        how many are not there.

    Raises:
        DataError: the file is not such a file, or not whole.
    """
    content, folder = _read(Path(path)), Path(videos)
    tasks, absent = [], 0
    for name, entries in content.items():
        video = next(
            (
                place
                for place in (folder / name, folder / f"{name}{_VIDEO_SUFFIX}")
                if place.exists()
            ),
            None,
        )
        if video is None:
            absent += 1
            continue
        tasks.append(
            Task(video, video.name, _boxes(Path(path), name, entries, _frame_numbers(video)))
        )
    return tasks, absent


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); was it downloaded whole?") from error
    if not isinstance(content, dict) or not all(
        isinstance(entries, list) for entries in content.values()
    ):
        raise DataError(
            f"{path}: holds no lists of frames by video; is it a file of Something-Else's "
            "annotations?"
        )
    return content


def _frame_numbers(video: Path) -> dict[str, int] | None:
    """Where the images of a folder stand, by name; None for a file, whose frames were numbered from
    1 when they were taken out.
    """
    if not video.is_dir():
        return None
    with open_video(video) as frames:
        return {file.stem: number for number, file in enumerate(getattr(frames, "files", []))}


def _boxes(path: Path, name: str, entries: list[Any], numbers: dict[str, int] | None) -> GivenBoxes:
    """The boxes of one video, those of each frame in the file's order."""
    frames, frame_of, corners, of_entry = [], [], [], []
    for count, entry in enumerate(entries, start=1):
        try:
            stem = Path(entry["name"]).stem
            frame = int(stem) - 1 if numbers is None else numbers[stem]
            found = [
                [float(label["box2d"][key]) for key in ("x1", "y1", "x2", "y2")]
                for label in entry["labels"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}, video {name}, entry {count}: cannot be read, or names a frame that is "
                f"not there ({error})"
            ) from error
        frames.append(frame)
        frame_of += [frame] * len(found)
        corners += found
        of_entry += [count] * len(found)
    if len(set(frames)) != len(frames):
        raise DataError(f"{path}, video {name}: a frame has two entries")
    boxes = np.array(corners, np.float64).reshape(-1, 4)
    wrong = ~(
        np.isfinite(boxes).all(1) & (boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])
    )
    if wrong.any():
        raise DataError(
            f"{path}, video {name}, entry {of_entry[int(wrong.argmax())]}: a box is reversed or "
            "not a number"
        )
    places = (f"{path}, video {name}, entry", np.array(of_entry, np.int64))
    return GivenBoxes(
        np.array(sorted(frames), np.int64),
        np.array(frame_of, np.int64),
        boxes,
        np.ones(len(boxes)),
        places,
    )
