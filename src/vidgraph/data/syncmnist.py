"""SyncMNIST: which two of several wandering digits move together? (Duta, Nicolicioiu, Leordeanu,
NeurIPS 2019)

Three, five or any number of digits of different classes walk at random over a 64x64 frame for 10
frames. The label is the unordered pair of classes that shares every displacement, or "none". The
look of single frames says nothing about it.

Data sets here hand out whole batches: `dataset.__getitems__([3, 5])` is a `ClipBatch`, so a
`DataLoader` over one takes `collate_fn=passthrough_collate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidgraph.data.digit_drawing import (
    CANVAS,
    DIGIT,
    Trajectories,
    canvas_boxes,
    draw_clips,
    pair_label,
    random_below,
    random_bits,
    random_unit,
    sequential_trajectories,
    trajectories,
    trajectory_draws,
)
from vidgraph.data.digit_sources import (
    Digits,
    load_digits,
    read_trajectories,
    released_trajectories,
)
from vidgraph.errors import DataError
from vidgraph.records import ClipBatch, Regions

__all__ = [
    "DigitStream",
    "Digits",
    "SyncMnistStream",
    "SyncMnistTest",
    "appearance_accuracy",
    "load_digits",
    "load_test_set",
    "pair_names",
    "passthrough_collate",
    "read_trajectories",
    "released_trajectories",
]


def pair_names(classes: Sequence[int] = range(10)) -> list[str]:
    """Names of the labels: "1-0", "2-0", "2-1", ... for the unordered pairs of `classes`, then
    "none".
    """
    ordered = sorted(classes)
    return [f"{a}-{b}" for i, a in enumerate(ordered) for b in ordered[:i]] + ["none"]


def passthrough_collate(batch: ClipBatch) -> ClipBatch:
    """The `collate_fn` for data sets whose `__getitems__` already gives a batch."""
    return batch


class SyncMnistStream:
    """Endless fresh clips of synchronous digits; clip i is a function of (seed, i) alone.

    The distribution is the authors' (uniform first image, other digits of different classes, their
    walk, their 1/92 share of "none"); only the random numbers differ, so that any clip can be made
    without those before it.

    Args:
        digits: the images to draw.
        num_digits: digits per clip; the first two are the pair.
        num_clips: length of one pass.
        seed: picks the clips.
        num_frames: T.
        classes: digit classes that appear. As many digits as classes makes every clip show the same
            classes, so that single frames cannot narrow the answer.
        no_sync_probability: share of clips in which no two digits move together ("none").
        shuffle_layers: draw the digits in random order. The authors draw the pair first, under all
            others, which betrays it where digits overlap.

    Raises:
        DataError: fewer than two digits, more digits than classes, or a class without images.
    """

    def __init__(
        self,
        digits: Digits,
        num_digits: int,
        num_clips: int,
        seed: int,
        num_frames: int = 10,
        classes: Sequence[int] = range(10),
        no_sync_probability: float = 1 / 92,
        shuffle_layers: bool = False,
    ) -> None:
        self.classes = np.array(sorted(set(classes)), np.int64)
        if not 2 <= num_digits <= len(self.classes):
            raise DataError(
                f"num_digits is {num_digits}; give 2 to {len(self.classes)}, the number of "
                "different classes"
            )
        _check_classes(digits, self.classes)
        if not 0 <= no_sync_probability <= 1:
            raise DataError(
                f"no_sync_probability is {no_sync_probability}; give a share from 0 to 1"
            )
        self.digits, self.num_digits, self.num_clips, self.seed, self.num_frames = (
            digits,
            num_digits,
            num_clips,
            seed,
            num_frames,
        )
        self.no_sync_probability, self.shuffle_layers = no_sync_probability, shuffle_layers
        self.class_names = pair_names(self.classes.tolist())
        groups = [digits.by_class[c] for c in self.classes]
        self._pool = np.concatenate(groups)  # images, grouped by class
        self._counts = np.array([len(g) for g in groups])
        self._starts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> ClipBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ClipBatch:
        """Clips `indices` as one batch: video uint8 [B, 1, T, 64, 64].

        The boxes come in the order of drawing, so the pair's are the first two unless
        `shuffle_layers` is on: a model that is given boxes must not be told their order.
        """
        rows = _checked(indices, self.num_clips)
        images, path, label = self.plan(rows)
        return _clip_batch(self.digits, images, path, label, rows)

    def plan(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What clips `rows` [B] show, undrawn: images [B, n], top-left corners on the canvas [B, T,
        n, 2], labels [B].
        """
        n, num_classes = self.num_digits, len(self.classes)
        bits = random_bits(
            self.seed, rows, 1 + num_classes + n + n + trajectory_draws(n, self.num_frames)
        )
        sync_bits, class_bits, image_bits, layer_bits, path_bits = np.split(
            bits, np.cumsum([1, num_classes, n, n]), axis=1
        )

        synchronous = random_unit(sync_bits[:, 0]) >= self.no_sync_probability
        first = random_below(
            image_bits[:, 0], len(self._pool)
        )  # digit 0 is any image, so frequent classes come more often
        first_class = np.searchsorted(self._starts, first, side="right") - 1
        keys = class_bits.copy()
        keys[np.arange(len(rows)), first_class] = (
            0  # sorts to the front: the other digits have other classes
        )
        positions = np.argsort(keys, axis=1, kind="stable")[:, :n]  # [B, n] places in self.classes
        chosen = self._starts[positions] + random_below(image_bits, self._counts[positions])
        chosen[:, 0] = first

        label = pair_label(positions[:, 0], positions[:, 1], synchronous, num_classes)
        path = trajectories(path_bits, n, self.num_frames, synchronous)  # [B, T, n, 2]
        images = self._pool[chosen]
        if self.shuffle_layers:
            order = np.argsort(layer_bits, axis=1)
            images = np.take_along_axis(images, order, 1)
            path = np.take_along_axis(path, order[:, None, :, None], 2)
        return images, path, label


