"""Which flow frames make a stack; they are read once, cropped and mirrored as the frames are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidgraph.records import InputSpec
from vidgraph.video.crops import CropPlan
from vidgraph.video.flow_stacks import draw_interval, read_stacks, stack_indices
from vidgraph.video.sampling import SpanError
from vidgraph.video.transforms import move_flow

SPEC = InputSpec(1, 16, 16, whole_video=True, flow_length=10, num_stacks=3, stack_interval=5)


def starts(
    spec: InputSpec, *anchors: int, first: int = 0, stop: int = 49, **options: int
) -> list[list[int]]:
    return stack_indices(spec, np.array(anchors), first, stop, **options)[..., 0].tolist()


@pytest.mark.parametrize(
    ("layout", "count", "anchor", "expected"),
    [
        ("interval", 1, 20, [20]),
        ("interval", 3, 20, [15, 20, 25]),
        ("interval", 5, 20, [10, 15, 20, 25, 30]),
        ("interval", 2, 20, [17, 22]),  # half a step is rounded down
        ("interval", 3, 2, [0, 2, 7]),
        ("interval", 3, 37, [32, 37, 39]),  # fields 39 to 48 are the last ten
        ("interval", 3, 49, [39, 39, 39]),
        # Five frames lie between the tenth of one and the first of the next.
        ("gap", 3, 20, [5, 20, 35]),
        ("gap", 3, 30, [15, 30, 39]),
    ],
)
def test_starts_by_hand(layout: str, count: int, anchor: int, expected: list[int]) -> None:
    spec = replace(SPEC, num_stacks=count, stack_layout=layout)
    assert starts(spec, anchor) == [expected]
    fields = stack_indices(spec, np.array([anchor]), 0, 49)
    assert fields.shape == (1, count, 10)
    assert (np.diff(fields, axis=2) == 1).all()


def test_every_frame_has_its_own_snippets() -> None:
    assert starts(SPEC, 5, 20, 44) == [[0, 5, 10], [15, 20, 25], [39, 39, 39]]


def test_spans_bound_the_fields() -> None:
    assert starts(SPEC, 12, first=10, stop=24) == [[10, 12, 14]]
    assert stack_indices(SPEC, np.array([12]), 10, 24).max() == 23


def test_short_videos_repeat_their_last_field() -> None:
    repeated = [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert stack_indices(SPEC, np.array([3]), 0, 6).tolist() == [[repeated] * 3]
    assert stack_indices(SPEC, np.array([1]), 0, 1).tolist() == [[[0] * 10] * 3]


def test_refuse_says_what_is_needed() -> None:
    """Three snippets of ten fields, five apart, span twenty fields, which lie between 21 frames."""
    assert starts(SPEC, 10, stop=20, past_end="refuse") == [[5, 10, 10]]
    message = "^3 flow stacks of 10 flow frames take 21 frames, and there are 20; let them repeat"
    with pytest.raises(SpanError, match=message):
        stack_indices(SPEC, np.array([10]), 0, 19, past_end="refuse")
    with pytest.raises(SpanError, match=r"take 41 frames, and there are 31"):
        stack_indices(replace(SPEC, stack_layout="gap"), np.array([10]), 0, 30, past_end="refuse")
    with pytest.raises(SpanError, match=r"^optical flow needs two frames, and there is one"):
        stack_indices(SPEC, np.array([0]), 0, 0)


def test_intervals_are_drawn_from_one_to_the_greatest() -> None:
    rng, spec = np.random.default_rng(0), replace(SPEC, max_stack_interval=4)
    drawn = [draw_interval(spec, rng) for _ in range(400)]
    counts = np.bincount(drawn, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] > 70).all()  # 100 each are expected
    assert starts(SPEC, 20, interval=1) == [[19, 20, 21]]


class Counting:
    """Fields whose x is their own number and whose y is the column; remembers what was read."""

    num_flow_frames = 49

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.asked += list(indices)
        fields = np.empty((len(indices), 24, 40, 2), np.uint8)
        fields[..., 0] = np.asarray(indices)[:, None, None]
        fields[..., 1] = np.arange(40)
        return fields


def test_snippets_stand_where_the_record_says() -> None:
    """Channels x0 y0 x1 y1 ...; views in order; each field is read once though snippets overlap."""
    fields = stack_indices(SPEC, np.array([8, 30]), 0, 49)
    places = ((0, False), (10, False), (10, True))
    windows = [CropPlan(4, left, 16, 16, flip, (16, 16)) for left, flip in places]
    reader = Counting()
    flow = read_stacks(reader, fields, windows, 24, 40)
    assert flow.shape == (3, 2, 3, 20, 16, 16)
    assert flow.dtype == torch.uint8
    assert reader.asked == sorted(set(fields.ravel().tolist()))
    for view, t, s, step in np.ndindex(3, 2, 3, 10):
        x, y = flow[view, t, s, 2 * step], flow[view, t, s, 2 * step + 1]
        number = int(fields[t, s, step])
        assert (x == (255 - number if view == 2 else number)).all()
        columns = torch.arange(16) + (10 if view else 0)
        assert (y == (columns.flip(0) if view == 2 else columns)).all()


def test_mirroring_is_exact_and_its_own_inverse() -> None:
    """Columns turn around and x becomes 255 - x, after resizing too."""
    rng = np.random.default_rng(0)
    fields = rng.integers(0, 256, (5, 30, 44, 2), dtype=np.uint8)
    plan = CropPlan(3, 5, 24, 27, False, (16, 16))
    plain = move_flow(fields, plan, 30, 44)
    mirrored = move_flow(fields, replace(plan, flip=True), 30, 44)
    assert torch.equal(mirrored[:, 1], plain[:, 1].flip(2))
    assert torch.equal(mirrored[:, 0], 255 - plain[:, 0].flip(2))
    zero = mirrored[:, 0].flip(2).float() - 127.5
    assert torch.equal(zero, 127.5 - plain[:, 0].float())


def test_brightness_and_luma_leave_flow_alone() -> None:
    fields = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 2), dtype=np.uint8)
    plan = CropPlan(0, 0, 16, 16, False, (16, 16), brightness=90)
    moved = move_flow(fields, plan, 16, 16)
    assert torch.equal(moved, torch.from_numpy(fields).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("height", "width"), [(48, 80), (12, 20), (24, 44)])
def test_fields_of_another_size_are_cut_at_the_same_place(height: int, width: int) -> None:
    """A field that says of each pixel how far right and down it lies, as a share of the frame, says
    the same at every size."""
    y, x = np.mgrid[0:height, 0:width]
    share = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1)
    fields = (share * 200).round().astype(np.uint8)[None]
    plan = CropPlan(4, 10, 16, 20, False, (8, 10))
    moved = move_flow(fields, plan, 24, 40)[0]  # [2, 8, 10]
    expected_x = (10 + 20 * (torch.arange(10) + 0.5) / 10) / 40 * 200
    expected_y = (4 + 16 * (torch.arange(8) + 0.5) / 8) / 24 * 200
    tolerance = 200 * 0.6 / min(height, width)  # half a pixel of the field, and rounding
    assert (moved[0].float() - expected_x).abs().max() <= max(2, tolerance)
    assert (moved[1].float() - expected_y[:, None]).abs().max() <= max(2, tolerance)
