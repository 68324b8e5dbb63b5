"""One file per video: a line of JSON, then one record per stored frame, readable at random.

    {"format": "vidgraph-store", "format_version": 1, "record": "boxes", ...}
    record of the first stored frame, record of the second, ...

The line says which video the records are of (name, size, sha256), how they were made (method,
version, settings), which frames they belong to, and where each record ends. What is in a record is
the business of its kind: boxes in `store.py`, flow in `flow_store.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vidgraph.errors import DataError
from vidgraph.util import whole_file
from vidgraph.video.frame_folder import IMAGE_SUFFIXES

FORMAT, FORMAT_VERSION = "vidgraph-store", 1
_START = b'{"format":"vidgraph-store"'
_AGAIN = "run the same vidgraph extract again"
_IN_MEMORY_BYTES = 64 << 20  # records of a video beyond this wait in a temporary file


@dataclass(frozen=True)
class Method:
    """How records were made. Records of different methods never share a store.

    Attributes:
        record: their kind, such as `boxes`.
        name: the method, such as `motion`.
        version: of the method; raised whenever the same input would give other records.
        settings: all that the records depend on besides the video.
    """

    record: str
    name: str
    version: int
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in files."""
        return {
            "record": self.record,
            "method": self.name,
            "version": self.version,
            "settings": self.settings,
        }

    @classmethod
    def from_dict(cls, content: Any) -> Method:
        """What `to_dict` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(*(content[key] for key in ("record", "method", "version", "settings")))


@dataclass(frozen=True)
class Source:
    """A video, known by its content.

    Attributes:
        name: where it lay below the folder that was extracted.
        size: bytes; of a folder of images, of all of them.
        sha256: of the file; of a folder, of the sorted lines `sha256  name` of its images.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Header:
    """The first line of a file.

    Attributes:
        method: how the records were made.
        source: of which video.
        num_frames: of the video.
        height: rows of its frames, in pixels; of the fields, if the records are flow, which may be
            smaller.
        width: columns of them, in pixels.
        reach_frames: a record also stands for frames up to this far from its own.
        frame_indices: source frame of each record, increasing.
    """

    method: Method
    source: Source
    num_frames: int
    height: int
    width: int
    reach_frames: int
    frame_indices: list[int]


def write_records(path: str | Path, header: Header, records: Iterable[bytes]) -> None:
    """Writes one file, whole or not at all.

    Args:
        path: the file; its folder is made.
        header: its first line.
        records: one per entry of `header.frame_indices`, in that order; may be a generator.

    Raises:
        RunError: the file cannot be written.
        ValueError: more or fewer records than frames.
    """
    ends, checksums = [], []
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as waiting:
        for record in records:
            waiting.write(record)
            ends.append(waiting.tell())
            checksums.append(zlib.crc32(record))
        if len(ends) != len(header.frame_indices):
            raise ValueError(f"{len(ends)} records for {len(header.frame_indices)} frames")
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **header.method.to_dict()}
        content |= {key: value for key, value in asdict(header).items() if key != "method"}
        line = json.dumps(
            content | {"ends": ends, "crc32": checksums}, separators=(",", ":")
        ).encode()
        waiting.seek(0)
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            file.write(line + b"\n")
            shutil.copyfileobj(waiting, file)


class RecordFile:
    """A file of records, open for reading; use as a context manager.

    Attributes:
        path: the file.
        header: its first line.

    Raises:
        DataError: there is no such file, it is of another format or version, or not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 (closed by `close`)
            line = self._file.readline()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            self.header, self._ends, self._checksums = _parse(self.path, line)
            self._start, size = len(line), self.path.stat().st_size
            whole = self._start + (self._ends[-1] if self._ends else 0)
            if size != whole:
                raise DataError(
                    f"{path}: is {'cut short' if size < whole else 'too long'}, {size:,} bytes "
                    f"instead of {whole:,}; {_AGAIN}"
                )
        except BaseException:
            self._file.close()
            raise

    def read(self, place: int) -> bytes:
        """The record at `place`, counted from 0.

        Raises:
            DataError: its bytes are not those that were written.
        """
        begin = self._ends[place - 1] if place else 0
        self._file.seek(self._start + begin)
        record = self._file.read(self._ends[place] - begin)
        if zlib.crc32(record) != self._checksums[place]:
            raise DataError(
                f"{self.path}, frame {self.header.frame_indices[place]}: the record is damaged; "
                f"delete the file and {_AGAIN}"
            )
        return record

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _parse(path: Path, line: bytes) -> tuple[Header, list[int], list[int]]:
    """The header, where each record ends, and their checksums."""
    if not line.startswith(_START[: len(line)] if len(line) < len(_START) else _START):
        raise DataError(f"{path}: is no file of a vidgraph store")
    try:
        content = json.loads(line)
        version = content["format_version"]
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}: is cut short or damaged, its first line is not whole; {_AGAIN}"
        ) from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: is of format version {version}, and this vidgraph reads {FORMAT_VERSION}; "
            "extract into a new store"
        )
    try:
        method = Method.from_dict(content)
        source = Source(**content["source"])
        frames = [int(index) for index in content["frame_indices"]]
        num_frames, height, width, reach = (
            int(content[key]) for key in ("num_frames", "height", "width", "reach_frames")
        )
        ends, checksums = content["ends"], content["crc32"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: its first line is damaged ({error}); delete the file and {_AGAIN}"
        ) from error
    increasing = bool(np.all(np.diff(frames) > 0)) and (
        not frames or 0 <= frames[0] <= frames[-1] < num_frames
    )
    if not (len(frames) == len(ends) == len(checksums) and increasing):
        raise DataError(
            f"{path}: its first line is damaged (its frames do not fit together); delete the file "
            f"and {_AGAIN}"
        )
    return Header(method, source, num_frames, height, width, reach, frames), ends, checksums


# ---- what a video is known by --------------------------------------------------------------------


def source_of(video: str | Path, name: str) -> Source:
    """Reads a video's bytes and says what they are known by.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(video)
    if not path.is_dir():
        return Source(name, path.stat().st_size, _sha256(path))
    images = _images(path)
    lines = sorted(f"{_sha256(image)}  {image.name}\n" for image in images)
    return Source(name, size_of(path), hashlib.sha256("".join(lines).encode()).hexdigest())


def size_of(video: str | Path) -> int:
    """Bytes of a video file, or of all images of a folder.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(video)
    return (
        sum(image.stat().st_size for image in _images(path))
        if path.is_dir()
        else path.stat().st_size
    )


def _images(folder: Path) -> list[Path]:
    return [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
