"""What a training keeps in its run folder: the lock, `last.ckpt`, `metrics.csv`. Files are written
whole or not at all.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from vidgraph.errors import RunError, WeightsError
from vidgraph.util import atomic_write, folder_lock

CHECKPOINT, METRICS = "last.ckpt", "metrics.csv"
FORMAT = 2
COLUMNS = (
    *("clips", "seconds", "train_loss", "train_accuracy", "lr", "clips_per_second", "data_wait"),
    *("val_loss", "val_accuracy", "val_map"),
)


def run_lock(folder: Path) -> AbstractContextManager[None]:
    """Holds a run folder for this process; see `folder_lock`."""
    taken = "is in use by another training; choose another --out or stop that one"
    return folder_lock(folder, "a run folder", taken)


def save_checkpoint(content: Mapping[str, Any], folder: Path) -> None:
    """Writes `last.ckpt`; what it held before survives a full disk or a kill."""
    path = folder / CHECKPOINT
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # torch's own writer hides the system's reason
            raise RunError(
                f"{path}: cannot be written (is the disk full?); an older file there is intact"
            ) from error


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Reads `last.ckpt`: tensors and plain values only, no code runs."""
    path, advice = folder / CHECKPOINT, "start again in another --out"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        problem = "cannot be read, it is truncated or not a checkpoint"
        raise WeightsError(f"{path}: {problem}; {advice}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a training checkpoint of this version; {advice}")
    return content


class MetricsFile:
    """`metrics.csv`: one row per logging or validation; percent, `data_wait` a share of 1.

    Rows past `clips_seen`, written after the checkpoint that is continued from, are dropped.
    """

    def __init__(self, folder: Path, clips_seen: int) -> None:
        self.path = path = folder / METRICS
        rows = read_metrics(path) if path.exists() and clips_seen else []
        with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["clips"]) <= clips_seen)

    def add(self, **values: float | None) -> None:
        texts = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
        try:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS, restval="").writerow(texts)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of `metrics.csv`; one that a crash cut short is left out."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in map(row.get, COLUMNS)]
    return [row for row in rows if row["clips"].isdigit()]
