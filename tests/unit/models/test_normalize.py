"""Pixels and flow to numbers: by hand, in both orders of channels, and under mirroring."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale

from vidgraph.models.normalize import FlowNorm, PixelNorm, caffe_pixels


def test_pixels_by_hand_in_both_types() -> None:
    norm = PixelNorm([0.5, 0.2, 0.0], [0.5, 0.1, 1.0])
    video = torch.tensor([255, 51, 102], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    assert norm(video).flatten().tolist() == pytest.approx([1, 0, 0.4])
    assert_close_to_scale(norm(video.float() / 255), norm(video))
    with pytest.raises(ValueError, match=r"takes clips \[B, 3, T, H, W\]"):
        norm(torch.zeros(1, 1, 1, 2, 2))


def test_caffe_pixels_are_blue_green_red_less_their_means() -> None:
    video = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    for given in (video, video.float() / 255):
        assert caffe_pixels()(given).flatten().tolist() == pytest.approx(
            [50 - 104, 100 - 117, 200 - 123], abs=1e-4
        )


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_flow_by_hand(kind: torch.dtype) -> None:
    flow = torch.tensor([0, 127, 128, 255]).to(kind)
    assert FlowNorm(std=1.0)(flow).tolist() == [-127.5, -0.5, 0.5, 127.5]
    assert FlowNorm(zero=128, std=1.0)(flow).tolist() == [-128, -1, 0, 127]
    assert FlowNorm()(flow).tolist() == pytest.approx(
        [-0.5 / 0.226, -0.5 / 57.63, 0.5 / 57.63, 0.5 / 0.226]
    )


def test_a_mirrored_field_is_the_negative_at_127_5_only() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(FlowNorm()(255 - levels), -FlowNorm()(levels))
    assert torch.equal(
        FlowNorm(zero=128, std=1)(255 - levels), -FlowNorm(zero=128, std=1)(levels) - 1
    )


def test_snippets_keep_their_shape() -> None:
    flow = torch.randint(0, 256, (2, 1, 3, 20, 4, 4), dtype=torch.uint8)
    assert FlowNorm()(flow).shape == flow.shape
    assert torch.equal(FlowNorm()(flow)[1, 0, 2], FlowNorm()(flow[1, 0, 2]))
