"""Boxes in a store: read by frame, padded and masked; every store that does not belong to the video
is refused in one line.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.precompute.container import Header, Method, source_of, write_records
from vidgraph.precompute.store import (
    BOXES,
    BoxStore,
    Store,
    box_problem,
    decode_boxes,
    encode_boxes,
)

METHOD = Method(BOXES, "by-hand", 1, {"count": 3})
FRAMES = {
    0: ([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1.0, 1.0]], [0.25, 0.75]),
    4: ([], []),
    8: ([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]], [0.5, 0.5, 0.875]),
}


def write_boxes(store: Store, video: Path, name: str, reach: int = 2) -> Path:
    records = [
        encode_boxes(np.array(boxes, np.float32), np.array(scores, np.float32))
        for boxes, scores in FRAMES.values()
    ]
    write_records(
        store.path_of(name),
        Header(METHOD, source_of(video, name), 11, 48, 64, reach, list(FRAMES)),
        records,
    )
    return store.path_of(name)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Stands for a video: a store looks at its name and bytes only."""
    path = tmp_path / "data" / "walk" / "anna.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"anna walks")
    return path


@pytest.fixture
def folder(tmp_path: Path, video: Path) -> Path:
    write_boxes(Store.claim(tmp_path / "boxes", METHOD), video, "walk/anna.mp4")
    return tmp_path / "boxes"


def test_a_record_is_sorted_and_comes_back_exactly() -> None:
    boxes = (
        np.random.default_rng(0).random((7, 2, 2)).cumsum(1).reshape(7, 4).astype(np.float32) / 2
    )
    scores = np.array([0.2, 0.9, 0.2, 0.5, 0.9, 0.1, 0.2], np.float32)
    found, found_scores = decode_boxes(encode_boxes(boxes, scores))
    order = [1, 4, 3, 0, 2, 6, 5]  # equal scores stay in order
    assert np.array_equal(found, boxes[order])
    assert np.array_equal(found_scores, scores[order])
    assert len(encode_boxes(np.zeros((0, 4)), np.zeros(0))) == 4


def test_boxes_of_frames_padded_masked_and_cut(folder: Path, video: Path) -> None:
    found = BoxStore(folder).boxes(video).at([8, 0, 4, 0], count=2)
    assert found.boxes_xyxy.dtype == np.float32
    assert found.boxes_xyxy.shape == (4, 2, 4)
    expected = np.array(
        [
            [
                [0.25, 0.25, 0.75, 0.75],
                [0, 0, 1, 1],
            ],  # the best two of three, the first of equal ones
            [[0.5, 0.5, 1, 1], [0.1, 0.2, 0.3, 0.4]],
            [[0, 0, 0, 0], [0, 0, 0, 0]],
            [[0.5, 0.5, 1, 1], [0.1, 0.2, 0.3, 0.4]],
        ],
        np.float32,
    )
    assert np.array_equal(found.boxes_xyxy, expected)
    assert found.scores.tolist() == [[0.875, 0.5], [0.75, 0.25], [0, 0], [0.75, 0.25]]
    assert found.mask.tolist() == [[True, True], [True, True], [False, False], [True, True]]
    five = BoxStore(folder).boxes(video).at(np.array([0, 8]), count=5)
    assert five.mask.tolist() == [
        [True, True, False, False, False],
        [True, True, True, False, False],
    ]
    assert not five.boxes_xyxy[~five.mask].any()
    assert not five.scores[~five.mask].any()


@pytest.mark.parametrize(
    ("reach", "expected"),
    [(2, [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8]), (0, [0, -1, -1, -1, 4, -1, -1, -1, 8, -1, -1])],
)
def test_frames_between_records_take_the_nearest_within_reach(
    tmp_path: Path, video: Path, reach: int, expected: list[int]
) -> None:
    write_boxes(Store.claim(tmp_path / "boxes", METHOD), video, "walk/anna.mp4", reach)
    found = BoxStore(tmp_path / "boxes").boxes(video).at(range(11), count=3)
    numbers = {0: 2, 4: 0, 8: 3, -1: 0}
    assert found.mask.sum(1).tolist() == [numbers[frame] for frame in expected]


