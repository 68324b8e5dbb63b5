"""The check on real files: small videos written here, broken ones made from them, and the real
sets.
"""

from __future__ import annotations

import os
import shutil
import signal
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tables import SPANS, write_table

from vidgraph.data.check import check_table, read_skip_list
from vidgraph.data.table import load_table, parse_columns
from vidgraph.errors import DataError
from vidgraph.records import InputSpec
from vidgraph.video.writer import write_video


def moving_square(path: Path, num_frames: int, seed: int = 0, fps: float = 10) -> Path:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (1, 48, 64, 3), dtype=np.uint8).repeat(num_frames, axis=0)
    for t in range(num_frames):
        frames[t, 8:24, t % 48 : t % 48 + 16] = (250, 200, 40 + seed)
    write_video(path, frames, fps)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a (20 frames) and b (12), whole; and files that cannot be used, each for its reason."""
    folder = tmp_path_factory.mktemp("videos")
    a = moving_square(folder / "a.mp4", 20)
    moving_square(folder / "b.mp4", 12, seed=1)
    moving_square(folder / "one_frame.mp4", 1, seed=2)
    shutil.copy(a, folder / "copy_of_a.mp4")
    (folder / "empty.mp4").touch()
    (folder / "empty2.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "half.mp4").write_bytes(a.read_bytes()[: a.stat().st_size // 2])
    return folder


def test_a_good_table_has_no_faults(videos: Path) -> None:
    report = check_table(write_table(videos, "a.mp4,walk,train", "b.mp4,walk,test"))
    assert report.is_good
    assert report.findings == ()
    assert (report.num_files, report.num_classes) == (2, 1)
    assert report.frames == (20, 12)
    assert report.fps == pytest.approx((10, 10))
    assert report.lines() == [
        f"{videos / 't.csv'}: rows 2 (train 1, test 1), files 2, classes 1",
        "12 to 20 frames per file (median 16) at 10 frames per second",
        "no faults found",
    ]


FAULTY = [
    "a.mp4,walk,train",  # line 2
    "gone.mp4,walk,train",
    "b.mp4,run,train",
    "text.mp4,walk,train",
    "empty.mp4,walk,train",
    "empty2.mp4,walk,train",
    "half.mp4,run,train",
    "one_frame.mp4,run,train",
    "copy_of_a.mp4,walk,test",  # line 10
    "b.mp4,run,train",
    "gone.mp4,walk,test",
    "b.mp4,hop,train",
]


def test_every_fault_is_found_with_its_rows(videos: Path) -> None:
    table = write_table(videos, *FAULTY)
    report = check_table(table, min_frames=2, class_names=["walk", "run", "hopp"])
    found = [(f.kind, f.file, f.rows) for f in report.findings]
    assert found == [
        ("missing", "gone.mp4", (3, 12)),
        ("unreadable", "text.mp4", (5,)),
        ("unreadable", "empty.mp4", (6,)),
        ("unreadable", "empty2.mp4", (7,)),
        ("unreadable", "half.mp4", (8,)),
        ("short", "one_frame.mp4", (9,)),
        ("two_splits", "a.mp4", (2, 10)),
        ("two_splits", "gone.mp4", (3, 12)),
        ("duplicate", "b.mp4", (4, 11, 13)),
        ("unknown_label", "b.mp4", (13,)),
        ("absent_class", "", ()),
        ("absent_class", "", ()),
    ]
    messages = [finding.message for finding in report.findings]
    assert messages[0] == "does not exist"
    assert messages[5] == "1 of the 2 frames needed"
    assert messages[6] == "same content as copy_of_a.mp4; in train (line 2) and test (line 10)"
    assert messages[9] == "label 'hop' is not among the 3 classes; did you mean 'hopp'?"
    assert messages[10:] == [
        "class 'run' has no row in test (train has 4)",
        "class 'hopp' has no row in train or test",
    ]
    lines = report.lines()
    assert "  lines 3, 12: gone.mp4: does not exist" in lines
    assert "  lines 4, 11, 13: b.mp4: the same sample again" in lines
    assert all("\n" not in line for line in lines)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    report = check_table(write_table(tmp_path, *[f"{i}.mp4,walk,train" for i in range(30)]))
    lines = report.lines(limit=3)
    assert lines[1:] == [
        "30 missing: files that do not exist",
        "  line 2: 0.mp4: does not exist",
        "  line 3: 1.mp4: does not exist",
        "  line 4: 2.mp4: does not exist",
        "  and 27 more",
    ]


def test_spans_are_counted_in_frames(videos: Path) -> None:
    """At 10 frames per second [0.5, 1.0) s holds frames 5 to 9; a file is of no use only if none of
    its rows can be sampled."""
    rows = ["a.mp4,x,train,0.5,1.0", "a.mp4,x,train,1.0,", "a.mp4,y,train,5,6"]
    rows.append("b.mp4,x,train,1.1,9")
    table = write_table(videos, *rows, header=SPANS)
    assert check_table(table).counts == {"short_span": 1}
    report = check_table(table, spec=InputSpec(num_frames=6, height=32, width=32, stride_frames=1))
    needed = "of the 6 frames needed"
    assert [(f.kind, f.file, f.rows, f.message) for f in report.findings] == [
        ("short", "b.mp4", (5,), f"1 {needed} in the span (the file has 12)"),
        ("short_span", "a.mp4", (2, 4), f"5, 0 {needed} in the span; mend or remove the row"),
    ]


def test_skip_list_holds_what_cannot_be_used(videos: Path, tmp_path: Path) -> None:
    table = write_table(videos, *FAULTY)
    report = check_table(table, min_frames=2)
    path = tmp_path / "skip.txt"
    assert report.write_skip_list(path) == 6
    lines = path.read_text().splitlines()
    assert lines[0] == "# 6 of 9 files of t.csv that cannot be used"
    assert lines[1] == "gone.mp4  # missing (lines 3, 12): does not exist"
    skip = read_skip_list(path)
    assert skip == {"gone.mp4", "text.mp4", "empty.mp4", "empty2.mp4", "half.mp4", "one_frame.mp4"}
    assert table.fingerprint(skip)["skipped"] == 6
    assert check_table(write_table(videos, "a.mp4,walk,train")).write_skip_list(path) == 0
    assert read_skip_list(path) == set()


def test_skip_list_with_difficult_names_and_by_hand(tmp_path: Path) -> None:
    names = ["#1.mp4", "take # 2.mp4", "ünï cöde.mp4"]
    table = write_table(tmp_path, *[f'"{name}",walk,train' for name in names])
    check_table(table).write_skip_list(tmp_path / "skip.txt")
    skip = read_skip_list(tmp_path / "skip.txt")
    assert skip == set(names)
    assert table.fingerprint(skip)["skipped"] == 3
    (tmp_path / "hand.txt").write_text("# mine\n\nsub/../x.mp4 # blurred\n  y z.mp4\n")
    assert read_skip_list(tmp_path / "hand.txt") == {"x.mp4", "y z.mp4"}
    with pytest.raises(DataError, match=r"none\.txt: the skip list cannot be read \(No such file"):
        read_skip_list(tmp_path / "none.txt")


def test_damage_in_the_middle_needs_a_full_check(tmp_path: Path) -> None:
    """Bytes overwritten between the frames that the quick check decodes are found by decoding
    everything."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.mp4"
    write_video(path, rng.integers(0, 256, (60, 64, 64, 3), dtype=np.uint8), 10)
    content = bytearray(path.read_bytes())
    third = len(content) // 4
    content[third : third + 12_000] = rng.bytes(12_000)
    path.write_bytes(content)
    report = check_table(write_table(tmp_path, "noise.mp4,walk,train"), full=True)
    assert [f.kind for f in report.findings] == ["unreadable"]


