"""Actions within videos: what a training clip is labelled with, against a plain search over every
moment; and what is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tables import write_table

from vidgraph.data.clips import ClipDataset
from vidgraph.data.intervals import load_intervals
from vidgraph.data.table import VideoTable
from vidgraph.errors import TableError, VideoError
from vidgraph.records import InputSpec
from vidgraph.video.crops import CropDraws
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video

# 0.7 s of a video at 10 frames per second
SPEC = InputSpec(num_frames=4, height=32, width=32, stride_frames=2)
# Of a video of 4 s. Two actions of class b overlap; c lies between two frames; a lasts past the
# end.
ACTIONS = [("a", 3.1, 6.0), ("b", 0.0, 0.55), ("b", 0.3, 1.0), ("c", 2.02, 2.05), ("a", 1.5, 1.7)]
CLASSES = "abcd"
HEADER = "video,label,start_seconds,end_seconds\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intervals")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        noise = rng.integers(0, 255, (40, 40, 56, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", noise, 10, lossless=True)
    lines = "".join(f"one.mp4,{label},{start},{end}\n" for label, start, end in ACTIONS)
    (folder / "actions.csv").write_text(HEADER + lines)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> VideoTable:
    rows = ["one.mp4,a|b|c,train", "two.mp4,,train", "one.mp4,a|b|c,test", "two.mp4,d,test"]
    return write_table(folder, *rows, name="table.csv")


def plainly(shown: np.ndarray) -> list[float]:
    """Every class that lasts at any thousandth of a second from the first frame to the last."""
    moments = np.round(np.arange(round(1000 * shown[0]), round(1000 * shown[-1]) + 1) / 1000, 3)
    lasts = {k for k, start, end in ACTIONS if ((start <= moments) & (moments < end)).any()}
    return [float(k in lasts) for k in CLASSES]


def test_a_training_clip_has_the_labels_of_what_it_shows(folder: Path, table: VideoTable) -> None:
    intervals = load_intervals(folder / "actions.csv", table)
    dataset = ClipDataset(table, "train", SPEC, train=True, intervals=intervals)
    found = set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        clip = dataset[0]
        expected = plainly(clip.frame_indices[0].numpy() / 10)
        assert clip.label.tolist() == [expected]
        found.add(tuple(expected))
    shown = ["0100", "1100", "1000", "1010", "0010", "0000"]
    assert found == {tuple(map(int, labels)) for labels in shown}
    assert dataset[1].label.tolist() == [[0, 0, 0, 0]]  # a video without actions


def test_without_intervals_and_in_tests_labels_are_those_of_the_video(
    folder: Path, table: VideoTable
) -> None:
    assert ClipDataset(table, "train", SPEC, train=True)[0].label.tolist() == [[1, 1, 1, 0]]
    intervals = load_intervals(folder / "actions.csv", table)
    how = {"train": False, "intervals": intervals, "views": ViewPlan(num_views=3)}
    test = ClipDataset(table, "test", SPEC, **how)
    assert [test[i].label.tolist() for i in range(6)] == [[[1, 1, 1, 0]]] * 3 + [[[0, 0, 0, 1]]] * 3


def test_a_clip_that_loops_shows_its_two_ends_only(folder: Path, table: VideoTable) -> None:
    intervals = load_intervals(folder / "actions.csv", table)
    times, video = np.arange(40) / 10, str(folder / "one.mp4")
    for frames, expected in (
        ([36, 38, 0, 2], [1, 1, 0, 0]),  # not c, between its ends
        ([2, 10, 20, 38], [1, 1, 1, 0]),
        ([39, 39, 39, 39], [1, 0, 0, 0]),  # the last frame, repeated
        ([10, 12], [0, 0, 0, 0]),  # b ends at 1.0: that moment is not of it
        ([13, 15], [1, 0, 0, 0]),  # a begins at 1.5: that moment is
    ):
        assert intervals.seen(video, times, np.array(frames)).tolist() == [expected]


def test_a_mirrored_clip_has_the_mirrored_labels_of_what_it_shows(
    tmp_path: Path, folder: Path
) -> None:
    table = write_table(tmp_path, f"{folder}/one.mp4,step left|step right|wait,train")
    (tmp_path / "actions.csv").write_text(f"{HEADER}{folder}/one.mp4,step left,0,9\n")
    intervals = load_intervals(tmp_path / "actions.csv", table)
    flip = CropDraws(SPEC, train=True, flip=True)
    dataset = ClipDataset(table, "train", SPEC, train=True, crops=flip, intervals=intervals)
    labels = []
    for epoch in range(20):
        dataset.set_epoch(epoch)
        labels.append(tuple(dataset[0].label[0].tolist()))
    assert set(labels) == {(1, 0, 0), (0, 1, 0)}


def test_an_action_beyond_the_video_is_named(tmp_path: Path, folder: Path) -> None:
    video, actions = folder / "one.mp4", tmp_path / "actions.csv"
    table = write_table(tmp_path, f"{video},a|b,train")
    actions.write_text(f"{HEADER}{video},a,0,1\n{video},b,4.0,4.5\n")
    intervals = load_intervals(actions, table)
    dataset = ClipDataset(table, "train", SPEC, train=True, intervals=intervals)
    message = (
        f"{video}: the action from 4 s to 4.5 s (actions.csv, line 3) lies outside the video, "
        "whose last frame is shown at 3.9 s (t.csv, line 2)"
    )
    with pytest.raises(VideoError) as caught:
        dataset[0]
    assert str(caught.value) == message
    # while the last frame is still shown
    actions.write_text(f"{HEADER}{video},b,3.95,4.5\n")
    intervals = load_intervals(actions, table)
    assert ClipDataset(table, "train", SPEC, train=True, intervals=intervals)[0].label.sum() == 0


ONE = f"{HEADER}one.mp4,"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{ONE}e,0,1\n", "actions.csv, line 2: label 'e' is not among the 4 classes of table.csv"),
        (f"{ONE}a,0,1\nonne.mp4,a,0,1\n", "line 3: video 'onne.mp4' is not in table.csv"),
        (f"{ONE}a,2,1\n", "line 2: the span '2 s to 1 s' holds nothing"),
        (f"{ONE}a,,1\n", "line 2: start_seconds is empty; an action needs both its times"),
        (f"{ONE}a,0,x\n", "line 2: end_seconds is 'x', which is not a number from 0 on"),
        ("video,label,start,end_seconds\n", "no column 'start_seconds'; did you mean 'start'?"),
        (None, "there is no such file"),
    ],
)
def test_broken_tables_of_actions(
    folder: Path, table: VideoTable, text: str | None, message: str
) -> None:
    path = folder / "broken" / "actions.csv"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text.replace("one.mp4", "../one.mp4"))
    with pytest.raises(TableError) as caught:
        load_intervals(path, table)
    assert message in str(caught.value).replace("../", "")


def test_videos_may_be_named_from_another_folder(
    folder: Path, table: VideoTable, tmp_path: Path
) -> None:
    (folder / "below").mkdir(exist_ok=True)
    actions = folder / "below" / "actions.csv"
    actions.write_text(f"{HEADER}../one.mp4,d,0,9\n{folder}/two.mp4,a,1,2\n")
    intervals, times = load_intervals(actions, table), np.arange(40) / 10
    for name, frames, expected in (("one", [0, 1], [0, 0, 0, 1]), ("two", [9, 11], [1, 0, 0, 0])):
        seen = intervals.seen(str(folder / f"{name}.mp4"), times, np.array(frames))
        assert seen.tolist() == [expected]
