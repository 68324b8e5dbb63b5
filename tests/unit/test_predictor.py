"""From files to predictions: equal to evaluation, notes of what a reader must know, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vidgraph.data.clips import ClipDataset
from vidgraph.data.table import load_table
from vidgraph.errors import VidgraphError, WeightsError
from vidgraph.evaluation.inference import evaluate
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.predictor import Predictor, check_save_target
from vidgraph.records import ClipBatch, Explanation, InputSpec
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video


class Colours(VideoModel):
    """A small model on real pixels, with a graph of two nodes; sums what it sees so that every
    frame counts. It counts how often it was asked to explain."""

    def __init__(self, num_frames: int = 6, multi_label: bool = False) -> None:
        super().__init__(InputSpec(num_frames, height=24, width=32, stride_frames=2), 2)
        torch.manual_seed(0)
        self.class_names, self.multi_label = ["clap", "wave"], multi_label
        self.layer = nn.Linear(3 * num_frames, 2)
        self.explained = 0

    def forward(self, video: Any = None, flow: Any = None, regions: Any = None) -> Tensor:
        logits: Tensor = self.layer(video.float().mean((3, 4)).flatten(1) / 40)
        return logits

    def explain(self, video: Any = None, flow: Any = None, regions: Any = None) -> Any:
        self.explained += 1
        boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.5, 0, 1, 1]]).expand(video.shape[2], -1, -1)
        level = video.float().mean((1, 3, 4)) / 255  # [B, T]
        edges = torch.tensor([[0.0, 1], [1, 0]])
        attention = [(edges * row[:, None, None])[None] for row in level]
        return [Explanation(boxes, edges.bool(), one, ("left", "right")) for one in attention]


def moving_pattern(num_frames: int, seed: int, height: int = 48, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 10, 3), dtype=np.uint8))
    pattern = np.asarray(coarse.resize((width, height)))
    return np.stack([np.roll(pattern, 3 * t, axis=1) // (1 + t % 3) for t in range(num_frames)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with two videos each, and a table of them."""
    base, rows = tmp_path_factory.mktemp("predictor"), ["video,label,split"]
    for number, name in enumerate(["clap/a.mp4", "clap/b.mp4", "wave/c.mp4", "wave/d.mp4"]):
        path = base / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_pattern(20 + 3 * number, seed=number), fps=12.5)
        rows.append(f"videos/{name},{name.split('/')[0]},test")
    (base / "table.csv").write_text("\n".join(rows))
    return base / "videos"


@pytest.mark.parametrize("num_views", [1, 3])
def test_predict_equals_evaluation_of_the_same_files(folder: Path, num_views: int) -> None:
    model, views = Colours(), ViewPlan(num_views=num_views)
    table = load_table(folder.parent / "table.csv")
    dataset = ClipDataset(table, "test", model.spec, train=False, views=views)
    loader = DataLoader(dataset, batch_size=5, collate_fn=ClipBatch.joined)
    scores = evaluate(model, loader, class_names=dataset.class_names)
    predictor = Predictor(model, views, "cpu")
    assert scores.n == 4
    for row, name in zip(scores.probabilities, scores.names, strict=True):
        prediction = predictor.predict(name, explain=True)
        assert prediction.probabilities.numpy() == pytest.approx(row, abs=1e-5)
        assert len(prediction.frame_indices) == 6 * num_views
        assert prediction.explanation is not None
        assert prediction.explanation.attention.shape == (1, 6 * num_views, 2, 2)
        assert prediction.explanation.node_boxes_xyxy.shape == (6 * num_views, 2, 4)
    assert np.ptp(scores.probabilities[:, 0]) > 0.01  # else the videos would not differ


def test_the_model_explains_only_when_it_is_asked(folder: Path) -> None:
    model = Colours()
    assert Predictor(model, device="cpu").predict(folder / "clap" / "a.mp4").explanation is None
    assert model.explained == 0


def test_rstg_predicts_a_written_file_as_it_evaluates_the_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("rstg_small", class_names=[f"class {k}" for k in range(46)])
    pixels = np.random.default_rng(0).integers(0, 255, (10, 64, 64), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", pixels, fps=10, lossless=True)
    prediction = Predictor(model, device="cpu").predict(tmp_path / "clip.mp4", explain=True)
    assert prediction.frame_indices == list(range(10))
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(pixels)[None, None]).softmax(-1)[0]
    assert_close_to_scale(prediction.probabilities, expected)
    assert prediction.explanation is not None
    assert prediction.explanation.attention.shape == (1, 10, 14, 14)
    assert prediction.notes == []


