"""Every data set is one table: a row per sample, with its video, its label(s) and its split.

    video,label,split,start_seconds,end_seconds
    walk/anna.mp4,walk,train,,
    long.mp4,run|jump,test,1.5,4.0

A table is a CSV (.csv) or Parquet (.parquet) file; `start_seconds` and `end_seconds` may be absent
or empty, `|` stands between several labels, paths are relative to the file's folder or absolute; a
column `group` tells what clips share (see `grouping.py`). A folder per class needs no file:
`root/{train,val,test}/class/*`, or `root/class/*`, whose split follows from a hash of each path
(see `split_by_hash`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vidgraph.data.cells import hash64, near_only, read_columns, refuse, refuse_unknown, to_numbers
from vidgraph.errors import TableError, nearest
from vidgraph.util import natural_key
from vidgraph.video.listing import scan_folder

REQUIRED = ("video", "label", "split")
SPAN = ("start_seconds", "end_seconds")
OPTIONAL = (*SPAN, "group")
FOLDER_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoTable:
    """A data set as rows of videos, in the order of its file.

    Attributes:
        source: the table file, or the folder of class folders.
        frame: one row per sample. Columns: `row` (its line in the file as an editor counts, or its
            number from 1 in a Parquet file or folder), `name` (the video as the table writes it),
            `video` (the path to open), `label`, `split`, `start_seconds`, `end_seconds` (NaN: the
            video's own start or end), and `group`, if the file has it.
        class_names: in the order of the class indices; sorted, runs of digits as numbers, unless
            the caller gave an order.
        multi_label: True where a row may carry any number of labels, none included.
        row_word: what `row` counts, "line" or "row".
        notes: what was decided while reading that a user should know, one sentence each.
    """

    source: Path
    frame: pd.DataFrame
    class_names: tuple[str, ...]
    multi_label: bool
    row_word: str = "line"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def splits(self) -> list[str]:
        """The splits that occur, train, val and test first."""
        found = set(self.frame["split"])
        return [s for s in FOLDER_SPLITS if s in found] + sorted(found - set(FOLDER_SPLITS))

    def rows(self, split: str) -> pd.DataFrame:
        """The rows of one split; TableError, with the nearest split that exists, if it has none."""
        rows = self.frame[self.frame["split"] == split]
        if rows.empty:
            counts = ", ".join(f"{s} ({n})" for s, n in self.frame["split"].value_counts().items())
            raise TableError(
                f"{self.source}: no rows of split {split!r}; the table has "
                f"{counts}{near_only(split, self.splits)}"
            )
        return rows

    def where(self, row: int) -> str:
        """A row, for messages: `clips.csv, line 7`."""
        return f"{self.source.name}, {self.row_word} {row}"

    def targets(self, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
        """Class indices of `rows`, int64 [n]; multi-label 0/1 float32 [n, num_classes]."""
        if not self.multi_label:
            index = {name: i for i, name in enumerate(self.class_names)}
            return rows["label"].map(index).to_numpy(np.int64, copy=True)
        hot = rows["label"].str.get_dummies("|").reindex(columns=self.class_names, fill_value=0)
        return hot.to_numpy(np.float32, copy=True)

    def with_class_names(self, class_names: Sequence[str]) -> VideoTable:
        """The same rows under given classes, such as a trained model's; TableError if a row's label
        is not among them.
        """
        labels = self.frame.set_index("row")["label"].str.split("|").explode()
        labels.index.name = self.row_word
        refuse_unknown(self.source, labels[labels != ""], class_names, "label", "given classes")
        return replace(self, class_names=tuple(class_names))

    def is_skipped(self, name: str, skip: Collection[str]) -> bool:
        """Whether a video is in a skip list, by its name in the table or its full path."""
        return not {name, os.path.normpath(name), str(self.folder / name)}.isdisjoint(skip)

    @property
    def folder(self) -> Path:
        """What relative paths are relative to."""
        return self.source if self.source.is_dir() else self.source.parent

    def fingerprint(self, skip: Collection[str] = frozenset()) -> dict[str, Any]:
        """What a run stores about its data: `files` (different videos named), `missing` and
        `skipped` (how many of them are not on disk, or in the skip list), `sha256` (of the table
        file's bytes; of the sorted split, class and path lines of a folder)."""
        if self.source.is_dir():
            lines = self.frame[["split", "label", "name"]].agg("\t".join, axis=1) + "\n"
            content = "".join(sorted(lines)).encode()
        else:
            content = self.source.read_bytes()
        names = self.frame["name"].unique()
        return {
            "files": len(names),
            "missing": sum(not os.path.exists(video) for video in self.frame["video"].unique()),
            "skipped": sum(self.is_skipped(name, skip) for name in names),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def load_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    split_needed: bool = True,
) -> VideoTable:
    """Reads a table file, or a folder with one folder per class.

    Args:
        path: .csv or .parquet file, or a folder. Class folders hold video files or folders of frame
            images.
        columns: our column name -> the file's (`{"label": "class"}`); see `parse_columns`.
        class_names: the classes and their order; by default the labels that occur, sorted.
        multi_label: a table is multi-label if any row has a `|`; True: also if none has.
        split_needed: False: where a table or folder names no splits, every `split` is empty.

    Raises:
        TableError: with the file and the row of the first fault, and the number of the others.
    """
    source, columns = Path(path), dict(columns or {})
    notes: tuple[str, ...] = ()
    if unknown := columns.keys() - {*REQUIRED, *OPTIONAL}:
        hint = nearest(min(unknown), REQUIRED + OPTIONAL)
        raise TableError(f"--columns: {min(unknown)!r} is not a column of ours{hint}")
    if not source.is_dir():
        required = REQUIRED if split_needed else REQUIRED[:2]
        hint = " (or say which column it is with --columns OURS=THEIRS)"
        rows = read_columns(source, required, (*REQUIRED, *OPTIONAL), columns, hint)
        multi_label = multi_label or any("|" in label for label in rows["label"])
    elif columns:
        raise TableError(f"{source}: is a folder of class folders, which has no columns to rename")
    else:
        rows, notes = _scan_folder(source, split_needed)
    if rows.empty:
        raise TableError(f"{source}: has a header but no rows; write one row per sample below it")
    for column in rows.columns.intersection(["video", "split"]):
        refuse(source, rows[column], rows[column] == "", f"the {column} is empty")
    label = rows["label"]
    if multi_label:
        label = label.str.replace(r"\s*\|\s*", "|", regex=True)
        empty = (label != "") & label.str.split("|").map(lambda labels: "" in labels)
        refuse(source, label, empty, "an empty label in {}")
    else:
        what = "the label is empty; only a multi-label table may have rows without a label"
        refuse(source, label, label == "", what)
    start, end = read_spans(source, rows)
    classes = sorted(set(label.str.split("|").explode()) - {""}, key=natural_key)
    folder = source if source.is_dir() else source.parent
    videos = [str(folder / name) for name in rows["video"]]
    split = rows.get("split", "")
    frame = rows.assign(row=rows.index, name=rows["video"], video=videos, label=label, split=split)
    frame = frame.assign(start_seconds=start, end_seconds=end).reset_index(drop=True)
    row_word = str(rows.index.name)
    table = VideoTable(source, frame, tuple(classes), multi_label, row_word, notes)
    return table if class_names is None else table.with_class_names(class_names)


def read_spans(source: Path, rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """`start_seconds` and `end_seconds` of rows of text, NaN where they are empty or absent."""
    texts = (rows.get(name, pd.Series("", rows.index, name=name)) for name in SPAN)
    start, end = (to_numbers(source, text, may_be_empty=True) for text in texts)
    first = start.fillna(0.0)
    spans = first.map("{:g}".format) + " s to " + end.map("{:g} s".format)
    problem = "the span {} holds nothing; start_seconds must be less than end_seconds"
    refuse(source, spans, ~(first < end.fillna(np.inf)), problem)
    return start, end


def parse_columns(text: str) -> dict[str, str]:
    """`"label=class,split=split01"` -> `{"label": "class", "split": "split01"}`."""
    pairs = [part.split("=") for part in text.split(",") if part.strip()]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        given = "=".join(wrong[0]).strip()
        form = "OURS=THEIRS, such as label=class,split=split01"
        raise TableError(f"--columns: {given!r} is not of the form {form}")
    return {ours.strip(): theirs.strip() for ours, theirs in pairs}


def split_by_hash(name: str) -> str:
    """The split where folders name none: about 80 % train, 10 % val, 10 % test, by sha256 of the
    path below the root, modulo 10, so that adding or removing other videos never moves one.
    """
    bucket = hash64(name) % 10
    return "train" if bucket < 8 else "val" if bucket == 8 else "test"


def _scan_folder(root: Path, split_needed: bool) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of `root/split/class/*` or `root/class/*`, in natural order, and notes."""
    videos, others = scan_folder(root)
    if not (top := _folders(root)):
        raise TableError(
            f"{root}: holds no class folders; expected one folder per class (root/walk/*.mp4) or a "
            "table file"
        )
    in_splits = any(folder.name in FOLDER_SPLITS for folder in top)
    if in_splits and (wrong := sorted({folder.name for folder in top} - set(FOLDER_SPLITS))):
        raise TableError(
            f"{root}: folder {wrong[0]!r} stands beside the split folders train, val and "
            f"test{near_only(wrong[0], FOLDER_SPLITS)}"
        )
    classes = {folder for split in top for folder in _folders(split)} if in_splits else set(top)
    if stray := [video for video in videos if video.parent not in classes]:
        form = "root/train/walk/*.mp4" if in_splits else "root/walk/*.mp4"
        raise TableError(f"{stray[0]}: does not lie directly in a class folder; expected {form}")
    if empty := sorted(classes - {video.parent for video in videos}):
        raise TableError(f"{empty[0]}: class folder without a video or a folder of frames")
    rows = pd.DataFrame({"video": [video.relative_to(root).as_posix() for video in videos]})
    rows["label"] = [video.parent.name for video in videos]
    notes = []
    if in_splits:
        rows["split"] = rows["video"].str.partition("/")[0]
        rows = rows.sort_values("split", key=lambda s: s.map(FOLDER_SPLITS.index), kind="stable")
    elif split_needed:
        rows["split"] = rows["video"].map(split_by_hash)
        notes.append(
            "splits follow from a hash of each path: about 80 % train, 10 % val, 10 % test (or "
            "make train, val and test folders)"
        )
    if others:
        left_out = ", ".join(other.relative_to(root).as_posix() for other in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(f"left out because no video by their names: {left_out}{more}")
    rows.index = pd.RangeIndex(1, len(rows) + 1, name="row")
    return rows, tuple(notes)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
