"""BN-Inception: parameters, shapes and outputs of the published network, odd sizes, gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from drawn import drawn
from torch import Tensor

from vidgraph.backbones.bn_inception import BNInception

GOLDEN = Path(__file__).parents[2] / "golden" / "bn_inception_cadene.npz"
HEAD = "last_linear."


def published() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights without the classifier, an image, and its map."""
    with np.load(GOLDEN) as stored:
        rows = zip(stored["names"].tolist(), stored["shapes"].tolist(), strict=True)
        weights = {
            name: drawn(name, tuple(map(int, shape.split())))
            for name, shape in rows
            if not name.startswith(HEAD)
        }
        image = np.random.RandomState(0).uniform(-2, 2, (1, 3, *stored["image"])).astype(np.float32)
        return weights, torch.from_numpy(image), torch.from_numpy(stored["map"])[None]


def test_map_is_that_of_the_published_network() -> None:
    """Under its own names: nothing is renamed."""
    weights, image, expected = published()
    network = BNInception()
    network.load_state_dict(weights)
    assert expected.std() > 0.1
    with torch.no_grad():
        assert_close_to_scale(network.eval()(image), expected, rel=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (75, 64), (65, 97), (112, 150), (33, 40)])
def test_any_size_gives_a_map(size: tuple[int, int]) -> None:
    """The published network stops at sizes whose eighth or sixteenth is odd."""
    with torch.device("meta"):
        map_size = BNInception()(torch.empty(1, 3, *size)).shape[2:]
    assert all(
        pixels // 32 <= cells <= -(-pixels // 32)
        for pixels, cells in zip(size, map_size, strict=True)
    )
