"""HMDB51 (Kuehne et al. 2011): the official split files as one table with a column per split.

    brush_hair_test_split1.txt      April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1        1 train, 2
    test, 0 neither; and split 2, 3

A file per class and split; of each class 70 clips are for training and 30 for test. A name begins
with the film or web video that the clip was cut from. Videos are files below their class's folder
or not, .avi as they come or re-encoded, or folders of frames.
"""

from __future__ import annotations

import re
from pathlib import Path

from vidgraph.data.label_files import (
    UNUSED,
    MadeSplits,
    check_hold_out,
    check_table_name,
    names_in,
    read_label_file,
    share_of,
    write_splits,
)
from vidgraph.errors import DataError, TableError
from vidgraph.util import natural_key

_CODES = {"0": None, "1": "train", "2": "test"}

Listed = dict[tuple[str, str], dict[str, str]]


def make_table(
    labels: str | Path,
    videos: str | Path,
    out: str | Path,
    *,
    hold_out: float = 0.0,
    present_only: bool = False,
) -> MadeSplits:
    """Writes `video, label, split01, split02, split03`, where `unused` clips are of neither part of
    a split.

    The official splits have no validation clips. `hold_out` keeps a share of the films that
    training clips were cut from as split `val`, with all their training clips; which ones follows
    from a hash of their names. Published numbers are means over the three test splits, of networks
    that were trained on all training clips.

    Args:
        labels: the folder of official split files (test_train_splits).
        videos: the folder of the videos.
        out: the .csv file; paths in it are relative to its folder where `videos` lies below it.
        hold_out: share of the films, 0 to below 1.
        present_only: list only videos that are there, so that a part of the data set has no faults.

    Raises:
        DataError: a folder is missing or unreadable, a class lacks the file of a split, or no video
            is there.
        TableError: a file of another form, or a video that it lists twice.
        RunError: the table cannot be written.
    """
    labels, videos, out = Path(labels), Path(videos), Path(out)
    check_table_name(out)
    check_hold_out(hold_out)
    files = _split_files(labels)
    listed: Listed = {}
    for (label, split), path in files.items():
        _add_file(listed, path, label, f"split0{split}", hold_out)
    columns = sorted({f"split0{split}" for _, split in files})
    return write_splits(out, "HMDB51", videos, dict(sorted(listed.items())), columns, present_only)


def _split_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The file of each class and split."""
    found = {}
    for name in sorted(names_in(folder, ".txt"), key=natural_key):
        if match := re.fullmatch(r"(?P<label>\w+)_test_split(?P<split>[123])\.txt", name):
            found[match["label"], match["split"]] = folder / name
    if not found:
        raise DataError(
            f"{folder}: holds no file such as wave_test_split1.txt; give the folder of the "
            "official split files"
        )
    labels, splits = ({key[place] for key in found} for place in (0, 1))
    lacking = sorted({(label, split) for label in labels for split in splits} - found.keys())
    if lacking:
        raise DataError(
            f"{folder}: lacks {lacking[0][0]}_test_split{lacking[0][1]}.txt, and other classes "
            "have that split"
        )
    return found


def _add_file(listed: Listed, path: Path, label: str, column: str, hold_out: float) -> None:
    for number, line in enumerate(read_label_file(path).splitlines(), start=1):
        if not line.strip():
            continue
        place, found = (
            f"{path}, line {number}",
            re.fullmatch(r"(?P<name>\S.*)\.avi\s+(?P<code>[012])", line.strip()),
        )
        if found is None:
            raise TableError(
                f"{place}: {line.strip()!r} is not of the form NAME.avi 1, with 0, 1 or 2"
            )
        splits = listed.setdefault((label, found["name"]), {})
        if column in splits:
            raise TableError(f"{place}: video {found['name']} is listed a second time")
        film, split = found["name"].rpartition(f"_{label}_")[0], _CODES[found["code"]]
        held = split == "train" and share_of(film or found["name"]) < hold_out
        splits[column] = "val" if held else split or UNUSED
