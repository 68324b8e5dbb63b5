"""Boxes of one's own, from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidgraph.data.box_files import csv_tasks
from vidgraph.data.digits import load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import SyncMnistStream, digit_boxes
from vidgraph.data.syncmnist_files import make_dataset
from vidgraph.errors import VidgraphError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_given import GivenBoxesJob
from vidgraph.precompute.extract import extract

HEADER = "video,frame,x0,y0,x1,y1"


def test_rows_become_videos_with_their_boxes(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(
        "label,video,frame,x0,y0,x1,y1,score\na,w/1.mp4,4,1,2,3,4,0.5\n\nb,2.mp4,0,0,0,9.5,8,1\na"
        ",w/1.mp4,0,5,6,7,8,0.25\n"
    )
    first, second = csv_tasks(path, tmp_path / "videos")
    assert (first.video, first.name) == (tmp_path / "videos" / "w" / "1.mp4", "w/1.mp4")
    given = first.given
    assert (given.frames.tolist(), given.frame_of.tolist(), given.scores.tolist()) == (
        [0, 4],
        [0, 4],
        [0.25, 0.5],
    )
    assert given.boxes_xyxy.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert (given.file, given.lines.tolist()) == (f"{path}, line", [5, 2])  # as an editor counts
    assert (second.name, second.given.boxes_xyxy.tolist()) == ("2.mp4", [[0, 0, 9.5, 8]])
    path.write_text(f"{HEADER}\n{tmp_path}/x.mp4,0,1,1,2,2\n../y.mp4,0,1,1,2,2\n")
    absolute, outside = csv_tasks(path, tmp_path / "videos")
    assert (absolute.video, absolute.name, absolute.given.scores.tolist()) == (
        tmp_path / "x.mp4",
        f"{tmp_path}/x.mp4"[1:],
        [1.0],
    )
    assert outside.name == f"{tmp_path}/y.mp4"[1:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,frame,x0,y0,x1,y_1\na,0,1,1,2,2\n", ": no column 'y1'; did you mean 'y_1'?"),
        (HEADER + "\n", ": has a header but no boxes"),
        (HEADER + "\na,0,1,1,2,2\na,1,nan,1,2,2\n", "line 3: x0 is 'nan', which is not a number"),
        (HEADER + "\n\n\na,0,5,1,2,2\n", "line 4: the box is reversed: x0 is 5, more than x1"),
        (HEADER + "\na,0.5,1,1,2,2\n", "line 2: frame is '0.5'; frames are whole numbers from 0"),
        (HEADER + "\n,0,1,1,2,2\n", "line 2: the video is empty"),
        (HEADER + ",score\na,0,1,1,2,2,inf\n", "line 2: score is 'inf', which is not a number"),
        (None, ": there is no such file"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "boxes.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(VidgraphError) as error:
        list(csv_tasks(path, tmp_path))
    assert str(error.value).startswith(f"{path}")
    assert message in str(error.value)


def test_the_boxes_of_digit_videos_are_such_a_file(tmp_path: Path) -> None:
    """`data make syncmnist` writes files and boxes; the store gives each digit's track back to half
    a hundredth of a pixel."""
    options, folder = SyncMnistOptions(3, "embedded", shuffle_layers=True), tmp_path / "digits"
    make_dataset(folder, options, {"train": 2}, seed=5)
    report = extract(
        GivenBoxesJob("csv", "ab"),
        list(csv_tasks(folder / "boxes.csv", folder)),
        tmp_path / "store",
    )
    assert (report.done, report.counts["boxes"]) == (2, 2 * 10 * 3)
    stream = SyncMnistStream(load_digits("embedded", "train"), options, 2, 15)
    images, path, _ = stream.plan(np.arange(2))
    for clip in range(2):
        found = (
            BoxStore(tmp_path / "store")
            .boxes(folder / "train" / f"{clip:06d}.mp4")
            .at(range(10), 3)
        )
        order = np.argsort(stream.digits.labels[images[clip]])
        np.testing.assert_allclose(
            64 * found.boxes_xyxy, 64 * digit_boxes(path[clip])[:, order], atol=0.0051
        )
        assert found.mask.all()
