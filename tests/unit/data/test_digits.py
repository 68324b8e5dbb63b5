"""MNIST from a folder, and every way in which it can be missing or broken."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest

from vidgraph.data.digits import load_digits
from vidgraph.errors import DataError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny MNIST: 5,003 training and 7 test digits."""
    for name, count in zip(NAMES, (5003, 5003, 7, 7), strict=True):
        array = np.arange(count) % 10
        pixels = (
            np.broadcast_to(array[:, None, None], (count, 28, 28)) if "images" in name else array
        )
        (tmp_path / name).write_bytes(idx(pixels.astype(np.uint8)))
    return tmp_path


def test_real_mnist_is_the_published_one(shared_data: Path) -> None:
    folder = shared_data / "data" / "mnist"
    train, val, test = (load_digits(folder, split) for split in ("train", "val", "test"))
    assert [len(d) for d in (train, val, test)] == [55_000, 5_000, 10_000]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert val.labels[-1] == 8
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test.labels).tolist() == counts
    assert test.by_class[7][0] == 0
    golden = np.load(
        Path(__file__).parents[2] / "golden" / "syncmnist_5digits_generated_seed0_first1000.npz"
    )
    assert zlib.crc32(np.ascontiguousarray(test.images)) == golden["mnist_crc"][0]


def test_splits_of_a_folder_gzipped_or_not_or_as_torchvision_lays_it_out(
    folder: Path, tmp_path: Path
) -> None:
    train, val, test = (load_digits(folder, split) for split in ("train", "val", "test"))
    assert train.labels.tolist() == [0, 1, 2]
    assert val.labels[:3].tolist() == [3, 4, 5]
    assert len(val) == 5000
    assert (test.images[:, 0, 0] == test.labels).all()
    deep = tmp_path / "root" / "MNIST" / "raw"
    deep.mkdir(parents=True)
    for name in NAMES:
        (deep / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    again = load_digits(tmp_path / "root", "train")
    np.testing.assert_array_equal(again.images, train.images)


def check(folder: Path | str, message: str, split: str = "test") -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_digits(folder, split)
    assert "\n" not in str(caught.value)


def test_missing_or_unknown_is_one_line(tmp_path: Path) -> None:
    check(
        tmp_path,
        r"no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz; pass mnist, embedded, or a "
        r"folder",
    )
    check("embeded", "embeded: no t10k-images.*pass mnist, embedded")
    check("embedded", "digits have no split 'valid'; use one of train, val, test", split="valid")


def test_broken_files_are_named(folder: Path) -> None:
    images, labels = folder / NAMES[2], folder / NAMES[3]
    good = images.read_bytes()
    images.write_bytes(good[:-5])
    check(folder, "t10k-images-idx3-ubyte: not a whole idx file")
    images.write_bytes(b"")
    check(folder, "not a whole idx file")
    images.unlink()
    packed = gzip.compress(good)
    (folder / f"{NAMES[2]}.gz").write_bytes(packed[: len(packed) // 2])
    check(folder, r"t10k-images-idx3-ubyte.gz: not a whole idx file")
    (folder / f"{NAMES[2]}.gz").write_bytes(packed[:20] + bytes(10) + packed[30:])
    check(folder, r"t10k-images-idx3-ubyte.gz: not a whole idx file")
    images.write_bytes(good)
    labels.write_bytes(idx(np.array([1, 2, 3], np.uint8)))
    check(folder, r"not digits: t10k images are \(7, 28, 28\) for 3 labels")
    labels.write_bytes(idx(np.arange(20, 27, dtype=np.uint8)))
    check(folder, "for 7 labels up to 26")


def test_download_without_network_says_what_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    check(
        "mnist",
        "MNIST cannot be downloaded into .*--data.syncmnist.digits FOLDER, or "
        "--data.syncmnist.digits embedded",
    )


def test_cached_mnist_needs_no_network(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        (raw / name).write_bytes(
            gzip.decompress((shared_data / "data" / "mnist" / f"{name}.gz").read_bytes())
        )
    assert len(load_digits("mnist", "val")) == 5000
