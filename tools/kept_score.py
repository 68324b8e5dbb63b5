"""`test.json` in a run folder: the score on the test split, kept so that it is scored once."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import vidgraph
from vidgraph.doctor import describe_hardware
from vidgraph.errors import RunError
from vidgraph.evaluation.metrics import Scores
from vidgraph.util import write_json
from vidgraph.weights import WEIGHTS_FILE

KEPT_SCORE = "test.json"


@dataclass(frozen=True)
class KeptScore:
    """What `test.json` holds.

    Attributes:
        measured_on: the data and split in words.
        accuracy: top-1 (multi-label: mAP) in percent.
        ci95: its 95 % interval.
        scores: everything that `eval --json` says.
        labels: sha256 of the clips' labels in their order.
        weights: sha256 of the weights file.
        hardware: what it was trained and scored on.
        commit: of the code, or None outside of a checkout.
        correct: one "1" or "0" per clip in the order of the split; None where clips have several
            labels each.
    """

    measured_on: str
    accuracy: float
    ci95: tuple[float, float]
    scores: dict[str, Any]
    labels: str
    weights: str
    hardware: str
    commit: str | None
    correct: str | None = field(repr=False)

    def correct_clips(self) -> np.ndarray | None:
        """1.0 for each clip that was right, 0.0 for the others and for each that was skipped,
        float64 [n + skipped]."""
        if self.correct is None:
            return None
        right = [float(letter) for letter in self.correct]
        return np.array(right + [0.0] * self.scores["skipped"])


def keep_score(folder: Path, scores: Scores, measured_on: str) -> KeptScore:
    """Writes `test.json`, whole or not at all."""
    single = scores.labels.ndim == 1
    kept = KeptScore(
        measured_on=measured_on,
        accuracy=scores.accuracy,
        ci95=scores.accuracy_ci95,
        scores=scores.to_dict(),
        labels=hashlib.sha256(np.ascontiguousarray(scores.labels).tobytes()).hexdigest(),
        weights=_weights_hash(folder),
        hardware=describe_hardware(),
        commit=code_commit(),
        correct="".join("01"[int(right)] for right in scores.correct) if single else None,
    )
    write_json(folder / KEPT_SCORE, asdict(kept))
    return kept


def load_score(folder: Path) -> KeptScore | None:
    """Reads `test.json`; None where the test split has not been scored yet.

    Raises:
        RunError: it cannot be read, or belongs to other weights than those in the folder.
    """
    path = folder / KEPT_SCORE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = KeptScore(**{**content, "ci95": tuple(content["ci95"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{path}: is not a whole score file; delete it to score the test split again"
        ) from error
    if kept.weights != _weights_hash(folder):
        others = f"is the score of other weights than {WEIGHTS_FILE} beside it"
        raise RunError(f"{path}: {others}; delete it to score these")
    return kept


def _weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def code_commit() -> str | None:
    """Short commit of the checkout that the package runs from, with "-dirty" if it was changed
    since; None outside of one."""
    package = Path(vidgraph.__file__)
    if _git(package.parent, "ls-files", "--error-unmatch", package.name) is None:
        # installed, perhaps inside somebody else's repository: its commit would say nothing
        return None
    commit = _git(package.parent, "rev-parse", "--short=12", "HEAD")
    changed = _git(package.parent, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
