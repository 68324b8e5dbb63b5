"""What an extraction works on: the videos of files, folders and tables, or boxes that are given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from vidgraph.data.box_files import csv_tasks, something_else_tasks
from vidgraph.data.table import load_table, parse_columns
from vidgraph.errors import DataError
from vidgraph.precompute.boxes_given import GivenBoxesJob, Unit
from vidgraph.precompute.extract import Task
from vidgraph.video.listing import list_videos


def video_tasks(paths: Sequence[Path], columns: str = "") -> list[Task]:
    """The videos of files, folders and tables, each once, named below what they share; `columns` as
    `parse_columns` takes them.
    """
    videos: dict[str, None] = {}
    for path in paths:
        is_table = path.suffix.lower() in (".csv", ".parquet") and not path.is_dir()
        renamed = parse_columns(columns)
        found = load_table(path, renamed).frame["video"] if is_table else list_videos(path)
        videos |= dict.fromkeys(os.path.abspath(video) for video in found)
    root = _root(paths, list(videos))
    return [Task(Path(video), Path(video).relative_to(root).as_posix()) for video in videos]


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
