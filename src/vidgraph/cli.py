"""The command `vidgraph`: one short function per verb. Heavy modules are imported inside, so that `--help` is quick.

Exit codes: 0 good; 1 a check found faults, or some of many files failed; 2 bad input; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vidgraph
from vidgraph.command_line import Parser, add_verb, positive, split_overrides
from vidgraph.errors import RecipeError, VidgraphError, nearest

GOOD, FAULTS, BAD_INPUT = 0, 1, 2


# ---- verbs ---------------------------------------------------------------------------------------------------------------------------


def doctor(args: argparse.Namespace) -> int:
    from vidgraph.doctor import doctor_report, to_text

    report = doctor_report()
    print(json.dumps(report, indent=2) if args.json else to_text(report))
    return GOOD if report["ok"] else FAULTS


def models(args: argparse.Namespace) -> int:
    shipped = vidgraph.list_models(pretrained=True)
    print("architectures (vidgraph.create_model):", *(f"  {name}" for name in vidgraph.list_models()), sep="\n")
    print("shipped weights (vidgraph.from_pretrained):", *(f"  {name}" for name in shipped or ["none"]), sep="\n")
    return GOOD


def demo(args: argparse.Namespace) -> int:
    from vidgraph.demo import run_demo

    run_demo(args.out, args.overrides)
    return GOOD


def data_check(args: argparse.Namespace) -> int:
    from vidgraph.data.check import check_table
    from vidgraph.data.table import load_table, parse_columns
    from vidgraph.progress import counter

    table = load_table(args.path, parse_columns(args.columns))
    model: Any = vidgraph.from_pretrained(args.model) if args.model else None
    spec, class_names = (model.input_spec, model.class_names) if model else (None, None)
    with counter("files") as count:
        decode: Any = "full" if args.full else "quick"
        report = check_table(table, min_frames=args.min_frames, spec=spec, class_names=class_names, decode=decode, progress=count)
    print("\n".join(report.lines()))
    if args.skip_list is not None:
        print(f"{report.write_skip_list(args.skip_list)} files in {args.skip_list}; train with --data.table.skip_list {args.skip_list}")
    return GOOD if report.is_good else FAULTS


def data_make_syncmnist(args: argparse.Namespace) -> int:
    from vidgraph.data.syncmnist_files import make_dataset
    from vidgraph.progress import counter

    counts = {"train": args.train, "val": args.val, "test": args.test}
    classes = range(10) if args.classes is None else args.classes
    with counter("videos") as count:
        table = make_dataset(args.out, args.num_digits, counts, args.digits, seed=args.seed, classes=classes, report=count)
    print(f"{sum(counts.values()):,} videos; the table is {table}, digit boxes are in {table.with_name('boxes.csv')}")
    return GOOD


def data_make_something(args: argparse.Namespace) -> int:
    from vidgraph.data.something import make_table

    made = make_table(args.labels, args.videos, args.out, hold_out=args.hold_out)
    print(*made.lines(), sep="\n")
    print(f"look for faults: vidgraph data check {args.out}")
    return GOOD


def train(args: argparse.Namespace) -> int:
    from vidgraph.experiment import default_folder, train_recipe
    from vidgraph.recipe import load_recipe
    from vidgraph.training.progress import duration
    from vidgraph.training.routine import stop_message

    recipe = load_recipe(args.recipe, args.overrides)
    folder = args.out or default_folder(args.recipe, recipe)
    result = train_recipe(recipe, folder, args.resume)
    first_process = os.environ.get("RANK", "0") == "0"
    if result.stopped_by is not None:
        if first_process:
            print(stop_message(result.stopped_by, result.clips_seen, folder), file=sys.stderr)
        return 128 + result.stopped_by
    if first_process:
        best = "" if result.best is None else f"best on validation {result.best:.2f} %, "
        print(f"finished: {result.clips_seen:,} clips, {best}{duration(result.seconds)} of training; weights in {folder}")
        print(f"score them on the test split: vidgraph eval {folder}")
    return GOOD


def reproduce(args: argparse.Namespace) -> int:
    from vidgraph.reproduce import parse_seeds, reproduce_table

    rows, seeds = None if args.rows is None else args.rows.split(","), parse_seeds(args.seeds)
    stopped_by = reproduce_table(args.recipe, args.size, rows, seeds, args.out, args.results, args.page, args.overrides)
    return GOOD if stopped_by is None else 128 + stopped_by


def evaluate(args: argparse.Namespace) -> int:
    from vidgraph.progress import counter
    from vidgraph.scoring import score_model

    with counter("clips") as count:
        scores, name = score_model(args.model, args.data, args.overrides, args.split, args.views, args.batch_size, args.device, count)
    if args.json:
        print(json.dumps(scores.to_dict(), indent=2))
        return GOOD
    print(f"{args.model} on {name}: {scores.n:,} scored, {scores.skipped:,} skipped (each counts as wrong)")
    for key, title in (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean class"), ("map", "mAP")):
        value = getattr(scores, key)
        if value is not None:
            low, high = scores.ci95[key]
            print(f"{title:<12}{value:6.2f} %   95 % interval {low:.2f} to {high:.2f}")
    return GOOD


def predict(args: argparse.Namespace) -> int:
    from vidgraph.recogniser import Recogniser, check_save_target, list_videos
    from vidgraph.scoring import prediction_views
    from vidgraph.training.fit import accelerator

    videos = [video for path in args.videos for video in list_videos(path)]
    if args.save is not None:
        check_save_target(args.save)
        if len(videos) > 1:
            raise VidgraphError(f"--save draws one video, and {len(videos)} were given")
    plan, fusion = prediction_views(args.model, args.views)
    recogniser = Recogniser(vidgraph.from_pretrained(args.model), accelerator(args.device or "auto"), views=fusion, plan=plan)
    if len(videos) == 1:  # its fault is the command's
        results: Any = iter([(videos[0], recogniser.predict(videos[0]), None)])
    else:
        results = ((r.path, r.prediction, r.error) for r in recogniser.predict_many(videos))
    records, failed = [], 0
    for path, prediction, error in results:
        if error is not None:
            failed += 1
            records.append({"video": str(path), "error": str(error)})
            print(f"vidgraph: {error}", file=sys.stderr)
            continue
        records.append(prediction.to_dict(args.top))
        if not args.json:
            _print_prediction(prediction, args.top, recogniser.notes(prediction))
        if args.save is not None:
            recogniser.save(prediction, args.save, args.model)
    if args.json:
        print(json.dumps(records, indent=2))
    elif args.save is not None:
        print(f"drawn in {args.save}")
    return FAULTS if failed else GOOD


def _print_prediction(prediction: Any, count: int, notes: list[str]) -> None:
    print(prediction.video)
    for name, probability in prediction.top(count):
        print(f"  {100 * probability:6.2f} %  {name}")
    print(f"  frames used: {', '.join(map(str, prediction.frame_indices))}", *(f"  {note}" for note in notes), sep="\n")


def profile(args: argparse.Namespace) -> int:
    from vidgraph.catalogue import list_architectures
    from vidgraph.evaluation.profile import profile_model, to_text
    from vidgraph.experiment import model_options

    options = model_options(args.overrides)
    if args.model in list_architectures():
        model = vidgraph.create_model(args.model, args.num_classes, **options)
    elif options:
        raise RecipeError("--model.options. belong to an architecture; weights bring their own")
    else:
        model = vidgraph.from_pretrained(args.model, args.num_classes)
    result = profile_model(model)
    print(json.dumps(result, indent=2) if args.json else to_text(result))
    return GOOD


def convert(args: argparse.Namespace) -> int:
    from vidgraph.conversion import convert_weights
    from vidgraph.experiment import model_options

    report = convert_weights(args.file, args.architecture, args.num_classes, model_options(args.overrides), args.out)
    print(report.to_text(), f"load them with vidgraph.from_pretrained({str(args.out)!r})", sep="\n")
    return GOOD


# ---- the command line ----------------------------------------------------------------------------------------------------------------


def build_parser() -> Parser:
    about = (vidgraph.__doc__ or "").partition("\n")[0].removeprefix("vidgraph: ").capitalize()
    parser = Parser(prog="vidgraph", allow_abbrev=False, description=about)
    parser.add_argument("--version", action="version", version=vidgraph.__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    p = add_verb(verbs, "doctor", doctor, "versions, decoders, devices, disk: what works on this machine", "vidgraph doctor")
    p.add_argument("--json", action="store_true", help="plain values instead of text")
    add_verb(verbs, "models", models, "architectures and shipped weights", "vidgraph models")
    p = add_verb(verbs, "demo", demo, "train a small graph network on moving digits, score it, explain one video", "vidgraph demo")
    p.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="where everything goes (default demo)")
    p.set_defaults(takes_overrides=True)
    _add_data(verbs)
    _add_train_and_reproduce(verbs)
    _add_eval(verbs)
    _add_predict(verbs)
    _add_profile_and_convert(verbs)
    return parser


def _add_data(verbs: Any) -> None:
    data = add_verb(verbs, "data", None, "check your videos, or make a data set", "vidgraph data check clips.csv --skip-list skip.txt")
    kinds = data.add_subparsers(metavar="WHAT", required=True, parser_class=Parser)
    p = add_verb(kinds, "check", data_check, "find files and rows that training would stumble over", "vidgraph data check clips.csv")
    p.add_argument("path", metavar="TABLE|FOLDER", help="a .csv, .tsv or .parquet table, or a folder with one folder per class")
    p.add_argument("--columns", default="", metavar="OURS=THEIRS,...", help="other column names, as label=class,split=split01")
    p.add_argument("--min-frames", type=positive, default=1, metavar="N", help="report videos with fewer frames (default 1)")
    p.add_argument("--model", help="report videos shorter than this model's clips, and labels that it does not know")
    p.add_argument("--full", action="store_true", help="decode every frame instead of a few per file")
    p.add_argument("--skip-list", type=Path, metavar="FILE", help="write the unusable files there")
    make = add_verb(kinds, "make", None, "make a data set, or the table of one that you have", "vidgraph data make syncmnist --out digits3")
    sets = make.add_subparsers(metavar="DATASET", required=True, parser_class=Parser)
    _add_make_something(sets)
    p = add_verb(
        sets,
        "syncmnist",
        data_make_syncmnist,
        "write synchronous digits as .mp4 files, a table and digit boxes",
        "vidgraph data make syncmnist --out digits3 --digits embedded --train 800 --val 100 --test 200",
    )
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    p.add_argument("--num-digits", type=int, default=3, metavar="N", help="digits per clip (default 3)")
    p.add_argument("--classes", type=int, nargs="+", metavar="C", help="digits that take part (default 0 to 9)")
    p.add_argument("--digits", default="mnist", metavar="SOURCE", help="mnist, embedded, or a folder with MNIST's four files")
    for split, count in (("train", 1000), ("val", 200), ("test", 200)):
        p.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"videos for {split} (default {count})")
    p.add_argument("--seed", type=int, default=0)


def _add_make_something(sets: Any) -> None:
    p = add_verb(
        sets,
        "something",
        data_make_something,
        "write the table of Something-Something v1 or v2 from its official label files",
        "vidgraph data make something --labels labels --videos 20bn-something-something-v2 --out something.csv",
    )
    p.add_argument("--labels", type=Path, required=True, metavar="FOLDER", help="where the official .csv (v1) or .json (v2) files are")
    p.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help="the folders of frames (v1) or .webm files (v2)")
    p.add_argument("--out", type=Path, required=True, metavar="TABLE.csv", help="the table to write")
    p.add_argument("--hold-out", type=float, default=0.0, metavar="SHARE", help="share of train for a split `held`")


def _add_train_and_reproduce(verbs: Any) -> None:
    from vidgraph.recipe import list_recipes

    rows = "\n".join(f"  {name}:{row}" for name, rows in list_recipes().items() for row in rows)
    p = add_verb(
        verbs,
        "train",
        train,
        "train a recipe row, with any of its values overridden by --KEY VALUE",
        f"vidgraph train syncmnist3:rstg_small --train.lr 1e-3 --out runs/mine\n"
        f"after a stop or a crash: vidgraph train runs/mine --resume\nrecipes of the package:\n{rows}",
    )
    p.add_argument("recipe", metavar="RECIPE[:ROW]", help="a recipe of the package, FILE.yaml[:ROW], or a run folder")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="the run folder (default runs/RECIPE-ROW)")
    p.add_argument("--resume", action="store_true", help="continue the training in the run folder")
    p.set_defaults(takes_overrides=True)
    what = "train the rows of a recipe one after another, score each once, write their table; the same call continues"
    p = add_verb(verbs, "reproduce", reproduce, what, "vidgraph reproduce syncmnist3 --size small")
    p.add_argument("recipe", metavar="RECIPE", help="a recipe of the package, or FILE.yaml")
    p.add_argument("--size", choices=["small", "paper"], help="rows of this size: small ones suit a CPU")
    p.add_argument("--rows", metavar="ROW,...", help="these rows only")
    p.add_argument("--seeds", metavar="N,...", help="train each row once with each of these seeds (default: the row's own seed)")
    p.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="where the run folders are (default runs)")
    p.add_argument("--results", type=Path, metavar="FILE.json", help="the table (default results/RECIPE.json)")
    p.add_argument("--page", type=Path, metavar="FILE.md", help="write all tables of that folder between this page's markers")
    p.set_defaults(takes_overrides=True)


def _add_eval(verbs: Any) -> None:
    p = add_verb(verbs, "eval", evaluate, "score a model on a split", "vidgraph eval runs/mine --data syncmnist3 --split val")
    p.add_argument("model", metavar="MODEL", help="shipped weights, a run folder, or a model on the hub")
    p.add_argument("--data", metavar="RECIPE|TABLE|FOLDER", help="what to score on (default: what a run folder was trained on)")
    p.add_argument("--split", default="test", help="train, val or test (default test)")
    p.add_argument("--views", type=positive, metavar="N", help="clips per video (default: the recipe's, else 1); crops: --eval.crops")
    p.add_argument("--batch-size", type=positive, metavar="N", help="views per forward pass (default: the recipe's, else 64)")
    p.add_argument("--device", choices=["cpu", "cuda"], help="where it runs (default: a GPU where there is one)")
    p.add_argument("--json", action="store_true", help="plain values instead of text")
    p.set_defaults(takes_overrides=True)


def _add_predict(verbs: Any) -> None:
    p = add_verb(verbs, "predict", predict, "recognise what happens in videos", "vidgraph predict runs/mine clip.mp4 --save overlay.mp4")
    p.add_argument("model", metavar="MODEL", help="shipped weights, a run folder, or a model on the hub")
    p.add_argument("videos", nargs="+", metavar="VIDEO|FOLDER")
    p.add_argument("--top", type=positive, default=5, metavar="N", help="classes to show (default 5)")
    p.add_argument("--views", type=positive, default=1, metavar="N", help="clips per video that are averaged (default 1)")
    p.add_argument("--save", type=Path, metavar="FILE", help="draw the graph over the video: an .mp4 overlay or an .html report")
    p.add_argument("--device", choices=["cpu", "cuda"], help="where it runs (default: a GPU where there is one)")
    p.add_argument("--json", action="store_true", help="plain values instead of text")


def _add_profile_and_convert(verbs: Any) -> None:
    p = add_verb(verbs, "profile", profile, "parameters and multiply-adds of a model, part by part", "vidgraph profile rstg_small")
    p.add_argument("model", metavar="ARCHITECTURE|MODEL")
    p.add_argument("--num-classes", type=positive, metavar="N")
    p.add_argument("--json", action="store_true", help="plain values instead of text")
    p.set_defaults(takes_overrides=True)
    p = add_verb(
        verbs,
        "convert",
        convert,
        "turn checkpoints of other codebases into weights: 3D ResNets of PyTorchVideo and its relatives, RSTG of TensorFlow",
        "vidgraph convert I3D_8x8_R50.pyth --architecture i3d_r50 --out converted",
    )
    p.add_argument("file", type=Path, metavar="FILE", help="a checkpoint, or an .npz file of the RSTG authors' variables (name -> array)")
    p.add_argument("--architecture", help="default i3d_r50; for .npz files rstg_syncmnist")
    p.add_argument("--num-classes", type=positive, metavar="N", help="default: the checkpoint's; another number leaves its classifier out")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    p.set_defaults(takes_overrides=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; what users can cause ends in one line on standard error."""
    words, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    try:
        parser = build_parser()
        if not words:
            parser.print_help()
            return BAD_INPUT
        args, unknown = parser.parse_known_args(words)
        if unknown or (overrides and not args.takes_overrides):
            raise _unknown_argument((unknown or overrides)[0], args)
        args.overrides = overrides
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except VidgraphError as error:
        return _say(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _say(f"{error.filename or 'a file'}: {error.strerror or error}", BAD_INPUT)


def _unknown_argument(word: str, args: argparse.Namespace) -> RecipeError:
    from vidgraph.recipe import recipe_keys

    word = word.partition("=")[0]
    known = [*args.options, *(f"--{key}" for key in recipe_keys() if "." in key and args.takes_overrides)]
    same_end = [key for key in known if key.endswith(f".{word[2:].replace('-', '_')}")]  # --lr for --train.lr
    hint = nearest(word, same_end or known)
    return RecipeError(f"unknown argument {word}{hint if 'did you mean' in hint else ''} (see {args.prog} --help)")


def _say(message: str, code: int) -> int:
    print(f"vidgraph: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
