"""The command `vidgraph`: one short function per verb. Heavy modules are imported inside, so that
`--help` is quick.

Exit codes: 0 good; 1 a check found faults, or some of many files failed; 2 bad input; 130 stopped
by Ctrl-C.
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
from vidgraph.command_line import (
    BAD_INPUT,
    FAULTS,
    GOOD,
    Parser,
    add_verb,
    positive,
    split_overrides,
)
from vidgraph.data_verbs import add_data
from vidgraph.errors import RecipeError, VidgraphError, nearest
from vidgraph.eval_verb import add_eval
from vidgraph.extract_verbs import add_extract

# ---- verbs ---------------------------------------------------------------------------------------


def doctor(args: argparse.Namespace) -> int:
    from vidgraph.doctor import doctor_report, to_text

    report = doctor_report()
    print(json.dumps(report, indent=2) if args.json else to_text(report))
    return GOOD if report["ok"] else FAULTS


def models(args: argparse.Namespace) -> int:
    shipped = vidgraph.list_models(pretrained=True)
    print(
        "architectures (vidgraph.create_model):",
        *(f"  {name}" for name in vidgraph.list_models()),
        sep="\n",
    )
    print(
        "shipped weights (vidgraph.from_pretrained):",
        *(f"  {name}" for name in shipped or ["none"]),
        sep="\n",
    )
    return GOOD


def demo(args: argparse.Namespace) -> int:
    from vidgraph.demo import run_demo

    run_demo(args.out, args.overrides)
    return GOOD


def train(args: argparse.Namespace) -> int:
    from vidgraph.config import load_recipe
    from vidgraph.experiment import default_folder, train_recipe
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
        print(
            f"finished: {result.clips_seen:,} clips, {best}{duration(result.seconds)} of "
            f"training; weights in {folder}"
        )
        print(f"score them on the test split: vidgraph eval {folder}")
    return GOOD


def reproduce(args: argparse.Namespace) -> int:
    from vidgraph.reproduce import parse_seeds, reproduce_table

    rows, seeds = None if args.rows is None else args.rows.split(","), parse_seeds(args.seeds)
    stopped_by = reproduce_table(
        args.recipe, args.size, rows, seeds, args.out, args.results, args.page, args.overrides
    )
    return GOOD if stopped_by is None else 128 + stopped_by


def predict(args: argparse.Namespace) -> int:
    from vidgraph.data.flow_source import flow_as_trained
    from vidgraph.precompute.store import BoxStore
    from vidgraph.predictor import Predictor, check_save_target
    from vidgraph.progress import counter
    from vidgraph.scoring import prediction_views
    from vidgraph.training.fit import accelerator
    from vidgraph.video.listing import list_videos

    videos = [video for path in args.videos for video in list_videos(path)]
    if args.save is not None:
        check_save_target(args.save, videos)
        if len(videos) > 1:
            raise VidgraphError(f"--save draws one video, and {len(videos)} were given")
    plan, fusion = prediction_views(args.model, args.views)
    model: Any = vidgraph.from_pretrained(args.model)
    spec = model.input_spec
    for option, store, takes in (
        ("--boxes", args.boxes, spec.boxes_per_frame),
        ("--flow", args.flow, spec.flow_length),
    ):
        if store is not None and not takes:
            raise VidgraphError(
                f"{option} {store}: {args.model} takes no {option[2:]}; leave it out"
            )
    boxes = None if args.boxes is None else BoxStore(args.boxes)
    flow = flow_as_trained(args.model, args.flow) if spec.flow_length else None
    predictor = Predictor(
        model, accelerator(args.device or "auto"), views=fusion, plan=plan, boxes=boxes, flow=flow
    )
    if len(videos) == 1:  # its fault is the command's
        results: Any = iter([(videos[0], predictor.predict(videos[0]), None)])
    else:
        results = ((r.path, r.prediction, r.error) for r in predictor.predict_many(videos))
    records, failed = [], 0
    for path, prediction, error in results:
        if error is not None:
            failed += 1
            records.append({"video": str(path), "error": str(error)})
            print(f"vidgraph: {error}", file=sys.stderr)
            continue
        records.append(prediction.to_dict(args.top))
        if not args.json:
            _print_prediction(prediction, args.top, predictor.notes(prediction))
        if args.save is not None:
            with counter("frames drawn") as count:
                predictor.save(prediction, args.save, args.model, count)
    if args.json:
        print(json.dumps(records, indent=2))
    elif args.save is not None:
        print(f"drawn in {args.save}")
    return FAULTS if failed else GOOD


def _print_prediction(prediction: Any, count: int, notes: list[str]) -> None:
    print(prediction.video)
    for name, probability in prediction.top(count):
        print(f"  {100 * probability:6.2f} %  {name}")
    print(
        f"  frames used: {', '.join(map(str, prediction.frame_indices))}",
        *(f"  {note}" for note in notes),
        sep="\n",
    )


def profile(args: argparse.Namespace) -> int:
    from vidgraph.evaluation.profile import profile_model, to_text
    from vidgraph.experiment import model_options
    from vidgraph.models.build import list_architectures
    from vidgraph.weights import list_shipped

    options = model_options(args.overrides)
    if args.model in list_architectures():
        model = vidgraph.create_model(args.model, args.num_classes, **options)
    elif options:
        raise RecipeError("--model.options. belong to an architecture; weights bring their own")
    elif (
        "/" not in args.model and args.model not in list_shipped() and not Path(args.model).exists()
    ):
        known = [*list_architectures(), *list_shipped()]
        raise RecipeError(
            f"no architecture and no weights are called {args.model!r}{nearest(args.model, known)}"
        )
    else:
        model = vidgraph.from_pretrained(args.model, args.num_classes)
    result = profile_model(model)
    print(json.dumps(result, indent=2) if args.json else to_text(result))
    return GOOD


def convert(args: argparse.Namespace) -> int:
    from vidgraph.conversion import convert_weights
    from vidgraph.experiment import model_options

    report = convert_weights(
        args.file, args.architecture, args.num_classes, model_options(args.overrides), args.out
    )
    print(report.to_text(), f"load them with vidgraph.from_pretrained({str(args.out)!r})", sep="\n")
    return GOOD


# ---- the command line ----------------------------------------------------------------------------


def build_parser() -> Parser:
    about = (vidgraph.__doc__ or "").partition("\n")[0].removeprefix("vidgraph: ").capitalize()
    parser = Parser(prog="vidgraph", allow_abbrev=False, description=about)
    parser.add_argument("--version", action="version", version=vidgraph.__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    p = add_verb(
        verbs,
        "doctor",
        doctor,
        "versions, decoders, devices, disk: what works on this machine",
        "vidgraph doctor",
    )
    p.add_argument("--json", action="store_true", help="plain values instead of text")
    add_verb(verbs, "models", models, "architectures and shipped weights", "vidgraph models")
    p = add_verb(
        verbs,
        "demo",
        demo,
        "train a small graph network on moving digits, score it, explain one video",
        "vidgraph demo",
    )
    p.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="FOLDER",
        help="where everything goes (default demo)",
    )
    p.set_defaults(takes_overrides=True)
    add_data(verbs)
    add_extract(verbs)
    _add_train_and_reproduce(verbs)
    add_eval(verbs)
    _add_predict(verbs)
    _add_profile_and_convert(verbs)
    return parser


def _add_train_and_reproduce(verbs: Any) -> None:
    from vidgraph.config import list_recipes

    rows = "\n".join(f"  {name}:{row}" for name, rows in list_recipes().items() for row in rows)
    p = add_verb(
        verbs,
        "train",
        train,
        "train a recipe row, with any of its values overridden by --KEY VALUE",
        f"vidgraph train syncmnist3:rstg_small --train.lr 1e-3 --out runs/mine\n"
        "after a stop or a crash: vidgraph train runs/mine --resume\nrecipes of the "
        f"package:\n{rows}",
    )
    p.add_argument(
        "recipe",
        metavar="RECIPE[:ROW]",
        help="a recipe of the package, FILE.yaml[:ROW], or a run folder",
    )
    p.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the run folder (default runs/RECIPE-ROW)"
    )
    p.add_argument("--resume", action="store_true", help="continue the training in the run folder")
    p.set_defaults(takes_overrides=True)
    what = (
        "train the rows of a recipe one after another, score each once, write their table; the "
        "same call continues"
    )
    p = add_verb(verbs, "reproduce", reproduce, what, "vidgraph reproduce syncmnist3 --size small")
    p.add_argument("recipe", metavar="RECIPE", help="a recipe of the package, or FILE.yaml")
    p.add_argument(
        "--size", choices=["small", "paper"], help="rows of this size: small ones suit a CPU"
    )
    p.add_argument("--rows", metavar="ROW,...", help="these rows only")
    p.add_argument(
        "--seeds",
        metavar="N,...",
        help="train each row once with each of these seeds (default: the row's own seed)",
    )
    p.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="where the run folders are (default runs)",
    )
    p.add_argument(
        "--results", type=Path, metavar="FILE.json", help="the table (default results/RECIPE.json)"
    )
    p.add_argument(
        "--page",
        type=Path,
        metavar="FILE.md",
        help="write all tables of that folder between this page's markers",
    )
    p.set_defaults(takes_overrides=True)


def _add_predict(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "predict",
        predict,
        "recognise what happens in videos",
        "vidgraph predict runs/mine clip.mp4 --save overlay.mp4",
    )
    p.add_argument(
        "model", metavar="MODEL", help="shipped weights, a run folder, or a model on the hub"
    )
    p.add_argument("videos", nargs="+", metavar="VIDEO|FOLDER")
    p.add_argument(
        "--top", type=positive, default=5, metavar="N", help="classes to show (default 5)"
    )
    p.add_argument(
        "--views",
        type=positive,
        default=1,
        metavar="N",
        help="clips per video that are averaged (default 1)",
    )
    p.add_argument(
        "--boxes",
        type=Path,
        metavar="STORE",
        help="boxes of the videos, made by vidgraph extract; for models that take boxes",
    )
    p.add_argument(
        "--flow",
        metavar="STORE",
        help="optical flow of the videos, for models that take it (default: computed on the way)",
    )
    p.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="draw the graph over the video: an .mp4 overlay or an .html report",
    )
    p.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        help="where it runs (default: a GPU where there is one)",
    )
    p.add_argument("--json", action="store_true", help="plain values instead of text")


def _add_profile_and_convert(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "profile",
        profile,
        "parameters and multiply-adds of a model, part by part",
        "vidgraph profile rstg_small",
    )
    p.add_argument("model", metavar="ARCHITECTURE|MODEL")
    p.add_argument(
        "--num-classes",
        "--num_classes",
        type=positive,
        metavar="N",
        help="classes of an architecture, or of weights re-headed",
    )
    p.add_argument("--json", action="store_true", help="plain values instead of text")
    p.set_defaults(takes_overrides=True)
    p = add_verb(
        verbs,
        "convert",
        convert,
        "turn checkpoints of other codebases into weights: 3D ResNets of PyTorchVideo and its "
        "relatives, RSTG of TensorFlow",
        "vidgraph convert I3D_8x8_R50.pyth --architecture i3d_r50 --out converted",
    )
    p.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a checkpoint, or an .npz file of the RSTG authors' variables (name -> array)",
    )
    p.add_argument("--architecture", help="default i3d_r50; for .npz files rstg_syncmnist")
    p.add_argument(
        "--num-classes",
        type=positive,
        metavar="N",
        help="default: the checkpoint's; another number leaves its classifier out",
    )
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    p.set_defaults(takes_overrides=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; what users can cause ends in one line on standard
    error.
    """
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
    from vidgraph.config import recipe_keys

    word = word.partition("=")[0]
    known = [
        *args.options,
        *(f"--{key}" for key in recipe_keys() if "." in key and args.takes_overrides),
    ]
    same_end = [
        key for key in known if key.endswith(f".{word[2:].replace('-', '_')}")
    ]  # --lr for --train.lr
    hint = nearest(word, same_end or known)
    return RecipeError(
        f"unknown argument {word}{hint if 'did you mean' in hint else ''} (see {args.prog} --help)"
    )


def _say(message: str, code: int) -> int:
    print(f"vidgraph: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
