"""Measured tables: `results/NAME.json`, one row per model, and the same as Markdown.

    {schema, dataset, split, hardware, rows: [{name, weights, published, accuracy, ci95, seeds,
    params, gmac, clips_seen, seconds, command, commit}]}

Accuracy is in percent. Where they are known there follow, in a row, `accuracies` (of several seeds)
and `curve` (validation accuracy by clips), and in the table `comparisons` (rows on the same test
clips) and `test_labels` (which test clips those are).
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from vidgraph.errors import DataError
from vidgraph.util import whole_file, write_json

SCHEMA = 1
PAGE_BEGIN, PAGE_END = "<!-- results:begin -->", "<!-- results:end -->"
_CURVE_POINTS = (
    10,
    20,
    40,
    60,
    80,
    100,
)  # percent of the training clips at which a table shows the validation accuracy


@dataclass(frozen=True)
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
        curve: (clips, validation accuracy in percent), rising in clips, the mean over seeds; or
            empty.
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ResultTable:
    """The content of one results file.

    Attributes:
        dataset: the recipe's name.
        split: that was scored.
        hardware: the machines, with " | " between them.
        rows: in the order of the recipe.
        comparisons: of rows with each other.
        test_labels: sha256 of the labels of the test clips in their order, so that scores on other
            clips do not come into the table; None where it is not known.
    """

    dataset: str
    split: str
    hardware: str
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    test_labels: str | None = None

    def row(self, name: str) -> ResultRow:
        """The row of that name.

        Raises:
            DataError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise DataError(
            f"results of {self.dataset} have no row {name!r}; rows: "
            f"{', '.join(r.name for r in self.rows) or 'none'}"
        )


def load_results(path: str | Path) -> ResultTable:
    """Reads a results file.

    Raises:
        DataError: missing, not JSON, another schema, or a row without one of the fields.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: is not a results file of schema {SCHEMA}")
    rows = [
        _record(ResultRow, row, f"{path}, row {number}")
        for number, row in enumerate(content.get("rows", []))
    ]
    pairs = [
        _record(Comparison, pair, f"{path}, comparison {number}")
        for number, pair in enumerate(content.get("comparisons", []))
    ]
    test_labels = content.get("test_labels")
    return ResultTable(
        content["dataset"],
        content["split"],
        content["hardware"],
        tuple(rows),
        tuple(pairs),
        test_labels,
    )


def _record(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """A row or comparison of a file; lists become tuples. Fields with a default may be absent."""
    known = {field.name for field in fields(kind)}
    wanted = {field.name for field in fields(kind) if field.default is MISSING}
    wrong = (wanted - set(values)) | (set(values) - known)
    if wrong:
        raise DataError(f"{where}: fields {sorted(wrong)} are missing or unknown")
    return kind(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def write_results(path: str | Path, table: ResultTable) -> None:
    """Writes a results file, whole or not at all. What is not known takes no key."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "dataset": table.dataset,
        "split": table.split,
        "hardware": table.hardware,
    }
    content["rows"] = [
        {key: value for key, value in asdict(row).items() if value != ()} for row in table.rows
    ]
    if table.comparisons:
        content["comparisons"] = [asdict(pair) for pair in table.comparisons]
    if table.test_labels is not None:
        content["test_labels"] = table.test_labels
    write_json(path, content)


def open_results(path: str | Path, dataset: str, split: str, hardware: str) -> ResultTable:
    """The table in a results file, or an empty one where there is no file.

    Raises:
        DataError: the file is of another data set or split, or cannot be read.
    """
    table = load_results(path) if Path(path).exists() else ResultTable(dataset, split, hardware, ())
    if (table.dataset, table.split) != (dataset, split):
        raise DataError(
            f"{path}: holds {table.dataset}/{table.split}, not {dataset}/{split}; write to "
            "another file"
        )
    return table


