"""Videos of which a part is missing: a folder with a gap in its numbers, a broken-off WebM file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgraph.errors import VideoError
from vidgraph.video.reader import open_video
from vidgraph.video.webm import missing_bytes

Encode = Callable[..., Path]


def frames(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / f"{name}.jpg")
    return folder


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            [1, 2, 3, 5, 6],
            "a frame image is missing, after 00003.jpg comes 00005.jpg; extract the frames again",
        ),
        ([1, 2, 3, 7, 8, 10], "4 frame images are missing, after 00003.jpg comes 00007.jpg"),
        ([0, 2, 3], "a frame image is missing, after 00000.jpg comes 00002.jpg"),
    ],
)
def test_a_gap_in_the_numbers_is_a_lost_frame(
    tmp_path: Path, numbers: list[int], message: str
) -> None:
    for number, prefix in enumerate(("", "img_")):
        folder = frames(tmp_path / f"v{number}", [f"{prefix}{n:05d}" for n in numbers])
        with pytest.raises(VideoError) as caught:
            open_video(folder)
        assert str(caught.value).startswith(f"{folder}: {message.replace('0000', f'{prefix}0000')}")


@pytest.mark.parametrize(
    "names",
    [
        ["00001", "00002", "00003"],
        ["00000", "00005", "00010", "00015"],  # every fifth frame
        # More holes than frames: numbers of something else.
        ["1", "2", "9", "10", "11", "12", "40"],
        ["00017", "00018", "00020"],  # a cut from a longer video
        ["1_a", "2_a", "4_a"],
        ["a1", "b2", "b4"],
        ["7"],
    ],
)
def test_other_numbers_and_names_are_left_alone(tmp_path: Path, names: list[str]) -> None:
    with open_video(frames(tmp_path / "v", names)) as video:
        assert video.num_frames == len(names)


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_a_file_that_is_shorter_than_it_says(tmp_path: Path, encode: Encode, suffix: str) -> None:
    codec = {"codec": "libvpx-vp9"} if suffix == ".webm" else {"codec": "mpeg4", "max_b_frames": 0}
    whole = encode(tmp_path / f"whole{suffix}", num_frames=24, **codec)
    content = whole.read_bytes()
    assert missing_bytes(whole) == 0
    with open_video(whole) as video:
        assert video.num_frames == 24
    for kept in (len(content) - 1, len(content) * 3 // 4, len(content) // 2):
        cut = tmp_path / f"cut{kept}{suffix}"
        cut.write_bytes(content[:kept])
        with pytest.raises(VideoError) as caught:
            open_video(cut)
        problem = f"{len(content) - kept:,} bytes that it announces are missing; fetch it again"
        assert str(caught.value) == f"{cut}: the file is cut short, {problem}"
    longer = tmp_path / f"longer{suffix}"
    longer.write_bytes(content + b"left over")
    assert missing_bytes(longer) == 0


def test_a_live_recording_does_not_know_its_length(tmp_path: Path, encode: Encode) -> None:
    how = {"codec": "mpeg4", "max_b_frames": 0, "container_options": {"live": "1"}}
    content = encode(tmp_path / "live.mkv", num_frames=24, **how).read_bytes()
    assert b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" in content[:100]
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) * 3 // 4])
    assert missing_bytes(cut) == 0
    with open_video(cut) as video:
        assert 0 < video.num_frames < 24


def test_other_files_are_none_of_its_business(tmp_path: Path, encode: Encode) -> None:
    assert missing_bytes(encode(tmp_path / "a.mp4", num_frames=3)) == 0
    assert missing_bytes(tmp_path / "absent.webm") == 0
    header = b"\x1a\x45\xdf\xa3"
    segment = header + b"\x80\x18\x53\x80\x67"
    for content in (b"", header[:1], header, segment, header + b"\x00\x00"):
        (tmp_path / "odd.webm").write_bytes(content)
        assert missing_bytes(tmp_path / "odd.webm") == 0
    # two bytes say 10; 5 are there
    (tmp_path / "odd.webm").write_bytes(segment + b"\x40\x0a12345")
    assert missing_bytes(tmp_path / "odd.webm") == 5
