"""A table and an `InputSpec` make clips: which frames, decoded, cropped; the same ones for the same
(seed, epoch, index).

Shapes: B batch, V views of one clip, C channels, T frames, K boxes per frame, S snippets of flow, L
    fields per snippet, h w pixels of the
crop.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidgraph.data.intervals import Intervals
from vidgraph.data.table import VideoTable
from vidgraph.errors import DataError, RecipeError, VideoError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow_store import FlowSource, no_flow
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.video.base import Video
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import sample_frames, span_frames
from vidgraph.video.snippets import draw_interval, read_snippets, snippet_fields
from vidgraph.video.transforms import ClipTransform, CropPlan, FrameBoxes
from vidgraph.video.views import ViewPlan, read_flow_views, read_frames, read_views

_DIRECTION = re.compile(
    r"(?<![a-z])(?:(?P<counter>(?:counter|anti)[-_ ]?clockwise)|clockwise|left|right)(?![a-z])",
    re.IGNORECASE,
)
_OPPOSITE = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}


class ClipError(VideoError):
    """The video of a row cannot be used. The line names the file and the table's row, also when a
    `DataLoader`'s worker met it.
    """

    def __init__(
        self, path: str | Path, problem: str | None = None, frame: int | None = None
    ) -> None:
        if (
            problem is None
            # torch rebuilds a worker's error from its printed traceback, whose last line is the
            # error's own
        ):
            line = str(path).strip().splitlines()[-1].partition(": ")[2]
            place, _, problem = line.partition(": ")
            path, number = place, ""
            if ", frame " in place:
                path, _, number = place.rpartition(", frame ")
            frame = int(number) if number.isdigit() else None
        super().__init__(path, problem, frame)


class _Clip(NamedTuple):
    """The views of one clip.

    Attributes:
        video: uint8 [V, C, T, h, w].
        frame_indices: its frames in the video, [T].
        regions: [V, T, K, ...].
        flow: uint8 [V, T, S, 2 L, h, w].
        label: [1, ...].
    """

    video: Tensor
    frame_indices: np.ndarray[Any, Any]
    regions: Regions | None
    flow: Tensor | None
    label: Tensor


class TrainingDraws(TypedDict, total=False):
    """What is drawn at random in training besides the frames.

    Attributes:
        flip: also mirror half of the training clips; their labels follow, see `mirrored_classes`.
        short_side: least and greatest pixels of the shorter side of training frames before a random
            crop; None: crops of 80 to 100 %.
        brightness: share of the range by which training clips become lighter or darker.
        crop_scales: sides of training crops as shares of the largest that fits, at thirteen places,
            as Temporal Segment Networks draw them; in place of `short_side`.
    """

    flip: bool
    short_side: tuple[int, int] | None
    brightness: float
    crop_scales: Sequence[float]


class ClipDataset(Dataset[ClipBatch]):
    """The clips of one split of a table, as a map-style data set for a `DataLoader` with
    `collate_fn=dataset.collate`.

    Item i holds row `i // views.num_views` of the split and its clip `i % views.num_views`, as a
    `ClipBatch` of that clip's views. Frames, boxes and flow of a view share one crop and one
    mirroring. Training draws frames, the distance of snippets, crop, flip and brightness from a
    generator seeded by (seed, epoch, i): the number of workers, their order and what was read
    before change nothing. Testing draws nothing.

    Attributes:
        class_names: the table's, in the order of the class indices.
        labels: of each row: int64 [num_rows], or 0/1 float32 [num_rows, num_classes] for a
            multi-label table.
        skipped: how many rows of the split the skip list left out; every score counts them.
        spec: what the clips are made for.
        never_flipped: classes whose name tells left from right without a partner among the classes,
            if `flip` is on.

    Args:
        table: the data set.
        split: which of its rows.
        spec: frames, size and channels of a clip.
        train: random frames and crops rather than fixed ones.
        seed: of the random draws.
        skip: videos to leave out, as `read_skip_list` gives them.
        views: clips and crops per row when testing; of training, what it says beside these and
            sizes.
        boxes: the regions of every frame; read, and needed, if `spec` asks for boxes.
        intervals: when which action happens; training clips then get the labels of the actions that
            they show, not those of their row.
        flow: the optical flow of every video; read, and needed, if `spec` asks for it.
        draws: of training, see `TrainingDraws`.

    Raises:
        TableError: the split has no rows.
        DataError: the skip list leaves none of them, or there are no boxes or no flow for a model
            that takes them.
        RecipeError: sizes that do not fit into each other; mirrored views of classes that tell left
            from right.
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
        boxes: BoxStore | None = None,
        intervals: Intervals | None = None,
        flow: FlowSource | None = None,
        **draws: Unpack[TrainingDraws],
    ) -> None:
        views = views or ViewPlan()
        if spec.boxes_per_frame and boxes is None:
            what = (
                f"the model takes {spec.boxes_per_frame} boxes per frame, and no store of "
                "boxes is given"
            )
            raise DataError(
                f"{table.source}: {what}; make one with vidgraph extract proposals, and name it "
                "with --data.table.boxes STORE"
            )
        if spec.flow_length and flow is None:
            raise no_flow(str(table.source), "--data.table.flow")
        if train and views.num_views * views.views_per_clip > 1:
            raise ValueError(f"training takes one clip and one crop per row; got {views}")
        rows, skip = table.rows(split), frozenset(skip)
        kept = rows[[not table.is_skipped(name, skip) for name in rows["name"]]]
        if kept.empty:
            raise DataError(
                f"{table.source}: the skip list leaves none of the {len(rows)} rows of split "
                f"{split!r}"
            )
        self.class_names = list(table.class_names)
        self.labels = torch.from_numpy(table.targets(kept))
        self.skipped = len(rows) - len(kept)
        self.spec, self.split, self.train, self.seed, self.views = spec, split, train, seed, views
        views.crop_shape(spec)  # raises before the first video is read
        self._videos: list[str] = kept["video"].tolist()
        self._places = [table.where(row) for row in kept["row"]]
        self._spans = list(
            zip(
                *(map(_none_if_nan, kept[c]) for c in ("start_seconds", "end_seconds")), strict=True
            )
        )
        self._transform = ClipTransform(spec, train=train, **draws)
        self._boxes, self._intervals = boxes if spec.boxes_per_frame else None, intervals
        self._flow = flow if spec.flow_length else None
        self._mirror = torch.tensor(mirrored_classes(self.class_names))  # [num_classes]
        flip = draws.get("flip", False)
        self.never_flipped = [
            name
            for name, k in zip(self.class_names, self._mirror.tolist(), strict=True)
            if flip and k < 0
        ]
        if views.mirrored:
            _check_mirrored_views(self.class_names, self._mirror.tolist())
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._videos) * self.views.num_views

    def set_epoch(self, epoch: int) -> None:
        """Moves the random draws on, in this process."""
        self._epoch = epoch

    def __getitem__(self, i: int) -> ClipBatch:
        """The views of one clip as a batch; `index` is its row among the split's kept rows.

        Raises:
            ClipError: the video is missing, a frame that the clip needs cannot be decoded, the
                row's span lies outside the video or holds too few frames, or the boxes of the video
                are absent or not usable.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        row, clip = divmod(i, self.views.num_views)
        try:
            video, frame_indices, regions, flow, label = (
                self._draw(row, i) if self.train else self._look(row, clip)
            )
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
            flow=flow,
        )

    def _boxes_at(self, row: int) -> Callable[[np.ndarray], FrameBoxes] | None:
        """What gives the boxes of a row's video by frame; None for models without boxes."""
        return (
            None
            if self._boxes is None
            else partial(self._boxes.boxes(self._videos[row]).at, count=self.spec.boxes_per_frame)
        )

    def _look(self, row: int, clip: int) -> _Clip:
        """The test views of one clip."""
        start, end = self._spans[row]
        with open_video(self._videos[row], folder_fps=self.views.folder_fps) as video:
            pixels, frame_indices, regions = read_views(
                video, self.spec, self.views, clip, start, end, self._boxes_at(row)
            )
            flow = None
            if self._flow is not None:
                reader = self._flow.reader(self._videos[row], video)
                flow = read_flow_views(
                    reader, video, self.spec, self.views, frame_indices, start, end
                )
        return _Clip(pixels, frame_indices, regions, flow, self.labels[row : row + 1])

    def _draw(self, row: int, i: int) -> _Clip:
        """A training clip, with the label of what is seen."""
        rng, plan = np.random.default_rng([self.seed, self._epoch, i]), self.views
        start, end = self._spans[row]
        with open_video(self._videos[row], folder_fps=plan.folder_fps) as video:
            times, bounds = video.timestamps_seconds, {"start_seconds": start, "end_seconds": end}
            frame_indices = sample_frames(
                self.spec, times, **bounds, rng=rng, past_end=plan.past_end, spread=plan.spread
            )
            frames = read_frames(video, self.spec, frame_indices)
            height, width = frames.shape[1:3]
            window, label = self._transform.plan(height, width, rng), self.labels[row : row + 1]
            if self._intervals is not None:
                label = self._intervals.seen(self._videos[row], times, frame_indices)
            if window.flip:
                mirrored = self._mirrored_label(label)
                label, window = (
                    (label, replace(window, flip=False)) if mirrored is None else (mirrored, window)
                )
            flow = (
                None
                if self._flow is None
                else self._drawn_flow(self._flow, row, video, frame_indices, window, rng)
            )
        boxes_at = self._boxes_at(row)
        regions = (
            None
            if boxes_at is None
            else self._transform.regions(boxes_at(frame_indices), window, height, width)
        )
        return _Clip(
            self._transform.apply(frames, window)[0][None], frame_indices, regions, flow, label
        )

    def _drawn_flow(
        self,
        source: FlowSource,
        row: int,
        video: Video,
        frame_indices: np.ndarray[Any, Any],
        window: CropPlan,
        rng: np.random.Generator,
    ) -> Tensor:
        """The snippets of a training clip, at a random distance, cut as its frames are: uint8 [1,
        T, S, 2 L, h, w].
        """
        reader, interval = source.reader(self._videos[row], video), draw_interval(self.spec, rng)
        first, stop = span_frames(video.timestamps_seconds, *self._spans[row])
        last = min(stop - 1, reader.num_fields)
        fields = snippet_fields(
            self.spec, frame_indices, first, last, interval=interval, past_end=self.views.past_end
        )
        return read_snippets(reader, fields, self._transform, [window], video.height, video.width)

    def _mirrored_label(self, label: Tensor) -> Tensor | None:
        """The label of the mirrored clip, [1] or [1, num_classes]; None where a class has no mirror
        image.
        """
        classes = label if label.ndim == 1 else label[0].nonzero()[:, 0]
        mirrored = self._mirror[classes]
        if (mirrored < 0).any():
            return None
        return mirrored if label.ndim == 1 else torch.zeros_like(label).index_fill_(1, mirrored, 1)

    collate = staticmethod(ClipBatch.joined)


