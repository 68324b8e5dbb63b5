"""The file of records: what was written comes back, at random; what is not whole is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgraph.errors import DataError
from vidgraph.precompute.container import (
    Header,
    Method,
    RecordFile,
    Source,
    size_of,
    source_of,
    write_records,
)

METHOD = Method("numbers", "counting", 3, {"every": 2, "fps": None})
HEADER = Header(METHOD, Source("walk/anna.mp4", 1234, "ab" * 32), 9, 48, 64, 1, [0, 2, 4, 8])
RECORDS = [b"first", b"", bytes(range(256)) * 30, b"last"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_records(tmp_path / "walk" / "anna.mp4.numbers", HEADER, iter(RECORDS))
    return tmp_path / "walk" / "anna.mp4.numbers"


def test_records_come_back_in_any_order(path: Path) -> None:
    with RecordFile(path) as file:
        assert file.header == HEADER
        assert [file.read(place) for place in (2, 0, 3, 1, 2)] == [
            RECORDS[place] for place in (2, 0, 3, 1, 2)
        ]


def test_the_first_line_says_what_the_decree_asks_for(path: Path) -> None:
    content = json.loads(path.read_bytes().partition(b"\n")[0])
    assert content["source"] == {"name": "walk/anna.mp4", "size": 1234, "sha256": "ab" * 32}
    assert (content["method"], content["version"], content["record"]) == ("counting", 3, "numbers")
    assert (content["num_frames"], content["frame_indices"]) == (9, [0, 2, 4, 8])


def test_equal_content_makes_equal_bytes(path: Path) -> None:
    write_records(path.with_name("again"), HEADER, RECORDS)
    assert path.with_name("again").read_bytes() == path.read_bytes()


def test_every_cut_is_refused_in_one_line(path: Path) -> None:
    whole = path.read_bytes()
    line = whole.index(b"\n") + 1
    for length in (
        0,
        1,
        10,
        40,
        line - 2,
        line - 1,
        line,
        line + 1,
        len(whole) - 300,
        len(whole) - 1,
    ):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"anna\.mp4\.numbers: is cut short") as error:
            RecordFile(path)
        assert "\n" not in str(error.value)
    path.write_bytes(whole + b"x")
    with pytest.raises(
        DataError, match=f"is too long, {len(whole) + 1:,} bytes instead of {len(whole):,}"
    ):
        RecordFile(path)


def test_a_changed_byte_is_found_in_its_record_only(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-100] ^= 1  # in the third record
    path.write_bytes(bytes(whole))
    with RecordFile(path) as file:
        assert file.read(3) == RECORDS[3]
        with pytest.raises(DataError, match="numbers, frame 4: the record is damaged"):
            file.read(2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"format_version":1',
            b'"format_version":2',
            "is of format version 2, and this vidgraph reads 1",
        ),
        (
            b'{"format":"vidgraph-store"',
            b'{"format":"somebody-else"',
            "is no file of a vidgraph store",
        ),
        (b'"reach_frames"', b'"reach_framez"', "its first line is damaged"),
        (b"[0,2,4,8]", b"[0,4,2,8]", "its frames do not fit together"),
        (b"[0,2,4,8]", b"[0,2,4,9]", "its frames do not fit together"),
    ],
)
def test_other_formats_and_damaged_headers(
    path: Path, old: bytes, new: bytes, message: str
) -> None:
    whole = path.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(DataError, match=message):
        RecordFile(path)


def test_a_video_and_a_missing_file_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0 ftypisom")
    with pytest.raises(DataError, match=r"a\.mp4: is no file of a vidgraph store"):
        RecordFile(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"b\.mp4: cannot be read \(No such file or directory\)"):
        RecordFile(tmp_path / "b.mp4")


def test_a_generator_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def records() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the video is gone")

    with pytest.raises(OSError, match="the video is gone"):
        write_records(tmp_path / "x.numbers", HEADER, records())
    with pytest.raises(ValueError, match="1 records for 4 frames"):
        write_records(tmp_path / "x.numbers", HEADER, [b"one"])
    assert list(tmp_path.iterdir()) == []


def test_a_video_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"pixels")
    assert source_of(tmp_path / "a.mp4", "x/a.mp4") == Source(
        "x/a.mp4", 6, hashlib.sha256(b"pixels").hexdigest()
    )
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(frames / f"{number}.png")
    before = source_of(frames, "frames")
    assert before.size == size_of(frames) == sum(file.stat().st_size for file in frames.iterdir())
    (frames / "notes.txt").write_text("no image")
    assert source_of(frames, "frames") == before
    (frames / "2.png").rename(frames / "3.png")
    assert source_of(frames, "frames").sha256 != before.sha256
