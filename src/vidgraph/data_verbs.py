"""The verbs below `vidgraph data`: look for faults, make a data set or the table of one. Imported
by the command only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidgraph.command_line import FAULTS, GOOD, Parser, add_verb, natural, positive


def data_check(args: argparse.Namespace) -> int:
    from vidgraph.data.check import check_table
    from vidgraph.data.intervals import load_intervals
    from vidgraph.data.table import load_table, parse_columns
    from vidgraph.util import counter
    from vidgraph.util import check_target
    from vidgraph.weights import from_pretrained

    if args.skip_list is not None:
        check_target(args.skip_list, [args.path])
    table = load_table(
        args.path, parse_columns(args.columns), multi_label=args.intervals is not None
    )
    intervals = None if args.intervals is None else load_intervals(args.intervals, table)
    model: Any = from_pretrained(args.model) if args.model else None
    spec, class_names = (model.spec, model.class_names) if model else (None, None)
    flow = None if args.flow is None else (args.flow, args.flow_bound)
    how: dict[str, Any] = {
        "decode": "full" if args.full else "quick",
        "flow": flow,
        "intervals": intervals,
    }
    with counter("files") as count:
        report = check_table(
            table,
            min_frames=args.min_frames,
            spec=spec,
            class_names=class_names,
            progress=count,
            **how,
        )
    print("\n".join(report.lines()))
    if args.skip_list is not None:
        print(
            f"{report.write_skip_list(args.skip_list)} files in {args.skip_list}; train with "
            f"--data.table.skip_list {args.skip_list}"
        )
    return GOOD if report.is_good else FAULTS


def data_make_syncmnist(args: argparse.Namespace) -> int:
    from vidgraph.data.syncmnist_files import make_dataset
    from vidgraph.util import counter

    counts = {"train": args.train, "val": args.val, "test": args.test}
    classes = range(10) if args.classes is None else args.classes
    with counter("videos") as count:
        table = make_dataset(
            args.out,
            args.num_digits,
            counts,
            args.digits,
            seed=args.seed,
            classes=classes,
            report=count,
        )
    print(
        f"{sum(counts.values()):,} videos; the table is {table}, digit boxes are in "
        f"{table.with_name('boxes.csv')}"
    )
    return GOOD


def data_make_something(args: argparse.Namespace) -> int:
    from vidgraph.data.something import read_labels

    return _make(args, read_labels(args.labels), hold_out=args.hold_out)


def data_make_charades(args: argparse.Namespace) -> int:
    from vidgraph.data.charades import read_labels

    return _make(args, read_labels(args.labels), hold_out=args.hold_out)


def data_make_ucf101(args: argparse.Namespace) -> int:
    from vidgraph.data.ucf101 import read_labels

    return _make(args, read_labels(args.labels, args.whole_train), present_only=args.present)


def data_make_hmdb51(args: argparse.Namespace) -> int:
    from vidgraph.data.hmdb51 import read_labels

    options: dict[str, Any] = {"hold_out": args.hold_out, "present_only": args.present}
    return _make(args, read_labels(args.labels), **options)


def data_make_kinetics(args: argparse.Namespace) -> int:
    from vidgraph.data.kinetics import read_labels

    options: dict[str, Any] = {"hold_out": args.hold_out, "present_only": args.present}
    return _make(args, read_labels(args.labels, args.classes), **options)


def _make(args: argparse.Namespace, labelled: Any, **options: Any) -> int:
    """Writes a table, and says what is in it and what to do next."""
    from vidgraph.data.label_files import make_table

    lines = make_table(labelled, args.videos, args.out, **options)
    columns = " --columns split=split01" if any("split01" in line for line in lines) else ""
    print(*lines, f"look for faults: vidgraph data check {args.out}{columns}", sep="\n")
    return GOOD


def add_data(verbs: Any) -> None:
    """Adds `data` and what stands below it to the command."""
    data = add_verb(
        verbs,
        "data",
        None,
        "check your videos, or make a data set",
        "vidgraph data check clips.csv --skip-list skip.txt",
    )
    kinds = data.add_subparsers(metavar="WHAT", required=True, parser_class=Parser)
    p = add_verb(
        kinds,
        "check",
        data_check,
        "find files and rows that training would stumble over",
        "vidgraph data check clips.csv",
    )
    p.add_argument(
        "path",
        metavar="TABLE|FOLDER",
        help="a .csv or .parquet table, or a folder with one folder per class",
    )
    p.add_argument(
        "--columns",
        default="",
        metavar="OURS=THEIRS,...",
        help="other column names, as label=class,split=split01",
    )
    p.add_argument(
        "--min-frames",
        type=positive,
        default=1,
        metavar="N",
        help="report videos with fewer frames (default 1)",
    )
    p.add_argument(
        "--model",
        help="report videos shorter than this model's clips, and labels that it does not know",
    )
    p.add_argument(
        "--flow",
        metavar="STORE",
        help="also look at their optical flow, in a store or a folder of images",
    )
    p.add_argument(
        "--flow-bound",
        type=float,
        default=20.0,
        metavar="PIXELS",
        help="the bound that it was made with (default 20)",
    )
    p.add_argument(
        "--intervals",
        type=Path,
        metavar="FILE",
        help="also hold a table of actions against the videos",
    )
    p.add_argument(
        "--full", action="store_true", help="decode every frame instead of a few per file"
    )
    p.add_argument("--skip-list", type=Path, metavar="FILE", help="write the unusable files there")
    make = add_verb(
        kinds,
        "make",
        None,
        "make a data set, or the table of one that you have",
        "vidgraph data make syncmnist --out digits3",
    )
    sets = make.add_subparsers(metavar="DATASET", required=True, parser_class=Parser)
    _add_make_something(sets)
    _add_make_charades(sets)
    _add_make_ucf101_and_hmdb51(sets)
    _add_make_kinetics(sets)
    p = add_verb(
        sets,
        "syncmnist",
        data_make_syncmnist,
        "write synchronous digits as .mp4 files, a table and digit boxes",
        "vidgraph data make syncmnist --out digits3 --digits embedded --train 800 --val 100 "
        "--test 200",
    )
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    p.add_argument(
        "--num-digits", type=int, default=3, metavar="N", help="digits per clip (default 3)"
    )
    p.add_argument(
        "--classes", type=int, nargs="+", metavar="C", help="digits that take part (default 0 to 9)"
    )
    p.add_argument(
        "--digits",
        default="mnist",
        metavar="SOURCE",
        help="mnist, embedded, or a folder with MNIST's four files",
    )
    for split, count in (("train", 1000), ("val", 200), ("test", 200)):
        p.add_argument(
            f"--{split}",
            type=natural,
            default=count,
            metavar="N",
            help=f"videos for {split} (default {count})",
        )
    p.add_argument("--seed", type=int, default=0)


def _add_make_something(sets: Any) -> None:
    p = _add_make(
        sets,
        (
            "something",
            data_make_something,
            "write the table of Something-Something v1 or v2 from its official label files",
        ),
        "--labels labels --videos 20bn-something-something-v2 --out something.csv",
        labels="where the official .csv (v1) or .json (v2) files are",
        videos="the folders of frames (v1) or .webm files (v2)",
    )
    p.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of train for a split `held`",
    )


def _add_make_charades(sets: Any) -> None:
    p = _add_make(
        sets,
        (
            "charades",
            data_make_charades,
            "write the tables of Charades, its videos and its actions, from the official "
            "annotation files",
        ),
        "--labels Charades --videos Charades_v1_480 --out charades.csv --hold-out 0.05",
        labels="where the three Charades_v1_ files are",
        videos="the .mp4 files, or the folders of frames",
        out="the table to write; the other is TABLE_intervals.csv",
    )
    p.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training people for a split `val`",
    )


def _add_make_ucf101_and_hmdb51(sets: Any) -> None:
    p = _add_make(
        sets,
        (
            "ucf101",
            data_make_ucf101,
            "write the table of UCF101 from its official lists, a column per split",
        ),
        "--labels ucfTrainTestlist --videos UCF-101 --out ucf101.csv",
        labels="where classInd.txt, trainlist01.txt and the others are",
    )
    _add_present(p)
    p.add_argument(
        "--whole-train",
        action="store_true",
        help="leave training groups 22 to 25, which are split `val`, in `train`",
    )
    p = _add_make(
        sets,
        (
            "hmdb51",
            data_make_hmdb51,
            "write the table of HMDB51 from its official split files, a column per split",
        ),
        "--labels testTrainMulti_7030_splits --videos hmdb51 --out hmdb51.csv --hold-out 0.1",
        labels="where wave_test_split1.txt and the others are",
    )
    _add_present(p)
    p.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the films of train for a split `val`",
    )


def _add_make_kinetics(sets: Any) -> None:
    p = _add_make(
        sets,
        (
            "kinetics",
            data_make_kinetics,
            "write the table of Kinetics-400, 600 or 700 from its official lists",
        ),
        "--labels kinetics400 --videos kinetics400_clips --out kinetics.csv",
        labels="where train.csv, validate.csv and test.csv are",
    )
    _add_present(p)
    p.add_argument(
        "--classes", type=Path, metavar="FILE", help="the classes, one per line; others are refused"
    )
    p.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of train for a split `held`",
    )


def _add_make(
    sets: Any,
    verb: tuple[str, Callable[[argparse.Namespace], int], str],
    example: str,
    labels: str,
    videos: str = "the videos, in folders of their classes or not",
    out: str = "the table to write",
) -> Any:
    """Adds what makes the table of one data set: its name, function and summary; the options of an
    example; what its folders hold.
    """
    p = add_verb(sets, *verb, f"vidgraph data make {verb[0]} {example}")
    p.add_argument("--labels", type=Path, required=True, metavar="FOLDER", help=labels)
    p.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help=videos)
    p.add_argument("--out", type=Path, required=True, metavar="TABLE.csv", help=out)
    return p


def _add_present(p: Any) -> None:
    p.add_argument("--present", action="store_true", help="list only videos that are there")
