"""How frames of any shape become clips of one: `InputSpec.fit`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidgraph.errors import RecipeError
from vidgraph.records import InputSpec
from vidgraph.video.crops import CropDraws, fitted_window
from vidgraph.video.transforms import FrameBoxes, move_boxes, move_pixels
from vidgraph.video.views import ViewPlan

SPEC = InputSpec(2, 8, 8, whole_video=True, fit="pad")


def test_a_padded_frame_stands_in_the_middle_of_grey() -> None:
    """4 x 8 pixels in 8 x 8: two rows of grey above and below, the frame's own pixels between."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3), np.uint8)
    clip = move_pixels(frames, fitted_window(4, 8, (8, 8), "pad"))  # [3, 2, 8, 8]
    assert (clip[:, :, :2] == 127).all()
    assert (clip[:, :, 6:] == 127).all()
    assert torch.equal(clip[:, :, 2:6], torch.from_numpy(frames).permute(3, 0, 1, 2))


def test_boxes_move_as_padded_pixels_do() -> None:
    """The whole frame of 100 x 200 covers the middle half of the square; a box at its border is not
    cut off."""
    boxes = FrameBoxes(
        np.array([[[0, 0, 1, 1], [0.5, 0.5, 1, 1]]], np.float32),
        np.ones((1, 2), np.float32),
        np.ones((1, 2), bool),
        *np.full((2, 1, 2), -1),
    )
    moved = move_boxes(boxes, fitted_window(100, 200, (64, 64), "pad"), 100, 200)
    assert moved.boxes_xyxy[0, 0].tolist() == [[0, 0.25, 1, 0.75], [0.5, 0.5, 1, 0.75]]


@pytest.mark.parametrize(
    ("fit", "size", "window"),
    [
        ("pad", (8, 8), (-50, 0, 200, 200)),
        ("squash", (8, 8), (0, 0, 100, 200)),
        ("short", (8, 16), (0, 0, 100, 200)),
    ],
)
def test_windows_by_hand(fit, size, window) -> None:  # type: ignore[no-untyped-def]
    plan = fitted_window(100, 200, (8, 8), fit)
    assert (plan.top, plan.left, plan.height, plan.width) == window
    assert plan.size == size


def test_training_shows_the_window_of_tests_and_mirrors_it() -> None:
    draws = CropDraws(SPEC, train=True, flip=True)
    plans = {draws.plan(100, 200, np.random.default_rng(seed)) for seed in range(20)}
    (own,) = ViewPlan().windows(SPEC, 100, 200)
    assert {plan.flip for plan in plans} == {False, True}
    assert {(p.top, p.left, p.height, p.width) for p in plans} == {(-50, 0, 200, 200)}
    assert own in plans


def test_crops_of_whole_frames_are_refused() -> None:
    with pytest.raises(RecipeError, match="takes whole frames"):
        ViewPlan(crops=3).windows(SPEC, 100, 200)
