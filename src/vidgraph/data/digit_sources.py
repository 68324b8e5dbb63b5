"""Where digits and trajectories come from: MNIST, scikit-learn's bundled digits, and the
trajectories that the RSTG authors released.

Whatever is downloaded lies in one cache folder and is checked before it is used.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgraph.data.digit_drawing import CANVAS, DIGIT, InkPixels, Trajectories, ink_pixels
from vidgraph.errors import DataError
from vidgraph.util import unpickle_arrays, whole_file

NUM_VALIDATION = 5000  # the last training digits of MNIST
SPLITS = ("train", "val", "test")

RELEASED_URL = (
    "https://raw.githubusercontent.com/IuliaDuta/RSTG/788a7a3223ae304d7b09ae498f41512e"
    "eb84e6ad/create_datasets/predefined_path_test.pickle"
)
RELEASED_SHA256 = "204da74687d06031cf7b31f844e17dc49d527b30fd10d2d9127e1a0379e66787"


@dataclass(frozen=True)
class Digits:
    """Images of handwritten digits.

    Attributes:
        images: uint8 [M, 28, 28], bright ink on black.
        labels: classes 0..9, int64 [M].
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def by_class(self) -> list[NDArray[np.int64]]:
        """Indices of the images of each class 0..9, in order."""
        return [np.nonzero(self.labels == c)[0] for c in range(10)]

    @cached_property
    def ink(self) -> InkPixels:
        """The pixels of all images that are drawn."""
        return ink_pixels(self.images)


def cache_folder() -> Path:
    """Where downloads are kept: the environment variable VIDGRAPH_CACHE, else ~/.cache/vidgraph."""
    return Path(os.environ.get("VIDGRAPH_CACHE", "~/.cache/vidgraph")).expanduser()


def load_digits(source: str | Path, split: str) -> Digits:
    """Reads the digit images of one split.

    Args:
        source: "mnist" (downloaded once by torchvision into the cache), "embedded" (scikit-learn's
            1,797 digits, enlarged from 8x8), or a folder that holds MNIST's four idx files, gzipped
            or not.
        split: "train", "val" or "test". MNIST: the first 55,000 and the last 5,000 training digits,
            and its test set. Embedded: the first 1,197, the next 300 and the last 300.

    Raises:
        DataError: an unknown split, a missing or broken file, or no network for the download.
    """
    if split not in SPLITS:
        raise DataError(
            f"split {split!r} of the digits does not exist; use one of {', '.join(SPLITS)}"
        )
    if str(source) == "embedded":
        images, labels = _embedded_digits()
        part = {"train": slice(0, -600), "val": slice(-600, -300), "test": slice(-300, None)}[split]
    else:
        folder = _mnist_folder() if str(source) == "mnist" else Path(source).expanduser()
        prefix = "t10k" if split == "test" else "train"
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1).astype(np.int64)
        if images.shape != (len(labels), DIGIT, DIGIT) or labels.max(initial=0) > 9:
            raise DataError(
                f"{folder}: not digits: {prefix} images are {images.shape} for {len(labels)} "
                f"labels up to {labels.max(initial=0)}"
            )
        part = {
            "train": slice(0, -NUM_VALIDATION),
            "val": slice(-NUM_VALIDATION, None),
            "test": slice(None),
        }[split]
    return Digits(images[part], labels[part])


