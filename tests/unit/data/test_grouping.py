"""Groups of clips, and splits that keep them together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vidgraph.data.grouping import (
    Splits,
    clip_groups,
    grouped_folds,
    held_out,
    numbered_per_class,
    split_clips,
)
from vidgraph.data.table import VideoTable, load_table
from vidgraph.errors import DataError, TableError

Row = tuple[str, ...]
PEOPLE = ["anna", "ben", "cleo", "dora", "emil", "fay", "gus", "hana", "ida", "jon"]


def table_of(folder: Path, columns: str, rows: Iterable[Row]) -> VideoTable:
    path = folder / "clips.csv"
    path.write_text("\n".join([columns, *map(",".join, rows)]) + "\n")
    return load_table(path, split_needed=False)


def films(classes: str, numbers: Iterable[int], clips: int = 2) -> list[Row]:
    """`clips` of each film; films are numbered anew in each class."""
    return [
        (f"{label}/g{number}_c{clip}.mp4", label, str(number))
        for label in classes
        for number in numbers
        for clip in range(clips)
    ]


def persons(classes: str, people: list[str], clips: int = 1) -> list[Row]:
    return [
        (f"{label}/{person}_{clip}.mp4", label, person)
        for label in classes
        for person in people
        for clip in range(clips)
    ]


def counts(splits: Splits) -> dict[str, int]:
    return {str(name): int(n) for name, n in splits.frame["split"].value_counts().items()}


def check_laws(splits: Splits) -> None:
    """No group stands on two sides, every class on each, and rows are where the frame says."""
    frame = splits.frame
    assert frame.groupby("group")["split"].nunique().max() == 1
    for rows in splits.rounds:
        assert sum(map(len, rows.values())) == len(frame)
        parts = {name: frame.iloc[part.numpy()] for name, part in rows.items()}
        assert all(set(part["label"]) == set(frame["label"]) for part in parts.values())
        groups = [group for part in parts.values() for group in set(part["group"])]
        assert len(groups) == len(set(groups))
    assert [splits.class_names[i] for i in frame["class_index"]] == frame["label"].tolist()


# ---- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (r"/([a-z]+)_", ["anna", "ben"]),
        (r"[a-z]+_\d", ["anna_0", "ben_0"]),
        (r"(?:walk|run)/(\w)(\w)", ["a", "b"]),
    ],
)
def test_a_pattern_gives_its_first_part_or_all(
    tmp_path: Path, pattern: str, wanted: list[str]
) -> None:
    table = table_of(tmp_path, "video,label,group", persons("w", ["anna", "ben"]))
    walk = table.frame.assign(name=["walk/anna_0.mp4", "run/ben_0.mp4"])
    object.__setattr__(table, "frame", walk)
    assert clip_groups(table, pattern)[0].tolist() == wanted


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is no regular expression"),
        (r"_(\d\d)\.", r"clips.csv: --group-by .* finds no group in w/anna_0.mp4"),
        (r"(x)?anna", "finds no group in w/anna_0.mp4"),
    ],
)
def test_a_pattern_that_finds_nothing(tmp_path: Path, pattern: str, words: str) -> None:
    table = table_of(tmp_path, "video,label", [row[:2] for row in persons("w", ["anna"])])
    with pytest.raises(TableError, match=words):
        clip_groups(table, pattern)


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ({"walk": "1 2 3", "run": "1 2"}, True),
        ({"walk": "0 1", "run": "0 1 2"}, True),
        ({"walk": "g1 g2", "run": "g1 g2"}, False),
        ({"walk": "1 2 3", "run": "1 3"}, False),  # a gap: they are counted over all classes
        ({"walk": "1 2", "run": "3 4"}, False),
        ({"walk": "anna ben", "run": "1 2"}, False),
    ],
)
def test_numbers_that_begin_anew_in_each_class(groups: dict[str, str], wanted: bool) -> None:
    cells = [(label, name) for label, names in groups.items() for name in names.split()]
    frame = pd.DataFrame(cells, columns=["label", "group"])
    assert numbered_per_class(frame["label"], frame["group"]) is wanted


def test_the_column_and_what_stands_for_it(tmp_path: Path) -> None:
    groups, notes = clip_groups(table_of(tmp_path, "video,label,group", films("ab", [1, 2], 1)))
    assert groups.tolist() == ["a/1", "a/2", "b/1", "b/2"]
    assert "group 1 of one class is taken as another than group 1 of the next" in notes[0]
    table = table_of(tmp_path, "video,label,group", persons("ab", ["anna", "ben"]))
    assert clip_groups(table)[0].tolist() == ["anna", "ben", "anna", "ben"]
    assert clip_groups(table)[1] == []
    assert clip_groups(table, r"^(\w)/")[0].tolist() == ["a", "a", "b", "b"]  # asked for, so first
    spans = [("long.mp4", "a", "0", "1"), ("long.mp4", "b", "1", "2"), ("x.mp4", "b", "", "")]
    groups, notes = clip_groups(table_of(tmp_path, "video,label,start_seconds,end_seconds", spans))
    assert groups.tolist() == ["long.mp4", "long.mp4", "x.mp4"]
    assert "--group-by" in notes[0]
    with pytest.raises(TableError, match=r"clips.csv, line 3: the group is empty"):
        clip_groups(table_of(tmp_path, "video,label,group", [("a", "a", "g"), ("b", "b", "")]))


# ---- splits that are named -----------------------------------------------------------------------


def named(rows: list[Row], split_of: Any) -> list[Row]:
    return [(*row, split_of(row)) for row in rows]


def test_the_last_groups_of_each_class_validate(tmp_path: Path) -> None:
    """As for UCF101: of training groups 8 to 25 those from 22 on."""
    rows = named(films("abc", range(1, 26), 3), lambda row: "train" if int(row[2]) > 7 else "test")
    splits = split_clips(table_of(tmp_path, "video,label,group,split", rows))
    assert counts(splits) == {"train": 3 * 14 * 3, "val": 3 * 4 * 3, "test": 3 * 7 * 3}
    held = splits.frame.loc[splits.frame["split"] == "val", "group"]
    assert set(held) == {f"{c}/{number}" for c in "abc" for number in range(22, 26)}
    assert splits.frame.loc[splits.frame["split"] == "test", "group"].nunique() == 21
    assert len(splits.rounds) == 1
    check_laws(splits)


def test_shared_groups_are_held_out_whole(tmp_path: Path) -> None:
    """The last two of the class that has the fewest are enough for those of ten."""
    rows = persons("ab", PEOPLE) + persons("c", PEOPLE[:9]) + [("t.mp4", c, "zoe") for c in "abc"]
    rows = named(rows, lambda row: "test" if row[2] == "zoe" else "train")
    splits = split_clips(table_of(tmp_path, "video,label,group,split", rows))
    assert set(splits.frame.loc[splits.frame["split"] == "val", "group"]) == {"hana", "ida"}
    check_laws(splits)


def test_named_splits_stay_as_they_are(tmp_path: Path) -> None:
    names = {"anna": "train", "ben": "val", "cleo": "test", "dora": "unused", "emil": "train"}
    rows = named(persons("ab", list(names)), lambda row: names[row[2]])
    rows.append(("a/anna_9.mp4", "a", "anna", "test"))
    splits = split_clips(table_of(tmp_path, "video,label,group,split", rows))
    assert counts(splits) == {"train": 4, "val": 2, "test": 3}
    assert "not used: unused (2)" in splits.notes[0]
    assert "in training and in another split: 1, such as anna;" in splits.notes[1]


def test_training_without_enough_groups_has_no_validation(tmp_path: Path) -> None:
    rows = [
        (f"{label}{i}.mp4", label, f"{label}-{split}", split)
        for label in "ab"
        for split in ("train", "test")
        for i in range(2)
    ]
    rows = [(f"{split}/{video}", label, group, split) for video, label, group, split in rows]
    splits = split_clips(table_of(tmp_path, "video,label,group,split", rows))
    assert set(splits.rounds[0]) == {"train", "test"}
    assert splits.notes[-1].startswith("there are no validation clips")


# ---- splits that are drawn -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["films", "persons", "clips", "unequal"])
def test_drawn_splits(tmp_path: Path, kind: str) -> None:
    rows = {
        "films": films("abcd", range(1, 26), 4),
        "persons": persons("abcd", PEOPLE, 3),
        "clips": [(f"{label}/{i}.mp4", label, f"{label}{i}") for label in "abc" for i in range(20)],
        "unequal": [
            (f"{label}/{i}.mp4", label, f"{label}-{int(np.sqrt(i))}")
            for label in "ab"
            for i in range(81)
        ],
    }[kind]
    table = table_of(tmp_path, "video,label,group", rows)
    splits = split_clips(table, seed=3)
    check_laws(splits)
    shares = pd.crosstab(splits.frame["label"], splits.frame["split"], normalize="index")
    np.testing.assert_allclose(shares["train"], 0.7, atol=0.11)
    np.testing.assert_allclose(shares[["val", "test"]], 0.15, atol=0.08)
    again, other = split_clips(table, seed=3), split_clips(table, seed=4)
    assert again.frame.equals(splits.frame)
    assert (other.frame["split"] != splits.frame["split"]).any()
    assert "seed 3" in splits.notes[-1]


def test_three_groups_suffice_for_splits(tmp_path: Path) -> None:
    splits = split_clips(table_of(tmp_path, "video,label,group", films("ab", [1, 2, 3], 4)))
    assert counts(splits) == {"train": 8, "val": 8, "test": 8}
    check_laws(splits)


@pytest.mark.parametrize(
    ("rows", "folds", "why"),
    [
        (persons("abc", PEOPLE[:4]), 4, "class 'c' has only 4 clips of 4 groups"),
        (persons("ab", PEOPLE[:9]), 5, "has only 9 clips of 9 groups"),
        (films("ab", [1, 2], 20), 2, "has only 40 clips of 2 groups"),
        (films("ab", range(9), 3) + films("c", range(3), 1), 3, "class 'c' has only 3 clips"),
    ],
)
def test_few_clips_are_cross_validated(
    tmp_path: Path, rows: list[Row], folds: int, why: str
) -> None:
    splits = split_clips(table_of(tmp_path, "video,label,group", rows))
    assert f"cross-validation with {folds} folds by group, for" in splits.notes[-1]
    assert why in splits.notes[-1]
    assert len(splits.rounds) == folds
    tested = np.concatenate([rows["test"].numpy() for rows in splits.rounds])
    assert sorted(tested) == list(range(len(rows)))
    assert all(("val" in rows) == (folds > 2) for rows in splits.rounds)
    for rows_of in splits.rounds:
        frame = splits.frame.iloc[rows_of["train"].numpy()]
        assert set(frame["label"]) == set(splits.class_names)
        assert not set(frame["group"]) & set(splits.frame.iloc[rows_of["test"].numpy()]["group"])


# ---- what cannot be done -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ("video,label", [("1", "a"), ("2", "a")], "all clips are of class 'a'; give two"),
        ("video,label", [("1", "a"), ("2", "a"), ("3", "b")], "class 'b' has only one clip; it"),
        ("video,label", [("1", "a"), ("2", "b"), ("3", "c")], "class 'a' has only one clip; it"),
        (
            "video,label,group",
            [("1", "a", "x"), ("2", "a", "x"), ("3", "b", "y"), ("4", "b", "z")],
            "all clips of class 'a' are of one group",
        ),
        (
            "video,label,split",
            [(f"{label}{i}", label, "train") for label in "ab" for i in range(3)],
            r"no clips of split 'test', only of train \(6\)",
        ),
        (
            "video,label,split",
            [(f"{label}{i}", label, "test") for label in "ab" for i in range(3)],
            r"no clips of split 'train', only of test \(6\)",
        ),
        (
            "video,label,split",
            [("1", "a", "train"), ("2", "a", "test"), ("3", "b", "test"), ("4", "b", "test")],
            "class 'b' has no clip in training",
        ),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, columns: str, rows: list[Row], words: str) -> None:
    with pytest.raises(DataError, match=words):
        split_clips(table_of(tmp_path, columns, rows))


def test_folds_need_groups_of_each_class() -> None:
    with pytest.raises(DataError, match="too few groups"):
        grouped_folds(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]))


# ---- the parts -----------------------------------------------------------------------------------


def test_held_out_groups_are_those_at_the_end() -> None:
    labels, groups = pd.Series([*"aaaaabbb"]), pd.Series([*"uvwxyuvw"])
    assert "".join(groups[held_out(labels, groups, 0.4, "uvwxy")]) == "wyw"
    assert "".join(groups[held_out(labels, groups, 0.4, "yxwvu")]) == "uvuv"
    assert "".join(groups[held_out(labels, groups, 0.4, "yxwvu", keep=2)]) == "uxu"


def test_plain_folds_are_stratified() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    folds = grouped_folds(labels, np.arange(100), 5, seed=1)
    assert [np.bincount(labels[folds == fold]).tolist() for fold in range(5)] == [[10, 6, 4]] * 5
    assert (grouped_folds(labels, np.arange(100), 5, seed=1) == folds).all()
    assert (grouped_folds(labels, np.arange(100), 5, seed=2) != folds).any()


def test_folders_and_tables_may_name_no_splits(tmp_path: Path) -> None:
    (tmp_path / "clips" / "a").mkdir(parents=True)
    (tmp_path / "clips" / "a" / "1.mp4").touch()
    folder = load_table(tmp_path / "clips", split_needed=False)
    assert (folder.frame["split"].tolist(), folder.notes) == ([""], ())
    assert load_table(tmp_path / "clips").frame["split"].tolist() != [""]
    path = tmp_path / "clips.csv"
    path.write_text("video,label,person\n1.mp4,a,anna\n")
    table = load_table(path, {"group": "person"}, split_needed=False)
    assert table.frame[["split", "group"]].values.tolist() == [["", "anna"]]
    with pytest.raises(TableError, match="no column 'split'"):
        load_table(path)
    path.write_text("video,label,split\n1.mp4,a,\n")
    with pytest.raises(TableError, match="line 2: the split is empty"):
        load_table(path, split_needed=False)


# ---- real tables ---------------------------------------------------------------------------------


def test_real_tables(shared_data: Path) -> None:
    """56 films in UCF101's test split of eight classes; persons and sequences are shared."""
    data = shared_data / "data"
    columns = {"split": "split01"}
    ucf = split_clips(load_table(data / "ucf101_8/manifest.csv", columns, split_needed=False))
    frame = ucf.frame
    assert counts(ucf) == {"train": 572, "val": 171, "test": 297}
    assert frame.groupby("split")["group"].nunique().to_dict() == {
        "test": 56,
        "train": 112,
        "val": 32,
    }
    val = frame.loc[frame["split"] == "val", "group"]
    assert set(val.str.partition("/")[2]) == {"22", "23", "24", "25"}
    check_laws(ucf)
    interactions = load_table(data / "ut_interaction/manifest.csv", split_needed=False)
    drawn = split_clips(interactions)
    assert counts(drawn) == {"train": 84, "val": 18, "test": 18}
    assert drawn.frame["group"].nunique() == 20
    check_laws(drawn)
    columns = {"video": "path", "label": "class", "group": "person"}
    people = load_table(data / "weizmann/manifest.csv", columns, split_needed=False)
    folder = load_table(data / "weizmann/video", split_needed=False)
    for table, pattern in ((people, None), (folder, "/([a-z]+)_")):
        splits = split_clips(table, pattern)
        assert splits.frame["group"].nunique() == 9
        assert len(splits.rounds) == 5
        assert "cross-validation" in splits.notes[-1]
        for rows in splits.rounds:
            sets = [set(splits.frame["group"].iloc[part.numpy()]) for part in rows.values()]
            assert sum(map(len, sets)) == 9
