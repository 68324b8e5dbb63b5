"""Training crops of Temporal Segment Networks, and the ten crops of its test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidgraph.records import InputSpec
from vidgraph.video.crops import CropDraws, CropPlan, corner_points
from vidgraph.video.reader import open_video
from vidgraph.video.views import ViewPlan, read_flow_views, read_views

SPEC = InputSpec(num_frames=1, height=224, width=224, whole_video=True)
SCALES = (1, 0.875, 0.75, 0.66)


def tsn_offsets(image_h: int, image_w: int, crop_h: int, crop_w: int) -> set[tuple[int, int]]:
    """`GroupMultiScaleCrop.fill_fix_offset(more_fix_crop=True)`; (top, left)."""
    w_step, h_step = (image_w - crop_w) // 4, (image_h - crop_h) // 4
    steps = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)]
    steps += [(1, 1), (3, 1), (1, 3), (3, 3)]
    return {(h_step * row, w_step * column) for column, row in steps}


@pytest.mark.parametrize(("rows", "columns"), [(256, 224), (168, 192), (224, 224)])
def test_thirteen_points(rows: int, columns: int) -> None:
    points = corner_points(256, 340, rows, columns)
    assert len(points) == 13
    assert set(points) == tsn_offsets(256, 340, rows, columns)


def test_training_windows_are_those_of_tsn() -> None:
    """At 340x256: sides 256, 224, 192, 168, neighbours at most, at thirteen points; all of them
    occur."""
    transform = CropDraws(SPEC, train=True, crop_scales=SCALES, flip=True)
    rng = np.random.default_rng(0)
    plans = [transform.plan(256, 340, rng) for _ in range(6000)]
    sizes, sides = {(p.height, p.width) for p in plans}, list(enumerate((256, 224, 192, 168)))
    assert sizes == {(a, b) for i, a in sides for j, b in sides if abs(i - j) <= 1}
    for size in sizes:
        places = {(plan.top, plan.left) for plan in plans if (plan.height, plan.width) == size}
        assert places == tsn_offsets(256, 340, *size)
    assert all(plan.size == (224, 224) for plan in plans)
    assert abs(np.mean([plan.flip for plan in plans]) - 0.5) < 0.03
    counts = [sum((plan.height, plan.width) == size for plan in plans) for size in sizes]
    assert min(counts) > 450  # 600 each are expected


def test_scales_follow_the_models_shape() -> None:
    """For a model of 112 x 224 the largest window of a 256 x 340 frame is 170 x 340."""
    spec = InputSpec(1, 112, 224, whole_video=True)
    transform = CropDraws(spec, train=True, crop_scales=(1.0, 0.5))
    rng = np.random.default_rng(0)
    sizes = {(p.height, p.width) for p in (transform.plan(256, 340, rng) for _ in range(200))}
    assert sizes == {(170, 340), (170, 170), (85, 340), (85, 170)}


def test_tests_draw_nothing() -> None:
    test = CropDraws(SPEC, train=False, crop_scales=SCALES)
    assert test.plan(256, 340, None) == CropPlan(0, 42, 256, 256, False, (224, 224))


TEN = ViewPlan(crops=5, crop_places="corners", mirrored=True, short_side=256)


def test_ten_crops_by_hand() -> None:
    """`GroupOverSample` at 340x256 with crops of 224: x from 0 to 116, y from 0 to 32; then all of
    them mirrored."""
    windows = TEN.windows(SPEC, 256, 340)
    places = [(0, 0), (0, 116), (16, 58), (32, 0), (32, 116)]
    assert [(w.top, w.left, w.height, w.width, w.flip) for w in windows] == [
        (top, left, 224, 224, flip) for flip in (False, True) for top, left in places
    ]
    assert TEN.views_per_clip == 10
    assert TEN.middle == 2
    assert ViewPlan(crops=3).middle == ViewPlan(crops=3, mirrored=True).middle == 1
    assert ViewPlan(full_frame=True, mirrored=True).middle == 0


def test_other_plans_can_be_mirrored_too() -> None:
    for plan in (ViewPlan(crops=3), ViewPlan(full_frame=True)):
        both = ViewPlan(crops=plan.crops, full_frame=plan.full_frame, mirrored=True)
        windows = both.windows(SPEC, 256, 340)
        assert windows[: len(windows) // 2] == plan.windows(SPEC, 256, 340)
        half = plan.views_per_clip
        assert [w.flip for w in windows] == [False] * half + [True] * half
        assert both.views_per_clip == len(windows)


def test_corners_are_five() -> None:
    with pytest.raises(ValueError, match="the four corners and the centre; give crops 5, not 3"):
        ViewPlan(crops=3, crop_places="corners")


class SameAsPixels:
    """Flow whose x and y are the grey of the frame that a field starts from."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames
        self.num_flow_frames = len(frames) - 1

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.frames[indices][..., None].repeat(2, -1)


def test_flow_views_are_cut_as_the_pixels_are(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (16, 32, 48), dtype=np.uint8)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{t:02}.png")
    spec = InputSpec(2, height=24, width=24, whole_video=True, flow_length=1, num_stacks=1)
    plan = ViewPlan(num_views=3, crops=5, crop_places="corners", mirrored=True, short_side=30)
    with open_video(tmp_path) as video:
        for clip in range(3):
            pixels, indices, _ = read_views(video, spec, plan, clip)
            flow = read_flow_views(SameAsPixels(frames), video, spec, plan, indices)
            assert flow.shape == (10, 2, 1, 2, 24, 24)
            x, y, grey = flow[:, :, 0, 0], flow[:, :, 0, 1], pixels[:, 0]  # [V, T, h, w]
            mirrored_x = torch.cat([grey[:5], 255 - grey[5:]])
            for found, expected in ((x, mirrored_x), (y, grey)):
                assert (found.int() - expected.int()).abs().max() <= 1
            assert torch.equal(grey[5:], grey[:5].flip(-1))


def test_flow_alone_decodes_no_frame(tmp_path: Path) -> None:
    """A model without colour channels gets an empty video of the right shape; damage of a frame
    that no field needs is not met."""
    for t in range(12):
        Image.new("L", (20, 16), t).save(tmp_path / f"{t:02}.png")
    stacks = {"flow_length": 3, "num_stacks": 2, "stack_interval": 2}
    spec = InputSpec(1, height=16, width=16, channels=0, whole_video=True, **stacks)
    frames = np.arange(12, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(20, 2)
    with open_video(tmp_path) as video:
        height = video.height
        (tmp_path / "06.png").write_bytes(b"no image")
        pixels, indices, _ = read_views(video, spec, ViewPlan(), 0)
        flow, other = (
            read_flow_views(SameAsPixels(frames), video, spec, plan, indices)
            for plan in (ViewPlan(), ViewPlan(stack_interval=4))
        )
    assert (height, pixels.shape, indices.tolist()) == (16, (1, 0, 1, 16, 16), [6])
    assert flow[0, 0, :, 0, 0, 0].tolist() == [5, 7]
    assert other[0, 0, :, 0, 0, 0].tolist() == [4, 8]
