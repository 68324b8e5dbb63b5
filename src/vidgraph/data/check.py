"""Finds what is wrong with a table's videos before a training does, and writes the list of those to
leave out.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd

from vidgraph.data.intervals import Intervals
from vidgraph.data.probe import CheckedFile, probe_file
from vidgraph.data.table import VideoTable, near_only
from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow import FlowSource
from vidgraph.precompute.run import WorkerDied, parallel_map
from vidgraph.precompute.store import fingerprint, size_bytes
from vidgraph.records import InputSpec
from vidgraph.util import atomic_write, available_cores

KINDS = {
    "missing": "files that do not exist",
    "unreadable": "files that cannot be decoded",
    "short": "files with too few frames",
    "boxes": "files whose boxes are absent or cannot be used",
    "flow": "files whose optical flow is absent or cannot be used",
    "short_span": "rows whose span has too few frames, in files that other rows can use",
    "two_splits": "files, or copies of them, in more than one split",
    "duplicate": "copies of a file, or repeated rows, within one split",
    "unknown_label": "labels outside the class list",
    "absent_class": "classes without a row in a split",
    "late_action": "actions that begin after their video ends",
    "action_label": "actions of a class that no row of their video names",
}
UNUSABLE = ("missing", "unreadable", "short", "boxes", "flow")
FEW_FILES = 256  # below this many, starting processes costs more than it saves


@dataclass(frozen=True)
class Finding:
    """One fault, of one of `KINDS`: the video as the table writes it (the first of several; empty
    where none is at fault), the rows at fault as `VideoTable.frame` counts them, and what is wrong.
    """

    kind: str
    file: str
    rows: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        table: that was checked.
        findings: in the order of `KINDS`, then of the table.
        num_files: different videos named.
        num_classes: that are known.
        frames: in each readable file.
        fps: frames per second of each of these.
        notes: what is no fault and should be known.
    """

    table: VideoTable
    findings: tuple[Finding, ...]
    num_files: int
    num_classes: int
    frames: tuple[int, ...]
    fps: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return not self.findings

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def lines(self, limit: int = 20) -> list[str]:
        """The report for people: a summary, then at most `limit` findings of each kind."""
        table = self.table
        rows = ", ".join(f"{split} {len(table.rows(split))}" for split in table.splits)
        lines = [
            f"{table.source}: rows {len(table)} ({rows}), files {self.num_files}, classes "
            f"{self.num_classes}"
        ]
        if self.frames:
            rates = " to ".join(dict.fromkeys(f"{fps:g}" for fps in (min(self.fps), max(self.fps))))
            lines.append(
                f"{min(self.frames)} to {max(self.frames)} frames per file (median "
                f"{median(self.frames):g}) at {rates} frames per second"
            )
        lines += [f"note: {note}" for note in self.notes]
        for kind, count in self.counts.items():
            lines.append(f"{count} {kind}: {KINDS[kind]}")
            for f in [finding for finding in self.findings if finding.kind == kind][:limit]:
                where = _row_list(table, f.rows)
                lines.append("  " + ": ".join(filter(None, (where, f.file, f.message))))
            if count > limit:
                lines.append(f"  and {count - limit} more")
        return lines if self.findings else [*lines, "no faults found"]

    def write_skip_list(self, path: str | Path) -> int:
        """Writes the files that no row can use, one per line with a `# reason`; says how many."""
        unusable: dict[str, Finding] = {}
        for finding in self.findings:
            if finding.kind in UNUSABLE:
                unusable.setdefault(finding.file, finding)
        name = self.table.source.name
        lines = [f"# {len(unusable)} of {self.num_files} files of {name} that cannot be used"]
        for file, f in unusable.items():
            safe = f"./{file}" if file.startswith("#") else file  # else it would read as a comment
            lines.append(f"{safe}  # {f.kind} ({_row_list(self.table, f.rows)}): {f.message}")
        with atomic_write(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return len(unusable)


def read_skip_list(path: str | Path) -> set[str]:
    """The videos named in a skip list: one per line, `#` after a blank starts a comment."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is not text with one video per line"
        raise DataError(f"{path}: the skip list cannot be read ({what})") from error
    # Two blanks are what `write_skip_list` puts there, so a name that holds " # " survives.
    names = (
        re.split(r"\s{2,}#\s|^\s*#" if "  # " in line else r"(?:^|\s)#", line, maxsplit=1)[0]
        for line in lines
    )
    return {os.path.normpath(name.strip()) for name in names if name.strip()}


def check_table(
    table: VideoTable,
    *,
    min_frames: int = 1,
    spec: InputSpec | None = None,
    class_names: Sequence[str] | None = None,
    full: bool = False,
    workers: int | None = None,
    boxes: BoxStore | None = None,
    flow: FlowSource | None = None,
    intervals: Intervals | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Opens every video of a table and compares its rows.

    Args:
        table: the data set.
        min_frames: a file, or a row's span of it, with fewer frames is short.
        spec: likewise if it has fewer frames than this model's clips, or than one of its flow
            stacks takes.
        class_names: the classes that are known; by default those of the table.
        full: decode everything instead of the first, middle and last frame of each file.
        workers: processes; by default one per core, or none besides this one for a few files.
        boxes: the videos' boxes, which are read as the videos are.
        flow: the videos' optical flow, likewise.
        intervals: of the table; their actions are held against the videos' lengths and rows.
        progress: called with (files done, files in all) as the check goes on.
    """
    files = _files(table)
    if workers is None:
        workers = available_cores() if len(files) > FEW_FILES else 1
    probe, probed = partial(probe_file, full=full, boxes=boxes, flow=flow), list(files)
    results = parallel_map(probe, files, workers=workers)
    for done, (index, result) in enumerate(results, start=1):
        if isinstance(result, WorkerDied):
            result = files[index]._replace(faults=(("unreadable", str(result)),))
        probed[index] = result
        progress(done, len(files))
    needed = max(min_frames, spec.num_frames if spec else 0)
    if spec and spec.flow_length:
        needed = max(needed, spec.flow_length + 1)  # L flow frames lie between L + 1 frames
    known, notes, labels = class_names or table.class_names, table.notes, _labels(table)
    findings = [
        *_file_findings(probed, needed),
        *_copy_findings(table, probed),
        *_label_findings(table, labels, known),
    ]
    if intervals is not None:
        findings += _action_findings(table, labels, intervals, probed)
        notes += _action_notes(labels, intervals)
    order = list(KINDS)
    readable = [file for file in probed if file.num_frames]
    return CheckReport(
        table,
        tuple(sorted(findings, key=lambda f: (order.index(f.kind), f.rows[:1]))),
        len(files),
        len(known),
        tuple(file.num_frames for file in readable),
        tuple(file.fps for file in readable),
        notes,
    )


def _files(table: VideoTable) -> list[CheckedFile]:
    frame = table.frame.fillna({"start_seconds": 0.0, "end_seconds": math.inf})
    frame["span"] = list(zip(frame["start_seconds"], frame["end_seconds"], strict=True))
    found = frame.groupby("name", sort=False).agg({"video": "first", "row": list, "span": list})
    return [CheckedFile(*file) for file in found.itertuples()]


def _labels(table: VideoTable) -> pd.DataFrame:
    """The table with a row for each label of each of its rows."""
    labels = table.frame.assign(label=table.frame["label"].str.split("|")).explode("label")
    return labels[labels["label"] != ""]


def _file_findings(files: list[CheckedFile], needed: int) -> Iterator[Finding]:
    for file in files:
        rows = tuple(file.rows)
        for kind, problem in file.faults:
            yield Finding(kind, file.name, rows, problem)
        if not file.num_frames:
            continue
        short = {row: n for row, n in zip(rows, file.span_frames, strict=True) if n < needed}
        if len(short) == len(rows):
            most = max(short.values())
            where = f" in the span (the file has {file.num_frames})"
            message = f"{most} of the {needed} frames needed{where * (most != file.num_frames)}"
            yield Finding("short", file.name, rows, message)
        elif short:
            counts = ", ".join(map(str, short.values()))
            message = f"{counts} of the {needed} frames needed in the span; mend or remove the row"
            yield Finding("short_span", file.name, tuple(short), message)


def _copy_findings(table: VideoTable, files: list[CheckedFile]) -> Iterator[Finding]:
    """Files, or copies of one file, in two splits; copies and repeated rows within one."""
    readable = {file.name: file.video for file in files if file.num_frames}
    sizes = {name: size_bytes(video) for name, video in readable.items()}
    of_size = Counter(sizes.values())
    # Two files that cannot be read, such as empty ones, are no copies: their names stand for them.
    content = {file.name: file.name for file in files} | {
        name: fingerprint(video) for name, video in readable.items() if of_size[sizes[name]] > 1
    }
    frame = table.frame.assign(content=table.frame["name"].map(content))
    for _, same in frame[frame.duplicated("content", keep=False)].groupby("content", sort=False):
        first, *others = same["name"].unique()
        copies = f"same content as {', '.join(others)}" * bool(others)
        rows = {split: part.tolist() for split, part in same.groupby("split", sort=False)["row"]}
        if len(rows) > 1:
            lists = (f"{s!s} ({_row_list(table, n)})" for s, n in rows.items())
            message = "; ".join(filter(None, (copies, f"in {' and '.join(lists)}")))
            yield Finding("two_splits", first, tuple(same["row"]), message)
        elif copies:
            yield Finding("duplicate", first, tuple(same["row"]), copies)
    keys = ["name", "split", "start_seconds", "end_seconds"]
    repeated = frame[frame.duplicated(keys, keep=False)]
    for (name, *_), same in repeated.groupby(keys, sort=False, dropna=False):
        yield Finding("duplicate", str(name), tuple(same["row"]), "the same sample again")


def _label_findings(
    table: VideoTable, labels: pd.DataFrame, class_names: Sequence[str]
) -> Iterator[Finding]:
    for label, rows in labels[~labels["label"].isin(class_names)].groupby("label", sort=False):
        near = near_only(str(label), class_names)
        message = f"label {label!r} is not among the {len(class_names)} classes{near}"
        yield Finding("unknown_label", rows["name"].iloc[0], tuple(rows["row"]), message)
    counts = labels.value_counts(["label", "split"])
    for name in class_names:
        having = {split: int(counts.get((name, split), 0)) for split in table.splits}
        if absent := [split for split, n in having.items() if not n]:
            there = ", ".join(f"{split} has {n}" for split, n in having.items() if n)
            message = f"class {name!r} has no row in {' or '.join(absent)}"
            yield Finding("absent_class", "", (), message + (f" ({there})" if there else ""))


def _action_findings(
    table: VideoTable, labels: pd.DataFrame, intervals: Intervals, files: list[CheckedFile]
) -> Iterator[Finding]:
    """Actions that a training would stop at, or that the table of videos does not know."""
    named, source = set(zip(labels["name"], labels["label"], strict=True)), intervals.source.name
    for file in files:
        actions = intervals.by_video.get(os.path.normpath(file.video), ())
        if late := [action for action in actions if action.start_seconds >= file.end_seconds]:
            start, end = late[0].start_seconds, file.end_seconds
            message = f"{source}: at {start:g} s, and the video ends at {end:.6g} s"
            yield Finding("late_action", file.name, tuple(a.row for a in late), message)
        for label in dict.fromkeys(action.label for action in actions):
            class_name = table.class_names[label]
            if (file.name, class_name) not in named:
                rows = tuple(action.row for action in actions if action.label == label)
                what = f"{class_name!r} is not among the labels of the video"
                message = f"{source}: {what} in {table.source.name}"
                yield Finding("action_label", file.name, rows, message)


def _action_notes(labels: pd.DataFrame, intervals: Intervals) -> tuple[str, ...]:
    """How many videos have labels and no action: their training clips would show nothing."""
    labelled = set(map(os.path.normpath, labels["video"].unique()))
    if count := len(labelled - intervals.by_video.keys()):
        return (
            f"{count} videos have labels and no action in {intervals.source.name}; their training "
            "clips are labelled with nothing",
        )
    return ()


def _row_list(table: VideoTable, rows: Sequence[int]) -> str:
    """`line 4`, or `lines 4, 9, 12 and 7 more`."""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    word = table.row_word + "s" * (len(rows) > 1)
    return f"{word} {', '.join(map(str, rows[:5]))}{more}" if rows else ""
