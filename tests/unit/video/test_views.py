"""`read_views`: the clips and crops of a test, on a video whose pixels tell frame and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidgraph.errors import RecipeError, VidgraphError
from vidgraph.records import InputSpec
from vidgraph.video.crops import CropDraws
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import sample_frames
from vidgraph.video.transforms import move_pixels
from vidgraph.video.views import ViewPlan, read_views

SPEC = InputSpec(num_frames=4, height=16, width=16, stride_frames=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of 16 x 36: the value is the column's number plus 7 times the frame's."""
    folder = tmp_path_factory.mktemp("frames")
    for t in range(30):
        columns = np.arange(36, dtype=np.uint8) + 7 * t % 200
        picture = np.broadcast_to(columns[None, :, None], (16, 36, 3)).copy()
        Image.fromarray(picture).save(folder / f"{t:04d}.png")
    return folder


def test_the_default_plan_is_the_single_centre_view(folder: Path) -> None:
    with open_video(folder) as video:
        pixels, indices, regions = read_views(video, SPEC, ViewPlan(), 0)
        expected = sample_frames(SPEC, video.timestamps_seconds)
        plan = CropDraws(SPEC, False).plan(video.height, video.width)
        centre = move_pixels(video.read(expected), plan)
    assert indices.tolist() == expected.tolist() == [12, 14, 16, 18]
    assert torch.equal(pixels, centre[None])
    assert regions is None
    assert pixels[0, 0, :, 0, 0].tolist() == [10 + 7 * t % 200 for t in indices]


def test_crops_and_clips_are_where_they_should_be(folder: Path) -> None:
    plan = ViewPlan(num_views=3, crops=5)
    with open_video(folder) as video:
        for clip, start in enumerate((0, 12, 23)):
            pixels, indices, _ = read_views(video, SPEC, plan, clip)
            assert pixels.shape == (5, 3, 4, 16, 16)
            assert indices.tolist() == [start, start + 2, start + 4, start + 6]
            assert (pixels[:, 0, 0, 0, 0].int() - 7 * start % 200).tolist() == [0, 5, 10, 15, 20]
        assert plan.views_per_clip == 5


def test_sizes_of_crops_and_whole_frames(folder: Path) -> None:
    with open_video(folder) as video:
        crops = read_views(video, SPEC, ViewPlan(crops=3, short_side=32, crop_size=24), 0)[0]
        assert crops.shape == (3, 3, 4, 24, 24)
        whole = read_views(video, SPEC, ViewPlan(full_frame=True, short_side=32), 0)[0]
        assert whole.shape == (1, 3, 4, 32, 72)
        native = read_views(video, SPEC, ViewPlan(full_frame=True), 0)[0]
        assert native.shape == (1, 3, 4, 16, 36)
        assert native[0, 0, 0, 0].int().diff().eq(1).all()
        luma = InputSpec(num_frames=30, height=16, width=16, channels=1, whole_video=True)
        assert read_views(video, luma, ViewPlan(crops=2), 0)[0].shape == (2, 1, 30, 16, 16)


def test_what_does_not_fit_is_one_line(folder: Path) -> None:
    message = "crops of 16x16 pixels do not fit into frames whose shorter side is 12"
    with pytest.raises(RecipeError, match=message):
        ViewPlan(short_side=12).crop_shape(SPEC)
    long = InputSpec(num_frames=31, height=8, width=8, stride_frames=2)
    message = "a clip needs 61 frames, and the video has 30"
    with open_video(folder) as video, pytest.raises(VidgraphError, match=message):
        read_views(video, long, ViewPlan(past_end="refuse"), 0)


def test_the_rate_of_a_folder_is_the_plan_s(folder: Path) -> None:
    by_time = InputSpec(num_frames=4, height=16, width=16, sample_fps=6)
    for fps, expected in ((12.0, 2), (24.0, 4)):
        with open_video(folder, folder_fps=fps) as video:
            assert np.diff(read_views(video, by_time, ViewPlan(), 0)[1]).tolist() == [expected] * 3
