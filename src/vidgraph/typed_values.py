"""Keys and values, as YAML and the command line give them, into dataclasses: each value in the type
of its field.

Types may be plain, `X | None`, `Literal`, `list`, `dict`, or another dataclass.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import yaml

from vidgraph.errors import RecipeError, nearest


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` over it, key by key at every depth."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def set_dotted(content: dict[str, Any], dotted: str, text: str) -> None:
    """Sets `a.b.c` in nested dicts, making those that are not there. A list of records is entered
    by a record's name: `stages.joint.lr`.

    Raises:
        RecipeError: no record of a list has that name.
    """
    key, dot, rest = dotted.partition(".")
    if not dot:
        content[key] = text
        return
    below: Any = content.get(key)
    name = rest.partition(".")[0]
    if _are_records(below) and name != rest:
        below = {record["name"]: record for record in below}
        if name not in below:
            raise RecipeError(f"there is none of the {key} named {name!r}{nearest(name, below)}")
    elif not isinstance(below, dict):
        below = content[key] = {}
    set_dotted(below, rest, text)


def _are_records(value: Any) -> bool:
    """Whether a value is a list of records with names, such as the stages of a training."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


def with_overrides(
    record: Any, overrides: Iterable[tuple[str, str]], where: str, prefix: str
) -> Any:
    """A copy of a dataclass `record` with keys such as `eval.crops` (of the prefix `eval.`) set
    from text.

    Raises:
        RecipeError: an unknown key, or a value of the wrong type.
    """
    content = dataclasses.asdict(record)
    for key, text in overrides:
        set_dotted(content, key.removeprefix(prefix), text)
    return convert_record(type(record), content, where, prefix)


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dicts as dotted keys and values; a list of records with names as a dict of them."""
    for key, value in content.items():
        if _are_records(value):
            value = {record["name"]: record for record in value}
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def convert_record(kind: type[Any], content: Any, where: str, prefix: str) -> Any:
    """Builds a dataclass from keys and values, each converted to the type of its field."""
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{where}: {prefix.rstrip('.') or 'the recipe'} must hold keys and values, got "
            f"{content!r}"
        )
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise RecipeError(f"{where}: unknown key {prefix}{key}{nearest(str(key), known)}")
        record = _record_of(hints[key])
        if record is None:
            values[key] = _convert_value(hints[key], value, f"{where}: {prefix}{key}")
        elif value is not None or hints[key] is record:
            values[key] = convert_record(record, value, where, f"{prefix}{key}.")
    for name, item in known.items():
        if (
            name not in values
            and item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        ):
            raise RecipeError(f"{where}: {prefix}{name} is missing")
    return kind(**values)


def _record_of(hint: Any) -> type[Any] | None:
    """The dataclass in `X` or `X | None`, if there is one."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((c for c in choices if dataclasses.is_dataclass(c) and isinstance(c, type)), None)


def _convert_value(hint: Any, value: Any, where: str) -> Any:
    """One value, by jsonargparse; its messages run over many lines for optional types, so that ours
    replace them.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    if isinstance(value, str) and hint is not str:
        value = value_of(value)
    if hint == dict[str, Any] and isinstance(value, dict):
        return {key: value_of(v) if isinstance(v, str) else v for key, v in value.items()}
    if isinstance(value, bool) and hint in (
        int,
        float,
        int | None,
        float | None,
    ):  # a bool passes for an int in Python
        raise RecipeError(f"{where} must be {_readable(hint)}, got {value!r}")
    if value is None and type(None) not in typing.get_args(hint) and hint is not Any:
        empty = typing.get_origin(hint) or hint
        if empty in (dict, list, tuple):  # a key with nothing below it
            return empty()
        raise RecipeError(f"{where} must be {_readable(hint)}, got null")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value})["value"]
    except ArgumentError as error:
        raise RecipeError(f"{where} must be {_readable(hint)}, got {value!r}") from error


def value_of(text: str) -> Any:
    """What YAML makes of a text, except that 1e-3 and 200_000 are numbers."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _readable(hint: Any) -> str:
    """A type in words: `a whole number`, `one of adamw, sgd`."""
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    if hint in words:
        return words[hint]
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join(_readable(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return "a list such as [a, b]"
    return "keys and values such as {a: b}"


def keys_of(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a dataclass of dataclasses."""
    for name, hint in typing.get_type_hints(kind).items():
        record = _record_of(hint)
        if record is None:
            yield prefix + name
        else:
            yield from keys_of(record, f"{prefix}{name}.")
