"""A folder with one safetensors file per video for what is computed once: boxes, optical flow.

    STORE/walk/anna.mp4.safetensors      what was computed of walk/anna.mp4

A file holds two tensors. One is named as the store's kind and holds rows of all stored frames, one
frame after another; the other is `offsets`, int64 [F + 1]: those of the f-th of F stored frames are
rows offsets[f] to offsets[f + 1]. So any frame is read alone, and no code runs in reading it. Its
metadata, in JSON, says of which video, which frames and how they were made.

A video is found by the end of its path, so data and store may both be moved. That a file is of this
very video is checked by the video's size and a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vidgraph.errors import DataError
from vidgraph.util import atomic_write
from vidgraph.video.frame_folder import IMAGE_SUFFIXES

FORMAT = "vidgraph-store-2"
SUFFIX = ".safetensors"
_AGAIN = "delete the file and run the same vidgraph extract again"
_SAMPLES, _SAMPLE_BYTES = 16, 64 << 10  # of a video, for its fingerprint


@dataclass(frozen=True)
class Method:
    """How the content of a store was made. Different methods never share a store.

    Attributes:
        kind: what was made: boxes or flow.
        name: the method, such as `motion`.
        version: of the method; raised whenever the same video would give other values.
        settings: all that the values depend on besides the video.
    """

    kind: str
    name: str
    version: int
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for headers and for the fingerprint of a training's data."""
        content = dict(vars(self))
        return {"kind": content.pop("kind"), "method": content.pop("name"), **content}

    def __str__(self) -> str:
        settings = (f"{key} {str(value)[:16]}" for key, value in self.settings.items())
        return f"{self.kind} of {self.name} version {self.version} ({', '.join(settings)})"


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        method: how its values were made.
        source: the video's path below the folder that was extracted.
        size: of the video in bytes; of a folder of images, of all of them.
        fingerprint: of the video, see `fingerprint`.
        num_frames: of the video.
        height: rows of its frames, in pixels.
        width: columns of its frames, in pixels.
        frame_indices: of the stored frames, increasing, [F].
    """

    method: Method
    source: str
    size: int
    fingerprint: str
    num_frames: int
    height: int
    width: int
    frame_indices: list[int]


def save_file(path: str | Path, header: Header, frames: Iterable[NDArray[Any]]) -> None:
    """Writes the file of one video, whole or not at all.

    Args:
        frames: the rows of each stored frame, [n, ...], alike but for n.

    Raises:
        RunError: the file cannot be written.
    """
    rows = list(frames)
    tensors = {
        "offsets": np.cumsum([0, *map(len, rows)]),
        header.method.kind: np.concatenate(rows) if rows else np.zeros(0, np.uint8),
    }
    # One entry, for safetensors gives several in any order, and equal content has equal bytes.
    metadata = {FORMAT: json.dumps(vars(header) | header.method.to_dict())}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


class StoredVideo:
    """The file of one video, open for reading: its `path` and its `header`.

    Raises:
        DataError: there is no such file, it is not whole, or it is not of a store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = safe_open(path, "numpy")
            content = json.loads((self._file.metadata() or {})[FORMAT])
            names = ("kind", "method", "version", "settings")
            method = Method(*(content.pop(name) for name in names))
            self.header = Header(method, **content)
            self._offsets = self._file.get_tensor("offsets").tolist()
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            what = f"is cut short, or no file of a store ({error})"
            raise DataError(f"{path}: {what}; {_AGAIN}") from error

    def rows(self, number: int) -> NDArray[Any]:
        """The rows of the stored frame `number`, counted from 0, [n, ...]."""
        kind, (begin, end) = self.header.method.kind, self._offsets[number : number + 2]
        if begin == end:  # which safetensors does not slice where it is the end of the tensor
            return np.asarray(self._file.get_tensor(kind)[:0])
        return np.asarray(self._file.get_slice(kind)[begin:end])

    @property
    def most_rows(self) -> int:
        """Of a stored frame."""
        return int(np.diff(self._offsets).max(initial=0))

    def all_rows(self) -> NDArray[Any]:
        """The rows of all stored frames, one frame after another."""
        return np.asarray(self._file.get_tensor(self.header.method.kind))