class SyncMnistTest:
    """A fixed set of clips, made as the authors make theirs; frames are drawn when asked for.

    Args:
        digits: the images that the trajectories are about: the MNIST test digits, for the published
            sets.
        num_digits: digits per clip; 3 and 5 are published.
        num_clips: the first so many clips. The generator draws them one after the other, so a
            shorter set is the beginning of a longer one.
        paths: trajectories to draw, from `released_trajectories` or `read_trajectories`; None: the
            authors' sequential generator.
        seed: of the sequential generator.

    Attributes:
        labels: label of every clip, int64 [num_clips].

    Raises:
        DataError: trajectories that are too few, have another number of digits, or belong to other
            digit images.
    """

    def __init__(
        self,
        digits: Digits,
        num_digits: int,
        num_clips: int = 10_000,
        paths: Trajectories | None = None,
        seed: int = 0,
    ) -> None:
        if not 2 <= num_digits <= 10:
            raise DataError(
                f"num_digits is {num_digits}; give 2 to 10, the number of different classes"
            )
        _check_classes(digits, np.arange(10))
        if paths is None:
            found = sequential_trajectories(digits.labels, num_digits, num_clips, seed)
        else:
            found = paths
            _check_trajectories(found, digits, num_digits, num_clips)
        self.digits, self.num_digits, self.num_clips = digits, num_digits, num_clips
        self.coordinates, self.images = found.coordinates[:num_clips], found.images[:num_clips]
        pair = digits.labels[self.images[:, :2]]
        self.labels = pair_label(pair[:, 0], pair[:, 1], found.synchronous[:num_clips], 10)
        self.class_names = pair_names()

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> ClipBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ClipBatch:
        """Clips `indices` as one batch: video uint8 [B, 1, T, 64, 64]; boxes in the order of
        drawing, the pair first.
        """
        rows = _checked(indices, self.num_clips)
        return _clip_batch(
            self.digits, self.images[rows], self.coordinates[rows], self.labels[rows], rows
        )


def load_test_set(
    num_digits: int,
    source: str | Path = "mnist",
    paths: str | Path | None = None,
    num_clips: int = 10_000,
) -> SyncMnistTest:
    """The published test sets: 5 MNIST digits walk the released trajectories; all others the
    sequential generator's, with seed 0.

    Args:
        num_digits: digits per clip.
        source: as for `load_digits`.
        paths: a local copy of the released trajectories; None downloads them where they are needed.
        num_clips: the first so many clips.

    Raises:
        DataError: as `load_digits`, `released_trajectories` and `SyncMnistTest`.
    """
    digits = load_digits(source, "test")
    released = paths is not None or (num_digits == 5 and str(source) != "embedded")
    return SyncMnistTest(
        digits, num_digits, num_clips, released_trajectories(paths) if released else None
    )


