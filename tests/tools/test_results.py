"""Results files: what was measured stays as it is, rows are replaced, and errors are clear."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from results import Comparison, ResultRow, ResultTable, load_results, main, to_markdown
from results import update_results as update
from vidgraph.errors import DataError

ROOT = Path(__file__).parents[2]
ROW = ResultRow(
    name="rstg_small",
    weights="rstg_small_sync3",
    published=None,
    accuracy=95.123,
    ci95=(94.6, 95.6),
    seeds=(0,),
    params=310_000,
    gmac=0.123,
    clips_seen=240_000,
    seconds=5000.0,
    command="vidgraph train syncmnist3:rstg_small",
    commit="0123456789ab",
)


def put(path: Path, row: ResultRow, machine: str = "A", **more: Any) -> ResultTable:
    return update(path, "d", "test", row, machine, **more)


def pair(row: str, against: str, difference: float) -> Comparison:
    return Comparison(row, against, difference, (difference - 1, difference + 1), 0.0)


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*.json")), ids=lambda f: f.stem)
def test_measured_files_are_read_and_written_alike(file: Path, tmp_path: Path):
    table, copy = load_results(file), tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    update(copy, table.dataset, table.split, table.rows[0], table.hardware)
    assert copy.read_bytes() == file.read_bytes()


def test_rows_are_added_replaced_and_read_back(tmp_path: Path):
    path = tmp_path / "a.json"
    put(path, ROW)
    put(path, replace(ROW, name="mean_lstm_small", published=77.0))
    table = put(path, replace(ROW, accuracy=96.0), "B")
    assert [row.name for row in table.rows] == ["rstg_small", "mean_lstm_small"]
    assert table.rows[0].accuracy == 96.0
    assert table.hardware == "A | B"
    assert load_results(path) == table


def test_table_reads_well(tmp_path: Path):
    lines = to_markdown(put(tmp_path / "a.json", ROW, "machine A")).splitlines()
    cells = "95.12 (94.60 to 95.60) | - | 1 | 0.31 M | 0.123 | 240,000 | 1 h 23 min"
    assert lines[-1] == f"| `rstg_small` | {cells} | `0123456789ab` |"
    assert "measured on machine A" in lines[0]
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_what_a_table_may_hold_besides_is_read_back_and_shown(tmp_path: Path):
    path, curve = tmp_path / "a.json", ((60_000, 30.0), (120_000, 70.25), (240_000, 94.5))
    put(path, replace(ROW, name="mean", published=77.0), test_labels="abc")
    seeds = replace(ROW, seeds=(0, 1), accuracies=(95.0, 95.246), curve=curve)
    compared = [pair("rstg_small", "mean", 1.234)]
    table = put(path, seeds, "A | B", comparisons=compared, test_labels="abc")
    assert load_results(path) == table
    content = json.loads(path.read_text())
    assert list(content)[-2:] == ["comparisons", "test_labels"]
    assert not {"curve", "accuracies"} & set(content["rows"][0])  # what is not known takes no key
    text = to_markdown(table)
    assert "Published is what the paper reports for that network at its own size." in text
    assert " | 2 (95.00, 95.25) | " in text
    assert "| `rstg_small` - `mean` | +1.23 (+0.23 to +2.23) | < 0.001 |" in text
    # At 10, 20, 40, 60, 80 and 100 % of the clips.
    assert "| `rstg_small` | - | - | 30.0 | 70.2 | 70.2 | 94.5 |" in text


def test_rows_keep_the_order_of_the_recipe_and_comparisons_their_rows(tmp_path: Path):
    path, order = tmp_path / "a.json", ["a", "b", "c"]
    rows = {name: replace(ROW, name=name, weights=None) for name in "abcz"}
    both = [pair("b", "c", 2.0), pair("a", "b", 1.0)]
    for name, comparisons in (("z", []), ("c", []), ("a", []), ("b", both)):
        table = put(path, rows[name], order=order, comparisons=comparisons)
    assert [row.name for row in table.rows] == ["a", "b", "c", "z"]
    assert [(p.row, p.against) for p in table.comparisons] == [("a", "b"), ("b", "c")]
    again = put(path, rows["a"], order=order, comparisons=[pair("a", "b", 3.0)])
    assert [p.difference for p in again.comparisons] == [3.0, 2.0]
    measured_anew = put(path, replace(rows["a"], accuracy=50.0), order=order)
    assert [(p.row, p.against) for p in measured_anew.comparisons] == [("b", "c")]


def test_where_weights_are_is_kept_until_a_row_measures_something_else(tmp_path: Path):
    path, bare = tmp_path / "a.json", replace(ROW, weights=None)
    put(path, ROW)
    assert put(path, bare).rows[0].weights == "rstg_small_sync3"
    assert put(path, replace(bare, accuracy=1.0)).rows[0].weights is None


def test_other_clips_data_sets_and_missing_files_are_refused(tmp_path: Path):
    path = tmp_path / "a.json"
    put(path, ROW, test_labels="abc")
    with pytest.raises(DataError, match=r"a\.json: its rows were scored on other test clips"):
        put(path, replace(ROW, name="b"), test_labels="xyz")
    with pytest.raises(DataError, match="holds d/test, not e/test"):
        update(path, "e", "test", ROW, "A")
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        load_results(tmp_path / "nowhere.json")
    assert [row.name for row in load_results(path).rows] == ["rstg_small"]


HEAD = '"schema": 1, "dataset": "d", "split": "test", "hardware": "h"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not a results file \(Invalid JSON"),
        ("[]", "is not a results file"),
        ('{"schema": 2}', "schema: Input should be 1"),
        (f'{{{HEAD}, "rows": [{{"name": "x"}}]}}', "rows: 0: weights: Field required"),
    ],
)
def test_a_broken_file_is_named_and_not_overwritten(tmp_path: Path, text: str, message: str):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"broken.json: .*{message}|broken.json: {message}"):
        put(path, ROW)
    assert path.read_text() == text


def test_tables_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    tables = [to_markdown(put(file, ROW)) for file in files]
    assert main([*map(str, files)]) == 0
    assert capsys.readouterr().out == "\n".join(tables)
    assert main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err
