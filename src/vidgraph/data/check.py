"""Finds what is wrong with a table's videos before a training does, and writes the list of those to
leave out.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from vidgraph.data.flow_source import open_video_flow
from vidgraph.data.intervals import Intervals
from vidgraph.data.probes import Probe, ProbeTask, probe_all
from vidgraph.data.table import VideoTable, near_only, split_labels
from vidgraph.errors import DataError
from vidgraph.records import InputSpec
from vidgraph.util import whole_file

KINDS = {
    "missing": "files that do not exist",
    "unreadable": "files that cannot be decoded",
    "short": "files with too few frames",
    "flow": "files whose optical flow is absent or cannot be used",
    "short_span": "rows whose span has too few frames, in files that other rows can use",
    "two_splits": "files, or copies of them, in more than one split",
    "duplicate": "copies of a file, or repeated rows, within one split",
    "unknown_label": "labels outside the class list",
    "absent_class": "classes without a row in a split",
    "late_action": "actions that begin after their video ends",
    "action_label": "actions of a class that no row of their video names",
}
UNUSABLE = ("missing", "unreadable", "short", "flow")
FEW_FILES = 256  # below this many, starting processes costs more than it saves


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: one of `KINDS`.
        file: the video as the table writes it; the first of several; empty where no file is at
            fault.
        rows: the table's rows at fault, counted as `VideoTable.frame` does.
        message: what is wrong, without file and rows.
    """

    kind: str
    file: str
    rows: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        source: the table file or folder.
        row_word: what rows are counted in, "line" or "row".
        findings: in the order of `KINDS`, then of the table.
        num_files: different videos named.
        num_rows: samples per split.
        num_classes: classes of the table.
        frames: least, median and greatest number of frames among readable files, or None.
        fps: least and greatest frame rate among them, or None.
        notes: the table's notes.
    """

    source: str
    row_word: str
    findings: tuple[Finding, ...]
    num_files: int
    num_rows: dict[str, int]
    num_classes: int
    frames: tuple[int, float, int] | None
    fps: tuple[float, float] | None
    notes: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return not self.findings

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind that occurs."""
        return {
            kind: n
            for kind in KINDS
            if (n := sum(finding.kind == kind for finding in self.findings))
        }

    def lines(self, limit: int = 20) -> list[str]:
        """The report for people: a summary, then at most `limit` findings of each kind."""
        rows = ", ".join(f"{split} {n}" for split, n in self.num_rows.items())
        lines = [
            f"{self.source}: rows {sum(self.num_rows.values())} ({rows}), files {self.num_files}, "
            f"classes {self.num_classes}"
        ]
        if self.frames and self.fps:
            rates = (
                f"{self.fps[0]:g}"
                if self.fps[0] == self.fps[1]
                else f"{self.fps[0]:g} to {self.fps[1]:g}"
            )
            lines.append(
                f"{self.frames[0]} to {self.frames[2]} frames per file (median "
                f"{self.frames[1]:g}) at {rates} frames per second"
            )
        lines += [f"note: {note}" for note in self.notes]
        for kind, count in self.counts.items():
            lines.append(f"{count} {kind}: {KINDS[kind]}")
            found = [finding for finding in self.findings if finding.kind == kind]
            lines += [f"  {self._line(finding)}" for finding in found[:limit]]
            if count > limit:
                lines.append(f"  and {count - limit} more")
        return lines if self.findings else [*lines, "no faults found"]

    def _line(self, finding: Finding) -> str:
        place = _row_list(self.row_word, finding.rows)
        return ": ".join(filter(None, (place, finding.file, finding.message)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "good": self.is_good, "counts": self.counts}

    def write_skip_list(self, path: str | Path) -> int:
        """Writes the files that no row can use, one per line as the table names them, with a `#
        reason`; whole or not at all.

        Returns how many they are.

        Raises:
            RunError: the file cannot be written.
        """
        unusable = list(
            {
                finding.file: finding
                for finding in reversed(self.findings)
                if finding.kind in UNUSABLE
            }.values()
        )[::-1]
        lines = [
            f"# {len(unusable)} of {self.num_files} files of {Path(self.source).name} that cannot "
            "be used"
        ]
        # "./" before a name that begins with "#", which would read as a comment
        lines += [
            f"{'./' * f.file.startswith('#')}{f.file}  # {f.kind} "
            f"({_row_list(self.row_word, f.rows)}): {f.message}"
            for f in unusable
        ]
        with whole_file(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return len(unusable)


def read_skip_list(path: str | Path) -> set[str]:
    """The videos named in a skip list: one per line, `#` after a blank starts a comment.

    Raises:
        DataError: the file does not exist or is not text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: the skip list cannot be read ({error.strerror or error})"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not a skip list; expected text with one video per line"
        ) from error
    # Two blanks are what `write_skip_list` puts there, so a name that holds " # " survives.
    names = (
        re.split(r"\s{2,}#\s|^\s*#", line, maxsplit=1)[0]
        if "  # " in line
        else re.split(r"(?:^|\s)#\s?", line)[0]
        for line in lines
    )
    return {os.path.normpath(name.strip()) for name in names if name.strip()}


def check_table(
    table: VideoTable,
    *,
    min_frames: int = 1,
    spec: InputSpec | None = None,
    class_names: Sequence[str] | None = None,
    decode: Literal["quick", "full"] = "quick",
    workers: int | None = None,
    flow: tuple[str, float] | None = None,
    intervals: Intervals | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Opens every video of a table and compares its rows.

    Args:
        table: the data set.
        min_frames: a file, or a row's span of it, with fewer frames is short.
        spec: likewise if it has fewer frames than this model's clips, or than one of its snippets
            of flow takes.
        class_names: the classes that are known; by default those of the table.
        decode: "quick" indexes each file and decodes its first, middle and last frame; "full"
            decodes all.
        workers: processes; by default one per core, or none besides this one for a few files.
        flow: where the videos' optical flow is, and its bound, as `open_video_flow` takes them; it
            is opened and decoded as the videos are.
        intervals: of the table; their actions are held against the videos' lengths and rows.
        progress: called with (files done, files in all) as the check goes on.

    Raises:
        DataError: there is no flow at that place, or it has another bound; no process can be
            started.
    """
    if decode not in ("quick", "full"):
        raise ValueError(f"decode is {decode!r}; it must be 'quick' or 'full'")
    if flow is not None:
        open_video_flow(*flow)  # raises once, rather than for each video
    files = _files(table)
    tasks = [ProbeTask(file.video, tuple(file.spans), decode == "full", flow) for file in files]
    if workers is None:
        workers = (os.cpu_count() or 1) if len(files) > FEW_FILES else 1
    probes = []
    for probe in probe_all(tasks, workers):
        probes.append(probe)
        if progress:
            progress(len(probes), len(files))
    findings = _file_findings(files, probes, max(min_frames, _frames_of(spec) if spec else 0))
    findings += _copy_findings(table, files, probes)
    findings += _label_findings(table, class_names or table.class_names)
    notes = table.notes
    if intervals is not None:
        findings += _action_findings(table, intervals, files, probes)
        notes += _action_notes(table, intervals)
    order = list(KINDS)
    readable = [probe for probe in probes if not probe.problem]
    counts = [probe.num_frames for probe in readable]
    return CheckReport(
        source=str(table.source),
        row_word=table.row_word,
        findings=tuple(sorted(findings, key=lambda f: (order.index(f.kind), f.rows[:1]))),
        num_files=len(files),
        num_rows={split: len(table.rows(split)) for split in table.splits},
        num_classes=len(class_names or table.class_names),
        frames=(min(counts), float(median(counts)), max(counts)) if counts else None,
        fps=(min(p.fps for p in readable), max(p.fps for p in readable)) if readable else None,
        notes=notes,
    )


def _frames_of(spec: InputSpec) -> int:
    """Frames that a clip of a model takes, and a snippet of flow, if it sees flow: L fields lie
    between L + 1 frames.
    """
    return max(spec.num_frames, spec.flow_length + 1 if spec.flow_length else 0)


class _File(NamedTuple):
    """One video and the rows that name it."""

    name: str
    video: str
    rows: list[int]
    splits: list[str]
    spans: list[tuple[float, float]]


def _files(table: VideoTable) -> list[_File]:
    files: dict[str, _File] = {}
    starts, ends = (
        table.frame["start_seconds"].fillna(0.0),
        table.frame["end_seconds"].fillna(math.inf),
    )
    columns = (table.frame[c].tolist() for c in ("row", "name", "video", "split"))
    for row, name, video, split, start, end in zip(
        *columns, starts.tolist(), ends.tolist(), strict=True
    ):
        file = files.setdefault(name, _File(name, video, [], [], []))
        file.rows.append(row)
        file.splits.append(split)
        file.spans.append((start, end))
    return list(files.values())


def _file_findings(files: list[_File], probes: list[Probe], needed: int) -> list[Finding]:
    findings = []
    for file, probe in zip(files, probes, strict=True):
        if probe.problem:
            findings.append(Finding(probe.kind, file.name, tuple(file.rows), probe.problem))
            continue
        if probe.flow_problem:
            findings.append(Finding("flow", file.name, tuple(file.rows), probe.flow_problem))
        short = [
            (row, n) for row, n in zip(file.rows, probe.span_frames, strict=True) if n < needed
        ]
        if len(short) == len(file.rows):
            most = max(n for _, n in short)
            where = (
                ""
                if most == probe.num_frames
                else f" in the span (the file has {probe.num_frames})"
            )
            findings.append(
                Finding(
                    "short",
                    file.name,
                    tuple(file.rows),
                    f"{most} of the {needed} frames needed{where}",
                )
            )
        elif short:
            message = (
                f"{', '.join(str(n) for _, n in short)} of the {needed} frames needed in "
                "the span; mend or remove the row"
            )
            findings.append(
                Finding("short_span", file.name, tuple(row for row, _ in short), message)
            )
    return findings


def _copy_findings(table: VideoTable, files: list[_File], probes: list[Probe]) -> list[Finding]:
    """Files, or copies of one file, that stand in two splits; copies and repeated rows within
    one.
    """
    findings = []
    readable = [file for file, probe in zip(files, probes, strict=True) if not probe.problem]
    others = [
        [file] for file, probe in zip(files, probes, strict=True) if probe.problem
    ]  # all empty files are equal: no news
    for same in [*_same_content(readable), *others]:
        rows = sorted(
            (row, split) for file in same for row, split in zip(file.rows, file.splits, strict=True)
        )
        copies = (
            f"same content as {', '.join(file.name for file in same[1:])}" if len(same) > 1 else ""
        )
        by_split: dict[str, list[int]] = defaultdict(list)
        for row, split in rows:
            by_split[split].append(row)
        numbers = tuple(row for row, _ in rows)
        if len(by_split) > 1:
            places = " and ".join(
                f"{split} ({_row_list(table.row_word, rows)})" for split, rows in by_split.items()
            )
            findings.append(
                Finding(
                    "two_splits",
                    same[0].name,
                    numbers,
                    "; ".join(filter(None, (copies, f"in {places}"))),
                )
            )
        elif copies:
            findings.append(Finding("duplicate", same[0].name, numbers, copies))
    for file in files:
        repeated: dict[Any, list[int]] = defaultdict(list)
        for row, split, span in zip(file.rows, file.splits, file.spans, strict=True):
            repeated[split, span].append(row)
        findings += [
            Finding("duplicate", file.name, tuple(rows), "the same sample again")
            for rows in repeated.values()
            if len(rows) > 1
        ]
    return findings


def _same_content(files: list[_File]) -> Iterator[list[_File]]:
    """The files in groups of equal bytes; only files of equal size are read."""
    by_size: dict[int, list[_File]] = defaultdict(list)
    for file in files:
        by_size[_size(file.video)].append(file)
    for group in by_size.values():
        if len(group) == 1:
            yield group
            continue
        by_content: dict[str, list[_File]] = defaultdict(list)
        for file in group:
            by_content[_sha256(file.video)].append(file)
        yield from by_content.values()


def _parts(path: str) -> list[Path]:
    """The file itself, or the files of a frame folder."""
    return (
        sorted(p for p in Path(path).iterdir() if p.is_file())
        if os.path.isdir(path)
        else [Path(path)]
    )


def _size(path: str) -> int:
    return sum(part.stat().st_size for part in _parts(path))


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    for part in _parts(path):
        with open(part, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _label_findings(table: VideoTable, class_names: Sequence[str]) -> list[Finding]:
    known, unknown = set(class_names), defaultdict(list)
    seen: dict[str, dict[str, int]] = {name: dict.fromkeys(table.splits, 0) for name in class_names}
    for row, file, text, split in zip(
        *(table.frame[c].tolist() for c in ("row", "name", "label", "split")), strict=True
    ):
        for label in split_labels(text):
            if label in known:
                seen[label][split] += 1
            else:
                unknown[label].append((row, file))
    findings = []
    for label, places in unknown.items():
        message = f"label {label!r} is not among the {len(known)} classes{near_only(label, known)}"
        findings.append(
            Finding("unknown_label", places[0][1], tuple(row for row, _ in places), message)
        )
    for name, counts in seen.items():
        if absent := [split for split, n in counts.items() if not n]:
            having = ", ".join(f"{split} has {n}" for split, n in counts.items() if n)
            message = f"class {name!r} has no row in {' or '.join(absent)}" + (
                f" ({having})" if having else ""
            )
            findings.append(Finding("absent_class", "", (), message))
    return findings


def _action_findings(
    table: VideoTable, intervals: Intervals, files: list[_File], probes: list[Probe]
) -> list[Finding]:
    """Actions that a training would stop at or that the table of videos does not know of; rows are
    those of the table of actions.
    """
    findings: list[Finding] = []
    named: dict[str, set[str]] = defaultdict(set)
    for name, text in zip(table.frame["name"], table.frame["label"], strict=True):
        named[name] |= set(split_labels(text))
    for file, probe in zip(files, probes, strict=True):
        actions = intervals.by_video.get(os.path.normpath(file.video), ())
        if late := [action for action in actions if action.start_seconds >= probe.end_seconds]:
            message = (
                f"{intervals.source.name}: at {late[0].start_seconds:g} s, and the video "
                f"ends at {probe.end_seconds:.6g} s"
            )
            findings.append(
                Finding("late_action", file.name, tuple(action.row for action in late), message)
            )
        for label in dict.fromkeys(action.label for action in actions):
            class_name = table.class_names[label]
            if class_name not in named[file.name]:
                rows = tuple(action.row for action in actions if action.label == label)
                message = (
                    f"{intervals.source.name}: {class_name!r} is not among the labels of "
                    f"the video in {table.source.name}"
                )
                findings.append(Finding("action_label", file.name, rows, message))
    return findings


def _action_notes(table: VideoTable, intervals: Intervals) -> tuple[str, ...]:
    """How many videos have labels and no action: their training clips would show nothing."""
    labelled = {
        os.path.normpath(v)
        for v, text in zip(table.frame["video"], table.frame["label"], strict=True)
        if text
    }
    if count := len(labelled - intervals.by_video.keys()):
        return (
            f"{count} videos have labels and no action in {intervals.source.name}; their training "
            "clips are labelled with nothing",
        )
    return ()


def _row_list(word: str, rows: Sequence[int]) -> str:
    """`line 4`, or `lines 4, 9, 12 and 7 more`."""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{word}{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:5]))}{more}" if rows else ""
