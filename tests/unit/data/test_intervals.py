"""Actions within videos: what a training clip is labelled with, against a plain search over every
moment; and what is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidgraph.data.clips import ClipDataset
from vidgraph.data.intervals import load_intervals
from vidgraph.data.table import VideoTable, load_table
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
        write_video(
            folder / f"{name}.mp4",
            rng.integers(0, 255, (40, 40, 56, 3), dtype=np.uint8),
            10,
            lossless=True,
        )
    rows = "one.mp4,a|b|c,train\ntwo.mp4,,train\none.mp4,a|b|c,test\ntwo.mp4,d,test\n"
    (folder / "table.csv").write_text(f"video,label,split\n{rows}")
    lines = "".join(f"one.mp4,{label},{start},{end}\n" for label, start, end in ACTIONS)
    (folder / "actions.csv").write_text(HEADER + lines)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> VideoTable:
    return load_table(folder / "table.csv")


def plainly(shown: np.ndarray) -> list[float]:
    """Every class that lasts at any thousandth of a second from the first frame to the last."""
    moments = np.round(np.arange(round(1000 * shown[0]), round(1000 * shown[-1]) + 1) / 1000, 3)
    return [
        float(
            any(
                k == label and ((start <= moments) & (moments < end)).any()
                for label, start, end in ACTIONS
            )
        )
        for k in CLASSES
    ]


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
    assert found == {
        (0, 1, 0, 0),
        (1, 1, 0, 0),
        (1, 0, 0, 0),
        (1, 0, 1, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 0),
    }
    assert dataset[1].label.tolist() == [[0, 0, 0, 0]]  # a video without actions


def test_without_intervals_and_in_tests_labels_are_those_of_the_video(
    folder: Path, table: VideoTable
) -> None:
    assert ClipDataset(table, "train", SPEC, train=True)[0].label.tolist() == [[1, 1, 1, 0]]
    intervals = load_intervals(folder / "actions.csv", table)
    test = ClipDataset(
        table, "test", SPEC, train=False, intervals=intervals, views=ViewPlan(num_views=3)
    )
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
    rows = "".join(
        f"{folder}/one.mp4,step left|step right|wait,{split}\n" for split in ("train", "test")
    )
    (tmp_path / "table.csv").write_text(f"video,label,split\n{rows}")
    (tmp_path / "actions.csv").write_text(f"{HEADER}{folder}/one.mp4,step left,0,9\n")
    table = load_table(tmp_path / "table.csv")
    dataset = ClipDataset(
        table,
        "train",
        SPEC,
        train=True,
        crops=CropDraws(SPEC, train=True, flip=True),
        intervals=load_intervals(tmp_path / "actions.csv", table),
    )
    labels = []
    for epoch in range(20):
        dataset.set_epoch(epoch)
        labels.append(tuple(dataset[0].label[0].tolist()))
    assert set(labels) == {(1, 0, 0), (0, 1, 0)}


def test_an_action_beyond_the_video_is_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "table.csv").write_text(f"video,label,split\n{folder}/one.mp4,a|b,train\n")
    table = load_table(tmp_path / "table.csv")
    (tmp_path / "actions.csv").write_text(
        f"{HEADER}{folder}/one.mp4,a,0,1\n{folder}/one.mp4,b,4.0,4.5\n"
    )
    dataset = ClipDataset(
        table, "train", SPEC, train=True, intervals=load_intervals(tmp_path / "actions.csv", table)
    )
    message = (
        f"{folder}/one.mp4: the action from 4 s to 4.5 s (actions.csv, line 3) lies outside the "
        "video, whose last frame is shown at 3.9 s "
        "(table.csv, line 2)"
    )
    with pytest.raises(VideoError) as caught:
        dataset[0]
    assert str(caught.value) == message
    # while the last frame is still shown
    (tmp_path / "actions.csv").write_text(f"{HEADER}{folder}/one.mp4,b,3.95,4.5\n")
    intervals = load_intervals(tmp_path / "actions.csv", table)
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
    (folder / "below" / "actions.csv").write_text(
        f"{HEADER}../one.mp4,d,0,9\n{folder}/two.mp4,a,1,2\n"
    )
    intervals = load_intervals(folder / "below" / "actions.csv", table)
    times = np.arange(40) / 10
    assert torch.equal(
        intervals.seen(str(folder / "one.mp4"), times, np.array([0, 1])),
        torch.tensor([[0.0, 0, 0, 1]]),
    )
    assert torch.equal(
        intervals.seen(str(folder / "two.mp4"), times, np.array([9, 11])),
        torch.tensor([[1.0, 0, 0, 0]]),
    )
