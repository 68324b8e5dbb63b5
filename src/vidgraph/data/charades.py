"""Charades (Sigurdsson et al. 2016): the official annotation files as a table of videos and a table
of action intervals.

    Charades_v1_classes.txt   c008 Opening a door
    Charades_v1_train.csv     id,subject,scene,...,actions,length        actions: c092 11.90
    21.20;c147 0.00 12.60 Charades_v1_test.csv

A class is named by its whole line, `c008 Opening a door`, so that classes sort in the official
order and other tables may call them by their code. Videos are files ID.mp4, or folders of frames
ID/ID-000001.jpg at 24 per second.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vidgraph.data.label_files import (
    check_hold_out,
    check_videos_once,
    folder_in_table,
    names_in,
    read_label_file,
    share_of,
    write_csv,
)
from vidgraph.errors import DataError, TableError, nearest

CLASSES, ANNOTATIONS = (
    "Charades_v1_classes.txt",
    {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"},
)
HELD = "val"
FRAMES_PER_SECOND = 24  # of the official folders of frames


class _Action(NamedTuple):
    """One action of a video: its class's code, and when it happens."""

    code: str
    start_seconds: float
    end_seconds: float


class _Sample(NamedTuple):
    """One video of an annotation file: where it stands, its id, who is in it, its actions, its
    length (infinite if not told).
    """

    place: str
    video: str
    subject: str
    actions: list[_Action]
    seconds: float


@dataclass(frozen=True)
class MadeTables:
    """What was written.

    Attributes:
        path: the table of videos.
        intervals: the table of actions.
        num_rows: videos per split.
        num_classes: that a video shows.
        unused: the classes of the class list that none shows; the tables do not have them.
        num_actions: rows of the table of actions.
        cut: how many of these end at their video's end, but later in the official file.
        left_out: actions that the table of actions lacks, since they begin after their video or end
            before they begin.
        absent: how many of the videos are not in the folder.
        videos: that folder.
        folders: whether videos are folders of frames.
    """

    path: Path
    intervals: Path
    num_rows: dict[str, int]
    num_classes: int
    unused: tuple[str, ...]
    num_actions: int
    cut: int
    left_out: int
    absent: int
    videos: Path
    folders: bool

    def lines(self) -> list[str]:
        """For people."""
        rows = ", ".join(f"{split} {n:,}" for split, n in self.num_rows.items())
        lines = [
            f"{self.path}: Charades, {sum(self.num_rows.values()):,} videos ({rows}), "
            f"{self.num_classes} classes",
            f"{self.intervals}: {self.num_actions:,} actions; train with --data.table.intervals "
            f"{self.intervals}",
        ]
        if self.unused:
            more = f" and {len(self.unused) - 3} more" if len(self.unused) > 3 else ""
            lines.append(
                f"note: no video shows {', '.join(self.unused[:3])}{more}; the tables do not have "
                "them"
            )
        if self.cut or self.left_out:
            what = (
                f"{self.cut:,} actions end after their video and are cut there, "
                f"{self.left_out:,} lie outside of it and are left out"
            )
            lines.append(f"note: {what}; a video's label names them all")
        if self.folders:
            lines.append(
                "note: videos are folders of frames; train with --data.table.folder_fps "
                f"{FRAMES_PER_SECOND}"
            )
        return (
            [*lines, f"note: {self.videos} lacks {self.absent:,} of them"] if self.absent else lines
        )