def mirrored_classes(class_names: Sequence[str]) -> list[int]:
    """The class that each class becomes when its videos are mirrored, told by the names.

    A class that says `left`, `right`, `clockwise` or `counterclockwise` becomes the class with the
    opposite words. One without such a partner gets -1: mirrored, it would be of no class, so it
    must not be mirrored. That also keeps "pulling it right out" from being mirrored, which costs a
    few varied clips and spares a list of idioms. All other classes stay themselves.
    """
    plain, opposite = ([_sides(name, mirror) for name in class_names] for mirror in (False, True))
    index, count = {name: k for k, name in enumerate(plain)}, Counter(plain)
    return [
        k if name == other else index[other] if count[name] == count[other] == 1 else -1
        for k, (name, other) in enumerate(zip(plain, opposite, strict=True))
    ]


def _check_mirrored_views(class_names: Sequence[str], mirror: Sequence[int]) -> None:
    """Raises RecipeError where a mirrored view may be of another class than its video."""
    told = next((name for k, name in enumerate(class_names) if mirror[k] != k), None)
    if told is not None:
        raise RecipeError(
            f"class {told!r} tells left from right, so its mirrored views are not of it; leave "
            "out eval.mirrored"
        )


def _sides(name: str, mirror: bool) -> str:
    """A class name with its directions spelt in one way, or exchanged; `swipe_left` and `SwipeLeft`
    hold one, "upright" does not.
    """

    def spell(found: re.Match[str]) -> str:
        word = "counterclockwise" if found["counter"] else found[0].lower()
        return _OPPOSITE[word] if mirror else word

    return _DIRECTION.sub(spell, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))


collate = ClipBatch.joined


def _none_if_nan(seconds: float) -> float | None:
    return None if math.isnan(seconds) else float(seconds)


def _with_place(error: VideoError | DataError, video: str, place: str) -> ClipError:
    """The same error, naming the row of the table that asks for the video."""
    if isinstance(error, DataError):
        return ClipError(video, f"{error} ({place})")
    prefix = str(VideoError(error.path, "", error.frame)).rstrip()
    return ClipError(
        error.path, f"{str(error).removeprefix(prefix).lstrip()} ({place})", error.frame
    )
