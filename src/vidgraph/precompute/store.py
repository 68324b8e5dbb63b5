"""A folder with one file of records per video, and the boxes in it; optical flow is in
`flow_store.py`.

    STORE/store.json                 how all records of the store were made
    STORE/walk/anna.mp4.boxes        the boxes of walk/anna.mp4, see `container.py`

A video is found by the end of its path, so data and store may both be moved; that a file's boxes
are of this very video is held by size and sha256. A record of boxes is their number, a
little-endian uint32; then their corners, float32 fractions of the frame x0, y0, x1, y1; then their
scores, float32, highest first.

Shapes: T frames asked for, K boxes per frame asked for, n boxes of one frame.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.container import (
    FORMAT,
    FORMAT_VERSION,
    Header,
    Method,
    RecordFile,
    size_of,
    source_of,
)
from vidgraph.precompute.flow_fields import FLOW
from vidgraph.util import write_json
from vidgraph.video.transforms import FrameBoxes

BOXES = "boxes"
NOTE = "store.json"
_HOW = {
    BOXES: "vidgraph extract proposals VIDEOS --source motion --out",
    FLOW: "vidgraph extract flow VIDEOS --out",
}
_ROUNDING = 1e-6  # float32 fractions of a border


class Store:
    """A folder of records of one kind, all made in one way.

    Attributes:
        folder: where it is.
        method: how its records were made.

    Raises:
        DataError: the folder is no store, or one of another kind or version.
    """

    def __init__(self, folder: str | Path, record: str) -> None:
        self.folder = Path(folder)
        note = self.folder / NOTE
        if not note.is_file():
            what = (
                "there is no such store"
                if not self.folder.exists()
                else f"is no store, it holds no {NOTE}"
            )
            raise DataError(f"{folder}: {what}; make one with {_HOW[record]} {folder}")
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            version, self.method = content["format_version"], Method.from_dict(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{note}: cannot be read ({error}); extract into a new store"
            ) from error
        if version != FORMAT_VERSION:
            raise DataError(
                f"{folder}: is of format version {version}, and this vidgraph reads "
                f"{FORMAT_VERSION}; extract into a new store"
            )
        if self.method.record != record:
            raise DataError(f"{folder}: holds {self.method.record}, not {record}")

    @classmethod
    def claim(cls, folder: str | Path, method: Method) -> Store:
        """Opens the store for records of `method`, or begins it. A store without any records is of
        no method yet: see `settle`.

        Raises:
            DataError: the folder is a store of another method, version or settings, or holds
                something else.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: is a file; name a folder for the store")
        if not (folder / NOTE).is_file():
            if folder.is_dir() and any(
                not entry.name.startswith(".") for entry in folder.iterdir()
            ):
                raise DataError(
                    f"{folder}: is not empty and no store; name a new or empty folder, or a store"
                )
            _write_note(folder, method)
        store = cls(folder, method.record)
        store._check_is_of(method)
        store.method = method
        return store

    def settle(self) -> None:
        """Writes down the method of the records that now follow, where an earlier run of another
        one left none.

        Raises:
            DataError: there are such records after all.
        """
        stored = Store(self.folder, self.method.record)
        stored._check_is_of(self.method)
        if stored.method != self.method:
            _write_note(self.folder, self.method)

    def _check_is_of(self, method: Method) -> None:
        if self.method != method and self._holds_records():
            what = _difference(self.method, method)
            raise DataError(
                f"{self.folder}: holds {method.record} {what}; choose another --out, or ask for "
                "the same"
            )

    def _holds_records(self) -> bool:
        return any(self.folder.rglob(f"*.{self.method.record}"))

    def path_of(self, name: str) -> Path:
        """Where the records of a video are, by its name in the store."""
        return self.folder / f"{name}.{self.method.record}"

    def find(self, video: str | Path) -> Path:
        """The file whose place in the store is the longest end of the video's path.

        Raises:
            DataError: there is none.
        """
        parts = Path(os.path.abspath(video)).parts[1:]
        for start in range(len(parts)):
            path = self.path_of("/".join(parts[start:]))
            if path.is_file():
                return path
        if not self._holds_records():
            raise DataError(
                f"{self.folder}: holds no {self.method.record} of any video; run the vidgraph "
                "extract that began it again"
            )
        raise DataError(
            f"{self.folder}: holds no {self.method.record} of {video}; run vidgraph extract for "
            "it too, with the same --out"
        )


