"""Charades (Sigurdsson et al. 2016): the official annotation files.

    Charades_v1_classes.txt   c008 Opening a door
    Charades_v1_train.csv     id,subject,scene,...,actions,length
                              actions: c092 11.90 21.20;c147 0.00 12.60
    Charades_v1_test.csv      likewise

A class is named by its whole line, `c008 Opening a door`, so that classes sort in the official
order and other tables may call them by their code. Videos are files ID.mp4, or folders of frames
ID/ID-000001.jpg at 24 per second (`--data.table.folder_fps 24`). Published numbers are on the test
videos, which papers also call validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vidgraph.data.cells import read_columns, read_lines, refuse, refuse_unknown, to_numbers
from vidgraph.data.label_files import LabelledVideos

CLASSES = "Charades_v1_classes.txt"


def read_labels(folder: str | Path) -> LabelledVideos:
    """Splits `train` and `test`, the official ones, and when what happens. A held-out person leaves
    `train` with all videos of theirs: the official splits, too, have no person in common.
    """
    pattern = r"(?P<code>c\d+)\s+(?P<name>[^\s|][^|]*)"
    lines = read_lines(Path(folder) / CLASSES, pattern, "c008 Opening a door")
    classes = dict(zip(lines["code"], lines["code"] + " " + lines["name"], strict=True))
    rows, actions = [], []
    for split in ("train", "test"):
        videos, happened = _read_annotations(Path(folder) / f"Charades_v1_{split}.csv", classes)
        rows.append(videos.assign(split=split, column="split"))
        actions.append(happened)
    happened = pd.concat(actions, ignore_index=True)
    return LabelledVideos("Charades", pd.concat(rows), actions=happened)


def _read_annotations(path: Path, classes: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and the actions of one file, as `LabelledVideos` has them."""
    rows = read_columns(path, ("id", "actions"), ("subject", "length"))
    refuse(path, rows["id"], rows["id"] == "", "the id is empty")
    texts = rows["actions"].str.split(";").explode().str.strip()
    texts = texts[texts != ""]
    words = texts.str.extract(r"^(c\d+)\s+(\S+)\s+(\S+)$")
    refuse(path, texts, words[0].isna(), "action {} is not of the form c092 11.90 21.20")
    refuse_unknown(path, words[0], classes, "label", f"classes of {CLASSES}")
    length = rows.get("length", pd.Series("", rows.index, name="length"))  # older files have none
    length = to_numbers(path, length, may_be_empty=True).fillna(np.inf)
    actions = pd.DataFrame({"name": rows["id"].loc[words.index], "label": words[0].map(classes)})
    for column, times in (("start_seconds", words[1]), ("end_seconds", words[2])):
        actions[column] = to_numbers(path, times.rename("a time of an action"))
    actions["length"] = length.loc[words.index]
    # As the official evaluation counts: a video shows every action, also one outside of it.
    label = actions["label"].groupby(level=0).agg(lambda found: "|".join(sorted(set(found))))
    videos = pd.DataFrame({"name": rows["id"], "group": rows.get("subject", rows["id"])})
    return videos.assign(label=label.reindex(rows.index, fill_value="")), actions
