"""Regions over frames: which trajectories and neighbours are found, and what is drawn where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import near

from vidgraph.records import Explanation, Prediction, RegionLinks
from vidgraph.visualize import regions as drawing
from vidgraph.visualize.overlay import write_overlay
from vidgraph.visualize.regions import (
    NEIGHBOUR_COLOUR,
    PROPOSAL_COLOUR,
    QUERY_COLOUR,
    TRACK_COLOURS,
    RegionPictures,
)
from vidgraph.visualize.report import write_report

STEPS, FRAMES = 3, 6


def moving_boxes() -> torch.Tensor:
    """Three steps of four boxes: the whole frame, one that moves to the right, one that stays, and
    one that is there at first only."""
    boxes = torch.zeros(STEPS, 4, 4)
    boxes[:, 0] = torch.tensor([0.0, 0, 1, 1])
    for step in range(STEPS):
        boxes[step, 1] = torch.tensor([0.1 + 0.05 * step, 0.1, 0.4 + 0.05 * step, 0.4])
    boxes[:, 2] = torch.tensor([0.6, 0.6, 0.9, 0.9])
    boxes[0, 3] = torch.tensor([0.62, 0.1, 0.9, 0.3])
    return boxes


def explanation(similar: bool = True, overlapping: bool = True) -> Explanation:
    """Box 3 exists at the first step only; the similarity graph is even but for box 1 of step 1,
    which looks at box 1 of steps 0 and 2."""
    boxes = moving_boxes()
    mask = torch.ones(STEPS, 4, dtype=torch.bool)
    mask[1:, 3] = False
    overlap = torch.zeros(STEPS, 4, 4)
    for step in range(STEPS - 1):
        for i in range(4):
            for j in range(4):
                pair = boxes[step, i].numpy(), boxes[step + 1, j].numpy()
                overlap[step, i, j] = drawing._iou(*pair)
    neighbours = torch.zeros(STEPS, 4, 2 if similar else 0, dtype=torch.int64)
    weights = torch.full(neighbours.shape, 0.1)
    if similar:
        neighbours[1, 1], weights[1, 1] = torch.tensor([9, 1]), torch.tensor([0.6, 0.3])
    similarity = (neighbours, weights, torch.full((STEPS,), 0.1))
    shown = (torch.tensor([0, 2, 4]), mask.float(), mask)
    links = RegionLinks(*shown, *similarity, overlap if overlapping else None)
    nobody, nothing = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(0, FRAMES, 4, 4)
    names = ("box 1", "box 2", "box 3", "box 4")
    return Explanation(boxes[[0, 0, 1, 1, 2, 2]], nobody, nothing, names, links)


def frames() -> np.ndarray:
    return np.zeros((FRAMES, 64, 64, 3), dtype=np.uint8)


def test_trajectories_follow_the_largest_overlap_and_leave_the_whole_frame_for_last() -> None:
    still, moving, whole = RegionPictures(explanation()).tracks
    assert still.nodes == ((0, 2), (1, 2), (2, 2))
    assert still.mean_iou == pytest.approx(1.0)
    assert moving.nodes == ((0, 1), (1, 1), (2, 1))
    assert moving.mean_iou == pytest.approx(0.25 / 0.35, abs=1e-6)
    assert whole.nodes == ((0, 0), (1, 0), (2, 0))


def test_boxes_of_higher_score_come_first() -> None:
    scored = explanation()
    assert scored.regions is not None
    scored.regions.scores[:, 2] = 0.5
    assert [track.nodes[0][1] for track in RegionPictures(scored).tracks] == [1, 2, 0]


def test_one_thing_is_followed_once() -> None:
    """A second box on the moving thing, nearly the same, is no trajectory of its own."""
    twin = explanation()
    assert twin.regions is not None
    assert twin.regions.overlap is not None
    twin.node_boxes_xyxy[:, 3] = twin.node_boxes_xyxy[:, 1] + 0.01
    twin.regions.mask[:], twin.regions.scores[:] = True, 1.0
    twin.regions.overlap[0, 3, 3] = twin.regions.overlap[1, 3, 3] = 0.95
    tracks = RegionPictures(twin).tracks
    assert sorted(track.nodes[0][1] for track in tracks) == [0, 2, 3]


def test_queries_are_those_whose_attention_is_least_even() -> None:
    first, second, _ = RegionPictures(explanation()).queries
    assert first.node == (1, 1)
    assert first.neighbours == ((2, 1), (0, 1))
    assert first.weights == pytest.approx((0.6, 0.3))
    assert first.even == pytest.approx(0.1)
    assert second.node[0] != 1


def test_a_graph_that_the_model_has_not_is_not_drawn() -> None:
    assert RegionPictures(explanation(overlapping=False)).tracks == []
    assert RegionPictures(explanation(similar=False)).queries == []


def test_similar_regions_are_blue_and_the_query_orange_in_their_own_frames() -> None:
    pictures = RegionPictures(explanation())
    drawn = pictures.query(frames(), pictures.queries[0], side=400)
    assert [t for _, t in drawn] == [0, 2, 4]
    left = [int(400 * x) for x in (0.1, 0.15, 0.2)]  # of the moving box in each step
    colours = (NEIGHBOUR_COLOUR, QUERY_COLOUR, NEIGHBOUR_COLOUR)
    for (picture, _), x, colour in zip(drawn, left, colours, strict=True):
        assert near(picture[60:140, x - 1 : x + 4], colour).any(1).all()
        other = QUERY_COLOUR if colour is NEIGHBOUR_COLOUR else NEIGHBOUR_COLOUR
        assert not near(picture, other).any()
        # The box that stays, faint.
        assert near(picture[260:340, 238:244], PROPOSAL_COLOUR, 140).any(1).all()


def test_a_box_that_does_not_exist_is_not_drawn() -> None:
    bare = explanation(similar=False, overlapping=False)
    pictures = RegionPictures(bare)
    there, gone = (pictures.over_frame(frames()[0], t, side=400)[60:100, 244:252] for t in (0, 2))
    assert there.any()
    assert not gone.any()


def test_trajectories_over_a_frame_and_in_a_strip() -> None:
    pictures = RegionPictures(explanation())
    picture = pictures.over_frame(frames()[0], 4, side=400)
    # Where the moving box is now, and the way that it came, from 0.25 to 0.35.
    assert near(picture[60:140, 78:86], TRACK_COLOURS[1]).any(1).all()
    assert near(picture[96:104, 100:140], TRACK_COLOURS[1]).any(0).all()
    strip = pictures.strip(frames(), side=200)
    assert strip.shape == (200, 3 * 200 + 2 * 6, 3)
    for column, left in enumerate((0.1, 0.15, 0.2)):
        x = round(column * 206 + 200 * left)
        # But where an arrow crosses.
        assert near(strip[30:70, x - 1 : x + 4], TRACK_COLOURS[1]).any(1).mean() > 0.8
    between = strip[40:60, 200:206]
    assert near(between, TRACK_COLOURS[1]).any()  # an arrow from frame to frame


def prediction(what: Explanation) -> Prediction:
    probabilities = torch.tensor([0.7, 0.3])
    return Prediction("clip.mp4", ["push", "pull"], probabilities, [0, 3, 6, 9, 12, 15], what)


def report(folder: Path, what: Explanation) -> str:
    """The text of its report, on one line."""
    write_report(folder / "report.html", prediction(what), frames())
    return " ".join((folder / "report.html").read_text(encoding="utf-8").split())


def test_report_tells_trajectories_and_neighbours(tmp_path: Path) -> None:
    text = report(tmp_path, explanation())
    assert "The nodes of the graph are 10 boxes in 3 frames, 3 to 4 in each." in text
    assert "trajectory 3</td>" in text
    assert ">0 to 12</td>" in text
    weights = "its most similar regions weigh 0.6000, 0.3000; an even share is 0.1000."
    assert f"A region of frame 6: {weights}" in text
    assert "Attention is nearly even" not in text
    text = report(tmp_path, explanation(similar=False, overlapping=False))
    assert "The regions" in text
    assert "similar" not in text
    assert "trajector" not in text


def test_boxes_that_go_nowhere_are_said_to(tmp_path: Path) -> None:
    apart = explanation(similar=False)
    assert apart.regions is not None
    assert apart.regions.overlap is not None
    apart.regions.overlap[apart.regions.overlap > 0] = 0.29
    assert "so there are no trajectories to draw" in report(tmp_path, apart)


@pytest.mark.parametrize(
    "parts", [{}, {"overlapping": False}, {"similar": False, "overlapping": False}]
)
def test_overlay_is_written_with_a_key_of_its_boxes(tmp_path: Path, parts: dict[str, bool]) -> None:
    import av

    answer, how = prediction(explanation(**parts)), {"frame_numbers": [0, 3, 6, 9, 12, 15]}
    write_overlay(tmp_path / "overlay.mp4", frames(), answer, fps=5, **how)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == FRAMES
    key = pictures[0][340:400, 512:550]  # beside the picture, in front of the words
    assert near(key, PROPOSAL_COLOUR).any()
    assert near(key, QUERY_COLOUR).any() == (parts == {"overlapping": False})
