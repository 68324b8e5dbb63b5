"""Every data set is one table: a row per sample, with its video, its label(s) and its split.

    video,label,split,start_seconds,end_seconds
    walk/anna.mp4,walk,train,,
    long.mp4,run|jump,test,1.5,4.0

A table is a CSV (.csv), tab-separated (.tsv) or Parquet (.parquet) file; `start_seconds` and
`end_seconds` may be absent or empty, `|` stands between several labels, paths are relative to the
file's folder or absolute. A folder per class needs no file: `root/{train,val,test}/class/*`, or
`root/class/*`, whose split follows from a hash of each path (see `split_by_hash`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vidgraph.errors import TableError, nearest
from vidgraph.util import natural_key
from vidgraph.video.frame_folder import IMAGE_SUFFIXES

REQUIRED = ("video", "label", "split")
OPTIONAL = ("start_seconds", "end_seconds")
FOLDER_SPLITS = ("train", "val", "test")
_VIDEO_KINDS = (
    "mp4 avi mkv webm mov m4v mpg mpeg wmv flv f4v ts mts m2ts 3gp 3g2 ogv vob gif mxf asf divx"
)
VIDEO_SUFFIXES = frozenset("." + kind for kind in _VIDEO_KINDS.split())


@dataclass(frozen=True)
class VideoTable:
    """A data set as rows of videos, in the order of its file.

    Attributes:
        source: the table file, or the folder of class folders.
        frame: one row per sample. Columns: `row` (its line in the file as an editor counts, or its
            number from 1 in a Parquet file or folder), `name` (the video as the table writes it),
            `video` (the path to open), `label`, `split`, and `start_seconds`, `end_seconds` (NaN:
            the video's own start or end).
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
        """The rows of one split.

        Raises:
            TableError: there are none; the line names the nearest split that exists.
        """
        rows = self.frame[self.frame["split"] == split]
        if rows.empty:
            counts = ", ".join(f"{s} ({n})" for s, n in self.frame["split"].value_counts().items())
            raise TableError(
                f"{self.source}: no rows of split {split!r}; the table has "
                f"{counts}{near_only(split, self.splits)}"
            )
        return rows

    def where(self, row: int) -> str:
        """The place of a row, for messages: `clips.csv, line 7`."""
        return f"{self.source.name}, {self.row_word} {row}"

    def targets(self, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
        """Class indices of `rows`, int64 [n]; for a multi-label table 0/1 float32 [n,
        num_classes].
        """
        index = {name: i for i, name in enumerate(self.class_names)}
        if not self.multi_label:
            return np.array([index[label] for label in rows["label"]], dtype=np.int64)
        hot = np.zeros((len(rows), len(self.class_names)), dtype=np.float32)
        for i, text in enumerate(rows["label"]):
            hot[i, [index[label] for label in split_labels(text)]] = 1.0
        return hot

    def with_class_names(self, class_names: Sequence[str]) -> VideoTable:
        """The same rows under a given list of classes, such as that of a trained model.

        Raises:
            TableError: a row's label is not in the list.
        """
        known = set(class_names)
        if len(known) != len(class_names):
            raise TableError(
                f"{self.source}: the given class list names a class twice: "
                f"{_first_repeat(class_names)!r}"
            )
        labels = [
            (row, label)
            for row, text in zip(self.frame["row"], self.frame["label"], strict=True)
            for label in split_labels(text)
        ]
        problem = f"label {{!r}} is not among the {len(known)} given classes"
        unknown = [
            (row, problem.format(label) + near_only(label, known))
            for row, label in labels
            if label not in known
        ]
        raise_first(self.source, self.row_word, unknown)
        return replace(self, class_names=tuple(class_names))

    def is_skipped(self, name: str, skip: frozenset[str] | set[str]) -> bool:
        """Whether a video (its `name`) is in a skip list, which may hold names as the table writes
        them or full paths.
        """
        return bool(skip) and (
            os.path.normpath(name) in skip or str(self.folder / name) in skip or name in skip
        )

    @property
    def folder(self) -> Path:
        """What relative paths are relative to."""
        return self.source if self.source.is_dir() else self.source.parent

    def fingerprint(self, skip: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
        """What a run stores about its data: `files` (different videos named), `missing` and
        `skipped` (how many of them are not on disk, or in the skip list), `sha256` (of the table
        file's bytes; of the sorted split, class and path lines of a folder).
        """
        names = self.frame["name"].unique()
        skipped = sum(self.is_skipped(name, skip) for name in names)
        missing = sum(not os.path.exists(video) for video in self.frame["video"].unique())
        if self.source.is_dir():
            lines = zip(*(self.frame[c] for c in ("split", "label", "name")), strict=True)
            content = "".join(sorted("\t".join(cells) + "\n" for cells in lines)).encode()
        else:
            content = self.source.read_bytes()
        return {
            "files": len(names),
            "missing": missing,
            "skipped": skipped,
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def load_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    multi_label: bool | None = None,
) -> VideoTable:
    """Reads a table file, or a folder with one folder per class.

    Args:
        path: .csv, .tsv or .parquet file, or a folder. Class folders hold video files or folders of
            frame images.
        columns: our column name -> the file's (`{"label": "class"}`); see `parse_columns`.
        class_names: the classes and their order; by default the labels that occur, sorted.
        multi_label: True or False to say it; by default a table is multi-label if any row has a
            `|`.

    Raises:
        TableError: with the file and the row of the first fault, and the number of the others.
    """
    source, columns = Path(path), dict(columns or {})
    for ours in columns:
        _check_our_name(ours)
    if source.is_dir():
        if columns:
            raise TableError(
                f"{source}: is a folder of class folders, which has no columns to rename"
            )
        records, notes = _scan_folder(source)
        word, multi_label = "row", bool(multi_label)
    else:
        word, header, lines = read_rows(source)
        picked = _pick_columns(source, word, header, columns)
        records = [(row, {ours: cells[i] for ours, i in picked.items()}) for row, cells in lines]
        notes = []
        if multi_label is None:
            multi_label = any("|" in cells["label"] for _, cells in records)
    if not records:
        raise TableError(f"{source}: has a header but no rows; write one row per sample below it")
    frame = _check_rows(source, word, records, multi_label)
    found = sorted(
        {label for text in frame["label"].unique() for label in split_labels(text)}, key=natural_key
    )
    table = VideoTable(source, frame, tuple(found), multi_label, word, tuple(notes))
    return table if class_names is None else table.with_class_names(class_names)


def parse_columns(text: str) -> dict[str, str]:
    """`"label=class,split=split01"` -> `{"label": "class", "split": "split01"}` (ours -> the
    file's).

    Raises:
        TableError: a part that is not `ours=theirs`, an unknown name of ours (the nearest is
            named), or one given twice.
    """
    columns: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise TableError(
                f"--columns: {part.strip()!r} is not of the form OURS=THEIRS, such as "
                "label=class,split=split01"
            )
        _check_our_name(ours)
        if ours in columns:
            raise TableError(f"--columns: {ours!r} is given twice")
        columns[ours] = theirs
    return columns


def _check_our_name(ours: str) -> None:
    if ours not in REQUIRED + OPTIONAL:
        raise TableError(
            f"--columns: {ours!r} is not a column of ours{nearest(ours, REQUIRED + OPTIONAL)}"
        )


def split_labels(text: str) -> list[str]:
    """`"run|jump"` -> `["run", "jump"]`; an empty text has no labels."""
    return [label.strip() for label in text.split("|")] if text else []


def split_by_hash(name: str) -> str:
    """The split of a video in a folder without split folders: about 80 % train, 10 % val, 10 %
    test.

    It depends on the path below the root alone (sha256 of it, modulo 10), so adding or removing
    other videos never moves one from a split to another, and every machine agrees.
    """
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return "train" if bucket < 8 else "val" if bucket == 8 else "test"


def read_rows(source: Path) -> tuple[str, list[str], list[tuple[int, list[str]]]]:
    """What the rows count ("line" or "row"), the header, and each row's number and cells, as many
    as the header's.
    """
    if not source.exists():
        raise TableError(f"{source}: no such table or folder")
    try:
        if source.suffix.lower() == ".parquet":
            return "row", *_read_parquet(source)
        if source.suffix.lower() in (".csv", ".tsv"):
            return "line", *_read_csv(source, "\t" if source.suffix.lower() == ".tsv" else ",")
    except OSError as error:
        raise TableError(f"{source}: cannot be read ({error.strerror or error})") from error
    raise TableError(
        f"{source}: is not a table; expected a .csv, .tsv or .parquet file, or a folder with one "
        "folder per class"
    )


def _read_csv(source: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    content, separator = source.read_bytes(), "tab" if delimiter == "\t" else "comma"
    if b"\0" in content[:4096]:
        raise TableError(f"{source}: holds binary data, not text; save the table as CSV in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TableError(
            f"{source}, line {line}: is not UTF-8 text; save the table as CSV in UTF-8"
        ) from error
    reader, rows, start = (
        csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True),
        [],
        1,
    )
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((start, [cell.strip() for cell in cells]))
            start = (
                reader.line_num + 1
            )  # a quoted cell may span lines: a row's place is its first one
    except csv.Error as error:
        raise TableError(
            f"{source}, line {start}: {error}; is a quotation mark left open?"
        ) from error
    if not rows:
        raise TableError(
            f"{source}: is empty; the first line must name the columns {', '.join(REQUIRED)}"
        )
    header = rows.pop(0)[1]
    if len(header) == 1 and (other := next((c for c in ";\t,|" if c in header[0]), None)):
        raise TableError(
            f"{source}, line 1: columns are separated by {other!r}; a {source.suffix} table needs "
            f"a {separator}"
        )
    problem = f"{{}} columns where the header has {len(header)}: a {separator} too {{}}"
    wrong = [
        (n, problem.format(len(c), "few" if len(c) < len(header) else "many"))
        for n, c in rows
        if len(c) != len(header)
    ]
    raise_first(source, "line", wrong)
    return header, rows


def _read_parquet(source: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        content = parquet.read_table(source)
    except pyarrow.ArrowException as error:
        raise TableError(f"{source}: is not a Parquet file, or a damaged one") from error
    columns = [
        ["" if v is None or v != v else str(v).strip() for v in column.to_pylist()]
        for column in content.columns
    ]
    return list(content.column_names), [
        (i, list(cells)) for i, cells in enumerate(zip(*columns, strict=True), start=1)
    ]


def _pick_columns(
    source: Path, word: str, header: list[str], columns: Mapping[str, str]
) -> dict[str, int]:
    """Where each of our columns stands in the file."""
    place, picked = f"{source}, line 1" if word == "line" else str(source), {}
    for ours in REQUIRED + OPTIONAL:
        theirs = columns.get(ours, ours)
        if header.count(theirs) > 1:
            raise TableError(f"{place}: column {theirs!r} appears twice; rename one of them")
        if theirs in header:
            picked[ours] = header.index(theirs)
        elif ours in REQUIRED or ours in columns:
            near = nearest(theirs, filter(None, header))
            rename = (
                ""
                if ours in columns
                else f"{'' if near[-1] == '?' else '.'} Or say which column it is with --columns "
                f"{ours}=NAME"
            )
            raise TableError(f"{place}: no column {theirs!r}{near}{rename}")
    return picked


def _check_rows(
    source: Path, word: str, records: list[tuple[int, dict[str, str]]], multi_label: bool
) -> pd.DataFrame:
    raise_first(
        source,
        word,
        [(row, problem) for row, cells in records if (problem := _row_problem(cells, multi_label))],
    )
    folder, rows = source if source.is_dir() else source.parent, [cells for _, cells in records]
    columns: dict[str, Any] = {
        "row": [row for row, _ in records],
        "name": [cells["video"] for cells in rows],
    }
    columns["video"] = [str(folder / name) for name in columns["name"]]
    columns |= {c: [cells[c] for cells in rows] for c in ("label", "split")}
    columns |= {c: np.array([_seconds(cells.get(c, "")) for cells in rows]) for c in OPTIONAL}
    return pd.DataFrame(columns)


def _row_problem(cells: dict[str, str], multi_label: bool) -> str | None:
    """What is wrong with one row, or None."""
    for column in ("video", "split"):
        if not cells[column]:
            return f"the {column} is empty"
    if "\n" in cells["video"] or "\r" in cells["video"]:
        return f"the video's name {cells['video']!r} holds a line break"
    labels = split_labels(cells["label"])
    if not labels and not multi_label:
        return "the label is empty; only a multi-label table may have rows without a label"
    if not all(labels):
        return f"an empty label in {cells['label']!r}"
    if len(set(labels)) != len(labels):
        return f"label {_first_repeat(labels)!r} appears twice in {cells['label']!r}"
    if len(labels) > 1 and not multi_label:
        return f"{len(labels)} labels in {cells['label']!r}, but the table is read as single-label"
    return span_problem(cells)


def span_problem(cells: dict[str, str]) -> str | None:
    """What is wrong with `start_seconds` and `end_seconds`, or None."""
    for column in OPTIONAL:
        try:
            value = _seconds(cells.get(column, ""))
        except ValueError:
            return f"{column} is {cells[column]!r}, which is not a number of seconds"
        if cells.get(column) and not 0 <= value < math.inf:
            return f"{column} is {cells[column]}, which is not a time in the video (0 or later)"
    start, end = (_seconds(cells.get(column, "")) for column in OPTIONAL)
    if start >= end or end == 0:  # False for an absent time, which is NaN
        begin = 0.0 if math.isnan(start) else start
        return (
            f"the span from {begin:g} s to {end:g} s holds nothing; start_seconds must be less "
            "than end_seconds"
        )
    return None


def _seconds(text: str) -> float:
    return float(text) if text else math.nan


def raise_first(source: Path, word: str, faults: list[tuple[int, str]]) -> None:
    """Raises TableError with the first fault, a row and what is wrong there, and the rows of the
    others; nothing where there is none.
    """
    if faults:
        row, problem = faults[0]
        others = [str(n) for n in dict.fromkeys(n for n, _ in faults) if n != row]
        more = (
            f" (also wrong: {word} "
            f"{', '.join(others[:5])}{f' and {len(others) - 5} more' if len(others) > 5 else ''})"
            if others
            else ""
        )
        raise TableError(f"{source}, {word} {row}: {problem}{more}")


def near_only(name: str, known: Iterable[str]) -> str:
    """The hint of `nearest`, and nothing where no name is near: a list of hundreds of classes helps
    nobody.
    """
    return hint if (hint := nearest(name, known)).startswith("; did you mean") else ""


def _first_repeat(names: Sequence[str]) -> str:
    return next(name for i, name in enumerate(names) if name in names[:i])


def _scan_folder(root: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """The rows of `root/split/class/*` or `root/class/*`, in natural order, and notes for the
    user.
    """
    below = _entries(root)
    folders = [entry for entry in below if entry.is_dir()]
    if not folders:
        what = "holds files but no class folders" if below else "is empty"
        raise TableError(
            f"{root}: {what}; expected one folder per class (root/walk/*.mp4) or a table file"
        )
    ignored: list[str] = [entry.name for entry in below if not entry.is_dir()]
    if any(folder.name in FOLDER_SPLITS for folder in folders):
        if wrong := [folder.name for folder in folders if folder.name not in FOLDER_SPLITS]:
            near = near_only(wrong[0], FOLDER_SPLITS)
            raise TableError(
                f"{root}: folder {wrong[0]!r} stands beside split folders (train, val, test) but "
                f"is none{near}"
            )
        folders.sort(key=lambda folder: FOLDER_SPLITS.index(folder.name))
        classes = [
            (split, entry)
            for split in folders
            for entry in _entries(Path(split.path))
            if entry.is_dir()
        ]
        if empty := {split.path for split in folders} - {split.path for split, _ in classes}:
            raise TableError(
                f"{min(empty)}: holds no class folders; expected {Path(min(empty)).name}/walk/*.mp4"
            )
        found = [
            (f"{split.name}/{entry.name}/{v}", entry.name, split.name)
            for split, entry in classes
            for v in _videos(entry, ignored)
        ]
        notes = []
    else:
        names = [
            (f"{folder.name}/{v}", folder.name)
            for folder in folders
            for v in _videos(folder, ignored)
        ]
        found = [(name, label, split_by_hash(name)) for name, label in names]
        notes = [
            "splits follow from a hash of each path: about 80 % train, 10 % val, 10 % test (or "
            "make train, val and test folders)"
        ]
    if ignored:
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        notes.append(f"left out because no video by their names: {', '.join(ignored[:3])}{more}")
    return [
        (i, {"video": v, "label": label, "split": s})
        for i, (v, label, s) in enumerate(found, start=1)
    ], notes


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(
            (e for e in entries if not e.name.startswith(".")), key=lambda e: natural_key(e.name)
        )


def _videos(folder: os.DirEntry[str], ignored: list[str]) -> list[str]:
    """Names of the video files and frame folders of one class, in natural order."""
    names = []
    for entry in _entries(Path(folder.path)):
        if entry.is_dir():
            with os.scandir(entry.path) as inside:
                if not any(Path(e.name).suffix.lower() in IMAGE_SUFFIXES for e in inside):
                    raise TableError(
                        f"{entry.path}: is not a folder of frame images; videos must lie directly "
                        "in their class folder"
                    )
            names.append(entry.name)
        elif Path(entry.name).suffix.lower() in VIDEO_SUFFIXES:
            names.append(entry.name)
        else:
            ignored.append(f"{folder.name}/{entry.name}")
    if not names:
        raise TableError(f"{folder.path}: class folder without a video or a folder of frames")
    return names