def test_a_folder_of_images_is_one_video(tmp_path: Path) -> None:
    for t, pixels in enumerate(moving_pattern(14, seed=0)):
        Image.fromarray(pixels).save(tmp_path / f"{t}.png")
    prediction = Predictor(Colours(), device="cpu").predict(tmp_path)
    assert prediction.frame_indices == [2, 4, 6, 8, 10, 12]


def test_a_short_video_is_predicted_and_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", moving_pattern(4, seed=0), fps=10)
    predictor = Predictor(Colours(), ViewPlan(num_views=2), "cpu")
    prediction = predictor.predict(tmp_path / "short.mp4", explain=True)
    assert max(prediction.frame_indices) <= 3
    assert len(prediction.frame_indices) == 12
    (note,) = prediction.notes
    assert "shorter than a clip of 6 frames" in note
    predictor.save(prediction, tmp_path / "report.html")
    assert note in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_overlay_shows_every_frame_cropped_as_the_model_sees_it(tmp_path: Path) -> None:
    frames = np.zeros((30, 96, 256, 3), dtype=np.uint8)
    frames[:, :, 64:192] = (0, 200, 0)  # a 4:3 crop of the middle sees green only
    write_video(tmp_path / "video.mp4", frames, fps=25)
    predictor = Predictor(Colours(), device="cpu")
    prediction = predictor.predict(tmp_path / "video.mp4", explain=True)
    seen = predictor.frames_seen(prediction)
    assert seen.shape == (6, 96, 128, 3)  # four times 24 x 32: all the pixels that the video has
    assert np.abs(seen[:, 4:-4, 8:-8].astype(int) - (0, 200, 0)).max() < 25
    predictor.save(prediction, tmp_path / "overlay.mp4")
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 30
    assert pictures[0].shape[0] == 512


def test_report_names_the_model_and_the_answer(folder: Path, tmp_path: Path) -> None:
    predictor = Predictor(Colours(), device="cpu")
    prediction = predictor.predict(folder / "clap" / "a.mp4", explain=True)
    predictor.save(prediction, tmp_path / "report.html", model_name="two colours")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "two colours" in text
    assert f"<strong>{prediction.top(1)[0][0]}</strong>" in text
    assert "left listens to right" in text


def test_a_model_without_names_or_graph_works(tmp_path: Path) -> None:
    class Plain(VideoModel):
        def forward(self, video: Any = None, flow: Any = None, regions: Any = None) -> Tensor:
            return video.float().mean((1, 2, 4))[:, :7] * self.scale

    model = Plain(InputSpec(2, height=16, width=16, channels=1, whole_video=True), 7)
    model.scale = 1.0
    write_video(tmp_path / "video.mp4", moving_pattern(9, seed=0), fps=10)
    predictor = Predictor(model, device="cpu", multi_label=True)
    prediction = predictor.predict(tmp_path / "video.mp4", explain=True)
    assert prediction.explanation is None
    assert prediction.top(1)[0][0].startswith("class ")
    assert float(prediction.probabilities.sum()) > 1.5  # independent classes
    assert prediction.notes == []
    predictor.save(prediction, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000
    model.scale = float("nan")
    with pytest.raises(WeightsError, match=r"video\.mp4: the model's output is not finite"):
        predictor.predict(tmp_path / "video.mp4")


def test_a_model_of_several_labels_is_read_as_it_was_trained(folder: Path) -> None:
    model, path = Colours(multi_label=True), folder / "clap" / "a.mp4"
    first = Predictor(model, device="cpu").predict(path)
    second = Predictor(model, device="cpu", multi_label=False).predict(path)
    assert abs(float(first.probabilities.sum()) - 1.0) > 0.1
    assert first.notes == []
    assert float(second.probabilities.sum()) == pytest.approx(1.0)
    assert second.notes == [
        "The model was trained on videos with several labels each, but its scores went through a "
        "softmax: they sum to 1."
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.gif", r"out\.gif: a prediction is saved as \.mp4"),
        ("out", "choose one of"),
        ("file/out.mp4", "is not a folder that you may write to"),
        ("folder.html", "is a folder; name a file"),
    ],
)
def test_what_cannot_be_written_is_found_before_the_model_runs(
    tmp_path: Path, target: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(VidgraphError, match=message):
        check_save_target(tmp_path / target)
    check_save_target(tmp_path / "new" / "deeper" / "out.HTML")
