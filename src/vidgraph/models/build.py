"""Every architecture by name, and how a name and its options become a model.

The builders are in `architectures/`. To add a model, write one there and a line in `ARCHITECTURES`.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from vidgraph.backbones.resnet3d import BackboneOptions
from vidgraph.errors import RecipeError, nearest
from vidgraph.models.build_clips import (
    ClipOptions,
    PlacementOptions,
    c2d_r50,
    c2d_r101,
    i3d_nl_r50,
    i3d_nl_r101,
    i3d_r50,
    i3d_r101,
    i3d_small,
    rstg_c2d_r50,
    rstg_i3d_r50,
    rstg_i3d_small,
)
from vidgraph.models.build_digits import (
    conv_lstm,
    conv_lstm_small,
    digit_stem,
    i3d_digits,
    i3d_digits_small,
    i3d_nl_digits,
    i3d_nl_digits_small,
    mean_lstm,
    mean_lstm_small,
    rstg_small,
    rstg_syncmnist,
)
from vidgraph.models.build_regions import (
    strg_digits_small,
    strg_i3d_r50,
    strg_i3d_r101,
    strg_small,
)
from vidgraph.models.build_snippets import (
    RecurrentOptions,
    SnippetOptions,
    StreamOptions,
    lrcn_bn_inception,
    lrcn_small,
    stpyramid_bn_inception,
    stpyramid_r50,
    stpyramid_small,
    stpyramid_vgg16,
    two_stream_bn_inception,
    two_stream_small,
    two_stream_vgg16,
)
from vidgraph.models.graph_conv import RegionGraphOptions
from vidgraph.models.rstg import GraphOptions
from vidgraph.models.stpyramid import PyramidOptions
from vidgraph.models.strg import RegionOptions

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "rstg_syncmnist": rstg_syncmnist,
    "rstg_small": rstg_small,
    "mean_lstm": mean_lstm,
    "mean_lstm_small": mean_lstm_small,
    "conv_lstm": conv_lstm,
    "conv_lstm_small": conv_lstm_small,
    "i3d_digits": i3d_digits,
    "i3d_digits_small": i3d_digits_small,
    "i3d_nl_digits": i3d_nl_digits,
    "i3d_nl_digits_small": i3d_nl_digits_small,
    "digit_stem": digit_stem,
    "c2d_r50": c2d_r50,
    "c2d_r101": c2d_r101,
    "i3d_r50": i3d_r50,
    "i3d_r101": i3d_r101,
    "i3d_nl_r50": i3d_nl_r50,
    "i3d_nl_r101": i3d_nl_r101,
    "i3d_small": i3d_small,
    "rstg_i3d_r50": rstg_i3d_r50,
    "rstg_c2d_r50": rstg_c2d_r50,
    "rstg_i3d_small": rstg_i3d_small,
    "strg_i3d_r50": strg_i3d_r50,
    "strg_i3d_r101": strg_i3d_r101,
    "strg_small": strg_small,
    "strg_digits_small": strg_digits_small,
    "stpyramid_bn_inception": stpyramid_bn_inception,
    "stpyramid_r50": stpyramid_r50,
    "stpyramid_vgg16": stpyramid_vgg16,
    "stpyramid_small": stpyramid_small,
    "two_stream_bn_inception": two_stream_bn_inception,
    "two_stream_vgg16": two_stream_vgg16,
    "two_stream_small": two_stream_small,
    "lrcn_bn_inception": lrcn_bn_inception,
    "lrcn_small": lrcn_small,
}

# What a builder's `**` argument of that name takes: the fields of these.
_OPEN: dict[str, tuple[type, ...]] = {
    "graph": (GraphOptions,),
    "clip_and_backbone": (ClipOptions, BackboneOptions),
    "placed_graph": (PlacementOptions, ClipOptions, BackboneOptions, GraphOptions),
    "region_graph": (RegionGraphOptions, RegionOptions, ClipOptions, BackboneOptions),
    "digit_regions": (RegionGraphOptions, RegionOptions),
    "pyramid": (PyramidOptions, SnippetOptions),
    "streams": (StreamOptions, SnippetOptions),
    "recurrent_streams": (RecurrentOptions, StreamOptions, SnippetOptions),
}


def list_architectures() -> list[str]:
    """Names that `create_model` knows."""
    return list(ARCHITECTURES)


def create_model(
    architecture: str,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Builds a model with fresh weights.

    Args:
        architecture: one of `list_architectures()`.
        num_classes: classes of the last layer; None: as many as `class_names`, or the
            architecture's own number.
        class_names: one name per class, kept with the model.
        **options: of the builder function with that name, above.

    Returns:
        The model, with `input_spec`, `class_names`, and `architecture` and `options` to build it
        again.

    Raises:
        RecipeError: an unknown architecture or option, or names that do not match the number of
            classes.
    """
    _check_options(architecture, options)
    if (num_classes is not None and num_classes < 1) or (
        class_names is not None and not class_names
    ):
        raise RecipeError(f"{architecture} needs at least one class")
    if class_names is not None and num_classes is not None and len(class_names) != num_classes:
        raise RecipeError(f"{len(class_names)} class names were given for {num_classes} classes")
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    sized = {} if num_classes is None else {"num_classes": num_classes}
    model = ARCHITECTURES[architecture](**sized, **options)
    model.architecture, model.options = architecture, dict(options)  # type: ignore[assignment]
    model.class_names = None if class_names is None else list(class_names)  # type: ignore[assignment]
    return model


def options_of(architecture: str) -> set[str]:
    """Names of the options of an architecture.

    Raises:
        RecipeError: an unknown architecture.
    """
    return set(_hints(architecture))


def _hints(architecture: str) -> dict[str, list[Any]]:
    """Options of an architecture, each with its type; two types where two records that it takes
    have a field of that name.
    """
    if architecture not in ARCHITECTURES:
        raise RecipeError(
            f"there is no architecture {architecture!r}{nearest(architecture, ARCHITECTURES)}"
        )
    builder = ARCHITECTURES[architecture]
    own = typing.get_type_hints(builder)
    hints = {
        name: [own[name]]
        for name in inspect.signature(builder).parameters
        if name not in {"num_classes", *_OPEN}
    }
    for name in inspect.signature(builder).parameters:
        for kind in _OPEN.get(name, ()):
            for field, hint in typing.get_type_hints(kind).items():
                hints.setdefault(field, []).append(hint)
    return hints


def _check_options(architecture: str, options: dict[str, Any]) -> None:
    hints = _hints(architecture)
    for name, value in options.items():
        if name not in hints:
            raise RecipeError(f"{architecture} has no option {name!r}{nearest(name, hints)}")
        if not any(_fits(hint, value) for hint in hints[name]):
            raise RecipeError(
                f"{architecture}: option {name!r} is {' or '.join(map(_in_words, hints[name]))}, "
                f"not {value!r}"
            )
        if name.endswith("width") and value < 1:
            raise RecipeError(
                f"{architecture}: option {name!r} is a number of channels, at least 1, not {value}"
            )


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value, as YAML or a caller gives it, is of a type: a list passes for a tuple, and a
    whole number for a float.
    """
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return value in choices
    if isinstance(hint, types.UnionType):
        return any(_fits(choice, value) for choice in choices)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(choices[0], item) for item in value)
    if isinstance(value, bool) and hint is not bool:  # a bool passes for an int in Python
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_in_words, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple and typing.get_origin(typing.get_args(hint)[0]) is Literal:
        return "a list with some of " + ", ".join(typing.get_args(typing.get_args(hint)[0]))
    return words.get(hint, "a list of numbers")
