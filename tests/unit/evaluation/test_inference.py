"""Multi-view evaluation of a small real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn

from vidgraph.errors import DataError
from vidgraph.evaluation.inference import evaluate, fuse_views, view_scores
from vidgraph.evaluation.metrics import SOFTMAXED
from vidgraph.models.base import VideoModel
from vidgraph.records import ClipBatch, InputSpec

CLASSES = ["left", "right", "up"]


class Corner(VideoModel):
    """Reads its logits from the first pixels of the first frame, so that every case can be written
    down."""

    def __init__(self) -> None:
        spec = InputSpec(num_frames=2, height=2, width=4, channels=1, stride_frames=1)
        super().__init__(spec, len(CLASSES))
        self.drop = nn.Dropout(0.9)

    def forward(self, video: Tensor) -> Tensor:
        return self.drop(video[:, 0, 0, 0, :3].float() / 10)  # [B, 3]


def batch(logits: list[list[float]], labels: list, index: list[int]) -> ClipBatch:
    video = torch.zeros(len(logits), 1, 2, 2, 4, dtype=torch.uint8)
    video[:, 0, 0, 0, :3] = (torch.tensor(logits) * 10).round().to(torch.uint8)
    kind = torch.float32 if isinstance(labels[0], list) else torch.int64
    return ClipBatch(
        video,
        torch.tensor(labels, dtype=kind),
        torch.tensor(index),
        torch.zeros(len(index), 2, dtype=torch.int64),
        [f"{i}.mp4" for i in index],
    )


def test_views_of_a_sample_are_fused_before_scoring_whatever_their_order():
    first = batch([[3, 0, 0], [0, 2, 0], [0, 2, 1.9]], [0, 1, 0], [5, 3, 7])
    second = batch([[0, 0, 1], [5, 0, 0]], [0, 0], [5, 7])
    for loader in ([first, second], [second, first]):
        scores = evaluate(Corner(), loader, class_names=CLASSES)
        assert scores.n == 3
        assert scores.indices.tolist() == [3, 5, 7]
        assert scores.names == ["3.mp4", "5.mp4", "7.mp4"]
        expected = (torch.tensor([0, 2, 1.9]).softmax(0) + torch.tensor([5.0, 0, 0]).softmax(0)) / 2
        assert scores.probabilities[2] == pytest.approx(expected.numpy(), abs=1e-5)
        assert scores.correct.tolist() == [True, True, True]


@pytest.mark.parametrize("views", ["mean", "max", "logits"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_each_fusion_equals_its_formula(views: str, multi_label: bool):
    logits = torch.tensor([[3.0, 0, 1], [0, 2, 1]])
    activate = torch.sigmoid if multi_label else (lambda x: x.softmax(-1))
    expected = {
        "mean": activate(logits).mean(0),
        "max": activate(logits).amax(0),
        "logits": activate(logits.mean(0)),
    }[views]
    fused = fuse_views(view_scores(logits, multi_label, views), multi_label, views)
    assert_close_to_scale(fused.float(), expected)
    labels = [[1, 0, 0], [1, 0, 0]] if multi_label else [0, 0]
    loader = [batch(logits.tolist(), labels, [0, 0])]
    scores = evaluate(Corner(), loader, class_names=CLASSES, fusion=views)
    assert scores.probabilities[0] == pytest.approx(expected.numpy(), abs=1e-5)


def test_float_labels_are_multi_label_and_score_map():
    several = batch([[3, 0, 1], [0, 2, 1]], [[1, 0, 1], [0, 1, 1]], [0, 1])
    scores = evaluate(Corner(), [several], class_names=CLASSES, skipped=2)
    assert scores.map == pytest.approx(50.0)
    assert scores.top1 is None
    assert scores.skipped == 2


def test_softmaxed_scores_of_several_labels_are_told():
    """A model that gives probabilities of exclusive classes where clips have several labels."""

    class Softmaxed(Corner):
        def forward(self, video: Tensor) -> Tensor:
            return super().forward(video).softmax(-1)

    several = batch([[3, 0, 1], [0, 2, 1]], [[1, 0, 1], [0, 1, 1]], [0, 1])
    single = batch([[3, 0, 1], [0, 2, 1]], [0, 1], [0, 1])
    assert evaluate(Softmaxed(), [several], class_names=CLASSES).notes == (SOFTMAXED,)
    assert evaluate(Softmaxed(), [several], class_names=CLASSES, fusion="max").notes == (SOFTMAXED,)
    assert evaluate(Corner(), [several], class_names=CLASSES).notes == ()
    assert evaluate(Softmaxed(), [single], class_names=CLASSES).notes == ()


def test_model_is_put_back_and_progress_is_told():
    model, done = Corner(), []
    model.train()
    loader = [batch([[3, 0, 0]], [0], [0]), batch([[3, 0, 0], [3, 0, 0]], [0, 1], [1, 2])]
    scores = evaluate(model, loader, class_names=CLASSES, progress=done.append)
    assert scores.top1 == pytest.approx(200 / 3)  # dropout was off
    assert model.training
    assert done == [1, 2]


def test_bf16_runs_under_autocast():
    class Linear(Corner):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(16, 3)

        def forward(self, video: Tensor) -> Tensor:
            self.seen = self.layer(video.flatten(1).float()).dtype
            return self.layer(video.flatten(1).float())

    model, loader = Linear(), [batch([[3, 0, 0]], [0], [0])]
    exact = evaluate(model, loader, class_names=CLASSES).probabilities
    assert model.seen == torch.float32
    rough = evaluate(model, loader, class_names=CLASSES, precision="bf16").probabilities
    assert model.seen == torch.bfloat16
    assert np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize(
    ("loader", "classes", "message"),
    [
        ([], CLASSES, "no clips to score"),
        ([batch([[1, 0, 0]], [3], [4])], CLASSES, r"4\.mp4: label 3 is outside the 3 classes"),
        ([batch([[1, 0, 0]], [0], [4])], ["a", "b"], "3 outputs but the data set has 2 classes"),
        ([batch([[1, 0, 0], [1, 0, 0]], [0, 1], [4, 4])], CLASSES, "different labels"),
        ([batch([[1, 0, 0]], [[1, 0]], [4])], CLASSES, "labels hold 2 classes"),
    ],
)
def test_bad_input_is_one_clear_line(loader: list[ClipBatch], classes: list[str], message: str):
    with pytest.raises(DataError, match=message):
        evaluate(Corner(), loader, class_names=classes)


def test_output_that_is_not_finite_names_the_clip():
    class Broken(Corner):
        def forward(self, video: Tensor) -> Tensor:
            return super().forward(video) / 0

    with pytest.raises(DataError, match=r"9\.mp4: the model's output is not finite"):
        evaluate(Broken(), [batch([[1, 0, 0]], [0], [9])], class_names=CLASSES)
