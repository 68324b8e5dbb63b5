"""Crops, and that boxes go where their pixels go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidgraph.errors import RecipeError
from vidgraph.records import InputSpec
from vidgraph.video.crops import CropDraws, crop_windows
from vidgraph.video.transforms import FrameBoxes, move_boxes, move_pixels, to_luma


def spec(height: int, width: int) -> InputSpec:
    return InputSpec(4, height, width, stride_frames=1)


def painted(boxes_xyxy: np.ndarray, height: int, width: int) -> np.ndarray:
    """White boxes on black, [T, H, W, 3] from integer boxes [T, 1, 4]."""
    frames = np.zeros((len(boxes_xyxy), height, width, 3), np.uint8)
    for frame, ((x0, y0, x1, y1),) in zip(frames, boxes_xyxy, strict=True):
        frame[y0:y1, x0:x1] = 255
    return frames


def extent(mask: torch.Tensor) -> list[int]:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def moved(
    crops: CropDraws, frames: np.ndarray, boxes: np.ndarray, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A crop's pixels, its boxes in them [T, K, 4], which are left [T, K]; of boxes in pixels."""
    (height, width), shape = frames.shape[1:3], boxes.shape[:2]
    plan = crops.plan(height, width, np.random.default_rng(seed))
    unit = (boxes / np.array([width, height] * 2)).astype(np.float32)
    unknown = np.full(shape, -1)
    given = FrameBoxes(unit, np.ones(shape, np.float32), np.ones(shape, bool), unknown, unknown)
    found, (rows, columns) = move_boxes(given, plan, height, width), plan.size
    in_pixels = found.boxes_xyxy[0] * torch.tensor([columns, rows] * 2)
    return move_pixels(frames, plan), in_pixels, found.mask[0]


BOXES = np.array([[[30, 20, 60, 44]], [[40, 24, 72, 50]], [[22, 30, 50, 70]], [[60, 10, 90, 60]]])


def test_boxes_follow_pixels_through_random_crops_and_mirroring() -> None:
    frames = painted(BOXES, 90, 120)
    transform = CropDraws(spec(64, 64), train=True, flip=True)
    has_flipped = set()
    for seed in range(30):
        pixels, boxes, mask = moved(transform, frames, BOXES, seed)
        has_flipped.add(transform.plan(90, 120, np.random.default_rng(seed)).flip)
        assert pixels.shape == (3, 4, 64, 64)
        for time in range(4):
            if mask[time, 0]:
                # Where at least half white; a border falls on a pixel's centre at worst.
                white = torch.tensor(extent(pixels[0, time] >= 128))
                assert (white - boxes[time, 0]).abs().max() <= 0.51
            else:
                assert (pixels[0, time] >= 128).sum() <= 64
                assert boxes[time, 0].tolist() == [0, 0, 0, 0]
    assert has_flipped == {True, False}


def test_boxes_follow_pixels_exactly_where_nothing_is_resampled() -> None:
    frames = painted(BOXES, 90, 120)
    # The window of 90 x 60 fills the height: columns 30 to 90 are kept.
    pixels, boxes, mask = moved(CropDraws(spec(90, 60), train=False), frames, BOXES)
    assert mask.all()
    expected = [[0, 20, 30, 44], [10, 24, 42, 50], [0, 30, 20, 70], [30, 10, 60, 60]]
    assert boxes[:, 0].numpy() == pytest.approx(np.array(expected), abs=1e-4)
    assert [extent(pixels[0, time] == 255) for time in range(4)] == expected


