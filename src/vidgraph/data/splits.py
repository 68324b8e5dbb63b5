"""The splits of what a recipe names, opened for the clips that a model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from vidgraph.data.check import read_skip_list
from vidgraph.data.clips import ClipDataset
from vidgraph.data.digits import Digits, load_digits
from vidgraph.data.intervals import load_intervals
from vidgraph.data.options import DataOptions, SyncMnistOptions, TableOptions
from vidgraph.data.syncmnist import DigitClips, DigitStream, SyncMnistStream, SyncMnistTest
from vidgraph.data.table import load_table
from vidgraph.data.trajectories import released_trajectories
from vidgraph.errors import DataError, RecipeError, nearest
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow import FlowSource, open_flow
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.crops import CropDraws
from vidgraph.video.views import ViewPlan

VALIDATION_SEED, TEST_SEED = 20_190_411, 20_190_412  # of generated clips: the same for every row
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ScoredSplit:
    """A split to be scored.

    Attributes:
        dataset: its clips.
        class_names: in the order of the model's outputs.
        skipped: samples that a skip list leaves out.
        title: what is measured on, in words.
    """

    dataset: Dataset[ClipBatch]
    class_names: list[str]
    skipped: int
    title: str


@dataclass(frozen=True)
class TrainingSplits:
    """What a network is trained and validated on.

    Attributes:
        train: training clips.
        val: validation clips; None: there is no such split.
        shuffle: the order is drawn anew in every epoch; generated clips are random already.
        fingerprint: what `data.json` says of the data.
        notes: what a person should know.
    """

    train: Dataset[ClipBatch]
    val: Dataset[ClipBatch] | None
    shuffle: bool
    fingerprint: dict[str, Any]
    notes: list[str]


def open_source(
    data: DataOptions, class_names: Sequence[str] | None = None
) -> SyncMnistSource | TableSource:
    """Opens the data of a recipe: first their classes, then, for a model's clips, their splits.

    Args:
        data: of the recipe.
        class_names: a model's classes, in its order; None for the data's own.

    Raises:
        VidgraphError: the data cannot be read, or their labels are not among the model's classes.
    """
    if data.table is not None:
        return TableSource(data.table, class_names)
    assert data.syncmnist is not None
    return SyncMnistSource(data.syncmnist, class_names)


class SyncMnistSource:
    """Synchronous digits.

    Attributes:
        class_names: all classes, in the order of the class indices.
        multi_label: a clip may have several labels.
    """

    multi_label = False

    def __init__(self, data: SyncMnistOptions, class_names: Sequence[str] | None = None) -> None:
        self.data = data
        self.class_names = list(self._stream(load_digits(data.digits, "train"), 1, 0).class_names)
        if class_names is not None and list(class_names) != self.class_names:
            raise DataError(
                f"the model's {len(class_names)} classes are not the {len(self.class_names)} of "
                f"{data.title('test')}"
            )

    def training(
        self, spec: InputSpec, views: ViewPlan, num_clips: int, seed: int
    ) -> TrainingSplits:
        """Training and validation clips for what a model takes.

        Args:
            spec: of the model.
            views: of tests; generated clips have one.
            num_clips: length of the training.
            seed: of the random draws.

        Raises:
            RecipeError: the model takes clips of another size.
        """
        digits = load_digits(self.data.digits, "train")
        train = self._stream(digits, num_clips, seed)
        _check_fits(train, spec)
        content = hashlib.sha256(digits.images.tobytes() + digits.labels.tobytes()).hexdigest()
        fingerprint = {"files": len(digits), "missing": 0, "skipped": 0, "sha256": content}
        val = self._split("val") if self.data.val_clips else None
        return TrainingSplits(train, val, False, fingerprint, [])

    def scored(self, split: str, spec: InputSpec, views: ViewPlan) -> ScoredSplit:
        """One split of `train`, `val` and `test`; generated clips have one view."""
        dataset = self._split(split)
        _check_fits(dataset, spec)
        return ScoredSplit(dataset, self.class_names, 0, self.data.title(split))

    def _split(self, split: str) -> DigitClips:
        data = self.data
        if split not in SPLITS:
            raise RecipeError(f"synchronous digits have no split {split!r}{nearest(split, SPLITS)}")
        num_test = data.test_clips or 10_000
        if split == "test" and data.is_published:
            released = data.num_digits == 5 or data.test_paths is not None
            walks = released_trajectories(data.test_paths) if released else None
            return SyncMnistTest(load_digits(data.digits, "test"), data.num_digits, num_test, walks)
        sizes = {"train": 10_000, "val": data.val_clips, "test": num_test}
        seeds = {"train": 0, "val": VALIDATION_SEED, "test": TEST_SEED}
        return self._stream(load_digits(data.digits, split), sizes[split], seeds[split])

    def _stream(self, digits: Digits, num_clips: int, seed: int) -> DigitClips:
        data = self.data
        if data.task == "digit":
            return DigitStream(digits, num_clips, seed, data.num_digits)
        return SyncMnistStream(digits, data, num_clips, seed)


def _check_fits(dataset: DigitClips, spec: InputSpec) -> None:
    """Generated clips have one size; a model for another must not meet them."""
    made = tuple(dataset[0].video.shape[1:])
    taken = (spec.channels, spec.num_frames, spec.height, spec.width)
    if made != taken:
        raise RecipeError(
            f"the model takes clips of {taken} channels, frames, rows and columns; those of the "
            f"synchronous digits are {made}"
        )


class TableSource:
    """Videos of a table.

    Attributes:
        class_names: all classes, in the order of the class indices.
        multi_label: a clip may have several labels.
        table: the table.
        skip: videos to leave out.
    """

    def __init__(self, data: TableOptions, class_names: Sequence[str] | None = None) -> None:
        self.data = data
        several = data.intervals is not None
        self.table = load_table(data.path, data.columns or None, multi_label=several)
        if class_names is not None:
            self.table = self.table.with_class_names(class_names)
        self.class_names, self.multi_label = list(self.table.class_names), self.table.multi_label
        self.skip = frozenset(read_skip_list(data.skip_list) if data.skip_list else ())

    def training(
        self, spec: InputSpec, views: ViewPlan, num_clips: int, seed: int
    ) -> TrainingSplits:
        """Training and validation clips for what a model takes.

        Args:
            spec: of the model.
            views: how clips are taken; training and validation take one clip and crop per video.
            num_clips: length of the training, which a table does not need.
            seed: of the random draws.

        Raises:
            VidgraphError: splits, stores or intervals that do not fit.
        """
        data, table = self.data, self.table
        boxes, flow, side = self._boxes(spec), self._flow(spec), data.short_side
        intervals = None
        if data.intervals is not None and data.label_scope == "clip":
            intervals = load_intervals(data.intervals, table)
        crops = CropDraws(
            spec,
            train=True,
            flip=data.flip,
            short_side=(side[0], side[-1]) if side else None,
            brightness=data.brightness,
            crop_scales=data.crop_scales,
        )
        views = views.single()
        common: dict[str, Any] = {"skip": self.skip, "views": views, "boxes": boxes, "flow": flow}
        train = ClipDataset(
            table,
            data.train_split,
            spec,
            train=True,
            seed=seed,
            intervals=intervals,
            crops=crops,
            **common,
        )
        val, notes = None, [*table.notes, *self._notes(train, spec)]
        if data.val_split in table.splits:
            val = ClipDataset(table, data.val_split, spec, train=False, **common)
        else:
            notes.append(
                f"{data.path} has no split {data.val_split!r}: the weights of the last clip will "
                "be kept, not the best on validation"
            )
        fingerprint = table.fingerprint(self.skip)
        if boxes is not None:
            fingerprint["boxes"] = boxes.method.to_dict()
        if flow is not None:
            fingerprint["flow"] = flow.method.to_dict()
        if intervals is not None:
            fingerprint["intervals"] = intervals.sha256
        return TrainingSplits(train, val, True, fingerprint, notes)

    def scored(self, split: str, spec: InputSpec, views: ViewPlan) -> ScoredSplit:
        """One split, `train`, `val`, `test` or a name of the table's, with all its views."""
        name = self.data.split(split)
        stores: dict[str, Any] = {"boxes": self._boxes(spec), "flow": self._flow(spec)}
        dataset = ClipDataset(
            self.table, name, spec, train=False, skip=self.skip, views=views, **stores
        )
        title = f"{self.data.path} ({name})"
        return ScoredSplit(dataset, self.class_names, dataset.skipped, title)

    def _notes(self, train: ClipDataset, spec: InputSpec) -> list[str]:
        notes, data = [], self.data
        if train.never_flipped:
            notes.append(
                "never mirrored, for left and right tell no other class apart from them: "
                + ", ".join(train.never_flipped)
            )
        for key, store, takes in (
            ("boxes", data.boxes, spec.boxes_per_frame),
            ("flow", data.flow, spec.flow_length),
        ):
            if store is not None and not takes:
                notes.append(f"the model takes no {key}: data.table.{key} {store} is not read")
        if train.skipped:
            total = train.skipped + len(train)
            notes.append(f"the skip list leaves out {train.skipped} of {total} training rows")
        return notes

    def _boxes(self, spec: InputSpec) -> BoxStore | None:
        """The store of boxes, if the model takes boxes and one is named."""
        return BoxStore(self.data.boxes) if spec.boxes_per_frame and self.data.boxes else None

    def _flow(self, spec: InputSpec) -> FlowSource | None:
        """The optical flow, if the model takes it and a store of it, or `live`, is named."""
        data, takes = self.data, spec.flow_length
        return open_flow(data.flow, data.flow_bound) if takes and data.flow else None
