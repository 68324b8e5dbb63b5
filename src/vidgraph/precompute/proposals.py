"""Boxes that may hold something, proposed for the frames of a video by one of three sources.

    rpn                region proposal network of a COCO detector, as the STRG paper uses it; needs
    weights selective-search   OpenCV's grouping of alike regions (Uijlings et al., IJCV 2013);
    needs none motion             regions that move against the background; needs none

Shapes: n boxes of one frame, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError, nearest
from vidgraph.precompute.container import Method
from vidgraph.precompute.sources import Boxes, BoxSource, FrameUser
from vidgraph.precompute.store import BOXES, encode_boxes
from vidgraph.precompute.tasks import Extracted, Task
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video

SOURCES = ("rpn", "selective-search", "motion")
SHORT_SIDES = {"rpn": 800, "selective-search": 160, "motion": 128}  # pixels that a source looks at
_VERSIONS = {"rpn": 1, "selective-search": 1, "motion": 1}
_STREAM_SHARE = 1 / 4  # where more of the frames are wanted, decoding all is cheaper than seeking
_READ_AT_ONCE = 8


@dataclass(frozen=True)
class ProposalJob:
    """Proposes boxes on a grid of frames; a job of the engine.

    Attributes:
        source: one of `SOURCES`.
        count: most boxes per frame, those of highest score.
        every: distance of the frames that are looked at, in source frames; 1 for all.
        fps: in place of `every`, frames per second of video.
        short_side: the frames' shorter side as the source sees it, in pixels; None: 800 for rpn,
            160 for selective-search, 128 for motion.
        weights: of rpn: None for torchvision's, a file, or `random`.

    Raises:
        DataError: a source that does not exist, both `every` and `fps`, or weights for a source
            that has none.
    """

    source: str
    count: int = 50
    every: int = 1
    fps: float | None = None
    short_side: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise DataError(
                f"there is no source {self.source!r} of boxes{nearest(self.source, SOURCES)}"
            )
        if self.fps is not None and (self.every != 1 or not self.fps > 0):
            raise DataError(
                f"frames are chosen by fps, which is above 0, or by every; got {self.fps:g} and "
                f"{self.every}"
            )
        if self.weights is not None and self.source != "rpn":
            raise DataError(f"the source {self.source} has no weights; they belong to rpn")

    @property
    def wants_gpu(self) -> bool:
        return self.source == "rpn"

    def method(self) -> Method:
        """Settings that the boxes depend on. Of the rpn, its weights are looked for, and downloaded
        where they are torchvision's.

        Raises:
            WeightsError: there are none, or they are not those of the network.
        """
        settings: dict[str, Any] = {"count": self.count} | (
            {"every": self.every} if self.fps is None else {"fps": self.fps}
        )
        settings["short_side"] = self._short_side
        if self.source == "rpn":
            from vidgraph.precompute.rpn import weights_name

            settings["weights"] = weights_name(self.weights)
        return Method(BOXES, self.source, _VERSIONS[self.source], settings)

    def start(self) -> Callable[[Task], Extracted]:
        """Loads the source; the function reads one video and proposes boxes in it."""
        source = self._open()

        def work(task: Task) -> Extracted:
            with open_video(task.video) as video:
                frames = frame_grid(video, self.every, self.fps)
                found = [
                    cut(*source.propose(frame, others), self.count)
                    for frame, others in prepared_frames(video, frames, source)
                ]
                counts = {
                    "frames": len(frames),
                    "boxes": sum(len(b) for b, _ in found),
                    "bare": sum(not len(b) for b, _ in found),
                }
                records, reach = (
                    [encode_boxes(*boxes) for boxes in found],
                    grid_reach(frames, video.num_frames),
                )
                return Extracted(
                    frames, video.num_frames, video.height, video.width, reach, records, counts
                )

        return work

    @property
    def _short_side(self) -> int:
        return self.short_side or SHORT_SIDES[self.source]

    def _open(self) -> BoxSource:
        if self.source == "rpn":
            from vidgraph.precompute.rpn import RegionProposals

            return RegionProposals(self.weights, self._short_side)
        if self.source == "selective-search":
            from vidgraph.precompute.selective_search import SelectiveSearch

            return SelectiveSearch(self._short_side)
        from vidgraph.precompute.motion import MovingRegions

        return MovingRegions(self._short_side)


# ---- frames --------------------------------------------------------------------------------------


def frame_grid(video: Video, every: int, fps: float | None) -> list[int]:
    """The frames that are looked at: 0, `every`, 2 `every`, ...; or those on the screen at 0 s, 1 /
    fps s, 2 / fps s, ...
    """
    if fps is None:
        return list(range(0, video.num_frames, every))
    times = video.timestamps_seconds
    wanted = np.arange(int(np.floor(times[-1] * fps)) + 1) / fps
    return sorted(
        set((np.searchsorted(times, wanted + 1e-3, side="right") - 1).clip(min=0).tolist())
    )


def grid_reach(frames: Sequence[int], num_frames: int) -> int:
    """How far the frame of a video that is furthest from all of `frames` is from the nearest of
    them.
    """
    between = max((int(gap) // 2 for gap in np.diff(frames)), default=0)
    return max(between, frames[0], num_frames - 1 - frames[-1])


def prepared_frames(
    video: Video, frames: Sequence[int], source: FrameUser
) -> Iterator[tuple[Any, list[Any]]]:
    """Each of `frames` and its neighbours, as the source prepares them; every frame is decoded and
    prepared once.
    """
    end, furthest = video.num_frames, max(map(abs, source.offsets), default=0)
    near = {frame: [frame + offset for offset in source.offsets] for frame in frames}
    needed = {
        index for frame, others in near.items() for index in (frame, *others) if 0 <= index < end
    }
    read, held = _read(video, sorted(needed)), dict[int, Any]()
    for frame, others in near.items():
        while not needed.isdisjoint((frame, *others)):
            index, pixels = next(read)
            needed.discard(index)
            held[index] = source.prepare(pixels)
        yield held[frame], [held.get(index) for index in others]
        held = {index: kept for index, kept in held.items() if index >= frame - furthest}


def _read(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frames `wanted` (increasing) with their indices."""
    if len(wanted) > _STREAM_SHARE * video.num_frames:
        places, last = set(wanted), wanted[-1]
        for index, pixels in enumerate(video.frames()):
            if index in places:
                yield index, pixels
            if index == last:
                return
        return
    for start in range(0, len(wanted), _READ_AT_ONCE):
        part = wanted[start : start + _READ_AT_ONCE]
        yield from zip(part, video.read(part), strict=True)


# ---- boxes ---------------------------------------------------------------------------------------


def cut(boxes_xyxy: Boxes, scores: Boxes, count: int) -> tuple[Boxes, Boxes]:
    """The first `count` boxes, inside of the frame."""
    return boxes_xyxy[:count].clip(0, 1), scores[:count]
