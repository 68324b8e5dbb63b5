"""The order of clips is a function of the position alone."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from vidgraph.errors import VideoError, VidgraphError
from vidgraph.evaluation.inference import one_line_errors, read_batches, split_rows
from vidgraph.records import ClipBatch
from vidgraph.training.batches import ClipSequence, position_batches


class Rows:
    """A data set of single samples that remembers the pass; sample i of pass e has the value 100 e
    + i."""

    def __init__(self, length: int = 5, broken: int | None = None) -> None:
        self.length, self.broken, self.epoch = length, broken, 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, i: int) -> ClipBatch:
        if i == self.broken:
            raise VideoError(f"{i}.mp4", "is broken", frame=3)
        index = torch.tensor([100 * self.epoch + i])
        return ClipBatch(torch.zeros(1, 1, 1, 1, 1), index, index, index[:, None])


def _indices(
    first: int, workers: int, num_batches: int, rows: Rows | None = None
) -> list[list[int]]:
    sequence = ClipSequence(rows or Rows(), shuffle=True, seed=3)
    loader = read_batches(sequence, position_batches(first, 4), workers)
    return [batch.index.tolist() for batch in islice(loader, num_batches)]


def test_each_pass_shows_every_row_once_in_its_own_order() -> None:
    seen = [i for batch in _indices(0, 0, 5) for i in batch]
    passes = [seen[p : p + 5] for p in range(0, 20, 5)]
    rows = [sorted(i - 100 * e for i in part) for e, part in enumerate(passes)]
    assert rows == [[0, 1, 2, 3, 4]] * 4
    assert len({tuple(i % 100 for i in part) for part in passes}) > 1


def test_a_later_start_continues_the_same_order_with_any_number_of_workers() -> None:
    whole = _indices(0, 0, 12)
    assert _indices(16, 0, 8) == whole[4:]
    assert _indices(0, 2, 12) == whole  # two workers are in different passes at once


def test_processes_share_each_batch() -> None:
    whole = list(islice(position_batches(8, 4), 3))
    parts = [list(islice(position_batches(8, 4, rank, 2), 3)) for rank in (0, 1)]
    assert whole == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_validation_shows_every_clip_once_over_all_processes() -> None:
    assert split_rows(5, 2) == [[0, 1], [2, 3], [4]]
    shown = [i for rank in range(3) for rows in split_rows(7, 2, rank, 3) for i in rows]
    assert sorted(shown) == [*range(7)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_clip_raises_its_own_line(workers: int) -> None:
    with pytest.raises(VidgraphError) as caught, one_line_errors():
        _indices(0, workers, 3, Rows(broken=2))
    assert str(caught.value) == "2.mp4, frame 3: is broken"


def test_starting_a_loader_draws_no_random_number_of_the_training() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _indices(0, 0, 2)
    assert torch.equal(torch.rand(3), expected)
