"""Tables: what a good one gives, and the exact line that each bad one gets."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vidgraph.data.table import load_table, parse_columns, split_by_hash
from vidgraph.errors import TableError


def write(folder: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = "video,label,split\na.mp4,walk,train\nsub/b.mp4,run,train\n/far/c.mp4,walk,test\n"


def test_rows_paths_classes_and_targets(tmp_path: Path) -> None:
    table = load_table(write(tmp_path, GOOD))
    assert table.class_names == ("run", "walk")
    assert not table.multi_label
    assert table.frame["row"].tolist() == [2, 3, 4]
    assert table.frame["video"].tolist() == [
        str(tmp_path / "a.mp4"),
        str(tmp_path / "sub" / "b.mp4"),
        "/far/c.mp4",
    ]
    assert table.frame[["start_seconds", "end_seconds"]].isna().all(axis=None)
    assert table.splits == ["train", "test"]
    np.testing.assert_array_equal(table.targets(table.rows("train")), [1, 0])
    assert table.targets(table.rows("train")).dtype == np.int64
    assert table.where(3) == "clips.csv, line 3"


def test_excel_habits_are_read(tmp_path: Path) -> None:
    """Byte order mark, carriage returns, blanks, empty lines, quotes, a line break in a cell: rows
    keep the number an editor shows."""
    text = (
        '\ufeffsplit, note ,video,label\r\n\r\ntrain,"two\r\nlines","a, b.mp4", walk '
        '\r\n,,,\r\ntest,,c.mp4,"say ""hi"""\r\n'
    )
    table = load_table(write(tmp_path, text))
    assert table.frame["row"].tolist() == [3, 6]
    assert table.frame["name"].tolist() == ["a, b.mp4", "c.mp4"]
    assert table.class_names == ('say "hi"', "walk")


def test_parquet_equals_csv(tmp_path: Path) -> None:
    csv = load_table(write(tmp_path, SPANS + "a.mp4,7,train,1.5,4\nb.mp4,10,test,,2\n"))
    names = {"video": ["a.mp4", "b.mp4"], "label": [7, 10], "split": ["train", "test"]}
    frame = pd.DataFrame({**names, "start_seconds": [1.5, np.nan]})
    frame.assign(end_seconds=[4, 2]).to_parquet(tmp_path / "t.parquet")
    parquet = load_table(tmp_path / "t.parquet")
    assert csv.class_names == parquet.class_names == ("7", "10")
    pd.testing.assert_frame_equal(csv.frame.drop(columns="row"), parquet.frame.drop(columns="row"))
    assert parquet.frame["row"].tolist() == [1, 2]
    assert parquet.where(2) == "t.parquet, row 2"
    assert csv.frame["start_seconds"].tolist()[0] == 1.5
    assert np.isnan(csv.frame["start_seconds"][1])


def test_cells_that_look_like_something_else_stay_as_they_are_written(tmp_path: Path) -> None:
    cells = ["2024", "007", "1e5", "true", "null", "NA", "nan", "-0.10"]
    text = "video,label,split\n" + "".join(f"{cell},{cell},train\n" for cell in cells)
    frame = load_table(write(tmp_path, text)).frame
    assert frame["name"].tolist() == frame["label"].tolist() == cells


