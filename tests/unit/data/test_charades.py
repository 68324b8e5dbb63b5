"""Charades: official annotation files to the table of videos and the table of actions, and what is
refused.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vidgraph.data.charades import make_tables
from vidgraph.data.intervals import load_intervals
from vidgraph.data.label_files import share_of
from vidgraph.data.table import load_table
from vidgraph.errors import VidgraphError

CLASSES = [
    "c000 Holding some clothes",
    "c001 Putting clothes somewhere",
    "c002 Taking a phone/camera, or a bag",
    "c010 Smiling",
]
HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
# As the official files are: quoted texts with commas and line breaks, empty actions, ends after the
# video.
TRAIN = (
    'AAAAA,S1,Kitchen,6,7,Yes,"A person, cooking.",food,"First.;Then, more.",c010 11.90 '
    "21.20;c000 0.00 12.60;c000 15.00 16.00,30.5\n"
    'BBBBB,S2,Bedroom,5,7,Yes,"Two\nlines",,,"",12.0\n'
    "CCCCC,S1,Garage,5,7,No,x,,,c001 3.00 99.90;c010 10.00 11.00;c002 4.00 4.00,9.87\n"
)
TEST = "DDDDD,S3,Kitchen,6,7,Yes,x,,,c002 1.00 2.00,5.0\n"


def charades(folder: Path, **changed: str) -> Path:
    """Annotation files of four videos, and the videos but one."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    files = {
        "classes.txt": "\n".join(CLASSES) + "\n",
        "train.csv": HEADER + TRAIN,
        "test.csv": HEADER + TEST,
    }
    for name, text in (
        files | {key.replace("_", "."): text for key, text in changed.items()}
    ).items():
        (folder / "labels" / f"Charades_v1_{name}").write_text(text, encoding="utf-8")
    (folder / "videos").mkdir(exist_ok=True)
    for video in ("AAAAA", "BBBBB", "DDDDD"):
        (folder / "videos" / f"{video}.mp4").touch()
    return folder


def make(folder: Path, **options: float) -> list[list[list[str]]]:
    """The rows of both tables."""
    made = make_tables(folder / "labels", folder / "videos", folder / "charades.csv", **options)
    return [list(csv.reader(path.open(encoding="utf-8"))) for path in (made.path, made.intervals)]


def test_official_files_become_two_tables(tmp_path: Path) -> None:
    rows, actions = make(charades(tmp_path))
    smiling, clothes, phone, putting = CLASSES[3], CLASSES[0], CLASSES[2], CLASSES[1]
    assert rows == [
        ["video", "label", "split"],
        ["videos/AAAAA.mp4", f"{clothes}|{smiling}", "train"],
        ["videos/BBBBB.mp4", "", "train"],
        # As the official evaluation counts: every action of the file, also one outside of the
        # video.
        ["videos/CCCCC.mp4", f"{putting}|{phone}|{smiling}", "train"],
        ["videos/DDDDD.mp4", phone, "test"],
    ]
    assert actions == [
        ["video", "label", "start_seconds", "end_seconds"],
        ["videos/AAAAA.mp4", smiling, "11.9", "21.2"],
        ["videos/AAAAA.mp4", clothes, "0", "12.6"],
        ["videos/AAAAA.mp4", clothes, "15", "16"],
        ["videos/CCCCC.mp4", putting, "3", "9.87"],
        ["videos/DDDDD.mp4", phone, "1", "2"],
    ]
    table = load_table(tmp_path / "charades.csv")
    assert list(table.class_names) == CLASSES  # the official order
    assert table.multi_label
    assert len(load_intervals(tmp_path / "charades_intervals.csv", table).by_video) == 3


def test_what_was_made_is_said(tmp_path: Path) -> None:
    folder = charades(tmp_path)
    made = make_tables(folder / "labels", folder / "videos", tmp_path / "charades.csv")
    assert (
        made.num_classes,
        made.num_actions,
        made.cut,
        made.left_out,
        made.absent,
        made.folders,
    ) == (4, 5, 1, 2, 1, False)
    assert made.lines() == [
        f"{tmp_path}/charades.csv: Charades, 4 videos (train 3, test 1), 4 classes",
        f"{tmp_path}/charades_intervals.csv: 5 actions; train with --data.table.intervals "
        f"{tmp_path}/charades_intervals.csv",
        "note: 1 actions end after their video and are cut there, 2 lie outside of it and are "
        "left out; a video's label names them all",
        f"note: {folder}/videos lacks 1 of them",
    ]


def test_classes_that_no_video_shows_are_said(tmp_path: Path) -> None:
    extra = [f"c{100 + k} Action {k}" for k in range(5)]
    folder = charades(tmp_path, classes_txt="\n".join([*CLASSES, *extra]))
    made = make_tables(folder / "labels", folder / "videos", tmp_path / "charades.csv")
    assert (made.num_classes, made.unused) == (4, tuple(extra))
    assert (
        "note: no video shows c100 Action 0, c101 Action 1, c102 Action 2 and 2 more; the tables "
        "do not have them" in made.lines()
    )


