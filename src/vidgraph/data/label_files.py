"""What data sets whose official label files become a table have in common: reading, holding videos out, writing."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from vidgraph.errors import DataError
from vidgraph.files import whole_file


def read_label_file(path: Path) -> str:
    """The text of a label file.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; was it downloaded whole?") from error


def check_hold_out(share: float) -> None:
    """Raises DataError if a share of training videos to hold out is none."""
    if not 0 <= share < 1:
        raise DataError(f"hold-out must be a share from 0 to below 1, got {share}")


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: what is below a share is held out, on every machine alike."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def names_in(folder: Path, suffix: str = "") -> set[str]:
    """The names of a folder's entries that end in `suffix`.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name.endswith(suffix)}
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}); give the folder of the videos") from error


def folder_in_table(videos: Path, out: Path) -> Path:
    """How a table at `out` names the folder `videos`: relative where it lies below the table's folder, else absolute."""
    folder, base = videos.resolve(), out.parent.resolve()
    return folder.relative_to(base) if folder.is_relative_to(base) else folder


def write_csv(out: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes a table, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    with whole_file(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
