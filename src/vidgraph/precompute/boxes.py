"""Boxes in a store, read by frame.

The rows of a frame are its boxes, highest score first: x0, y0, x1, y1 as fractions of the frame,
then the score, float32 [n, 5]; where the method knows them, then the class and the track, [n, 7].

Shapes: T frames asked for, K boxes per frame asked for, M most boxes of a frame, n boxes of one
    frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import DataError
from vidgraph.precompute.store import Store, StoredVideo
from vidgraph.records import InputSpec
from vidgraph.video.transforms import FrameBoxes

BOXES = "boxes"
PERSON = 0  # the class, in COCO's order


class BoxStore(Store):
    """A store of boxes, as `vidgraph extract proposals` or `boxes` wrote it.

    Raises:
        DataError: the folder is no store of boxes.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, BOXES)

    def boxes(self, video: str | Path) -> StoredBoxes:
        """The boxes of one video; raises DataError as `Store.load`."""
        return StoredBoxes(self.load(video))


class StoredBoxes:
    """The boxes of one video: the `path` of their file, and its `header`."""

    def __init__(self, stored: StoredVideo) -> None:
        self._stored, self.path, self.header = stored, stored.path, stored.header
        self._frames = np.array(self.header.frame_indices, dtype=np.int64)

    def at(self, frame_indices: Sequence[int] | NDArray[np.int64], count: int) -> FrameBoxes:
        """The `count` boxes of highest score of some frames.

        A frame that is not stored takes the boxes of the nearest one that is (the earlier of two);
        of given boxes only as far as the store says that they reach. Where there are fewer boxes
        than asked for, the rest is masked.

        Args:
            frame_indices: source frames, in any order, repeated or not, [T].
            count: boxes per frame, K.

        Returns:
            Boxes as fractions of the frame, float32 [T, K, 4]; scores [T, K]; mask [T, K]; zero
            where masked; classes and tracks where they are stored.

        Raises:
            DataError: a frame lies outside the video.
        """
        asked = np.asarray(frame_indices, dtype=np.int64).reshape(-1)
        outside = asked[(asked < 0) | (asked >= self.header.num_frames)]
        if len(outside):
            what = f"has no frame {outside[0]}, for its video has {self.header.num_frames} frames"
            raise DataError(f"{self.path}: {what}")
        boxes = FrameBoxes.none(len(asked), count)
        stored = self._nearest(asked)  # [T]
        for number in np.unique(stored[stored >= 0]).tolist():
            here, found = stored == number, self._stored.rows(number)[:count]
            columns = found[:, :4], found[:, 4], True, *found[:, 5:].T
            for values, column in zip(boxes, columns, strict=False):
                values[here, : len(found)] = column
        return boxes

    def things_at(self, frame_indices: Sequence[int] | NDArray[np.int64], count: int) -> FrameBoxes:
        """The `count` things of highest score over some frames, persons before all others; each has
        its place among the K in all of them.

        A thing is a track. Where boxes have none, the first of every frame are one thing, the
        second of every frame another. A clip without a single box shows one thing: the frame.

        Args:
            frame_indices: as for `at`.
            count: things, K.

        Returns:
            As `at`; masked where a thing is not seen.

        Raises:
            DataError: as `at`.
        """
        found = self.at(frame_indices, self._stored.most_rows)
        tracks = np.where(found.tracks < 0, np.arange(found.mask.shape[1]), found.tracks)  # [T, M]
        tracks[~found.mask] = -1

        def rank(thing: int) -> tuple[bool, float]:
            its = tracks == thing
            return bool((found.classes[its] == PERSON).any()), float(found.scores[its].sum())

        things = sorted(set(tracks[found.mask].tolist()), key=rank, reverse=True)[:count]
        chosen = FrameBoxes.none(len(tracks), count)
        for place, thing in enumerate(things):
            frames, rows = np.nonzero(tracks == thing)
            for to, source in zip(chosen, found, strict=True):
                to[frames, place] = source[frames, rows]
        if not things:
            chosen.boxes_xyxy[:, 0], chosen.mask[:, 0] = (0, 0, 1, 1), True
        return chosen

    def taken_by(self, spec: InputSpec) -> Callable[[NDArray[np.int64]], FrameBoxes]:
        """The boxes of frames [T] that models of a `spec` take."""
        find = self.things_at if spec.box_crops else self.at
        return partial(find, count=spec.boxes_per_frame)

    def _nearest(self, asked: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which stored frame each frame takes; -1 for none, [T]."""
        if not len(self._frames):
            return np.full(len(asked), -1, np.int64)
        distances = np.abs(self._frames - asked[:, None])  # [T, F]; of two equal ones the first
        reach = self.header.method.settings.get("reach_frames", self.header.num_frames)
        return np.where(distances.min(1) <= reach, distances.argmin(1), -1)


def packed_boxes(
    frames: Iterable[NDArray[np.floating]], counts: Counter[str]
) -> Iterator[NDArray[np.float32]]:
    """What is stored of each frame: its boxes, fractions of it, and their scores, [n, 5] or [n, 7],
    the best first, equal ones as they came. Counts frames, boxes, and frames that are `bare` of
    them.
    """
    for rows in frames:
        rows = rows.astype(np.float32)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        rows[:, :4] = rows[:, :4].clip(0, 1)
        counts.update(frames=1, boxes=len(rows), bare=int(not len(rows)))
        yield rows
