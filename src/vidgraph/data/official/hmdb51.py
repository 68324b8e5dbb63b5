"""HMDB51 (Kuehne et al. 2011): the official split files.

    brush_hair_test_split1.txt      April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1
                                    1 train, 2 test, 0 neither; and split 2, 3

A file per class and split; of each class 70 clips are for training and 30 for test. A name begins
with the film or web video that the clip was cut from. The official splits have no validation clips.
Published numbers are means over the three test splits, of networks that were trained on all
training clips.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pandas as pd

from vidgraph.data.cells import read_lines
from vidgraph.data.label_files import UNUSED, LabelledVideos
from vidgraph.errors import DataError

_LINE, _EXAMPLE = r"(?P<name>\S.*)\.avi\s+(?P<code>[012])", "NAME.avi 1, with 0, 1 or 2"
_SPLITS = {"0": UNUSED, "1": "train", "2": "test"}


def read_labels(folder: str | Path) -> LabelledVideos:
    """Columns `split01` to `split03`; `unused` clips belong to neither part of a split."""
    files = {
        (found[1], found[2]): path
        for path in sorted(Path(folder).glob("*_test_split?.txt"))
        if (found := re.fullmatch(r"(\w+)_test_split([123])\.txt", path.name))
    }
    if not files:
        raise DataError(
            f"{folder}: holds no file such as wave_test_split1.txt; give the folder of the "
            "official split files"
        )
    labels, splits = zip(*files, strict=True)
    for label, split in product(sorted(set(labels)), sorted(set(splits))):
        if (label, split) not in files:
            missing = f"{label}_test_split{split}.txt"
            raise DataError(f"{folder}: lacks {missing}; other classes have that split")
    lists = []
    for (label, split), path in files.items():
        rows = read_lines(path, _LINE, _EXAMPLE)
        film = rows["name"].str.rpartition(f"_{label}_")[0]
        film = film.mask(film == "", rows["name"])
        lists.append(rows.assign(label=label, group=film, column=f"split0{split}"))
    rows = pd.concat(lists)
    rows["split"] = rows["code"].map(_SPLITS)
    return LabelledVideos("HMDB51", rows.sort_values(["label", "name"]))
