"""Images of handwritten digits: MNIST, or the small digits that come with scikit-learn."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.util import cache_folder

DIGIT = 28  # rows and columns of an image
NUM_VALIDATION = 5000  # the last training digits of MNIST
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Digits:
    """Images of handwritten digits, bright ink on black, and their classes 0..9."""

    images: NDArray[np.uint8]  # [M, 28, 28]
    labels: NDArray[np.int64]  # [M]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def by_class(self) -> list[NDArray[np.int64]]:
        """Indices of the images of each class 0..9, in order."""
        return [np.nonzero(self.labels == c)[0] for c in range(10)]


def load_digits(source: str | Path, split: str) -> Digits:
    """The digit images of one split, "train", "val" or "test".

    `source` is "mnist" (downloaded once by torchvision into the cache) or a folder with MNIST's
    four idx files, gzipped or not: the first 55,000 and the last 5,000 training digits, and the
    test set. Or "embedded": scikit-learn's 1,797 digits; the first 1,197, the next 300, the last.
    """
    if split not in SPLITS:
        raise DataError(f"digits have no split {split!r}; use one of {', '.join(SPLITS)}")
    if str(source) == "embedded":
        images, labels = _embedded_digits()
        part = {"train": slice(0, -600), "val": slice(-600, -300), "test": slice(-300, None)}[split]
        return Digits(images[part], labels[part])
    folder = _mnist_folder() if str(source) == "mnist" else Path(source).expanduser()
    prefix = "t10k" if split == "test" else "train"
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64)
    if images.shape != (len(labels), DIGIT, DIGIT) or labels.max(initial=0) > 9:
        found = f"{images.shape} for {len(labels)} labels up to {labels.max(initial=0)}"
        raise DataError(f"{folder}: not digits: {prefix} images are {found}")
    parts = {"train": slice(-NUM_VALIDATION), "val": slice(-NUM_VALIDATION, None)}
    part = parts.get(split, slice(None))
    return Digits(images[part], labels[part])


def _embedded_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Scikit-learn's 8x8 digits (0..16), enlarged to 20x20 with a border of 4 as in MNIST."""
    from PIL import Image
    from sklearn.datasets import load_digits as load_small_digits

    small, labels = load_small_digits(return_X_y=True)
    small = np.minimum(small.reshape(-1, 8, 8) * 16, 255).astype(np.uint8)
    images = np.zeros((len(small), DIGIT, DIGIT), np.uint8)
    for image, pixels in zip(images, small, strict=True):
        enlarged = Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC)
        image[4:24, 4:24] = np.asarray(enlarged)
    return images, labels.astype(np.int64)


def _mnist_folder() -> Path:
    """The cache's copy of MNIST, which torchvision downloads and checks unless it is there."""
    from torchvision.datasets import MNIST

    root = cache_folder()
    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST cannot be downloaded into {root} ({error}); pass a folder with its four idx "
            "files as --data.syncmnist.digits FOLDER, or --data.syncmnist.digits embedded"
        ) from error
    return root / "MNIST" / "raw"


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """One file of bytes: 0, 0, 8, number of axes; big-endian lengths; the bytes. (torchvision reads
    unpacked files only, and would unpack into a folder that may not be ours.)
    """
    below = (folder, folder / "MNIST" / "raw")
    files = [at / file for at in below for file in (name, f"{name}.gz")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        what = "mnist, embedded, or a folder with MNIST's four idx files"
        raise DataError(f"{folder}: no {name} or {name}.gz; pass {what}")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lengths = np.frombuffer(content, ">u4", content[3], 4)
        return np.frombuffer(content, np.uint8, offset=4 + lengths.nbytes).reshape(lengths)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a whole idx file ({error}); download it again") from error
