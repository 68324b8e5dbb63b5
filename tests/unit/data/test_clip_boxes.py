"""Clips with regions: boxes drawn as pixels, cropped, resized and mirrored, are where the moved
boxes say; what is outside is masked.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tables import write_table
from torch import Tensor, nn

from vidgraph.data.clips import ClipDataset
from vidgraph.data.table import VideoTable
from vidgraph.errors import DataError, VideoError
from vidgraph.evaluation.inference import evaluate
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_given import GivenBoxes, GivenBoxesJob
from vidgraph.precompute.extract import Task, extract
from vidgraph.predictor import Predictor
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.video.crops import CropDraws
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video

HEIGHT, WIDTH, T, K = 60, 100, 12, 3
SPEC = InputSpec(num_frames=4, height=32, width=32, stride_frames=2, boxes_per_frame=K)
# one per box, so that pixels tell which box they are of
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])


def tracks(seed: int) -> np.ndarray:
    """Three boxes that wander apart from each other, pixels [T, 3, 4]; the third leaves the frames
    that a centre crop keeps."""
    start = np.array([[22 + seed, 4, 44 + seed, 20], [36, 24, 60, 40 + seed], [2, 44, 18, 58]])
    step = np.array([[2, 0, 2, 0], [-1, 0, -1, 0], [0, 0, 0, 0]])
    return start + np.arange(T)[:, None, None] * step


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> VideoTable:
    """Four videos with their boxes painted on black, and a store of these boxes."""
    folder = tmp_path_factory.mktemp("painted")
    tasks = []
    for seed in range(4):
        frames, boxes = np.zeros((T, HEIGHT, WIDTH, 3), np.uint8), tracks(seed)
        for frame, found in zip(frames, boxes, strict=True):
            for (x0, y0, x1, y1), colour in zip(found, COLOURS, strict=True):
                frame[y0:y1, x0:x1] = colour
        write_video(folder / f"{seed}.mp4", frames, fps=10, lossless=True)
        every, corners = np.arange(T), boxes.reshape(-1, 4).astype(float)
        scores, lines = np.tile([0.9, 0.8, 0.7], T), np.arange(3 * T)
        given = GivenBoxes(every, every.repeat(3), corners, scores, "boxes.csv", lines)
        tasks.append(Task(folder / f"{seed}.mp4", f"{seed}.mp4", given))
    videos = [f"{seed}.mp4,{'left' if seed % 2 else 'right'}" for seed in range(4)]
    assert extract(GivenBoxesJob("csv", "ab"), tasks, folder / "boxes").done == 4
    return write_table(folder, *(f"{v},{split}" for v in videos for split in ("train", "test")))


def store(table: VideoTable) -> BoxStore:
    return BoxStore(table.folder / "boxes")


def training(table: VideoTable, transform: CropDraws | None = None) -> ClipDataset:
    return ClipDataset(table, "train", SPEC, train=True, crops=transform, boxes=store(table))


def check_painted(clip: ClipBatch, tolerance: float) -> tuple[int, int]:
    """Holds every region against the pixels of its colour; returns how many boxes were seen, and
    how many were masked."""
    assert clip.regions is not None
    views, _, frames = clip.video.shape[:3]
    assert clip.regions.boxes_xyxy.shape == (views, frames, K, 4)
    seen = masked = 0
    for view, t, k in np.ndindex(views, frames, K):
        painted = clip.video[view, k, t] >= 128  # [h, w]
        regions = clip.regions.boxes_xyxy, clip.regions.scores, clip.regions.mask
        box, score, exists = (value[view, t, k] for value in regions)
        if not exists:
            assert (box.abs().sum(), score) == (0, 0)
            assert painted.sum() <= max(painted.shape)  # less than a pixel of one side is left
            masked += 1
            continue
        assert float(score) == pytest.approx(0.9 - 0.1 * k)
        height, width = painted.shape
        box = box * torch.tensor([width, height, width, height])
        rows, columns = painted.any(1).nonzero()[:, 0], painted.any(0).nonzero()[:, 0]
        extent = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (extent - box).abs().max() <= tolerance, (extent, box)
        seen += 1
    return seen, masked


def test_training_clips_have_their_boxes(table: VideoTable) -> None:
    """Random places, sizes and mirroring; the painted border falls on a pixel's centre at worst,
    and the codec blurs colours a little."""
    dataset = training(table, CropDraws(SPEC, train=True, flip=True))
    total = np.zeros(2, int)
    for epoch in range(8):
        dataset.set_epoch(epoch)
        for i in range(4):
            total += check_painted(dataset[i], tolerance=1.0)
    assert total.min() > 20  # both kinds occur
    sides = training(table, CropDraws(SPEC, train=True, short_side=(40, 56)))
    assert check_painted(sides[1], tolerance=1.0)[0] > 3


@pytest.mark.parametrize(
    "views",
    [
        ViewPlan(),
        ViewPlan(num_views=2, crops=3),
        ViewPlan(crops=3, short_side=48, crop_size=40),
        ViewPlan(full_frame=True),
        ViewPlan(full_frame=True, short_side=90),
    ],
)
def test_every_view_of_a_test_has_its_boxes(table: VideoTable, views: ViewPlan) -> None:
    dataset = ClipDataset(table, "test", SPEC, train=False, views=views, boxes=store(table))
    tolerance = 1.0 if views.short_side != 90 else 1.6
    totals = np.array([check_painted(dataset[i], tolerance) for i in range(len(dataset))])
    assert totals[:, 0].min() > 0
    # the third box lies outside of the centre, and inside of the frame
    assert (totals[:, 1].sum() > 0) == (not views.full_frame)


def test_boxes_without_resampling_are_exact(table: VideoTable) -> None:
    spec = InputSpec(num_frames=3, height=HEIGHT, width=WIDTH, stride_frames=1, boxes_per_frame=K)
    clip = ClipDataset(table, "test", spec, train=False, boxes=store(table))[2]
    assert clip.regions is not None
    expected = tracks(2)[clip.frame_indices[0].numpy()] / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    found = clip.regions.boxes_xyxy[0]
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-6, rtol=0)
    assert clip.regions.mask.all()


def test_fewer_and_more_boxes_than_there_are(table: VideoTable) -> None:
    for count in (1, 5):
        spec = replace(SPEC, height=HEIGHT, width=WIDTH, boxes_per_frame=count)
        regions = ClipDataset(table, "test", spec, train=False, boxes=store(table))[0].regions
        assert regions is not None
        assert regions.mask[0].tolist() == [[True, True, True, False, False][:count]] * 4
        assert regions.scores[0, 0].tolist() == pytest.approx([0.9, 0.8, 0.7, 0, 0][:count])


def test_without_boxes_nothing_is_asked_of_a_store(table: VideoTable) -> None:
    spec = replace(SPEC, boxes_per_frame=0)
    assert ClipDataset(table, "test", spec, train=False)[0].regions is None
    assert ClipDataset(table, "test", spec, train=False, boxes=store(table))[0].regions is None
    words = r"t\.csv: the model takes 3 boxes per frame, and no store of boxes is given; make one "
    with pytest.raises(DataError, match=f"{words}with vidgraph"):
        ClipDataset(table, "test", SPEC, train=False)


def test_faults_of_a_store_name_the_row(table: VideoTable, tmp_path: Path) -> None:
    shutil.copytree(table.folder / "boxes", tmp_path / "boxes")
    half, gone = (tmp_path / "boxes" / f"{row}.mp4.safetensors" for row in (1, 2))
    half.write_bytes(half.read_bytes()[:-9])
    gone.unlink()
    dataset = ClipDataset(table, "test", SPEC, train=False, boxes=BoxStore(tmp_path / "boxes"))
    cases = (1, "1.mp4.safetensors: is cut short", 5), (2, "boxes: holds no boxes of", 7)
    for row, message, line in cases:
        with pytest.raises(VideoError) as error:
            dataset[row]
        assert str(error.value).startswith(f"{table.folder / f'{row}.mp4'}: ")
        assert message in str(error.value)
        assert str(error.value).endswith(f"(t.csv, line {line})")


class Looking(nn.Module):
    """Weighs the mean pixel of each box by its score: an answer that depends on pixels, boxes,
    scores and masks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec, self.class_names, self.multi_label = SPEC, ["left", "right"], False
        self.layer = nn.Linear(4, 2)

    def forward(self, video: Tensor, regions: Regions) -> Tensor:
        weighed = regions.boxes_xyxy * regions.scores[..., None]
        features = weighed.sum((1, 2)) / regions.mask.sum((1, 2)).clamp(min=1)[:, None]
        return self.layer(features + video.float().mean((1, 2, 3, 4))[:, None] / 100)