def path_in_store(folder: str | Path, name: str) -> Path:
    """The file of a video, by the video's name in the store."""
    return Path(folder, name + SUFFIX)


def stored_method(folder: str | Path) -> Method | None:
    """How the files of a store were made; None where there are none, or none that can be read."""
    for path in Path(folder).rglob(f"[!.]*{SUFFIX}"):
        with suppress(DataError):
            return StoredVideo(path).header.method
    return None


class Store:
    """A folder of files of one kind, all made by one `method`, for reading.

    Raises:
        DataError: the folder is no store of this kind and version.
    """

    def __init__(self, folder: str | Path, kind: str) -> None:
        self.folder, method = Path(folder), stored_method(folder)
        if method is None:
            what = "holds no readable file of a store" if self.folder.exists() else "does not exist"
            if Path(folder, "store.json").exists():
                what = "is a store of vidgraph 0.1, which this version does not read"
            verb = {"boxes": "proposals", "crops": "features"}.get(kind, kind)
            how = f"vidgraph extract {verb} VIDEOS --out STORE"
            raise DataError(f"{folder}: {what}; extract again: {how}")
        if method.kind != kind:
            raise DataError(f"{folder}: holds {method.kind}, not {kind}")
        self.method = method
        # Videos that were compared with their files, with size and time of change.
        self._compared: dict[str, tuple[int, int]] = {}

    def load(self, video: str | Path) -> StoredVideo:
        """The file of a video: the one whose path in the store is the longest end of the video's.
        The video is compared with the one that was extracted, once per process.

        Raises:
            DataError: the store has no such file, or one that is not whole, of another method, or
                of another video.
        """
        stored = StoredVideo(self._find(video))
        header = stored.header
        if header.method != self.method:
            raise DataError(f"{stored.path}: holds {header.method}, not {self.method}; {_AGAIN}")
        try:
            facts = os.stat(video)
            state = facts.st_size, facts.st_mtime_ns
            if self._compared.get(str(video)) == state:
                return stored
            same = header.size == size_bytes(video) and header.fingerprint == fingerprint(video)
        except OSError as error:
            raise DataError(f"{video}: cannot be read ({error.strerror or error})") from error
        if not same:
            what = f"holds the {self.method.kind} of another video than {video}"
            raise DataError(f"{stored.path}: {what}, or of it before it changed; {_AGAIN}")
        self._compared[str(video)] = state
        return stored

    def _find(self, video: str | Path) -> Path:
        parts = Path(os.path.abspath(video)).parts[1:]
        for start in range(len(parts)):
            path = path_in_store(self.folder, "/".join(parts[start:]))
            if path.is_file():
                return path
        how = "run vidgraph extract for it too, with the same --out"
        raise DataError(f"{self.folder}: holds no {self.method.kind} of {video}; {how}")


# ---- what a video is known by --------------------------------------------------------------------


def fingerprint(video: str | Path) -> str:
    """SHA-256 of samples of a video: 16 of 64 KiB, evenly spread, so that a long one takes no
    longer than a short one; up to 1 MiB that is all of it. Of a folder of images: of the names and
    sizes of all, and of 16 of them. OSError: it cannot be read.
    """
    path, digest = Path(video), hashlib.sha256()
    if path.is_dir():
        images = sorted(_files(path))
        for image in images:
            digest.update(f"{image.name} {image.stat().st_size}\n".encode())
        samples = [(images[number], 0) for number in _spread(len(images) - 1)]
    else:
        samples = [(path, begin) for begin in _spread(path.stat().st_size - _SAMPLE_BYTES)]
    for file, begin in samples:
        with open(file, "rb") as content:
            content.seek(begin)
            digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def size_bytes(video: str | Path) -> int:
    """Bytes of a video file, or of all images of a folder. OSError: it cannot be read."""
    return sum(file.stat().st_size for file in _files(Path(video)))


def _spread(last: int) -> list[int]:
    """Up to 16 whole numbers from 0 to `last`, evenly spread."""
    return sorted({last * k // (_SAMPLES - 1) for k in range(_SAMPLES)}) if last > 0 else [0]


def _files(video: Path) -> list[Path]:
    """The file of a video, or the images of a folder."""
    if not video.is_dir():
        return [video]
    images = (file for file in video.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    return [image for image in images if not image.name.startswith(".")]
