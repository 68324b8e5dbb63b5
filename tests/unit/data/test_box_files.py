"""Boxes that others made: rows of a CSV file, and Something-Else's annotations, whose frames are
matched by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidgraph.data.digits import load_digits
from vidgraph.data.extraction import csv_tasks, something_else_tasks
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import SyncMnistStream, digit_boxes
from vidgraph.data.syncmnist_files import make_dataset
from vidgraph.errors import DataError, VidgraphError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_given import GivenBoxesJob
from vidgraph.precompute.extract import extract

HEADER = "video,frame,x0,y0,x1,y1"


def test_rows_become_videos_with_their_boxes(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    rows = "a,w/1.mp4,4,1,2,3,4,0.5\n\nb,2.mp4,0,0,0,9.5,8,1\na,w/1.mp4,0,5,6,7,8,0.25\n"
    path.write_text(f"label,{HEADER},score\n{rows}")
    first, second = csv_tasks(path, tmp_path / "videos")
    assert (first.video, first.name) == (tmp_path / "videos" / "w" / "1.mp4", "w/1.mp4")
    given = first.given
    assert given.frames.tolist() == given.frame_of.tolist() == [0, 4]
    assert given.scores.tolist() == [0.25, 0.5]
    assert given.boxes_xyxy.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert (given.file, given.lines.tolist()) == (f"{path}, line", [5, 2])  # as an editor counts
    assert (second.name, second.given.boxes_xyxy.tolist()) == ("2.mp4", [[0, 0, 9.5, 8]])
    path.write_text(f"{HEADER}\n{tmp_path}/x.mp4,0,1,1,2,2\n../y.mp4,0,1,1,2,2\n")
    absolute, outside = csv_tasks(path, tmp_path / "videos")
    assert (absolute.video, absolute.name) == (tmp_path / "x.mp4", f"{tmp_path}/x.mp4"[1:])
    assert absolute.given.scores.tolist() == [1.0]
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
    tasks = list(csv_tasks(folder / "boxes.csv", folder))
    report = extract(GivenBoxesJob("csv", "ab"), tasks, tmp_path / "store")
    assert (report.done, report.counts["boxes"]) == (2, 2 * 10 * 3)
    stream = SyncMnistStream(load_digits("embedded", "train"), options, 2, 15)
    images, path, _ = stream.plan(np.arange(2))
    for clip in range(2):
        stored = BoxStore(tmp_path / "store").boxes(folder / "train" / f"{clip:06d}.mp4")
        found, order = stored.at(range(10), 3), np.argsort(stream.digits.labels[images[clip]])
        expected = 64 * digit_boxes(path[clip])[:, order]
        np.testing.assert_allclose(64 * found.boxes_xyxy, expected, atol=0.0051)
        assert found.mask.all()


# ---- Something-Else ------------------------------------------------------------------------------


def test_the_real_annotations(shared_data: Path, tmp_path: Path) -> None:
    """Every box of the file comes back, to a ten-thousandth of a pixel; frames without an entry
    have none."""
    folder = shared_data / "data" / "something_else_samples"
    content = json.loads((folder / "annotations.json").read_text())
    tasks, absent = something_else_tasks(folder / "annotations.json", folder / "videos")
    assert (len(tasks), absent) == (13, 0)
    report = extract(GivenBoxesJob("something-else", "ab"), tasks, tmp_path / "store")
    assert (report.done, report.failures) == (13, [])
    assert report.counts["frames"] == sum(map(len, content.values())) == 555
    counts = [len(entry["labels"]) for entries in content.values() for entry in entries]
    assert report.counts["boxes"] == sum(counts)
    store, keys = BoxStore(tmp_path / "store"), ("x1", "y1", "x2", "y2")
    for name, entries in content.items():
        video = folder / "videos" / name
        stored, by_frame = store.boxes(video), {entry["name"]: entry["labels"] for entry in entries}
        with Image.open(video / "0001.jpg") as image:
            size = np.array([*image.size, *image.size])
        num_frames = stored.header.num_frames
        assert num_frames == len(list(video.glob("*.jpg"))) >= len(entries)
        found = stored.at(range(num_frames), 4)
        for frame in range(num_frames):
            labels = by_frame.get(f"{name}/{frame + 1:04d}.jpg", [])
            boxes = np.reshape([[label["box2d"][key] for key in keys] for label in labels], (-1, 4))
            assert found.mask[frame].sum() == len(boxes)
            pixels = found.boxes_xyxy[frame, : len(boxes)] * size
            np.testing.assert_allclose(pixels, boxes, atol=1e-4)
    some = store.boxes(folder / "videos" / "151201").at([0, 22, 23, 32], 2)
    assert some.mask.any(1).tolist() == [True, True, False, False]  # 23 of 33 have an entry


def entry(name: str, *boxes: list[float]) -> dict[str, Any]:
    keys = ("x1", "y1", "x2", "y2")
    return {"name": name, "labels": [{"box2d": dict(zip(keys, b, strict=True))} for b in boxes]}


def frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(folder / f"{number:04d}.jpg")


def test_frames_are_known_by_name_whatever_their_order(tmp_path: Path) -> None:
    frames(tmp_path / "7", 5)
    (tmp_path / "8.webm").write_bytes(b"its frames are numbered from 1")
    content = {
        name: [entry(f"{name}/0004.jpg", [1, 1, 5, 5]), entry(f"{name}/0002.jpg")]
        for name in ("7", "8", "9")
    }
    (tmp_path / "part1.json").write_text(json.dumps(content))
    (first, second), absent = something_else_tasks(tmp_path / "part1.json", tmp_path)
    assert (first.name, second.name, absent) == ("7", "8.webm", 1)
    for given in (first.given, second.given):
        assert (given.frames.tolist(), given.frame_of.tolist()) == ([1, 3], [3])
        assert given.boxes_xyxy.tolist() == [[1, 1, 5, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"7": [{"name": "7/0001', ": holds no frames by video (Unterminated string"),
        (
            {"7": [entry("7/0009.jpg", [1, 1, 5, 5])]},
            "video 7, entry 1: cannot be read, or names a frame that is not there ('0009')",
        ),
        ({"7": [entry("7/0001.jpg"), entry("7/0001.jpg")]}, "video 7: a frame has two entries"),
        (
            {"7": [entry("7/0001.jpg"), entry("7/0002.jpg", [9, 1, 5, 5])]},
            "video 7, entry 2: a box is reversed or not a number",
        ),
    ],
)
def test_bad_annotations_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    frames(tmp_path / "7", 3)
    path = tmp_path / "part1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError) as error:
        something_else_tasks(path, tmp_path)
    assert str(error.value).startswith(f"{path}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"gone\.json: cannot be read"):
        something_else_tasks(tmp_path / "gone.json", tmp_path)
