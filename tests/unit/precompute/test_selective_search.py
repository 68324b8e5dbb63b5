"""Selective search: an object on a background is among the first boxes, in the same order every
time.
"""

from __future__ import annotations

import cv2
import numpy as np

from vidgraph.precompute.selective_search import SelectiveSearch, _contrast


def picture(height: int, width: int) -> np.ndarray:
    """A reddish textured rectangle on a greenish textured background, [H, W, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 40, (height // 6, width // 6, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height)) + np.array([30, 120, 40], np.uint8)
    top, left, bottom, right = height // 4, width // 3, 3 * height // 4, 2 * width // 3
    image[top:bottom, left:right] = image[top:bottom, left:right, ::-1] + np.array(
        [90, 0, 0], np.uint8
    )
    return image


def test_the_object_is_among_the_first_boxes() -> None:
    for height, width in ((96, 150), (240, 320)):
        source = SelectiveSearch(96)
        boxes, scores = source.propose(source.prepare(picture(height, width)), [])
        target = np.array([width // 3 / width, 0.25, 2 * (width // 3) / width, 0.75])
        low, high = np.maximum(boxes[:5, :2], target[:2]), np.minimum(boxes[:5, 2:], target[2:])
        both = np.prod(np.maximum(high - low, 0), axis=1)
        areas = np.prod(boxes[:5, 2:] - boxes[:5, :2], axis=1) + np.prod(target[2:] - target[:2])
        assert (both / (areas - both)).max() > 0.8
        assert (np.diff(scores) <= 0).all()
        assert (boxes.min(), boxes.max()) >= (0, 0)
        assert boxes.max() <= 1
        assert not (boxes == [0, 0, 1, 1]).all(1).any()


def test_equal_every_time() -> None:
    """OpenCV's own order changes from call to call."""
    patches = np.kron(
        np.random.default_rng(0).integers(0, 256, (6, 8, 3)), np.ones((16, 16, 1))
    ).astype(np.uint8)
    first, second = (
        SelectiveSearch(96).propose(SelectiveSearch(96).prepare(patches), []) for _ in range(2)
    )
    assert len(first[0]) > 10
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_contrast_by_hand() -> None:
    """A white square of 8 in a black frame of 32."""
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[8:16, 8:16] = 255
    boxes = np.array(
        [[8, 8, 16, 16], [8, 8, 16, 24], [0, 8, 8, 16], [20, 20, 28, 28], [0, 0, 32, 32]]
    )
    expected = [
        (64 / 1024) ** 0.25,  # on the square: no colour is shared
        0.5 * (128 / 1024) ** 0.25,  # half of it is black, as its ring
        # At the border: 56 of the 80 pixels of its ring are in the frame, and 16 of these are
        # white.
        16 / 56 * (56 / 80) ** 2 * (64 / 1024) ** 0.25,
        0,  # black in black
        0,  # the whole frame has no surroundings
    ]
    np.testing.assert_allclose(_contrast(frame, boxes), expected, rtol=1e-6)