@pytest.mark.parametrize(
    "plan", [ViewPlan(), ViewPlan(num_views=2, crops=3), ViewPlan(num_views=3, full_frame=True)]
)
def test_prediction_equals_evaluation_with_many_views(table: VideoTable, plan: ViewPlan) -> None:
    model = Looking()
    dataset = ClipDataset(table, "test", SPEC, train=False, views=plan, boxes=store(table))
    clips, names = [dataset[i] for i in range(len(dataset))], dataset.class_names
    starts = range(0, len(clips), plan.num_views)
    batches = [ClipBatch.joined(clips[start : start + plan.num_views]) for start in starts]
    scores = evaluate(model, batches, class_names=names, batch_size=2)
    one_by_one = evaluate(model, clips, class_names=names)
    np.testing.assert_allclose(scores.probabilities, one_by_one.probabilities, atol=1e-5)
    predictor = Predictor(model, plan, "cpu", boxes=store(table))
    for row, name in zip(scores.probabilities, scores.names, strict=True):
        np.testing.assert_allclose(predictor.predict(name).probabilities.numpy(), row, atol=1e-5)
    # the videos differ, or the test would say nothing
    assert np.ptp(scores.probabilities[:, 0]) > 1e-3


def test_a_prediction_without_boxes_says_what_to_do(table: VideoTable) -> None:
    words = "takes 3 boxes per frame.*vidgraph extract proposals, and name it with --boxes"
    with pytest.raises(DataError, match=words):
        Predictor(Looking(), device="cpu")