class DigitStream:
    """Still digits at random places, T = 1: to pre-train a stem on what digits look like, and on
    nothing that moves.

    With one digit per frame the label is its class; with several, of different classes, 0/1 for
    every class that is in view. The latter teaches a stem to tell digits apart where others lie
    over them, which single digits cannot.

    Args:
        digits: the images to draw.
        num_clips: length of one pass.
        seed: picks the clips; clip i is a function of (seed, i) alone.
        num_digits: digits per frame.
    """

    def __init__(self, digits: Digits, num_clips: int, seed: int, num_digits: int = 1) -> None:
        self.digits, self.num_clips, self.seed, self.num_digits = (
            digits,
            num_clips,
            seed,
            num_digits,
        )
        self.class_names = [str(c) for c in range(10)]
        self._frames = (
            SyncMnistStream(digits, num_digits, num_clips, seed, num_frames=1, shuffle_layers=True)
            if num_digits > 1
            else None
        )

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> ClipBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ClipBatch:
        """Clips `indices` as one batch: video uint8 [B, 1, 1, 64, 64]; label int64 [B], or float
        [B, 10].
        """
        rows = _checked(indices, self.num_clips)
        if self._frames is not None:
            images, path, _ = self._frames.plan(rows)
            batch = _clip_batch(self.digits, images, path, rows, rows)
            classes = torch.from_numpy(self.digits.labels[images])  # [B, n]
            batch.label = torch.zeros(len(rows), 10).scatter_(1, classes, 1.0)
            return batch
        bits = random_bits(self.seed, rows, 3)
        images = random_below(bits[:, :1], len(self.digits))  # [B, 1]
        path = random_below(bits[:, 1:], CANVAS - DIGIT).reshape(-1, 1, 1, 2)
        return _clip_batch(self.digits, images, path, self.digits.labels[images[:, 0]], rows)


def appearance_accuracy(num_digits: int, no_sync_probability: float = 1 / 92) -> float:
    """Best accuracy, 0..1, of someone who knows every digit but sees no motion: guess one of the
    pairs in view, or "none".
    """
    return max(
        no_sync_probability, (1 - no_sync_probability) / (num_digits * (num_digits - 1) // 2)
    )


def _check_trajectories(
    found: Trajectories, digits: Digits, num_digits: int, num_clips: int
) -> None:
    if found.images.shape[1] != num_digits or len(found) < num_clips:
        shown = f"{len(found)} clips of {found.images.shape[1]} digits"
        raise DataError(f"the trajectories hold {shown}; asked for {num_clips} of {num_digits}")
    # Digits of one clip are of different classes: with other images than the trajectories were made
    # for, that fails at once.
    known = found.images.max() < len(digits)
    classes = np.sort(digits.labels[found.images], axis=1) if known else np.zeros((1, 2), np.int64)
    if (np.diff(classes, axis=1) == 0).any():
        raise DataError(
            "the trajectories were made for other digit images; use them with the MNIST test digits"
        )


def _check_classes(digits: Digits, classes: NDArray[np.int64]) -> None:
    absent = [int(c) for c in classes if not 0 <= c <= 9 or not len(digits.by_class[c])]
    if absent:
        raise DataError(
            f"the digits have no image of class {absent[0]}; choose classes from 0 to 9 that they "
            "show"
        )


def _checked(indices: Sequence[int], length: int) -> NDArray[np.int64]:
    rows = np.asarray(indices, np.int64).reshape(-1)
    if len(rows) and (rows.min() < -length or rows.max() >= length):
        raise IndexError(f"clip {rows.max() if rows.max() >= length else rows.min()} of {length}")
    return np.where(rows < 0, rows + length, rows)


def _clip_batch(
    digits: Digits,
    images: NDArray[np.int64],
    path: NDArray[np.int64],
    label: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> ClipBatch:
    """Draws the clips: images [B, n], path [B, T, n, 2]."""
    num_clips, num_frames, num_digits, _ = path.shape
    boxes = canvas_boxes(path)  # [B, T, n, 4]
    shape = (num_clips, num_frames, num_digits)
    return ClipBatch(
        video=draw_clips(digits.ink, images, path)[:, None],  # [B, 1, T, 64, 64]
        label=torch.from_numpy(label.astype(np.int64)),
        index=torch.from_numpy(rows.copy()),
        frame_indices=torch.arange(num_frames).expand(num_clips, -1).contiguous(),
        regions=Regions(
            torch.from_numpy(boxes / CANVAS).float(),
            torch.ones(shape),
            torch.ones(shape, dtype=torch.bool),
        ),
    )
