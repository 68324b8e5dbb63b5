"""Overlap graphs: hand-computed cases, a plain loop, blocks against full matrices, masks."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor

from vidgraph.models.overlap import (
    dense_graphs,
    gather_next,
    gather_previous,
    overlap_graphs,
    overlaps,
    pairwise_iou,
)


def random_boxes(
    batch: int = 3, frames: int = 5, count: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Boxes of which some overlap and some do not, and a mask with an empty frame and, in the last
    clip, no box at all.
    """
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, frames, count, 2, generator=generator) * 80
    boxes = torch.cat(
        [low, low + 5 + torch.rand(batch, frames, count, 2, generator=generator) * 40], dim=-1
    )
    mask = torch.rand(batch, frames, count, generator=generator) > 0.3
    mask[0, 2], mask[-1] = False, False
    return boxes, mask


def plain_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if shared > 0 else 0.0


def test_iou_by_hand() -> None:
    first = torch.tensor(
        [[0.0, 0, 2, 2], [1, 1, 1, 1], [3, 3, 2, 2]]
    )  # a square, a point, a reversed box
    second = torch.tensor(
        [[1.0, 0, 3, 2], [0, 0, 2, 2], [2, 0, 4, 2], [2.4, 0, 4, 2], [1, 1, 1, 1]]
    )
    expected = torch.tensor([[1 / 3, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    torch.testing.assert_close(pairwise_iou(first, second), expected)


def test_boxes_half_a_pixel_apart_are_no_neighbours() -> None:
    """With widths of x2 - x1 + 1, as of pixel indices, they would be."""
    boxes = torch.tensor([[[[0.0, 0, 10, 10]], [[10.5, 0, 20, 10]]]])
    assert overlaps(boxes, torch.ones(1, 2, 1, dtype=torch.bool)).item() == 0


def test_graphs_by_hand_and_backward_is_not_forward_transposed() -> None:
    """Two boxes at t; the first meets both boxes at t + 1, the second only the second of them."""
    boxes = torch.tensor([[[[0.0, 0, 4, 1], [4, 0, 8, 1]], [[0, 0, 2, 1], [2, 0, 6, 1]]]])
    front, back = overlap_graphs(boxes, torch.ones(1, 2, 2, dtype=torch.bool))
    sigma = torch.tensor([[1 / 2, 1 / 3], [0, 1 / 3]])
    torch.testing.assert_close(overlaps(boxes, torch.ones(1, 2, 2, dtype=torch.bool))[0, 0], sigma)
    torch.testing.assert_close(front[0, 0], torch.tensor([[0.6, 0.4], [0, 1]]))
    torch.testing.assert_close(back[0, 0], torch.tensor([[1.0, 0], [0.5, 0.5]]))
    assert not torch.allclose(back[0, 0], front[0, 0].T)


def test_graphs_equal_a_plain_loop_over_boxes() -> None:
    boxes, mask = random_boxes()
    front, back = overlap_graphs(boxes, mask)
    batch, frames, count = mask.shape
    for b in range(batch):
        for t in range(frames - 1):
            sigma = torch.zeros(count, count)
            for i in range(count):
                for j in range(count):
                    if mask[b, t, i] and mask[b, t + 1, j]:
                        sigma[i, j] = plain_iou(
                            boxes[b, t, i].tolist(), boxes[b, t + 1, j].tolist()
                        )
            for i in range(count):
                ahead, behind = sigma[i].sum(), sigma[:, i].sum()
                assert_close_to_scale(
                    front[b, t, i], sigma[i] / ahead if ahead > 0 else torch.zeros(count)
                )
                assert_close_to_scale(
                    back[b, t, i], sigma[:, i] / behind if behind > 0 else torch.zeros(count)
                )


def test_rows_sum_to_one_or_to_exactly_zero() -> None:
    boxes, mask = random_boxes()
    boxes = boxes.masked_fill(
        ~mask[..., None], float("nan")
    )  # what stands in a masked box must not matter
    for graph in overlap_graphs(boxes, mask):
        assert torch.isfinite(graph).all()
        sums = graph.sum(-1)
        assert_close_to_scale(sums, (sums > 0).float())
        assert (sums == 0).any()
        assert not graph[-1].any()
    front, back = overlap_graphs(boxes, mask)
    assert not front[0, 1:3].any()  # into and out of the empty frame
    assert not front[0, 0][~mask[0, 0]].any()
    assert not back[0, 3][~mask[0, 4]].any()


def test_blocks_multiply_as_the_full_matrices() -> None:
    boxes, mask = random_boxes()
    front, back = overlap_graphs(boxes, mask)
    nodes = torch.randn(*mask.shape, 4, dtype=torch.float64)
    dense_front, dense_back = dense_graphs(front.double(), back.double())
    assert dense_front.shape == (3, 30, 30)
    flat = nodes.flatten(1, 2)
    torch.testing.assert_close(gather_next(front.double(), nodes).flatten(1, 2), dense_front @ flat)
    torch.testing.assert_close(
        gather_previous(back.double(), nodes).flatten(1, 2), dense_back @ flat
    )
    # No edge within a frame, to the frame after next, or backwards: only the blocks beside the
    # diagonal.
    frame = torch.arange(30) // 6
    assert not dense_front[:, frame[:, None] + 1 != frame[None]].any()
    assert not dense_back[:, frame[:, None] - 1 != frame[None]].any()


def test_forward_brings_the_next_frame_and_backward_the_one_before() -> None:
    boxes = torch.tensor([0.0, 0, 4, 4]).expand(1, 3, 1, 4)
    front, back = overlap_graphs(boxes, torch.ones(1, 3, 1, dtype=torch.bool))
    nodes = torch.tensor([10.0, 20, 30]).reshape(1, 3, 1, 1)
    assert gather_next(front, nodes).flatten().tolist() == [20, 30, 0]
    assert gather_previous(back, nodes).flatten().tolist() == [0, 10, 20]


def test_a_clip_of_one_frame_has_no_edges() -> None:
    boxes, mask = random_boxes(frames=3)
    front, back = overlap_graphs(boxes[:, :1], mask[:, :1])
    assert front.shape == back.shape == (3, 0, 6, 6)
    nodes = torch.randn(3, 1, 6, 4)
    assert not gather_next(front, nodes).any()
    assert not gather_previous(back, nodes).any()


@pytest.mark.parametrize("which", [0, 1])
def test_a_batch_of_one_and_another_order_of_boxes(which: int) -> None:
    boxes, mask = random_boxes()
    graph = overlap_graphs(boxes, mask)[which]
    assert_close_to_scale(graph[1:2], overlap_graphs(boxes[1:2], mask[1:2])[which])
    order = torch.randperm(6)
    assert_close_to_scale(
        overlap_graphs(boxes[:, :, order], mask[:, :, order])[which],
        graph[..., order, :][..., order],
    )


def test_a_share_does_not_tell_how_far_a_box_has_moved() -> None:
    """Only boxes that compete for a neighbour have shares between 0 and 1; one that overlaps a
    single box has 1, whatever the IoU.
    """
    start = torch.tensor([10.0, 10, 20, 20])
    boxes = torch.stack(
        [torch.stack([start, start + torch.tensor([step, 0, step, 0])]) for step in (0.0, 3.0, 9.0)]
    )[:, :, None]
    mask = torch.ones(3, 2, 1, dtype=torch.bool)
    assert overlaps(boxes, mask).flatten().tolist() == pytest.approx([1, 7 / 13, 1 / 19])
    assert [graph.flatten().tolist() for graph in overlap_graphs(boxes, mask)] == [[1, 1, 1]] * 2