def _write_note(folder: Path, method: Method) -> None:
    write_json(
        folder / NOTE, {"format": FORMAT, "format_version": FORMAT_VERSION, **method.to_dict()}
    )


def _difference(stored: Method, asked: Method) -> str:
    """`of motion (count 10), not of motion (count 50)`, with what differs; long values, such as
    checksums, by their beginning.
    """
    if (stored.name, stored.version) != (asked.name, asked.version):
        return (
            f"of {stored.name} version {stored.version}, not of {asked.name} version "
            f"{asked.version}"
        )
    keys = [
        key
        for key in {**stored.settings, **asked.settings}
        if stored.settings.get(key) != asked.settings.get(key)
    ]
    texts = (
        ", ".join(f"{key} {str(method.settings.get(key))[:16]}" for key in keys)
        for method in (stored, asked)
    )
    return "of {0} ({1}), not of {0} ({2})".format(stored.name, *texts)


class ReadStore:
    """A store, for reading: every file that is handed out is of this store and of the very video
    that was asked for.

    Args:
        folder: as `vidgraph extract` wrote it.
        record: what it holds, such as `boxes`.

    Raises:
        DataError: the folder is no store of such records.
    """

    def __init__(self, folder: str | Path, record: str) -> None:
        self._store = Store(folder, record)
        self._seen: dict[
            str, tuple[int, int]
        ] = {}  # videos whose content was compared, with size and time of change

    @property
    def folder(self) -> Path:
        return self._store.folder

    @property
    def method(self) -> Method:
        """How the records were made."""
        return self._store.method

    def _file_of(self, video: str | Path) -> tuple[Path, Header]:
        """The file of one video and its first line; the video is compared with what was extracted,
        once per process.

        Raises:
            DataError: the store has none of it, or a file that is half-written, of another version,
                or of another video.
        """
        path = self._store.find(video)
        with RecordFile(path) as file:
            header = file.header
        if header.method != self.method:
            record = self.method.record
            what = (
                _difference(header.method, self.method)
                if header.method.record == record
                else f"not {record}"
            )
            raise DataError(
                f"{path}: does not belong to this store, it is {what}; delete it and run the same "
                "vidgraph extract again"
            )
        self._compare(Path(video), header, path)
        return path, header

    def _compare(self, video: Path, header: Header, path: Path) -> None:
        try:
            state = size_of(video), video.stat().st_mtime_ns
            if self._seen.get(str(video)) == state:
                return
            same = (
                state[0] == header.source.size
                and source_of(video, "").sha256 == header.source.sha256
            )
        except OSError as error:
            raise DataError(f"{video}: cannot be read ({error.strerror or error})") from error
        if not same:
            what = (
                f"holds the {self.method.record} of another video than {video}, or of it "
                "before it changed"
            )
            raise DataError(f"{path}: {what}; delete the file and extract again")
        self._seen[str(video)] = state


