"""Files of scores: what comes back, what other programs may write, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.evaluation.metrics import SOFTMAXED, Scores, load_scores, save_scores

RNG = np.random.default_rng(0)
CLASSES = ["run", "jump|high", "c002 stehen, größer"]


def scored(labels: np.ndarray) -> Scores:
    probabilities = RNG.random((len(labels), 3)).astype(np.float32)
    names = [f"videos/{i}.mp4" for i in range(len(labels))]
    return Scores(probabilities, labels, CLASSES, names, np.arange(0, 2 * len(labels), 2), 3)


@pytest.mark.parametrize(
    "labels",
    [RNG.integers(3, size=20), (RNG.random((20, 3)) < 0.5).astype(np.float32)],
    ids=["single", "multi"],
)
def test_what_was_written_comes_back(tmp_path: Path, labels: np.ndarray) -> None:
    scores = scored(labels)
    save_scores(tmp_path / "scores.npz", scores)
    again = load_scores(tmp_path / "scores.npz")
    assert again.to_dict() == scores.to_dict()
    assert (again.names, again.class_names, again.notes) == (scores.names, CLASSES, ())
    for name in ("probabilities", "labels", "indices"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scores, name))
        assert getattr(again, name).dtype == getattr(scores, name).dtype


def test_other_programs_need_four_arrays_and_softmaxed_scores_are_told(tmp_path: Path) -> None:
    labels = (RNG.random((20, 3)) < 0.5).astype(int)
    logits = RNG.normal(size=(20, 3))
    names = np.array([str(i) for i in range(20)])
    arrays = {"labels": labels, "names": names, "class_names": np.array(CLASSES)}
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.savez(tmp_path / "softmax.npz", probabilities=softmax, **arrays)
    np.savez(tmp_path / "sigmoid.npz", probabilities=1 / (1 + np.exp(-logits)), **arrays)
    assert load_scores(tmp_path / "softmax.npz").notes == (SOFTMAXED,)
    sigmoid = load_scores(tmp_path / "sigmoid.npz")
    assert (sigmoid.notes, sigmoid.skipped, sigmoid.indices.tolist()) == ((), 0, list(range(20)))
    arrays["labels"] = labels.argmax(1)
    np.savez(tmp_path / "single.npz", probabilities=softmax, **arrays)
    assert load_scores(tmp_path / "single.npz").notes == ()  # there a softmax is right


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": None}, "is not a whole file of scores; it must hold probabilities, labels"),
        (
            {"probabilities": np.zeros((4, 2))},
            "of shape (4, 2) and labels of shape (4,), for 4 names and 3 class names",
        ),
        ({"probabilities": np.full((4, 3), np.nan)}, "the scores of some clips are not finite"),
        ({"labels": np.zeros(3, int)}, "labels of shape (3,), for 4 names and 3 class names"),
        ({"labels": np.array([0, 1, 2, 3])}, "labels must be whole numbers from 0 to 2"),
        ({"labels": np.array([0.5, 1, 2, 1])}, "labels must be whole numbers from 0 to 2"),
        ({"labels": np.full((4, 3), 2)}, "labels must be 0 or 1"),
        ({"names": np.array([{}] * 4, dtype=object)}, "is not a whole file of scores"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    arrays = {
        "probabilities": np.zeros((4, 3)),
        "labels": np.array([0, 1, 2, 1]),
        "names": np.array(list("abcd")),
        "class_names": CLASSES,
    }
    given = {name: value for name, value in (arrays | changed).items() if value is not None}
    np.savez(tmp_path / "scores.npz", **given)
    with pytest.raises(DataError) as caught:
        load_scores(tmp_path / "scores.npz")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip file")
    save_scores(tmp_path / "whole.npz", scored(np.array([0, 1, 2])))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    for name, message in (
        ("text", "is not a whole file of scores"),
        ("cut", "is not a whole file of scores"),
        ("absent", "cannot be read (No"),
    ):
        with pytest.raises(DataError, match=message.replace("(", r"\(")):
            load_scores(tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match=r"scores are written as \.npz; name it so"):
        save_scores(tmp_path / "scores.csv", scored(np.array([0, 1, 2])))
