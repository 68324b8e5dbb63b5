"""The check of what lies beside the videos: their boxes and optical flow, and the table of their
actions.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tables import write_table

from vidgraph.cli import main
from vidgraph.data.check import check_table, read_skip_list
from vidgraph.data.intervals import load_intervals
from vidgraph.data.table import VideoTable
from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_proposed import ProposalJob
from vidgraph.precompute.extract import Task, extract
from vidgraph.precompute.flow import FlowJob
from vidgraph.precompute.flow_store import FlowStore
from vidgraph.records import InputSpec
from vidgraph.video.writer import write_video

FRAMES = {"a.mp4": 20, "b.mp4": 12, "c.mp4": 8, "d.mp4": 1}
ROWS = ["a.mp4,walk|wave,train", "b.mp4,walk,train", "c.mp4,wave|walk,test", "d.mp4,wave,test"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> VideoTable:
    """Four videos at 10 frames per second, the last of a single frame, and a store of the flow of
    the other three."""
    folder, rng = tmp_path_factory.mktemp("check"), np.random.default_rng(0)
    for name, num_frames in FRAMES.items():
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        texture = np.asarray(small.resize((64, 48)))
        frames = [np.roll(texture, t, axis=1) for t in range(num_frames)]
        write_video(folder / name, np.stack(frames), fps=10)
    tasks = [Task(folder / name, name) for name in list(FRAMES)[:3]]
    extract(FlowJob("dis"), tasks, folder / "flow")
    return write_table(folder, *ROWS)


@pytest.fixture
def store(table: VideoTable, tmp_path: Path) -> Path:
    return Path(shutil.copytree(table.folder / "flow", tmp_path / "flow"))


def three(table: VideoTable) -> VideoTable:
    """Without the video of one frame."""
    return write_table(table.folder, *ROWS[:3], name="three.csv")


def record(store: Path, name: str) -> Path:
    (found,) = store.glob(f"{name}.*")
    return found


def test_a_whole_store_has_no_faults(table: VideoTable, store: Path) -> None:
    assert check_table(three(table), flow=FlowStore(store)).counts == {}
    assert check_table(three(table), flow=FlowStore(store), full=True).is_good


def test_every_fault_of_a_store_is_found(table: VideoTable, store: Path, tmp_path: Path) -> None:
    record(store, "a.mp4").unlink()
    half = record(store, "b.mp4")
    half.write_bytes(half.read_bytes()[:-20])
    report = check_table(table, flow=FlowStore(store))
    flow = [f for f in report.findings if f.kind == "flow"]
    assert [(f.file, f.rows) for f in flow] == [("a.mp4", (2,)), ("b.mp4", (3,)), ("d.mp4", (5,))]
    assert "holds no flow of" in flow[0].message
    assert "is cut short" in flow[1].message
    assert report.write_skip_list(tmp_path / "skip.txt") == 3
    assert read_skip_list(tmp_path / "skip.txt") == {"a.mp4", "b.mp4", "d.mp4"}


def test_a_store_of_other_videos_is_found(table: VideoTable, store: Path, tmp_path: Path) -> None:
    """The same names, other pixels."""
    rng = np.random.default_rng(9)
    for name, num_frames in list(FRAMES.items())[:3]:
        noise = rng.integers(0, 255, (num_frames, 48, 64, 3), dtype=np.uint8)
        write_video(tmp_path / name, noise, fps=10)
    report = check_table(write_table(tmp_path, *ROWS), flow=FlowStore(store))
    found = [f for f in report.findings if f.kind == "flow"]
    assert [f.file for f in found] == ["a.mp4", "b.mp4", "c.mp4"]
    assert all("another video" in f.message for f in found)


def test_damage_between_the_flow_frames_looked_at_needs_a_full_check(
    table: VideoTable, store: Path
) -> None:
    path = record(store, "a.mp4")
    content = bytearray(path.read_bytes())
    place = len(content) // 3
    content[place : place + 60] = bytes(60)
    path.write_bytes(content)
    assert check_table(three(table), flow=FlowStore(store), full=True).counts == {"flow": 1}


def test_short_is_what_a_flow_stack_does_not_fit_into(table: VideoTable) -> None:
    """Ten flow frames lie between eleven frames."""
    spec = InputSpec(num_frames=1, height=32, width=32, whole_video=True, flow_length=10)
    found = check_table(table, spec=spec).findings
    assert [(f.kind, f.file, f.message) for f in found] == [
        ("short", "c.mp4", "8 of the 11 frames needed"),
        ("short", "d.mp4", "1 of the 11 frames needed"),
    ]


def test_a_file_with_two_faults_stands_once_in_the_skip_list(
    table: VideoTable, store: Path, tmp_path: Path
) -> None:
    report = check_table(table, flow=FlowStore(store), min_frames=2)
    assert report.counts == {"short": 1, "flow": 1}
    assert report.write_skip_list(tmp_path / "skip.txt") == 1
    assert "d.mp4  # short (line 5): 1 of the 2" in (tmp_path / "skip.txt").read_text()


def test_boxes_are_looked_at_too(table: VideoTable, tmp_path: Path) -> None:
    tasks = [Task(table.folder / name, name) for name in FRAMES]
    extract(ProposalJob("motion", count=3, every=4), tasks, tmp_path / "boxes")
    assert check_table(three(table), boxes=BoxStore(tmp_path / "boxes")).is_good
    record(tmp_path / "boxes", "a.mp4").unlink()
    record(tmp_path / "boxes", "b.mp4").rename(tmp_path / "boxes" / "c.mp4.safetensors")
    report = check_table(table, boxes=BoxStore(tmp_path / "boxes"), full=True)
    found = [(f.file, f.message) for f in report.findings if f.kind == "boxes"]
    assert [file for file, _ in found] == ["a.mp4", "b.mp4", "c.mp4"]
    assert "holds no boxes of" in found[0][1]
    assert "holds the boxes of another video" in found[2][1]
    assert report.write_skip_list(tmp_path / "skip.txt") == 3


# ---- actions -------------------------------------------------------------------------------------


def intervals_file(folder: Path, table: VideoTable, *rows: str) -> Path:
    lines = ["video,label,start_seconds,end_seconds", *(f"{table.folder}/{row}" for row in rows)]
    (folder / "actions.csv").write_text("\n".join(lines) + "\n")
    return folder / "actions.csv"


def test_actions_are_held_against_videos_and_labels(table: VideoTable, tmp_path: Path) -> None:
    """b lasts 1.2 s, c 0.8 s; what ends after its video is no fault, for it is cut there."""
    rows = ["a.mp4,walk,0,1", "a.mp4,wave,1.9,9", "b.mp4,walk,1.3,2", "b.mp4,walk,1.1,2"]
    rows += ["b.mp4,wave,0,1", "b.mp4,wave,0.5,1"]
    intervals = load_intervals(intervals_file(tmp_path, table, *rows), table)
    report = check_table(table, intervals=intervals)
    late = "actions.csv: at 1.3 s, and the video ends at 1.2 s"
    unnamed = "actions.csv: 'wave' is not among the labels of the video in t.csv"
    assert [(f.kind, f.file, f.rows, f.message) for f in report.findings] == [
        ("late_action", "b.mp4", (4,), late),
        ("action_label", "b.mp4", (6, 7), unnamed),
    ]
    note = "2 videos have labels and no action in actions.csv; their training clips are labelled "
    assert report.notes == (f"{note}with nothing",)
    assert "1 late_action: actions that begin after their video ends" in report.lines()


def test_a_late_action_is_what_training_stops_at(table: VideoTable, tmp_path: Path) -> None:
    """The check and the labelling of clips agree on where a video ends, to the frame."""
    for start, late in ((1.15, False), (1.25, True)):
        intervals = load_intervals(intervals_file(tmp_path, table, f"b.mp4,walk,{start},3"), table)
        assert ("late_action" in check_table(table, intervals=intervals).counts) is late
        video, times = str(table.folder / "b.mp4"), np.arange(12) / 10
        if late:
            with pytest.raises(DataError, match="lies outside the video"):
                intervals.seen(video, times, np.array([0]))
        else:  # the last frame is shown from 1.1 s on
            assert intervals.seen(video, times, np.array([11])).tolist() == [[0.0, 0.0]]


def test_command(
    table: VideoTable, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = str(three(table).source)
    assert main(["data", "check", csv, "--flow", str(store)]) == 0
    actions = intervals_file(tmp_path, table, "b.mp4,walk,5,6")
    assert main(["data", "check", csv, "--flow", str(store), "--intervals", str(actions)]) == 1
    late = "line 2: b.mp4: actions.csv: at 5 s, and the video ends at 1.2 s"
    assert late in capsys.readouterr().out
    assert main(["data", "check", csv, "--flow", str(store), "--flow-bound", "10"]) == 2
    actions.write_text("video,label,start_seconds,end_seconds\ngone.mp4,walk,0,1\n")
    assert main(["data", "check", csv, "--intervals", str(actions)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"vidgraph: {actions}, line 2: video 'gone.mp4' is not in")
