"""What the command answers: for tests that call it as a user does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidgraph.cli import main


def run(*words: object, code: int = 0) -> None:
    """Runs the command, which must end with that exit code."""
    assert main([*map(str, words)]) == code


def text_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What the command prints."""
    capsys.readouterr()
    run(*words, code=code)
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """The one line that the command prints about input that it cannot use."""
    capsys.readouterr()
    run(*words, code=code)
    error = capsys.readouterr().err
    assert error.startswith("vidgraph: ")
    assert error.count("\n") == 1
    return error


def json_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    """What the command prints with --json."""
    return json.loads(text_of(capsys, *words, "--json", code=code))


def files_of(store: Path) -> dict[str, bytes]:
    """All files of a store, hidden ones too, less the lock."""
    files = (file for file in store.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in files}
