"""Flow as folders of images, the way most extraction tools write it; read in place.

    FOLDER/v_Lunges_g01_c01/flow_x_00001.jpg, flow_y_00001.jpg, ...    TSN, denseflow; also
    x_00001.jpg FOLDER/u/v_Lunges_g01_c01/frame000001.jpg, FOLDER/v/...            Feichtenhofer et
    al.

There may be folders of classes in between, as in the videos' own paths. The folder of a single
video may be given, too. Numbers start at 0 or 1. Images do not say what they were made of, by which
method, and with which bound; only their number is held against the video.

Shapes: n fields, H W pixels; the last axis is x, y.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.flow_fields import BOUND, FLOW, Indices, checked_indices
from vidgraph.video.reader import open_video

_NAME = re.compile(r"(?:flow_)?(?P<axis>[xy])_?(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_NUMBERED = re.compile(r"\D*(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_UV = ("u", "v")  # folders of x and of y


def holds_flow_images(folder: Path) -> bool:
    """Whether a folder, or one below it, holds images of flow."""
    if _has_uv(folder):
        return True
    return any(_NAME.fullmatch(name) for _, _, names in os.walk(folder) for name in names)


class FlowImages:
    """A folder of flow images; see `FlowSource`.

    Args:
        folder: where the videos' folders are, or the folder of a single video.
        bound: that the images were made with, pixels at 340x256; they do not say it.
    """

    def __init__(self, folder: str | Path, bound: float = BOUND) -> None:
        self.folder, self._bound = Path(folder), bound

    def method_dict(self) -> dict[str, Any]:
        """See `FlowSource`; images do not say by which method they were made."""
        return {
            "record": FLOW,
            "method": "images",
            "version": 1,
            "settings": {"bound": self._bound},
        }

    def flow(self, video: str | Path) -> ImageFlow:
        """The flow of one video: of the longest end of its path, without the suffix, that is a
        folder here.

        Raises:
            DataError: there is none, x and y do not fit together, or their number does not fit the
                video.
        """
        path = Path(os.path.abspath(video))
        for end in _ends(path):
            where = _pair(self.folder, end)
            if where is not None:
                break
        else:
            raise DataError(
                f"{self.folder}: holds no flow images of {video}, no folder {path.stem} with "
                "flow_x_00001.jpg and so on"
            )
        reader = ImageFlow(*where)
        with open_video(path) as opened:
            num_frames = opened.num_frames
        # Some tools repeat the last field, and some lose the first frame.
        if not num_frames - 2 <= reader.num_fields <= num_frames:
            place = where[0][0].parent
            raise DataError(
                f"{place}: holds {reader.num_fields} fields, and {video} has {num_frames} frames; "
                "extract its flow again"
            )
        return reader


class ImageFlow:
    """The flow of one video, from images; see `FieldReader`.

    Args:
        x_files: images of x, in the order of the fields.
        y_files: images of y.
    """

    def __init__(self, x_files: list[Path], y_files: list[Path]) -> None:
        self._files = list(zip(x_files, y_files, strict=True))

    @property
    def num_fields(self) -> int:
        return len(self._files)

    @property
    def height(self) -> int:
        return self._shape[0]

    @property
    def width(self) -> int:
        return self._shape[1]

    @cached_property
    def _shape(self) -> tuple[int, int]:
        height, width = _decoded(self._files[0][0]).shape
        return height, width

    def read(self, indices: Indices) -> NDArray[np.uint8]:
        """See `FieldReader.read`; each image is decoded once."""
        asked = checked_indices(indices, self.num_fields, str(self._files[0][0].parent))
        fields = np.empty((len(asked), self.height, self.width, 2), np.uint8)
        for index in np.unique(asked).tolist():
            for axis, file in enumerate(self._files[index]):
                pixels = _decoded(file)
                if pixels.shape != self._shape:
                    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                    raise DataError(
                        f"{file}: its size {size} differs from {self.width}x{self.height} of the "
                        "first field"
                    )
                fields[asked == index, :, :, axis] = pixels
        return fields


def _decoded(file: Path) -> NDArray[np.uint8]:
    """An image in grey, [H, W]."""
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise DataError(f"{file}: the image cannot be decoded; extract the flow of its video again")
    return np.asarray(pixels, np.uint8)


# ---- where the images of a video are -------------------------------------------------------------


def _ends(video: Path) -> list[str]:
    """Ends of a video's path without its suffix, the longest first; the last is empty, for the
    folder of a single video.
    """
    parts = (video if video.is_dir() else video.with_suffix("")).parts[1:]
    return ["/".join(parts[start:]) for start in range(len(parts) + 1)]


def _has_uv(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in _UV)


def _pair(folder: Path, end: str) -> tuple[list[Path], list[Path]] | None:
    """Images of x and of y of the video whose path has this end, in order; None where there are
    none.

    Raises:
        DataError: there is one of x without one of y, or a number is missing.
    """
    if _has_uv(folder):
        x, y = (_by_number(folder / name / end, _NUMBERED, "") for name in _UV) if end else ({}, {})
    else:
        x, y = (_by_number(folder / end, _NAME, axis) for axis in "xy")
    if not x and not y:
        return None
    numbers, where = sorted(x), folder / end
    if x.keys() != y.keys():
        odd = min(x.keys() ^ y.keys())
        raise DataError(
            f"{where}: has an image number {odd} of only one of x and y; extract its flow again"
        )
    first = numbers[0]
    if first > 1 or numbers != list(range(first, first + len(numbers))):
        missing = (
            1
            if first > 1
            else next(number for number in range(first, numbers[-1]) if number not in x)
        )
        raise DataError(
            f"{where}: lacks the flow images of number {missing}; extract its flow again"
        )
    return [x[number] for number in numbers], [y[number] for number in numbers]


def _by_number(folder: Path, pattern: re.Pattern[str], axis: str) -> dict[int, Path]:
    """The images of one axis in a folder, by their numbers; of all axes where `axis` is empty."""
    if not folder.is_dir():
        return {}
    found = ((pattern.fullmatch(name), name) for name in os.listdir(folder))
    return {
        int(match["number"]): folder / name
        for match, name in found
        if match and axis in match.groupdict().get("axis", "").lower()
    }
