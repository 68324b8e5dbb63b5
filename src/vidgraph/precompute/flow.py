"""Optical flow: how far each pixel of a frame moves up to the next one, by one of three methods.

    dis     OpenCV's dense inverse search, preset medium (Kroeger et al., ECCV 2016); the default
    tvl1    OpenCV's dual TV-L1 with its own settings (Zach et al., 2007), as the Spatiotemporal
            Pyramid paper and TSN have it; slow
    raft    torchvision's RAFT (Teed and Deng, ECCV 2020); needs weights, and a GPU to be of use

A `FlowJob` stores the flow of many videos, or computes that of one as it is read, with equal bytes.

Shapes: n flow frames, H W pixels; the last axis is x, y.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError, VideoError, nearest
from vidgraph.precompute.extract import Compute, Task
from vidgraph.precompute.flow_store import BOUND, FLOW, FlowStore, in_range, pack_flow, quantize
from vidgraph.precompute.frames import FrameMethod, computed, grey, reduced_size
from vidgraph.precompute.store import Method
from vidgraph.video.base import Video

METHODS = ("dis", "tvl1", "raft")
_VERSION = 1  # of all of them
_LEAST_SIDE = 32  # pixels; below, OpenCV's DIS crashes
_KEPT_BYTES = 256 << 20  # flow frames that LiveFlow holds, for flow stacks and views overlap


@dataclass(frozen=True)
class FlowJob:
    """The flow between each two frames by one method; a `Job`, or where flow comes from.

    Attributes:
        algorithm: one of `METHODS`.
        bound: motion that 8 bits reach to, in pixels at 340x256.
        short_side: pixels that the frames' shorter side is reduced to before; None: not at all.
        weights: of raft: None for torchvision's, a file, or `random`.

    Raises:
        DataError: an unknown method, a bound of no motion, or weights for a method without any.
    """

    algorithm: str = "dis"
    bound: float = BOUND
    short_side: int | None = None
    weights: str | None = None
    is_live = True

    def __post_init__(self) -> None:
        if self.algorithm not in METHODS:
            hint = nearest(self.algorithm, METHODS)
            raise DataError(f"there is no method {self.algorithm!r} of optical flow{hint}")
        if not 0 < self.bound < float("inf"):
            raise DataError(f"the bound of flow is a number of pixels above 0, not {self.bound:g}")
        if self.weights is not None and self.algorithm != "raft":
            raise DataError(f"the method {self.algorithm} has no weights; they belong to raft")

    @property
    def use_gpu(self) -> bool:
        return self.algorithm == "raft"

    @property
    def method(self) -> Method:
        """See `Job`; raises WeightsError where raft has no weights."""
        settings: dict[str, Any] = {"bound": float(self.bound), "short_side": self.short_side}
        if self.algorithm == "raft":
            from vidgraph.precompute.networks import RAFT_WEIGHTS

            settings["weights"] = RAFT_WEIGHTS.name(self.weights)
        return Method(FLOW, self.algorithm, _VERSION, settings)

    def load(self) -> FrameMethod:
        """What finds the motion in pixels from a frame to the next one, [H, W, 2]."""
        if self.algorithm == "raft":
            from vidgraph.precompute.networks import Raft

            return Raft(self.weights, self.short_side)
        return _OpenCVFlow(self.algorithm, self.short_side)

    def reader(self, path: str | Path, video: Video) -> LiveFlow:
        """The flow of one open video, computed as it is read."""
        return LiveFlow(video, self, self.load())

    def start(self) -> Compute:
        """See `Job`."""
        return partial(self._compute, self.load())

    def _compute(
        self, loaded: FrameMethod, task: Task, video: Video, counts: Counter[str]
    ) -> tuple[list[int], Iterator[NDArray[np.uint8]]]:
        frame_indices = list(range(LiveFlow(video, self, loaded).num_flow_frames))
        return frame_indices, self._packed(video, frame_indices, loaded, counts)

    def _packed(
        self, video: Video, frame_indices: list[int], loaded: FrameMethod, counts: Counter[str]
    ) -> Iterator[NDArray[np.uint8]]:
        for motion in computed(video, frame_indices, loaded):
            flow = quantize(motion, self.bound)
            cut_off = int(np.isin(flow, (0, 255)).sum())
            counts.update(flow_frames=1, values=flow.size, cut_off=cut_off)
            yield pack_flow(flow)


class LiveFlow:
    """The flow of one video, computed as it is read by a job's method; see `FlowReader`. Equal to
    what is stored. Flow frames that were read are kept, up to 256 MiB of them.

    Raises:
        VideoError: the video has one frame only.
    """

    def __init__(self, video: Video, job: FlowJob, loaded: FrameMethod) -> None:
        if video.num_frames < 2:
            problem = "the video has one frame, and optical flow is the motion between two"
            raise VideoError(video.path, problem)
        self.num_flow_frames = video.num_frames - 1
        self.height, self.width = reduced_size(video.height, video.width, job.short_side)
        self._video, self._bound, self._loaded = video, job.bound, loaded
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `FlowReader.read`; each flow frame is computed once."""
        asked = in_range(indices, self.num_flow_frames, self._video.path)
        flow = np.empty((len(asked), self.height, self.width, 2), np.uint8)
        wanted = np.unique(asked).tolist()
        missing = [index for index in wanted if index not in self._kept]
        for index in set(wanted).difference(missing):
            flow[asked == index] = self._kept[index]
        found = computed(self._video, missing, self._loaded)
        for index, motion in zip(missing, found, strict=True):
            one = quantize(motion, self._bound)
            flow[asked == index] = self._kept[index] = one
            if len(self._kept) * one.nbytes > _KEPT_BYTES:
                del self._kept[next(iter(self._kept))]
        return flow


