"""Prints the tables of results as Markdown: results/NAME.json, one row per model.

    python tools/results.py results/*.json

A file holds {schema, dataset, split, hardware, rows, comparisons, test_labels}; accuracies are in
percent. What is not known takes no key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tool import Parser, exit_codes
from vidgraph.errors import DataError
from vidgraph.util import duration, write_json

# Percent of the training clips at which a table shows the validation accuracy.
_CURVE_POINTS = (10, 20, 40, 60, 80, 100)
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class ResultRow:
    """One measured row of a table.

    Attributes:
        name: of the recipe's row.
        weights: where the weights are: a shipped name, a file or a hub id; None if they are not
            kept.
        published: the paper's number in percent, or None. The paper's network is of the paper's
            size, whatever the row's is.
        accuracy: top-1 (multi-label: mAP) in percent; the mean over seeds if there are several.
        ci95: its 95 % interval over test clips.
        seeds: the training seeds that the row stands for.
        params: number of learned parameters.
        gmac: 1e9 multiply-adds of one clip.
        clips_seen: training clips of one training.
        seconds: its time on the table's hardware; the mean over seeds.
        command: what reproduces the row.
        commit: of the code, or None outside of a checkout.
        accuracies: of each seed, where there are several.
        curve: (clips, validation accuracy in percent), rising in clips, the mean over seeds.
    """

    name: str
    weights: str | None
    published: float | None
    accuracy: float
    ci95: tuple[float, float]
    seeds: tuple[int, ...]
    params: int
    gmac: float | None
    clips_seen: int
    seconds: float
    command: str
    commit: str | None
    accuracies: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, config=_STRICT)
class Comparison:
    """How much better a row is than another on the same test clips.

    Attributes:
        row: name of the first.
        against: name of the second.
        difference: accuracy of the first less that of the second, in points.
        ci95: 95 % interval of the difference, by a paired bootstrap over test clips.
        p_value: two-sided.
    """

    row: str
    against: str
    difference: float
    ci95: tuple[float, float]
    p_value: float


@dataclass(frozen=True, config=_STRICT)
class ResultTable:
    """The content of one results file.

    Attributes:
        schema: version of this format.
        dataset: the recipe's name.
        split: that was scored.
        hardware: the machines, with " | " between them.
        rows: in the order of the recipe.
        comparisons: of rows with each other.
        test_labels: sha256 of the labels of the test clips in their order, so that scores on other
            clips do not come into the table; None where it is not known.
    """

    schema: Literal[1]
    dataset: str
    split: str
    hardware: str
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    test_labels: str | None = None


_FORMAT = TypeAdapter(ResultTable)


def load_results(path: str | Path) -> ResultTable:
    """Reads a results file.

    Raises:
        DataError: missing, not JSON, another schema, or fields that are missing or unknown.
    """
    try:
        return _FORMAT.validate_json(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"{part}: " for part in fault["loc"])
        raise DataError(f"{path}: is not a results file ({where}{fault['msg']})") from error


def open_results(path: str | Path, dataset: str, split: str, hardware: str) -> ResultTable:
    """The table in a results file, or an empty one where there is no file.

    Raises:
        DataError: the file is of another data set or split, or cannot be read.
    """
    if not Path(path).exists():
        return ResultTable(1, dataset, split, hardware, ())
    table = load_results(path)
    if (table.dataset, table.split) != (dataset, split):
        holds = f"{table.dataset}/{table.split}, not {dataset}/{split}"
        raise DataError(f"{path}: holds {holds}; write to another file")
    return table


def update_results(
    path: str | Path,
    dataset: str,
    split: str,
    row: ResultRow,
    hardware: str,
    *,
    order: Sequence[str] = (),
    comparisons: Sequence[Comparison] = (),
    test_labels: str | None = None,
) -> ResultTable:
    """Puts `row` into a results file: in place of the row of the same name, else at the end. The
    file is made if absent.

    Args:
        path: the results file.
        dataset: must be the file's.
        split: must be the file's.
        row: the new row. Where it measures what the old one did, it keeps the old one's `weights`;
            else the old one's comparisons go.
        hardware: what it was measured on. Several machines have " | " between them; new ones are
            added to the file's line.
        order: names of rows in the order in which they are to stand; others follow.
        comparisons: of this row with others, in place of older ones of the same pair.
        test_labels: sha256 of the labels that were scored; must be the file's, if both are known.

    Raises:
        DataError: the file is of another data set, split or set of test clips, or cannot be read.
        RunError: the file cannot be written.
    """
    table = open_results(path, dataset, split, hardware)
    if None not in (test_labels, table.test_labels) and test_labels != table.test_labels:
        clips = f"its rows were scored on other test clips than {row.name}"
        raise DataError(f"{path}: {clips}; write to another file")
    machines = dict.fromkeys([*table.hardware.split(" | "), *hardware.split(" | ")])

    rows = {other.name: other for other in table.rows}
    old = rows.get(row.name)
    same = old is not None and _measured(old) == _measured(row)
    if same and old is not None and row.weights is None:
        row = replace(row, weights=old.weights)
    rows[row.name] = row  # in the place of the old one

    pairs = {(pair.row, pair.against): pair for pair in table.comparisons}
    if not same:
        pairs = {names: pair for names, pair in pairs.items() if row.name not in names}
    pairs |= {(pair.row, pair.against): pair for pair in comparisons}
    updated = ResultTable(
        1,
        dataset,
        split,
        " | ".join(machines),
        _in_order(rows.values(), order, lambda item: item.name),
        _in_order(pairs.values(), order, lambda item: item.row),
        test_labels or table.test_labels,
    )
    write_json(path, _FORMAT.dump_python(updated, mode="json", exclude_defaults=True))
    return updated


def _measured(row: ResultRow) -> tuple[Any, ...]:
    return row.accuracy, row.seeds, row.clips_seen


def _in_order(items: Any, order: Sequence[str], name_of: Callable[[Any], str]) -> tuple[Any, ...]:
    """Items whose names are in `order` first, in that order; the others after them as they
    stood."""
    rank = {name: number for number, name in enumerate(order)}
    return tuple(sorted(items, key=lambda item: rank.get(name_of(item), len(rank))))


def to_markdown(table: ResultTable) -> str:
    """Tables for a page: accuracy with its interval beside the published number, and what it cost;
    comparisons; learning curves."""
    head = (
        f"{table.dataset}, {table.split} split. Accuracy in percent with its 95 % interval; "
        f"measured on {table.hardware}."
    )
    if any(row.published is not None for row in table.rows):
        head += " Published is what the paper reports for that network at its own size."
    names = "Row | Accuracy | Published | Seeds | Parameters | GMAC | Training clips"
    names += " | Training time | Commit"
    parts = [_markdown(head, names.split(" | "), [_main_cells(row) for row in table.rows])]
    if table.comparisons:
        head = (
            "Rows on the same test clips: difference in points with its 95 % interval (paired "
            "bootstrap over the clips)."
        )
        cells = [_comparison_cells(pair) for pair in table.comparisons]
        parts.append(_markdown(head, ("Rows", "Difference", "p"), cells))
    if any(row.curve for row in table.rows):
        head = (
            "Learning curves: accuracy in percent on the validation split after so much of a row's "
            "training clips."
        )
        cells = [_curve_cells(row) for row in table.rows if row.curve]
        parts.append(_markdown(head, ("Row", *(f"{p} %" for p in _CURVE_POINTS)), cells))
    return "\n".join(parts)


def _main_cells(row: ResultRow) -> list[str]:
    each = ", ".join(f"{accuracy:.2f}" for accuracy in row.accuracies)
    return [
        f"`{row.name}`",
        f"{row.accuracy:.2f} ({row.ci95[0]:.2f} to {row.ci95[1]:.2f})",
        "-" if row.published is None else f"{row.published:.1f}",
        f"{len(row.seeds)} ({each})" if len(row.accuracies) > 1 else f"{len(row.seeds)}",
        f"{row.params / 1e6:.2f} M",
        "-" if row.gmac is None else f"{row.gmac:.3g}",
        f"{row.clips_seen:,}",
        duration(row.seconds),
        "-" if row.commit is None else f"`{row.commit}`",
    ]


def _comparison_cells(pair: Comparison) -> list[str]:
    interval = f"{pair.ci95[0]:+.2f} to {pair.ci95[1]:+.2f}"
    p_value = "< 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}"
    return [f"`{pair.row}` - `{pair.against}`", f"{pair.difference:+.2f} ({interval})", p_value]


def _curve_cells(row: ResultRow) -> list[str]:
    """The last validation at or before each part of the training."""
    cells = [f"`{row.name}`"]
    for percent in _CURVE_POINTS:
        seen = [value for clips, value in row.curve if 100 * clips <= percent * row.clips_seen]
        cells.append(f"{seen[-1]:.1f}" if seen else "-")
    return cells


def _markdown(head: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (names, *rows)]
    return "\n".join([head, "", lines[0], "|" + "---|" * len(names), *lines[1:]]) + "\n"


@exit_codes
def main(words: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    files = parser.parse_args(words).files
    print("\n".join(to_markdown(load_results(file)) for file in files), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
