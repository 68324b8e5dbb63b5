"""Optical flow: how far each pixel of a frame moves up to the next one, by one of four methods.

    dis         OpenCV's dense inverse search, preset medium (Kroeger et al., ECCV 2016); the
    default tvl1        OpenCV's dual TV-L1 with its own settings (Zach et al., 2007), as the
    Spatiotemporal Pyramid paper and TSN have it; slow farneback   OpenCV's polynomial expansion
    (Farneback, 2003) raft        torchvision's RAFT (Teed and Deng, ECCV 2020); needs weights, and
    a GPU to be of use

`FlowJob` stores the flow of many videos; `LiveFlow` computes that of one video as it is read. Both
give equal bytes.

Shapes: n fields, H W pixels; the last axis is x, y.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError, VideoError, nearest
from vidgraph.precompute.container import Method
from vidgraph.precompute.flow_fields import BOUND, FLOW, Indices, checked_indices, quantise
from vidgraph.precompute.flow_store import encode_field
from vidgraph.precompute.proposals import prepared_frames
from vidgraph.precompute.sources import FrameUser, reduced, reduced_size
from vidgraph.precompute.tasks import Extracted, Task
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video

METHODS = ("dis", "tvl1", "farneback", "raft")
_VERSIONS = {"dis": 1, "tvl1": 1, "farneback": 1, "raft": 1}
_LEAST_SIDE = 32  # pixels; below, OpenCV's DIS crashes
_KEPT_BYTES = 256 << 20  # fields that LiveFlow holds, for snippets and views overlap

Grey = NDArray[np.uint8]
Field = NDArray[np.float32]


class Estimator(FrameUser, Protocol):
    """Finds the motion from a frame to the next one; `offsets` is (1,)."""

    def field(self, frame: Any, following: Any) -> Field:
        """Motion in pixels between two frames as `prepare` gave them, [H, W, 2]."""
        ...


@dataclass(frozen=True)
class FlowJob:
    """Stores the flow between each two frames; a job of the engine.

    Attributes:
        algorithm: one of `METHODS`.
        bound: motion that 8 bits reach to, in pixels at 340x256.
        short_side: frames are reduced to this many pixels of the shorter side before; None: fields
            are of the video's own size.
        weights: of raft: None for torchvision's, a file, or `random`.

    Raises:
        DataError: a method that does not exist, a bound of no motion, or weights for a method that
            has none.
    """

    algorithm: str = "dis"
    bound: float = BOUND
    short_side: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in METHODS:
            raise DataError(
                f"there is no method {self.algorithm!r} of optical "
                f"flow{nearest(self.algorithm, METHODS)}"
            )
        if not 0 < self.bound < float("inf"):
            raise DataError(f"the bound of flow is a number of pixels above 0, not {self.bound:g}")
        if self.weights is not None and self.algorithm != "raft":
            raise DataError(f"the method {self.algorithm} has no weights; they belong to raft")

    @property
    def wants_gpu(self) -> bool:
        return self.algorithm == "raft"

    def method(self) -> Method:
        """Settings that the fields depend on. Of raft, its weights are looked for, and downloaded
        where they are torchvision's.

        Raises:
            WeightsError: there are none, or they are not those of the network.
        """
        settings: dict[str, Any] = {"bound": float(self.bound), "short_side": self.short_side}
        if self.algorithm == "raft":
            from vidgraph.precompute.raft import weights_name

            settings["weights"] = weights_name(self.weights)
        return Method(FLOW, self.algorithm, _VERSIONS[self.algorithm], settings)

    def start(self) -> Callable[[Task], Extracted]:
        """Loads the method; the function reads one video and gives its fields as they are found."""
        estimator = open_estimator(self.algorithm, self.short_side, self.weights)

        def work(task: Task) -> Extracted:
            with open_video(task.video) as video:
                num_fields, (height, width) = (
                    _num_fields(video),
                    _field_size(video, self.short_side),
                )
            counts = Counter[str]()
            records = self._records(task.video, num_fields, estimator, counts)
            return Extracted(
                list(range(num_fields)), num_fields + 1, height, width, 0, records, counts
            )

        return work

    def _records(
        self, path: Path, num_fields: int, estimator: Estimator, counts: Counter[str]
    ) -> Iterator[bytes]:
        """One field after another, so that a long video needs no more memory than a short one."""
        with open_video(path) as video:
            for frame, (following,) in prepared_frames(video, range(num_fields), estimator):
                field = quantise(estimator.field(frame, following), self.bound)
                ends = np.bincount(field.ravel(), minlength=256)[[0, 255]]
                counts.update(fields=1, values=field.size, cut_off=int(ends.sum()))
                yield encode_field(field)


class LiveFlow:
    """The flow of one video, computed as it is read; see `FieldReader`. Equal to what `FlowJob`
    stores.

    Fields that were read are kept, up to 256 MiB of them, for snippets and views overlap.

    Args:
        video: opened; stays open while this is read.
        method: one of `METHODS`.
        bound: see `FlowJob`.
        short_side: see `FlowJob`.
        weights: see `FlowJob`.

    Raises:
        DataError: see `FlowJob`.
        VideoError: the video has one frame only.
        WeightsError: the weights of raft are missing.
    """

    def __init__(
        self,
        video: Video,
        method: str = "dis",
        *,
        bound: float = BOUND,
        short_side: int | None = None,
        weights: str | None = None,
    ) -> None:
        FlowJob(method, bound, short_side, weights)  # refuses what makes no sense
        self._video, self._bound = video, bound
        self._num_fields, (self._height, self._width) = (
            _num_fields(video),
            _field_size(video, short_side),
        )
        self._estimator = open_estimator(method, short_side, weights)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    @property
    def num_fields(self) -> int:
        return self._num_fields

    @property
    def height(self) -> int:
        return self._height

    @property
    def width(self) -> int:
        return self._width

    def read(self, indices: Indices) -> NDArray[np.uint8]:
        """See `FieldReader.read`; each field is computed once."""
        asked = checked_indices(indices, self.num_fields, str(self._video.path))
        fields = np.empty((len(asked), self.height, self.width, 2), np.uint8)
        missing = []
        for index in np.unique(asked).tolist():
            if index in self._kept:
                fields[asked == index] = self._kept[index]
            else:
                missing.append(index)
        found = prepared_frames(self._video, missing, self._estimator) if missing else ()
        for index, (frame, (following,)) in zip(missing, found, strict=True):
            field = quantise(self._estimator.field(frame, following), self._bound)
            fields[asked == index] = field
            self._keep(index, field)
        return fields

    def _keep(self, index: int, field: NDArray[np.uint8]) -> None:
        self._kept[index] = field
        if len(self._kept) * field.nbytes > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]


def _num_fields(video: Video) -> int:
    if video.num_frames < 2:
        raise VideoError(
            video.path, "the video has one frame, and optical flow is the motion between two"
        )
    return video.num_frames - 1


def _field_size(video: Video, short_side: int | None) -> tuple[int, int]:
    size = video.height, video.width
    return reduced_size(*size, short_side or min(size))


# ---- methods -------------------------------------------------------------------------------------


def open_estimator(
    method: str, short_side: int | None = None, weights: str | None = None
) -> Estimator:
    """One of `METHODS`, loaded.

    Raises:
        DataError: OpenCV here lacks its contrib modules, which hold TV-L1.
        WeightsError: the weights of raft are missing or are not those of the network.
    """
    if method == "raft":
        from vidgraph.precompute.raft import Raft

        return Raft(weights, short_side)
    return _OpenCVFlow({"dis": _dis, "tvl1": _tvl1, "farneback": _farneback}[method](), short_side)


class _OpenCVFlow:
    """A method of OpenCV: from two frames in grey, [H, W], to motion in pixels, [H, W, 2]."""

    offsets: tuple[int, ...] = (1,)

    def __init__(self, calculate: Callable[[Grey, Grey], Any], short_side: int | None) -> None:
        cv2.setNumThreads(
            1
        )  # DIS depends on the number of threads; videos are done in parallel, not pixels
        self._calculate, self._short_side = calculate, short_side

    def prepare(self, pixels: NDArray[np.uint8]) -> Grey:
        """The frame in grey, reduced, [H, W]."""
        smaller = pixels if self._short_side is None else reduced(pixels, self._short_side)
        return np.asarray(cv2.cvtColor(smaller, cv2.COLOR_RGB2GRAY), np.uint8)

    def field(self, frame: Grey, following: Grey) -> Field:
        """See `Estimator.field`; frames too small for OpenCV are continued by their border."""
        height, width = frame.shape
        margin = (0, max(0, _LEAST_SIDE - height)), (0, max(0, _LEAST_SIDE - width))
        if margin != ((0, 0), (0, 0)):
            frame, following = (np.pad(image, margin, mode="edge") for image in (frame, following))
        return np.asarray(self._calculate(frame, following), np.float32)[:height, :width]


def _dis() -> Callable[[Grey, Grey], Any]:
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda frame, following: method.calc(frame, following, None)  # type: ignore[call-overload]


def _tvl1() -> Callable[[Grey, Grey], Any]:
    if not hasattr(cv2, "optflow"):
        raise DataError(
            "TV-L1 is in OpenCV's contrib modules: uninstall every opencv package, then install "
            "opencv-contrib-python-headless"
        )
    method = cv2.optflow.DualTVL1OpticalFlow.create()
    return lambda frame, following: method.calc(frame, following, None)  # type: ignore[call-overload]


def _farneback() -> Callable[[Grey, Grey], Any]:
    settings = {
        "pyr_scale": 0.5,
        "levels": 5,
        "winsize": 11,
        "iterations": 5,
        "poly_n": 5,
        "poly_sigma": 1.1,
        "flags": 0,
    }
    return lambda frame, following: cv2.calcOpticalFlowFarneback(frame, following, None, **settings)  # type: ignore[call-overload]
