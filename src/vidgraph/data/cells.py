"""Tables and label files as cells of text; a fault is told by its file and line.

A frame that is read here has the number of each line as its index, as an editor counts them, named
"line" (or "row", in files without lines).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vidgraph.errors import DataError, TableError, nearest


def read_columns(
    source: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    hint: str = "",
) -> pd.DataFrame:
    """Columns of a .csv or .parquet file as stripped text; blank lines are left out.

    `renamed` has our names of columns -> the file's; `hint` says what to do where one is missing.
    """
    cells, columns, renamed = _read_cells(source), {}, renamed or {}
    header = list(cells.columns)
    for ours in (*required, *optional):
        theirs = renamed.get(ours, ours)
        if header.count(theirs) > 1:
            raise TableError(f"{source}: column {theirs!r} appears twice; rename one of them")
        if theirs in header:
            columns[ours] = cells[theirs]
        elif ours in required or ours in renamed:
            near = near_only(theirs, set(header) - {*required, *optional})
            has = near or f"; it has {', '.join(filter(None, header))}"
            raise TableError(f"{source}: no column {theirs!r}{has}{hint}")
    return pd.DataFrame(columns)


def _read_cells(source: Path) -> pd.DataFrame:
    suffix = source.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise TableError(f"{source}: is not a table; expected a .csv or .parquet file")
    try:
        if suffix == ".parquet":
            cells = pd.read_parquet(source, dtype_backend="numpy_nullable").astype("string")
            cells = cells.fillna("").astype(object)
            cells.index = pd.RangeIndex(1, len(cells) + 1, name="row")
        else:  # without a header, so that the number of columns and their names are as in the file
            text: dict[str, Any] = {"encoding": "utf-8-sig", "dtype": str, "keep_default_na": False}
            cells = pd.read_csv(source, header=None, skip_blank_lines=False, **text).astype(object)
    except FileNotFoundError as error:
        raise TableError(f"{source}: there is no such file") from error
    except pd.errors.EmptyDataError as error:
        raise TableError(f"{source}: is empty; its first line must name the columns") from error
    except (OSError, ValueError) as error:  # those of pandas and pyarrow are ValueErrors
        raise TableError(f"{source}: cannot be read as {suffix[1:]} ({error})") from error
    if suffix == ".csv":
        breaks = cells.apply(lambda column: column.str.count("\n")).sum(axis=1)  # within cells
        lines = cells.index + 1 + breaks.cumsum().shift(fill_value=0)
        cells.index = pd.Index(lines.astype(int), name="line")
        cells.columns = pd.Index(cells.iloc[0].str.strip())
        cells = cells.iloc[1:]
        if len(cells.columns) == 1 and ";" in cells.columns[0]:
            raise TableError(f"{source}: columns are separated by ';'; a table needs commas")
    cells = cells.apply(lambda column: column.str.strip())
    return cells[(cells != "").any(axis=1)]


def read_text(source: Path) -> str:
    """The text of a label file."""
    try:
        return source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source}: cannot be read ({error}); give the official file, downloaded whole"
        ) from error


def read_lines(source: Path, pattern: str, example: str) -> pd.DataFrame:
    """The lines of a label file, a column for each named group of a regular expression, whose form
    `example` shows.
    """
    text = pd.Series(read_text(source).splitlines(), dtype=object).str.strip()
    text.index = pd.RangeIndex(1, len(text) + 1, name="line")
    text = text[text != ""]
    found = text.str.extract(f"^{pattern}$").reindex(text.index)
    refuse(source, text, found.isna().all(axis=1), f"{{}} is not of the form {example}")
    return found.fillna("")


def refuse(source: Path, values: pd.Series, wrong: Any, problem: str) -> None:
    """Raises TableError at the first wrong row; its value takes the place of {} in `problem`."""
    if len(found := values[np.asarray(wrong, bool)]):
        word, more = found.index.name, len(found) - 1
        others = f" ({more} more {word}s like it)" if more else ""
        value = repr(found.iloc[0]) if isinstance(found.iloc[0], str) else f"{found.iloc[0]:g}"
        said = problem.replace("{}", value, 1)  # names in it may hold braces themselves
        raise TableError(f"{source}, {word} {found.index[0]}: {said}{others}")


def refuse_unknown(
    source: Path, values: pd.Series, known: Collection[str], what: str, where: str
) -> None:
    """Raises TableError at the first row whose value is unknown, with the nearest known one."""
    if (wrong := ~values.isin(known)).any():
        near = near_only(values[wrong].iloc[0], known)
        refuse(source, values, wrong, f"{what} {{}} is not among the {len(known)} {where}{near}")


def to_numbers(
    source: Path, texts: pd.Series, least: float = 0.0, may_be_empty: bool = False
) -> pd.Series:
    """Finite numbers of at least `least`, float; NaN for empty texts, where there may be some."""
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    wrong = ~(np.isfinite(numbers) & (numbers >= least)) & ~((texts == "") & may_be_empty)
    kind = f"a number from {least:g} on" if np.isfinite(least) else "a number"
    refuse(source, texts, wrong, f"{texts.name} is {{}}, which is not {kind}")
    return numbers


def near_only(name: str, known: Iterable[str]) -> str:
    """The hint of `nearest` where a name is near, else nothing: a long list helps nobody."""
    return hint if (hint := nearest(name, known)).startswith("; did you mean") else ""


def hash64(name: str) -> int:
    """64 bits that depend on a name alone, so that every machine takes the same ones."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
