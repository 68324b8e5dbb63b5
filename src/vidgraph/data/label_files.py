"""What data sets whose official label files become a table have in common: reading, holding videos
out, writing.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidgraph.errors import DataError, TableError
from vidgraph.util import whole_file

UNUSED = "unused"  # by an official split
_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", "")  # the last for folders of frames


@dataclass(frozen=True)
class MadeSplits:
    """A table that was written, with a column per official split.

    Attributes:
        path: the table.
        dataset: its name.
        num_videos: rows of the table.
        num_rows: by column, the videos of each split.
        num_classes: classes of the videos.
        absent: how many of the listed videos are not in the folder.
        left_out: whether the table leaves these out.
        videos: that folder.
    """

    path: Path
    dataset: str
    num_videos: int
    num_rows: Mapping[str, Mapping[str, int]]
    num_classes: int
    absent: int
    left_out: bool
    videos: Path

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.path}: {self.dataset}, {self.num_videos:,} videos, {self.num_classes} classes"
        ]
        for column, counts in self.num_rows.items():
            rows = ", ".join(f"{split} {count:,}" for split, count in counts.items())
            lines.append(
                f"  {column}: {rows}"
                + (f"; use it with columns split={column}" if column != "split" else "")
            )
        if self.absent:
            lines.append(
                f"note: {self.videos} lacks {self.absent:,} of the listed videos"
                + ", which are left out" * self.left_out
            )
        return lines


def read_label_file(path: Path) -> str:
    """The text of a label file.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; was it downloaded whole?") from error


def check_hold_out(share: float) -> None:
    """Raises DataError if a share of training videos to hold out is none."""
    if not 0 <= share < 1:
        raise DataError(f"hold-out must be a share from 0 to below 1, got {share}")


def check_videos_once(videos: Iterable[tuple[str, str]]) -> None:
    """Raises TableError if a video is listed twice.

    Args:
        videos: the name of each and the place, as file and row, that lists it.
    """
    seen: dict[str, str] = {}
    for video, place in videos:
        if first := seen.get(video):
            raise TableError(f"{place}: video {video} is listed a second time, after {first}")
        seen[video] = place


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: what is below a share is held out, on
    every machine alike.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def names_in(folder: Path, suffix: str = "") -> set[str]:
    """The names of a folder's entries that end in `suffix`.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name.endswith(suffix)}
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror or error}); give the folder of the videos"
        ) from error


def folder_in_table(videos: Path, out: Path) -> Path:
    """How a table at `out` names the folder `videos`: relative where it lies below the table's
    folder, else absolute.
    """
    folder, base = videos.resolve(), out.parent.resolve()
    return folder.relative_to(base) if folder.is_relative_to(base) else folder


def find_videos(folder: Path, videos: Sequence[tuple[str, str]]) -> tuple[list[str], list[bool]]:
    """Where videos lie in a folder: below a folder of their class or not, as files of some suffix
    or folders of frames.

    Args:
        folder: of all videos.
        videos: class and name without suffix of each.

    Returns:
        The path of each below the folder, as most of them have it; whether it is there.

    Raises:
        DataError: the folder cannot be read, or holds none of them.
    """
    below = names_in(folder)
    classes = {name for name, _ in videos} & below
    present = below | {f"{name}/{entry}" for name in classes for entry in names_in(folder / name)}
    layouts = [(with_class, suffix) for with_class in (True, False) for suffix in _SUFFIXES]
    found = [
        [f"{name}/{video}{suffix}" if with_class else video + suffix for name, video in videos]
        for with_class, suffix in layouts
    ]
    paths = max(found, key=lambda paths: sum(path in present for path in paths))
    here = [path in present for path in paths]
    if not any(here):
        example = f"{videos[0][0]}/{videos[0][1]}.avi" if videos else "none listed"
        raise DataError(
            f"{folder}: holds none of the {len(videos):,} videos; expected {example}, and on"
        )
    return paths, here


def write_splits(
    out: Path,
    dataset: str,
    videos: Path,
    listed: Mapping[tuple[str, str], Mapping[str, str]],
    columns: Sequence[str],
    present_only: bool,
) -> MadeSplits:
    """Writes `video, label` and a column per official split.

    Args:
        out: the table.
        dataset: its name.
        videos: the folder that they lie in.
        listed: class and name without suffix of each video -> its split in each column; none is
            `unused`.
        columns: of splits.
        present_only: leave out videos that are not there.

    Raises:
        DataError: the folder holds none of the videos.
        RunError: the table cannot be written.
    """
    names = list(listed)
    paths, here = find_videos(videos, names)
    folder = folder_in_table(videos, out)
    kept = [i for i in range(len(names)) if here[i] or not present_only]
    splits = [[listed[names[i]].get(column, UNUSED) for column in columns] for i in kept]
    write_csv(
        out,
        ("video", "label", *columns),
        (
            ((folder / paths[i]).as_posix(), names[i][0], *row)
            for i, row in zip(kept, splits, strict=True)
        ),
    )
    counts = {column: Counter(row[k] for row in splits) for k, column in enumerate(columns)}
    ordered = {
        column: {split: n for split in ("train", "val", "test", UNUSED) if (n := of[split])}
        for column, of in counts.items()
    }
    num_classes = len({names[i][0] for i in kept})
    return MadeSplits(
        out, dataset, len(kept), ordered, num_classes, here.count(False), present_only, videos
    )


def check_table_name(out: Path) -> None:
    """Raises DataError if a table is not to be written as .csv."""
    if out.suffix.lower() != ".csv":
        raise DataError(f"{out}: the table is written as .csv; name it so")


def write_csv(out: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes a table, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    with whole_file(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
