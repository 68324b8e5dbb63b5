"""The run folder: its lock, `last.ckpt`, `metrics.csv`. Every file is written whole or not at
all.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidgraph.errors import RunError, WeightsError
from vidgraph.util import whole_file

CHECKPOINT = "last.ckpt"
METRICS = "metrics.csv"
COLUMNS = (
    "clips",
    "seconds",
    "train_loss",
    "train_accuracy",
    "lr",
    "clips_per_second",
    "data_wait",
    "val_loss",
    "val_accuracy",
    "val_map",
)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the folder for this process. The lock of a process that no longer lives is taken over.

    Raises:
        RunError: another training is in the folder, or the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(path)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used as a run folder: {error.strerror or error}"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _raise_if_alive(path)
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "started": _start_of(os.getpid()),
                },
                file,
            )
        return


def _raise_if_alive(path: Path) -> None:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, host, started = int(holder["pid"]), holder["host"], holder["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # cut short by a crash while it was written
    if host != socket.gethostname():
        raise RunError(
            f"{path.parent} is in use by process {pid} on {host}; if that is over, delete {path}"
        )
    if (
        _is_alive(pid) and _start_of(pid) == started
    ):  # process numbers are used again, start times are not
        raise RunError(
            f"{path.parent} is in use by another training (process {pid}); choose another --out "
            "or stop that one"
        )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since boot; None where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def save_checkpoint(content: Mapping[str, Any], folder: Path) -> None:
    """Writes `last.ckpt`; what stood there before survives a full disk or a kill.

    Raises:
        RunError: it cannot be written.
    """
    path = folder / CHECKPOINT
    with whole_file(path) as temporary:
        try:
            torch.save(dict(content), temporary)
        except RuntimeError as error:  # torch's own writer hides the system's reason
            raise RunError(
                f"{path}: cannot be written (is the disk full?); an older file there is intact"
            ) from error


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Reads `last.ckpt`: tensors and plain values only, no code runs.

    Raises:
        WeightsError: it is truncated, or not a checkpoint of ours.
    """
    path = folder / CHECKPOINT
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: cannot be read, it is truncated or not a checkpoint; start again in another "
            "--out"
        ) from error
    if not isinstance(content, dict) or content.get("format") != 1:
        raise WeightsError(
            f"{path}: not a training checkpoint of this version; start again in another --out"
        )
    return content


def check_matches(model: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises WeightsError, naming the first difference, if `state` is of another model."""
    mine = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            here, there = mine.get(name, "absent"), theirs.get(name, "absent")
            raise WeightsError(
                f"{path} is of another model: {name} is {there} in the file and {here} in this "
                "model"
            )


def random_state() -> dict[str, Any]:
    """States of Python's, numpy's and torch's random numbers, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


class MetricsFile:
    """`metrics.csv`: one row per logging or validation point, added at once. Accuracies in percent,
    `data_wait` a share of 1.

    Args:
        path: the file.
        keep_until: rows past this many clips were written after the checkpoint that is continued
            from; they are dropped.
    """

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        kept = (
            [row for row in read_metrics(path) if int(row["clips"]) <= keep_until]
            if path.exists() and keep_until
            else []
        )
        with (
            whole_file(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, **values: float | None) -> None:
        texts = {
            name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
            for name, value in values.items()
        }
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS, restval="").writerow(texts)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of `metrics.csv`; one that a crash cut short is left out."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            row
            for row in csv.DictReader(file)
            if all(row.get(name) is not None for name in COLUMNS) and row["clips"].isdigit()
        ]
