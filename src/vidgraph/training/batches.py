"""Training batches in an order that a position alone decides.

Training walks positions 0, 1, 2, ... without end. A position is a pass over the data set and an
index into that pass's shuffled order, so a training that continues at position p sees exactly what
it would have seen, whatever the number of workers or processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from vidgraph.records import ClipBatch


class ClipSequence(Dataset[ClipBatch]):
    """Endless passes over a map-style data set of `ClipBatch`es, batch by batch by position.

    Each pass has its own order, drawn from (seed, pass), if `shuffle`. A data set may make whole
    batches by `__getitems__(indices)`, or hear of the pass by `set_epoch(epoch)` before each clip.
    """

    def __init__(self, dataset: Any, shuffle: bool, seed: int) -> None:
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed

    def __getitems__(self, positions: list[int]) -> ClipBatch:
        located = [self.locate(position) for position in positions]
        if hasattr(self.dataset, "__getitems__"):
            return cast(ClipBatch, self.dataset.__getitems__([index for _, index in located]))
        clips = []
        for epoch, index in located:
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            clips.append(self.dataset[index])
        return ClipBatch.joined(clips)

    def locate(self, position: int) -> tuple[int, int]:
        """The pass that a position falls in, and the row of the data set."""
        epoch, index = divmod(position, len(self.dataset))
        if self.shuffle:
            index = int(_order(len(self.dataset), (self.seed << 32) + epoch)[index])
        return epoch, index


@lru_cache(maxsize=2)  # a batch may reach into the next pass
def _order(length: int, seed: int) -> torch.Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))


def position_batches(
    first: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[list[int]]:
    """Endless batches of positions from `first` on; each process takes its share."""
    share = batch_size // world_size
    while True:
        yield list(range(first + rank * share, first + (rank + 1) * share))
        first += batch_size
