"""Laws of the generated clips, and their drawing against a plain loop over pixels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vidgraph.data.digits import Digits, load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import (
    DigitStream,
    SyncMnistStream,
    SyncMnistTest,
    draw_clips,
    pair_names,
)
from vidgraph.data.trajectories import random_below, random_bits, sequential_trajectories
from vidgraph.errors import DataError


def stream_of(
    digits: Digits, num_digits: int, num_clips: int, seed: int, **options: Any
) -> SyncMnistStream:
    return SyncMnistStream(digits, SyncMnistOptions(num_digits, **options), num_clips, seed)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits("embedded", "train")


@pytest.fixture(scope="module")
def planned(digits: Digits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, paths and labels of 20,000 clips of 5 digits."""
    return stream_of(digits, num_digits=5, num_clips=20_000, seed=7).plan(np.arange(20_000))


def plain_video(images: np.ndarray, path: np.ndarray) -> np.ndarray:
    """One clip by the book: images [n, 28, 28], corners [T, n, 2] -> uint8 [T, 64, 64]."""
    frames = []
    for corners in path:
        canvas = np.zeros((100, 100))
        for image, (row, column) in zip(images, corners, strict=True):
            for y, x in zip(*np.nonzero(image >= 10), strict=True):
                canvas[row + y, column + x] = image[y, x]
        scaled = (canvas - canvas.min()) * (255.0 / (canvas.max() - canvas.min()))
        frames.append(
            np.asarray(
                Image.fromarray((scaled.clip(0, 255) + 0.5).astype(np.uint8)).resize(
                    (64, 64), Image.Resampling.BILINEAR
                )
            )
        )
    return np.stack(frames)


@pytest.mark.parametrize(("num_digits", "num_frames"), [(2, 10), (3, 4), (10, 3)])
def test_batched_clips_equal_a_plain_loop(digits: Digits, num_digits: int, num_frames: int) -> None:
    stream = stream_of(digits, num_digits, num_clips=6, seed=1, num_frames=num_frames)
    batch = stream.__getitems__(range(6))
    images, path, _ = stream.plan(np.arange(6))
    for clip in range(6):
        np.testing.assert_array_equal(
            batch.video[clip, 0].numpy(), plain_video(digits.images[images[clip]], path[clip])
        )


def test_dim_digits_are_stretched_to_full_range_like_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(0, top, (28, 28)) for top in (12, 60, 200, 255)]).astype(
        np.uint8
    )
    chosen = np.array([[0, 1], [1, 2], [2, 0], [3, 3]])
    path = rng.integers(0, 72, (4, 5, 2, 2))
    drawn = draw_clips(images, chosen, path)
    for clip in range(4):
        np.testing.assert_array_equal(drawn[clip], plain_video(images[chosen[clip]], path[clip]))


def test_a_clip_depends_on_seed_and_index_only(digits: Digits) -> None:
    stream = stream_of(digits, 3, num_clips=100, seed=5)
    batch = stream.__getitems__([5, 3, 5])
    longer = stream_of(digits, 3, num_clips=1000, seed=5)
    for place, index in enumerate([5, 3, 5]):
        for other in (stream[index], longer[index]):
            assert torch.equal(batch.video[place], other.video[0])
            assert torch.equal(batch.regions.boxes_xyxy[place], other.regions.boxes_xyxy[0])
            assert batch.label[place] == other.label[0]
    assert not torch.equal(batch.video[0], batch.video[1])
    assert not torch.equal(batch.video[0], stream_of(digits, 3, num_clips=100, seed=6)[5].video[0])


def test_digits_stay_on_the_canvas_and_steps_in_range(planned: tuple[np.ndarray, ...]) -> None:
    _, path, _ = planned
    assert path.min() == 0
    assert path.max() == 71
    steps = np.diff(path, axis=1)
    assert steps.min() == -10
    assert steps.max() == 9
    assert steps.mean() < -0.1  # the exclusive upper bound makes digits drift to the top left


def test_digits_of_a_clip_are_of_different_classes(
    digits: Digits, planned: tuple[np.ndarray, ...]
) -> None:
    classes = np.sort(digits.labels[planned[0]], axis=1)
    assert (np.diff(classes, axis=1) > 0).all()