def test_multi_label_gives_multi_hot(tmp_path: Path) -> None:
    table = load_table(
        write(tmp_path, "video,label,split\na,run | jump,train\nb,,train\nc,walk,train\n")
    )
    assert table.class_names == ("jump", "run", "walk")
    hot = table.targets(table.rows("train"))
    assert hot.dtype == np.float32
    np.testing.assert_array_equal(hot, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_multi_label_can_be_said(tmp_path: Path) -> None:
    """A Charades-like test file may by chance hold no row with two labels, yet rows with none."""
    path = write(tmp_path, "video,label,split\na,run,train\nb,,train\n")
    with pytest.raises(TableError, match="line 3: the label is empty"):
        load_table(path)
    table = load_table(path, multi_label=True)
    np.testing.assert_array_equal(table.targets(table.frame), [[1], [0]])


def test_classes_are_sorted_naturally_or_given(tmp_path: Path) -> None:
    path = write(
        tmp_path, "video,label,split\n" + "".join(f"{i}.mp4,c{i},train\n" for i in (10, 9, 1))
    )
    assert load_table(path).class_names == ("c1", "c9", "c10")
    given = load_table(path, class_names=["c10", "unused", "c9", "c1"])
    np.testing.assert_array_equal(given.targets(given.frame), [0, 2, 3])


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,class,split01\na.mp4,other,walk,train\n")
    table = load_table(path, parse_columns("video=path, label=class,split=split01"))
    assert table.frame.loc[0, ["name", "label", "split"]].tolist() == ["a.mp4", "walk", "train"]


def test_columns_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(TableError) as error:
        parse_columns("split=split01,label")
    assert str(error.value) == (
        "--columns: 'label' is not of the form OURS=THEIRS, such as label=class,split=split01"
    )
    with pytest.raises(TableError) as error:
        load_table(write(tmp_path, GOOD), {"lable": "class"})
    assert str(error.value) == ("--columns: 'lable' is not a column of ours; did you mean 'label'?")
    assert parse_columns("") == {}


H = "video,label,split\n"
SPANS = "video,label,split,start_seconds,end_seconds\n"
HINT = " (or say which column it is with --columns OURS=THEIRS)"
BAD_ROWS = {
    "video,lable,split\na,b,train\n": ": no column 'label'; did you mean 'lable'?" + HINT,
    "video,label\na,b\n": ": no column 'split'; it has video, label" + HINT,
    "video,label,split,label\na,b,c,d\n": ": column 'label' appears twice; rename one of them",
    "video;label;split\na;b;train\n": ": columns are separated by ';'; a table needs commas",
    H + "a.mp4,walk,train\nb.mp4,walk\n": ", line 3: the split is empty",
    H + "a, b.mp4,w,train\nc,w,train\n": ": cannot be read as csv (Error tokenizing data. C error: "
    "Expected 3 fields in line 2, saw 4 )",
    H + "a,,train\n\nb,,train\nc,w,train\n": ", line 2: the label is empty; only a multi-label "
    "table may have rows without a label (1 more lines like it)",
    H + "a,w,train\n,w,train\n": ", line 3: the video is empty",
    H + "a,w |,train\n": ", line 2: an empty label in 'w|'",
    SPANS + "a,w,train,3,3\n": ", line 2: the span '3 s to 3 s' holds nothing; start_seconds must "
    "be less than end_seconds",
    SPANS + "a,w,train,-1,2\n": ", line 2: start_seconds is '-1', which is not a number from 0 on",
    "": ": is empty; its first line must name the columns",
    H + "\n": ": has a header but no rows; write one row per sample below it",
}


@pytest.mark.parametrize(("text", "line"), BAD_ROWS.items())
def test_bad_tables_get_one_exact_line(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TableError) as error:
        load_table(path)
    assert str(error.value).startswith(f"{path}{line}")


def test_files_that_are_no_table(tmp_path: Path) -> None:
    cases = {
        tmp_path / "none.csv": "none.csv: there is no such file",
        write(tmp_path, b"", "a.mp4"): "a.mp4: is not a table; expected a .csv or .parquet file",
        write(tmp_path, b"PAR1 but no more", "t.parquet"): "t.parquet: cannot be read as parquet (",
        write(tmp_path, "video,label,split\na,Übung,train\n".encode("latin-1"), "t.csv"): (
            "t.csv: cannot be read as csv ('utf-8' codec can't decode byte 0xdc in position"
        ),
    }
    for path, message in cases.items():
        with pytest.raises(TableError) as error:
            load_table(path)
        assert message in str(error.value)


def test_unknown_split_and_unknown_label(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(TableError) as error:
        load_table(path).rows("tests")
    assert (
        str(error.value)
        == f"{path}: no rows of split 'tests'; the table has train (2), test (1); did you mean "
        "'test'?"
    )
    with pytest.raises(TableError, match=r"line 2: label 'walk' .* did you mean 'walk\{\}'\?"):
        load_table(path, class_names=["walk{}", "run"])  # braces are no format
    with pytest.raises(TableError) as error:
        load_table(path, class_names=["walks", "run"])
    assert str(error.value) == (
        f"{path}, line 2: label 'walk' is not among the 2 given classes; did you mean 'walks'? "
        "(1 more lines like it)"
    )


def test_fingerprint_counts_files_not_rows(tmp_path: Path) -> None:
    text = SPANS + "a.mp4,w,train,0,1\na.mp4,w,train,1,2\nb.mp4,w,train,,\nc.mp4,w,test,,\n"
    path = write(tmp_path, text)
    write(tmp_path, b"x", "a.mp4")
    table = load_table(path)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert table.fingerprint() == {"files": 3, "missing": 2, "skipped": 0, "sha256": sha256}
    assert table.fingerprint({"b.mp4", str(tmp_path / "c.mp4"), "stranger.mp4"})["skipped"] == 2


def make_folder(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_folder_with_split_folders(tmp_path: Path) -> None:
    files = [
        "train/walk/b10.mp4",
        "train/walk/b9.MP4",
        "train/run/frames/0001.jpg",
        "test/walk/c.avi",
        "train/walk/.DS_Store",
        "train/run/readme.txt",
    ]
    table = load_table(make_folder(tmp_path, *files))
    assert table.frame["name"].tolist() == [
        "train/run/frames",
        "train/walk/b9.MP4",
        "train/walk/b10.mp4",
        "test/walk/c.avi",
    ]
    assert table.frame["split"].tolist() == ["train", "train", "train", "test"]
    assert table.frame["label"].tolist() == ["run", "walk", "walk", "walk"]
    assert table.notes == ("left out because no video by their names: train/run/readme.txt",)
    lines = (
        "test\twalk\ttest/walk/c.avi\ntrain\trun\ttrain/run/frames\ntrain\twalk\ttrain/walk/b"
        "10.mp4\ntrain\twalk\ttrain/walk/b9.MP4\n"
    )
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    assert table.fingerprint() == {"files": 4, "missing": 0, "skipped": 0, "sha256": sha256}


def test_hash_split_is_fixed_and_near_80_10_10() -> None:
    """The numbers are part of the contract: a release that moved videos between splits would mix
    training into test."""
    names = [f"walk/{i:04d}.mp4" for i in range(1000)]
    assert Counter(map(split_by_hash, names)) == {"train": 802, "val": 92, "test": 106}
    first = " ".join(split_by_hash(name) for name in names[:8])
    assert first == "train train test train val train train test"


def test_folder_errors(tmp_path: Path) -> None:
    cases = {
        "none": ([], ": holds no class folders; expected one folder per class"),
        "misspelt": (
            ["train/w/a.mp4", "tests/w/b.mp4"],
            ": folder 'tests' stands beside the split folders train, val and test; did you mean "
            "'test'?",
        ),
        "empty_class": (
            ["walk/a.mp4", "run/notes.txt"],
            "/run: class folder without a video or a folder of frames",
        ),
        "deep": (
            ["set/walk/a.mp4"],
            "/set/walk/a.mp4: does not lie directly in a class folder; expected root/walk/*.mp4",
        ),
    }
    for name, (files, line) in cases.items():
        root = make_folder(tmp_path / name, *files)
        root.mkdir(exist_ok=True)
        with pytest.raises(TableError) as error:
            load_table(root)
        assert str(error.value).startswith(f"{root}{line}")
    with pytest.raises(TableError, match="has no columns to rename"):
        load_table(tmp_path / "deep", {"label": "class"})


def test_weizmann_as_table_and_as_folder(shared_data: Path) -> None:
    folder = shared_data / "data" / "weizmann"
    table = load_table(
        folder / "manifest.csv", {"video": "path", "label": "class", "split": "person"}
    )
    assert (len(table), len(table.class_names), len(table.splits)) == (90, 10, 9)
    names = "bend jack jump pjump run side skip walk wave1 wave2"
    assert " ".join(table.class_names) == names
    assert table.fingerprint()["missing"] == 0
    videos = load_table(folder / "video")
    assert sorted(videos.frame["video"]) == sorted(table.frame["video"])
    assert videos.class_names == table.class_names


def test_ucf101_through_renamed_columns(shared_data: Path) -> None:
    table = load_table(
        shared_data / "data" / "ucf101_8" / "manifest.csv", parse_columns("split=split01")
    )
    sizes = len(table.rows("train")), len(table.rows("test")), len(table.class_names)
    assert sizes == (743, 297, 8)
    assert table.fingerprint()["missing"] == 0
