"""Kinetics-400, 600 and 700 (Kay et al. 2017): the official lists.

    train.csv, validate.csv, test.csv      label,youtube_id,time_start,time_end,split

also with the data set's name in front. A clip is the ten seconds of a web video that its row names,
as a file `YOUTUBEID_000010_000020.mp4`. Videos vanish from the web, so that no two copies of the
data set are the same. Published numbers are on the validation clips.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from vidgraph.data.cells import read_columns, read_text, refuse, refuse_unknown, to_numbers
from vidgraph.data.label_files import LabelledVideos
from vidgraph.errors import DataError

_FILES = {"train": "train", "val": "validate|val|validation", "test": "test"}
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read_labels(folder: str | Path, classes: str | Path | None = None) -> LabelledVideos:
    """Held-out training clips become split `held`, so that checkpoints can be chosen on clips that
    no number is reported on. A list of the test without labels, as some releases have, is left out.

    `classes` is a file of the known classes, one per line; None: those that occur.
    """
    known = None if classes is None else set(read_text(Path(classes)).splitlines())
    lists = []
    for split, names in _FILES.items():
        found = sorted(Path(folder).glob("*.csv"))
        found = [path for path in found if re.fullmatch(rf"(.*[-_])?({names})\.csv", path.name)]
        if len(found) > 1:
            several = f"several lists of {split} ({', '.join(path.name for path in found)})"
            raise DataError(f"{folder}: holds {several}; keep one data set per folder")
        for path in found:
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
