"""The command `vidgraph`: one typed function per verb; what each needs is imported inside it, so
that `--help` is quick. `data` and `extract` are in `cli_data`.

Exit codes: 0 good; 1 a check found faults, or some of many files failed; 2 bad input; 130 Ctrl-C.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

import vidgraph
from vidgraph.cli_data import FAULTS, GOOD, Columns, Workers, data, extract
from vidgraph.errors import RecipeError, VidgraphError, nearest

NO_MODEL = """\
vidgraph: {0} needs a model before it; those in the package know digits only (vidgraph models)
vidgraph: train one on your own clips, a folder for each class: vidgraph train FOLDER"""
BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

app = typer.Typer(
    help="Action recognition by reasoning over a space-time graph of a video's regions.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data")
app.add_typer(extract, name="extract")

Json = Annotated[bool, Option("--json", help="plain values instead of text")]
Device = Annotated[
    Literal["cpu", "cuda"] | None, Option(help="where it runs (default: a GPU if there is one)")
]
Model = Annotated[
    str, Argument(metavar="MODEL", help="shipped weights, a run folder, or a model on the hub")
]


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    version: bool = Option(False, "--version", help="print the version and stop"),
) -> int:
    if version:
        print(vidgraph.__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        return BAD_INPUT
    return GOOD


@app.command(epilog="example: vidgraph doctor")
def doctor(json_: Json = False) -> int:
    """Versions, decoders, devices, disk: what works on this machine."""
    from vidgraph.doctor import doctor_report, to_text

    report = doctor_report()
    print(json.dumps(report, indent=2) if json_ else to_text(report))
    return GOOD if report["ok"] else FAULTS


@app.command(epilog="example: vidgraph models")
def models() -> int:
    """Trained recognisers, and the heads, backbones and networks that one can train."""
    from vidgraph.models.catalogue import list_backbones, list_heads
    from vidgraph.weights import describe_shipped

    heads = list_heads()
    for title, rows in (
        ("trained recognisers, of digits (vidgraph predict NAME VIDEO)", describe_shipped()),
        ("heads (vidgraph.create_model(HEAD, num_classes, backbone=BACKBONE))", heads),
        ("backbones", list_backbones()),
    ):
        print(f"{title}:")
        for name, takes, size, license_ in rows:
            megabytes = "" if size is None else f"{size:.1f} MB"
            print(f"  {name:<28}{takes:<31}{megabytes:>8}  {license_}".rstrip())
    print("published networks, untrained (vidgraph profile NAME):")
    known = ", ".join(sorted({*vidgraph.list_models()} - {head.name for head in heads}))
    print(textwrap.fill(known, 98, initial_indent="  ", subsequent_indent="  "))
    return GOOD


@app.command(epilog="example: vidgraph demo --out demo")
def demo(
    ctx: typer.Context,
    out: Path = Option(Path("demo"), metavar="FOLDER", help="where everything goes"),
) -> int:
    """Train a small graph network on moving digits, score it, explain one video."""
    from vidgraph.demo import run_demo

    run_demo(out, ctx.obj)
    return GOOD


@app.command(
    epilog="example: vidgraph train clips/, a folder with one folder of videos per class\n\n"
    "vidgraph train clips.csv --group-by 'person\\d+' --out runs/mine\n\n"
    "vidgraph train syncmnist3:rstg_small --train.lr 1e-3, a recipe\n\n"
    "after a stop or a crash: vidgraph train runs/mine --resume"
)
def train(
    ctx: typer.Context,
    source: str = Argument(
        metavar="FOLDER|TABLE|RECIPE[:ROW]",
        help="your clips; or a recipe of the package, FILE.yaml[:ROW], or a run folder",
    ),
    out: Path | None = Option(None, metavar="FOLDER", help="run folder (default runs/NAME)"),
    resume: bool = Option(False, "--resume", help="continue the training in the run folder"),
    columns: Columns = "",
    group_by: str | None = Option(
        None, metavar="REGEX", help="on paths of clips: clips of one group never part (--group-by)"
    ),
    backbone: str = Option("timm:tf_efficientnet_lite0", help="frozen: timm:NAME@LEVEL or hf:ID"),
    frames: int = Option(8, min=1, help="of each clip"),
    size: int = Option(288, min=32, help="rows and columns of frames"),
    seed: int = Option(0, min=0, help="of splits and heads"),
    workers: Workers = None,
    json_: Json = False,
) -> int:
    """Train a recogniser on your clips, beside plain baselines; or a row of a recipe, any of whose
    values --KEY VALUE overrides, as --train.lr 1e-3.
    """
    from vidgraph.training.loop import end_message, process_rank

    path = Path(source)
    is_table = path.suffix.lower() in (".csv", ".parquet") and path.is_file()
    if is_table or (path.is_dir() and not (path / "recipe.yaml").is_file()):
        from vidgraph.own_clips.training import train as train_clips

        if ctx.obj:
            raise RecipeError(f"--{next(iter(ctx.obj))} belongs to a recipe, and {source} is none")
        how = {"columns": columns, "group_by": group_by, "backbone": backbone}
        sizes = {"frames": frames, "size": size, "seed": seed, "workers": workers}
        found = train_clips(path, out, resume=resume, **how, **sizes)
        print(json.dumps(found.to_dict(), indent=2) if json_ else found.to_text())
        return GOOD
    from vidgraph.config import load_recipe
    from vidgraph.experiment import default_folder, train_recipe

    loaded = load_recipe(source, ctx.obj)
    folder = out or default_folder(source, loaded)
    result = train_recipe(loaded, folder, resume)
    stopped = result.stopped_by or 0
    if process_rank()[0] == 0:
        print(end_message(result, folder), file=sys.stderr if stopped else sys.stdout)
    return 128 + stopped if stopped else GOOD


@app.command("eval", epilog="example: vidgraph eval runs/mine --data syncmnist3 --split val")
def evaluate(
    ctx: typer.Context,
    model: Model,
    data: str | None = Option(
        None,
        metavar="RECIPE|TABLE|FOLDER",
        help="what to score on (default: what it was trained on)",
    ),
    split: str = Option("test", help="train, val or test"),
    views: int | None = Option(
        None, min=1, help="clips per video (default: the recipe's, else 1); crops: --eval.crops"
    ),
    batch_size: int | None = Option(
        None, min=1, help="views per forward pass (default: the recipe's, else 64)"
    ),
    device: Device = None,
    workers: int | None = Option(None, min=0, help="that read clips (default: one per core)"),
    scores: Path | None = Option(None, metavar="FILE.npz", help="write every clip's scores too"),
    json_: Json = False,
) -> int:
    """Score a model on a split."""
    from vidgraph.evaluation.metrics import save_scores
    from vidgraph.experiment import score_model
    from vidgraph.util import check_target, counter

    if scores is not None:
        if scores.suffix.lower() != ".npz":
            raise RecipeError(f"--scores {scores}: scores are written as .npz; name it so")
        check_target(scores, [name for name in (model, data) if name])
    given = {"eval.num_views": views, "eval.batch_size": batch_size}
    overrides = ctx.obj | {key: value for key, value in given.items() if value}
    with counter("clips") as progress:
        found, measured_on = score_model(
            model, data, overrides, split, device=device, workers=workers, progress=progress
        )
    for note in found.notes:
        print(f"vidgraph: warning: {note}", file=sys.stderr)
    if scores is not None:
        save_scores(scores, found)
    if json_:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(found.to_text(f"{model} on {measured_on}"))
    return GOOD


@app.command(epilog="example: vidgraph predict runs/mine clip.mp4 --save overlay.mp4")
def predict(
    model: Model,
    videos: list[Path] | None = Argument(None, metavar="VIDEO|FOLDER"),
    top: int = Option(5, min=1, help="classes to show"),
    views: int = Option(1, min=1, help="clips per video that are averaged"),
    boxes: Path | None = Option(
        None, metavar="STORE", help="boxes of the videos, from vidgraph extract; for region models"
    ),
    flow: str | None = Option(
        None, metavar="STORE", help="optical flow, for models that take it (default: computed now)"
    ),
    save: Path | None = Option(
        None, metavar="FILE", help="draw the graph over the video: an .mp4 overlay or .html report"
    ),
    device: Device = None,
    json_: Json = False,
) -> int:
    """Recognise what happens in videos."""
    from vidgraph.video.listing import VIDEO_SUFFIXES, has_suffix, list_videos

    if has_suffix(model, VIDEO_SUFFIXES):
        print(NO_MODEL.format(model), file=sys.stderr)
        return BAD_INPUT
    if not videos:
        raise VidgraphError(f"{model}: give a video or a folder after the model")
    import torch

    from vidgraph.predictor import check_save_target, load_predictor
    from vidgraph.util import counter, torch_threads

    files = [file for path in videos for file in list_videos(path)]
    if save is not None:
        check_save_target(save, files)
        if len(files) > 1:
            raise VidgraphError(f"--save draws one video, and {len(files)} were given")
    predictor = load_predictor(model, views=views, boxes=boxes, flow=flow, device=device)
    torch.set_num_threads(torch_threads(predictor.model))
    records, failed = [], 0
    for file in files:
        try:
            prediction = predictor.predict(file, explain=save is not None)
        except VidgraphError as error:
            if len(files) == 1:
                raise
            failed += 1
            records.append({"video": str(file), "error": str(error)})
            print(f"vidgraph: {error}", file=sys.stderr)
            continue
        records.append(prediction.to_dict(top))
        if not json_:
            print(prediction.to_text(top))
        if save is not None:
            with counter("frames drawn") as progress:
                predictor.save(prediction, save, model, progress)
    if json_:
        print(json.dumps(records, indent=2))
    elif save is not None:
        print(f"drawn in {save}")
    return FAULTS if failed else GOOD


@app.command(epilog="example: vidgraph profile rstg_small")
def profile(
    ctx: typer.Context,
    model: str = Argument(metavar="ARCHITECTURE|MODEL"),
    num_classes: int | None = Option(
        None, min=1, help="classes of an architecture, or of weights re-headed"
    ),
    json_: Json = False,
) -> int:
    """Parameters and multiply-adds of a model, part by part; --model.KEY VALUE as in recipes."""
    from vidgraph.config import model_overrides
    from vidgraph.evaluation.profile import profile_model, to_text

    options = model_overrides(ctx.obj)
    if model in vidgraph.list_models():
        network = vidgraph.create_model(model, num_classes, pretrained=False, **options)
    else:
        if options:
            raise RecipeError("--model. options belong to an architecture; weights bring their own")
        known = [*vidgraph.list_models(), *vidgraph.list_models(pretrained=True)]
        if re.fullmatch(r"\w+", model) and model not in known and not Path(model).exists():
            hint = nearest(model, known)
            raise RecipeError(f"no architecture and no weights are called {model!r}{hint}")
        network = vidgraph.from_pretrained(model, num_classes)
    result = profile_model(network)
    print(json.dumps(result, indent=2) if json_ else to_text(result))
    return GOOD


@app.command(
    epilog="example: vidgraph convert I3D_8x8_R50.pyth --architecture i3d_r50 --out converted"
)
def convert(
    ctx: typer.Context,
    file: Path = Argument(
        metavar="FILE",
        help="a checkpoint, or an .npz file of the RSTG authors' variables (name -> array)",
    ),
    out: Path = Option(metavar="FOLDER"),
    architecture: str | None = Option(None, help="default i3d_r50; for .npz files rstg_syncmnist"),
    num_classes: int | None = Option(
        None, min=1, help="default: the checkpoint's; another number leaves its classifier out"
    ),
) -> int:
    """Turn checkpoints of other codebases into weights: 3D ResNets, image networks, RSTG."""
    from vidgraph.config import model_overrides
    from vidgraph.convert import convert_weights

    report = convert_weights(file, architecture, num_classes, model_overrides(ctx.obj), out)
    print(report.to_text(), f"load them with vidgraph.from_pretrained({str(out)!r})", sep="\n")
    return GOOD


# ---- the command line ----------------------------------------------------------------------------

TAKE_OVERRIDES = ("demo", "train", "eval", "profile", "convert")


def split_overrides(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command's own words, and the dotted overrides `--a.b VALUE` or `--a.b=VALUE`.

    Raises:
        RecipeError: an override without a value.
    """
    own, overrides, rest = list[str](), dict[str, str](), list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if not (key.startswith("--") and "." in key):
            own.append(word)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RecipeError(f"{word} needs a value, as in {word} VALUE")
            value = rest.pop(0)
        overrides[key[2:].replace("-", "_")] = value
    return own, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; bad input ends in one line on standard error."""
    command = typer.main.get_command(app)
    try:
        words, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
        if overrides and words and words[0] not in TAKE_OVERRIDES:
            raise RecipeError(f"vidgraph {words[0]} takes no --{next(iter(overrides))}")
        with command.make_context("vidgraph", words, obj=overrides) as context:
            code = command.invoke(context)
        sys.stdout.flush()
        return int(code or GOOD)
    except VidgraphError as error:
        return _fail(str(error), BAD_INPUT)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", BAD_INPUT)
    except typer.TyperException as error:
        return _fail(_usage_fault(error), BAD_INPUT)


def _usage_fault(error: Any) -> str:
    """One line of what the words of a command got wrong; `--lr` is answered with `--train.lr`."""
    from vidgraph.config import recipe_keys

    message = " ".join(error.format_message().replace("Value error, ", "").split())
    wrong = re.search(r"No such option: (--?[\w-]+)", message)
    if wrong and error.ctx and error.ctx.info_name in TAKE_OVERRIDES:
        name = wrong[1].lstrip("-").replace("-", "_")
        near = [f"--{key}" for key in recipe_keys() if key.endswith(f".{name}")]
        message = f"No such option: {wrong[1]}. Did you mean {near[0]}?" if near else message
    path = error.ctx.command_path if error.ctx else "vidgraph"
    return f"{message} (see {path} --help)"


def _fail(message: str, code: int) -> int:
    print(f"vidgraph: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
