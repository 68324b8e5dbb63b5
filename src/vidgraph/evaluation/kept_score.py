"""`test.json` in a run folder: the score on the test split, kept so that the split is scored once.

It also holds which clips were right, for comparisons on the same clips, and what was scored: the
weights, the test clips, the code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidgraph.errors import RunError
from vidgraph.evaluation.metrics import Scores
from vidgraph.evaluation.results import code_commit, describe_hardware
from vidgraph.util import write_json

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
        float64 [n + skipped].
        """
        if self.correct is None:
            return None
        right = np.frombuffer(self.correct.encode("ascii"), np.uint8) == ord("1")
        return np.concatenate([right, np.zeros(self.scores["skipped"], bool)]).astype(np.float64)


def keep_score(folder: Path, weights_file: Path, scores: Scores, measured_on: str) -> KeptScore:
    """Writes `test.json`, whole or not at all."""
    kept = KeptScore(
        measured_on=measured_on,
        accuracy=scores.accuracy,
        ci95=scores.accuracy_ci95,
        scores=scores.to_dict(),
        labels=hashlib.sha256(np.ascontiguousarray(scores.labels).tobytes()).hexdigest(),
        weights=_file_hash(weights_file),
        hardware=describe_hardware(),
        commit=code_commit(),
        correct="".join("01"[int(right)] for right in scores.correct)
        if scores.labels.ndim == 1
        else None,
    )
    write_json(folder / KEPT_SCORE, asdict(kept))
    return kept


def kept_score(folder: Path, weights_file: Path) -> KeptScore | None:
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
    if kept.weights != _file_hash(weights_file):
        raise RunError(
            f"{path}: is the score of other weights than {weights_file.name} beside it; delete it "
            "to score these"
        )
    return kept


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