def test_frames_outside_the_video_are_refused(folder: Path, video: Path) -> None:
    boxes = BoxStore(folder).boxes(video)
    for frame in (11, -1):
        with pytest.raises(DataError, match=f"has no frame {frame}, for its video has 11 frames"):
            boxes.at([3, frame], count=2)


def test_a_video_is_found_by_the_longest_end_of_its_path(
    tmp_path: Path, folder: Path, video: Path
) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    moved = tmp_path / "copy" / "walk" / "anna.mp4"
    moved.parent.mkdir(parents=True)
    shutil.copy(video, moved)
    store = BoxStore(tmp_path / "elsewhere")
    assert (
        store.boxes(video).path
        == store.boxes(moved).path
        == tmp_path / "elsewhere" / "walk" / "anna.mp4.boxes"
    )
    top = tmp_path / "anna.mp4"
    top.write_bytes(b"anna at the top")
    write_boxes(Store(store.folder, BOXES), top, "anna.mp4")
    assert store.boxes(top).path.parent == tmp_path / "elsewhere"
    assert store.boxes(video).path.parent == tmp_path / "elsewhere" / "walk"


def one_line(error: pytest.ExceptionInfo[DataError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_stores_that_are_none(tmp_path: Path, folder: Path, video: Path) -> None:
    with pytest.raises(DataError) as error:
        BoxStore(tmp_path / "nowhere")
    one_line(error, "nowhere: there is no such store; make one with vidgraph extract proposals")
    with pytest.raises(DataError) as error:
        BoxStore(tmp_path / "data")
    one_line(error, "data: is no store, it holds no store.json")
    note = folder / "store.json"
    content = json.loads(note.read_text())
    for change, message in (
        ({"format_version": 2}, "boxes: is of format version 2, and this vidgraph reads 1"),
        ({"record": "flow"}, "boxes: holds flow, not boxes"),
    ):
        note.write_text(json.dumps(content | change))
        with pytest.raises(DataError) as error:
            BoxStore(folder)
        one_line(error, message)
    note.write_text(note.read_text()[:30])
    with pytest.raises(DataError) as error:
        BoxStore(folder)
    one_line(error, "store.json: cannot be read")


def test_a_store_without_the_video_or_without_any(
    tmp_path: Path, folder: Path, video: Path
) -> None:
    with pytest.raises(DataError) as error:
        BoxStore(folder).boxes(tmp_path / "data" / "run" / "ben.mp4")
    one_line(error, "boxes: holds no boxes of ", "ben.mp4; run vidgraph extract for it too")
    (folder / "walk" / "anna.mp4.boxes").unlink()
    with pytest.raises(DataError) as error:
        BoxStore(folder).boxes(video)
    one_line(error, "boxes: holds no boxes of any video")


def test_another_video_is_found_by_size_and_by_content(folder: Path, video: Path) -> None:
    for content in (b"ben runs, and is longer", b"anna talks"):
        video.write_bytes(content)
        with pytest.raises(DataError) as error:
            BoxStore(folder).boxes(video)
        one_line(
            error,
            "anna.mp4.boxes: holds the boxes of another video than ",
            "or of it before it changed; delete the file and extract",
        )
    video.unlink()
    with pytest.raises(DataError) as error:
        BoxStore(folder).boxes(video)
    one_line(error, "anna.mp4: cannot be read (No such file or directory)")


def test_a_video_that_changes_is_noticed_by_an_open_store(folder: Path, video: Path) -> None:
    store = BoxStore(folder)
    assert store.boxes(video).at([0], 1).mask.all()
    video.write_bytes(b"anna rests, for a long time")
    with pytest.raises(DataError, match="of another video"):
        store.boxes(video)


def test_a_file_of_another_method_version_or_half_written(
    tmp_path: Path, folder: Path, video: Path
) -> None:
    path = folder / "walk" / "anna.mp4.boxes"
    whole = path.read_bytes()
    for old, new, message in (
        (b'"version":1', b'"version":2', "it is of by-hand version 2, not of by-hand version 1"),
        (b'"count":3', b'"count":9', "it is of by-hand (count 9), not of by-hand (count 3)"),
        (b'"record":"boxes"', b'"record":"flows"', "it is not boxes"),
    ):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(DataError) as error:
            BoxStore(folder).boxes(video)
        one_line(error, "anna.mp4.boxes: does not belong to this store", message)
    path.write_bytes(whole[:-7])
    with pytest.raises(DataError) as error:
        BoxStore(folder).boxes(video)
    one_line(error, "anna.mp4.boxes: is cut short", "run the same vidgraph extract again")


@pytest.mark.parametrize(
    ("box", "score", "problem"),
    [
        (
            [0.1, np.nan, 0.3, 0.4],
            1,
            "a box holds what is not a number (x0, y0, x1, y1 = 0.1, nan, 0.3, 0.4 of the frame)",
        ),
        ([0.1, 0.1, np.inf, 0.4], 1, "a box holds what is not a number"),
        ([0.1, 0.1, 0.3, 0.4], np.nan, "a score is not a number"),
        ([0.6, 0.1, 0.3, 0.4], 1, "a box is reversed"),
        ([0.1, 0.5, 0.3, 0.4], 1, "a box is reversed"),
        ([-0.1, 0.1, 0.3, 0.4], 1, "a box lies outside the frame"),
        ([0.1, 0.1, 0.3, 1.2], 1, "a box lies outside the frame"),
    ],
)
def test_boxes_that_cannot_be(
    tmp_path: Path, video: Path, box: list[float], score: float, problem: str
) -> None:
    """Neither written nor, where another program wrote them, read."""
    boxes, scores = np.array([[0, 0, 1, 1], box], np.float32), np.array([1, score], np.float32)
    with pytest.raises(DataError) as error:
        encode_boxes(boxes, scores)
    one_line(error, problem)
    record = np.uint32(2).tobytes() + boxes.tobytes() + scores.tobytes()
    store = Store.claim(tmp_path / "boxes", METHOD)
    write_records(
        store.path_of("walk/anna.mp4"),
        Header(METHOD, source_of(video, ""), 11, 48, 64, 0, [3]),
        [record],
    )
    with pytest.raises(DataError) as error:
        BoxStore(tmp_path / "boxes").boxes(video).at([3], 2)
    one_line(error, "anna.mp4.boxes, frame 3: ", problem, "delete the file and extract again")


def test_boxes_at_the_border_are_boxes() -> None:
    assert (
        box_problem(np.array([[0, 0, 1, 1], [1, 1, 1, 1], [-1e-7, 0, 1 + 1e-7, 1]]), np.ones(3))
        is None
    )
    assert box_problem(np.zeros((0, 4)), np.zeros(0)) is None
    found, _ = decode_boxes(encode_boxes(np.array([[-1e-7, 0, 1 + 1e-7, 1]]), np.ones(1)))
    assert found.tolist() == [[0, 0, 1, 1]]


def test_a_store_is_claimed_by_one_method(tmp_path: Path, folder: Path) -> None:
    assert Store.claim(folder, METHOD).method == METHOD
    for other, message in (
        (
            Method(BOXES, "by-hand", 1, {"count": 5}),
            "holds boxes of by-hand (count 3), not of by-hand (count 5)",
        ),
        (
            Method(BOXES, "by-hand", 2, {"count": 3}),
            "holds boxes of by-hand version 1, not of by-hand version 2",
        ),
        (
            Method(BOXES, "rpn", 1, {"count": 3}),
            "holds boxes of by-hand version 1, not of rpn version 1",
        ),
    ):
        with pytest.raises(DataError) as error:
            Store.claim(folder, other)
        one_line(error, message, "choose another --out, or ask for the same")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is a file; name a folder for the store"):
        Store.claim(tmp_path / "file", METHOD)
    with pytest.raises(DataError, match="data: is not empty and no store"):
        Store.claim(tmp_path / "data", METHOD)