def _embedded_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Scikit-learn's 8x8 digits (0..16), enlarged to 20x20 with a border of 4, as MNIST's digits
    have.
    """
    from PIL import Image
    from sklearn.datasets import load_digits as load_small_digits

    small, labels = load_small_digits(return_X_y=True)
    small = np.minimum(small.reshape(-1, 8, 8) * 16, 255).astype(np.uint8)
    images = np.zeros((len(small), DIGIT, DIGIT), np.uint8)
    for image, pixels in zip(images, small, strict=True):
        image[4:24, 4:24] = np.asarray(
            Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC)
        )
    return images, labels.astype(np.int64)


def _mnist_folder() -> Path:
    """The cache's copy of MNIST, downloaded by torchvision (which checks the files) unless it is
    there.
    """
    from torchvision.datasets import MNIST

    root = cache_folder()
    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST cannot be downloaded into {root} ({error}); pass a folder with its four idx "
            "files as --data.syncmnist.digits FOLDER, "
            "or --data.syncmnist.digits embedded"
        ) from error
    return root / "MNIST" / "raw"


def _read_idx(folder: Path, name: str, num_axes: int) -> NDArray[np.uint8]:
    """Reads one file of the idx format: a big-endian header (0, 0, 8 for bytes, number of axes,
    lengths), then the bytes.
    """
    candidates = [
        place / file
        for place in (folder, folder / "MNIST" / "raw")
        for file in (name, f"{name}.gz")
    ]
    path = next((c for c in candidates if c.is_file()), None)
    if path is None:
        raise DataError(
            f"{folder}: no {name} or {name}.gz; pass mnist, embedded, or a folder with MNIST's "
            "four idx files"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from error
    header = 4 + 4 * num_axes
    lengths = (
        tuple(np.frombuffer(content[4:header], ">u4").tolist())
        if content[:4] == bytes((0, 0, 8, num_axes))
        else ()
    )
    if len(lengths) != num_axes or len(content) != header + int(np.prod(lengths)):
        raise DataError(
            f"{path}: not a whole idx file of bytes with {num_axes} axes; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(lengths)


def released_trajectories(path: str | Path | None = None) -> Trajectories:
    """The 10,000 trajectories of the authors' 5-digit test set.

    The checksum is of the numbers, not of the file: `RELEASED_SHA256` is the sha256 of coordinates,
    image indices and the synchronous flags as little-endian 64-bit integers, one array after the
    other, so that the authors' pickle and an .npz of the same arrays are the same thing.

    Args:
        path: a copy of the authors' `predefined_path_test.pickle`, or an .npz with its arrays.
            None: downloaded once from the authors' repository (at commit 788a7a3) into the cache.

    Raises:
        DataError: no file, no network, a file that is not such trajectories (one that would run
            code is refused), or other numbers than the released ones.
    """
    cached = cache_folder() / "rstg" / "predefined_path_test.npz"
    if path is not None:
        source, found = str(path), read_trajectories(path)
    elif cached.is_file():
        source, found = str(cached), read_trajectories(cached)
    else:
        source = RELEASED_URL
        found = _trajectories_of(
            _unpickle_arrays(_download(RELEASED_URL), RELEASED_URL), RELEASED_URL
        )
    if trajectories_sha256(found) != RELEASED_SHA256:
        raise DataError(
            f"{source}: these are not the released test trajectories (checksum differs); remove "
            "the file or pass another"
        )
    if source == RELEASED_URL:
        with whole_file(cached) as temporary:
            np.savez_compressed(
                temporary,
                coords_digits=found.coordinates[None].astype(np.uint8),
                ind_digits=found.images[None].astype(np.uint32),
                sincron_prob=found.synchronous[None].astype(np.uint8),
            )
    return found


def read_trajectories(path: str | Path) -> Trajectories:
    """Reads trajectories in the authors' layout, from .npz or from their pickle (numpy arrays only;
    code is refused).

    Raises:
        DataError: no such file, or not trajectories.
    """
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); pass predefined_path_test.pickle or .npz"
        ) from error
    arrays = (
        _unzip_arrays(content, str(file))
        if content[:2] == b"PK"
        else _unpickle_arrays(content, str(file))
    )
    return _trajectories_of(arrays, str(file))


def trajectories_sha256(found: Trajectories) -> str:
    """The checksum that `RELEASED_SHA256` holds: independent of file format and integer width."""
    digest = hashlib.sha256()
    for array in (found.coordinates, found.images, found.synchronous):
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    return digest.hexdigest()


def _trajectories_of(arrays: Mapping[str, NDArray[Any]], source: str) -> Trajectories:
    """Takes the authors' arrays apart: a leading axis of passes over MNIST, then videos."""
    ranks = {"coords_digits": 5, "ind_digits": 3, "sincron_prob": 2}
    for name, rank in ranks.items():
        if name not in arrays or arrays[name].ndim != rank or arrays[name].dtype.kind not in "iub":
            raise DataError(
                f"{source}: not trajectories: no array {name} of integers with {rank} axes"
            )
    coordinates, images, synchronous = (
        arrays[name].reshape(-1, *arrays[name].shape[2:]) for name in ranks
    )
    fits = (
        coordinates.shape[-1] == 2
        and images.shape == (len(coordinates), coordinates.shape[2])
        and len(synchronous) == len(coordinates)
    )
    if (
        not fits
        or not len(coordinates)
        or coordinates.min() < 0
        or coordinates.max() > CANVAS - DIGIT
    ):
        raise DataError(
            f"{source}: not trajectories: the arrays do not fit each other or leave the canvas"
        )
    return Trajectories(
        coordinates.astype(np.int64), images.astype(np.int64), synchronous.astype(bool)
    )


def _unzip_arrays(content: bytes, source: str) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{source}: not a whole .npz file of numbers ({error}); copy it again"
        ) from error


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bytes(answer.read())
    except OSError as error:
        raise DataError(
            f"the released test trajectories cannot be downloaded ({error}); fetch {url} "
            "elsewhere and pass the file as "
            "--data.syncmnist.test_paths FILE"
        ) from error


def _unpickle_arrays(content: bytes, source: str) -> dict[str, NDArray[Any]]:
    try:
        found = unpickle_arrays(content)
    except ValueError as error:
        raise DataError(
            f"{source}: not a pickle of numpy arrays ({error}); nothing in it was run"
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"{source}: a pickle of {type(found).__name__}, not of named arrays; pass the "
            "authors' file"
        )
    return {
        str(name): np.asarray(value)
        for name, value in found.items()
        if isinstance(value, np.ndarray)
    }
