"""What the tools share: bad input ends in one line on standard error and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import NoReturn, Protocol

from vidgraph.errors import RecipeError, VidgraphError


class Main(Protocol):
    """A tool's main function: the words of its command line to its exit code."""

    def __call__(self, words: Sequence[str] | None = None) -> int: ...


class Parser(argparse.ArgumentParser):
    """A parser whose help is the tool's docstring, and whose faults are one line."""

    def __init__(self, about: str | None) -> None:
        super().__init__(
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message} (see {self.prog} --help)")


def exit_codes(main: Main) -> Main:
    """Lets a tool's main function report in one line what users can cause."""

    @wraps(main)
    def run(words: Sequence[str] | None = None) -> int:
        try:
            return main(words)
        except VidgraphError as error:
            message, code = str(error), 2
        except KeyboardInterrupt:
            message, code = "interrupted", 130
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        return code

    return run
