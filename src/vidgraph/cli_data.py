"""The verbs below `vidgraph data` and `vidgraph extract`: look for faults, make the table of a data
set, and compute once per video what models need besides pixels.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from vidgraph.errors import DataError, VidgraphError

if TYPE_CHECKING:
    from vidgraph.precompute.extract import Job, Task

GOOD, FAULTS = 0, 1

data = typer.Typer(help="Check your videos, or make a data set.", rich_markup_mode=None)
make = typer.Typer(help="Make a data set, or the table of one that you have.")
extract = typer.Typer(help="Compute once per video what models need besides pixels, and store it.")
data.add_typer(make, name="make")

Columns = Annotated[
    str, Option(metavar="OURS=THEIRS,...", help="other column names, as label=class,split=split01")
]


@data.command(epilog="example: vidgraph data check clips.csv --skip-list skip.txt")
def check(
    path: Path = Argument(
        metavar="TABLE|FOLDER", help="a .csv or .parquet table, or a folder per class in one"
    ),
    columns: Columns = "",
    min_frames: int = Option(1, min=1, help="report videos with fewer frames"),
    model: str | None = Option(
        None, help="report videos shorter than this model's clips, and labels it does not know"
    ),
    boxes: Path | None = Option(None, metavar="STORE", help="also look at their boxes"),
    flow: Path | None = Option(None, metavar="STORE", help="also look at their optical flow"),
    flow_bound: float = Option(20.0, min=0, help="the bound that it was made with"),
    intervals: Path | None = Option(
        None, metavar="FILE", help="also hold a table of actions against the videos"
    ),
    full: bool = Option(False, "--full", help="decode every frame, not a few per file"),
    skip_list: Path | None = Option(None, metavar="FILE", help="write the unusable files there"),
) -> int:
    """Find files and rows that training would stumble over."""
    from vidgraph.data.check import check_table
    from vidgraph.data.intervals import load_intervals
    from vidgraph.data.table import load_table, parse_columns
    from vidgraph.precompute.boxes import BoxStore
    from vidgraph.precompute.flow_store import FlowStore
    from vidgraph.util import check_target, counter
    from vidgraph.weights import from_pretrained

    if skip_list is not None:
        check_target(skip_list, [path])
    table = load_table(path, parse_columns(columns), multi_label=intervals is not None)
    network = from_pretrained(model) if model else None
    with counter("files") as progress:
        report = check_table(
            table,
            full=full,
            min_frames=min_frames,
            spec=network.spec if network else None,
            class_names=network.class_names if network else None,
            boxes=BoxStore(boxes) if boxes else None,
            flow=FlowStore(flow, flow_bound) if flow else None,
            intervals=load_intervals(intervals, table) if intervals else None,
            progress=progress,
        )
    print("\n".join(report.lines()))
    if skip_list is not None:
        count = report.write_skip_list(skip_list)
        print(f"{count} files in {skip_list}; train with --data.table.skip_list {skip_list}")
    return GOOD if report.is_good else FAULTS


@make.command(epilog="example: vidgraph data make syncmnist --out digits3 --digits embedded")
def syncmnist(
    out: Path = Option(metavar="FOLDER"),
    num_digits: int = Option(3, min=2, help="digits per clip"),
    classes: str = Option("0,1,2,3,4,5,6,7,8,9", metavar="C,...", help="digits that take part"),
    digits: str = Option(
        "mnist", metavar="SOURCE", help="mnist, embedded, or a folder with MNIST's four files"
    ),
    train: int = Option(1000, min=0, help="videos for train"),
    val: int = Option(200, min=0, help="videos for val"),
    test: int = Option(200, min=0, help="videos for test"),
    seed: int = Option(0, min=0),
) -> int:
    """Write synchronous digits as .mp4 files, with a table and digit boxes."""
    from vidgraph.data.options import SyncMnistOptions
    from vidgraph.data.syncmnist_files import make_dataset
    from vidgraph.util import counter

    if not all(word.strip().isdecimal() for word in classes.split(",")):
        raise DataError(f"--classes {classes}: give digits such as 1,2,3")
    counts = {"train": train, "val": val, "test": test}
    chosen = [int(word) for word in classes.split(",")]
    with counter("videos") as progress:
        options = SyncMnistOptions(num_digits, digits, classes=chosen, shuffle_layers=True)
        table = make_dataset(out, options, counts, seed, progress)
    boxes = table.with_name("boxes.csv")
    total = sum(counts.values())
    print(f"{total:,} videos; the table is {table}, digit boxes are in {boxes}")
    return GOOD


def _add_official(name: str) -> None:
    """Adds the verb of one file in `data/official`; a data set needs that file alone."""

    def verb(
        labels: Path = Option(metavar="FOLDER", help="where its official files are"),
        videos: Path = Option(metavar="FOLDER", help="where its videos are"),
        out: Path = Option(metavar="TABLE.csv", help="the table to write"),
        hold_out: float = Option(0.0, metavar="SHARE", min=0, max=1, help="of train, for val"),
        present: bool = Option(False, "--present", help="list only videos that exist"),
        whole_train: bool = Option(False, "--whole-train", help="hold no training groups out"),
        classes: Path | None = Option(None, metavar="FILE", help="one per line; refuse others"),
    ) -> int:
        from vidgraph.data.label_files import make_table

        read_labels = import_module(f"vidgraph.data.official.{name}").read_labels
        options = {"whole_train": whole_train, "classes": classes}
        given = {key: value for key, value in options.items() if value}
        if unknown := given.keys() - inspect.signature(read_labels).parameters.keys():
            option = sorted(unknown)[0].replace("_", "-")
            raise DataError(f"{name} has no --{option}; leave it out")
        labelled = read_labels(labels, **given)
        lines = make_table(labelled, videos, out, hold_out=hold_out, present_only=present)
        print(*lines, sep="\n")
        return GOOD

    example = f"vidgraph data make {name} --labels LABELS --videos VIDEOS --out {name}.csv"
    help_text = f"Write the table of {name} from its official label files."
    make.command(name, help=help_text, epilog=f"example: {example}")(verb)


for _file in sorted((Path(__file__).parent / "data" / "official").glob("[a-z]*.py")):
    _add_official(_file.stem)


# ---- extract -------------------------------------------------------------------------------------

Sources = Annotated[list[Path], Argument(metavar="VIDEO|FOLDER|TABLE")]
Store = Annotated[
    Path, Option(metavar="STORE", help="the folder to store it in; the same call continues it")
]
ShortSide = Annotated[
    int | None, Option(min=1, help="reduce frames to this shorter side before, in pixels")
]
Weights = Annotated[
    str | None,
    Option(
        metavar="FILE|random", help="of the network (default: its publisher's, downloaded once)"
    ),
]
Workers = Annotated[int | None, Option(min=1, help="processes (default: one per core)")]
Cluster = Annotated[
    bool, Option("--cluster", help="share the videos out over the Ray cluster of RAY_ADDRESS")
]


@extract.command(
    epilog="example: vidgraph extract proposals clips.csv --source detector --out boxes"
)
def proposals(
    videos: Sources,
    out: Store,
    source: Literal["detector", "motion", "rpn"] = Option(
        help="what proposes; detector and rpn are networks with weights"
    ),
    count: int = Option(50, min=1, help="most boxes per frame, the best ones"),
    every: int | None = Option(None, min=1, help="look at every N-th frame"),
    fps: float | None = Option(None, help="look at so many frames per second instead"),
    short_side: ShortSide = None,
    weights: Weights = None,
    columns: Columns = "",
    workers: Workers = None,
    cluster: Cluster = False,
) -> int:
    """Propose boxes that may hold something; the same call continues after an interruption."""
    from vidgraph.data.extraction import video_tasks
    from vidgraph.precompute.boxes_proposed import ProposalJob

    if fps is not None and every is not None:
        raise DataError("give --fps or --every, not both")
    job = ProposalJob(source, count, every or 1, fps, short_side, weights)
    return _extract(job, video_tasks(videos, columns), out, workers, cluster)


@extract.command(epilog="example: vidgraph extract features clips.csv --out features")
def features(
    videos: Sources,
    out: Store,
    backbone: str = Option("timm:tf_efficientnet_lite0", help="timm:NAME@LEVEL or hf:ID"),
    frames: int = Option(16, min=1, help="of each video, the centres of as many equal parts"),
    size: int = Option(224, min=1, help="rows and columns of the frames"),
    fit: Literal["pad", "short", "squash"] = Option(
        "pad", help="how frames become square: on grey, distorted; or short: not at all"
    ),
    mirrored: bool = Option(False, "--mirrored", help="of mirrored frames too"),
    boxes: Path | None = Option(
        None, metavar="STORE", help="not of whole frames: of what is in these boxes, pooled"
    ),
    crops: int = Option(1, min=1, help="with --boxes, of so many things, the surest persons first"),
    columns: Columns = "",
    workers: Workers = None,
    cluster: Cluster = False,
) -> int:
    """Compute the feature maps of a frozen backbone; the same call continues."""
    from vidgraph.data.extraction import refuse_mirrored, video_tasks
    from vidgraph.encoders import feature_job
    from vidgraph.records import InputSpec

    if mirrored:
        refuse_mirrored(videos, columns)
    spec = InputSpec(frames, size, size, whole_video=True, fit=fit)
    if boxes is not None:
        spec = replace(spec, boxes_per_frame=crops, box_crops=True)
    job = feature_job(backbone, spec, mirrored, boxes)
    return _extract(job, video_tasks(videos, columns), out, workers, cluster, frames)


@extract.command(epilog="example: vidgraph extract flow clips.csv --out flow")
def flow(
    videos: Sources,
    out: Store,
    method: Literal["dis", "tvl1", "raft"] = Option(
        "dis", help="dis is fast, tvl1 the papers', raft needs weights and a GPU"
    ),
    bound: float = Option(20.0, min=0, help="pixels of a frame of 340x256 that 8 bits reach to"),
    short_side: ShortSide = None,
    weights: Weights = None,
    columns: Columns = "",
    workers: Workers = None,
    cluster: Cluster = False,
) -> int:
    """Compute the optical flow between each two frames; the same call continues."""
    from vidgraph.data.extraction import video_tasks
    from vidgraph.precompute.flow import FlowJob

    job = FlowJob(method, bound, short_side, weights)
    return _extract(job, video_tasks(videos, columns), out, workers, cluster)


@extract.command(epilog="example: vidgraph extract boxes boxes.csv --videos videos --out boxes")
def boxes(
    out: Store,
    files: list[Path] = Argument(
        metavar="FILE.csv|FILE.json",
        help="video, frame, x0, y0, x1, y1, score; or the .json files of Something-Else",
    ),
    videos: Path | None = Option(
        None, metavar="FOLDER", help="what names are relative to (default: the file's folder)"
    ),
    unit: Literal["pixels", "fractions"] = Option("pixels", help="of the corners"),
    reach: int = Option(0, min=0, help="boxes also stand for frames up to N away"),
    workers: Workers = None,
) -> int:
    """Store boxes that you have: CSV files, or Something-Else's annotations."""
    from vidgraph.data.extraction import given_boxes

    job, tasks, absent = given_boxes(files, videos or files[0].parent, unit, reach)
    if absent:
        where, total = videos or files[0].parent, absent + len(tasks)
        print(f"note: {absent:,} of {total:,} videos of the annotations are not in {where}")
    return _extract(job, tasks, out, workers or 1, cluster=False)


def _extract(
    job: Job,
    tasks: Sequence[Task],
    out: Path,
    workers: int | None,
    cluster: bool,
    frames: int | None = None,
) -> int:
    """Runs a job; where every video has as many `frames`, these are what progress counts."""
    from vidgraph.precompute.extract import extract as run
    from vidgraph.util import counter

    each = frames or 1
    with counter("frames" if frames else "videos") as tell:
        report = run(
            job,
            tasks,
            out,
            workers="ray" if cluster else workers,
            progress=lambda done, total: tell(done * each, total * each),
        )
    if len(tasks) == 1 and report.failures:
        raise VidgraphError(report.failures[0][1])
    print(f"{out}: {report.summary()}")
    for _, line in report.failures:
        print(f"vidgraph: {line}", file=sys.stderr)
    return FAULTS if report.failures else GOOD
