"""The verbs below `vidgraph extract`: what is computed once per video and stored. Imported by the
command only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgraph.command_line import FAULTS, GOOD, Parser, add_verb, positive
from vidgraph.errors import DataError, VidgraphError

_TABLES = (".csv", ".parquet")


def extract_proposals(args: argparse.Namespace) -> int:
    from vidgraph.precompute.proposals import ProposalJob

    if args.fps is not None and args.every is not None:
        raise DataError("give --fps or --every, not both")
    job = ProposalJob(
        args.source, args.count, args.every or 1, args.fps, args.short_side, args.weights
    )
    workers = args.workers or (1 if args.source == "rpn" else _cores())
    return _run(job, video_tasks(args.videos, args.columns), args.out, workers, args.cluster)


def extract_flow(args: argparse.Namespace) -> int:
    from vidgraph.precompute.flow import FlowJob

    job = FlowJob(args.method, args.bound, args.short_side, args.weights)
    workers = args.workers or (1 if args.method == "raft" else _cores())
    return _run(job, video_tasks(args.videos, args.columns), args.out, workers, args.cluster)


def extract_boxes(args: argparse.Namespace) -> int:
    from vidgraph.data.box_files import csv_tasks
    from vidgraph.data.something_boxes import something_else_tasks
    from vidgraph.precompute.given import GivenBoxesJob

    kinds = {file.suffix.lower() for file in args.files}
    if kinds == {".csv", ".json"}:
        raise DataError(
            f"{' '.join(map(str, args.files))}: .csv and .json files go into different stores; "
            "name one kind"
        )
    if kinds not in ({".csv"}, {".json"}):
        raise DataError(
            f"{args.files[0]}: boxes come from .csv files, or from the .json files of "
            "Something-Else"
        )
    if args.reach < 0:
        raise DataError(f"--reach is a number of frames from 0, not {args.reach}")
    origin = "csv" if kinds == {".csv"} else "something-else"
    job = GivenBoxesJob(origin, _sha256(args.files), args.unit, args.reach)
    folder, absent = args.videos or args.files[0].parent, 0
    tasks: list[Any] = []
    for file in args.files:
        if origin == "csv":
            tasks += csv_tasks(file, folder)
        else:
            found, lacking = something_else_tasks(file, folder)
            tasks, absent = tasks + found, absent + lacking
    if absent and not tasks:
        raise DataError(
            f"{folder}: holds none of the {absent:,} videos of {args.files[0]}; say with --videos "
            "where they are"
        )
    if not tasks:
        raise DataError(f"{args.files[0]}: holds no boxes of any video")
    if absent:
        print(
            f"note: {absent:,} of {absent + len(tasks):,} videos of the annotations are not in "
            f"{folder}"
        )
    return _run(job, tasks, args.out, args.workers or 1, cluster=False)


def _run(job: Any, tasks: Sequence[Any], out: Path, workers: int, cluster: bool) -> int:
    from vidgraph.precompute.engine import extract
    from vidgraph.util import counter

    with counter("videos") as progress:
        report = extract(
            job,
            tasks,
            out,
            workers=workers,
            on="cluster" if cluster else "machine",
            progress=progress,
        )
    if len(tasks) == 1 and report.failures:
        raise VidgraphError(report.failures[0][1])
    kept = f", {report.kept:,} were there" if report.kept else ""
    failed = f", {len(report.failures):,} failed" if report.failures else ""
    speed = f"; {report.done / report.seconds:.3g} videos/s" if report.done else ""
    print(f"{out}: {report.done:,} videos done{kept}{failed}{speed}")
    frames, boxes, bare = (report.counts[key] for key in ("frames", "boxes", "bare"))
    if frames:
        print(
            f"{frames:,} frames with {boxes / frames:.1f} boxes on average; {bare:,} frames have "
            "none"
        )
    fields, values, cut_off = (report.counts[key] for key in ("fields", "values", "cut_off"))
    if fields:
        print(
            f"{fields:,} fields of flow; {100 * cut_off / values:.2g} % of their values reach the "
            "bound and are cut off there"
        )
    for _, line in report.failures:
        print(f"vidgraph: {line}", file=sys.stderr)
    return FAULTS if report.failures else GOOD


def video_tasks(paths: Sequence[Path], columns: str = "") -> list[Any]:
    """The videos of files, folders and tables, each once, named by their paths below what they have
    in common.

    Raises:
        VidgraphError: a table that cannot be read, or a folder without videos.
    """
    from vidgraph.data.table import load_table, parse_columns
    from vidgraph.precompute.tasks import Task
    from vidgraph.video.listing import list_videos

    videos: dict[str, None] = {}
    for path in paths:
        is_table = path.suffix.lower() in _TABLES and not path.is_dir()
        found = (
            load_table(path, parse_columns(columns)).frame["video"]
            if is_table
            else list_videos(path)
        )
        videos |= dict.fromkeys(os.path.abspath(video) for video in found)
    root = _root(paths, list(videos))
    return [Task(Path(video), Path(video).relative_to(root).as_posix()) for video in videos]


def _root(paths: Sequence[Path], videos: Sequence[str]) -> str:
    """The folder that names are relative to: the one that was given, or a table's, if all videos
    lie below it; else what they share.
    """
    if len(paths) == 1:
        given = os.path.abspath(paths[0] if paths[0].is_dir() else paths[0].parent)
        if all(Path(video).is_relative_to(given) and video != given for video in videos):
            return given
    return os.path.commonpath([os.path.dirname(video) for video in videos])


def _sha256(files: Sequence[Path]) -> str:
    """Of all files together, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        try:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- the command line ----------------------------------------------------------------------------


