"""The grid of RSTG: hand-computed cases, the authors' filters, laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidgraph.models import grid

SCALES = (3, 2, 1)
GOLDEN = Path(__file__).parents[2] / "golden"


def test_area_weights_by_hand():
    rows = grid.area_weights(14, 3)
    assert torch.allclose(rows[0, :6] * 14, torch.tensor([3.0, 3, 3, 3, 2, 0], dtype=torch.float64))
    middle = torch.tensor([1.0, 3, 3, 3, 3, 1], dtype=torch.float64)
    assert torch.allclose(rows[1, 4:10] * 14, middle)
    # Upwards: pixel 4 of 14 straddles the first two of three cells, two thirds in the first.
    straddling = torch.tensor([2 / 3, 1 / 3, 0], dtype=torch.float64)
    assert torch.allclose(grid.area_weights(3, 14)[4], straddling)


def test_area_resize_equals_the_authors_filters_and_results():
    golden = np.load(GOLDEN / "area_resize.npz")
    names = [name for name in golden.files if name.startswith("filters_")]
    assert len(names) == 42
    for name in names:
        source, target = (int(part) for part in name.removeprefix("filters_").split("_to_"))
        weights = grid.area_weights(source, target)
        filters = torch.kron(weights, weights).reshape(target, target, source, source)
        np.testing.assert_allclose(filters.numpy(), golden[name], rtol=1e-5, atol=1e-5)
    for size in (5, 6, 8, 14, 16, 28, 32):
        image = torch.from_numpy(golden[f"img_{size}"]).flatten(1, 2)  # [B, H * W, C]
        nodes = grid.pooling_matrix(SCALES, size, size) @ image
        expected = [
            golden[f"down_{size}_to_{scale}"].reshape(len(image), scale * scale, -1)
            for scale in SCALES
        ]
        expected = np.concatenate(expected, axis=1)
        np.testing.assert_allclose(nodes.numpy(), expected, rtol=1e-5, atol=1e-5)
        back = grid.unpooling_matrix(SCALES, size, size) @ nodes
        summed = sum(
            golden[f"up_{scale}_to_{size}_of_down"].reshape(len(image), size * size, -1)
            for scale in SCALES
        )
        np.testing.assert_allclose(back.numpy(), summed, rtol=1e-5, atol=1e-5)


def test_adjacency_has_the_45_edges_of_the_spec():
    linked = grid.adjacency(SCALES)
    assert torch.equal(linked, linked.T)
    assert not linked.diagonal().any()
    assert int(linked.sum()) == 2 * 45
    assert int(linked[:9, :9].sum()) == 2 * 12
    assert int(linked[9:13, 9:13].sum()) == 2 * 4
    assert int(linked[9:13, :9].sum()) == 16
    assert linked[13, :13].all()
    assert not linked[0, 4]  # touch at a corner only


def test_adjacency_and_positions_equal_the_authors():
    golden = np.load(GOLDEN / "graph_simple_pos1_scalewise0.npz")
    np.testing.assert_array_equal(grid.adjacency(SCALES).numpy(), golden["adjacency_used"][0])
    maps = grid.position_maps(SCALES).numpy()
    np.testing.assert_allclose(maps, golden["positional_emb"], atol=1e-6)


def test_position_maps_reject_a_scale_finer_than_the_map():
    with pytest.raises(ValueError, match="7 x 7"):
        grid.position_maps((7, 1))


def test_node_boxes_tile_the_frame_per_scale():
    boxes = grid.node_boxes(SCALES)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    covered = torch.stack([part.sum() for part in area.split([9, 4, 1])])
    assert torch.allclose(covered, torch.ones(3))
    assert boxes[5].tolist() == pytest.approx([2 / 3, 1 / 3, 1, 2 / 3])  # row 1, column 2 of 3
    assert grid.node_names(SCALES)[5] == "3x3 (1, 2)"


def test_a_map_to_nodes_and_back_for_the_kept_size_and_for_others() -> None:
    """The matrices of the declared size are kept on the module's device; none is made anew."""
    layer = grid.Grid(SCALES, (6, 8))
    kept = torch.randn(2, 3, 4, 6, 8)
    nodes = layer.pool(kept)
    assert torch.allclose(nodes[:, :, 13], kept.mean(dim=(3, 4)).transpose(1, 2), atol=1e-6)
    assert layer.means(kept) is layer.pooling
    doubled = kept.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(layer.pool(doubled), nodes, atol=1e-6)
    whole = torch.zeros(1, 4, 14, 3)
    whole[:, :, 13] = 1.0
    for height, width in ((6, 8), (9, 5)):
        assert torch.allclose(layer.paint(whole, height, width), torch.ones(1, 3, 4, height, width))
