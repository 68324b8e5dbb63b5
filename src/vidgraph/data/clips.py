"""A table and an `InputSpec` make clips: which frames, decoded, cropped; the same ones for the same
(seed, epoch, index).

Shapes: V views of one clip, C channels, T frames, S flow stacks, L flow frames per stack, h w
    pixels of the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidgraph.data.intervals import Intervals
from vidgraph.data.mirroring import mirrored_classes
from vidgraph.data.table import VideoTable
from vidgraph.errors import DataError, RecipeError, VideoError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.features import CropStore, FeatureStore
from vidgraph.precompute.flow import FlowSource
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.base import Video
from vidgraph.video.crops import CropDraws
from vidgraph.video.flow_stacks import draw_interval, read_stacks, stack_indices
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import sample_frames, span_frames
from vidgraph.video.transforms import FrameBoxes, move_boxes, move_pixels, move_regions
from vidgraph.video.views import ViewPlan, read_flow_views, read_frames, read_views


class ClipDataset(Dataset[ClipBatch]):
    """The clips of one split of a table, for a `DataLoader` with `collate_fn=ClipBatch.joined`.

    Item i holds row `i // views.num_views` of the split and its clip `i % views.num_views`, as a
    `ClipBatch` of that clip's views. Frames, boxes and flow of a view share one crop and one
    mirroring. Training draws frames, crop, flip, brightness and the distance of flow stacks from a
    generator seeded by (seed, epoch, i): the number of workers, their order and what was read
    before change nothing. Testing draws nothing.

    Attributes:
        class_names: the table's, in the order of the class indices.
        labels: of each row: int64 [num_rows], or 0/1 float32 [num_rows, num_classes] for a
            multi-label table.
        skipped: how many rows of the split the skip list left out; every score counts them.
        spec: what the clips are made for.
        never_flipped: classes whose name tells left from right without a partner among the classes,
            if training clips are mirrored.

    Args:
        table: the data set.
        split: which of its rows.
        spec: frames, size and channels of a clip.
        train: random frames and crops rather than fixed ones.
        seed: of the random draws.
        skip: videos to leave out, as `read_skip_list` gives them.
        views: clips and crops per row when testing; in training, what it says beside these and
            sizes.
        crops: how training clips are cut, mirrored and lit; None: crops of 80 to 100 %, and no
            more. The labels of mirrored clips follow, see `mirrored_classes`.
        boxes: the regions of every frame; read, and needed, if `spec` asks for boxes.
        intervals: when which action happens; training clips then get the labels of the actions that
            they show, not those of their row.
        flow: the optical flow of every video; read, and needed, if `spec` asks for it.
        features: maps that the model's backbone made of every video, in place of its frames;
            training and tests then see the same clip, whole and, if `crops` mirrors, mirrored.
        box_crops: beside `features`, what the backbone made of things in them; needed if `spec`
            asks for crops of boxes.

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
        crops: CropDraws | None = None,
        boxes: BoxStore | None = None,
        intervals: Intervals | None = None,
        flow: FlowSource | None = None,
        features: FeatureStore | None = None,
        box_crops: CropStore | None = None,
    ) -> None:
        self.views = views or ViewPlan()
        self.views.crop_shape(spec)  # raises before the first video is read
        if train and self.views.num_views * self.views.views_per_clip > 1:
            raise ValueError(f"training takes one clip and one crop per row; got {views}")
        if spec.boxes_per_frame and boxes is None:
            raise DataError(
                f"{table.source}: the model takes {spec.boxes_per_frame} boxes per frame, and no "
                "store of boxes is given; make one with vidgraph extract proposals, and name it "
                "with --data.table.boxes STORE"
            )
        if spec.flow_length and flow is None:
            raise DataError(
                f"{table.source}: the model takes optical flow, and no store of it is given; make "
                "one with vidgraph extract flow, and name it with --data.table.flow STORE, or let "
                "it be computed on the way with --data.table.flow live"
            )
        if spec.box_crops and features is not None and box_crops is None:
            raise DataError(
                f"{table.source}: the model takes crops of boxes, and beside the maps of "
                f"{features.folder} there are none; make them with vidgraph extract features "
                "--boxes STORE, and name them with --data.table.box_crops STORE"
            )
        rows = table.rows(split)
        kept = rows[[not table.is_skipped(name, skip) for name in rows["name"]]]
        if kept.empty:
            raise DataError(
                f"{table.source}: the skip list leaves none of the {len(rows)} rows of split "
                f"{split!r}"
            )
        self.class_names, self.labels = list(table.class_names), torch.tensor(table.targets(kept))
        self.skipped = len(rows) - len(kept)
        self.spec, self.train, self.seed, self._epoch = spec, train, seed, 0
        self._videos: list[str] = kept["video"].tolist()
        self._lines = [table.where(row) for row in kept["row"]]
        spans = kept[["start_seconds", "end_seconds"]].astype(object)
        self._spans = spans.where(spans.notna(), None).to_numpy().tolist()
        self._crops = crops or CropDraws(spec, train)
        self._boxes, self._intervals = boxes if spec.boxes_per_frame else None, intervals
        self._flow, self._features = flow if spec.flow_length else None, features
        self._box_crops = box_crops if spec.box_crops else None
        mirrored = mirrored_classes(self.class_names)
        self._mirrored = torch.tensor(mirrored)  # [num_classes]
        pairs = list(zip(self.class_names, mirrored, strict=True))
        self.never_flipped = [name for name, k in pairs if k < 0 and self._crops.flip]
        told = [name for i, (name, k) in enumerate(pairs) if k != i]
        if self.views.mirrored and told:
            raise RecipeError(
                f"class {told[0]!r} tells left from right, so its mirrored views are not of it; "
                "leave out eval.mirrored"
            )

    def __len__(self) -> int:
        return len(self._videos) * self.views.num_views

    def set_epoch(self, epoch: int) -> None:
        """Moves the random draws on; call it before each epoch's iteration over the loader."""
        self._epoch = epoch

    def __getitem__(self, i: int) -> ClipBatch:
        """The views of one clip as a batch; `index` is its row among the split's kept rows.

        Raises:
            VideoError: the video, its boxes or its flow are not usable, or the row's span is not
                within it; with the row that asks for it.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        row, clip = divmod(i, self.views.num_views)
        path = self._videos[row]
        try:
            if self._features is not None:
                seen, label = self._stored(self._features, row, i)
            else:
                with open_video(path, folder_fps=self.views.folder_fps) as video:
                    draw = self._draw(video, row, i) if self.train else self._look(video, row, clip)
                seen, label = draw
        except VideoError as error:
            problem = f"{error.problem} ({self._lines[row]})"
            raise VideoError(error.path, problem, error.frame) from error
        except DataError as error:
            raise VideoError(path, f"{error} ({self._lines[row]})") from error
        seen.label = label.expand(len(seen), *label.shape[1:]).clone()
        seen.index = torch.full((len(seen),), row)
        return seen

    def _stored(self, store: FeatureStore, row: int, i: int) -> tuple[ClipBatch, Tensor]:
        """A clip whose map a store has, and its label [1, ...]."""
        path, label, flip = self._videos[row], self.labels[row : row + 1], False
        if self.train and self._crops.flip:
            mirrored = self._mirrored_label(label)
            flip = bool(np.random.default_rng([self.seed, self._epoch, i]).random() < 0.5)
            flip &= mirrored is not None
            label = mirrored if flip and mirrored is not None else label
        maps, header = store.maps(path, flip)  # [D, T', h, w]
        frames, size, regions = np.array(header.frame_indices), (header.height, header.width), None
        if (boxes_at := self._boxes_at(row)) is not None:
            window = replace(self.views.windows(self.spec, *size)[0], flip=flip)
            regions = move_boxes(boxes_at(frames), window, *size)
        if regions is not None and self._box_crops is not None:
            seen, _ = self._box_crops.steps(path, flip)  # [T', K, D]
            regions.features = torch.from_numpy(seen[None].copy())
        nothing = torch.empty(1, 0)
        clip = ClipBatch.unlabelled(nothing, frames, path, regions)
        clip.features = torch.from_numpy(maps[None].copy())  # [1, D, T', h, w]
        return clip, label

    def _look(self, video: Video, row: int, clip: int) -> tuple[ClipBatch, Tensor]:
        """The test views of one clip, and its label [1, ...]."""
        path, spec, views, (start, end) = self._videos[row], self.spec, self.views, self._spans[row]
        pixels, frame_indices, regions = read_views(
            video, spec, views, clip, start, end, self._boxes_at(row)
        )
        flow = None
        if self._flow is not None:
            reader = self._flow.reader(path, video)
            flow = read_flow_views(reader, video, spec, views, frame_indices, start, end)
        seen = ClipBatch.unlabelled(pixels, frame_indices, path, regions, flow)
        return seen, self.labels[row : row + 1]

    def _draw(self, video: Video, row: int, i: int) -> tuple[ClipBatch, Tensor]:
        """A training clip, and the label [1, ...] of what is seen."""
        rng, plan, spec = np.random.default_rng([self.seed, self._epoch, i]), self.views, self.spec
        path, (start, end), times = self._videos[row], self._spans[row], video.timestamps_seconds
        frame_indices = sample_frames(
            spec,
            times,
            start_seconds=start,
            end_seconds=end,
            rng=rng,
            past_end=plan.past_end,
            spread=plan.spread,
        )
        frames = read_frames(video, spec, frame_indices)
        height, width = frames.shape[1:3]
        window, label = self._crops.plan(height, width, rng), self.labels[row : row + 1]
        if self._intervals is not None:
            label = self._intervals.seen(path, times, frame_indices)
        if window.flip:
            mirrored = self._mirrored_label(label)
            window = replace(window, flip=mirrored is not None)
            label = label if mirrored is None else mirrored
        flow = regions = None
        if self._flow is not None:
            reader, interval = self._flow.reader(path, video), draw_interval(spec, rng)
            first, stop = span_frames(times, start, end)
            last, past_end = min(stop - 1, reader.num_flow_frames), plan.past_end
            stacks = stack_indices(
                spec, frame_indices, first, last, interval=interval, past_end=past_end
            )
            flow = read_stacks(reader, stacks, [window], height, width)  # [1, T, S, 2 L, h, w]
        if (boxes_at := self._boxes_at(row)) is not None:
            regions = move_regions(frames, boxes_at(frame_indices), window, spec)
        pixels = move_pixels(frames, window, spec.channels)[None]  # [1, C, T, h, w]
        return ClipBatch.unlabelled(pixels, frame_indices, path, regions, flow), label

    def _boxes_at(self, row: int) -> Callable[[np.ndarray[Any, Any]], FrameBoxes] | None:
        """What gives the boxes of a row's video by frame; None for models without boxes."""
        if self._boxes is None:
            return None
        return self._boxes.boxes(self._videos[row]).taken_by(self.spec)

    def _mirrored_label(self, label: Tensor) -> Tensor | None:
        """The label of the mirrored clip; None where a class has no mirror image."""
        classes = label if label.ndim == 1 else label[0].nonzero()[:, 0]
        mirrored = self._mirrored[classes]
        if (mirrored < 0).any():
            return None
        return mirrored if label.ndim == 1 else torch.zeros_like(label).index_fill_(1, mirrored, 1)
