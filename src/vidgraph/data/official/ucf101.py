"""UCF101 (Soomro, Zamir and Shah 2012): the official train/test lists.

    trainlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1        and 02, 03
    testlist01.txt      ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi

A name tells the group that a clip is of: 25 per class, cut from one recording or of one person
each. Published numbers are means over the three test splits, of networks that were trained on all
training groups.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vidgraph.data.cells import read_lines
from vidgraph.data.label_files import LabelledVideos
from vidgraph.errors import DataError

VAL_GROUPS = [f"g{number}" for number in range(22, 26)]  # training groups of all three splits
_LINE = r"(?P<label>[^/]+)/(?P<name>\S+_(?P<group>g\d+)_c\d+)\.avi(?:\s+\d+)?"
_EXAMPLE = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"


def read_labels(folder: str | Path, whole_train: bool = False) -> LabelledVideos:
    """Columns `split01` to `split03`, those whose lists are there.

    The official splits have no validation videos. Those of the training groups 22 to 25, which are
    the same in all three splits, become split `val`, so that checkpoints are not chosen on test
    videos; with `whole_train` they stay in `train`.
    """
    numbers = [n for n in ("01", "02", "03") if (Path(folder) / f"trainlist{n}.txt").is_file()]
    if not numbers:
        raise DataError(
            f"{folder}: holds no trainlist01.txt; give the folder of the official lists "
            "(ucfTrainTestlist)"
        )
    lists = []
    for number in numbers:
        for split in ("train", "test"):
            lines = read_lines(Path(folder) / f"{split}list{number}.txt", _LINE, _EXAMPLE)
            lists.append(lines.assign(split=split, column=f"split{number}"))
    rows = pd.concat(lists)
    if not whole_train:
        is_held = (rows["split"] == "train") & rows["group"].isin(VAL_GROUPS)
        rows["split"] = rows["split"].mask(is_held, "val")
    return LabelledVideos("UCF101", rows.sort_values(["label", "name"]))
