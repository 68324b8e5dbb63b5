"""The picture of a feature space: which classes, where their dots go, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgraph.errors import DataError
from vidgraph.visualize.embedding import chosen_classes, embed, embedding_chart, write_embedding


def clusters(num_classes: int = 3, each: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Classes that point in different directions."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), each)
    return np.eye(16)[labels] + 0.05 * rng.standard_normal((len(labels), 16)), labels


def test_samples_of_a_class_lie_together() -> None:
    features, labels = clusters()
    places = embed(features)
    assert places.shape == (36, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(1)] == labels).mean() == 1.0
    assert np.array_equal(places, embed(features))


def test_ten_classes_are_drawn_at_random_and_always_the_same() -> None:
    labels = np.repeat(np.arange(101), 2)
    chosen = chosen_classes(labels)
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen) == chosen_classes(labels)
    assert chosen != chosen_classes(labels, seed=1)
    assert chosen_classes(np.array([4, 2, 4])) == [2, 4]


def test_the_file_is_a_picture_with_every_class_in_its_colour(tmp_path: Path) -> None:
    features, labels = clusters()
    names = write_embedding(tmp_path / "out.png", features, labels, ["run", "jump", "sit"])
    assert names == ["run", "jump", "sit"]
    pixels = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (213, 94, 0), (0, 158, 115)):
        assert (np.abs(pixels - colour).max(-1) < 60).sum() > 100
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_dots_of_one_class_have_one_mark() -> None:
    features, labels = clusters(num_classes=8, each=3)
    chart = embedding_chart(embed(features), labels, [f"class {k}" for k in range(8)])
    assert Image.open(io.BytesIO(chart)).width > 700


def test_too_few_samples_and_several_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 samples"):
        write_embedding(tmp_path / "out.png", np.eye(4), np.arange(4), list("abcd"))
    with pytest.raises(DataError, match="several labels"):
        write_embedding(tmp_path / "out.png", np.eye(8), np.eye(8), list("abcdefgh"))
    assert list(tmp_path.iterdir()) == []
