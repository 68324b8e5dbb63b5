"""Something-Something v1 and v2 (Goyal et al. 2017): the official label files.

    v1   something-something-v1-labels.csv       a class per line
         ...-train.csv, ...-validation.csv       id;class
         videos: a folder of frames per id, ID/00001.jpg
    v2   labels.json                             {class: index}
         train.json, validation.json             [{"id", "label", "template", "placeholders"}, ...]
         test-answers.csv                        id;class, where it is there
         videos: ID.webm

The files may carry the data set's name in front, as v2's older release has it. The class of a v2
video is its template without brackets: "Putting [something] onto [something]". `label` tells the
same with the objects filled in, and is not used. Published numbers are on the validation videos.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from vidgraph.data.cells import read_lines, read_text, refuse_unknown
from vidgraph.data.label_files import LabelledVideos
from vidgraph.errors import DataError


def read_labels(folder: str | Path) -> LabelledVideos:
    """Splits `train`, `val` (official validation) and, with answers, `test`, of one version;
    held-out training videos become split `held`, so that checkpoints can be chosen on videos that
    no number is reported on.
    """
    folder = Path(folder)
    class_file = _find(folder, "labels")
    is_v2 = class_file.suffix == ".json"
    classes = _read_json(class_file) if is_v2 else read_text(class_file).splitlines()
    known = {_class_of(line) for line in classes}
    files = {"train": _find(folder, "train"), "val": _find(folder, "validation")}
    if list(folder.glob("*test-answers.csv")):
        files["test"] = _find(folder, "test-answers")
    lists = []
    for split, path in files.items():
        rows = _read_samples(path)
        rows["label"] = rows["label"].map(_class_of)
        refuse_unknown(path, rows["label"], known, "class", f"of {class_file.name}")
        lists.append(rows.assign(group=rows["name"], split=split, column="split"))
    return LabelledVideos(f"Something-Something v{1 + is_v2}", pd.concat(lists), held="held")


def _find(folder: Path, kind: str) -> Path:
    """The file named `KIND.csv` or `KIND.json`, with the data set's name in front or without."""
    names = (f"{kind}.csv", f"{kind}.json")
    found = [path for name in names for path in (*folder.glob(name), *folder.glob(f"*-{name}"))]
    if len(found) != 1:
        raise DataError(
            f"{folder}: holds {len(found) or 'no'} files named {names[0]} (v1) or {names[1]} (v2); "
            "give a folder with the official label files of one version"
        )
    return found[0]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({error}); was it downloaded whole?") from error


def _class_of(template: str) -> str:
    """`Putting [something] onto [something]` without its brackets."""
    return template.replace("[", "").replace("]", "").strip()


def _read_samples(path: Path) -> pd.DataFrame:
    """`name` and `label` of each video."""
    if path.suffix == ".csv":
        return read_lines(path, r"(?P<name>[^;]+?)\s*;\s*(?P<label>.+)", "ID;CLASS")
    try:
        pairs = [(str(item["id"]), item["template"]) for item in _read_json(path)]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is not a list of videos with id and template; is it the official file?"
        ) from error
    numbers = pd.RangeIndex(1, len(pairs) + 1, name="video")
    return pd.DataFrame(pairs, numbers, columns=["name", "label"])
