"""Attention over frames: what is dark and what is warm, its figures, the overlay and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidgraph.records import Explanation, Prediction
from vidgraph.video.reader import open_video
from vidgraph.visualize.attention import AttentionPictures
from vidgraph.visualize.overlay import write_overlay
from vidgraph.visualize.report import write_report


def explanation() -> Explanation:
    """Even in the first frame; all on the cell of the second row and third column in the second."""
    maps = torch.full((2, 3, 4), 1 / 12)
    maps[1] = 0
    maps[1, 1, 2] = 1
    return Explanation.of_maps(maps)


def frames() -> np.ndarray:
    return np.full((2, 60, 80, 3), 200, dtype=np.uint8)


def test_even_attention_leaves_the_frame_as_it_is() -> None:
    pictures = AttentionPictures(explanation())
    drawn = pictures.over_frame(frames()[0], 0, side=60)
    assert drawn.shape == (60, 80, 3)
    assert np.abs(drawn.astype(int) - 200).max() <= 1
    assert pictures.scale == pytest.approx(12)


def test_attention_on_one_cell_is_warm_there_and_dark_elsewhere() -> None:
    drawn = AttentionPictures(explanation()).over_frame(frames()[1], 1, side=60).astype(int)
    centre, corner = drawn[30, 50], drawn[55, 5]  # the cell is rows 20 to 40, columns 40 to 60
    assert centre[0] > centre[2] + 60
    assert corner.tolist() == [70, 70, 70]  # 35 % of 200


def test_figures_of_a_map() -> None:
    pictures = AttentionPictures(explanation())
    assert pictures.spread(0) == pytest.approx(1.0)
    assert pictures.spread(1) == pytest.approx(1 / 12)
    assert pictures.peak(1) == pytest.approx((2.5 / 4, 1.5 / 3))
    weights = torch.tensor([[[0.5, 0.25], [0.125, 0.125]]])
    assert AttentionPictures(Explanation.of_maps(weights)).spread(0) == pytest.approx(2**1.75 / 4)


def test_nearly_even_attention_stays_faint() -> None:
    maps = torch.full((1, 2, 2), 0.25)
    maps[0, 0, 0], maps[0, 1, 1] = 0.26, 0.24
    pictures = AttentionPictures(Explanation.of_maps(maps))
    assert pictures.scale == 2.0
    assert np.abs(pictures.over_frame(frames()[0], 0, side=60).astype(int) - 200).max() <= 12


def test_overlay_and_report_show_it(tmp_path: Path) -> None:
    prediction = Prediction("clip.mp4", ["a", "b"], torch.tensor([0.7, 0.3]), [3, 9], explanation())
    write_overlay(tmp_path / "out.mp4", frames(), prediction, fps=2, frame_numbers=[3, 9], side=120)
    with open_video(tmp_path / "out.mp4") as video:
        even, pointed = video.read([0, video.num_frames - 1]).astype(int)
    assert even[100, 20].mean() > 180
    assert pointed[110, 10].mean() < 100
    write_report(tmp_path / "out.html", prediction, frames())
    text = (tmp_path / "out.html").read_text()
    assert "Where the model looks" in text
    assert "62 % from the left, 50 % from the top" in text
    assert "12.00" in text
    assert "nearly even" not in text
    prediction.explanation = Explanation.of_maps(torch.full((1, 3, 3), 1 / 9))
    prediction.frame_indices = [3]
    write_report(tmp_path / "even.html", prediction, frames()[:1])
    assert "nearly even" in (tmp_path / "even.html").read_text()


def test_maps_of_several_clips_follow_each_other() -> None:
    joined = Explanation.joined([explanation(), explanation()])
    assert joined.maps is not None
    assert joined.maps.shape == (4, 3, 4)
    assert joined.node_boxes_xyxy.shape == (4, 0, 4)
    assert joined.attention.shape == (0, 4, 0, 0)