class _OpenCVFlow:
    """A method of OpenCV: from two frames in grey, [H, W], to motion in pixels, [H, W, 2]."""

    offsets: tuple[int, ...] = (1,)

    def __init__(self, algorithm: str, short_side: int | None) -> None:
        import cv2

        # DIS depends on the number of threads; videos are done in parallel, not pixels.
        cv2.setNumThreads(1)
        self._short_side = short_side
        self._method: Any  # OpenCV's stubs do not know that calc takes None
        if algorithm == "dis":
            self._method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        elif hasattr(cv2, "optflow"):
            self._method = cv2.optflow.DualTVL1OpticalFlow.create()
        else:
            what = "TV-L1 is in OpenCV's contrib modules: uninstall every opencv package"
            raise DataError(f"{what}, then install opencv-contrib-python-headless")

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return grey(pixels, self._short_side)

    def compute(
        self, frame: NDArray[np.uint8], neighbours: Sequence[NDArray[np.uint8]]
    ) -> NDArray[np.float32]:
        """Frames too small for OpenCV are continued by their border."""
        height, width = frame.shape
        margin = (0, max(0, _LEAST_SIDE - height)), (0, max(0, _LEAST_SIDE - width))
        images = (np.pad(image, margin, mode="edge") for image in (frame, *neighbours))
        return np.asarray(self._method.calc(*images, None), np.float32)[:height, :width]


# ---- what a recipe or the command names ----------------------------------------------------------


FlowSource = FlowStore | FlowJob
LIVE = "live"


def open_flow(where: str | Path, bound: float = BOUND) -> FlowSource:
    """Opens what a recipe or the command names.

    Args:
        where: a store of flow, `live` to compute it with DIS as videos are read, or `live:tvl1` and
            so on for another method.
        bound: what a byte reaches to, pixels at 340x256.

    Raises:
        DataError: there is no flow, or it has another bound; an unknown method.
    """
    word, colon, algorithm = str(where).partition(":")
    if word != LIVE or (colon and not algorithm):
        return FlowStore(where, bound)
    return FlowJob(algorithm or FlowJob.algorithm, bound)


def flow_as_trained(run: str | Path, where: str | Path | None) -> FlowSource:
    """Flow for a model, with the bound that its run folder was trained with: of `where`, as for
    `open_flow`, or computed by the method of the training; DIS where that is not known.
    """
    try:
        content = json.loads((Path(run) / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    trained = content.get("flow") or {}
    settings, algorithm = trained.get("settings", {}), trained.get("method")
    bound = float(settings.get("bound", BOUND))
    if where is not None:
        return open_flow(where, bound)
    known = algorithm if algorithm in METHODS else FlowJob.algorithm
    return FlowJob(known, bound, settings.get("short_side"))
