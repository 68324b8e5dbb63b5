"""HMDB51: the official split files to a table with a column per split, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vidgraph.cli import main
from vidgraph.data.hmdb51 import make_table
from vidgraph.data.label_files import share_of
from vidgraph.data.table import load_table
from vidgraph.errors import DataError, VidgraphError

WAVE = [
    "21_wave_u_nm_np1_fr_goo_5",
    "50_FIRST_DATES_wave_f_cm_np1_fr_med_0",
    "(Rad)Schlag,_die!_wave_f_cm_np1_le_med_0",
]
SHAKE = ["21_shake_hands_u_nm_np1_fr_goo_1"]
FILES = {
    "wave_test_split1.txt": f"{WAVE[0]}.avi 1 \n{WAVE[1]}.avi 2 \n{WAVE[2]}.avi 0 \n",
    "wave_test_split2.txt": f"{WAVE[0]}.avi 2 \n{WAVE[1]}.avi 1 \n{WAVE[2]}.avi 1 \n",
    "shake_hands_test_split1.txt": f"{SHAKE[0]}.avi 1\n",
    "shake_hands_test_split2.txt": f"{SHAKE[0]}.avi 0\n",
    "class_list.txt": "shake_hands\nwave\n",
}


def hmdb51(folder: Path, **changed: str) -> Path:
    (folder / "labels").mkdir(parents=True)
    for name, text in (FILES | {f"{key}.txt": text for key, text in changed.items()}).items():
        (folder / "labels" / name).write_text(text)
    for label, names in (("wave", WAVE), ("shake_hands", SHAKE)):
        (folder / "videos" / label).mkdir(parents=True)
        for name in names:
            (folder / "videos" / label / f"{name}.avi").touch()
    return folder


def rows(folder: Path, **options: float) -> list[list[str]]:
    made = make_table(folder / "labels", folder / "videos", folder / "t.csv", **options)
    return list(csv.reader(made.path.open(encoding="utf-8")))


def test_official_files_become_one_table(tmp_path: Path) -> None:
    folder = hmdb51(tmp_path)
    assert rows(folder) == [
        ["video", "label", "split01", "split02"],
        [f"videos/shake_hands/{SHAKE[0]}.avi", "shake_hands", "train", "unused"],
        [f"videos/wave/{WAVE[2]}.avi", "wave", "unused", "train"],
        [f"videos/wave/{WAVE[0]}.avi", "wave", "train", "test"],
        [f"videos/wave/{WAVE[1]}.avi", "wave", "test", "train"],
    ]
    assert load_table(folder / "t.csv", {"split": "split02"}).rows("train")["name"].tolist() == [
        f"videos/wave/{name}.avi" for name in (WAVE[2], WAVE[1])
    ]


def test_whole_films_are_held_out(tmp_path: Path) -> None:
    """`21` shows two classes; both go or stay together. Test clips stay where they are."""
    share = share_of("21") + 1e-9
    splits = {row[0]: row[2:] for row in rows(hmdb51(tmp_path), hold_out=share)[1:]}
    assert splits[f"videos/wave/{WAVE[0]}.avi"] == ["val", "test"]
    assert splits[f"videos/shake_hands/{SHAKE[0]}.avi"] == ["val", "unused"]
    expected = "val" if share_of("50_FIRST_DATES") < share else "train"
    assert splits[f"videos/wave/{WAVE[1]}.avi"] == ["test", expected]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"wave_test_split1": f"{WAVE[0]} 1\n"},
            r"wave_test_split1\.txt, line 1: .* is not of the form NAME\.avi 1, with 0, 1 or 2$",
        ),
        ({"wave_test_split1": f"{WAVE[0]}.avi 3\n"}, r"line 1: .* is not of the form"),
        (
            {"wave_test_split2": f"{WAVE[0]}.avi 1\n" * 2},
            r"wave_test_split2\.txt, line 2: video 21_wave.* is listed a second time$",
        ),
        (
            {"wave_test_split3": ""},
            r"labels: lacks shake_hands_test_split3\.txt, and other classes have that split$",
        ),
    ],
)
def test_faulty_files_are_one_line(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    with pytest.raises(VidgraphError, match=message):
        rows(hmdb51(tmp_path, **changed))


def test_faulty_folders_and_shares_are_one_line(tmp_path: Path) -> None:
    folder = hmdb51(tmp_path)
    with pytest.raises(DataError, match=r"videos: holds no file such as wave_test_split1\.txt"):
        make_table(folder / "videos", folder / "videos", folder / "t.csv")
    with pytest.raises(
        DataError, match=r"labels: holds none of the 4 videos; expected shake_hands/21_shake_hands"
    ):
        make_table(folder / "labels", folder / "labels", folder / "t.csv")
    with pytest.raises(DataError, match="hold-out must be a share"):
        rows(folder, hold_out=1.0)


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    """51 classes, 70 training and 30 test clips of each in every split."""
    labels = shared_data / "data" / "splits" / "hmdb51_splits"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / f"{WAVE[0]}.mp4").touch()
    made = make_table(labels, tmp_path / "videos", tmp_path / "t.csv")
    assert (made.num_videos, made.num_classes, made.absent) == (6766, 51, 6765)
    assert list(made.num_rows.values()) == [{"train": 3570, "test": 1530, "unused": 1666}] * 3
    table = load_table(tmp_path / "t.csv", {"split": "split03"})
    assert set(table.rows("train")["label"].value_counts()) == {70}
    assert set(table.rows("test")["label"].value_counts()) == {30}


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hmdb51(tmp_path)
    words = [
        "data",
        "make",
        "hmdb51",
        "--labels",
        folder / "labels",
        "--videos",
        folder / "videos",
        "--out",
        folder / "t.csv",
    ]
    assert main([*map(str, words), "--hold-out", "0.1"]) == 0
    assert "HMDB51, 4 videos, 2 classes" in capsys.readouterr().out
    assert main([*map(str, words), "--hold-out", "2"]) == 2