def test_the_labelled_pair_and_no_other_moves_together(
    digits: Digits, planned: tuple[np.ndarray, ...]
) -> None:
    images, path, label = planned
    steps = np.diff(path, axis=1)  # [B, T - 1, n, 2]
    together = {
        pair: (steps[:, :, pair[0]] == steps[:, :, pair[1]]).all((1, 2))
        for pair in itertools.combinations(range(5), 2)
    }
    none = label == 45
    np.testing.assert_array_equal(together.pop((0, 1)), ~none)
    assert not np.any(list(together.values()))
    names = pair_names()
    classes = digits.labels[images[:, :2]]
    for clip in range(500):
        high, low = max(classes[clip]), min(classes[clip])
        assert none[clip] or names[label[clip]] == f"{high}-{low}"


def test_share_of_none_is_one_in_92_and_pairs_are_even(planned: tuple[np.ndarray, ...]) -> None:
    counts = np.bincount(planned[2], minlength=46)
    expected, spread = 20_000 / 92, math.sqrt(20_000 / 92 * (1 - 1 / 92))
    assert abs(counts[45] - expected) < 4 * spread
    pairs = counts[:45] / counts[:45].mean()
    # 440 each: four standard deviations are 0.19, and classes differ a little in size
    assert abs(pairs - 1).max() < 0.25


def test_walks_are_spread_like_the_sequential_generators(
    digits: Digits, planned: tuple[np.ndarray, ...]
) -> None:
    ours, theirs = planned[1], sequential_trajectories(digits.labels, 5, 3000, seed=0).coordinates
    for measure in (np.mean, np.std):
        # [T, n, 2]; four standard errors of 21 / sqrt(3000)
        np.testing.assert_allclose(measure(ours, 0), measure(theirs, 0), atol=1.6)
    for pair in (slice(0, 2), slice(2, 5)):  # those that move together are more tightly bounded
        counts = [
            np.bincount(np.diff(walk[:, :, pair], axis=1).ravel() + 10, minlength=20)
            for walk in (ours, theirs)
        ]
        np.testing.assert_allclose(
            counts[0] / counts[0].sum(), counts[1] / counts[1].sum(), atol=0.003
        )


def test_first_digit_follows_the_images_and_others_are_even(digits: Digits) -> None:
    ones = digits.by_class[1]
    kept = np.concatenate([ones] + [digits.by_class[c][:20] for c in range(10) if c != 1])
    uneven = Digits(digits.images[kept], digits.labels[kept])
    images, _, _ = stream_of(uneven, 3, 20_000, seed=0).plan(np.arange(20_000))
    first, second = uneven.labels[images[:, 0]], uneven.labels[images[:, 1]]
    assert np.mean(first == 1) == pytest.approx(len(ones) / len(kept), abs=0.015)
    assert np.mean(second[first == 1] == 2) == pytest.approx(1 / 9, abs=0.015)


def test_fewer_classes_name_their_pairs_and_show_only_these(digits: Digits) -> None:
    stream = stream_of(digits, 3, 4000, seed=2, classes=[7, 1, 4], no_sync_probability=0.25)
    assert stream.class_names == ["4-1", "7-1", "7-4", "none"]
    images, path, label = stream.plan(np.arange(4000))
    assert set(digits.labels[images].ravel()) == {1, 4, 7}
    np.testing.assert_allclose(np.bincount(label) / 4000, 0.25, atol=0.04)
    pair = np.sort(digits.labels[images[:, :2]], axis=1)
    for index, (low, high) in enumerate([(1, 4), (1, 7), (4, 7)]):
        assert (pair[label == index] == (low, high)).all()
    steps = np.diff(path, axis=1)
    np.testing.assert_array_equal((steps[:, :, 0] == steps[:, :, 1]).all((1, 2)), label != 3)


def test_shuffled_layers_hide_the_pair_and_change_nothing_else(digits: Digits) -> None:
    plain = stream_of(digits, 3, 3000, seed=2).plan(np.arange(3000))
    mixed = stream_of(digits, 3, 3000, seed=2, shuffle_layers=True).plan(np.arange(3000))
    np.testing.assert_array_equal(plain[2], mixed[2])
    np.testing.assert_array_equal(np.sort(plain[0], 1), np.sort(mixed[0], 1))
    on_top = np.mean(plain[0][:, 2] == mixed[0][:, 2])
    assert on_top == pytest.approx(1 / 3, abs=0.04)
    for clip in range(50):
        for digit in range(3):
            place = mixed[0][clip].tolist().index(plain[0][clip, digit])
            np.testing.assert_array_equal(plain[1][clip, :, digit], mixed[1][clip, :, place])