class BoxStore(ReadStore):
    """A store of boxes, for reading.

    Args:
        folder: as `vidgraph extract` wrote it.

    Raises:
        DataError: the folder is no store of boxes.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, BOXES)

    def boxes(self, video: str | Path) -> StoredBoxes:
        """The boxes of one video; its content is compared with what was extracted, once per
        process.

        Raises:
            DataError: the store has none of it, or a file that is half-written, of another version,
                or of another video.
        """
        return StoredBoxes(*self._file_of(video))


class StoredBoxes:
    """The boxes of one video.

    Attributes:
        path: their file.
        header: of which video, which frames, how they were made.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self._frames = np.array(header.frame_indices, dtype=np.int64)

    def at(self, frame_indices: Sequence[int] | NDArray[np.int64], count: int) -> FrameBoxes:
        """The `count` boxes of highest score of some frames.

        A frame that has no record takes that of the nearest frame which has one (the earlier of
        two), if that is no further away than the file says its records reach; else it has no boxes.
        Where there are fewer boxes than asked for, the rest is masked.

        Args:
            frame_indices: source frames, in any order, repeated or not, [T].
            count: boxes per frame, K.

        Returns:
            Boxes as fractions of the frame, float32 [T, K, 4]; scores [T, K]; mask [T, K]; zero
            where masked.

        Raises:
            DataError: a frame lies outside the video, or a record holds a box that cannot be one.
        """
        asked = np.asarray(frame_indices, dtype=np.int64).reshape(-1)
        if asked.size and not 0 <= asked.min() <= asked.max() < self.header.num_frames:
            outside = int(asked.max() if asked.min() >= 0 else asked.min())
            raise DataError(
                f"{self.path}: has no frame {outside}, for its video has {self.header.num_frames} "
                "frames"
            )
        boxes = np.zeros((len(asked), count, 4), np.float32)
        scores, mask = (
            np.zeros((len(asked), count), np.float32),
            np.zeros((len(asked), count), bool),
        )
        places = self._places(asked)
        with RecordFile(self.path) as file:
            for place in np.unique(places[places >= 0]).tolist():
                found, found_scores = self._checked(file, place)
                rows, n = places == place, min(count, len(found))
                boxes[rows, :n], scores[rows, :n], mask[rows, :n] = (
                    found[:n],
                    found_scores[:n],
                    True,
                )
        return FrameBoxes(boxes, scores, mask)

    def _places(self, asked: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which record each frame takes; -1 for none, [T]."""
        if not len(self._frames):
            return np.full(len(asked), -1, np.int64)
        after = np.searchsorted(self._frames, asked).clip(max=len(self._frames) - 1)
        before = (after - 1).clip(min=0)
        far_before, far_after = (np.abs(self._frames[place] - asked) for place in (before, after))
        nearest = np.where(far_before <= far_after, before, after)
        return np.where(np.minimum(far_before, far_after) <= self.header.reach_frames, nearest, -1)

    def _checked(
        self, file: RecordFile, place: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        boxes, scores = decode_boxes(file.read(place))
        if problem := box_problem(boxes, scores):
            raise DataError(
                f"{self.path}, frame {self.header.frame_indices[place]}: {problem}; delete the "
                "file and extract again"
            )
        return boxes, scores


# ---- records -------------------------------------------------------------------------------------


def encode_boxes(boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating]) -> bytes:
    """The record of one frame, its boxes sorted by score, equal ones as they came.

    Args:
        boxes_xyxy: fractions of the frame, [n, 4].
        scores: [n].

    Raises:
        DataError: a box that cannot be one, see `box_problem`.
    """
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    boxes, scores = (
        np.asarray(boxes_xyxy, "<f4").reshape(-1, 4)[order],
        np.asarray(scores, "<f4")[order],
    )
    if problem := box_problem(boxes, scores):
        raise DataError(problem)
    return (
        np.uint32(len(boxes)).astype("<u4").tobytes()
        + boxes.clip(0, 1).tobytes()
        + scores.tobytes()
    )


def decode_boxes(record: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `encode_boxes` wrote: boxes [n, 4] and scores [n]."""
    count = int(np.frombuffer(record, "<u4", 1)[0])
    values = np.frombuffer(record, "<f4", offset=4)
    return values[: 4 * count].reshape(count, 4), values[4 * count :]


def box_problem(boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating]) -> str | None:
    """Why boxes [n, 4], fractions of the frame, with scores [n] cannot be boxes, or None where they
    can.
    """
    x0, y0, x1, y1 = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4).T
    faults = (
        (~np.isfinite(x0 + y0 + x1 + y1), "a box holds what is not a number"),
        (~np.isfinite(scores), "a score is not a number"),
        ((x0 > x1) | (y0 > y1), "a box is reversed"),
        (np.minimum(x0, y0) < -_ROUNDING, "a box lies outside the frame"),
        (np.maximum(x1, y1) > 1 + _ROUNDING, "a box lies outside the frame"),
    )
    for wrong, problem in faults:
        if wrong.any():
            values = ", ".join(f"{value:.4g}" for value in boxes_xyxy[int(np.argmax(wrong))])
            return f"{problem} (x0, y0, x1, y1 = {values} of the frame)"
    return None
