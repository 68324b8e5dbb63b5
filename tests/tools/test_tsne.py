"""The picture of a feature space: which vectors are collected, which classes are drawn, where their
dots go, and what is refused.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from PIL import Image

from tsne import FeatureRecorder, chosen_classes, embed, embedding_chart, write_embedding
from vidgraph.errors import DataError
from vidgraph.evaluation.inference import evaluate
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.records import ClipBatch

SIDE = 32


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


def test_a_class_is_called_by_its_name_in_the_legend() -> None:
    features, labels = clusters(num_classes=8, each=3)
    wide, narrow = (
        Image.open(io.BytesIO(embedding_chart(embed(features), labels, [name] * 8)))
        for name in ("a name that takes much room", "a")
    )
    dark = [int((np.asarray(chart.convert("L")) < 60).sum()) for chart in (wide, narrow)]
    assert dark[0] > 1.5 * dark[1]


def test_too_few_samples_and_several_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 samples"):
        write_embedding(tmp_path / "out.png", np.eye(4), np.arange(4), list("abcd"))
    with pytest.raises(DataError, match="several labels"):
        write_embedding(tmp_path / "out.png", np.eye(8), np.eye(8), list("abcdefgh"))
    assert list(tmp_path.iterdir()) == []


def batch(model: VideoModel, rows: list[int], seed: int) -> ClipBatch:
    generator, spec, count = torch.Generator().manual_seed(seed), model.spec, len(rows)
    video = torch.randint(
        0, 256, (count, 3, spec.num_frames, SIDE, SIDE), dtype=torch.uint8, generator=generator
    )
    shape = (count, spec.num_frames, spec.num_stacks, 2 * spec.flow_length, SIDE, SIDE)
    flow = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    index = torch.tensor(rows)
    return ClipBatch(
        video, index % 3, index, torch.zeros(count, spec.num_frames, dtype=torch.int64), flow=flow
    )


def recorded(model: VideoModel, batches: list[ClipBatch]) -> tuple[torch.Tensor, np.ndarray]:
    recorder = FeatureRecorder()
    with recorder.watching(model):
        passing = recorder.passing(batches)
        scores = evaluate(model, passing, class_names=["a", "b", "c"], batch_size=2)
    assert scores.n == len({row for b in batches for row in b.index.tolist()})
    features, labels = recorder.features()
    return torch.from_numpy(features), labels


@torch.no_grad()
def test_views_of_a_sample_are_averaged_in_the_order_of_the_data_set() -> None:
    """A linear classifier of mean features gives the mean of the views' logits."""
    torch.manual_seed(0)
    model: Any = create_model("stpyramid_small", 3, input={"height": SIDE, "width": SIDE}).eval()
    torch.nn.init.normal_(model.classifier.weight)
    batches = [batch(model, [2, 0, 2], 0), batch(model, [1, 0], 1)]
    features, labels = recorded(model, batches)
    assert labels.tolist() == [0, 1, 2]
    logits = torch.cat([model(b.video, b.flow) for b in batches])
    expected = torch.stack([(logits[1] + logits[4]) / 2, logits[3], (logits[0] + logits[2]) / 2])
    assert_close_to_scale(model.classifier(features), expected, rel=1e-3)
    assert model._forward_hooks == model.classifier._forward_pre_hooks == {}


@torch.no_grad()
def test_streams_stand_side_by_side_and_frames_are_averaged() -> None:
    torch.manual_seed(0)
    size = {"height": SIDE, "width": SIDE, "num_frames": 2}
    model: Any = create_model("two_stream_small", 3, input=size).eval()
    own = batch(model, [0, 1], 0)
    features, _ = recorded(model, [own])
    heads = model.frames.head.classifier, model.flow.head.classifier
    for head in heads:
        torch.nn.init.normal_(head.weight)
    width, weight = heads[0].in_features, model.flow_weight
    scores = heads[0](features[:, :width]) + weight * heads[1](features[:, width:])
    assert_close_to_scale(scores / (1 + weight), model(own.video, own.flow), rel=1e-3)
