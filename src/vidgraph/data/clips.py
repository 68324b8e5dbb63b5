"""A table and an `InputSpec` make clips: which frames, decoded, cropped; the same ones for the same (seed, epoch, index).

Shapes: B batch, V views of one clip, C channels, T frames, K boxes per frame, h w pixels of the crop.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidgraph.data.intervals import Intervals
from vidgraph.data.table import VideoTable
from vidgraph.errors import DataError, VideoError
from vidgraph.extraction.store import BoxStore
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import sample_frames
from vidgraph.video.transforms import ClipTransform, FrameBoxes
from vidgraph.video.views import ViewPlan, read_views

_DIRECTION = re.compile(r"(?<![a-z])(?:(?P<counter>(?:counter|anti)[-_ ]?clockwise)|clockwise|left|right)(?![a-z])", re.IGNORECASE)
_OPPOSITE = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}


class ClipError(VideoError):
    """The video of a row cannot be used. The line names the file and the table's row, also when a `DataLoader`'s worker met it."""

    def __init__(self, path: str | Path, problem: str | None = None, frame: int | None = None) -> None:
        if problem is None:  # torch rebuilds a worker's error from its printed traceback, whose last line is the error's own
            line = str(path).strip().splitlines()[-1].partition(": ")[2]
            place, _, problem = line.partition(": ")
            path, number = place, ""
            if ", frame " in place:
                path, _, number = place.rpartition(", frame ")
            frame = int(number) if number.isdigit() else None
        super().__init__(path, problem, frame)


class ClipDataset(Dataset[ClipBatch]):
    """The clips of one split of a table, as a map-style data set for a `DataLoader` with `collate_fn=dataset.collate`.

    Item i holds row `i // views.clips` of the split and its clip `i % views.clips`, as a `ClipBatch` of that clip's views. Training draws
    frames, crop, flip and brightness from a generator seeded by (seed, epoch, i): the number of workers, their order and what was read
    before change nothing. Testing draws nothing.

    Attributes:
        class_names: the table's, in the order of the class indices.
        labels: of each row: int64 [num_rows], or 0/1 float32 [num_rows, num_classes] for a multi-label table.
        skipped: how many rows of the split the skip list left out; every score counts them.
        spec: what the clips are made for.
        never_flipped: classes whose name tells left from right without a partner among the classes, if `flip` is on.

    Args:
        table: the data set.
        split: which of its rows.
        spec: frames, size and channels of a clip.
        train: random frames and crops rather than fixed ones.
        seed: of the random draws.
        skip: videos to leave out, as `read_skip_list` gives them.
        views: clips and crops per row when testing; of training, what it says beside these and sizes.
        flip: also mirror half of the training clips; their labels follow, see `mirrored_classes`.
        short_side: least and greatest pixels of the shorter side of training frames before a random crop; None: crops of 80 to 100 %.
        brightness: share of the range by which training clips become lighter or darker.
        boxes: the regions of every frame; read, and needed, if `spec` asks for boxes.
        intervals: when which action happens; training clips then get the labels of the actions that they show, not those of their row.

    Raises:
        TableError: the split has no rows.
        DataError: the skip list leaves none of them, or there are no boxes for a model that takes them.
        RecipeError: sizes that do not fit into each other.
    """

    def __init__(
        self,
        table: VideoTable,
        split: str,
        spec: InputSpec,
        *,
        train: bool,
        seed: int = 0,
        skip: Collection[str] = frozenset(),
        views: ViewPlan | None = None,
        flip: bool = False,
        short_side: tuple[int, int] | None = None,
        brightness: float = 0.0,
        boxes: BoxStore | None = None,
        intervals: Intervals | None = None,
    ) -> None:
        views = views or ViewPlan()
        if spec.boxes_per_frame and boxes is None:
            what = f"the model takes {spec.boxes_per_frame} boxes per frame, and no store of boxes is given"
            raise DataError(f"{table.source}: {what}; make one with vidgraph extract proposals, and name it with --data.table.boxes STORE")
        if train and views.clips * views.views_per_clip > 1:
            raise ValueError(f"training takes one clip and one crop per row; got {views}")
        rows, skip = table.rows(split), frozenset(skip)
        kept = rows[[not table.is_skipped(name, skip) for name in rows["name"]]]
        if kept.empty:
            raise DataError(f"{table.source}: the skip list leaves none of the {len(rows)} rows of split {split!r}")
        self.class_names = list(table.class_names)
        self.labels = torch.from_numpy(table.targets(kept))
        self.skipped = len(rows) - len(kept)
        self.spec, self.split, self.train, self.seed, self.views = spec, split, train, seed, views
        views.crop_shape(spec)  # raises before the first video is read
        self._videos: list[str] = kept["video"].tolist()
        self._places = [table.where(row) for row in kept["row"]]
        self._spans = list(zip(*(map(_none_if_nan, kept[c]) for c in ("start_seconds", "end_seconds")), strict=True))
        self._transform = ClipTransform(spec, train=train, flip=flip, short_side=short_side, brightness=brightness)
        self._boxes, self._intervals = boxes if spec.boxes_per_frame else None, intervals
        self._mirror = torch.tensor(mirrored_classes(self.class_names))  # [num_classes]
        self.never_flipped = [name for name, k in zip(self.class_names, self._mirror.tolist(), strict=True) if flip and k < 0]
        # In shared memory, so that workers that live through several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._videos) * self.views.clips

    def set_epoch(self, epoch: int) -> None:
        """Moves the random draws on; call it before each epoch's iteration over the loader."""
        self._epoch.fill_(epoch)

    def __getitem__(self, i: int) -> ClipBatch:
        """The views of one clip as a batch; `index` is its row among the split's kept rows.

        Raises:
            ClipError: the video is missing, a frame that the clip needs cannot be decoded, the row's span lies outside the video or
                holds too few frames, or the boxes of the video are absent or not usable.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        row, clip = divmod(i, self.views.clips)
        try:
            video, frame_indices, regions, label = self._draw(row, i) if self.train else self._look(row, clip)
        except (VideoError, DataError) as error:
            raise _with_place(error, self._videos[row], self._places[row]) from error
        count = len(video)
        return ClipBatch(
            video=video,
            label=label.expand(count, *label.shape[1:]).clone(),
            index=torch.full((count,), row),
            frame_indices=torch.from_numpy(frame_indices).repeat(count, 1),
            names=[self._videos[row]] * count,
            regions=regions,
        )

    def _boxes_at(self, row: int) -> Callable[[np.ndarray], FrameBoxes] | None:
        """What gives the boxes of a row's video by frame; None for models without boxes."""
        return None if self._boxes is None else partial(self._boxes.boxes(self._videos[row]).at, count=self.spec.boxes_per_frame)

    def _look(self, row: int, clip: int) -> tuple[Tensor, np.ndarray[Any, Any], Regions | None, Tensor]:
        """The test views of one clip, uint8 [V, C, T, h, w], its frames in the video, [T], their regions, and the label, [1, ...]."""
        with open_video(self._videos[row], folder_fps=self.views.folder_fps) as video:
            start, end = self._spans[row]
            views = read_views(video, self.spec, self.views, clip, start, end, self._boxes_at(row))
        return *views, self.labels[row : row + 1]

    def _draw(self, row: int, i: int) -> tuple[Tensor, np.ndarray[Any, Any], Regions | None, Tensor]:
        """A training clip, uint8 [1, C, T, h, w], its frames in the video, [T], their regions, and the label of what is seen, [1, ...]."""
        rng, plan = np.random.default_rng([self.seed, int(self._epoch), i]), self.views
        start, end = self._spans[row]
        with open_video(self._videos[row], folder_fps=self.views.folder_fps) as video:
            times, bounds = video.timestamps_seconds, {"start_seconds": start, "end_seconds": end}
            frame_indices = sample_frames(self.spec, times, **bounds, rng=rng, past_end=plan.past_end, spread=plan.spread)
            frames = video.read(frame_indices)
        height, width = frames.shape[1:3]
        window, label = self._transform.plan(height, width, rng), self.labels[row : row + 1]
        if self._intervals is not None:
            label = self._intervals.seen(self._videos[row], times, frame_indices)
        if window.flip:
            mirrored = self._mirrored_label(label)
            label, window = (label, replace(window, flip=False)) if mirrored is None else (mirrored, window)
        boxes_at = self._boxes_at(row)
        regions = None if boxes_at is None else self._transform.regions(boxes_at(frame_indices), window, height, width)
        return self._transform.apply(frames, window)[0][None], frame_indices, regions, label

    def _mirrored_label(self, label: Tensor) -> Tensor | None:
        """The label of the mirrored clip, [1] or [1, num_classes]; None where a class has no mirror image."""
        classes = label if label.ndim == 1 else label[0].nonzero()[:, 0]
        mirrored = self._mirror[classes]
        if (mirrored < 0).any():
            return None
        return mirrored if label.ndim == 1 else torch.zeros_like(label).index_fill_(1, mirrored, 1)

    @staticmethod
    def collate(samples: Sequence[ClipBatch]) -> ClipBatch:
        """See `collate`."""
        return collate(samples)


