"""Our additions to RSTG: where a feature lies, how it changes, what the whole frame holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn

from vidgraph.errors import RecipeError
from vidgraph.models import grid
from vidgraph.models.rstg import RecurrentSpaceTimeGraph, RSTGOptions
from vidgraph.models.rstg_extras import NodeExtras, RSTGExtras, moment_matrices

SCALES = (3, 2, 1)


def created(features: Tensor, scales: tuple[int, ...] = (2, 1), **extras: bool) -> Tensor:
    """Nodes with extras, before they are brought to one scale."""
    size = (features.shape[3], features.shape[4])
    layer = NodeExtras(features.shape[1], RSTGExtras(**extras), scales, size)
    layer.standardise, plain = nn.Identity(), grid.Grid(scales, size)
    nodes = layer(plain.pool(features), features, plain.means(features))
    assert nodes.shape[-1] == layer.out_channels
    return nodes


@pytest.mark.parametrize("size", [6, 8, 14])
def test_first_moment_of_a_constant_and_of_one_bright_cell(size: int) -> None:
    horizontal, vertical = moment_matrices(SCALES, size, size)
    np.testing.assert_allclose((horizontal @ torch.ones(size * size)).numpy(), 0, atol=1e-6)
    # Its moment is its mean times its position inside the region.
    row, column = 1, size - 1
    image = torch.zeros(size, size)
    image[row, column] = 1.0
    mean = grid.pooling_matrix(SCALES, size, size)[-1] @ image.flatten()
    found = torch.stack([horizontal[-1], vertical[-1]]) @ image.flatten() / mean
    expected = torch.tensor([column + 0.5, row + 0.5]) / size * 2 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_centres_tell_the_position_of_a_feature_and_not_its_strength() -> None:
    for strength in (30.0, 300.0):
        features = torch.zeros(1, 1, 1, 4, 4)
        features[..., 0, 3] = strength
        mean, horizontal, vertical = created(features, moments=True)[0, 0].T  # [N] each
        assert_close_to_scale(mean, strength * torch.tensor([0, 1 / 4, 0, 0, 1 / 16]))
        # By hand, in halves of the frame: 3/4 from the middle of the frame, 1/4 from the middle of
        # the upper right quarter.
        for found, sign in ((horizontal, 1), (vertical, -1)):
            expected = sign * torch.tensor([0, 0.25, 0, 0, 0.75])
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_one_step_is_one_step_at_every_scale() -> None:
    features = torch.zeros(1, 1, 2, 8, 8)
    # Two cells to the right, one down, within the upper right quarter.
    features[0, 0, 0, 1, 4] = features[0, 0, 1, 2, 6] = 100.0
    nodes = created(features, moments=True, differences=True)  # [1, 2, N, 6]
    assert (nodes[0, 0, :, 3:] == 0).all()  # no past: no change
    step = torch.tensor([2 * 2 / 8, 1 * 2 / 8])
    for node in (1, 4):  # that quarter, and the frame
        torch.testing.assert_close(nodes[0, 1, node, 4:], step, atol=2e-3, rtol=0)


def test_context_is_what_the_node_of_the_whole_frame_holds() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 8, 8)
    own, nodes = (
        created(features, SCALES, moments=True, differences=True, context=context)
        for context in (False, True)
    )
    assert nodes.shape == (2, 4, 14, 36)
    assert_close_to_scale(nodes[..., :18], own)
    assert_close_to_scale(nodes[..., 18:], own[:, :, 13:].expand_as(own))


def test_context_needs_a_node_of_the_whole_frame() -> None:
    with pytest.raises(RecipeError, match="the last of scales is 1, not 2"):
        RSTGOptions(scales=(3, 2), extras=RSTGExtras(context=True))


def test_he_starts_what_a_relu_follows_larger_and_lets_an_lstm_remember() -> None:
    torch.manual_seed(0)
    plain, larger = (
        RecurrentSpaceTimeGraph(64, (6, 6), RSTGOptions(width=64, extras=RSTGExtras(he=he)))
        for he in (False, True)
    )
    for name, ratio in (("space.send.second", 2**0.5), ("space.attention.query", 1.0)):
        stds = [layer.get_submodule(name).weight.std().item() for layer in (plain, larger)]
        assert stds[1] / stds[0] == pytest.approx(ratio, abs=0.05)
    forget = [layer.time.lstm.bias_ih_l0.chunk(4)[1].unique().tolist() for layer in (plain, larger)]
    assert forget == [[0.0], [1.0]]
