"""Kinetics: the official lists to a table, clips in every usual layout, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vidgraph.cli import main
from vidgraph.data.kinetics import make_table
from vidgraph.data.label_files import share_of
from vidgraph.errors import DataError, VidgraphError

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
LISTS = {
    "train.csv": HEADER + 'abseiling,-3B32lodo2M,59,69,train,0\n"air '
    'drumming",0gR5FP7HpZ4,10,20,train,0\nabseiling,gone,0,10,train,0\n',
    "validate.csv": HEADER.replace(",is_cc", "") + "air drumming,xyz_-12,7.0,17.0,validate\n",
    "test.csv": "youtube_id,time_start,time_end,split\nnolabel,1,11,test\n",
}
CLIPS = {
    "-3B32lodo2M_000059_000069": "abseiling",
    "0gR5FP7HpZ4_000010_000020": "air drumming",
    "xyz_-12_000007_000017": "air drumming",
}


def kinetics(folder: Path, layout: str = "class", suffix: str = ".mp4", **changed: str) -> Path:
    (folder / "labels").mkdir(parents=True)
    for name, text in (
        LISTS | {key.replace("_", "."): text for key, text in changed.items()}
    ).items():
        (folder / "labels" / name).write_text(text)
    for name, label in CLIPS.items():
        split = "val" if name.startswith("xyz") else "train"
        below = {
            "class": label,
            "flat": "",
            "split": split,
            "both": f"{split}/{label.replace(' ', '_')}",
        }[layout]
        (folder / "videos" / below).mkdir(parents=True, exist_ok=True)
        (folder / "videos" / below / f"{name}{suffix}").touch()
    return folder


def rows(folder: Path, **options: object) -> list[list[str]]:
    made = make_table(folder / "labels", folder / "videos", folder / "t.csv", **options)
    return list(csv.reader(made.path.open(encoding="utf-8")))


def test_official_lists_become_a_table(tmp_path: Path) -> None:
    """A test list without labels is no part of it; absent clips are named where their class and
    split lie.
    """
    folder = kinetics(tmp_path)
    assert rows(folder) == [
        ["video", "label", "split"],
        ["videos/abseiling/-3B32lodo2M_000059_000069.mp4", "abseiling", "train"],
        ["videos/air drumming/0gR5FP7HpZ4_000010_000020.mp4", "air drumming", "train"],
        ["videos/abseiling/gone_000000_000010.mp4", "abseiling", "train"],
        ["videos/air drumming/xyz_-12_000007_000017.mp4", "air drumming", "val"],
    ]
    assert len(rows(folder, present_only=True)) == 4
    made = make_table(folder / "labels", folder / "videos", folder / "t.csv")
    assert made.lines()[1:] == [
        "  split: train 3, val 1",
        f"note: {folder / 'videos'} lacks 1 of the listed videos",
    ]


@pytest.mark.parametrize(
    ("layout", "suffix"), [("flat", ".mp4"), ("split", ".mkv"), ("both", ".mp4")]
)
def test_clips_are_found_in_every_layout(tmp_path: Path, layout: str, suffix: str) -> None:
    folder = kinetics(tmp_path, layout, suffix)
    found = rows(folder, present_only=True)[1:]
    assert len(found) == 3
    assert all((folder / row[0]).is_file() for row in found)


def test_hold_out_follows_the_web_video(tmp_path: Path) -> None:
    share = share_of("0gR5FP7HpZ4") + 1e-9
    splits = {Path(row[0]).stem: row[2] for row in rows(kinetics(tmp_path), hold_out=share)[1:]}
    assert splits["0gR5FP7HpZ4_000010_000020"] == "held"
    assert splits["xyz_-12_000007_000017"] == "val"
    assert splits["-3B32lodo2M_000059_000069"] == (
        "held" if share_of("-3B32lodo2M") < share else "train"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"train_csv": "label,youtube,time_start,time_end\n"},
            r"train\.csv, line 1: no column 'youtube_id'; did you mean 'youtube'\?$",
        ),
        (
            {"train_csv": HEADER + "abseiling,a,x,10,train,0\n"},
            r"train\.csv, line 2: 'x' is not a number of seconds$",
        ),
        ({"train_csv": HEADER + ",a,0,10,train,0\n"}, r"train\.csv, line 2: the label is empty$"),
        (
            {"train_csv": HEADER + "abseiling,a,0,10,train,0\n" * 2},
            r"line 3: clip a_000000_000010 is listed a second time, after .*line 2$",
        ),
        (
            {"train_csv": HEADER + '"abseiling,a,0,10\n'},
            r"train\.csv, line \d: .*; was it downloaded whole\?$",
        ),
        ({"kinetics-400_train_csv": HEADER}, r"holds several lists of train"),
    ],
)
def test_faulty_lists_are_one_line(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    changed = {
        key.replace("kinetics-400_train", "kinetics-400-train"): text
        for key, text in changed.items()
    }
    with pytest.raises(VidgraphError, match=message):
        rows(kinetics(tmp_path, **changed))


def test_faulty_folders_are_one_line(tmp_path: Path) -> None:
    folder = kinetics(tmp_path)
    with pytest.raises(
        DataError,
        match=r"labels: holds none of the 4 clips; expected -3B32lodo2M_000059_000069\.mp4",
    ):
        make_table(folder / "labels", folder / "labels", folder / "t.csv")
    with pytest.raises(DataError, match=r"videos: holds no train\.csv with labels"):
        make_table(folder / "videos", folder / "videos", folder / "t.csv")
    for labels, videos in (("none", "videos"), ("labels", "none")):
        with pytest.raises(DataError, match=r"none: there is no such folder"):
            make_table(folder / labels, folder / videos, folder / "t.csv")


def test_classes_are_held_against_a_real_list(shared_data: Path, tmp_path: Path) -> None:
    folder, classes = (
        kinetics(tmp_path),
        shared_data / "data" / "splits" / "kinetics" / "mmaction2_label_map_k400.txt",
    )
    assert len(rows(folder, classes=classes)) == 5
    (folder / "labels" / "train.csv").write_text(HEADER + "abseilin,a,0,10,train,0\n")
    with pytest.raises(
        VidgraphError,
        match=r"line 2: class 'abseilin' is not among the 400 given; did you mean 'abseiling'\?$",
    ):
        rows(folder, classes=classes)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kinetics(tmp_path)
    words = [
        "data",
        "make",
        "kinetics",
        "--labels",
        folder / "labels",
        "--videos",
        folder / "videos",
        "--out",
        folder / "t.csv",
    ]
    assert main([*map(str, words), "--present"]) == 0
    assert "Kinetics, 3 videos, 2 classes" in capsys.readouterr().out
    assert main([*map(str, words), "--classes", str(folder / "none.txt")]) == 2