def test_folders_of_frames_are_found(tmp_path: Path) -> None:
    folder = charades(tmp_path)
    for video in ("AAAAA", "BBBBB", "CCCCC", "DDDDD"):
        (folder / "videos" / video).mkdir()
    made = make_tables(folder / "labels", folder / "videos", tmp_path / "charades.csv")
    assert (made.folders, made.absent) == (True, 0)
    assert (
        "note: videos are folders of frames; train with --data.table.folder_fps 24" in made.lines()
    )
    assert load_table(made.path).frame["name"][0] == "videos/AAAAA"


def test_people_are_held_out_with_all_their_videos(tmp_path: Path) -> None:
    people = [f"P{i:03}" for i in range(200)]
    lines = "".join(
        f"V{i:03}{k},{person},,,,,,,,c000 0 1,9\n" for i, person in enumerate(people) for k in "ab"
    )
    folder = charades(tmp_path, train_csv=HEADER + lines)
    rows, _ = make(folder, hold_out=0.2)
    split = {Path(name).stem: kind for name, _, kind in rows[1:]}
    held = {person for i, person in enumerate(people) if split[f"V{i:03}a"] == "val"}
    assert held == {person for person in people if share_of(person) < 0.2}
    assert 25 < len(held) < 55
    assert all(split[f"V{i:03}a"] == split[f"V{i:03}b"] for i in range(200))
    assert split["DDDDD"] == "test"


def test_older_files_without_length_and_people(tmp_path: Path) -> None:
    text = "id,actions\nAAAAA,c000 0.00 99.00;c010 1.00 2.00\n"
    rows, actions = make(charades(tmp_path, train_csv=text), hold_out=0.999999)
    assert [row[2] for row in rows[1:]] == ["val", "test"]
    assert actions[1] == ["videos/AAAAA.mp4", CLASSES[0], "0", "99"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"train_csv": HEADER + "AAAAA,S,,,,,,,,c099 1 2,5\n"},
            "train.csv, line 2: label 'c099' is not among the 4 classes of Charades_v1_cl",
        ),
        (
            {"train_csv": HEADER + "AAAAA,S,,,,,,,,c000 1,5\n"},
            "train.csv, line 2: action 'c000 1' is not of the form c092 11.90 21.20",
        ),
        (
            {"train_csv": HEADER + "AAAAA,S,,,,,,,,c000 1 x,5\n"},
            "line 2: a time of action 'c000 1 x' is 'x', which is not a number of seconds",
        ),
        (
            {"train_csv": HEADER + "AAAAA,S,,,,,,,,,long\n"},
            "line 2: length is 'long', which is not a number of seconds",
        ),
        ({"train_csv": HEADER + ",S,,,,,,,,c000 1 2,5\n"}, "line 2: the id is empty"),
        (
            {"train_csv": HEADER + TRAIN + TEST},
            "test.csv, line 2: video DDDDD is listed a second time, after ",
        ),
        (
            {"train_csv": "id,action\nAAAAA,c000 1 2\n"},
            "train.csv, line 1: no column 'actions'; did you mean 'action'?",
        ),
        (
            {"train_csv": HEADER + 'AAAAA,"S,,,,\n'},
            "unexpected end of data; was it downloaded whole?",
        ),
        (
            {"classes_txt": "c000 Holding\nHolding\n"},
            "classes.txt, line 2: 'Holding' is not of the form c008 Opening a door",
        ),
        (
            {"classes_txt": "c000 Holding\nc000 Putting\n"},
            "classes.txt, line 2: class c000 is listed twice",
        ),
        ({"classes_txt": ""}, "classes.txt: is empty"),
    ],
)
def test_files_of_another_form_are_refused(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    folder = charades(tmp_path, **changed)
    with pytest.raises(VidgraphError) as caught:
        make(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("charades*"))  # neither table


def test_places_that_are_wrong(tmp_path: Path) -> None:
    folder = charades(tmp_path / "data")
    labels, videos, out = folder / "labels", folder / "videos", tmp_path / "charades.csv"
    for words, message in (
        (
            (tmp_path, videos, out),
            "Charades_v1_classes.txt: there is no such file; give the folder of the official "
            "annotation files",
        ),
        (
            (labels, tmp_path, out),
            "holds none of the 4 videos; expected AAAAA.mp4 or the folder AAAAA",
        ),
        ((labels, tmp_path / "absent", out), "cannot be read (No such file or directory)"),
        ((labels, videos, tmp_path / "charades.txt"), "the table is written as .csv; name it so"),
        ((labels, videos, out, 1.5), "hold-out must be a share from 0 to below 1, got 1.5"),
    ):
        with pytest.raises(VidgraphError) as caught:
            make_tables(*words)  # type: ignore[arg-type]
        assert message in str(caught.value)
