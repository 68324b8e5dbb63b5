"""What a recipe says of its data."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from vidgraph.records import Positive, options

Share = Annotated[float, Field(ge=0, le=1)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@options
class SyncMnistOptions:
    """Synchronous digits: which pair moves alike (`sync`), or which digit is seen (`digit`).

    Attributes:
        num_digits: moving digits per clip.
        digits: `mnist` (downloaded once), `embedded` (scikit-learn's), or a folder that holds
            MNIST's four files.
        task: `sync`, or `digit` for still frames and which digits they show, on which backbones
            are pre-trained.
        num_frames: frames per clip.
        classes: digits that take part, such as [0, 1, 2, 3]; None for all ten.
        no_sync_probability: share of clips in which no pair moves alike; None for the released
            rate.
        shuffle_layers: draw the digits in random order; the released way draws the pair under all
            others.
        val_clips: size of the fixed validation set.
        test_clips: size of the fixed test set; None for the published one.
        test_paths: file of the released 5-digit test trajectories; None to download it once.
    """

    num_digits: Positive = 3
    digits: str = "mnist"
    task: Literal["sync", "digit"] = "sync"
    num_frames: Positive = 10
    classes: list[int] | None = None
    no_sync_probability: Share | None = None
    shuffle_layers: bool = False
    val_clips: Annotated[int, Field(ge=0)] = 2000
    test_clips: Positive | None = None
    test_paths: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether the test set is the authors'; variants of the task have a generated one."""
        varied = (self.classes, self.no_sync_probability, self.shuffle_layers, self.num_frames)
        as_released = varied == (None, None, False, 10) and self.task == "sync"
        return as_released and self.digits != "embedded"

    def title(self, split: str) -> str:
        """What is measured on, in words."""
        what = "single digits" if self.task == "digit" else f"{self.num_digits} synchronous digits"
        return f"{what} ({split}, digits: {self.digits})"


@options
class TableOptions:
    """Videos listed in a table, or sorted into one folder per class.

    Attributes:
        path: CSV or Parquet file, or the folder.
        columns: the table's own column names, as {label: class, split: split01}.
        skip_list: file written by `vidgraph data check`; its videos are left out, and every score
            counts them.
        train_split: name of the split to train on.
        val_split: name of the split to choose the checkpoint on.
        test_split: name of the split that is scored once.
        flip: mirror half of the training clips left to right; a class whose name says left or
            right becomes its partner.
        short_side: pixels of the shorter side of training frames before a random crop: [256], or
            [256, 320] for any between; null: crops of 80 to 100 % of the largest.
        crop_scales: in place of `short_side`: sides of training crops as shares of the frames'
            shorter side, rows and columns drawn apart (neighbours in the list at most), at one of
            thirteen positions: [1, 0.875, 0.75, 0.66] for Temporal Segment Networks.
        brightness: training clips become lighter or darker by up to this share of the range, all
            frames of a clip alike.
        boxes: folder of a store of boxes, as `vidgraph extract` writes it; for models that take
            boxes.
        intervals: file of a second table, `video, label, start_seconds, end_seconds`: which action
            happens when. The table is then multi-label.
        label_scope: what a training clip is labelled with where there are intervals: `clip`, the
            actions that it shows; `video`, those of the whole video. Tests always ask for those of
            the video.
        flow: for models that take optical flow: folder of a store, as `vidgraph extract flow`
            writes it; `live` computes it with DIS as videos are read, `live:tvl1` and so on with
            another method.
        flow_bound: what live flow in 8 bits reaches to, in pixels of a frame of 340x256.
        features: folder of a store of feature maps, as `vidgraph extract features` writes it, which
            the frozen backbone made of the same clips; frames are then not read.
        box_crops: beside `features`, for models that take crops of boxes: a store of what the
            backbone made of them, as `vidgraph extract features --boxes` writes it.
    """

    path: str
    columns: dict[str, str] = field(default_factory=dict)
    skip_list: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    flip: bool = False
    short_side: list[Positive] | None = None
    crop_scales: list[Annotated[float, Field(gt=0, le=1)]] = field(default_factory=list)
    brightness: Share = 0.0
    boxes: str | None = None
    intervals: str | None = None
    label_scope: Literal["clip", "video"] = "clip"
    flow: str | None = None
    flow_bound: AboveZero = 20.0
    features: str | None = None
    box_crops: str | None = None

    def __post_init__(self) -> None:
        side = self.short_side
        if side is not None and not (len(side) in (1, 2) and side[0] <= side[-1]):
            raise ValueError(
                f"data.table.short_side must be [256] or a range such as [256, 320], not {side}"
            )
        if self.crop_scales and side is not None:
            raise ValueError(
                "data.table.crop_scales and short_side both say how training crops are drawn; give "
                "one of them"
            )

        if self.box_crops and not (self.features and self.boxes):
            raise ValueError("data.table.box_crops needs data.table.features and boxes beside it")

    def split(self, name: str) -> str:
        """The table's own name of `train`, `val` or `test`; other names are the table's already."""
        own = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        return own.get(name, name)


@options
class DataOptions:
    """Exactly one of the two is given."""

    syncmnist: SyncMnistOptions | None = None
    table: TableOptions | None = None

    def __post_init__(self) -> None:
        if (self.syncmnist is None) == (self.table is None):
            raise ValueError("data must hold exactly one of syncmnist and table")
