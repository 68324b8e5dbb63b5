"""How digits walk: the authors' sequential generator, the trajectories that they released, and a
generator whose clips do not depend on each other (Duta et al., NeurIPS 2019, SyncMNIST).

Shapes: B clips, T frames, n digits per clip. Coordinates are (row, column) of a digit's top-left
corner on the 100x100 canvas, 0..71.
"""

from __future__ import annotations

import hashlib
import io
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidgraph.data.digits import DIGIT
from vidgraph.errors import DataError
from vidgraph.util import atomic_write, cache_folder, unpickle_arrays

CANVAS = 100  # rows and columns that digits walk on
HIGHEST = CANVAS - DIGIT - 1  # largest coordinate of a top-left corner
MAX_STEP = 10  # a step lies in -10..+9: the upper bound is exclusive

RELEASED_URL = (
    "https://raw.githubusercontent.com/IuliaDuta/RSTG/788a7a3223ae304d7b09ae498f41512e"
    "eb84e6ad/create_datasets/predefined_path_test.pickle"
)
RELEASED_SHA256 = "204da74687d06031cf7b31f844e17dc49d527b30fd10d2d9127e1a0379e66787"


@dataclass(frozen=True)
class Trajectories:
    """Where the digits of N clips walk, the image that each shows, and whether digits 0 and 1 move
    together.
    """

    coordinates: NDArray[np.int64]  # [N, T, n, 2]
    images: NDArray[np.int64]  # [N, n]
    synchronous: NDArray[np.bool_]  # [N]

    def __len__(self) -> int:
        return len(self.synchronous)


def sequential_trajectories(
    labels: NDArray[np.int64], num_digits: int, num_clips: int, seed: int
) -> Trajectories:
    """The authors' trajectories after `np.random.seed(seed)`: each clip depends on those before.

    Digit 0 of clip i is image i (starting again after the last); the others are of different
    classes. The order of the draws, from numpy's legacy generator, is that of their script:
    corners; classes; images; together or not (a share of 1/92 is not); then per frame the common
    step, column first, and the free steps, row first. `labels` are the classes of all images.
    """
    random = np.random.RandomState(seed)
    randint = random.randint
    by_class = [np.nonzero(labels == c)[0] for c in range(10)]
    coordinates = np.empty((num_clips, 10, num_digits, 2), np.int64)
    images = np.empty((num_clips, num_digits), np.int64)
    synchronous = np.empty(num_clips, np.bool_)

    def step(digits: list[list[int]], axis: int) -> int:
        low = max(max(-MAX_STEP, -d[axis]) for d in digits)
        high = min(min(MAX_STEP, HIGHEST - d[axis]) for d in digits)
        return int(randint(low, high)) if low < high else 0

    for clip in range(num_clips):
        corners = [[int(randint(0, HIGHEST + 1)) for _ in range(2)] for _ in range(num_digits)]
        first = clip % len(labels)
        others = [c for c in range(10) if c != labels[first]]
        pools = [by_class[others[k]] for k in random.permutation(9)[: num_digits - 1]]
        images[clip] = [first] + [pool[randint(0, len(pool))] for pool in pools]
        synchronous[clip] = random.rand() > 1 / 92
        for frame in range(10):
            if synchronous[clip]:
                columns, rows = step(corners[:2], 1), step(corners[:2], 0)
                corners[:2] = [[row + rows, column + columns] for row, column in corners[:2]]
            for corner in corners[2 * int(synchronous[clip]) :]:
                rows, columns = step([corner], 0), step([corner], 1)
                corner[:] = corner[0] + rows, corner[1] + columns
            coordinates[clip, frame] = corners
    return Trajectories(coordinates, images, synchronous)


