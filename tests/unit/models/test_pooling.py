"""Windows of a map, against the mean of each part cut out by hand."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale

from vidgraph.models.pooling import window_means


@pytest.mark.parametrize("window", [None, (5, 7), (9, 9)])
def test_a_window_of_the_whole_map_is_its_mean(window: tuple[int, int] | None) -> None:
    features = torch.randn(2, 3, 4, 5, 7)
    assert_close_to_scale(window_means(features, window), features.mean(dim=(2, 3, 4))[:, None])


def test_windows_stand_one_cell_apart_row_by_row() -> None:
    features = torch.randn(2, 3, 4, 5, 7)
    parts = [
        features[..., y : y + 3, x : x + 6].mean(dim=(2, 3, 4)) for y in range(3) for x in range(2)
    ]
    assert_close_to_scale(window_means(features, (3, 6)), torch.stack(parts, dim=1))