@pytest.mark.parametrize("num_digits", [2, 3])
def test_boxes_hold_all_ink(digits: Digits, num_digits: int) -> None:
    batch = stream_of(digits, num_digits, 20, seed=3).__getitems__(range(20))
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    boxes = 64 * batch.regions.boxes_xyxy[..., None, None]  # [B, T, K, 4, 1, 1]
    # Bilinear resizing smears ink by up to one pixel.
    inside = (
        (x > boxes[:, :, :, 0] - 1)
        & (x < boxes[:, :, :, 2] + 1)
        & (y > boxes[:, :, :, 1] - 1)
        & (y < boxes[:, :, :, 3] + 1)
    )
    assert (batch.video[:, 0][~inside.any(2)] == 0).all()
    per_box = (batch.video[:, 0, :, None] * inside).sum((-1, -2))
    assert per_box.min() > 1000  # every box holds a digit
    assert (boxes[:, :, :, 2] - boxes[:, :, :, 0]).flatten().numpy() == pytest.approx(
        17.92, abs=1e-4
    )


def test_digit_stream_shows_one_digit_of_the_labelled_class(digits: Digits) -> None:
    stream = DigitStream(digits, 3000, seed=0)
    batch = stream.__getitems__(range(3000))
    assert batch.video.shape == (3000, 1, 1, 64, 64)
    assert stream.class_names == [str(c) for c in range(10)]
    assert torch.equal(stream[17].video[0], batch.video[17])
    np.testing.assert_allclose(
        np.bincount(batch.label) / 3000, np.bincount(digits.labels) / len(digits), atol=0.025
    )
    x0 = batch.regions.boxes_xyxy[:, 0, 0, 0].numpy()
    assert x0.min() == 0
    assert x0.max() == pytest.approx(0.71)


def test_digit_stream_of_several_digits_labels_every_class_in_view(digits: Digits) -> None:
    stream = DigitStream(digits, 200, seed=0, num_digits=4)
    batch = stream.__getitems__(range(200))
    assert batch.video.shape == (200, 1, 1, 64, 64)
    assert batch.label.shape == (200, 10)
    assert (batch.label.sum(1) == 4).all()
    assert torch.equal(stream[17].label[0], batch.label[17])
    assert batch.label.mean(0).numpy() == pytest.approx(np.full(10, 0.4), abs=0.12)


def test_names_of_the_46_classes() -> None:
    names = pair_names()
    assert len(names) == 46
    assert names[:3] == ["1-0", "2-0", "2-1"]
    assert names[44:] == ["9-8", "none"]


def test_random_numbers_are_even_and_unrelated_between_neighbours() -> None:
    bits = random_bits(3, np.arange(2000), 50)
    values = random_below(bits, 72)
    assert values.min() == 0
    assert values.max() == 71
    counts = np.bincount(values.ravel(), minlength=72)
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 30 < chi_square < 125  # 71 degrees of freedom
    unit = (bits >> np.uint64(11)) * 2.0**-53
    assert abs(np.corrcoef(unit[:-1].ravel(), unit[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(unit[:, :-1].ravel(), unit[:, 1:].ravel())[0, 1]) < 0.015
    assert len(np.unique(bits)) == bits.size
    assert (random_below(bits, 1) == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_digits": 1}, "num_digits is 1; give 2 to 10"),
        ({"num_digits": 4, "classes": [1, 2, 3]}, "num_digits is 4; give 2 to 3"),
        ({"classes": [1, 2, 12]}, "no image of class 12"),
    ],
)
def test_bad_options_are_named(digits: Digits, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        stream_of(digits, **{"num_digits": 3, "num_clips": 10, "seed": 0, **options})
    assert "\n" not in str(caught.value)


def test_absent_class_and_index_out_of_range(digits: Digits) -> None:
    few = Digits(digits.images[digits.labels != 3], digits.labels[digits.labels != 3])
    with pytest.raises(DataError, match="no image of class 3"):
        stream_of(few, 3, 10, 0)
    with pytest.raises(DataError, match="no image of class 3"):
        SyncMnistTest(few, 3, 10)
    for index in (10, -1):
        with pytest.raises(IndexError, match=f"clip {index} of 10"):
            stream_of(digits, 3, 10, 0)[index]


def test_embedded_digits_are_disjoint_and_look_like_mnist() -> None:
    parts = [load_digits("embedded", split) for split in ("train", "val", "test")]
    assert [len(p) for p in parts] == [1197, 300, 300]
    images = np.concatenate([p.images for p in parts])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 1797
    assert images.dtype == np.uint8
    border = np.ones((28, 28), bool)
    border[4:24, 4:24] = False
    assert (images[:, border] == 0).all()
    assert (images.max((1, 2)) > 200).all()
    assert 0.1 < (images >= 10).mean() < 0.35  # MNIST: 0.18
