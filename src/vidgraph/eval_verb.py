"""The verb `vidgraph eval`: one model's scores, or two models' beside each other. Imported by the
command only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vidgraph.command_line import GOOD, add_verb, positive
from vidgraph.errors import RecipeError
from vidgraph.util import check_target


def evaluate(args: argparse.Namespace) -> int:
    from vidgraph.evaluation.by_attribute import (
        group_classes,
        read_attributes,
        score_groups,
        to_text,
    )
    from vidgraph.evaluation.features import FeatureRecorder
    from vidgraph.evaluation.score_file import save_scores

    _check_targets(args)
    attributes = (
        None
        if args.by is None
        else read_attributes(args.by, args.attributes.split(",") if args.attributes else None)
    )
    names = [name for name in (args.model, args.against) if name is not None]
    recorder = None if args.embedding is None else FeatureRecorder()
    models, measured_on = _scores(names, args, recorder)
    if args.scores is not None:
        save_scores(args.scores, models[0])
    drawn = (
        [] if recorder is None else _draw_features(args.embedding, recorder, models[0].class_names)
    )
    groups, short = (
        [],
        [Path(name).stem if name.endswith(".npz") else Path(name).name for name in names],
    )
    shown = short if len(set(short)) == len(names) else names
    if attributes is not None or len(models) > 1:
        groups = score_groups(
            group_classes(attributes, models[0].class_names) if attributes else [], models
        )
    if args.chart is not None:
        _draw(args.chart, groups, shown, "accuracy" if models[0].map is None else "mAP")
    if args.json:
        extra = {"by_attribute": [group.to_dict() for group in groups]} if groups else {}
        print(json.dumps(models[0].to_dict() | extra, indent=2))
        return GOOD
    _print_scores(args.model, measured_on, models[0])
    if groups:
        print(to_text(groups, shown))
    if args.chart is not None:
        print(f"drawn in {args.chart}")
    if drawn:
        print(f"features of {len(drawn)} classes drawn in {args.embedding}: {', '.join(drawn)}")
    return GOOD


def _check_targets(args: argparse.Namespace) -> None:
    """What would only show after hours of scoring."""
    if (args.attributes is not None or args.chart is not None) and args.by is None:
        raise RecipeError("--attributes and --chart need --by ATTRIBUTES.csv")
    for option, path, suffix in (
        ("--scores", args.scores, ".npz"),
        ("--chart", args.chart, ".png"),
        ("--embedding", args.embedding, ".png"),
    ):
        if path is not None and path.suffix.lower() != suffix:
            raise RecipeError(f"{option} {path}: it is written as {suffix}; name it so")
        if path is not None:
            check_target(
                path,
                [
                    name
                    for name in (args.model, args.against, args.data, args.by)
                    if name is not None
                ],
            )


def _scores(names: Sequence[str], args: argparse.Namespace, recorder: Any) -> tuple[list[Any], str]:
    """The scores of each model, and what the first was measured on; its features are recorded.
    Warnings go to standard error.
    """
    from vidgraph.util import counter
    from vidgraph.scoring import scores_of

    how = (args.data, args.overrides, args.split, args.views, args.batch_size, args.device)
    found: list[tuple[Any, str]] = []
    for name in names:
        with counter("clips") as count:
            found.append(scores_of(name, *how, count, None if found else recorder))
        for note in found[-1][0].notes:
            print(f"vidgraph: warning: {name}: {note}", file=sys.stderr)
    return [scores for scores, _ in found], found[0][1]


def _print_scores(model: str, measured_on: str, scores: Any) -> None:
    print(
        f"{model} on {measured_on}: {scores.n:,} scored, {scores.skipped:,} skipped (each counts "
        "as wrong)"
    )
    for key, title in (
        ("top1", "top-1"),
        ("top5", "top-5"),
        ("mean_class", "mean class"),
        ("map", "mAP"),
    ):
        value = getattr(scores, key)
        if value is not None:
            low, high = scores.ci95[key]
            print(f"{title:<12}{value:6.2f} %   95 % interval {low:.2f} to {high:.2f}")


def _draw(path: Path, groups: Sequence[Any], names: Sequence[str], score: str) -> None:
    """One panel per attribute; what is measured on all classes is none of them."""
    from vidgraph.util import whole_file
    from vidgraph.visualize.charts import AttributePanel, attribute_chart

    panels = []
    for attribute, rows in groupby(
        (group for group in groups if group.value), key=lambda group: group.attribute
    ):
        own = list(rows)
        values, scores, ci95 = zip(*((row.value, row.scores, row.ci95) for row in own), strict=True)
        panels.append(
            AttributePanel(
                attribute, values, list(zip(*scores, strict=True)), list(zip(*ci95, strict=True))
            )
        )
    if not panels:
        raise RecipeError(
            f"--chart {path}: no class of the attributes has a clip, so there is nothing to draw"
        )
    with whole_file(path) as temporary:
        temporary.write_bytes(attribute_chart(panels, names, score))


def _draw_features(path: Path, recorder: Any, class_names: Sequence[str]) -> list[str]:
    """Names of the classes that are drawn."""
    from vidgraph.visualize.embedding import write_embedding

    features, labels = recorder.features()
    return write_embedding(path, features, labels, class_names)


def add_eval(verbs: Any) -> None:
    """Adds `eval` to the command."""
    p = add_verb(
        verbs,
        "eval",
        evaluate,
        "score a model on a split, or compare two",
        "vidgraph eval runs/mine --data syncmnist3 --split val\n"
        "         vidgraph eval runs/graph --against runs/plain --by attributes.csv --chart "
        "errors.png",
    )
    p.add_argument(
        "model",
        metavar="MODEL",
        help="shipped weights, a run folder, a model on the hub, or scores in an .npz file",
    )
    p.add_argument(
        "--data",
        metavar="RECIPE|TABLE|FOLDER",
        help="what to score on (default: what a run folder was trained on)",
    )
    p.add_argument("--split", default="test", help="train, val or test (default test)")
    p.add_argument(
        "--views",
        type=positive,
        metavar="N",
        help="clips per video (default: the recipe's, else 1); crops: --eval.crops",
    )
    p.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="views per forward pass (default: the recipe's, else 64)",
    )
    p.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        help="where it runs (default: a GPU where there is one)",
    )
    p.add_argument(
        "--scores", type=Path, metavar="FILE.npz", help="also write the scores of every clip"
    )
    p.add_argument(
        "--against", metavar="MODEL", help="compare with a second model on the same clips"
    )
    p.add_argument(
        "--by",
        type=Path,
        metavar="FILE.csv",
        help="scores by attributes of the classes: a column class, one per attribute",
    )
    p.add_argument("--attributes", metavar="NAME,...", help="these attributes of --by only")
    p.add_argument("--chart", type=Path, metavar="FILE.png", help="draw what --by says")
    p.add_argument(
        "--embedding",
        type=Path,
        metavar="FILE.png",
        help="draw the features of up to ten classes as dots in a plane (t-SNE)",
    )
    p.add_argument("--json", action="store_true", help="plain values instead of text")
    p.set_defaults(takes_overrides=True)