def make_tables(
    labels: str | Path, videos: str | Path, out: str | Path, hold_out: float = 0.0
) -> MadeTables:
    """Writes `video, label, split` (splits `train` and `test`, the official ones) and beside it, as
    OUT_intervals.csv, when what happens.

    Published numbers are on the official test videos, which papers also call validation. `hold_out`
    keeps a share of the training people as split `val`, with all their videos: the official splits,
    too, have no person in common. Which people follows from a hash of their ids.

    Args:
        labels: the folder of official annotation files.
        videos: the folder that holds ID.mp4, or a folder of frames, per video.
        out: the .csv file; paths in it are relative to its folder where `videos` lies below it.
        hold_out: share of the training people, 0 to below 1.

    Raises:
        DataError: a folder or an annotation file is missing, unreadable, or of another form; no
            video is there.
        TableError: an action of an unknown class, or a video that is listed twice.
        RunError: a table cannot be written.
    """
    labels, videos, out = Path(labels), Path(videos), Path(out)
    if out.suffix.lower() != ".csv":
        raise DataError(f"{out}: the table is written as .csv; name it so")
    check_hold_out(hold_out)
    classes = _read_classes(labels / CLASSES)
    samples = {
        split: list(_read_samples(labels / name, classes)) for split, name in ANNOTATIONS.items()
    }
    check_videos_once(
        (sample.video, sample.place) for listed in samples.values() for sample in listed
    )
    if hold_out:
        train, held = (
            [s for s in samples["train"] if (share_of(s.subject) < hold_out) is held_out]
            for held_out in (False, True)
        )
        samples = {"train": train, HELD: held, "test": samples["test"]}
    suffix, absent = _find_videos(
        videos, [sample.video for listed in samples.values() for sample in listed]
    )
    folder, intervals = folder_in_table(videos, out), out.with_name(f"{out.stem}_intervals.csv")
    paths = {
        sample.video: (folder / f"{sample.video}{suffix}").as_posix()
        for listed in samples.values()
        for sample in listed
    }
    rows = [
        (paths[s.video], "|".join(classes[code] for code in _codes(s)), split)
        for split, listed in samples.items()
        for s in listed
    ]
    spans = [(s, action) for listed in samples.values() for s in listed for action in s.actions]
    within = [
        (s, action)
        for s, action in spans
        if action.start_seconds < min(action.end_seconds, s.seconds)
    ]
    cut = sum(action.end_seconds > s.seconds for s, action in within)
    lines = [
        (
            paths[s.video],
            classes[a.code],
            f"{a.start_seconds:g}",
            f"{min(a.end_seconds, s.seconds):g}",
        )
        for s, a in within
    ]
    write_csv(intervals, ("video", "label", "start_seconds", "end_seconds"), lines)
    write_csv(out, ("video", "label", "split"), rows)
    used = {code for listed in samples.values() for sample in listed for code in _codes(sample)}
    return MadeTables(
        path=out,
        intervals=intervals,
        num_rows={split: len(listed) for split, listed in samples.items()},
        num_classes=len(used),
        unused=tuple(name for code, name in classes.items() if code not in used),
        num_actions=len(within),
        cut=cut,
        left_out=len(spans) - len(within),
        absent=absent,
        videos=videos,
        folders=not suffix,
    )


# ---- annotation files ----------------------------------------------------------------------------


def _read_classes(path: Path) -> dict[str, str]:
    """The whole line of each class by its code, in the official order."""
    classes: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        found = re.fullmatch(r"(c\d+)\s+(\S.*)", line.strip())
        if line.strip() and (found is None or "|" in line):
            raise TableError(
                f"{path}, line {number}: {line.strip()!r} is not of the form c008 Opening a door"
            )
        if (
            found is not None
            and classes.setdefault(found[1], f"{found[1]} {found[2]}") != f"{found[1]} {found[2]}"
        ):
            raise TableError(f"{path}, line {number}: class {found[1]} is listed twice")
    if not classes:
        raise TableError(f"{path}: is empty; it must hold the classes")
    return classes


def _text(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; give the folder of the official annotation files "
            "(Charades.zip)"
        )
    return read_label_file(path)


def _read_samples(path: Path, classes: dict[str, str]) -> Iterator[_Sample]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for name in ("id", "actions"):
            if name not in (reader.fieldnames or ()):
                raise TableError(
                    f"{path}, line 1: no column {name!r}{nearest(name, reader.fieldnames or ())}"
                )
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            video, seconds = (row["id"] or "").strip(), (row.get("length") or "").strip()
            if not video:
                raise TableError(f"{place}: the id is empty")
            actions = [
                _action(text, place, classes)
                for text in (row["actions"] or "").split(";")
                if text.strip()
            ]
            length = _number(seconds, f"{place}: length") if seconds else math.inf
            yield _Sample(place, video, (row.get("subject") or video).strip(), actions, length)
    except csv.Error as error:
        raise TableError(
            f"{path}, line {reader.line_num}: {error}; was it downloaded whole?"
        ) from error


def _action(text: str, place: str, classes: dict[str, str]) -> _Action:
    """`c092 11.90 21.20` as a class and times."""
    words = text.split()
    if len(words) != 3:
        raise TableError(f"{place}: action {text.strip()!r} is not of the form c092 11.90 21.20")
    if words[0] not in classes:
        raise TableError(
            f"{place}: label {words[0]!r} is not among the {len(classes)} classes of {CLASSES}"
        )
    return _Action(
        words[0],
        *(_number(word, f"{place}: a time of action {text.strip()!r}") for word in words[1:]),
    )


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TableError(f"{what} is {text!r}, which is not a number of seconds")
    return value


def _codes(sample: _Sample) -> list[str]:
    """The classes of a video, each once, in the official order."""
    return sorted({action.code for action in sample.actions})


# ---- checks --------------------------------------------------------------------------------------


def _find_videos(folder: Path, videos: list[str]) -> tuple[str, int]:
    """What the names of videos end in, and how many of them are absent."""
    present = names_in(folder)
    counts = {
        suffix: sum(f"{video}{suffix}" in present for video in videos) for suffix in (".mp4", "")
    }
    suffix = max(counts, key=lambda name: counts[name])
    if not counts[suffix]:
        example = f"{videos[0]}.mp4 or the folder {videos[0]}" if videos else "none listed"
        raise DataError(
            f"{folder}: holds none of the {len(videos):,} videos; expected {example}, and on"
        )
    return suffix, len(videos) - counts[suffix]
