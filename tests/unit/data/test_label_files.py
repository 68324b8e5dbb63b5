"""The official label files of every data set to a table: what is read, where videos are found, and
what is held out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from official_files import (
    ACTIONS,
    CHARADES_FILES,
    CLIP_HEADER,
    FILES,
    HMDB_FILES,
    KINETICS_FILES,
    MOVES,
    SHAKE,
    UCF,
    UCF_FILES,
    V1_FILES,
    V2_FILES,
    WAVE,
    place,
    rows_of,
    write,
)

from vidgraph.cli import main
from vidgraph.data.intervals import load_intervals
from vidgraph.data.label_files import make_table, share_of
from vidgraph.data.official import charades, hmdb51, kinetics, something, ucf101
from vidgraph.data.table import load_table
from vidgraph.errors import TableError


def test_ucf101_has_a_column_per_split(tmp_path: Path) -> None:
    labels, videos = write(tmp_path, UCF_FILES), place(tmp_path, *(f"{v}.avi" for v in UCF[:-1]))
    lines = make_table(ucf101.read_labels(labels), videos, tmp_path / "t.csv")
    names = [f"videos/{video}.avi" for video in UCF]
    assert rows_of(tmp_path / "t.csv") == [
        ["video", "label", "split01", "split02"],
        [names[0], "Archery", "test", "train"],
        [names[1], "Archery", "train", "test"],
        [names[2], "Archery", "val", "val"],
        [names[3], "Biking", "test", "train"],
        [names[4], "Biking", "train", "test"],
        [names[5], "Biking", "val", "val"],
    ]
    assert lines == [
        f"{tmp_path / 't.csv'}: UCF101, 6 videos, 2 classes",
        "  split01: train 2, val 2, test 2; use it with columns split=split01",
        "  split02: train 2, val 2, test 2; use it with columns split=split02",
        f"note: {videos} lacks 1 of the listed videos",
        f"look for faults: vidgraph data check {tmp_path / 't.csv'} --columns split=split01",
    ]
    whole = ucf101.read_labels(labels, whole_train=True)
    lines = make_table(whole, videos, tmp_path / "t.csv", present_only=True)
    splits = [row[2] for row in rows_of(tmp_path / "t.csv")[1:]]
    assert splits == ["test", "train", "train", "test", "train"]
    assert lines[-2] == f"note: {videos} lacks 1 of the listed videos, which are left out"


def test_hmdb51_has_unused_clips_and_holds_whole_films_out(tmp_path: Path) -> None:
    """`21` shows two classes; both go or stay together. Test clips stay where they are."""
    names = [f"shake_hands/{SHAKE}.avi", *(f"wave/{WAVE[i]}.avi" for i in (2, 0, 1))]
    labels, videos = write(tmp_path, HMDB_FILES), place(tmp_path, *names)
    make_table(hmdb51.read_labels(labels), videos, tmp_path / "t.csv")
    assert rows_of(tmp_path / "t.csv")[1:] == [
        [f"videos/{names[0]}", "shake_hands", "train", "unused"],
        [f"videos/{names[1]}", "wave", "unused", "train"],
        [f"videos/{names[2]}", "wave", "train", "test"],
        [f"videos/{names[3]}", "wave", "test", "train"],
    ]
    share = share_of("21") + 1e-9
    make_table(hmdb51.read_labels(labels), videos, tmp_path / "t.csv", hold_out=share)
    found = {row[0].removeprefix("videos/"): row[2:] for row in rows_of(tmp_path / "t.csv")}
    assert (found[names[0]], found[names[2]]) == (["val", "unused"], ["val", "test"])
    assert found[names[3]][1] == ("val" if share_of("50_FIRST_DATES") < share else "train")


def test_kinetics_names_files_by_video_and_seconds(tmp_path: Path) -> None:
    """A test list without labels is no part of it; absent clips are named where their class is."""
    labels, abseiling = write(tmp_path, KINETICS_FILES), "abseiling/-3B32lodo2M_000059_000069.mp4"
    clips = [abseiling, "air_drumming/0gR5FP7HpZ4_000010_000020.MP4"]
    videos = place(tmp_path, *clips, "air_drumming/xyz_-12_000007_000017.mkv")
    share = share_of("0gR5FP7HpZ4") + 1e-9
    make_table(kinetics.read_labels(labels), videos, tmp_path / "t.csv", hold_out=share)
    first, gone = ("held" if share_of(n) < share else "train" for n in ("-3B32lodo2M", "gone"))
    assert rows_of(tmp_path / "t.csv")[1:] == [
        [f"videos/{clips[0]}", "abseiling", first],
        [f"videos/{clips[1]}", "air drumming", "held"],
        ["videos/abseiling/gone_000000_000010.mp4", "abseiling", gone],
        ["videos/air_drumming/xyz_-12_000007_000017.mkv", "air drumming", "val"],
    ]


def test_kinetics_classes_are_held_against_a_real_list(shared_data: Path, tmp_path: Path) -> None:
    labels = write(tmp_path, KINETICS_FILES)
    classes = shared_data / "data" / "splits" / "kinetics" / "mmaction2_label_map_k400.txt"
    assert len(kinetics.read_labels(labels, classes).rows) == 4
    (labels / "train.csv").write_text(CLIP_HEADER + "abseilin,a,0,10,train,0\n")
    with pytest.raises(TableError, match=r"line 2: class 'abseilin' is not among the 400 of .*\?$"):
        kinetics.read_labels(labels, classes)


def test_both_versions_of_something(tmp_path: Path) -> None:
    """v1: folders of frames; v2: .webm files, classes from templates, test videos with answers."""
    labels, videos = write(tmp_path, V1_FILES), place(tmp_path, "100218", "24413", "7", "55")
    lines = make_table(something.read_labels(labels), videos, tmp_path / "t.csv")
    assert rows_of(tmp_path / "t.csv")[1:] == [
        ["videos/100218", MOVES[1], "train"],
        ["videos/24413", MOVES[0], "train"],
        ["videos/7", MOVES[2], "train"],
        ["videos/55", MOVES[0], "val"],
        ["videos/56", MOVES[1], "val"],
    ]
    assert lines[0].endswith("Something-Something v1, 5 videos, 3 classes")
    assert lines[-2] == "note: videos are folders of frames; give their --data.table.folder_fps"
    other = tmp_path / "v2"
    labels, videos = write(other, V2_FILES), place(other, "1.webm", "2.webm", "4.webm", "9.webm")
    lines = make_table(something.read_labels(labels), videos, tmp_path / "elsewhere" / "t.csv")
    assert rows_of(tmp_path / "elsewhere" / "t.csv")[1:] == [
        [f"{videos.resolve()}/1.webm", MOVES[0], "train"],
        [f"{videos.resolve()}/2.webm", MOVES[1], "train"],
        [f"{videos.resolve()}/4.webm", MOVES[2], "val"],
        [f"{videos.resolve()}/9.webm", MOVES[0], "test"],
    ]
    assert "v2, 4 videos" in lines[0]


def test_charades_becomes_two_tables(tmp_path: Path) -> None:
    labels = write(tmp_path, CHARADES_FILES)
    videos = place(tmp_path, "AAAAA.mp4", "BBBBB.mp4", "DDDDD.mp4")
    lines = make_table(charades.read_labels(labels), videos, tmp_path / "charades.csv")
    clothes, putting, phone, smiling = ACTIONS
    intervals = tmp_path / "charades_intervals.csv"
    assert rows_of(tmp_path / "charades.csv")[1:] == [
        ["videos/AAAAA.mp4", f"{clothes}|{smiling}", "train"],
        ["videos/BBBBB.mp4", "", "train"],
        # As the official evaluation counts: every action of the file, also one outside of it.
        ["videos/CCCCC.mp4", f"{putting}|{phone}|{smiling}", "train"],
        ["videos/DDDDD.mp4", phone, "test"],
    ]
    assert rows_of(intervals) == [
        ["video", "label", "start_seconds", "end_seconds"],
        ["videos/AAAAA.mp4", smiling, "11.9", "21.2"],
        ["videos/AAAAA.mp4", clothes, "0.0", "12.6"],
        ["videos/AAAAA.mp4", clothes, "15.0", "16.0"],
        ["videos/CCCCC.mp4", putting, "3.0", "9.87"],
        ["videos/DDDDD.mp4", phone, "1.0", "2.0"],
    ]
    table = load_table(tmp_path / "charades.csv")
    assert (list(table.class_names), table.multi_label) == (ACTIONS, True)  # the official order
    assert len(load_intervals(intervals, table).by_video) == 3
    assert lines == [
        f"{tmp_path}/charades.csv: Charades, 4 videos, 4 classes",
        "  split: train 3, test 1",
        f"note: {videos} lacks 1 of the listed videos",
        f"{intervals}: 5 actions; train with --data.table.intervals {intervals}",
        "note: 1 actions end after their video and are cut there, 2 lie outside of it and are left "
        "out; a video's label names them all",
        f"look for faults: vidgraph data check {tmp_path}/charades.csv",
    ]


def test_older_charades_files_have_no_lengths_and_no_people(tmp_path: Path) -> None:
    old = "id,actions\nAAAAA,c000 0.00 99.00;c010 1.00 2.00\n"
    labels = write(tmp_path, {**CHARADES_FILES, "Charades_v1_train.csv": old})
    found = charades.read_labels(labels)
    assert found.rows["group"].tolist() == ["AAAAA", "S3"]
    make_table(found, place(tmp_path, "AAAAA.mp4"), tmp_path / "t.csv", hold_out=0.999999)
    assert [row[2] for row in rows_of(tmp_path / "t.csv")[1:]] == ["val", "test"]
    row = ["videos/AAAAA.mp4", ACTIONS[0], "0.0", "99.0"]
    assert rows_of(tmp_path / "t_intervals.csv")[1] == row


def test_groups_are_held_out_by_a_hash_of_their_names(tmp_path: Path) -> None:
    """All videos of a person go together, more people with a larger share, and nobody else with
    other people beside them."""
    people = [f"P{i:03}" for i in range(400)]

    def held(share: float, count: int) -> set[str]:
        rows = "".join(f"V{p}{k},{p},\n" for p in people[:count] for k in "ab")
        text = f"id,subject,actions\n{rows}"
        folder = tmp_path / f"{share}{count}"
        labels = write(folder, {**CHARADES_FILES, "Charades_v1_train.csv": text})
        videos = place(folder, "VP000a.mp4")
        make_table(charades.read_labels(labels), videos, folder / "t.csv", hold_out=share)
        found = [Path(name).stem for name, _, split in rows_of(folder / "t.csv") if split == "val"]
        assert Counter(name[:-1] for name in found) == dict.fromkeys({n[:-1] for n in found}, 2)
        return {name[1:-1] for name in found}

    tenth, fifth = held(0.1, 400), held(0.2, 400)
    assert 20 < len(tenth) < 60
    assert tenth < fifth
    assert held(0.1, 200) == {name for name in tenth if name < "P200"}
    assert held(0.0, 400) == set()


@pytest.mark.parametrize("suffix", [".mp4", ".AVI", ""])
@pytest.mark.parametrize("below", ["{label}/", "", "train/{label}/"])
def test_videos_are_found_in_every_layout(tmp_path: Path, suffix: str, below: str) -> None:
    """Re-encoded, with or without folders of classes and splits, as folders of frames."""
    labels = write(tmp_path, UCF_FILES)
    places = [below.format(label=v.split("/")[0]) + v.split("/")[1] + suffix for v in UCF[:-1]]
    videos = place(tmp_path, *places)
    make_table(ucf101.read_labels(labels), videos, tmp_path / "t.csv", present_only=True)
    found = [row[0] for row in rows_of(tmp_path / "t.csv")[1:]]
    assert found == [f"videos/{name}" for name in places]


def test_real_ucf101_lists(shared_data: Path, tmp_path: Path) -> None:
    """The official counts of all three splits; validation groups are the same in each; the eight
    classes agree with their manifest."""
    labels = shared_data / "data" / "splits" / "ucf101_splits"
    videos, out = shared_data / "data" / "ucf101_8", tmp_path / "t.csv"
    lines = make_table(ucf101.read_labels(labels, whole_train=True), videos, out)
    assert [line.split(";")[0] for line in lines] == [
        f"{out}: UCF101, 13,320 videos, 101 classes",
        "  split01: train 9,537, test 3,783",
        "  split02: train 9,586, test 3,734",
        "  split03: train 9,624, test 3,696",
        f"note: {videos} lacks 12,280 of the listed videos",
        f"look for faults: vidgraph data check {out} --columns split=split01",
    ]
    lines = make_table(ucf101.read_labels(labels), videos, out)
    assert sum("val 2,107" in line for line in lines) == 3
    make_table(ucf101.read_labels(labels), videos, out, present_only=True)
    frame = load_table(out, {"split": "split01"}).frame
    assert Counter(frame["split"]) == {"train": 572, "val": 171, "test": 297}
    manifest = load_table(videos / "manifest.csv", {"split": "split01"}).frame
    names = manifest["video"].map(lambda video: Path(video).name)
    official = dict(zip(names, manifest["split"], strict=True))
    for video, split in zip(frame["video"], frame["split"], strict=True):
        assert official[Path(video).name] == split.replace("val", "train")


def test_real_hmdb51_files(shared_data: Path, tmp_path: Path) -> None:
    """51 classes, 70 training and 30 test clips of each in every split."""
    labelled = hmdb51.read_labels(shared_data / "data" / "splits" / "hmdb51_splits")
    lines = make_table(labelled, place(tmp_path, f"{WAVE[0]}.mp4"), tmp_path / "t.csv")
    assert "HMDB51, 6,766 videos, 51 classes" in lines[0]
    assert all("train 3,570, test 1,530, unused 1,666" in line for line in lines[1:4])
    table = load_table(tmp_path / "t.csv", {"split": "split03"})
    assert set(table.rows("train")["label"].value_counts()) == {70}
    assert set(table.rows("test")["label"].value_counts()) == {30}


@pytest.mark.parametrize(
    ("dataset", "video", "options"),
    [
        ("charades", "AAAAA.mp4", "--hold-out 0.1"),
        ("hmdb51", f"{WAVE[0]}.avi", "--hold-out 0.1 --present"),
        ("kinetics", "-3B32lodo2M_000059_000069.mp4", "--hold-out 0.1 --present"),
        ("something", "7", "--hold-out 0.1"),
        ("ucf101", f"{UCF[0]}.avi", "--whole-train --present"),
    ],
)
def test_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, video: str, options: str
) -> None:
    labels, videos = write(tmp_path, FILES[dataset]), place(tmp_path, video)
    words = ["data", "make", dataset, "--labels", str(labels), "--videos", str(videos)]
    assert main([*words, "--out", str(tmp_path / "t.csv"), *options.split()]) == 0
    assert f"look for faults: vidgraph data check {tmp_path / 't.csv'}" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "t.txt")]) == 2
