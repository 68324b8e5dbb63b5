"""Kinetics-400, 600 and 700 (Kay et al. 2017): the official lists.

    train.csv, validate.csv, test.csv      label,youtube_id,time_start,time_end,split

also with the data set's name in front. A clip is the ten seconds of a web video that its row names,
as a file `YOUTUBEID_000010_000020.mp4`. Videos vanish from the web, so that no two copies of the
data set are the same. Published numbers are on the validation clips.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vidgraph.data.cells import read_columns, read_text, refuse, refuse_unknown, to_numbers
from vidgraph.data.label_files import LabelledVideos
from vidgraph.errors import DataError

_FILES = {
    "train": ("train.csv",),
    "val": ("validate.csv", "val.csv", "validation.csv"),
    "test": ("test.csv",),
}
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read_labels(folder: str | Path, classes: str | Path | None = None) -> LabelledVideos:
    """Reads the lists of a folder; held-out training clips become split `held`, so that checkpoints
    can be chosen on clips that no number is reported on.

    The list of the test has no labels in some releases, and is then left out.

    Args:
        folder: of the lists.
        classes: file of the known classes, one per line; None: those that occur.

    Raises:
        DataError: there is no list, several of one split, or one that cannot be read.
        TableError: a list of another form, or an unknown class.
    """
    known = None if classes is None else set(read_text(Path(classes)).splitlines())
    lists = []
    for split, names in _FILES.items():
        endings = tuple(mark + name for name in names for mark in ("-", "_"))
        files = [
            file
            for file in sorted(Path(folder).glob("*.csv"))
            if file.name in names or file.name.endswith(endings)
        ]
        if len(files) > 1:
            raise DataError(
                f"{folder}: holds several lists of {split} "
                f"({', '.join(file.name for file in files)}); keep one data set per folder"
            )
        for path in files:
            if split == "test" and "label" not in read_text(path).partition("\n")[0]:
                continue
            rows = _read_list(path)
            if known is not None:
                refuse_unknown(path, rows["label"], known, "class", f"of {classes}")
            lists.append(rows.assign(split=split, column="split"))
    if not lists:
        raise DataError(
            f"{folder}: holds no train.csv with labels; give the folder of the official lists"
        )
    return LabelledVideos("Kinetics", pd.concat(lists), held="held")


def _read_list(path: Path) -> pd.DataFrame:
    rows = read_columns(path, _COLUMNS)
    for column in ("label", "youtube_id"):
        refuse(path, rows[column], rows[column] == "", f"the {column} is empty")
    start, end = (
        to_numbers(path, rows[column]).astype(int).map("{:06d}".format) for column in _COLUMNS[2:]
    )
    return rows.assign(name=rows["youtube_id"] + "_" + start + "_" + end, group=rows["youtube_id"])
