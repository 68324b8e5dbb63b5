"""Moving digits, drawn: random numbers per clip, trajectories, sparse drawing and exact resizing.
Pure functions of arrays.

Everything works on a batch of clips at once and gives, bit for bit, what drawing every digit of
every frame in turn and resizing every frame with Pillow gives (Duta et al., NeurIPS 2019,
SyncMNIST).

Shapes: B clips, T frames, n digits per clip, F = B * T frames, P ink pixels.
Coordinates are (row, column) of a digit's top-left corner on the 100x100 canvas, 0..71.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANVAS, FRAME, DIGIT = 100, 64, 28  # pixels on a side: canvas, finished frame, digit image
HIGHEST = CANVAS - DIGIT - 1  # largest coordinate of a top-left corner
MAX_STEP = 10  # a step lies in -10..+9: the upper bound is exclusive
INK = 10  # a digit's pixel is copied where it is at least this; darker ones keep what is under them

_FRACTION_BITS = 22  # Pillow's fixed point for 8-bit images
_CLIPS_AT_ONCE = 32  # larger batches are drawn in parts, which stay in the processor's cache


@dataclass(frozen=True)
class InkPixels:
    """The ink of many digit images, one after the other: image m owns entries `starts[m] :
    starts[m] + counts[m]`.

    Attributes:
        starts: first entry of each image, int64 [M].
        counts: number of entries of each image, int64 [M].
        rows: row of each ink pixel within its image, int64 [P].
        columns: column of each ink pixel within its image, int64 [P].
        values: its brightness, uint8 [P].
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.uint8]


def ink_pixels(images: NDArray[np.uint8]) -> InkPixels:
    """Collects the pixels of `images` [M, 28, 28] that are drawn."""
    owners, rows, columns = np.nonzero(images >= INK)
    counts = np.bincount(owners, minlength=len(images)).astype(np.int64)
    return InkPixels(
        np.cumsum(counts) - counts, counts, rows, columns, images[owners, rows, columns]
    )


@dataclass(frozen=True)
class Trajectories:
    """Which digits a list of clips shows and where they walk.

    Attributes:
        coordinates: top-left corners (row, column), int64 [N, T, n, 2].
        images: which image each digit shows, int64 [N, n].
        synchronous: whether digits 0 and 1 move together, bool [N].
    """

    coordinates: NDArray[np.int64]
    images: NDArray[np.int64]
    synchronous: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.synchronous)


def sequential_trajectories(
    labels: NDArray[np.int64], num_digits: int, num_clips: int, seed: int, num_frames: int = 10
) -> Trajectories:
    """The trajectories that the authors' script makes after `np.random.seed(seed)`: each clip
    depends on all before it.

    Digit 0 of clip i is image i (starting again after the last); the others are of different
    classes. The order of the draws, from numpy's legacy generator, is that of their script:
    corners; classes; images; together or not (a share of 1/92 is not); then per frame the common
    step, column first, and the free steps, row first.

    Args:
        labels: classes of all images, [M]; all ten must occur.
        num_digits: n, 2 to 10.
        num_clips: N.
        seed: of the generator.
        num_frames: T.
    """
    random = np.random.RandomState(seed)
    randint = random.randint
    by_class = [np.nonzero(labels == c)[0] for c in range(10)]
    coordinates = np.empty((num_clips, num_frames, num_digits, 2), np.int64)
    images = np.empty((num_clips, num_digits), np.int64)
    synchronous = np.empty(num_clips, np.bool_)

    def step(digits: list[list[int]], axis: int) -> int:
        low = max(max(-MAX_STEP, -d[axis]) for d in digits)
        high = min(min(MAX_STEP, HIGHEST - d[axis]) for d in digits)
        return int(randint(low, high)) if low < high else 0

    for clip in range(num_clips):
        corners = [
            [int(randint(0, HIGHEST + 1)), int(randint(0, HIGHEST + 1))] for _ in range(num_digits)
        ]
        first = clip % len(labels)
        others = [c for c in range(10) if c != labels[first]]
        pools = [by_class[others[k]] for k in random.permutation(9)[: num_digits - 1]]
        images[clip] = [first] + [pool[randint(0, len(pool))] for pool in pools]
        synchronous[clip] = random.rand() > 1 / 92
        for frame in range(num_frames):
            if synchronous[clip]:
                columns, rows = step(corners[:2], 1), step(corners[:2], 0)
                for corner in corners[:2]:
                    corner[0], corner[1] = corner[0] + rows, corner[1] + columns
            for corner in corners[2 * int(synchronous[clip]) :]:
                rows, columns = step([corner], 0), step([corner], 1)
                corner[0], corner[1] = corner[0] + rows, corner[1] + columns
            coordinates[clip, frame] = corners
    return Trajectories(coordinates, images, synchronous)


