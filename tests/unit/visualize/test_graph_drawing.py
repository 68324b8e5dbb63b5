"""The graph over a frame: what is drawn where, and which edges are called strongest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidgraph.models.grid import grid_graph
from vidgraph.records import Explanation
from vidgraph.visualize.graph import (
    NODE_COLOURS,
    attention_colour,
    draw_graph,
    draw_node_key,
    edge_preferences,
    edge_shares,
    enlarge,
    node_groups,
    num_stages,
    preference_scale,
    strongest_edges,
)

FRAME = np.full((64, 64, 3), 60, dtype=np.uint8)


def grid_explanation(num_frames: int = 4, stages: int = 2) -> Explanation:
    """Even attention over the neighbours of RSTG's grid; the diagonal holds weight that is no
    edge.
    """
    graph = grid_graph((3, 2, 1))
    even = graph.adjacency.float() / graph.adjacency.sum(1, keepdim=True) + 0.9 * torch.eye(14)
    return Explanation(
        graph.node_boxes_xyxy.expand(num_frames, -1, -1),
        graph.adjacency,
        even.repeat(stages, num_frames, 1, 1),
        graph.names,
    )


def three_nodes() -> Explanation:
    """Left and right hear each other and the node below, which hears nobody; right prefers left in
    frame 1 only.
    """
    boxes = torch.tensor(
        [[0.1, 0.4, 0.3, 0.6], [0.7, 0.4, 0.9, 0.6], [0.4, 0.75, 0.6, 0.95]]
    ).expand(2, -1, -1)
    adjacency = torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 0]]).bool()
    attention = torch.zeros(1, 2, 3, 3)
    attention[0, :, 0, 1:] = 0.5
    attention[0, 0, 1] = torch.tensor([0.2, 0.6, 0.2])  # most goes to itself, which is no edge
    attention[0, 1, 1] = torch.tensor([-0.9, 0.0, 0.1])  # a raw product: its magnitude counts
    attention[0, :, 2, 2] = 1.0
    return Explanation(boxes, adjacency, attention, ("left", "right", "below"))


def near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> np.ndarray:
    return (np.abs(pixels.astype(int) - np.array(colour)).max(-1)) < tolerance


def test_shares_are_among_true_neighbours_and_preferences_are_above_even():
    explanation = three_nodes()
    assert edge_shares(explanation)[0, :, 1, 0] == pytest.approx([0.5, 0.9])
    assert edge_shares(explanation)[0].sum(-1) == pytest.approx(np.array([[1, 1, 0], [1, 1, 0]]))
    assert edge_preferences(explanation)[0, :, 1, 0] == pytest.approx([0.0, 0.4])
    assert preference_scale(explanation) == pytest.approx(0.4)
    assert num_stages(explanation) == 1


def test_even_attention_has_no_preference_and_no_edge_is_drawn():
    explanation = (
        grid_explanation()
    )  # a corner gives 1/4 to each, the coarsest node 1/13: neither is strong
    assert np.abs(edge_preferences(explanation)).max() < 1e-6
    assert preference_scale(explanation) == pytest.approx(0.1)
    assert np.array_equal(
        draw_graph(FRAME, explanation, 0, 0), draw_graph(FRAME, explanation, 0, 0, num_edges=0)
    )


def test_strongest_edges_are_means_over_frames_with_their_peak():
    first, second = strongest_edges(three_nodes(), 0, count=2)
    assert (first.destination, first.source, first.frame) == ("right", "left", 1)
    assert (first.mean, first.highest, first.even_share) == (
        pytest.approx(0.7),
        pytest.approx(0.9),
        0.5,
    )
    assert (second.destination, second.mean) == ("left", pytest.approx(0.5))
    assert len(strongest_edges(three_nodes(), 0, count=9)) == 4
    corner = strongest_edges(grid_explanation(), 1, count=1)[0]
    assert corner.mean == pytest.approx(corner.even_share)


def test_a_small_frame_is_enlarged_and_the_edge_runs_between_its_nodes():
    picture = draw_graph(FRAME, three_nodes(), t=1, stage=0)
    assert picture.shape == (512, 512, 3)
    assert picture.dtype == np.uint8
    strong = near(picture, attention_colour(1.0))
    rows, columns = np.nonzero(strong)
    assert strong.sum() > 400
    assert rows.min() > 256 - 100  # bowed, but near the line from left to right
    assert rows.max() < 256 + 100
    assert 100 < columns.min() < 190
    assert 330 < columns.max() < 420
    even = draw_graph(FRAME, three_nodes(), t=0, stage=0)
    assert near(even, attention_colour(1.0)).sum() < 0.1 * strong.sum()  # one scale for both frames


def test_the_node_that_is_heard_most_has_the_largest_disc():
    picture = draw_graph(FRAME, three_nodes(), t=1, stage=0, num_edges=0)

    def disc(x: int, y: int) -> int:
        around = picture[y - 14 : y + 14, x - 14 : x + 14]
        return int(near(around, NODE_COLOURS[0], 30).sum())

    assert disc(102, 256) > 1.5 * disc(410, 256) > 0  # 0.9 against 0.5


def test_outlines_of_the_three_grids_lie_side_by_side():
    picture = draw_graph(
        np.zeros((64, 64, 3), dtype=np.uint8), grid_explanation(), t=0, stage=0, num_edges=0
    ).astype(int)
    groups = node_groups(grid_explanation())
    assert [groups.count(g) for g in (0, 1, 2)] == [9, 4, 1]
    left = picture[60, :16]  # from the left border inwards, through the upper left cells
    found = [
        int(np.argmin(np.abs(left - 0.75 * np.array(NODE_COLOURS[g])).max(-1))) for g in (2, 1, 0)
    ]
    assert found == sorted(found)
    assert len(set(found)) == 3


def test_frames_keep_their_shape_and_even_sides():
    assert enlarge(np.zeros((240, 321, 3), dtype=np.uint8), 512).shape == (512, 684, 3)
    assert enlarge(np.zeros((1080, 608, 3), dtype=np.uint8), 512).shape == (910, 512, 3)
    wide = np.zeros((48, 96, 3), dtype=np.uint8)
    assert draw_graph(wide, grid_explanation(), t=3, stage=-1, side=256).shape == (256, 512, 3)


def test_a_model_that_sends_nothing_gets_nodes_without_edges():
    explanation = grid_explanation(stages=1)
    explanation.attention = torch.zeros(0, 4, 14, 14)
    assert num_stages(explanation) == 0
    assert near(draw_graph(FRAME, explanation, 0, 0), NODE_COLOURS[0]).sum() > 300


def test_the_key_has_one_picture_per_grid_and_writes_names():
    pictures = draw_node_key(np.zeros((64, 64, 3), dtype=np.uint8), grid_explanation(), side=300)
    assert len(pictures) == 3
    white = [int((p > 230).all(-1).sum()) for p in pictures]
    assert white[0] > white[1] > white[2] > 20  # 9, 4 and 1 names
