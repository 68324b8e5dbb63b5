"""The order of clips is a function of the position alone."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from vidgraph.errors import DataError
from vidgraph.records import ClipBatch
from vidgraph.training.loaders import ClipLoader, ClipSequence, PositionBatches, validation_batches


class Rows:
    """A data set of single samples that remembers the pass; sample i of pass e has the value 100 e
    + i.
    """

    def __init__(self, length: int = 5, broken: int | None = None) -> None:
        self.length, self.broken = length, broken
        self.epoch = torch.zeros(
            (), dtype=torch.int64
        ).share_memory_()  # shared between workers, as table data sets are

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __getitem__(self, i: int) -> int:
        if i == self.broken:
            raise DataError(f"row {i} is broken")
        return 100 * int(self.epoch) + i


def _collate(samples: list[Any]) -> ClipBatch:
    index = torch.tensor(samples)
    return ClipBatch(
        torch.zeros(len(index), 1, 1, 1, 1, dtype=torch.uint8), index % 100, index, index[:, None]
    )


def _indices(
    first: int, workers: int, num_batches: int, rows: Rows | None = None
) -> list[list[int]]:
    sequence = ClipSequence(rows or Rows(), _collate, shuffle=True, seed=3)
    loader = ClipLoader(sequence, PositionBatches(first, 4), workers, pin_memory=False)
    return [batch.index.tolist() for batch in islice(loader, num_batches)]


def test_each_pass_shows_every_row_once_in_its_own_order() -> None:
    seen = [i for batch in _indices(0, 0, 5) for i in batch]
    passes = [seen[p : p + 5] for p in range(0, 20, 5)]
    assert [sorted(i - 100 * e for i in part) for e, part in enumerate(passes)] == [
        [0, 1, 2, 3, 4]
    ] * 4
    assert len({tuple(i % 100 for i in part) for part in passes}) > 1


def test_a_later_start_continues_the_same_order_with_any_number_of_workers() -> None:
    whole = _indices(0, 0, 12)
    assert _indices(16, 0, 8) == whole[4:]
    assert _indices(0, 2, 12) == whole  # two workers are in different passes at once


def test_processes_share_each_batch() -> None:
    whole = list(islice(PositionBatches(8, 4), 3))
    parts = [list(islice(PositionBatches(8, 4, rank, 2), 3)) for rank in (0, 1)]
    assert whole == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_validation_shows_every_clip_once_over_all_processes() -> None:
    assert validation_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert sorted(
        i for rank in range(3) for b in validation_batches(7, 2, rank, 3) for i in b
    ) == list(range(7))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_clip_raises_its_own_line(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        _indices(0, workers, 3, Rows(broken=2))
    assert str(caught.value) == "row 2 is broken"


def test_starting_a_loader_draws_no_random_number_of_the_training() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _indices(0, 0, 2)
    assert torch.equal(torch.rand(3), expected)
