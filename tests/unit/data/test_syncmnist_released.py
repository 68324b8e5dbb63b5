"""The authors' generation, byte for byte, and the reading of what they released."""

from __future__ import annotations

import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from malicious import Malicious

from vidgraph.data.digits import Digits, load_digits
from vidgraph.data.syncmnist import SyncMnistTest
from vidgraph.data.trajectories import Trajectories, released_trajectories, sequential_trajectories
from vidgraph.errors import DataError

GOLDEN = Path(__file__).parents[2] / "golden"
SEQUENTIAL = "syncmnist_5digits_generated_seed0_first1000.npz"
RELEASED = "syncmnist_5digits_predefined_test_first1000.npz"


@pytest.fixture(scope="module")
def mnist(shared_data: Path) -> Digits:
    return load_digits(shared_data / "data" / "mnist", "test")


@pytest.fixture(scope="module")
def released_file(shared_data: Path) -> Path:
    return shared_data / "data" / "rstg" / "predefined_path_test.npz"


def compare_with_golden(clips: SyncMnistTest, name: str) -> None:
    """Labels, classes, coordinates and checksums of 1000 videos; 48 of them pixel by pixel."""
    golden = np.load(GOLDEN / name)
    batch = clips.__getitems__(range(1000))
    frames = batch.video[:, 0].numpy()  # [1000, 10, 64, 64]
    np.testing.assert_array_equal(batch.label.numpy(), golden["labels"][:, 0])
    np.testing.assert_array_equal(clips.labels[:1000], golden["labels"][:, 0])
    np.testing.assert_array_equal(clips.digits.labels[clips.images[:1000]], golden["videos_digits"])
    np.testing.assert_array_equal(clips.images[:1000], golden["paths:ind_digits"][0])
    np.testing.assert_array_equal(clips.coordinates[:1000], golden["videos_digits_coords"])
    np.testing.assert_array_equal(frames[:48], golden["frames_first48"])
    np.testing.assert_array_equal(
        [zlib.crc32(np.ascontiguousarray(v)) for v in frames], golden["crc32_per_video_uint8"]
    )
    boxes = batch.regions.boxes_xyxy[:, :, :, :2].numpy()  # x0, y0
    np.testing.assert_allclose(boxes, golden["videos_digits_coords"][..., ::-1] / 100, atol=1e-7)


def test_sequential_generation_equals_the_authors(mnist: Digits) -> None:
    compare_with_golden(SyncMnistTest(mnist, num_digits=5, num_clips=1000), SEQUENTIAL)


def test_released_test_set_equals_the_authors(mnist: Digits, released_file: Path) -> None:
    clips = SyncMnistTest(mnist, 5, trajectories=released_trajectories(released_file))
    assert len(clips) == 10_000
    assert np.sum(clips.labels == 45) == 123
    compare_with_golden(clips, RELEASED)


def test_three_digit_test_set(mnist: Digits) -> None:
    clips = SyncMnistTest(mnist, 3)
    assert len(clips) == len(clips.labels) == 10_000
    np.testing.assert_array_equal(clips.images[:, 0], np.arange(10_000))
    assert clips.class_names[clips.labels[0]].startswith("7-") or clips.class_names[
        clips.labels[0]
    ].endswith("-7")
    assert 60 < np.sum(clips.labels == 45) < 160
    batch = clips.__getitems__([9999, 4])
    assert batch.video.shape == (2, 1, 10, 64, 64)
    assert batch.regions.boxes_xyxy.shape == (2, 10, 3, 4)
    # Frozen when the 5-digit sets first equalled the authors' own.
    assert zlib.crc32(np.ascontiguousarray(batch.video.numpy())) == 2414369163
    assert zlib.crc32(clips.labels.astype("<i8").tobytes()) == 3176470363


