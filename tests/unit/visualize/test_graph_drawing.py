"""The graph over a frame: what is drawn where, and which edges are called strongest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from pictures import near

from vidgraph.models.grid import adjacency, node_boxes, node_names
from vidgraph.records import Explanation
from vidgraph.visualize.canvas import Canvas, enlarge
from vidgraph.visualize.graph import NODE_COLOURS, GraphPictures, attention_colour

GRID = (3, 2, 1)
FRAME = np.full((64, 64, 3), 60, dtype=np.uint8)


def grid_explanation(num_frames: int = 4, stages: int = 2) -> Explanation:
    """Even attention over the neighbours of RSTG's grid; the diagonal holds weight that is no
    edge."""
    linked, boxes = adjacency(GRID), node_boxes(GRID).expand(num_frames, -1, -1)
    even = linked.float() / linked.sum(1, keepdim=True) + 0.9 * torch.eye(14)
    return Explanation(boxes, linked, even.repeat(stages, num_frames, 1, 1), node_names(GRID))


def three_nodes() -> Explanation:
    """Left and right hear each other and the node below, which hears nobody; right prefers left in
    frame 1 only."""
    boxes = [[0.1, 0.4, 0.3, 0.6], [0.7, 0.4, 0.9, 0.6], [0.4, 0.75, 0.6, 0.95]]
    linked = torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 0]]).bool()
    attention = torch.zeros(1, 2, 3, 3)
    attention[0, :, 0, 1:] = 0.5
    attention[0, 0, 1] = torch.tensor([0.2, 0.6, 0.2])  # most goes to itself, which is no edge
    attention[0, 1, 1] = torch.tensor([-0.9, 0.0, 0.1])  # a raw product: its magnitude counts
    attention[0, :, 2, 2] = 1.0
    names = ("left", "right", "below")
    return Explanation(torch.tensor(boxes).expand(2, -1, -1), linked, attention, names)


def test_shares_are_among_true_neighbours_and_preferences_are_above_even():
    pictures = GraphPictures(three_nodes())
    assert pictures.shares[0, :, 1, 0] == pytest.approx([0.5, 0.9])
    assert pictures.shares[0].sum(-1) == pytest.approx(np.array([[1, 1, 0], [1, 1, 0]]))
    assert pictures.preferences[0, :, 1, 0] == pytest.approx([0.0, 0.4])
    assert pictures.scale == pytest.approx(0.4)
    assert pictures.num_stages == 1


def test_even_attention_has_no_preference_and_no_edge_is_drawn():
    """A corner gives 1/4 to each, the coarsest node 1/13: neither is strong."""
    pictures = GraphPictures(grid_explanation())
    assert np.abs(pictures.preferences).max() < 1e-6
    assert pictures.scale == pytest.approx(0.1)
    drawn, bare = (pictures.over_frame(FRAME, 0, num_edges=count) for count in (8, 0))
    assert np.array_equal(drawn, bare)


def test_strongest_edges_are_means_over_frames_with_their_peak():
    pictures = GraphPictures(three_nodes())
    first, second = pictures.strongest_edges(0, count=2)
    assert (first.destination, first.source, first.frame) == ("right", "left", 1)
    assert (first.mean, first.highest, first.even_share) == pytest.approx((0.7, 0.9, 0.5))
    assert (second.destination, second.mean) == ("left", pytest.approx(0.5))
    assert len(pictures.strongest_edges(0, count=9)) == 4
    corner = GraphPictures(grid_explanation()).strongest_edges(1, count=1)[0]
    assert corner.mean == pytest.approx(corner.even_share)


def test_a_small_frame_is_enlarged_and_the_edge_runs_between_its_nodes():
    pictures, colour = GraphPictures(three_nodes()), attention_colour(1.0)
    picture = pictures.over_frame(FRAME, t=1)
    assert picture.shape == (512, 512, 3)
    assert picture.dtype == np.uint8
    strong = near(picture, colour, 40)
    rows, columns = np.nonzero(strong)
    assert strong.sum() > 400
    assert rows.min() > 256 - 100  # bowed, but near the line from left to right
    assert rows.max() < 256 + 100
    assert 100 < columns.min() < 190
    assert 330 < columns.max() < 420
    widths = strong.sum(0)
    assert widths[370:].max() > 1.3 * widths[:150].max()  # the head is at the receiver
    even = pictures.over_frame(FRAME, t=0)
    assert near(even, colour, 40).sum() < 0.1 * strong.sum()  # one scale for both frames


def test_arrows_that_run_against_each_other_stay_apart():
    drawn = []
    for source, target in (((0.1, 0.5), (0.9, 0.5)), ((0.9, 0.5), (0.1, 0.5))):
        canvas = Canvas(FRAME, side=200, dim=1.0)
        canvas.arrow(source, target, 1.0, "#ffffff")
        drawn.append(near(canvas.pixels()[:, 100], "#ffffff"))
    assert all(column.any() for column in drawn)
    assert not (drawn[0] & drawn[1]).any()


def test_the_node_that_is_heard_most_has_the_largest_disc():
    picture = GraphPictures(three_nodes()).over_frame(FRAME, t=1, num_edges=0)

    def disc(x: int, y: int) -> int:
        around = picture[y - 14 : y + 14, x - 14 : x + 14]
        return int(near(around, NODE_COLOURS[0], 30).sum())

    assert disc(102, 256) > 1.5 * disc(410, 256) > 0  # 0.9 against 0.5


def test_outlines_of_the_three_grids_lie_side_by_side():
    pictures = GraphPictures(grid_explanation())
    assert [pictures.groups.count(g) for g in (0, 1, 2)] == [9, 4, 1]
    picture = pictures.over_frame(np.zeros_like(FRAME), t=0, num_edges=0).astype(float)
    left = picture[60, :16]  # from the left border inwards, through the upper left cells
    colours = [0.75 * 255 * np.array(to_rgb(NODE_COLOURS[g])) for g in (2, 1, 0)]
    found = [int(np.abs(left - colour).max(-1).argmin()) for colour in colours]
    assert found == sorted(set(found))
    assert len(found) == 3


def test_frames_keep_their_shape_and_even_sides():
    assert enlarge(np.zeros((240, 321, 3), dtype=np.uint8), 512).shape == (512, 684, 3)
    assert enlarge(np.zeros((1080, 608, 3), dtype=np.uint8), 512).shape == (910, 512, 3)
    wide = np.zeros((48, 96, 3), dtype=np.uint8)
    assert GraphPictures(grid_explanation()).over_frame(wide, 3, side=256).shape == (256, 512, 3)


def test_a_model_that_sends_nothing_gets_nodes_without_edges():
    explanation = grid_explanation(stages=1)
    explanation.attention = torch.zeros(0, 4, 14, 14)
    pictures = GraphPictures(explanation)
    assert pictures.num_stages == 0
    assert pictures.legend() is None
    assert near(pictures.over_frame(FRAME, 0), NODE_COLOURS[0], 40).sum() > 300


def test_the_key_has_one_picture_per_grid_and_writes_names():
    pictures = GraphPictures(grid_explanation())
    drawn = pictures.node_key(np.zeros_like(FRAME), side=300)
    white = [int((p > 230).all(-1).sum()) for p in drawn]
    assert white[0] > white[1] > white[2] > 20  # 9, 4 and 1 names
    named = ["3x3 (0, 0) to 3x3 (2, 2)", "2x2 (0, 0) to 2x2 (1, 1)", "1x1 (0, 0)"]
    assert [text for _, text in pictures.node_colours()] == named
