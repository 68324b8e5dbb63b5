"""The files of a store: what was written comes back, frame by frame; what is not whole, or not of
the video, is refused in one line.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file as save_tensors

from vidgraph.errors import DataError, RunError
from vidgraph.precompute.store import (
    Header,
    Method,
    Store,
    StoredVideo,
    fingerprint,
    path_in_store,
    save_file,
    size_bytes,
    stored_method,
)

METHOD = Method("numbers", "counting", 3, {"every": 2, "fps": None})
FRAMES = [np.arange(6, dtype=np.float32).reshape(3, 2), np.zeros((0, 2), np.float32)]
FRAMES += [np.full((200, 2), 0.5, np.float32), np.ones((1, 2), np.float32)]


def header_of(video: Path, method: Method = METHOD, name: str = "walk/anna.mp4") -> Header:
    return Header(method, name, size_bytes(video), fingerprint(video), 9, 48, 64, [0, 2, 4, 8])


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Stands for a video: a store looks at its name and bytes only."""
    path = tmp_path / "data" / "walk" / "anna.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"anna walks")
    return path


@pytest.fixture
def folder(tmp_path: Path, video: Path) -> Path:
    save_file(path_in_store(tmp_path / "store", "walk/anna.mp4"), header_of(video), iter(FRAMES))
    return tmp_path / "store"


def refused(error: type[Exception], call: Any, *args: Any, says: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in says), str(caught.value)


# ---- one file ------------------------------------------------------------------------------------


def test_frames_come_back_in_any_order(folder: Path, video: Path) -> None:
    stored = StoredVideo(path_in_store(folder, "walk/anna.mp4"))
    assert stored.header == header_of(video)
    for number in (2, 0, 3, 1, 2):
        assert stored.rows(number).dtype == np.float32
        assert np.array_equal(stored.rows(number), FRAMES[number])


def test_others_read_it_with_safetensors_alone(folder: Path, video: Path) -> None:
    with safe_open(path_in_store(folder, "walk/anna.mp4"), "numpy") as file:
        assert file.get_tensor("offsets").tolist() == [0, 3, 3, 203, 204]
        assert np.array_equal(file.get_tensor("numbers"), np.concatenate(FRAMES))
        metadata = json.loads(file.metadata()["vidgraph-store-2"])
    assert (metadata["source"], metadata["size"]) == ("walk/anna.mp4", 10)
    assert metadata["fingerprint"] == fingerprint(video)
    assert (metadata["method"], metadata["version"], metadata["kind"]) == ("counting", 3, "numbers")
    assert (metadata["num_frames"], metadata["frame_indices"]) == (9, [0, 2, 4, 8])


def test_equal_content_makes_equal_bytes(folder: Path, video: Path, tmp_path: Path) -> None:
    save_file(tmp_path / "again", header_of(video), FRAMES)
    assert (tmp_path / "again").read_bytes() == (
        path_in_store(folder, "walk/anna.mp4").read_bytes()
    )


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_every_type_and_no_frames_at_all(video: Path, tmp_path: Path, dtype: str) -> None:
    for numbers in ((1, 5, 0, 2), (0, 1, 3, 0), (0, 0, 0, 0)):
        frames = [np.full((n, 3), n, dtype) for n in numbers]
        save_file(tmp_path / "x", header_of(video), frames)
        stored = StoredVideo(tmp_path / "x")
        for number, rows in enumerate(frames):
            assert stored.rows(number).dtype == dtype
            assert np.array_equal(stored.rows(number), rows)
    save_file(tmp_path / "none", replace(header_of(video), frame_indices=[]), [])
    assert StoredVideo(tmp_path / "none").header.frame_indices == []


def test_every_cut_is_refused_in_one_line(folder: Path) -> None:
    path = path_in_store(folder, "walk/anna.mp4")
    whole = path.read_bytes()
    for content in (*(whole[:n] for n in (0, 7, 100, len(whole) - 1)), whole + b"x", b"\0\0 mp4"):
        path.write_bytes(content)
        refused(DataError, StoredVideo, path, says=("anna.mp4.safetensors: is cut short, or no",))
        assert stored_method(folder) is None
    refused(DataError, StoredVideo, folder / "b", says=("b: is cut short", "run the same vidgraph"))


def test_files_of_others_are_refused(folder: Path) -> None:
    path = path_in_store(folder, "walk/anna.mp4")
    save_tensors({"weight": np.zeros(3, np.float32)}, path)
    refused(DataError, StoredVideo, path, says=("no file of a store ('vidgraph-store-2')",))
    metadata = {"vidgraph-store-2": '{"kind": "numbers"}'}
    save_tensors({"numbers": np.zeros(3, np.float32)}, path, metadata)
    refused(DataError, StoredVideo, path, says=("is cut short, or no file of a store",))