def test_a_shorter_set_is_the_beginning_and_images_start_again_after_the_last() -> None:
    labels = np.tile(np.arange(10), 3)
    long, short = (sequential_trajectories(labels, 3, count, seed=4) for count in (40, 12))
    np.testing.assert_array_equal(long.coordinates[:12], short.coordinates)
    np.testing.assert_array_equal(long.images[:, 0], np.arange(40) % 30)
    other = sequential_trajectories(labels, 3, 12, seed=5)
    assert not np.array_equal(other.coordinates, short.coordinates)


# ---- files of trajectories -----------------------------------------------------------------------


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_of_arrays_reads_like_the_npz(
    released_file: Path, tmp_path: Path, protocol: int
) -> None:
    file = tmp_path / "paths.pickle"
    file.write_bytes(pickle.dumps(arrays_of(released_file), protocol=protocol))
    found = released_trajectories(file)  # its checksum is of the numbers
    np.testing.assert_array_equal(found.coordinates, arrays_of(released_file)["coords_digits"][0])


def test_cached_copy_is_used_and_checked(
    released_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path))
    cached = tmp_path / "rstg" / "predefined_path_test.pickle"
    cached.parent.mkdir()
    cached.write_bytes(released_file.read_bytes())
    assert len(released_trajectories()) == 10_000
    arrays = arrays_of(released_file)
    arrays["coords_digits"][0, 77, 3, 1, 0] ^= 1
    cached.write_bytes(pickle.dumps(arrays))
    with pytest.raises(DataError, match="checksum differs"):
        released_trajectories()


def refused(content: bytes, folder: Path) -> str:
    file = folder / "paths.pickle"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        released_trajectories(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made_by_pickle"
    content = pickle.dumps({"coords_digits": Malicious(target)})
    assert "(posix.mkdir is not allowed); nothing in it was run" in refused(content, tmp_path)
    assert not target.exists()
    pickle.loads(content)  # the file does what it says where nobody refuses it
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": np.array([print], dtype=object)}), "type O8 are not allowed"),
        (pickle.dumps({"a": np.load}), "load is not allowed"),
        (b"c_codecs\nencode\n(Vtext\nVrot13\ntR.", "encoding rot13 is not allowed"),
    ],
)
def test_only_arrays_of_numbers_are_admitted(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refused(content, tmp_path)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD = {
    "coords_digits": np.zeros((1, 2, 10, 3, 2), np.uint8),
    "ind_digits": np.array([[[0, 1, 2], [3, 4, 5]]], np.uint32),
    "sincron_prob": np.ones((1, 2), np.uint8),
}


@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps([1, 2]), pickle.dumps(GOOD)[:-40], npz(**GOOD)[:-100], npz(a=[0])],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    assert "not the arrays of the released trajectories" in refused(content, tmp_path)
    assert "checksum differs" in refused(npz(**GOOD), tmp_path)


def test_missing_file_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"absent\.npz: cannot be read"):
        released_trajectories(tmp_path / "absent.npz")
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(DataError, match=r"cannot be downloaded .*test_paths FILE"):
        released_trajectories()
    assert not list(tmp_path.iterdir())


def test_trajectories_that_do_not_fit_are_refused(released_file: Path, mnist: Digits) -> None:
    released = released_trajectories(released_file)
    embedded = load_digits("embedded", "test")
    with pytest.raises(DataError, match="10000 clips of 5 digits; asked for 10000 of 3"):
        SyncMnistTest(mnist, 3, trajectories=released)
    with pytest.raises(DataError, match="asked for 20000 of 5"):
        SyncMnistTest(mnist, 5, 20_000, trajectories=released)
    for other in (embedded, Digits(mnist.images[::-1], mnist.labels[::-1])):
        with pytest.raises(DataError, match="made for other digit images"):
            SyncMnistTest(other, 5, trajectories=released)
    with pytest.raises(DataError, match="num_digits is 11"):
        SyncMnistTest(embedded, 11, 10)
    own = Trajectories(released.coordinates[:50], released.images[:50], released.synchronous[:50])
    assert len(SyncMnistTest(mnist, 5, 50, trajectories=own)) == 50
