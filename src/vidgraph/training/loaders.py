"""From a data set to batches in an order that a position alone decides.

Training walks positions 0, 1, 2, ... without end. A position is a pass over the data set and a
place in that pass's shuffled order, so a training that continues at position p sees exactly what it
would have seen, whatever the number of workers or processes.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vidgraph.errors import RunError, VidgraphError
from vidgraph.records import ClipBatch

Collate = Callable[[list[Any]], ClipBatch]


class ClipSequence(Dataset[ClipBatch]):
    """Endless passes over a data set; asks for whole batches by position.

    Args:
        dataset: map-style. Its `__getitems__(indices)`, where it has one, returns a finished batch;
            otherwise samples are collated.
        collate: makes a batch of samples; unused where the data set makes batches itself.
        shuffle: each pass has its own order, drawn from (seed, pass).
        seed: of the orders.
    """

    def __init__(self, dataset: Any, collate: Collate | None, shuffle: bool, seed: int) -> None:
        self.dataset, self.collate, self.shuffle, self.seed = dataset, collate, shuffle, seed
        self._order: tuple[int, torch.Tensor] | None = None
        self._own_copy = False

    def __getitems__(self, positions: list[int]) -> ClipBatch | VidgraphError:
        # A worker process cannot raise an error with its message alone: torch would add the
        # worker's traceback. So it is handed over.
        try:
            return self.fetch(positions)
        except VidgraphError as error:
            return error

    def fetch(self, positions: list[int]) -> ClipBatch:
        """The batch at these positions."""
        if hasattr(self.dataset, "__getitems__"):
            batch: ClipBatch = self.dataset.__getitems__([self.place(p)[1] for p in positions])
            return batch
        if get_worker_info() is not None and not self._own_copy:
            self.dataset, self._own_copy = (
                copy.deepcopy(self.dataset),
                True,
            )  # workers can be in different passes; none may move another's
        samples = []
        for epoch, index in map(self.place, positions):
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            samples.append(self.dataset[index])
        assert self.collate is not None, "a data set of single samples needs a collate function"
        return self.collate(samples)

    def place(self, position: int) -> tuple[int, int]:
        """The pass that a position falls in, and the row of the data set."""
        epoch, index = divmod(position, len(self.dataset))
        if not self.shuffle:
            return epoch, index
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
            self._order = (epoch, torch.randperm(len(self.dataset), generator=generator))
        return epoch, int(self._order[1][index])


class PositionBatches(Sampler[list[int]]):
    """Endless batches of positions from `first` on; process `rank` of `world_size` takes its share
    of every batch.
    """

    def __init__(self, first: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.first, self.batch_size, self.rank, self.share = (
            first,
            batch_size,
            rank,
            batch_size // world_size,
        )

    def __iter__(self) -> Iterator[list[int]]:
        start = self.first + self.rank * self.share
        while True:
            yield list(range(start, start + self.share))
            start += self.batch_size


class ClipLoader:
    """Iterates over batches, adds up the seconds spent waiting for them, and raises what a worker
    could not read.

    It has no length: training stops by its number of steps.
    """

    def __init__(
        self, sequence: ClipSequence, batches: Any, workers: int, pin_memory: bool
    ) -> None:
        self.wait_seconds = 0.0
        self._loader = DataLoader(
            sequence,
            batch_sampler=batches,
            collate_fn=_passthrough,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_interrupts,
            # its own, so that starting an iterator does not advance the training's random numbers
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[ClipBatch]:
        batches = iter(self._loader)
        while True:
            start = time.perf_counter()
            batch = _next(batches)
            self.wait_seconds += time.perf_counter() - start
            if batch is None:
                return
            if isinstance(batch, VidgraphError):
                raise batch
            yield batch


def validation_batches(
    num_clips: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Positions 0..num_clips-1 once, split over the processes."""
    mine = list(range(rank, num_clips, world_size))
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]


def _next(batches: Iterator[Any]) -> Any:
    """The next batch, or None at the end."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        raise killed_worker(error) or error from error


def killed_worker(error: RuntimeError) -> RunError | None:
    """What to tell the user if torch reports that a worker process is gone, which it may do from
    any line; None for other errors.
    """
    if "DataLoader worker" not in str(error) or "Caught" in str(error):
        return None
    return RunError(
        "a data worker was killed, most likely for lack of memory; lower train.workers or "
        "train.batch_size, then --resume"
    )


def _passthrough(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the training process alone decides how to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