def pair_label(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    synchronous: NDArray[np.bool_],
    num_classes: int,
) -> NDArray[np.int64]:
    """Label of each clip: (1, 0) -> 0, (2, 0) -> 1, (2, 1) -> 2, ... whatever the order; the last
    label where nothing is synchronous.
    """
    high, low = np.maximum(first, second), np.minimum(first, second)
    return np.where(synchronous, high * (high - 1) // 2 + low, num_classes * (num_classes - 1) // 2)


def random_bits(seed: int, indices: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """`count` random 64-bit numbers for each clip, a function of (seed, clip) only.

    A counter-based generator (SplitMix64, Steele et al., OOPSLA 2014): number j of a clip is a hash
    of the clip's key plus j times an odd constant, so that a whole batch is drawn in a few array
    operations.

    Returns:
        uint64 [B, count].
    """
    keys = _mix(
        _mix(np.array([seed % 2**64], np.uint64))
        ^ _mix(indices.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019))
    )
    return _mix(
        keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_below(bits: NDArray[np.uint64], limit: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Integers 0..limit-1 from random 64-bit numbers (bias below limit / 2**32); 0 where `limit` is
    1 or 0.
    """
    return ((bits >> np.uint64(32)) * np.asarray(limit).astype(np.uint64) >> np.uint64(32)).astype(
        np.int64
    )


def random_unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Floats in [0, 1) from random 64-bit numbers."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def trajectories(
    bits: NDArray[np.uint64], num_digits: int, num_frames: int, synchronous: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Random walks of the digits; digits 0 and 1 of a synchronous clip share every displacement.

    Each axis moves by a number from max(-10, -c) to min(10, 71 - c), the upper bound exclusive, so
    that no digit leaves the canvas; the common move is bounded by both digits, and an axis with no
    room does not move. The first frame is already after one move.

    Args:
        bits: uint64 [B, trajectory_draws(num_digits, num_frames)].
        num_digits: n, at least 2 unless no clip is synchronous.
        num_frames: T.
        synchronous: [B].

    Returns:
        int64 [B, T, n, 2], (row, column).
    """
    starts, moves = bits[:, : 2 * num_digits], bits[:, 2 * num_digits :]
    position = random_below(starts, HIGHEST + 1).reshape(-1, num_digits, 2)
    moves = moves.reshape(len(bits), num_frames, num_digits + 1, 2)
    path = np.empty((len(bits), num_frames, num_digits, 2), np.int64)
    for frame in range(num_frames):
        low, high = np.maximum(-MAX_STEP, -position), np.minimum(MAX_STEP, HIGHEST - position)
        step = low + random_below(moves[:, frame, :num_digits], high - low)  # [B, n, 2]
        low, room = low[:, :2].max(1), high[:, :2].min(1) - low[:, :2].max(1)
        common = np.where(
            room > 0, low + random_below(moves[:, frame, num_digits], np.maximum(room, 0)), 0
        )  # [B, 2]
        step[:, :2] = np.where(synchronous[:, None, None], common[:, None], step[:, :2])
        position = position + step
        path[:, frame] = position
    return path


def trajectory_draws(num_digits: int, num_frames: int) -> int:
    """Random numbers that `trajectories` needs per clip."""
    return 2 * num_digits + 2 * (num_digits + 1) * num_frames


def draw_clips(ink: InkPixels, image_indices: NDArray[np.int64], path: NDArray[np.int64]) -> Tensor:
    """Draws digits (digit 0 first, later ones on top), stretches each frame to 0..255 and resizes
    it to 64x64.

    Args:
        ink: the pixels of all digit images.
        image_indices: which image each digit shows, [B, n].
        path: top-left corners, [B, T, n, 2].

    Returns:
        uint8 [B, T, 64, 64].
    """
    num_clips, num_frames = path.shape[:2]
    video = torch.empty((num_clips, num_frames, FRAME, FRAME), dtype=torch.uint8)
    for begin in range(0, num_clips, _CLIPS_AT_ONCE):
        part = slice(begin, begin + _CLIPS_AT_ONCE)
        canvas = _draw(ink, image_indices[part], path[part])
        _stretch(canvas)
        half = _resize_first_axis(torch.from_numpy(canvas)).permute(2, 1, 0)  # [row, F, column]
        frames = _resize_first_axis(half.contiguous())  # [row, F, column]
        video[part] = frames.transpose(0, 1).reshape(-1, num_frames, FRAME, FRAME)
    return video


def _draw(
    ink: InkPixels, image_indices: NDArray[np.int64], path: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The canvases as [column, F, row]: the first resizing pass, over columns, then runs along
    contiguous memory.
    """
    num_clips, num_frames, num_digits, _ = path.shape
    num_all = num_clips * num_frames
    canvas = np.zeros(CANVAS * num_all * CANVAS, np.uint8)
    frame_offset = (np.arange(num_all) * CANVAS).reshape(num_clips, num_frames)
    for digit in range(num_digits):
        images = image_indices[:, digit]
        counts = ink.counts[images]
        owner = np.repeat(np.arange(num_clips), counts)  # clip of each ink pixel, [P]
        first = np.cumsum(counts) - counts
        pixel = (
            np.arange(len(owner)) + (ink.starts[images] - first)[owner]
        )  # its entry in `ink`, [P]
        corner = (
            frame_offset + path[:, :, digit, 1] * (num_all * CANVAS) + path[:, :, digit, 0]
        )  # [B, T]
        place = (ink.columns[pixel] * (num_all * CANVAS) + ink.rows[pixel])[:, None] + corner[
            owner
        ]  # [P, T]
        canvas[place.ravel()] = np.repeat(ink.values[pixel], num_frames)
    return canvas.reshape(CANVAS, num_all, CANVAS)


def canvas_boxes(path: NDArray[np.int64]) -> NDArray[np.float32]:
    """Boxes of digits in pixels of the 64x64 frame: top-left corners [..., 2] (row, column) ->
    [..., 4] (x0, y0, x1, y1).
    """
    corner = path[..., ::-1] * (FRAME / CANVAS)
    return np.concatenate([corner, corner + DIGIT * FRAME / CANVAS], -1).astype(np.float32)


def _stretch_table() -> NDArray[np.uint8]:
    """[brightest value of a frame, value] -> value on the scale 0..255, rounded half up.

    The minimum of a canvas is always 0: ten digits do not cover it.
    """
    scale = 255.0 / np.maximum(np.arange(256.0), 1.0)
    return (np.minimum(scale[:, None] * np.arange(256.0), 255.0) + 0.5).astype(np.uint8)


_STRETCH = _stretch_table()


def _stretch(canvas: NDArray[np.uint8]) -> None:
    """Scales each frame of `canvas` [column, frame, row] in place so that its brightest pixel is
    255.
    """
    brightest = canvas.max(0).max(1)
    for value in np.unique(brightest):
        if value < 255:
            frames = np.nonzero(brightest == value)[0]
            canvas[:, frames] = _STRETCH[value][canvas[:, frames]]


def _resize_groups() -> list[tuple[slice, list[tuple[slice, int]]]]:
    """Pillow's antialiased bilinear filter from 100 to 64 pixels, in its fixed point.

    25 inputs give 16 outputs over and over, so outputs that lie 16 apart have the same weights (but
    for the borders) and are computed together.

    Returns:
        (outputs, [(inputs, weight), ...]) per group of outputs.
    """
    scale, inputs_per_period, outputs_per_period = CANVAS / FRAME, 25, 16
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for output in range(FRAME):
        centre = (output + 0.5) * scale
        inputs = range(max(int(centre - scale + 0.5), 0), min(int(centre + scale + 0.5), CANVAS))
        weights = [max(0.0, 1.0 - abs((i + 0.5 - centre) / scale)) for i in inputs]
        fixed = [int(0.5 + w / sum(weights) * (1 << _FRACTION_BITS)) for w in weights]
        offset = output // outputs_per_period * inputs_per_period
        groups.setdefault(
            tuple((i - offset, w) for i, w in zip(inputs, fixed, strict=True) if w), []
        ).append(output)
    result = []
    for taps, outputs in groups.items():
        offsets = [o // outputs_per_period * inputs_per_period for o in (outputs[0], outputs[-1])]
        rows = [
            (slice(offsets[0] + i, offsets[1] + i + 1, inputs_per_period), weight)
            for i, weight in taps
        ]
        result.append((slice(outputs[0], outputs[-1] + 1, outputs_per_period), rows))
    return result


_GROUPS = _resize_groups()


def _resize_first_axis(pixels: Tensor) -> Tensor:
    """One pass of the resize: uint8 [100, ...] -> [64, ...], rounded to 8 bits as Pillow does after
    each pass.
    """
    wide = pixels.to(torch.int32)
    result = torch.empty((FRAME, *pixels.shape[1:]), dtype=torch.uint8)
    for outputs, ((first_rows, first_weight), *others) in _GROUPS:
        total = wide[first_rows] * first_weight
        for rows, weight in others:
            total.add_(wide[rows], alpha=weight)
        result[outputs] = total.add_(1 << (_FRACTION_BITS - 1)).bitwise_right_shift_(_FRACTION_BITS)
    return result
