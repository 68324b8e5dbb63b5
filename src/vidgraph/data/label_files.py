"""From the official label files of a data set to its table: where the videos lie, which ones are
held out, and what is written. `ucf101.py`, `kinetics.py` and so on read the files.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vidgraph.data.cells import hash64
from vidgraph.errors import DataError, TableError
from vidgraph.util import atomic_write
from vidgraph.video.listing import VIDEO_SUFFIXES, has_suffix

UNUSED = "unused"  # by an official split
_ORDER = ("train", "held", "val", "test", UNUSED)


@dataclass(frozen=True)
class LabelledVideos:
    """What the official label files of a data set say.

    Attributes:
        dataset: its name.
        rows: one per video, or per video and official split, with the columns `name` (of the video,
            without suffix), `label`, `group` (which videos of one recording, film or person share),
            `split`, and `column`: that of the table which names the split.
        held: the split that training videos become where some are held out.
        actions: what happens when, with the columns `name`, `label`, `start_seconds`,
            `end_seconds` and `length` (of the video); None where the files do not tell.
    """

    dataset: str
    rows: pd.DataFrame
    held: str = "val"
    actions: pd.DataFrame | None = None


def make_table(
    labelled: LabelledVideos,
    videos: str | Path,
    out: str | Path,
    *,
    hold_out: float = 0.0,
    present_only: bool = False,
) -> list[str]:
    """Writes `video, label, split`, or a column per official split; OUT_intervals.csv beside it.

    Args:
        labelled: as `read_labels` of the data set gives it.
        videos: the folder of the videos: files or folders of frames, at any depth.
        out: the .csv file; paths in it are relative to its folder where `videos` lies below it.
        hold_out: share of the training groups that become a split of their own, 0 to below 1, by a
            hash of their names.
        present_only: list only videos that are there; otherwise the absent ones are listed as well,
            for `vidgraph data check` to put on a skip list, so that every score counts them.

    Returns:
        What was written and what to do next, for people.

    Raises:
        DataError: the folder holds none of the videos, or a share or suffix that is none.
        TableError: a video that is listed twice.
    """
    videos, out = Path(videos), Path(out)
    if out.suffix.lower() != ".csv":
        raise DataError(f"{out}: the table is written as .csv; name it so")
    if not 0 <= hold_out < 1:
        raise DataError(f"hold-out must be a share from 0 to below 1, got {hold_out}")
    rows = labelled.rows
    is_held = (rows["split"] == "train") & (rows["group"].map(share_of) < hold_out)
    rows = rows.assign(split=rows["split"].mask(is_held, labelled.held))
    if (twice := rows.duplicated(["name", "column"])).any():
        name, column = rows.loc[twice.to_numpy(), ["name", "column"]].iloc[0]
        raise TableError(f"{labelled.dataset}: video {name} is listed a second time in {column}")
    splits = rows.pivot(index="name", columns="column", values="split").fillna(UNUSED)
    rows = rows.drop_duplicates("name").set_index("name")[["label"]].join(splits)
    paths = _paths(rows["label"], videos, out)
    rows.insert(0, "video", paths["video"])
    kept = rows[paths["is_there"]] if present_only else rows
    _write(kept, out)
    labels = set(kept["label"].str.split("|").explode()) - {""}
    lines = [f"{out}: {labelled.dataset}, {len(kept):,} videos, {len(labels)} classes"]
    for column in splits:
        counts = kept[column].value_counts()
        shown = ", ".join(f"{split} {counts[split]:,}" for split in _ORDER if split in counts)
        use = f"; use it with columns split={column}" if column != "split" else ""
        lines.append(f"  {column}: {shown}{use}")
    if absent := int((~paths["is_there"]).sum()):
        left_out = ", which are left out" if present_only else ""
        lines.append(f"note: {videos} lacks {absent:,} of the listed videos{left_out}")
    if not any(Path(video).suffix for video in kept["video"]):
        lines.append("note: videos are folders of frames; give their --data.table.folder_fps")
    if labelled.actions is not None:
        intervals = out.with_name(f"{out.stem}_intervals.csv")
        lines += _write_actions(labelled.actions.join(kept["video"], "name", "inner"), intervals)
    columns = "" if "split" in splits else f" --columns split={splits.columns[0]}"
    return [*lines, f"look for faults: vidgraph data check {out}{columns}"]


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return hash64(name) / 2**64


def find_videos(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Where videos lie below a folder, files or folders of frames, by their name without suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder of the videos")
    found: dict[str, str] = {}
    for where, folders, files in os.walk(folder):
        videos = {Path(file).stem: file for file in files if has_suffix(file, VIDEO_SUFFIXES)}
        videos |= {name: name for name in folders}
        below = os.path.relpath(where, folder)
        for name in videos.keys() & names:
            found.setdefault(name, os.path.normpath(os.path.join(below, videos[name])))
        folders[:] = sorted(set(folders) - set(names))  # frames are not walked through
    return found


def _paths(labels: pd.Series, videos: Path, out: Path) -> pd.DataFrame:
    """`video`, by which a table at `out` names each video, and `is_there`. Absent videos are named
    as if they lay beside another one of their label.
    """
    names = labels.index.to_series()
    found = find_videos(videos, set(names))
    if not found:
        example = f"{names.iloc[0] if len(names) else 'none listed'}.mp4, or folders of frames"
        what = f"holds none of the {len(names):,} videos"
        raise DataError(f"{videos}: {what}; expected files such as {example}")
    paths = names.map(found)
    beside = paths.dropna().map(os.path.dirname).groupby(labels).first()
    of_class = (beside != "") & (beside == beside.index)  # folders named as their labels
    guesses = labels.map(beside).fillna(labels if of_class.any() else "")
    suffix = Path(next(iter(found.values()))).suffix
    folder, base = videos.resolve(), out.parent.resolve()
    folder = folder.relative_to(base) if folder.is_relative_to(base) else folder
    written = [
        (folder / (found.get(name) or f"{guess}/{name}{suffix}".lstrip("/"))).as_posix()
        for name, guess in zip(names, guesses, strict=True)
    ]
    return pd.DataFrame({"video": written, "is_there": paths.notna()}, names)


def _write_actions(actions: pd.DataFrame, out: Path) -> list[str]:
    """Writes when actions happen, cut at the ends of their videos; says what was written."""
    end = actions[["end_seconds", "length"]].min(axis=1)
    within = actions.assign(end_seconds=end)[actions["start_seconds"] < end]
    _write(within[["video", "label", "start_seconds", "end_seconds"]], out)
    cut, left_out = (actions["end_seconds"] > end)[within.index].sum(), len(actions) - len(within)
    lines = [f"{out}: {len(within):,} actions; train with --data.table.intervals {out}"]
    if cut or left_out:
        lines.append(
            f"note: {cut:,} actions end after their video and are cut there, {left_out:,} lie "
            "outside of it and are left out; a video's label names them all"
        )
    return lines


def _write(rows: pd.DataFrame, out: Path) -> None:
    with atomic_write(out) as temporary:
        rows.to_csv(temporary, index=False)
