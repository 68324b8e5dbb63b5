"""Something-Something v1 and v2 (Goyal et al. 2017): the official label files as a table.

    v1   something-something-v1-labels.csv       a class per line
         something-something-v1-train.csv        id;class            videos: a folder of frames per
         id, ID/00001.jpg ... something-something-v1-validation.csv
    v2   labels.json                             {class: index}
         train.json, validation.json             [{"id", "label", "template", "placeholders"}, ...]
         videos: ID.webm test-answers.csv                        id;class, where it is there

The files may carry the data set's name in front, as v2's older release has it. The class of a v2
video is its template without brackets: "Putting [something] onto [something]". `label` tells the
same with the objects filled in, and is not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vidgraph.data.label_files import (
    check_hold_out,
    check_videos_once,
    folder_in_table,
    names_in,
    read_label_file,
    share_of,
    write_csv,
)
from vidgraph.data.table import near_only
from vidgraph.errors import DataError, TableError
from vidgraph.util import natural_key

HELD = "held"


class _Version(NamedTuple):
    """Endings of the label files' names, and what a video's name ends in."""

    name: str
    labels: str
    splits: dict[str, str]
    video_suffix: str


_VERSIONS = (
    _Version("v1", "labels.csv", {"train": "train.csv", "val": "validation.csv"}, ""),
    _Version("v2", "labels.json", {"train": "train.json", "val": "validation.json"}, ".webm"),
)
_ANSWERS = "test-answers.csv"


class _Sample(NamedTuple):
    """One line of a label file: where it stands, the video's id and its class."""

    place: str
    video: str
    label: str


@dataclass(frozen=True)
class MadeTable:
    """What was written.

    Attributes:
        path: the table.
        version: `v1` or `v2`.
        num_rows: videos per split.
        num_classes: classes of the label files.
        absent: how many of the videos are not in the folder.
        videos: that folder.
    """

    path: Path
    version: str
    num_rows: dict[str, int]
    num_classes: int
    absent: int
    videos: Path

    def lines(self) -> list[str]:
        """For people."""
        rows = ", ".join(f"{split} {n:,}" for split, n in self.num_rows.items())
        total = f"{sum(self.num_rows.values()):,} videos ({rows}), {self.num_classes} classes"
        note = [f"note: {self.videos} lacks {self.absent:,} of them"] if self.absent else []
        return [f"{self.path}: Something-Something {self.version}, {total}", *note]


def make_table(
    labels: str | Path, videos: str | Path, out: str | Path, hold_out: float = 0.0
) -> MadeTable:
    """Writes the table of one version: `video, label, split`, splits `train`, `val` (official
    validation) and, with answers, `test`.

    Published numbers are on the official validation videos. `hold_out` keeps a share of the
    training videos as split `held`, so that checkpoints can be chosen on videos that no number is
    reported on. Which ones follows from a hash of their ids.

    Args:
        labels: the folder of official label files.
        videos: the folder that holds a folder of frames (v1) or a .webm file (v2) per video.
        out: the .csv file; paths in it are relative to its folder where `videos` lies below it.
        hold_out: share of the training videos, 0 to below 1.

    Raises:
        DataError: a folder or a label file is missing, unreadable, or of another form; no video is
            there.
        TableError: the class list is not that of the labels, or a video is listed twice.
        RunError: the table cannot be written.
    """
    labels, videos, out = Path(labels), Path(videos), Path(out)
    if out.suffix.lower() != ".csv":
        raise DataError(f"{out}: the table is written as .csv; name it so")
    check_hold_out(hold_out)
    version, class_file = _find_version(labels)
    classes = _read_classes(class_file)
    samples = {
        split: list(_read_samples(_find(labels, ending), class_file, classes))
        for split, ending in version.splits.items()
    }
    if version.name == "v2" and (answers := _matching(labels, _ANSWERS)):
        samples["test"] = list(_read_samples(answers[0], class_file, classes))
    check_videos_once(
        (sample.video, sample.place) for listed in samples.values() for sample in listed
    )
    _check_class_count(class_file, classes, samples)
    if hold_out:
        samples[HELD] = [sample for sample in samples["train"] if share_of(sample.video) < hold_out]
        samples["train"] = [
            sample for sample in samples["train"] if share_of(sample.video) >= hold_out
        ]
    present = names_in(videos, version.video_suffix)
    rows = [(split, sample) for split, listed in samples.items() for sample in listed]
    absent = sum(sample.video + version.video_suffix not in present for _, sample in rows)
    if absent == len(rows):
        example = videos / f"{rows[0][1].video}{version.video_suffix}"
        raise DataError(
            f"{videos}: holds none of the {len(rows):,} videos of {labels}; expected {example}"
        )
    _write(out, videos, version.video_suffix, rows)
    return MadeTable(
        out,
        version.name,
        {split: len(listed) for split, listed in samples.items()},
        len(classes),
        absent,
        videos,
    )


