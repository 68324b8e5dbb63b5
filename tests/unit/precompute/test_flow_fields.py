"""Motion in 8 bits: rounding, bounds that grow with the frame, and what mirroring does to it."""

from __future__ import annotations

import numpy as np
import pytest

from vidgraph.precompute.flow_fields import (
    BOUND,
    TSN_ZERO,
    bounds_pixels,
    checked_indices,
    dequantise,
    quantise,
)


def field_of(values: np.ndarray, height: int = 256, width: int = 340) -> np.ndarray:
    """One row of motions, x and y alike, in a frame of this size."""
    field = np.zeros((height, width, 2), np.float32)
    field[0, : len(values)] = np.asarray(values, np.float32)[:, None]
    return field


def test_bytes_by_hand() -> None:
    """255 (v / 20 + 1) / 2 to the nearest, and 128 for none; -20 and 20 are the ends."""
    values = [0, 20, -20, 10, -10, 0.05, -0.05, 0.2, 33, -1e9]
    expected = [
        128,
        255,
        0,
        191,
        64,
        128,
        127,
        129,
        255,
        0,
    ]  # 10: 191.25; -10: 63.75; 0.05: 127.8; 0.2: 128.8
    found = quantise(field_of(np.array(values)))
    assert found.dtype == np.uint8
    assert found[0, : len(values), 0].tolist() == found[0, : len(values), 1].tolist() == expected


def test_every_byte_by_the_slow_formula() -> None:
    values = np.random.default_rng(0).uniform(-22, 22, 300)
    slow = [min(255, max(0, round(255 * (np.float32(v) / 20 + 1) / 2))) for v in values]
    assert quantise(field_of(values))[0, :300, 0].tolist() == slow


def test_the_round_trip_is_within_half_a_level() -> None:
    """0.0784 pixels at 340x256, at most; that there is no motion is off by as much, as no byte
    stands for it.
    """
    values = np.linspace(-20, 20, 340)
    back = dequantise(quantise(field_of(values)))[0, :, 0]
    errors = np.abs(back - values.astype(np.float32))
    assert errors.max() <= 20 / 255 + 1e-5 < 0.08
    assert errors.max() > 0.07
    assert dequantise(quantise(field_of(np.zeros(1))))[0, 0, 0] == pytest.approx(20 / 255)


@pytest.mark.parametrize(("height", "width"), [(256, 340), (128, 170), (64, 510), (33, 31)])
def test_the_bound_grows_with_the_frame(height: int, width: int) -> None:
    """x by the width and y by the height, so that the same motion of the same picture has the same
    bytes at every size.
    """
    assert bounds_pixels(height, width).tolist() == pytest.approx(
        [20 * width / 340, 20 * height / 256]
    )
    rng = np.random.default_rng(1)
    relative = rng.uniform(-0.06, 0.06, (20, 2))  # of the frame's sides
    whole = np.zeros((256, 340, 2), np.float32)
    whole[0, :20] = relative * [340, 256]
    here = np.zeros((height, width, 2), np.float32)
    here[0, :20] = relative * [width, height]
    assert np.array_equal(quantise(whole)[0, :20], quantise(here)[0, :20])
    errors = np.abs(dequantise(quantise(here)) - here)[0, :20].max(0)
    assert (errors <= 0.08 * np.array([width / 340, height / 256])).all()


def test_another_bound() -> None:
    values = np.array([0.1, 5, -14.9, 15, 16])
    assert quantise(field_of(values), 15)[0, :5, 0].tolist() == [128, 170, 1, 255, 255]
    back = dequantise(quantise(field_of(values), 15), 15)[0, :4, 0]
    assert np.abs(back - values[:4]).max() <= 15 / 255 + 1e-5


def test_mirroring_is_exact() -> None:
    """The byte of the opposite motion is 255 less the byte, halves of a level included, and stands
    for exactly the opposite.
    """
    halves = np.arange(1, 128) * 20 / 127.5  # between two bytes each
    values = np.concatenate(
        [np.random.default_rng(2).uniform(-25, 25, 120), halves[:90], -halves[40:127]]
    )
    field = field_of(values)
    bytes_, opposite = quantise(field)[0, : len(values)], quantise(-field)[0, : len(values)]
    assert np.array_equal(opposite, 255 - bytes_)
    assert np.array_equal(dequantise(255 - quantise(field)), -dequantise(quantise(field)))


def test_as_tsn_decodes() -> None:
    """128 is no motion; then a mirrored field is a whole level off, which 127.5 avoids."""
    still = quantise(field_of(np.zeros(3)))
    assert not dequantise(still, zero=TSN_ZERO).any()
    level = 2 * BOUND / 255
    assert dequantise(255 - still, zero=TSN_ZERO)[0, 0] == pytest.approx([-level, -level])
    assert dequantise(quantise(field_of(np.array([20.0]))), zero=TSN_ZERO)[
        0, 0, 0
    ] == pytest.approx(127 * 20 / 127.5)


def test_indices_outside_are_refused() -> None:
    assert checked_indices([2, 0, 2], 3, "x").tolist() == [2, 0, 2]
    assert checked_indices([], 0, "x").tolist() == []
    for wrong in ([0, 3], [-1, 2]):
        with pytest.raises(ValueError, match=r"^x: has no flow field (3|-1), there are 3$"):
            checked_indices(wrong, 3, "x")
