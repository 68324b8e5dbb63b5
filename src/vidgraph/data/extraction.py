"""What an extraction works on: the videos of files, folders and tables, or boxes that others made.

One's own boxes are a CSV file with a row per box; other columns, as `vidgraph data make syncmnist`
writes them, are ignored:

    video,frame,x0,y0,x1,y1,score
    walk/anna.mp4,0,12,30,48,110,0.9

`frame` counts from 0, corners are pixels of the frame (or fractions of it), `score` may be absent;
and Something-Else's, of hands and objects in videos of Something-Something v2 (Materzynska et al.,
CVPR 2020): an entry per frame, known by its `name`, with corners in pixels of the video's own size.

    bounding_box_smthsmth_part1.json, ...
    {"ID": [{"name": "ID/0001.jpg",
             "labels": [{"box2d": {"x1", "y1", "x2", "y2"}, "standard_category": "hand"}, ...]},
            ...]}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidgraph.data.cells import read_columns, read_text, refuse, to_numbers
from vidgraph.data.label_files import find_videos
from vidgraph.data.mirroring import mirrored_classes
from vidgraph.data.table import VideoTable, load_table, parse_columns
from vidgraph.errors import DataError
from vidgraph.precompute.boxes_given import GivenBoxes, GivenBoxesJob, Unit
from vidgraph.precompute.extract import Task
from vidgraph.video.frame_folder import FrameFolder
from vidgraph.video.listing import list_videos

_CORNERS = ["x0", "y0", "x1", "y1"]


def video_tasks(paths: Sequence[Path], columns: str = "") -> list[Task]:
    """The videos of files, folders and tables, each once, named below what they share; `columns` as
    `parse_columns` takes them.
    """
    videos: dict[str, None] = {}
    for path in paths:
        table = _table(path, columns)
        found = list_videos(path) if table is None else table.frame["video"]
        videos |= dict.fromkeys(os.path.abspath(video) for video in found)
    root = _root(paths, list(videos))
    return [Task(Path(video), Path(video).relative_to(root).as_posix()) for video in videos]


def refuse_mirrored(paths: Sequence[Path], columns: str = "") -> None:
    """Looks at the classes of tables, and in folders at the folder that each video is in.

    Raises:
        DataError: one tells left from right, and no other is its mirror image.
    """
    for path in paths:
        table = _table(path, columns)
        videos = list_videos(path) if table is None and path.is_dir() else []
        names = sorted({video.parent.name for video in videos})
        classes = names if table is None else table.class_names
        for name, mirrored in zip(classes, mirrored_classes(classes), strict=True):
            if mirrored < 0:
                raise DataError(
                    f"{path}: class {name!r} tells left from right, so its mirrored videos are of "
                    "no class; leave out --mirrored"
                )


def _table(path: Path, columns: str) -> VideoTable | None:
    is_table = path.suffix.lower() in (".csv", ".parquet") and not path.is_dir()
    return load_table(path, parse_columns(columns)) if is_table else None


def _root(paths: Sequence[Path], videos: Sequence[str]) -> str:
    """The folder that names are relative to: the one given if all videos lie below it."""
    if len(paths) == 1:
        given = os.path.abspath(paths[0] if paths[0].is_dir() else paths[0].parent)
        if all(Path(video).is_relative_to(given) and video != given for video in videos):
            return given
    return os.path.commonpath([os.path.dirname(video) for video in videos])


def given_boxes(
    files: Sequence[Path], videos: Path, unit: Unit = "pixels", reach_frames: int = 0
) -> tuple[GivenBoxesJob, list[Task], int]:
    """What stores boxes that are given in CSV files, or in Something-Else's annotations: the job,
    the videos, whose names are relative to a folder, and how many of the annotated ones are absent.
    """
    kinds = {file.suffix.lower() for file in files}
    if kinds not in ({".csv"}, {".json"}):
        raise DataError(
            f"{' '.join(map(str, files))}: boxes come from .csv files, or from the .json files of "
            "Something-Else; name one kind"
        )
    is_csv, tasks, absent = kinds == {".csv"}, list[Task](), 0
    for file in files:
        found, lacking = (
            (csv_tasks(file, videos), 0) if is_csv else something_else_tasks(file, videos)
        )
        tasks, absent = [*tasks, *found], absent + lacking
    if not tasks:
        raise DataError(
            f"{videos}: holds none of the {absent:,} videos of {files[0]}; say with --videos where "
            "they are"
        )
    contents = (file.read_bytes() for file in sorted(files, key=lambda file: file.name))
    digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents))
    origin = "csv" if is_csv else "something-else"
    return GivenBoxesJob(origin, digest.hexdigest(), unit, reach_frames), tasks, absent


def csv_tasks(path: str | Path, videos: str | Path) -> Iterator[Task]:
    """The videos of a CSV file with their boxes; its paths are relative to the folder `videos`."""
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
    table = table.assign(frame=frame.astype(int), score=table.get("score", 1.0))
    for name, rows in table.groupby("video", sort=False):
        rows, video = rows.sort_values("frame", kind="stable"), videos / str(name)
        frame_of, boxes, scores = (rows[key].to_numpy() for key in ("frame", _CORNERS, "score"))
        lines = rows.index.to_numpy()
        given = GivenBoxes(np.unique(frame_of), frame_of, boxes, scores, f"{path}, line", lines)
        yield Task(video, _name(video, videos), given)


def _name(video: Path, root: Path) -> str:
    """A video's name in the store: its path below the root, or the whole path."""
    path, root = Path(os.path.abspath(video)), Path(os.path.abspath(root))
    below = root if path.is_relative_to(root) else path.anchor
    return path.relative_to(below).as_posix()


def something_else_tasks(path: str | Path, videos: str | Path) -> tuple[list[Task], int]:
    """The videos of one annotation file that are in a folder, as .webm files or folders of frames,
    with their boxes; and how many are not there.
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


def _boxes(path: Path, name: str, entries: list[Any], video: Path) -> GivenBoxes:
    """The boxes of one video, those of each frame in the file's order."""
    where = f"{path}, video {name}"
    images = FrameFolder(video, fps=1).files if video.is_dir() else []
    numbers = {image.stem: number for number, image in enumerate(images)}
    frames, frame_of, corners, of_entry, count = [], [], [], [], 1
    try:
        for count, entry in enumerate(entries, start=1):
            stem = Path(entry["name"]).stem
            frames.append(numbers[stem] if numbers else int(stem) - 1)
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
    looked_at, entries_of = np.array(sorted(frames), np.int64), np.array(of_entry, np.int64)
    scores = np.ones(len(boxes))
    return GivenBoxes(
        looked_at, np.array(frame_of, np.int64), boxes, scores, f"{where}, entry", entries_of
    )
