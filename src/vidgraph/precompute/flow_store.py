"""Stored optical flow, field by field: a store of ours, or a folder of images that other tools
wrote.

A record is one field, zlib-compressed: all of x, then all of y, row by row, as `flow_fields.py`
makes bytes of motion. Without loss, so that flow from a store and flow computed on the way are
equal. On real clips a field is unpacked as fast as a pair of JPEGs of quality 95, of which it takes
less than twice the bytes, and two to three times as fast as PNG, which is larger
(`benchmarks/flow.py`).

Shapes: n fields, H W pixels; the last axis is x, y.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.container import Header, RecordFile
from vidgraph.precompute.flow_fields import BOUND, FLOW, Indices, checked_indices
from vidgraph.precompute.flow_images import FlowImages, holds_flow_images
from vidgraph.precompute.store import NOTE, ReadStore

_LEVEL = 6  # higher ones cost eight times as long and save 2 %


def open_flow(folder: str | Path, bound: float = BOUND) -> FlowStore | FlowImages:
    """Opens a folder of flow: a store, or images named flow_x_00001.jpg and flow_y_00001.jpg (see
    `FlowImages`).

    Args:
        folder: where it is.
        bound: pixels at 340x256 that the caller takes bytes to reach to; images do not say theirs,
            and are taken to have this one.

    Raises:
        DataError: the folder holds no flow, or a store of another bound.
    """
    path = Path(folder)
    if not (path / NOTE).is_file() and path.is_dir() and holds_flow_images(path):
        return FlowImages(path, bound)
    return FlowStore(path, bound)


class FlowStore(ReadStore):
    """A store of flow, for reading.

    Args:
        folder: as `vidgraph extract flow` wrote it.
        bound: pixels at 340x256 that the caller takes bytes to reach to.

    Raises:
        DataError: the folder is no store of flow, or one of another bound.
    """

    def __init__(self, folder: str | Path, bound: float = BOUND) -> None:
        super().__init__(folder, FLOW)
        stored = self.method.settings.get("bound")
        if stored != bound:
            what = f"holds flow up to {stored} pixels at 340x256, and {bound:g} is asked for"
            raise DataError(f"{folder}: {what}; extract with --bound {bound:g} into a new store")

    def method_dict(self) -> dict[str, Any]:
        """See `FlowSource`."""
        return self.method.to_dict()

    def flow(self, video: str | Path) -> StoredFlow:
        """The flow of one video; its content is compared with what was extracted, once per process.

        Raises:
            DataError: the store has none of it, or a file that is half-written, of another version,
                or of another video.
        """
        path, header = self._file_of(video)
        if header.frame_indices != list(range(header.num_frames - 1)):
            raise DataError(
                f"{path}: does not hold a field for every frame but the last; delete the file and "
                "extract again"
            )
        return StoredFlow(path, header)


class StoredFlow:
    """The flow of one video, from a store; see `FieldReader`.

    Attributes:
        path: the file.
        header: of which video, how it was made.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header

    @property
    def num_fields(self) -> int:
        return len(self.header.frame_indices)

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def width(self) -> int:
        return self.header.width

    def read(self, indices: Indices) -> NDArray[np.uint8]:
        """See `FieldReader.read`; each field is unpacked once."""
        asked = checked_indices(indices, self.num_fields, str(self.path))
        fields = np.empty(
            (len(asked), 2, self.height, self.width), np.uint8
        )  # x and y apart, as models take them in the end
        with RecordFile(self.path) as file:
            for index in np.unique(asked).tolist():
                record = file.read(index)
                try:
                    fields[asked == index] = decode_field(
                        record, self.height, self.width
                    ).transpose(2, 0, 1)
                except (zlib.error, ValueError) as error:
                    problem = (
                        f"holds no field of {self.width}x{self.height} pixels ({error}); "
                        "delete the file and extract again"
                    )
                    raise DataError(f"{self.path}, frame {index}: {problem}") from error
        return fields.transpose(0, 2, 3, 1)


# ---- records -------------------------------------------------------------------------------------


def encode_field(field: NDArray[np.uint8]) -> bytes:
    """The record of a field [H, W, 2]."""
    return zlib.compress(np.ascontiguousarray(field.transpose(2, 0, 1)).tobytes(), _LEVEL)


def decode_field(record: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """What `encode_field` wrote, [H, W, 2].

    Raises:
        zlib.error, ValueError: the record is something else.
    """
    return (
        np.frombuffer(zlib.decompress(record), np.uint8)
        .reshape(2, height, width)
        .transpose(1, 2, 0)
    )