def update_results(
    path: str | Path,
    dataset: str,
    split: str,
    row: ResultRow,
    hardware: str | None = None,
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
        hardware: what it was measured on; this machine if None. Several have " | " between them.
            New ones are added to the file's line.
        order: names of rows in the order in which they are to stand; others follow.
        comparisons: of this row with others, in place of older ones of the same pair.
        test_labels: sha256 of the labels that were scored; must be the file's, if both are known.

    Raises:
        DataError: the file is of another data set, split or set of test clips, or cannot be read.
        RunError: the file cannot be written.
    """
    hardware = hardware or describe_hardware()
    table = open_results(path, dataset, split, hardware)
    if None not in (test_labels, table.test_labels) and test_labels != table.test_labels:
        raise DataError(
            f"{path}: its rows were scored on other test clips than {row.name}; write to another "
            "file"
        )
    machines = " | ".join(dict.fromkeys([*table.hardware.split(" | "), *hardware.split(" | ")]))

    old = next((other for other in table.rows if other.name == row.name), None)
    same = old is not None and (old.accuracy, old.seeds, old.clips_seen) == (
        row.accuracy,
        row.seeds,
        row.clips_seen,
    )
    if same and old is not None and row.weights is None:
        row = replace(row, weights=old.weights)
    replaced = [row if other.name == row.name else other for other in table.rows]
    rows = _in_order(
        replaced if old is not None else [*replaced, row], order, lambda item: item.name
    )

    pairs = {
        (pair.row, pair.against): pair
        for pair in table.comparisons
        if same or row.name not in (pair.row, pair.against)
    }
    pairs |= {(pair.row, pair.against): pair for pair in comparisons}
    kept = _in_order(list(pairs.values()), order, lambda item: item.row)
    updated = ResultTable(dataset, split, machines, rows, kept, test_labels or table.test_labels)
    write_results(path, updated)
    return updated


def _in_order(
    items: list[Any], order: Sequence[str], name_of: Callable[[Any], str]
) -> tuple[Any, ...]:
    """Items whose names are in `order` first, in that order; the others after them as they
    stood.
    """
    place = {name: number for number, name in enumerate(order)}
    return tuple(sorted(items, key=lambda item: place.get(name_of(item), len(place))))


def to_markdown(table: ResultTable) -> str:
    """Tables for a page: accuracy with its interval beside the published number, and what it cost;
    comparisons; learning curves.
    """
    parts = [_main_table(table)]
    if table.comparisons:
        parts.append(_comparison_table(table.comparisons))
    if any(row.curve for row in table.rows):
        parts.append(_curve_table(table.rows))
    return "\n".join(parts)


def _main_table(table: ResultTable) -> str:
    head = (
        f"{table.dataset}, {table.split} split. Accuracy in percent with its 95 % interval; "
        f"measured on {table.hardware}."
    )
    if any(row.published is not None for row in table.rows):
        head += " Published is what the paper reports for that network at its own size."
    names = (
        "Row",
        "Accuracy",
        "Published",
        "Seeds",
        "Parameters",
        "GMAC",
        "Training clips",
        "Training time",
        "Commit",
    )
    return _markdown(head, names, [_main_cells(row) for row in table.rows])


def _main_cells(row: ResultRow) -> list[str]:
    each = (
        f" ({', '.join(f'{accuracy:.2f}' for accuracy in row.accuracies)})"
        if len(row.accuracies) > 1
        else ""
    )
    return [
        f"`{row.name}`",
        f"{row.accuracy:.2f} ({row.ci95[0]:.2f} to {row.ci95[1]:.2f})",
        "-" if row.published is None else f"{row.published:.1f}",
        f"{len(row.seeds)}{each}",
        f"{row.params / 1e6:.2f} M",
        "-" if row.gmac is None else f"{row.gmac:.3g}",
        f"{row.clips_seen:,}",
        _duration(row.seconds),
        "-" if row.commit is None else f"`{row.commit}`",
    ]


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    head = (
        "Rows on the same test clips: difference in points with its 95 % interval (paired "
        "bootstrap over the clips)."
    )
    cells = [
        [
            f"`{pair.row}` - `{pair.against}`",
            f"{pair.difference:+.2f} ({pair.ci95[0]:+.2f} to {pair.ci95[1]:+.2f})",
            "< 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}",
        ]
        for pair in comparisons
    ]
    return _markdown(head, ("Rows", "Difference", "p"), cells)


def _curve_table(rows: Sequence[ResultRow]) -> str:
    head = (
        "Learning curves: accuracy in percent on the validation split after so much of a row's "
        "training clips."
    )
    cells = [
        [f"`{row.name}`", *(_curve_cell(row, point) for point in _CURVE_POINTS)]
        for row in rows
        if row.curve
    ]
    return _markdown(head, ("Row", *(f"{point} %" for point in _CURVE_POINTS)), cells)


def _curve_cell(row: ResultRow, percent: int) -> str:
    """The last validation at or before that part of the training."""
    seen = [accuracy for clips, accuracy in row.curve if 100 * clips <= percent * row.clips_seen]
    return f"{seen[-1]:.1f}" if seen else "-"


def _markdown(head: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        head,
        "",
        f"| {' | '.join(names)} |",
        "|" + "---|" * len(names),
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]
    return "\n".join(lines) + "\n"


def write_page(page: str | Path, tables: Sequence[ResultTable]) -> None:
    """Puts the tables as Markdown between a page's markers, in place of what stood there.

    Raises:
        DataError: the page cannot be read, or does not hold both markers in order.
        RunError: the page cannot be written.
    """
    before, after = split_page(page)
    text = "\n".join(to_markdown(table) for table in tables)
    with whole_file(page) as temporary:
        temporary.write_text(f"{before}{PAGE_BEGIN}\n{text}{PAGE_END}{after}", encoding="utf-8")


def split_page(page: str | Path) -> tuple[str, str]:
    """What stands before the first marker of a page and after the second; errors as
    `write_page`.
    """
    try:
        text = Path(page).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{page}: cannot be read as text ({error})") from error
    before, begin, rest = text.partition(PAGE_BEGIN)
    _, end, after = rest.partition(PAGE_END)
    if not begin or not end:
        raise DataError(
            f"{page}: has no lines {PAGE_BEGIN} and {PAGE_END} to write tables between; add them, "
            "in this order"
        )
    return before, after


def describe_hardware() -> str:
    """This machine in a few words: accelerator if there is one, processor, threads, torch."""
    parts = [torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []
    threads = torch.get_num_threads()
    parts.append(f"{threads} thread{'s' * (threads > 1)} of {_processor()}")
    return ", ".join([*parts, f"torch {torch.__version__}"])


def code_commit() -> str | None:
    """Short commit of the checkout that this code runs from, with "-dirty" if it was changed since;
    None outside of one.
    """
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        # installed, perhaps inside somebody else's repository: its commit would say nothing
        return None
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(
        folder, "status", "--porcelain", "--untracked-files=no", "--", str(folder.parent)
    )
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, *words: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
