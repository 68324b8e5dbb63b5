"""SyncMNIST: which two of several wandering digits move together? (Duta, Nicolicioiu, Leordeanu,
NeurIPS 2019)

Three, five or any number of digits of different classes walk at random over a 64x64 frame for 10
frames. The label is the unordered pair of classes that shares every displacement, or "none". The
look of single frames says nothing about it.

Data sets here make whole batches: `dataset.__getitems__([3, 5])` is a `ClipBatch`.

Shapes: B clips, T frames, n digits per clip, M digit images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from vidgraph.data.digits import DIGIT, Digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.trajectories import (
    CANVAS,
    HIGHEST,
    Trajectories,
    num_walk_draws,
    random_below,
    random_bits,
    random_walks,
    sequential_trajectories,
)
from vidgraph.errors import DataError
from vidgraph.records import ClipBatch, Regions

FRAME = 64  # rows and columns of a finished frame
INK = 10  # a digit's pixel is drawn where it is at least this; darker ones keep what is under them
NO_SYNC_PROBABILITY = 1 / 92  # the released share of "none"

Plan = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.generic]]


class DigitClips(Dataset[ClipBatch]):
    """Clips of walking digits, drawn when they are asked for."""

    digits: Digits
    num_clips: int
    class_names: list[str]

    @abstractmethod
    def plan(self, rows: NDArray[np.int64]) -> Plan:
        """What clips `rows` [B] show, undrawn: images [B, n], top-left corners on the canvas [B, T,
        n, 2], labels [B] or [B, num_classes].
        """

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> ClipBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ClipBatch:
        """Clips as one batch: video uint8 [B, 1, T, 64, 64], one box per digit in the order of
        drawing. Unless layers are shuffled, the pair's are the first two, and a model that is given
        boxes must not be told that.
        """
        rows = np.asarray(indices, np.int64)
        if outside := rows[(rows < 0) | (rows >= self.num_clips)].tolist():
            raise IndexError(f"clip {outside[0]} of {self.num_clips}")
        images, walks, label = self.plan(rows)
        scores = torch.ones(walks.shape[:3])  # [B, T, n]
        return ClipBatch(
            video=torch.from_numpy(draw_clips(self.digits.images, images, walks)[:, None]),
            label=torch.from_numpy(label),
            index=torch.from_numpy(rows),
            frame_indices=torch.arange(scores.shape[1]).repeat(len(rows), 1),
            regions=Regions(torch.from_numpy(digit_boxes(walks)), scores, scores.bool()),
        )


class SyncMnistStream(DigitClips):
    """Fresh clips of synchronous digits; clip i is a function of (seed, i) alone.

    The distribution is the authors' (uniform first image, other digits of different classes, their
    walk, their share of "none"); only the random numbers differ, so that any clip can be made
    without those before it. The first two digits are the pair. As many digits as classes makes
    every clip show the same classes, so that single frames cannot narrow the answer.

    Args:
        digits: the images to draw.
        options: what clips show.
        num_clips: length of one pass.
        seed: picks the clips.

    Raises:
        DataError: fewer than two digits, more digits than classes, or a class without images.
    """

    def __init__(
        self, digits: Digits, options: SyncMnistOptions, num_clips: int, seed: int
    ) -> None:
        self.options, self.digits = options, digits
        self.num_clips, self.seed = num_clips, seed
        self.classes = sorted(set(range(10) if options.classes is None else options.classes))
        _check_digits(digits, options.num_digits, self.classes)
        self.class_names = pair_names(self.classes)
        groups = [digits.by_class[c] for c in self.classes]
        self._pool = np.concatenate(groups)  # images, grouped by class
        self._counts = np.array(list(map(len, groups)))
        self._starts = np.cumsum(self._counts) - self._counts

    def plan(self, rows: NDArray[np.int64]) -> Plan:
        n, num_frames = self.options.num_digits, self.options.num_frames
        num_classes = len(self.classes)
        counts = [1, num_classes, n, n, num_walk_draws(n, num_frames)]
        bits = random_bits(self.seed, rows, sum(counts))
        sync_bits, class_bits, image_bits, layer_bits, walk_bits = np.split(
            bits, np.cumsum(counts[:-1]), axis=1
        )
        unit = (sync_bits[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        share = self.options.no_sync_probability
        synchronous = unit >= (NO_SYNC_PROBABILITY if share is None else share)
        # Digit 0 is any image, so that frequent classes come more often.
        first = random_below(image_bits[:, 0], len(self._pool))
        first_class = np.searchsorted(self._starts, first, side="right") - 1
        keys = class_bits.copy()
        keys[np.arange(len(rows)), first_class] = 0  # sorts to the front: the others are different
        classes = np.argsort(keys, axis=1, kind="stable")[:, :n]  # [B, n] indices of self.classes
        chosen = self._starts[classes] + random_below(image_bits, self._counts[classes])
        chosen[:, 0] = first
        label = pair_label(classes[:, :2], synchronous, num_classes)
        walks = random_walks(walk_bits, n, num_frames, synchronous)  # [B, T, n, 2]
        images = self._pool[chosen]
        if self.options.shuffle_layers:
            order = np.argsort(layer_bits, axis=1)
            images = np.take_along_axis(images, order, 1)
            walks = np.take_along_axis(walks, order[:, None, :, None], 2)
        return images, walks, label


class SyncMnistTest(DigitClips):
    """A fixed set of clips, made as the authors make theirs; frames are drawn when asked for.

    Published are, of the MNIST test digits, 5 that walk the released trajectories, and 3 that walk
    those of the authors' sequential generator with seed 0, which `trajectories` None stands for. A
    shorter set is the beginning of a longer one. `labels` is the label of every clip, [num_clips].
    """

    def __init__(
        self,
        digits: Digits,
        num_digits: int,
        num_clips: int = 10_000,
        trajectories: Trajectories | None = None,
    ) -> None:
        _check_digits(digits, num_digits, range(10))
        found = trajectories or sequential_trajectories(digits.labels, num_digits, num_clips, 0)
        if found.images.shape[1] != num_digits or len(found) < num_clips:
            raise DataError(
                f"the trajectories hold {len(found)} clips of {found.images.shape[1]} digits; "
                f"asked for {num_clips} of {num_digits}"
            )
        # Digits of one clip are of different classes, so other digit images fail at once.
        fits = found.images.max() < len(digits)
        if not fits or not np.diff(np.sort(digits.labels[found.images], axis=1)).all():
            raise DataError(
                "the trajectories were made for other digit images; use them with the MNIST test "
                "digits"
            )
        self.digits, self.num_digits, self.num_clips = digits, num_digits, num_clips
        self.coordinates, self.images = found.coordinates[:num_clips], found.images[:num_clips]
        pair = digits.labels[self.images[:, :2]]
        self.labels = pair_label(pair, found.synchronous[:num_clips], 10)
        self.class_names = pair_names()

    def plan(self, rows: NDArray[np.int64]) -> Plan:
        return self.images[rows], self.coordinates[rows], self.labels[rows]


class DigitStream(DigitClips):
    """Still digits at random positions, T = 1, to pre-train a backbone on.

    With one digit per frame the label is its class; with several, of different classes, 0/1 for
    every class that is in view. The latter teaches a backbone to tell digits apart where others lie
    over them, which single digits cannot. Clip i is a function of (seed, i) alone.
    """

    def __init__(self, digits: Digits, num_clips: int, seed: int, num_digits: int = 1) -> None:
        self.digits, self.num_clips, self.seed = digits, num_clips, seed
        self.class_names = [str(c) for c in range(10)]
        self._several: SyncMnistStream | None = None
        if num_digits > 1:
            options = SyncMnistOptions(num_digits, num_frames=1, shuffle_layers=True)
            self._several = SyncMnistStream(digits, options, num_clips, seed)

    def plan(self, rows: NDArray[np.int64]) -> Plan:
        if self._several is None:
            bits = random_bits(self.seed, rows, 3)
            images = random_below(bits[:, :1], len(self.digits))  # [B, 1]
            walks = random_below(bits[:, 1:], HIGHEST + 1).reshape(-1, 1, 1, 2)
            return images, walks, self.digits.labels[images[:, 0]]
        images, walks, _ = self._several.plan(rows)
        seen = np.zeros((len(rows), 10), np.float32)
        np.put_along_axis(seen, self.digits.labels[images], 1.0, axis=1)
        return images, walks, seen


def pair_names(classes: Sequence[int] = range(10)) -> list[str]:
    """Label names "1-0", "2-0", "2-1", ... of the pairs of `classes`, then "none"."""
    return [f"{a}-{b}" for a in sorted(classes) for b in sorted(classes) if b < a] + ["none"]


def pair_label(
    pair: NDArray[np.int64], synchronous: NDArray[np.bool_], num_classes: int
) -> NDArray[np.int64]:
    """Label of each clip, in the order of `pair_names`, by the classes [B, 2] of its pair."""
    high, low = pair.max(1), pair.min(1)
    return np.where(synchronous, high * (high - 1) // 2 + low, num_classes * (num_classes - 1) // 2)


def draw_clips(
    digits: NDArray[np.uint8], images: NDArray[np.int64], walks: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Draws digits, later ones on top, stretches frames to 0..255 and resizes them to 64x64.

    Of the images [M, 28, 28], `images` [B, n] says which are shown, and `walks` [B, T, n, 2] where:
    uint8 [B, T, 64, 64].
    """
    clips = np.empty((*walks.shape[:2], FRAME, FRAME), np.uint8)
    for clip, shown, corners in zip(clips, digits[images], walks, strict=True):
        canvas = np.zeros((len(clip), CANVAS, CANVAS), np.uint8)  # [T, 100, 100]
        for digit, walk in zip(shown, corners.transpose(1, 0, 2), strict=True):
            ink = digit >= INK
            for frame, (row, column) in zip(canvas, walk.tolist(), strict=True):
                np.copyto(frame[row : row + DIGIT, column : column + DIGIT], digit, where=ink)
        brightest = np.maximum(canvas.max((1, 2)), 1)
        for t, frame in enumerate(canvas):
            if brightest[t] < 255:  # the darkest pixel is always 0
                frame[:] = np.minimum(frame * (255.0 / brightest[t]), 255.0) + 0.5
            small = Image.fromarray(frame).resize((FRAME, FRAME), Image.Resampling.BILINEAR)
            clip[t] = np.asarray(small)
    return clips


def digit_boxes(walks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Fractions of the frame: top-left corners [..., 2] (row, column) -> boxes [..., 4]."""
    corner = walks[..., ::-1]
    return (np.concatenate([corner, corner + DIGIT], -1) / CANVAS).astype(np.float32)


def _check_digits(digits: Digits, num_digits: int, classes: Sequence[int]) -> None:
    if not 2 <= num_digits <= len(classes):
        most = f"{len(classes)}, the number of different classes"
        raise DataError(f"num_digits is {num_digits}; give 2 to {most}")
    if absent := [c for c in classes if c not in digits.labels]:
        what = f"the digits have no image of class {absent[0]}"
        raise DataError(f"{what}; choose classes from 0 to 9 that they show")
