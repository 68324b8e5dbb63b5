"""UCF101 (Soomro, Zamir and Shah 2012): the official train/test lists as one table with a column
per split.

    classInd.txt        1 ApplyEyeMakeup
    trainlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1        and 02, 03
    testlist01.txt      ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi

A name tells the group that a clip is of: 25 per class, cut from one recording or of one person
each. Videos are files below their class's folder or not, .avi as they come or re-encoded, or
folders of frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vidgraph.data.label_files import MadeSplits, check_table_name, read_label_file, write_splits
from vidgraph.data.table import near_only
from vidgraph.errors import DataError, TableError

CLASSES = "classInd.txt"
VAL_GROUPS = range(22, 26)  # training groups of all three splits
_SPLITS = ("01", "02", "03")

Listed = dict[tuple[str, str], dict[str, str]]


def make_table(
    labels: str | Path,
    videos: str | Path,
    out: str | Path,
    *,
    whole_train: bool = False,
    present_only: bool = False,
) -> MadeSplits:
    """Writes `video, label, split01, split02, split03`; lists that are absent have no column.

    The official splits have no validation videos. Those of the training groups 22 to 25, which are
    the same in all three splits, become split `val`, so that checkpoints are not chosen on test
    videos. Published numbers are means over the three test splits, of networks that were trained on
    all training groups.

    Args:
        labels: the folder of official lists (ucfTrainTestlist).
        videos: the folder of the videos.
        out: the .csv file; paths in it are relative to its folder where `videos` lies below it.
        whole_train: leave the groups 22 to 25 in split `train`.
        present_only: list only videos that are there, so that a part of the data set has no faults.

    Raises:
        DataError: a folder or a list is missing or unreadable; no video is there.
        TableError: a list of another form, an unknown class, or a video that a split lists twice.
        RunError: the table cannot be written.
    """
    labels, videos, out = Path(labels), Path(videos), Path(out)
    check_table_name(out)
    classes = _read_classes(labels / CLASSES)
    splits = [
        split
        for split in _SPLITS
        if (labels / f"trainlist{split}.txt").is_file()
        or (labels / f"testlist{split}.txt").is_file()
    ]
    if not splits:
        raise DataError(
            f"{labels}: holds no trainlist01.txt; give the folder of the official lists "
            "(ucfTrainTestlist)"
        )
    listed: Listed = {}
    for split in splits:
        _add_split(listed, labels, split, classes, whole_train)
    return write_splits(
        out,
        "UCF101",
        videos,
        dict(sorted(listed.items())),
        [f"split{split}" for split in splits],
        present_only,
    )


def _read_classes(path: Path) -> dict[str, str]:
    """The number of each class, as it is written."""
    classes: dict[str, str] = {}
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; give the folder of the official lists "
            "(ucfTrainTestlist)"
        )
    for number, line in _lines(path):
        words = line.split()
        if len(words) != 2 or not words[0].isdigit():
            raise TableError(f"{path}, line {number}: {line!r} is not of the form 1 ApplyEyeMakeup")
        if words[1] in classes or words[0] in classes.values():
            raise TableError(f"{path}, line {number}: class {line!r} is listed twice")
        classes[words[1]] = words[0]
    if not classes:
        raise TableError(f"{path}: is empty; it must hold the classes")
    return classes


def _add_split(
    listed: Listed, labels: Path, split: str, classes: dict[str, str], whole_train: bool
) -> None:
    column, seen = f"split{split}", dict[tuple[str, str], str]()
    for name in ("train", "test"):
        path = labels / f"{name}list{split}.txt"
        for number, line in _lines(path):
            place = f"{path}, line {number}"
            video, group = _video(line, place, classes)
            if video in seen:
                raise TableError(
                    f"{place}: video {video[1]} is listed a second time, after {seen[video]}"
                )
            seen[video] = place
            held = name == "train" and group in VAL_GROUPS and not whole_train
            listed.setdefault(video, {})[column] = "val" if held else name


def _video(line: str, place: str, classes: dict[str, str]) -> tuple[tuple[str, str], int]:
    """Class and name of a line, and its group."""
    found = re.fullmatch(
        r"(?P<label>[^/]+)/(?P<name>\S+_g(?P<group>\d+)_c\d+)\.avi(?:\s+(?P<number>\d+))?", line
    )
    if found is None:
        raise TableError(
            f"{place}: {line!r} is not of the form ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
        )
    label = found["label"]
    if label not in classes:
        raise TableError(
            f"{place}: class {label!r} is not among the {len(classes)} of "
            f"{CLASSES}{near_only(label, classes)}"
        )
    if found["number"] not in (None, classes[label]):
        raise TableError(
            f"{place}: class {label!r} has number {found['number']} here and {classes[label]} in "
            f"{CLASSES}"
        )
    return (label, found["name"]), int(found["group"])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    for number, line in enumerate(read_label_file(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()
