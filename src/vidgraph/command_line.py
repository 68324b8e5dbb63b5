"""What the command's verbs are built of: a parser whose faults are one line, and overrides told
from arguments.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vidgraph.errors import RecipeError, nearest

GOOD, FAULTS, BAD_INPUT = (
    0,
    1,
    2,
)  # exit codes: done; a check found faults, or some of many files failed; cannot be done


class Parser(argparse.ArgumentParser):
    """One line per fault instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice is not None:
            known = re.findall(r"[\w-]+", choice[2])
            what = message.partition(":")[0].removeprefix("argument ").lower()
            message = f"{what} {choice[1]!r} does not exist{nearest(choice[1], known)}"
        raise RecipeError(f"{message} (see {self.prog} --help)")


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int] | None, text: str, example: str
) -> Parser:
    """A parser below `verbs`, with its help and an example; `run` is None for one that only leads
    to others.
    """
    parser: Parser = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(
        run=run, takes_overrides=False, prog=parser.prog, options=parser._option_string_actions
    )
    return parser


def positive(text: str) -> int:
    """Type of a count on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """Type of a count on the command line that may be 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the dotted overrides `--a.b VALUE` or `--a.b=VALUE` with their
    values.
    """
    own, overrides, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not (word.startswith("--") and "." in word.partition("=")[0]):
            own.append(word)
            continue
        overrides.append(word)
        if "=" not in word and rest and not rest[0].startswith("--"):
            overrides.append(rest.pop(0))
    return own, overrides