def add_extract(verbs: Any) -> None:
    """Adds `extract` and what stands below it to the command."""
    example = "vidgraph extract proposals clips.csv --source motion --out boxes"
    extract = add_verb(
        verbs,
        "extract",
        None,
        "compute once per video what models need besides pixels, and store it",
        example,
    )
    kinds = extract.add_subparsers(metavar="WHAT", required=True, parser_class=Parser)
    what = "propose boxes that may hold something; the same call continues after an interruption"
    p = add_verb(kinds, "proposals", extract_proposals, what, example)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO|FOLDER|TABLE")
    p.add_argument(
        "--source",
        required=True,
        choices=["rpn", "selective-search", "motion"],
        help="what proposes; rpn needs weights",
    )
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="STORE",
        help="the folder to store them in, new or begun in the same way",
    )
    p.add_argument(
        "--count",
        type=positive,
        default=50,
        metavar="K",
        help="most boxes per frame, the best ones (default 50)",
    )
    p.add_argument(
        "--every", type=positive, metavar="N", help="look at every N-th frame (default 1: all)"
    )
    p.add_argument(
        "--fps", type=float, metavar="F", help="look at so many frames per second instead"
    )
    p.add_argument(
        "--short-side",
        type=positive,
        metavar="P",
        help="pixels that frames are reduced to (rpn 800, selective-search 160, motion 128)",
    )
    p.add_argument(
        "--weights",
        metavar="FILE|random",
        help="of the rpn (default: torchvision's COCO weights, downloaded once)",
    )
    p.add_argument(
        "--columns",
        default="",
        metavar="OURS=THEIRS,...",
        help="other column names of a table, as video=path",
    )
    p.add_argument(
        "--workers", type=positive, metavar="N", help="processes (default: one per core; rpn 1)"
    )
    p.add_argument(
        "--cluster",
        action="store_true",
        help="share the videos out over the Ray cluster of RAY_ADDRESS, or of this machine",
    )
    example = "vidgraph extract flow clips.csv --out flow"
    what = (
        "compute the optical flow between each two frames; the same call continues after an "
        "interruption"
    )
    p = add_verb(kinds, "flow", extract_flow, what, example)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO|FOLDER|TABLE")
    methods = ["dis", "tvl1", "farneback", "raft"]
    p.add_argument(
        "--method",
        default="dis",
        choices=methods,
        help="dis (default) is fast, tvl1 the papers', raft needs weights and a GPU",
    )
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="STORE",
        help="the folder to store it in, new or begun in the same way",
    )
    p.add_argument(
        "--bound",
        type=float,
        default=20.0,
        metavar="P",
        help="pixels at 340x256 that 8 bits reach to (default 20)",
    )
    p.add_argument(
        "--short-side",
        type=positive,
        metavar="P",
        help="reduce frames to this shorter side before (default: as they are)",
    )
    p.add_argument(
        "--weights", metavar="FILE|random", help="of raft (default: torchvision's, downloaded once)"
    )
    p.add_argument(
        "--columns",
        default="",
        metavar="OURS=THEIRS,...",
        help="other column names of a table, as video=path",
    )
    p.add_argument(
        "--workers", type=positive, metavar="N", help="processes (default: one per core; raft 1)"
    )
    p.add_argument(
        "--cluster",
        action="store_true",
        help="share the videos out over the Ray cluster of RAY_ADDRESS, or of this machine",
    )
    example = "vidgraph extract boxes boxes.csv --videos videos --out boxes"
    p = add_verb(
        kinds,
        "boxes",
        extract_boxes,
        "store boxes that you have: CSV files, or Something-Else's annotations",
        example,
    )
    p.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE.csv|FILE.json",
        help="video, frame, x0, y0, x1, y1, score; or official .json",
    )
    p.add_argument(
        "--videos",
        type=Path,
        metavar="FOLDER",
        help="what the videos' names are relative to (default: the file's folder)",
    )
    p.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="the folder to store them in"
    )
    p.add_argument(
        "--unit",
        choices=["pixels", "fractions"],
        default="pixels",
        help="of the corners (default pixels of the frame)",
    )
    p.add_argument(
        "--reach",
        type=int,
        default=0,
        metavar="N",
        help="boxes also stand for frames up to N away (default 0)",
    )
    p.add_argument("--workers", type=positive, metavar="N", help="processes (default 1)")
