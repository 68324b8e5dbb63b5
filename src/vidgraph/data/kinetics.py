"""Kinetics-400, 600 and 700 (Kay et al. 2017): the official lists as one table.

    train.csv, validate.csv, test.csv      label,youtube_id,time_start,time_end,split

also with the data set's name in front. A clip is the ten seconds of a web video that its row names,
as a file `YOUTUBEID_000010_000020.mp4`: below a folder of its class (whose blanks may be
underscores), of its split, of both, or of neither. Videos vanish from the web, so that no two
copies of the data set are the same.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vidgraph.data.label_files import (
    MadeSplits,
    check_hold_out,
    check_table_name,
    folder_in_table,
    read_label_file,
    share_of,
    write_csv,
)
from vidgraph.data.table import VIDEO_SUFFIXES, near_only
from vidgraph.errors import DataError, TableError, nearest

HELD = "held"
_FILES = {
    "train": ("train.csv",),
    "val": ("validate.csv", "val.csv", "validation.csv"),
    "test": ("test.csv",),
}
_COLUMNS = ("youtube_id", "time_start", "time_end")


class _Clip(NamedTuple):
    """One row: where it stands, its class, its split, the web video, and the name of its file
    without suffix.
    """

    place: str
    label: str
    split: str
    source: str
    name: str


def make_table(
    labels: str | Path,
    videos: str | Path,
    out: str | Path,
    *,
    classes: str | Path | None = None,
    hold_out: float = 0.0,
    present_only: bool = False,
) -> MadeSplits:
    """Writes `video, label, split`, splits `train`, `val` (official validation) and, where its list
    has labels, `test`.

    Published numbers are on the validation clips. `hold_out` keeps a share of the training clips as
    split `held`, so that checkpoints can be chosen on clips that no number is reported on. Which
    ones follows from a hash of their web videos' ids.

    Args:
        labels: the folder of official lists.
        videos: the folder of the clips.
        out: the .csv file; paths in it are relative to its folder where `videos` lies below it.
        classes: file of the known classes, one per line; None: those that occur.
        hold_out: share of the training clips, 0 to below 1.
        present_only: list only clips that are there. Without it the absent ones are listed as well,
            for `vidgraph data check` to put on a skip list, so that every score counts them.

    Raises:
        DataError: a folder or a list is missing or unreadable, or no clip is there.
        TableError: a list of another form, an unknown class, or a clip that is listed twice.
        RunError: the table cannot be written.
    """
    labels, videos, out = Path(labels), Path(videos), Path(out)
    check_table_name(out)
    check_hold_out(hold_out)
    known = (
        None
        if classes is None
        else {line.strip() for line in read_label_file(Path(classes)).splitlines() if line.strip()}
    )
    clips = [
        clip for split, names in _FILES.items() for clip in _read_split(labels, split, names, known)
    ]
    if not clips:
        raise DataError(
            f"{labels}: holds no train.csv with labels; give the folder of the official lists"
        )
    _check_once(clips)
    present = _clips_in(videos)
    here = [clip.name in present for clip in clips]
    if not any(here):
        raise DataError(
            f"{videos}: holds none of the {len(clips):,} clips; expected {clips[0].name}.mp4, and "
            "on, below any folder"
        )
    paths, folder = _paths(clips, present), folder_in_table(videos, out)
    splits = [
        HELD if clip.split == "train" and share_of(clip.source) < hold_out else clip.split
        for clip in clips
    ]
    kept = [i for i in range(len(clips)) if here[i] or not present_only]
    write_csv(
        out,
        ("video", "label", "split"),
        (((folder / paths[i]).as_posix(), clips[i].label, splits[i]) for i in kept),
    )
    counts = Counter(splits[i] for i in kept)
    ordered = {split: counts[split] for split in ("train", HELD, "val", "test") if counts[split]}
    num_classes = len({clips[i].label for i in kept})
    return MadeSplits(
        out,
        "Kinetics",
        len(kept),
        {"split": ordered},
        num_classes,
        here.count(False),
        present_only,
        videos,
    )


def _read_split(
    folder: Path, split: str, names: Sequence[str], known: Collection[str] | None
) -> Iterator[_Clip]:
    """The clips of one list; none where there is no list, or one without labels, as that of the
    test is in some releases.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder of the official lists")
    found = sorted(
        file
        for file in folder.iterdir()
        if any(file.name == name or file.name.endswith((f"-{name}", f"_{name}")) for name in names)
    )
    if len(found) > 1:
        raise DataError(
            f"{folder}: holds several lists of {split} "
            f"({', '.join(file.name for file in found)}); keep one data set per folder"
        )
    return _read_list(found[0], split, known) if found else iter(())


def _read_list(path: Path, split: str, known: Collection[str] | None) -> Iterator[_Clip]:
    reader = csv.DictReader(io.StringIO(read_label_file(path), newline=""), strict=True)
    try:
        header = reader.fieldnames or ()
        if split == "test" and "label" not in header:
            return
        for name in ("label", *_COLUMNS):
            if name not in header:
                raise TableError(f"{path}, line 1: no column {name!r}{nearest(name, header)}")
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            label, source, start, end = ((row[name] or "").strip() for name in ("label", *_COLUMNS))
            if not label or not source:
                raise TableError(f"{place}: the {'youtube_id' if label else 'label'} is empty")
            if known is not None and label not in known:
                raise TableError(
                    f"{place}: class {label!r} is not among the {len(known)} "
                    f"given{near_only(label, known)}"
                )
            yield _Clip(
                place,
                label,
                split,
                source,
                f"{source}_{_seconds(start, place):06d}_{_seconds(end, place):06d}",
            )
    except csv.Error as error:
        raise TableError(
            f"{path}, line {reader.line_num}: {error}; was it downloaded whole?"
        ) from error


def _seconds(text: str, place: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise TableError(f"{place}: {text!r} is not a number of seconds")
    return int(value)


def _check_once(clips: Sequence[_Clip]) -> None:
    seen: dict[str, str] = {}
    for clip in clips:
        if first := seen.get(clip.name):
            raise TableError(
                f"{clip.place}: clip {clip.name} is listed a second time, after {first}"
            )
        seen[clip.name] = clip.place


def _clips_in(folder: Path) -> dict[str, str]:
    """The path below the folder of every video file in it, by its name without suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder of the videos")
    files = ((where, name) for where, _, names in os.walk(folder) for name in names)
    return {
        Path(name).stem: os.path.relpath(os.path.join(where, name), folder)
        for where, name in files
        if Path(name).suffix in VIDEO_SUFFIXES
    }


def _paths(clips: Sequence[_Clip], present: dict[str, str]) -> list[str]:
    """Where clips are; for those that are not there, where others of their class and split are."""
    beside = {
        (clip.label, clip.split): os.path.dirname(present[clip.name])
        for clip in clips
        if clip.name in present
    }
    absent = (
        os.path.join(beside.get((clip.label, clip.split), ""), f"{clip.name}.mp4") for clip in clips
    )
    return [present.get(clip.name, path) for clip, path in zip(clips, absent, strict=True)]