def random_bits(seed: int, indices: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """`count` random 64-bit numbers per clip, a function of (seed, clip): uint64 [B, count].

    A counter-based generator (SplitMix64, Steele et al., OOPSLA 2014): number j of a clip is a hash
    of the clip's key plus j times an odd constant, so that a whole batch is drawn in a few array
    operations.
    """
    clips = _mix(indices.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019))
    keys = _mix(_mix(np.array([seed % 2**64], np.uint64)) ^ clips)
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _mix(keys[:, None] + steps)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_below(bits: NDArray[np.uint64], limit: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Integers 0..limit-1 from random 64-bit numbers; 0 where `limit` is 1 or 0."""
    half = np.uint64(32)
    return ((bits >> half) * np.asarray(limit).astype(np.uint64) >> half).astype(np.int64)


def num_walk_draws(num_digits: int, num_frames: int) -> int:
    """Random numbers that `random_walks` needs per clip."""
    return 2 * num_digits + 2 * (num_digits + 1) * num_frames


def random_walks(
    bits: NDArray[np.uint64], num_digits: int, num_frames: int, synchronous: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Walks of the digits, int64 [B, T, n, 2]; digits 0 and 1 of a synchronous clip share every
    displacement.

    Each axis moves by a number from max(-10, -c) to min(10, 71 - c), the upper bound exclusive, so
    that no digit leaves the canvas; the common move is bounded by both digits, and an axis with no
    room does not move. The first frame is already after one move. `bits` are uint64 [B,
    num_walk_draws(n, T)].
    """
    starts, moves = bits[:, : 2 * num_digits], bits[:, 2 * num_digits :]
    position = random_below(starts, HIGHEST + 1).reshape(-1, num_digits, 2)
    moves = moves.reshape(len(bits), num_frames, num_digits + 1, 2)
    walks = np.empty((len(bits), num_frames, num_digits, 2), np.int64)
    for frame in range(num_frames):
        low, high = np.maximum(-MAX_STEP, -position), np.minimum(MAX_STEP, HIGHEST - position)
        step = low + random_below(moves[:, frame, :num_digits], high - low)  # [B, n, 2]
        low, room = low[:, :2].max(1), high[:, :2].min(1) - low[:, :2].max(1)
        drawn = low + random_below(moves[:, frame, num_digits], np.maximum(room, 0))
        common = np.where(room > 0, drawn, 0)  # [B, 2]
        step[:, :2] = np.where(synchronous[:, None, None], common[:, None], step[:, :2])
        position = position + step
        walks[:, frame] = position
    return walks


def released_trajectories(path: str | Path | None = None) -> Trajectories:
    """The 10,000 trajectories of the authors' 5-digit test set.

    `path` is a copy of their `predefined_path_test.pickle`, or an .npz with its arrays; None:
    downloaded once from their repository (at commit 788a7a3) into the cache. A file that would run
    code is refused.
    """
    cached = cache_folder() / "rstg" / "predefined_path_test.pickle"
    if path is None and not cached.is_file():
        try:
            with urllib.request.urlopen(RELEASED_URL, timeout=60) as answer:
                content = answer.read()
        except OSError as error:
            raise DataError(
                f"the released test trajectories cannot be downloaded ({error}); fetch "
                f"{RELEASED_URL} elsewhere and pass the file as --data.syncmnist.test_paths FILE"
            ) from error
        found = _trajectories(content, RELEASED_URL)
        with atomic_write(cached) as temporary:
            temporary.write_bytes(content)
        return found
    file = cached if path is None else Path(path).expanduser()
    try:
        return _trajectories(file.read_bytes(), str(file))
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror or error}); pass "
            "predefined_path_test.pickle or an .npz of it"
        ) from error


def _trajectories(content: bytes, source: str) -> Trajectories:
    """The authors' arrays, which have a leading axis of passes over MNIST, then clips."""
    is_npz = content[:2] == b"PK"
    try:
        arrays = np.load(io.BytesIO(content)) if is_npz else unpickle_arrays(content)
        coordinates, images, synchronous = (
            np.concatenate(arrays[name]).astype(kind)
            for name, kind in (("coords_digits", int), ("ind_digits", int), ("sincron_prob", bool))
        )
    except (ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{source}: not the arrays of the released trajectories ({error}); nothing in it was "
            "run, fetch it again"
        ) from error
    # Of the numbers, so that it is the same for every file format.
    found = coordinates, images, synchronous
    content = b"".join(np.ascontiguousarray(array, "<i8").tobytes() for array in found)
    if hashlib.sha256(content).hexdigest() != RELEASED_SHA256:
        raise DataError(
            f"{source}: these are not the released test trajectories (checksum differs); remove "
            "the file or pass another"
        )
    return Trajectories(*found)
