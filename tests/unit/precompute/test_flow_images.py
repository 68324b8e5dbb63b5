"""Flow that other tools wrote as images: every layout gives the same fields, and what does not fit
is refused in one line.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.precompute.flow_images import holds_flow_images
from vidgraph.precompute.flow_store import open_flow
from vidgraph.video.writer import write_video

HEIGHT, WIDTH = 16, 24
# Flat fields, which JPEG keeps exactly, each of its own two values.
FIELDS = np.stack(
    [
        np.broadcast_to(np.array([10 * t + 5, 250 - 10 * t], np.uint8), (HEIGHT, WIDTH, 2))
        for t in range(12)
    ]
)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve frames with eleven fields between them."""
    path = tmp_path / "videos" / "Walk" / "v_Walk_g01_c01.avi"
    path.parent.mkdir(parents=True)
    write_video(path.with_suffix(".mp4"), np.zeros((12, 48, 64, 3), np.uint8), fps=10)
    return path.with_suffix(".mp4").rename(path)


def write_images(x: str, y: str, first: int = 1, count: int = 11, suffix: str = ".jpg") -> None:
    """Fields 0 to `count` - 1, under the numbers from `first` on; `x` and `y` are paths up to the
    number.
    """
    for number in range(count):
        for axis, start in enumerate((x, y)):
            file = Path(f"{start}{number + first:05d}{suffix}")
            file.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(file), np.ascontiguousarray(FIELDS[number, :, :, axis]))


@pytest.mark.parametrize(
    ("x", "y", "first", "suffix"),
    [
        ("v_Walk_g01_c01/flow_x_", "v_Walk_g01_c01/flow_y_", 1, ".jpg"),
        ("v_Walk_g01_c01/flow_x_", "v_Walk_g01_c01/flow_y_", 0, ".png"),
        ("Walk/v_Walk_g01_c01/x_", "Walk/v_Walk_g01_c01/y_", 1, ".jpg"),
        ("u/v_Walk_g01_c01/frame", "v/v_Walk_g01_c01/frame", 1, ".jpg"),
        ("u/Walk/v_Walk_g01_c01/", "v/Walk/v_Walk_g01_c01/", 1, ".jpg"),
        ("flow_x_", "flow_y_", 1, ".jpg"),
    ],
)
def test_every_layout_gives_the_same_fields(
    x: str, y: str, first: int, suffix: str, video: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flow"
    write_images(f"{folder}/{x}", f"{folder}/{y}", first, suffix=suffix)
    assert holds_flow_images(folder)
    source = open_flow(folder)
    assert source.method_dict() == {
        "record": "flow",
        "method": "images",
        "version": 1,
        "settings": {"bound": 20.0},
    }
    flow = source.flow(video)
    assert (flow.num_fields, flow.height, flow.width) == (11, HEIGHT, WIDTH)
    for indices in ([0], [10, 3, 3, 0], list(range(11))):
        found = flow.read(indices)
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - FIELDS[indices]).max() <= 1


def test_the_longest_end_of_the_path_is_taken(video: Path, tmp_path: Path) -> None:
    """Videos of one name in two classes."""
    write_images(
        f"{tmp_path}/flow/v_Walk_g01_c01/flow_x_",
        f"{tmp_path}/flow/v_Walk_g01_c01/flow_y_",
        count=10,
    )
    write_images(
        f"{tmp_path}/flow/Walk/v_Walk_g01_c01/flow_x_",
        f"{tmp_path}/flow/Walk/v_Walk_g01_c01/flow_y_",
    )
    assert open_flow(tmp_path / "flow").flow(video).num_fields == 11


@pytest.mark.parametrize("count", [10, 11, 12])
def test_tools_that_lose_or_repeat_a_field_are_let_be(
    count: int, video: Path, tmp_path: Path
) -> None:
    write_images(f"{tmp_path}/flow/flow_x_", f"{tmp_path}/flow/flow_y_", count=count)
    assert open_flow(tmp_path / "flow").flow(video).num_fields == count


def test_what_does_not_fit_is_one_line(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flow" / "v_Walk_g01_c01"

    def told(*parts: str, read: bool = False) -> None:
        source = open_flow(tmp_path / "flow")
        with pytest.raises(DataError) as error:
            source.flow(video).read(range(11) if read else [])
        assert "\n" not in str(error.value)
        assert all(part in str(error.value) for part in parts), str(error.value)

    write_images(f"{tmp_path}/flow/other/flow_x_", f"{tmp_path}/flow/other/flow_y_")
    told(
        "flow: holds no flow images of ",
        "v_Walk_g01_c01.avi, no folder v_Walk_g01_c01 with flow_x_00001.jpg",
    )
    write_images(f"{folder}/flow_x_", f"{folder}/flow_y_", count=9)
    told("v_Walk_g01_c01: holds 9 fields, and ", "has 12 frames; extract its flow again")
    write_images(f"{folder}/flow_x_", f"{folder}/flow_y_")
    (folder / "flow_y_00004.jpg").unlink()
    told("v_Walk_g01_c01: has an image number 4 of only one of x and y")
    (folder / "flow_x_00004.jpg").unlink()
    told("v_Walk_g01_c01: lacks the flow images of number 4")
    write_images(f"{folder}/flow_x_", f"{folder}/flow_y_")
    cv2.imwrite(str(folder / "flow_y_00007.jpg"), np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    told("flow_y_00007.jpg: its size 25x16 differs from 24x16 of the first field", read=True)
    (folder / "flow_y_00007.jpg").write_bytes(b"no image")
    told("flow_y_00007.jpg: the image cannot be decoded", read=True)
    for file in folder.glob("flow_?_00001.jpg"):
        file.unlink()
    (folder / "flow_x_00002.jpg").unlink()
    (folder / "flow_y_00002.jpg").unlink()
    told("v_Walk_g01_c01: lacks the flow images of number 1")