def test_frame_folders_are_checked_and_compared(tmp_path: Path) -> None:
    for name, shade in (("f1", 10), ("f2", 10), ("f3", 99)):
        folder = tmp_path / "walk" / name
        folder.mkdir(parents=True)
        for t in range(3):
            Image.new("RGB", (32, 24), (shade, t, 0)).save(folder / f"{t:03d}.png")
    (tmp_path / "walk" / "f3" / "001.png").write_bytes(b"no image")
    report = check_table(load_table(tmp_path), full=True)
    assert next((f.kind, f.file) for f in report.findings) == ("unreadable", "walk/f3")
    assert "walk/f1" in {f.file for f in report.findings if f.kind in ("duplicate", "two_splits")}


@pytest.mark.slow
def test_processes_give_the_same_report_and_outlive_a_crash(videos: Path) -> None:
    table = write_table(videos, *FAULTY)
    alone = check_table(table, min_frames=2, workers=1)
    seen: list[tuple[int, int]] = []

    def kill_a_process(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            for child in active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    assert check_table(table, min_frames=2, workers=2, progress=kill_a_process) == alone
    assert seen == [(i, 9) for i in range(1, 10)]


@pytest.mark.slow
def test_weizmann_and_ucf101_are_good(shared_data: Path) -> None:
    folder = shared_data / "data"
    columns = parse_columns("video=path,label=class,split=person")
    report = check_table(load_table(folder / "weizmann" / "manifest.csv", columns), full=True)
    assert report.counts == {}
    assert (min(report.frames), max(report.frames)) == (36, 146)
    table = load_table(folder / "ucf101_8" / "manifest.csv", parse_columns("split=split01"))
    quick = check_table(table)
    assert quick.counts == {}
    assert (min(quick.fps), max(quick.fps)) == pytest.approx((25, 29.97), abs=0.01)
