"""The heads that are tried on one's own clips: plain ones, which a graph has to beat, and a graph.

Shapes: n clips, D channels, T steps of the map, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgraph.data.grouping import Splits, grouped_folds
from vidgraph.errors import RunError
from vidgraph.evaluation.metrics import clustered_interval
from vidgraph.models.base import HeadInput
from vidgraph.models.probes import StatisticsOptions, TemporalTransformerOptions
from vidgraph.models.rstg import RSTGOptions
from vidgraph.precompute.run import WorkerDied, parallel_map
from vidgraph.training.frozen import (
    FrozenClips,
    HeadTraining,
    TrainedHead,
    head_logits,
    train_and_choose,
    train_head,
)
from vidgraph.util import atomic_write, available_cores, counter

NUM_SEEDS = 3
CELLS = 3  # heads are trained on the means of 3 x 3 equal parts of each map

_USUAL = HeadTraining()


@dataclass(frozen=True)
class HeadPlan:
    """A head that is tried.

    Attributes:
        name: for people.
        kind: whether it reasons over a graph.
        head: its options.
        how: it is trained.
        cells: it sees the parts of the map, not only its mean.
    """

    name: str
    kind: Literal["baseline", "graph"]
    head: StatisticsOptions | TemporalTransformerOptions
    how: HeadTraining = _USUAL
    cells: bool = False


_GRAPH = RSTGOptions(
    width=64,
    scales=(CELLS, 1),
    num_stages=1,
    mask_non_edges=True,
    position_maps=True,
    norm="layer",
)
PLANS = (
    HeadPlan("mean + linear", "baseline", StatisticsOptions(deviation=False, dropout=0.5)),
    HeadPlan("mean and deviation + linear", "baseline", StatisticsOptions(dropout=0.5)),
    HeadPlan(
        "mean, deviation and change + linear",
        "baseline",
        StatisticsOptions(change=True, dropout=0.5),
    ),
    HeadPlan(
        "temporal transformer",
        "baseline",
        TemporalTransformerOptions(dropout=0.5),
        HeadTraining(lr=3e-4, weight_decay=0.3, max_epochs=30),
    ),
    HeadPlan(
        "mean, deviation, change and RSTG",
        "graph",
        StatisticsOptions(change=True, dropout=0.5, rstg=_GRAPH),
        HeadTraining(lr=3e-4, max_epochs=20, patience=5),
        cells=True,
    ),
)


@dataclass(frozen=True)
class HeadResult:
    """How a head did.

    Attributes:
        plan: the head.
        val_accuracy: share of validation clips, by the mean of the seeds' logits; None: there are
            none.
        test_accuracy: likewise of test clips; in cross-validation of all clips.
        interval: its 95 %, groups drawn anew.
        trained: one per seed and round of cross-validation, rounds of a seed together.
        test_logits: of the tested clips, mean of the seeds, [n, K].
        seconds: of all its trainings, one after another.
    """

    plan: HeadPlan
    val_accuracy: float | None
    test_accuracy: float
    interval: tuple[float, float]
    trained: list[list[TrainedHead]]
    test_logits: Tensor
    seconds: float

    @property
    def epochs(self) -> list[list[int]]:
        """That were chosen, by seed and round."""
        return [[head.epochs for head in rounds] for rounds in self.trained]


def tested(splits: Splits) -> Tensor:
    """The rows of the clips that are tested, [n]: round after round."""
    return torch.cat([rows["test"] for rows in splits.rounds])


def learnt(splits: Splits) -> Tensor:
    """The rows of the clips that the recogniser is trained on in the end, [n]."""
    parts = [rows[name] for rows in splits.rounds for name in ("train", "val") if name in rows]
    return torch.unique(torch.cat(parts))


@dataclass(frozen=True)
class Part:
    """One training: a head, with one seed, in one round."""

    plan: HeadPlan
    rows: dict[str, Tensor]
    seed: int
    clips: Path  # file of all clips
    kept: Path  # file of what is trained


def train_part(part: Part) -> TrainedHead:
    """Trains it, or reads what was trained before."""
    torch.set_num_threads(1)  # parts are trained side by side
    clips = read_clips(part.clips, part.plan.cells)
    build = partial(part.plan.head.build, maps_of(clips))
    return train_and_choose(build, clips, part.rows, part.plan.how, part.seed, part.kept)


def save_clips(clips: FrozenClips, file: Path) -> None:
    """Writes clips for the processes that train on them."""
    with atomic_write(file) as temporary:
        tensors = {"features": clips.features, "labels": clips.labels}
        temporary.write_bytes(safetensors.torch.save(tensors))


@lru_cache(maxsize=2)
def read_clips(file: Path, cells: bool) -> FrozenClips:
    """Clips as `save_clips` wrote them; without `cells`, their pooled maps."""
    clips = FrozenClips(**safetensors.torch.load_file(file))
    return clips if cells else clips.pooled()


def try_heads(
    plans: Sequence[HeadPlan],
    splits: Splits,
    clips: FrozenClips,
    seed: int,
    folder: Path,
    workers: int | None = None,
) -> list[HeadResult]:
    """Trains heads with every seed in every round; what an earlier call has done is read.

    Args:
        plans: the heads.
        splits: of the clips.
        clips: the means of 3 x 3 parts of their maps.
        seed: first of `NUM_SEEDS`.
        folder: where what is trained is kept.
        workers: processes; None: one per core.
    """
    parts = {
        (plan.name, number, round_number): Part(
            plan,
            rows,
            seed * NUM_SEEDS + number,
            folder / "clips.safetensors",
            folder / f"{plan.name.replace(' ', '-')}-{number}-{round_number}.safetensors",
        )
        for plan in plans
        for number in range(NUM_SEEDS)
        for round_number, rows in enumerate(splits.rounds)
    }
    save_clips(clips, folder / "clips.safetensors")
    trained, keys = dict[tuple[str, int, int], TrainedHead](), list(parts)
    with counter("trainings") as progress:
        found = parallel_map(train_part, [*parts.values()], workers=workers or available_cores())
        for done, (index, head) in enumerate(found, start=1):
            if isinstance(head, WorkerDied):
                raise RunError(f"{parts[keys[index]].kept.stem}: {head}; call it with --resume")
            trained[keys[index]] = head
            progress(done, len(parts))
    (folder / "clips.safetensors").unlink()
    rounds = range(len(splits.rounds))
    return [
        _result(
            plan,
            [[trained[plan.name, number, i] for i in rounds] for number in range(NUM_SEEDS)],
            splits,
            clips.labels,
        )
        for plan in plans
    ]


def _result(
    plan: HeadPlan, trained: list[list[TrainedHead]], splits: Splits, labels: Tensor
) -> HeadResult:
    """How the mean of the seeds does."""
    logits = {part: _mean_logits(trained, part) for part in ("val_logits", "test_logits")}
    test, val = tested(splits), None
    right = logits["test_logits"].argmax(1) == labels[test]
    groups = splits.frame["group"].to_numpy()[test.numpy()]
    if all("val" in rows for rows in splits.rounds):
        asked = labels[torch.cat([rows["val"] for rows in splits.rounds])]
        val = float((logits["val_logits"].argmax(1) == asked).float().mean())
    return HeadResult(
        plan,
        val,
        float(right.float().mean()),
        clustered_interval(right.numpy(), groups),
        trained,
        logits["test_logits"],
        sum(head.seconds for rounds in trained for head in rounds),
    )


def final_states(result: HeadResult, clips: FrozenClips, seed: int) -> list[dict[str, Tensor]]:
    """The tensors of the heads that are kept, one per seed: after cross-validation they are trained
    once more, on all clips, for as long as the rounds took on average.
    """
    if len(result.trained[0]) == 1:
        return [rounds[0].state for rounds in result.trained]
    plan, states = result.plan, []
    seen = clips if plan.cells else clips.pooled()
    build = partial(plan.head.build, maps_of(clips))
    for number, epochs in enumerate(result.epochs):
        mean, rows = round(sum(epochs) / len(epochs)), torch.arange(len(clips))
        head, _ = train_head(build, seen, rows, plan.how, seed * NUM_SEEDS + number, epochs=mean)
        states.append(dict(head.state_dict()))
    return states


def out_of_fold(
    result: HeadResult, clips: FrozenClips, rows: Tensor, groups: NDArray[np.str_], seed: int
) -> Tensor:
    """Logits of some clips by heads that saw no clip of their group, [n, K]: one head a fold."""
    plan, labels = result.plan, clips.labels[rows].numpy()
    seen = clips if plan.cells else clips.pooled()
    build = partial(plan.head.build, maps_of(clips))
    epochs = [number for rounds in result.epochs for number in rounds]
    folds = torch.from_numpy(grouped_folds(labels, groups[rows.numpy()], seed=seed))
    logits = torch.zeros(len(rows), len(clips.labels.unique()))
    with counter(f"folds of {plan.name}") as progress:
        for number, fold in enumerate(folds.unique(), start=1):
            train, left_out = rows[folds != fold], folds == fold
            mean = round(sum(epochs) / len(epochs))
            head, _ = train_head(build, seen, train, plan.how, seed, epochs=mean)
            logits[left_out] = head_logits(head, seen, rows[left_out])
            progress(number, len(folds.unique()))
    return logits


def maps_of(clips: FrozenClips) -> HeadInput:
    """What heads for such maps are built for."""
    return HeadInput(_Maps(clips.features.shape[2]), (CELLS, CELLS), int(clips.labels.max()) + 1)


def _mean_logits(
    trained: list[list[TrainedHead]], part: Literal["val_logits", "test_logits"]
) -> Tensor:
    """Of the seeds, the rounds one after another, [n, K]."""
    seeds = [torch.cat([getattr(head, part) for head in rounds]) for rounds in trained]
    return torch.stack(seeds).mean(dim=0)


class _Maps:
    """Stands for the backbone of maps that are there already; see `Backbone`."""

    stride = (1, 1, 1)

    def __init__(self, channels: int) -> None:
        self.out_channels = channels

    def __call__(self, clip: Tensor) -> Tensor:
        return clip