# ---- label files ---------------------------------------------------------------------------------


def _find_version(folder: Path) -> tuple[_Version, Path]:
    """The version whose class list is in the folder, and that file."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; give the folder of the official label files"
        )
    found = [(version, file) for version in _VERSIONS for file in _matching(folder, version.labels)]
    if not found:
        expected = " or ".join(f"{version.labels} ({version.name})" for version in _VERSIONS)
        raise DataError(f"{folder}: holds no class list; expected a file that ends in {expected}")
    if len(found) > 1:
        raise DataError(
            f"{folder}: holds several class lists ({', '.join(file.name for _, file in found)}); "
            "keep one version per folder"
        )
    return found[0]


def _matching(folder: Path, ending: str) -> list[Path]:
    """Files named `ending`, or `...-ending`."""
    return sorted(
        file for file in folder.iterdir() if file.name == ending or file.name.endswith(f"-{ending}")
    )


def _find(folder: Path, ending: str) -> Path:
    found = _matching(folder, ending)
    if len(found) != 1:
        raise DataError(
            f"{folder}: holds {'no file' if not found else 'several files'} named {ending} or "
            f"...-{ending}; one is needed"
        )
    return found[0]


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(read_label_file(path))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not JSON ({error}); was it downloaded whole?") from error
    if not isinstance(content, kind):
        raise DataError(
            f"{path}: holds no "
            f"{'list of videos' if kind is list else 'classes with their indices'}; is it the "
            "official file?"
        )
    return content


def _read_classes(path: Path) -> list[str]:
    """The classes in the official order."""
    if path.suffix == ".json":
        content = _read_json(path, dict)
        numbers = [str(number) for number in content.values()]
        if sorted(numbers, key=natural_key) != [str(k) for k in range(len(numbers))]:
            raise TableError(
                f"{path}: its {len(numbers)} classes are not numbered 0 to {len(numbers) - 1}; "
                "take the official file"
            )
        classes = [_plain(name) for _, name in sorted(zip(map(int, numbers), content, strict=True))]
    else:
        classes = [line.strip() for line in read_label_file(path).splitlines() if line.strip()]
    if twice := next((name for i, name in enumerate(classes) if name in classes[:i]), None):
        raise TableError(f"{path}: class {twice!r} is listed twice")
    if not classes:
        raise TableError(f"{path}: is empty; it must hold the classes")
    return classes


def _plain(template: str) -> str:
    """`Putting [something] onto [something]` without its brackets."""
    return template.replace("[", "").replace("]", "").strip()


def _read_samples(path: Path, class_file: Path, classes: list[str]) -> Iterator[_Sample]:
    known = set(classes)
    for sample in _json_samples(path) if path.suffix == ".json" else _csv_samples(path):
        if sample.label not in known:
            hint = near_only(sample.label, known)
            raise TableError(
                f"{sample.place}: class {sample.label!r} is not among the {len(known)} of "
                f"{class_file.name}{hint}"
            )
        yield sample


def _csv_samples(path: Path) -> Iterator[_Sample]:
    for number, line in enumerate(read_label_file(path).splitlines(), start=1):
        video, separator, label = (part.strip() for part in line.partition(";"))
        if not line.strip():
            continue
        if not (video and separator and label):
            raise TableError(f"{path}, line {number}: {line.strip()!r} is not of the form ID;CLASS")
        yield _Sample(f"{path}, line {number}", video, _plain(label))


def _json_samples(path: Path) -> Iterator[_Sample]:
    for number, item in enumerate(_read_json(path, list), start=1):
        if not (
            isinstance(item, dict) and item.get("id") and isinstance(item.get("template"), str)
        ):
            raise TableError(
                f"{path}, video {number}: lacks its id or its template; is it the official file?"
            )
        yield _Sample(f"{path}, video {number}", str(item["id"]), _plain(item["template"]))


# ---- checks and writing --------------------------------------------------------------------------


def _check_class_count(
    class_file: Path, classes: list[str], samples: dict[str, list[_Sample]]
) -> None:
    """A class without a video means that the list belongs to other labels."""
    used = {sample.label for listed in samples.values() for sample in listed}
    unused = [name for name in classes if name not in used]
    if unused:
        what = (
            f"{len(classes)} classes, and the label files name {len(used)}: no video is of "
            f"class {unused[0]!r}"
        )
        raise TableError(f"{class_file}: holds {what}; give the class list that belongs to them")


def _write(out: Path, videos: Path, suffix: str, rows: list[tuple[str, _Sample]]) -> None:
    folder = folder_in_table(videos, out)
    lines = (
        ((folder / f"{sample.video}{suffix}").as_posix(), sample.label, split)
        for split, sample in rows
    )
    write_csv(out, ("video", "label", "split"), lines)
