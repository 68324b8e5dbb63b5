"""Something-Something: which classes are each other's mirror image, and its videos as training and
test meet them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tables import write_table

from vidgraph.data.check import check_table
from vidgraph.data.clips import ClipDataset
from vidgraph.data.mirroring import mirrored_classes
from vidgraph.data.table import VideoTable
from vidgraph.errors import VideoError
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.crops import CropDraws
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video

# The classes of v2's official list of 174 that hold the letters "left" or "right" (numbers of
# labels.json; v1 names them alike).
V2_SIDES = {
    21: "Laying something on the table on its side, not upright",
    50: "Plugging something into something but pulling it right out as you remove your hand",
    86: "Pulling something from left to right",
    87: "Pulling something from right to left",
    93: "Pushing something from left to right",
    94: "Pushing something from right to left",
    117: "Putting something that cannot actually stand upright upright on the table, so it falls "
    "on its side",
    119: "Putting something upright on the table",
    166: "Turning the camera left while filming something",
    167: "Turning the camera right while filming something",
}


def test_every_pair_of_the_v2_classes() -> None:
    """All pairs, and the one class that says "right" without a partner, which is therefore never
    mirrored."""
    numbers = list(V2_SIDES)
    found = mirrored_classes(list(V2_SIDES.values()))
    expected = [21, -1, 87, 86, 94, 93, 117, 119, 167, 166]
    assert [m if m < 0 else numbers[m] for m in found] == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["left", "right"], [1, 0]),
        (["Turn Left", "turn right", "stand"], [-1, -1, 2]),  # of other letters: another class
        (["swipe_left", "swipe_right"], [1, 0]),
        (["SwipeLeft", "SwipeRight", "Swipe"], [1, 0, 2]),
        (["LEFT", "Right"], [1, 0]),
        (["upright", "cleft", "leftover", "brightness", "copyright"], [0, 1, 2, 3, 4]),
        (["Turning Hand Clockwise", "Turning Hand Counterclockwise"], [1, 0]),
        (["clockwise", "anti-clockwise"], [1, 0]),
        (["turn left", "turn left", "turn right"], [-1, -1, -1]),  # which of the two would it be?
        (["left to left", "push left"], [-1, -1]),
        ([str(digit) for digit in range(4)], [0, 1, 2, 3]),
    ],
)
def test_pairs_by_their_words(names: list[str], expected: list[int]) -> None:
    found = mirrored_classes(names)
    assert found == expected
    assert all(k < 0 or found[k] == i for i, k in enumerate(found))  # mirrored twice it is the same


def ramp(path: Path, num_frames: int = 6) -> None:
    """Bright on the right."""
    columns = np.linspace(0, 255, 48).astype(np.uint8)
    frames = np.broadcast_to(columns[None, None, :, None], (num_frames, 32, 48, 3)).copy()
    write_video(path, frames, 10, lossless=True)


def is_mirrored(video: torch.Tensor) -> bool:
    return bool(video[..., 0].float().mean() > video[..., -1].float().mean())


def test_a_mirrored_clip_has_the_mirrored_label(tmp_path: Path) -> None:
    ramp(tmp_path / "a.mp4")
    labels = ["push left", "push right", "lift", "pull it right out"]
    table = write_table(tmp_path, *(f"a.mp4,{label},train" for label in labels))
    table = table.with_class_names(labels)
    spec = InputSpec(num_frames=2, height=16, width=16, stride_frames=1)
    flip = CropDraws(spec, train=True, flip=True)
    dataset = ClipDataset(table, "train", spec, train=True, crops=flip)
    seen = set()
    for epoch in range(20):
        dataset.set_epoch(epoch)
        clips = [dataset[row] for row in range(4)]
        seen |= {(row, is_mirrored(c.video), int(c.label)) for row, c in enumerate(clips)}
    mirrored = {(0, True, 1), (1, True, 0), (2, True, 2)}
    assert seen == {(k, False, k) for k in range(4)} | mirrored
    assert dataset.never_flipped == ["pull it right out"]
    assert dataset.labels.tolist() == [0, 1, 2, 3]  # the table's own
    still = ClipDataset(table, "train", spec, train=True)
    assert still.never_flipped == []
    for epoch in range(5):
        still.set_epoch(epoch)
        assert not any(is_mirrored(still[row].video) for row in range(4))
    test = ClipDataset(table, "train", spec, train=False)
    found = [(is_mirrored(test[row].video), int(test[row].label)) for row in range(4)]
    assert found == [(False, k) for k in range(4)]


def test_several_labels_are_mirrored_together(tmp_path: Path) -> None:
    ramp(tmp_path / "a.mp4")
    labels = ["push left|lift", "lift|bend right", "", "push right"]
    table = write_table(tmp_path, *(f"a.mp4,{label},train" for label in labels))
    spec = InputSpec(num_frames=2, height=16, width=16, stride_frames=1)
    flip = CropDraws(spec, train=True, flip=True)
    dataset = ClipDataset(table, "train", spec, train=True, crops=flip)
    assert dataset.class_names == ["bend right", "lift", "push left", "push right"]
    seen = set()
    for epoch in range(20):
        dataset.set_epoch(epoch)
        clips = [dataset[row] for row in range(4)]
        seen |= {(k, is_mirrored(c.video), tuple(c.label[0].tolist())) for k, c in enumerate(clips)}
    assert seen == {
        (0, False, (0, 1, 1, 0)),
        (0, True, (0, 1, 0, 1)),
        (1, False, (1, 1, 0, 0)),
        (2, False, (0, 0, 0, 0)),
        (2, True, (0, 0, 0, 0)),
        (3, False, (0, 0, 0, 1)),
        (3, True, (0, 0, 1, 0)),
    }


# ---- real frames ---------------------------------------------------------------------------------


@pytest.fixture
def samples(shared_data: Path, tmp_path: Path) -> VideoTable:
    """The 13 real videos, each a class of its own."""
    folder = shared_data / "data" / "something_else_samples" / "videos"
    names = sorted((video.name for video in folder.iterdir()), key=int)
    return write_table(tmp_path, *(f"{folder / name},{name},train" for name in names))


def test_real_samples_are_sound(samples: VideoTable) -> None:
    report = check_table(samples, min_frames=8)
    assert (report.num_files, report.counts) == (13, {})
    assert (min(report.frames), max(report.frames)) == (23, 64)
    assert check_table(samples, min_frames=32).counts == {"short": 1}


def test_real_training_clips_are_as_the_rstg_authors_make_them(samples: VideoTable) -> None:
    spec = InputSpec(num_frames=32, height=224, width=224, whole_video=True)
    transform = CropDraws(spec, train=True, short_side=(256, 256), brightness=0.1)
    views = ViewPlan(spread="linspace")
    dataset = ClipDataset(samples, "train", spec, train=True, crops=transform, views=views)
    clip, again = dataset[4], dataset[4]
    assert clip.video.shape == (1, 3, 32, 224, 224)
    assert clip.frame_indices[0].tolist() == np.linspace(0, 42, 32).astype(int).tolist()
    assert torch.equal(clip.video, again.video)
    dataset.set_epoch(1)
    assert not torch.equal(clip.video, dataset[4].video)
    assert clip.label.tolist() == [4]


def test_the_22_views_of_the_rstg_authors(samples: VideoTable) -> None:
    """Eleven crops of 256 x 256 of two clips, the second half a step later."""
    spec = InputSpec(num_frames=32, height=224, width=224, whole_video=True)
    plan = ViewPlan(num_views=2, crops=11, short_side=256, crop_size=256, spread="linspace")
    dataset = ClipDataset(samples, "train", spec, train=False, views=plan)
    assert len(dataset) == 26
    # video 862 has 47 frames: the second clip lies round(0.5 * 47 / 32) = 1 later
    views = ClipBatch.joined([dataset[4], dataset[5]])
    assert views.video.shape == (22, 3, 32, 256, 256)
    assert views.index.tolist() == [2] * 22
    later = (views.frame_indices[11] - views.frame_indices[0]).tolist()
    assert set(later) <= {0, 1}
    assert later[:31] == [1] * 31
    left, right = views.video[0], views.video[10]
    assert (left.float() - right.float()).abs().mean() > 5


# ---- what a training meets -----------------------------------------------------------------------


def frame_table(folder: Path, numbers: list[int]) -> VideoTable:
    (folder / "7").mkdir()
    for number in numbers:
        image = Image.fromarray(np.full((20, 30, 3), 3 * number, np.uint8))
        image.save(folder / "7" / f"{number:05d}.jpg")
    return write_table(folder, "7,x,train")


def test_short_videos(tmp_path: Path) -> None:
    table = frame_table(tmp_path, [1, 2, 3, 4, 5])
    long = InputSpec(num_frames=4, height=16, width=16, stride_frames=2)
    for past_end, frames in (("clamp", [0, 2, 4, 4]), ("loop", [0, 2, 4, 1])):
        views = ViewPlan(past_end=past_end)
        clip = ClipDataset(table, "train", long, train=False, views=views)[0]
        assert clip.frame_indices[0].tolist() == frames
    for train in (True, False):
        with pytest.raises(VideoError) as caught:
            ClipDataset(table, "train", long, train=train, views=ViewPlan(past_end="refuse"))[0]
        message = f"{tmp_path / '7'}: a clip needs 7 frames, and the video has 5;"
        assert str(caught.value).startswith(message)
        assert str(caught.value).endswith("(t.csv, line 2)")
    many = ClipDataset(table, "train", long, train=False, views=ViewPlan(num_views=6))
    assert [many[i].frame_indices[0].tolist() for i in range(6)] == [[0, 2, 4, 4]] * 6
