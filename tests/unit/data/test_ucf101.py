"""UCF101: the official lists to a table with a column per split, and what is refused."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from vidgraph.cli import main
from vidgraph.data.table import load_table
from vidgraph.data.ucf101 import make_table
from vidgraph.errors import DataError, VidgraphError

NAMES = [
    "Archery/v_Archery_g01_c01",
    "Archery/v_Archery_g08_c02",
    "Archery/v_Archery_g22_c01",
    "Biking/v_Biking_g02_c01",
]
NAMES += ["Biking/v_Biking_g25_c03", "Biking/v_Biking_g09_c01"]
# Two of the three splits, as the official files are: numbers in train lists only.
LISTS = {
    "classInd.txt": "1 Archery\n2 Biking\n",
    "trainlist01.txt": "".join(f"{NAMES[i]}.avi {1 + (i > 2)}\n" for i in (1, 2, 4, 5)),
    "testlist01.txt": f"{NAMES[0]}.avi\n{NAMES[3]}.avi\n",
    "trainlist02.txt": "".join(f"{NAMES[i]}.avi {1 + (i > 2)}\r\n" for i in (0, 2, 3, 4)),
    "testlist02.txt": f"{NAMES[1]}.avi\n{NAMES[5]}.avi\n\n",
}


def ucf101(folder: Path, suffix: str = ".avi", flat: bool = False, **changed: str) -> Path:
    """Lists, and the videos but one."""
    (folder / "labels").mkdir(parents=True)
    for name, text in (
        LISTS | {key.replace("_", "."): text for key, text in changed.items()}
    ).items():
        (folder / "labels" / name).write_text(text, newline="")
    for name in NAMES[:-1]:
        path = folder / "videos" / (Path(name).name if flat else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + suffix).touch() if suffix else path.mkdir()
    return folder


def rows(folder: Path, **options: bool) -> list[list[str]]:
    made = make_table(folder / "labels", folder / "videos", folder / "t.csv", **options)
    return list(csv.reader(made.path.open(encoding="utf-8")))


def test_official_lists_become_one_table(tmp_path: Path) -> None:
    folder = ucf101(tmp_path)
    made = make_table(folder / "labels", folder / "videos", folder / "t.csv")
    assert list(csv.reader(made.path.open(encoding="utf-8"))) == [
        ["video", "label", "split01", "split02"],
        ["videos/Archery/v_Archery_g01_c01.avi", "Archery", "test", "train"],
        ["videos/Archery/v_Archery_g08_c02.avi", "Archery", "train", "test"],
        ["videos/Archery/v_Archery_g22_c01.avi", "Archery", "val", "val"],
        ["videos/Biking/v_Biking_g02_c01.avi", "Biking", "test", "train"],
        ["videos/Biking/v_Biking_g09_c01.avi", "Biking", "train", "test"],
        ["videos/Biking/v_Biking_g25_c03.avi", "Biking", "val", "val"],
    ]
    assert made.lines() == [
        f"{folder / 't.csv'}: UCF101, 6 videos, 2 classes",
        "  split01: train 2, val 2, test 2; use it with columns split=split01",
        "  split02: train 2, val 2, test 2; use it with columns split=split02",
        f"note: {folder / 'videos'} lacks 1 of the listed videos",
    ]
    table = load_table(made.path, {"split": "split02"})
    assert table.splits == ["train", "val", "test"]
    assert table.class_names == ("Archery", "Biking")


def test_whole_train_and_present_videos_only(tmp_path: Path) -> None:
    folder = ucf101(tmp_path)
    assert [row[2] for row in rows(folder, whole_train=True)[1:]] == [
        "test",
        "train",
        "train",
        "test",
        "train",
        "train",
    ]
    kept = rows(folder, present_only=True)[1:]
    assert len(kept) == 5
    assert all((folder / row[0]).is_file() for row in kept)


@pytest.mark.parametrize(
    ("suffix", "flat"), [(".mp4", False), (".avi", True), ("", False), ("", True)]
)
def test_videos_are_found_in_every_layout(tmp_path: Path, suffix: str, flat: bool) -> None:
    """Re-encoded, without folders of classes, as folders of frames."""
    folder = ucf101(tmp_path, suffix, flat)
    paths = [folder / row[0] for row in rows(folder, present_only=True)[1:]]
    assert len(paths) == 5
    assert all(path.exists() and path.suffix == suffix for path in paths)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"classInd_txt": "1 Archery\n"},
            r"trainlist01\.txt, line 3: class 'Biking' is not among the 1 of classInd\.txt$",
        ),
        (
            {"classInd_txt": "1 Archery\n2 Bikings\n"},
            r"class 'Biking' is not among the 2 of classInd\.txt; did you mean 'Bikings'\?$",
        ),
        (
            {"classInd_txt": "Archery\n"},
            r"classInd\.txt, line 1: 'Archery' is not of the form 1 ApplyEyeMakeup$",
        ),
        (
            {"classInd_txt": "1 Archery\n1 Biking\n"},
            r"classInd\.txt, line 2: class '1 Biking' is listed twice$",
        ),
        ({"classInd_txt": ""}, r"classInd\.txt: is empty"),
        (
            {"classInd_txt": "2 Archery\n1 Biking\n"},
            r"trainlist01\.txt, line 1: class 'Archery' has number 1 here and 2 in classInd\.txt$",
        ),
        (
            {"testlist01_txt": f"{NAMES[1]}.avi\n"},
            r"testlist01\.txt, line 1: video v_Archery_g08_c02 is listed a second time, after "
            r".*line 1$",
        ),
        (
            {"trainlist02_txt": "v_Archery.avi 1\n"},
            r"trainlist02\.txt, line 1: 'v_Archery\.avi 1' is not of the form",
        ),
    ],
)
def test_faulty_lists_are_one_line(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    folder = ucf101(tmp_path, **changed)
    with pytest.raises(VidgraphError, match=message) as error:
        rows(folder)
    assert "\n" not in str(error.value)
    assert not (folder / "t.csv").exists()


def test_faulty_folders_are_one_line(tmp_path: Path) -> None:
    folder = ucf101(tmp_path)
    (folder / "labels" / "testlist02.txt").unlink()
    with pytest.raises(DataError, match=r"testlist02\.txt: cannot be read \(No such file"):
        rows(folder)
    for name in ("trainlist01.txt", "testlist01.txt", "trainlist02.txt"):
        (folder / "labels" / name).unlink()
    with pytest.raises(
        DataError, match=r"labels: holds no trainlist01\.txt; give the folder of the official lists"
    ):
        rows(folder)
    (folder / "labels" / "classInd.txt").unlink()
    with pytest.raises(DataError, match=r"classInd\.txt: there is no such file"):
        rows(folder)
    other = ucf101(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError,
        match=r"empty: holds none of the 6 videos; expected Archery/v_Archery_g01_c01\.avi, and "
        r"on$",
    ):
        make_table(other / "labels", tmp_path / "empty", other / "t.csv")
    with pytest.raises(DataError, match=r"t\.txt: the table is written as \.csv"):
        make_table(other / "labels", other / "videos", other / "t.txt")


def test_real_lists(shared_data: Path, tmp_path: Path) -> None:
    """The official counts of all three splits; validation groups are the same in each; the eight
    classes agree with their manifest.
    """
    labels, videos = (
        shared_data / "data" / "splits" / "ucf101_splits",
        shared_data / "data" / "ucf101_8",
    )
    made = make_table(labels, videos, tmp_path / "t.csv", whole_train=True)
    assert (made.num_videos, made.num_classes, made.absent) == (13320, 101, 12280)
    assert made.num_rows == {
        "split01": {"train": 9537, "test": 3783},
        "split02": {"train": 9586, "test": 3734},
        "split03": {"train": 9624, "test": 3696},
    }
    held = make_table(labels, videos, tmp_path / "t.csv")
    assert [counts["val"] for counts in held.num_rows.values()] == [2107, 2107, 2107]
    assert make_table(labels, videos, tmp_path / "t.csv", present_only=True).num_videos == 1040
    table = load_table(tmp_path / "t.csv", {"split": "split01"})
    assert Counter(table.frame["split"]) == {"train": 572, "val": 171, "test": 297}
    manifest = load_table(videos / "manifest.csv", {"split": "split01"})
    official = {
        Path(v).name: split
        for v, split in zip(manifest.frame["video"], manifest.frame["split"], strict=True)
    }
    assert all(
        official[Path(v).name] == s.replace("val", "train")
        for v, s in zip(table.frame["video"], table.frame["split"], strict=True)
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ucf101(tmp_path)
    words = [
        "data",
        "make",
        "ucf101",
        "--labels",
        folder / "labels",
        "--videos",
        folder / "videos",
        "--out",
        folder / "t.csv",
    ]
    assert main([*map(str, words), "--present"]) == 0
    assert (
        "lacks 1 of the listed videos, which are left out\nlook for faults: vidgraph data check"
        in capsys.readouterr().out
    )
    assert main([*map(str, words[:-1]), str(folder / "t.txt")]) == 2
