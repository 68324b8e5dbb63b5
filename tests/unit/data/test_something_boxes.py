"""Something-Else's annotations: frames matched by name, real boxes, files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidgraph.data.box_files import something_else_tasks
from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_given import GivenBoxesJob
from vidgraph.precompute.extract import extract


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
    assert report.counts["boxes"] == sum(
        len(entry["labels"]) for entries in content.values() for entry in entries
    )
    store = BoxStore(tmp_path / "store")
    for name, entries in content.items():
        stored = store.boxes(folder / "videos" / name)
        with Image.open(folder / "videos" / name / "0001.jpg") as image:
            size = np.array([*image.size, *image.size])
        assert (
            stored.header.num_frames
            == len(list((folder / "videos" / name).glob("*.jpg")))
            >= len(entries)
        )
        found = stored.at(range(stored.header.num_frames), 4)
        for frame in range(stored.header.num_frames):
            entry = next(
                (entry for entry in entries if entry["name"] == f"{name}/{frame + 1:04d}.jpg"),
                {"labels": []},
            )
            boxes = [
                [label["box2d"][key] for key in ("x1", "y1", "x2", "y2")]
                for label in entry["labels"]
            ]
            assert found.mask[frame].sum() == len(boxes)
            np.testing.assert_allclose(
                found.boxes_xyxy[frame, : len(boxes)] * size, np.reshape(boxes, (-1, 4)), atol=1e-4
            )
    assert [
        store.boxes(folder / "videos" / name).at([0, 22, 23, 32], 2).mask.any(1).tolist()
        for name in ("151201",)
    ] == [
        [True, True, False, False]  # 33 frames, 23 of them with an entry
    ]


def entry(name: str, *boxes: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "labels": [
            {"box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))} for box in boxes
        ],
    }


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
    for task in (first, second):
        assert (
            task.given.frames.tolist(),
            task.given.frame_of.tolist(),
            task.given.boxes_xyxy.tolist(),
        ) == ([1, 3], [3], [[1, 1, 5, 5]])


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
def test_bad_files_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
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
