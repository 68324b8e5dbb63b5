"""The splits of what a recipe names, opened for the clips that a model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from vidgraph.data.check import read_skip_list
from vidgraph.data.clips import ClipDataset
from vidgraph.data.digits import SPLITS, load_digits
from vidgraph.data.intervals import load_intervals
from vidgraph.data.options import DataOptions, SyncMnistOptions, TableOptions
from vidgraph.data.syncmnist import DigitClips, DigitStream, SyncMnistStream, SyncMnistTest
from vidgraph.data.table import load_table
from vidgraph.data.trajectories import released_trajectories
from vidgraph.errors import DataError, RecipeError, nearest
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.features import CropStore, FeatureStore
from vidgraph.precompute.flow import open_flow
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.crops import CropDraws
from vidgraph.video.views import ViewPlan

VALIDATION_SEED, TEST_SEED = 20_190_411, 20_190_412  # of generated clips: the same for every row


@dataclass(frozen=True)
class ScoredSplit:
    """A split to be scored: its clips, the classes in the order of the model's outputs, how many
    samples a skip list leaves out, and what is measured on, in words.
    """

    dataset: Dataset[ClipBatch]
    class_names: list[str]
    skipped: int
    title: str


@dataclass(frozen=True)
class TrainingSplits:
    """What a network is trained and validated on, and what a person should know of it."""

    train: Dataset[ClipBatch]
    val: Dataset[ClipBatch] | None  # None: there is no such split
    shuffle: bool  # the order is drawn anew in every epoch; generated clips are random already
    fingerprint: dict[str, Any]  # what `data.json` says of the data
    notes: list[str]


def open_source(
    data: DataOptions, class_names: Sequence[str] | None = None
) -> SyncMnistSource | TableSource:
    """Opens the data of a recipe: first their classes, then, for a model's clips, their splits.

    `class_names` are a model's, in its order; None for the data's own.
    """
    if data.table is not None:
        return TableSource(data.table, class_names)
    assert data.syncmnist is not None
    return SyncMnistSource(data.syncmnist, class_names)


class SyncMnistSource:
    """Synchronous digits; generated clips have one view."""

    multi_label = False

    def __init__(self, data: SyncMnistOptions, class_names: Sequence[str] | None = None) -> None:
        self.data = data
        self.class_names = list(self._stream("train", 1, 0).class_names)
        if class_names is not None and list(class_names) != self.class_names:
            ours = f"the {len(self.class_names)} of {data.title('test')}"
            raise DataError(f"the model's {len(class_names)} classes are not {ours}")

    def training(
        self, spec: InputSpec, views: ViewPlan, num_clips: int, seed: int
    ) -> TrainingSplits:
        """Training clips, as many as a training takes, and validation clips."""
        train = self._stream("train", num_clips, seed)
        _check_fits(train, spec)
        digits = train.digits
        content = hashlib.sha256(digits.images.tobytes() + digits.labels.tobytes()).hexdigest()
        fingerprint = {"files": len(digits), "missing": 0, "skipped": 0, "sha256": content}
        val = self._split("val") if self.data.val_clips else None
        return TrainingSplits(train, val, False, fingerprint, [])

    def scored(self, split: str, spec: InputSpec, views: ViewPlan) -> ScoredSplit:
        """One split of `train`, `val` and `test`."""
        dataset = self._split(split)
        _check_fits(dataset, spec)
        return ScoredSplit(dataset, self.class_names, 0, self.data.title(split))

    def _split(self, split: str) -> DigitClips:
        data, num_test = self.data, self.data.test_clips or 10_000
        if split not in SPLITS:
            raise RecipeError(f"synchronous digits have no split {split!r}{nearest(split, SPLITS)}")
        if split == "test" and data.is_published:
            released = data.num_digits == 5 or data.test_paths is not None
            walks = released_trajectories(data.test_paths) if released else None
            return SyncMnistTest(load_digits(data.digits, "test"), data.num_digits, num_test, walks)
        num_clips = {"train": 10_000, "val": data.val_clips, "test": num_test}[split]
        seed = {"train": 0, "val": VALIDATION_SEED, "test": TEST_SEED}[split]
        return self._stream(split, num_clips, seed)

    def _stream(self, split: str, num_clips: int, seed: int) -> DigitClips:
        data, digits = self.data, load_digits(self.data.digits, split)
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
    """Videos of a table."""

    def __init__(self, data: TableOptions, class_names: Sequence[str] | None = None) -> None:
        self.data = data
        several = data.intervals is not None
        self.table = load_table(
            data.path, data.columns, class_names=class_names, multi_label=several
        )
        self.class_names, self.multi_label = list(self.table.class_names), self.table.multi_label
        self.skip = frozenset(read_skip_list(data.skip_list) if data.skip_list else ())

    def training(
        self, spec: InputSpec, views: ViewPlan, num_clips: int, seed: int
    ) -> TrainingSplits:
        """Training and validation clips, one clip and crop per video; how many are seen, a table
        does not need to know.
        """
        data, table, side = self.data, self.table, self.data.short_side
        stores, views, intervals = self._stores(spec), views.single(), None
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
        common: dict[str, Any] = {"skip": self.skip, "views": views, **stores}
        drawn: dict[str, Any] = {"seed": seed, "intervals": intervals, "crops": crops}
        train = ClipDataset(table, data.train_split, spec, train=True, **drawn, **common)
        val, notes = None, [*table.notes, *self._notes(train)]
        if data.val_split in table.splits:
            val = ClipDataset(table, data.val_split, spec, train=False, **common)
        else:
            notes.append(
                f"{data.path} has no split {data.val_split!r}: the weights of the last clip will "
                "be kept, not the best on validation"
            )
        fingerprint = table.fingerprint(self.skip)
        fingerprint |= {key: store.method.to_dict() for key, store in stores.items() if store}
        if intervals is not None:
            fingerprint["intervals"] = intervals.sha256
        return TrainingSplits(train, val, True, fingerprint, notes)

    def scored(self, split: str, spec: InputSpec, views: ViewPlan) -> ScoredSplit:
        """One split, `train`, `val`, `test` or a name of the table's, with all its views."""
        name = self.data.split(split)
        common: dict[str, Any] = {"skip": self.skip, "views": views, **self._stores(spec)}
        dataset = ClipDataset(self.table, name, spec, train=False, **common)
        title = f"{self.data.path} ({name})"
        return ScoredSplit(dataset, self.class_names, dataset.skipped, title)

    def _notes(self, train: ClipDataset) -> list[str]:
        notes, data, spec = [], self.data, train.spec
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

    def _stores(self, spec: InputSpec) -> dict[str, Any]:
        """Boxes, flow and crops, where the model takes them and they are named, and features."""
        data = self.data
        boxes = BoxStore(data.boxes) if spec.boxes_per_frame and data.boxes else None
        flow = open_flow(data.flow, data.flow_bound) if spec.flow_length and data.flow else None
        features = FeatureStore(data.features) if data.features else None
        crops = CropStore(data.box_crops) if spec.box_crops and data.box_crops else None
        return {"boxes": boxes, "flow": flow, "features": features, "box_crops": crops}
