"""Boxes to nodes: coordinates on ramps, which boxes belong to which step, masks, and the gradient
against torchvision's own.
"""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor
from torchvision.ops import roi_align

from vidgraph.models.regions import mean_over_regions, region_nodes, regions_of_steps
from vidgraph.records import Regions, step_frames


def ramps(height: int, width: int, steps: int = 1) -> Tensor:
    """A map whose channels are the index of the column and of the row, and the step: [1, 3, P, H,
    W]."""
    column = torch.arange(width).float().expand(steps, height, width)
    row = torch.arange(height).float()[:, None].expand(steps, height, width)
    step = torch.arange(steps).float()[:, None, None].expand(steps, height, width)
    return torch.stack([column, row, step])[None]


def regions(boxes: Tensor, size: tuple[int, int], mask: Tensor | None = None) -> Regions:
    """From boxes in pixels of a frame of that many rows and columns."""
    return Regions(
        boxes / torch.tensor([size[1], size[0]] * 2),
        torch.ones(boxes.shape[:3]),
        torch.ones(boxes.shape[:3], dtype=torch.bool) if mask is None else mask,
    )


@pytest.mark.parametrize(("aligned", "shift"), [(True, 0.5), (False, 0.0)])
@pytest.mark.parametrize(
    ("crop", "cells"),
    [
        ((224, 224), (14, 14)),
        ((256, 340), (16, 22)),
        ((112, 150), (7, 10)),
    ],  # the last two: 340 / 22 and 150 / 10 pixels per column
)
def test_coordinates_on_an_index_ramp(
    crop: tuple[int, int], cells: tuple[int, int], aligned: bool, shift: float
) -> None:
    """The point at pixel x lies at x / stride - 0.5 of the map. The largest cell of a ramp is the
    last of seven, whose points lie, in the mean, at 6.5 sevenths of the box."""
    height, width = crop
    boxes = torch.tensor(
        [[0.2, 0.25, 0.5, 0.75], [0.4, 0.3, 0.9, 0.6], [0.1, 0.1, 0.8, 0.85]]
    ) * torch.tensor([width, height] * 2)
    nodes = region_nodes(ramps(*cells), regions(boxes[None, None], crop), aligned=aligned)[0, 0]
    end = boxes[:, :2] + 6.5 / 7 * (boxes[:, 2:] - boxes[:, :2])  # in pixels
    expected = end * torch.tensor([cells[1] / width, cells[0] / height]) - shift
    assert_close_to_scale(nodes[:, :2], expected, rel=1e-4)


def test_by_sixteenths_of_a_pixel_at_the_paper_size() -> None:
    """A box as wide as a pixel: pixel 152 of 224 is cell 152 / 16 - 0.5 = 9 of 14. At twice the
    scale, it would be outside."""
    box = torch.tensor([151.5, 71.5, 152.5, 72.5])[None, None, None]
    nodes = region_nodes(ramps(14, 14), regions(box, (224, 224)))
    torch.testing.assert_close(nodes[0, 0, 0, :2], torch.tensor([9.0, 4.0]), rtol=0, atol=0.04)


def test_steps_take_the_boxes_of_their_first_frame() -> None:
    assert step_frames(32, 16).tolist() == list(range(0, 32, 2))
    assert step_frames(128, 16).tolist() == list(range(0, 128, 8))
    assert step_frames(10, 10).tolist() == list(range(10))
    assert step_frames(10, 4).tolist() == [0, 2, 5, 7]
    boxes = torch.arange(8).float()[None, :, None, None].expand(1, 8, 3, 4)
    mask = torch.arange(8)[None, :, None].expand(1, 8, 3) != 4
    steps = regions_of_steps(Regions(boxes, boxes[..., 0], mask), 4)
    assert steps.boxes_xyxy[0, :, 0, 0].tolist() == [0, 2, 4, 6]
    assert steps.scores[0, :, 1].tolist() == [0, 2, 4, 6]
    assert steps.mask[0, :, 2].tolist() == [True, True, False, True]


def test_every_box_reads_its_own_step_of_its_own_clip() -> None:
    features = torch.cat([ramps(6, 6, steps=3), 100 + ramps(6, 6, steps=3)])
    boxes = torch.tensor([8.0, 8, 80, 80]).expand(2, 3, 4, 4)
    nodes = region_nodes(features, regions(boxes, (96, 96)))
    torch.testing.assert_close(nodes[0, :, :, 2], torch.arange(3.0)[:, None].expand(3, 4))
    assert_close_to_scale(nodes[1], nodes[0] + 100)


def test_the_maximum_is_taken_and_not_the_mean() -> None:
    features = torch.zeros(1, 1, 1, 14, 14)
    features[..., 5, 5] = 8.0
    # from the middle of cell 4: points 0.21 cells apart
    boxes = torch.tensor([[[[72.0, 72, 88 + 16 * 2, 88 + 16 * 2]]]])
    plain = roi_align(
        features[:, :, 0], torch.tensor([[0.0, 72, 72, 120, 120]]), 7, 1 / 16, 2, True
    )
    node = region_nodes(features, regions(boxes, (224, 224))).item()
    assert node == pytest.approx(plain.max().item(), rel=1e-5)
    assert node > 4 * plain.mean().item() > 0


def test_masked_boxes_give_zero_nodes_and_no_gradient() -> None:
    features = torch.randn(1, 4, 2, 7, 7, requires_grad=True)
    boxes = torch.tensor([10.0, 10, 60, 60]).repeat(1, 2, 3, 1)
    mask = torch.tensor([[[True, False, True], [False, False, False]]])
    broken = boxes.masked_fill(~mask[..., None], float("nan"))
    nodes = region_nodes(features, regions(broken, (112, 112), mask))
    assert not nodes[0, ~mask[0]].any()
    assert nodes[0, 0, 0].equal(nodes[0, 0, 2])
    nodes.sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert features.grad[:, :, 0].any()
    assert not features.grad[:, :, 1].any()


def test_nodes_have_the_type_of_the_map() -> None:
    features = torch.randn(1, 4, 1, 7, 7)
    box = regions(torch.tensor([10.0, 10, 60, 60])[None, None, None], (112, 112))
    rough = region_nodes(features.bfloat16(), box)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), region_nodes(features, box), rtol=0.02, atol=0.02)


def test_mean_over_the_boxes_that_exist() -> None:
    nodes = torch.tensor([[[1.0], [30]], [[5], [7]]])[None]  # [1, 2, 2, 1]
    mask = torch.tensor([[[True, False], [True, True]]])
    assert mean_over_regions(nodes, mask)[0].tolist() == pytest.approx([(1 + 5 + 7) / 3])
    assert mean_over_regions(nodes, torch.zeros_like(mask))[0].tolist() == [0]
    broken = nodes.clone().masked_fill(~mask[..., None], float("inf"))
    assert mean_over_regions(broken, mask)[0].tolist() == pytest.approx([13 / 3])