def test_a_file_that_cannot_be_written(video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x"
    refused(RunError, save_file, path, header_of(video), FRAMES, says=("x: cannot be written",))


# ---- a folder of them ----------------------------------------------------------------------------


def test_a_video_is_found_by_the_longest_end_of_its_path(
    tmp_path: Path, folder: Path, video: Path
) -> None:
    """Also when data and store were moved."""
    moved = tmp_path / "copy" / "walk" / "anna.mp4"
    moved.parent.mkdir(parents=True)
    shutil.copy(video, moved)
    folder = Path(shutil.move(folder, tmp_path / "elsewhere"))
    top = tmp_path / "anna.mp4"
    top.write_bytes(b"anna at the top")
    save_file(path_in_store(folder, "anna.mp4"), header_of(top, name="anna.mp4"), FRAMES)
    store = Store(folder, "numbers")
    assert store.method == METHOD
    assert store.load(video).path == store.load(moved).path == folder / "walk/anna.mp4.safetensors"
    assert store.load(top).path == folder / "anna.mp4.safetensors"


def test_folders_that_are_no_store_of_the_kind(tmp_path: Path, folder: Path) -> None:
    says = ("nowhere: does not exist; extract again: vidgraph extract proposals VIDEOS --out",)
    refused(DataError, Store, tmp_path / "nowhere", "boxes", says=says)
    says = ("data: holds no readable file of a store; extract again: vidgraph extract flow VIDEOS",)
    refused(DataError, Store, tmp_path / "data", "flow", says=says)
    refused(DataError, Store, folder, "flow", says=("store: holds numbers, not flow",))
    (tmp_path / "old" / "walk").mkdir(parents=True)
    (tmp_path / "old" / "store.json").write_text('{"format": "vidgraph-store"}')
    (tmp_path / "old" / "walk" / "anna.mp4.boxes").write_bytes(b'{"format":"vidgraph-store"')
    says = ("old: is a store of vidgraph 0.1, which this version does not read; extract again",)
    refused(DataError, Store, tmp_path / "old", "boxes", says=says)


def test_a_video_that_is_not_there_and_a_file_of_another_method(folder: Path, video: Path) -> None:
    store = Store(folder, "numbers")
    says = ("store: holds no numbers of ", "ben.mp4; run vidgraph extract for it too")
    refused(DataError, store.load, video.with_name("ben.mp4"), says=says)
    other = replace(METHOD, settings={"every": 9, "fps": None})
    save_file(path_in_store(folder, "walk/anna.mp4"), header_of(video, other), FRAMES)
    says = (
        "holds numbers of counting version 3 (every 9, fps None), not numbers of counting version "
        "3 (every 2, fps None); delete the file",
    )
    refused(DataError, store.load, video, says=says)


def test_another_video_is_found_by_size_and_by_content(folder: Path, video: Path) -> None:
    """Also by a store that is open and has compared the video before it changed."""
    store = Store(folder, "numbers")
    store.load(video)
    for content in (b"ben runs, and is longer", b"anna talks"):
        video.write_bytes(content)
        says = (
            "anna.mp4.safetensors: holds the numbers of another video than ",
            "or of it before it changed; delete the file",
        )
        refused(DataError, store.load, video, says=says)
        refused(DataError, Store(folder, "numbers").load, video, says=says)
    video.unlink()
    refused(DataError, store.load, video, says=("anna.mp4: cannot be read (No such file",))


# ---- what a video is known by --------------------------------------------------------------------


def test_a_video_is_known_by_samples_of_its_bytes(tmp_path: Path) -> None:
    """All of a short file counts; of a long one, sixteen blocks of 64 KiB, the first and the last
    among them."""
    content = np.random.default_rng(0).bytes(1 << 20)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    short = fingerprint(path)
    assert len(short) == 64
    for place in (0, 12_345, 700_000, (1 << 20) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert fingerprint(path) != short
    path.write_bytes(content * 8)
    known = fingerprint(path)
    for place, counts in ((0, True), (100_000, False), ((8 << 20) - 1, True)):
        path.write_bytes(content * 8)
        with open(path, "rb+") as file:
            file.seek(place)
            file.write(bytes([content[place % (1 << 20)] ^ 1]))
        assert (fingerprint(path) != known) == counts


def test_a_long_video_is_not_read_whole(
    folder: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 1 MiB the first time that a process uses it, and nothing after."""
    with open(video, "wb") as file:
        file.truncate(200 << 20)
    save_file(path_in_store(folder, "walk/anna.mp4"), header_of(video), FRAMES)
    counts: list[int] = []

    class Counted:
        def __init__(self, *args: Any) -> None:
            self.file = open(*args)  # noqa: SIM115 (closed below)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def seek(self, place: int) -> None:
            self.file.seek(place)

        def read(self, size: int = -1) -> bytes:
            content: bytes = self.file.read(size)
            counts.append(len(content))
            return content

    monkeypatch.setattr("vidgraph.precompute.store.open", Counted, raising=False)
    store = Store(folder, "numbers")
    store.load(video)
    assert sum(counts) == 1 << 20
    store.load(video)
    assert sum(counts) == 1 << 20


def test_a_folder_of_images_is_known_by_names_sizes_and_samples(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        image = Image.fromarray(np.full((4, 4, 3), number, np.uint8))
        image.save(frames / f"{number}.png")
    before = size_bytes(frames), fingerprint(frames)
    assert before[0] == sum(file.stat().st_size for file in frames.iterdir())
    (frames / "notes.txt").write_text("no image")
    assert (size_bytes(frames), fingerprint(frames)) == before
    (frames / "2.png").rename(frames / "3.png")
    assert fingerprint(frames) != before[1]
    (frames / "3.png").rename(frames / "2.png")
    content = bytearray((frames / "1.png").read_bytes())
    content[-20] ^= 1
    (frames / "1.png").write_bytes(content)
    assert fingerprint(frames) != before[1]