def mirrored_classes(class_names: Sequence[str]) -> list[int]:
    """The class that each class becomes when its videos are mirrored, told by the names.

    A class that says `left`, `right`, `clockwise` or `counterclockwise` becomes the class with the opposite words. One without such a
    partner gets -1: mirrored, it would be of no class, so it must not be mirrored. That also keeps "pulling it right out" from being
    mirrored, which costs a few varied clips and spares a list of idioms. All other classes stay themselves.
    """
    plain, opposite = ([_sides(name, mirror) for name in class_names] for mirror in (False, True))
    index, count = {name: k for k, name in enumerate(plain)}, Counter(plain)
    return [
        k if name == other else index[other] if count[name] == count[other] == 1 else -1
        for k, (name, other) in enumerate(zip(plain, opposite, strict=True))
    ]


def _sides(name: str, mirror: bool) -> str:
    """A class name with its directions spelt in one way, or exchanged; `swipe_left` and `SwipeLeft` hold one, "upright" does not."""

    def spell(found: re.Match[str]) -> str:
        word = "counterclockwise" if found["counter"] else found[0].lower()
        return _OPPOSITE[word] if mirror else word

    return _DIRECTION.sub(spell, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))


def collate(samples: Sequence[ClipBatch]) -> ClipBatch:
    """Batches of clips, laid one behind the other as one batch."""
    regions = [sample.regions for sample in samples if sample.regions is not None]
    if regions and len(regions) != len(samples):
        raise ValueError(f"{len(regions)} of {len(samples)} samples have regions; all or none must")
    return ClipBatch(
        video=_cat(samples, "video"),
        label=_cat(samples, "label"),
        index=_cat(samples, "index"),
        frame_indices=_cat(samples, "frame_indices"),
        names=[name for sample in samples for name in sample.names],
        regions=Regions(*(_cat(regions, name) for name in ("boxes_xyxy", "scores", "mask"))) if regions else None,
    )


def _cat(records: Sequence[ClipBatch] | Sequence[Regions], name: str) -> Tensor:
    return torch.cat([getattr(record, name) for record in records])


def _none_if_nan(seconds: float) -> float | None:
    return None if math.isnan(seconds) else float(seconds)


def _with_place(error: VideoError | DataError, video: str, place: str) -> ClipError:
    """The same error, naming the row of the table that asks for the video."""
    if isinstance(error, DataError):
        return ClipError(video, f"{error} ({place})")
    prefix = str(VideoError(error.path, "", error.frame)).rstrip()
    return ClipError(error.path, f"{str(error).removeprefix(prefix).lstrip()} ({place})", error.frame)
