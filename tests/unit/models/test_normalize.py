"""Pixels and flow to numbers: by hand, in both orders of channels, and under mirroring."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale

from vidgraph.models.normalize import NORMALIZE, Normalize, NormalizeOptions


def test_pixels_by_hand_in_both_types() -> None:
    norm = Normalize(NormalizeOptions((0.5, 0.2, 0.0), (0.5, 0.1, 1.0)))
    video = torch.tensor([255, 51, 102], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    assert norm(video).flatten().tolist() == pytest.approx([1, 0, 0.4])
    assert_close_to_scale(norm(video.float() / 255), norm(video))
    assert set(norm.state_dict()) == {"mean", "std"}  # saved with the weights


def test_caffe_takes_blue_green_red_less_their_means() -> None:
    video = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    for given in (video, video.float() / 255):
        found = Normalize("caffe")(given).flatten().tolist()
        assert found == pytest.approx([50 - 104, 100 - 117, 200 - 123], abs=1e-4)


def test_statistics_of_published_weights() -> None:
    grey = torch.full((1, 3, 2, 4, 4), 0.45)
    assert Normalize("kinetics")(grey).abs().max() == 0
    by_hand = (0.45 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert_close_to_scale(Normalize("imagenet")(grey)[0, :, 0, 0, 0], by_hand)
    assert all(len(how.mean) == len(how.std) for how in NORMALIZE.values())


@pytest.mark.parametrize("unit", [False, True])
def test_flow_by_hand_from_levels_and_from_0_to_1(unit: bool) -> None:
    """A float means 0 to 1 for flow as for pixels, and never levels."""
    levels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 1, 1, 4, 1, 1)
    flow = levels.float() / 255 if unit else levels
    from_128 = Normalize(NormalizeOptions((128 / 255,), (1 / 255,)))
    for norm, expected in (
        (Normalize("caffe_flow"), [-127.5, -0.5, 0.5, 127.5]),
        (from_128, [-128, -1, 0, 127]),
        (Normalize("flow"), [-0.5 / 0.226, -0.5 / 57.63, 0.5 / 57.63, 0.5 / 0.226]),
    ):
        assert norm(flow).shape == levels.shape
        assert norm(flow).flatten().tolist() == pytest.approx(expected, abs=2e-5)


def test_a_mirrored_field_is_the_negative() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256, 1, 1)
    assert_close_to_scale(Normalize("flow")(255 - levels), -Normalize("flow")(levels))