def test_a_box_outside_the_crop_is_masked() -> None:
    boxes = np.array([[[0, 0, 30, 90], [0, 0, 31, 90], [0, 0, 0, 0]]] * 4)
    frames = np.zeros((4, 90, 120, 3), np.uint8)
    _, found, mask = moved(CropDraws(spec(90, 60), train=False), frames, boxes)
    assert mask[0].tolist() == [False, True, False]
    assert found[0, 1].tolist() == pytest.approx([0, 0, 1, 90], abs=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_a_video_of_the_right_size_stays_byte_equal(train: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    plan = CropDraws(spec(32, 48), train=train).plan(32, 48, np.random.default_rng(0))
    pixels = move_pixels(frames, plan)
    assert np.array_equal(pixels.permute(1, 2, 3, 0).numpy(), frames)
    assert pixels.is_contiguous()


def test_mirroring_is_exact_and_happens_half_the_time() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    boxes = np.array([[[1, 2, 5, 6]]] * 2)
    transform = CropDraws(spec(8, 12), train=True, flip=True)
    num_flipped = 0
    for seed in range(100):
        pixels, found, _ = moved(transform, frames, boxes, seed)
        is_flipped = not np.array_equal(pixels.permute(1, 2, 3, 0).numpy(), frames)
        num_flipped += is_flipped
        if is_flipped:
            assert np.array_equal(pixels.permute(1, 2, 3, 0).numpy(), frames[:, :, ::-1])
        expected = [7, 2, 11, 6] if is_flipped else [1, 2, 5, 6]
        assert found[0, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert 35 <= num_flipped <= 65
    assert not CropDraws(spec(8, 12), train=False, flip=True).plan(8, 12).flip


@pytest.mark.parametrize(("height", "width"), [(30, 200), (200, 30), (10, 10), (64, 65)])
def test_test_crops_are_the_largest_in_the_centre(height: int, width: int) -> None:
    transform = CropDraws(spec(64, 64), train=False)
    plan = transform.plan(height, width)
    side = min(height, width)
    assert (plan.height, plan.width) == (side, side)
    assert (plan.top, plan.left) == ((height - side) // 2, (width - side) // 2)
    frames = np.full((2, height, width, 3), 77, np.uint8)
    assert move_pixels(frames, plan).unique().tolist() == [77]


def test_luma() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert to_luma(colours)[..., 0].tolist() == [[76, 150, 29, 255]]  # 0.299, 0.587, 0.114
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    mixed = np.concatenate([grey, np.full_like(grey, (1, 2, 3))])
    assert np.array_equal(to_luma(grey)[..., 0], grey[..., 0])
    assert np.array_equal(to_luma(mixed)[0, :, 0], grey[0, :, 0])
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8).repeat(3, 3)
    pixels = move_pixels(frames, CropDraws(spec(16, 16), train=False).plan(16, 16), channels=1)
    assert np.array_equal(pixels[0].numpy(), frames[..., 0])
    small = move_pixels(frames, CropDraws(spec(9, 9), train=False).plan(16, 16), channels=1)
    assert (small.shape, small.dtype) == ((1, 2, 9, 9), torch.uint8)


def test_short_side_sets_the_size_of_the_window() -> None:
    """A crop of 224 from frames with a shorter side of 256 keeps 7/8 of it; from 320, 7/10."""
    fixed = CropDraws(spec(224, 224), train=True, short_side=(256, 256))
    plans = [fixed.plan(240, 427, np.random.default_rng(seed)) for seed in range(200)]
    assert {(plan.height, plan.width, plan.size) for plan in plans} == {(210, 210, (224, 224))}
    assert (min(p.top for p in plans), max(p.top for p in plans)) == (0, 30)
    assert min(p.left for p in plans) < 10
    assert max(p.left for p in plans) > 207
    ranged = CropDraws(spec(224, 224), train=True, short_side=(256, 320))
    sides = [ranged.plan(240, 427, np.random.default_rng(seed)).height for seed in range(400)]
    assert (min(sides), max(sides)) == (168, 210)
    # Also for a video of the model's own size, and where a wide crop leaves no room.
    assert fixed.plan(224, 224, np.random.default_rng(0)).height == 196
    wide = CropDraws(spec(128, 288), train=True, short_side=(256, 256))
    plan = wide.plan(200, 210, np.random.default_rng(0))
    assert (plan.height, plan.width) == (93, 210)
    message = "short_side 200 is smaller than the model's input of 224x224"
    with pytest.raises(RecipeError, match=message):
        CropDraws(spec(224, 224), train=True, short_side=(200, 256))


def test_brightness_moves_all_frames_by_one_amount() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    frames[:, :8] = 128  # far from both ends, whatever is added
    transform, changes = CropDraws(spec(24, 24), train=True, brightness=0.1), []
    for seed in range(300):
        plan = transform.plan(24, 24, np.random.default_rng(seed))
        changes.append(plan.brightness)
        pixels = move_pixels(frames, plan)
        expected = np.clip(frames.astype(int) + plan.brightness, 0, 255)
        assert np.array_equal(pixels.permute(1, 2, 3, 0).numpy(), expected)
    # 0.1 * 255 = 25.5, which rounding reaches at the very end only
    assert (min(changes), max(changes)) == (-25, 25)
    assert abs(np.mean(changes)) < 3
    first, second = (transform.plan(24, 24, np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert CropDraws(spec(24, 24), train=False, brightness=0.1).plan(24, 24).brightness == 0


def test_test_windows_lie_evenly_along_the_longer_side() -> None:
    windows = crop_windows(256, 341, (256, 256), 11)
    # int(85 * k / 10)
    assert [w.left for w in windows] == [0, 8, 17, 25, 34, 42, 51, 59, 68, 76, 85]
    assert {(w.top, w.height, w.width, w.size) for w in windows} == {(0, 256, 256, (256, 256))}
    assert [w.top for w in crop_windows(341, 256, (256, 256), 3)] == [0, 42, 85]
    # Frames of 120 x 200 with the shorter side at 256: 224 pixels are 105 of them.
    small = crop_windows(120, 200, (224, 224), 3, short_side=256)
    places = [(w.top, w.left, w.height, w.width) for w in small]
    assert places == [(7, left, 105, 105) for left in (0, 47, 95)]
    (centre,) = crop_windows(97, 150, (64, 64))
    for count in (1, 3, 5, 11):
        assert crop_windows(97, 150, (64, 64), count)[count // 2] == centre
    (whole,) = crop_windows(120, 200, (224, 224), short_side=256, full_frame=True)
    assert (whole.top, whole.left, whole.height, whole.width) == (0, 0, 120, 200)
    assert whole.size == (256, 427)
    (whole,) = crop_windows(120, 200, (60, 60), full_frame=True)
    assert whole.size == (60, 100)
