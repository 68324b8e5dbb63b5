"""From files to predictions: equal to evaluation, one bad file does not stop the others, pictures
can be saved.
"""

from __future__ import annotations

from pathlib import Path

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
from vidgraph.errors import VideoError, VidgraphError, WeightsError
from vidgraph.evaluation.inference import evaluate
from vidgraph.models.build import create_model
from vidgraph.predictor import Predictor, check_save_target
from vidgraph.records import Explanation, InputSpec
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video


class Colours(nn.Module):
    """A small model on real pixels, with a graph of two nodes; sums what it sees so that every
    frame counts.
    """

    def __init__(self, num_frames: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_spec = InputSpec(
            num_frames=num_frames, height=24, width=32, channels=3, stride_frames=2
        )
        self.class_names: list[str] | None = ["clap", "wave"]
        self.layer = nn.Linear(3 * num_frames, 2)

    def forward(self, video: Tensor) -> Tensor:
        return self.layer(video.float().mean((3, 4)).flatten(1) / 40)

    def explain(self, video: Tensor) -> list[Explanation]:
        frames = video.shape[2]
        boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.5, 0, 1, 1]]).expand(frames, -1, -1)
        level = video.float().mean((1, 3, 4)) / 255  # [B, T]
        edges = torch.tensor([[0.0, 1], [1, 0]])
        return [
            Explanation(boxes, edges.bool(), (edges * row[:, None, None])[None], ("left", "right"))
            for row in level
        ]


def moving_pattern(num_frames: int, seed: int, height: int = 48, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pattern = np.asarray(
        Image.fromarray(rng.integers(0, 255, (6, 10, 3), dtype=np.uint8)).resize((width, height))
    )
    return np.stack([np.roll(pattern, 3 * t, axis=1) // (1 + t % 3) for t in range(num_frames)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with two videos each, and a table of them."""
    rows = ["video,label,split"]
    for number, name in enumerate(["clap/a.mp4", "clap/b.mp4", "wave/c.mp4", "wave/d.mp4"]):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_pattern(20 + 3 * number, seed=number), fps=12.5)
        rows.append(f"videos/{name},{name.split('/')[0]},test")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path / "videos"


@pytest.mark.parametrize("num_views", [1, 3])
def test_predict_equals_evaluation_of_the_same_files(folder: Path, num_views: int):
    model = Colours()
    dataset = ClipDataset(
        load_table(folder.parent / "table.csv", None),
        "test",
        model.input_spec,
        train=False,
        views=ViewPlan(num_views=num_views),
    )
    loader = DataLoader(dataset, batch_size=5, collate_fn=dataset.collate)
    scores = evaluate(model, loader, class_names=dataset.class_names)
    predictor = Predictor(model, "cpu", num_views)
    assert scores.n == 4
    for row, name in zip(scores.probabilities, scores.names, strict=True):
        prediction = predictor.predict(name)
        assert prediction.probabilities.numpy() == pytest.approx(row, abs=1e-5)
        assert len(prediction.frame_indices) == 6 * num_views
        assert prediction.explanation.attention.shape == (1, 6 * num_views, 2, 2)
        assert prediction.explanation.node_boxes_xyxy.shape == (6 * num_views, 2, 4)
    assert (
        np.ptp(scores.probabilities[:, 0]) > 0.01
    )  # the videos differ, or the test would say nothing


def test_rstg_predicts_a_written_file_as_it_evaluates_the_pixels(tmp_path: Path):
    torch.manual_seed(0)
    model = create_model("rstg_small", class_names=[f"class {k}" for k in range(46)])
    pixels = np.random.default_rng(0).integers(0, 255, (10, 64, 64), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", pixels, fps=10, lossless=True)
    prediction = Predictor(model, "cpu").predict(tmp_path / "clip.mp4")
    assert prediction.frame_indices == list(range(10))
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(pixels)[None, None]).softmax(-1)[0]
    assert_close_to_scale(prediction.probabilities, expected)
    assert prediction.explanation.attention.shape == (1, 10, 14, 14)
    assert Predictor(model, "cpu").notes(prediction) == []


def test_a_bad_file_does_not_stop_the_others(folder: Path):
    (folder / "clap" / "broken.mp4").write_text("this is no video")
    results = list(Predictor(Colours(), "cpu").predict_many(folder))
    assert [result.path.name for result in results] == [
        "a.mp4",
        "b.mp4",
        "broken.mp4",
        "c.mp4",
        "d.mp4",
    ]
    failed = [result for result in results if result.error is not None]
    assert [result.path.name for result in failed] == ["broken.mp4"]
    assert "broken.mp4" in str(failed[0].error)
    assert failed[0].prediction is None
    assert all(result.prediction is not None for result in results if result.error is None)
    listed = list(
        Predictor(Colours(), "cpu").predict_many(
            [folder / "wave" / "c.mp4", folder / "missing.mp4"]
        )
    )
    assert [result.error is None for result in listed] == [True, False]


def test_a_folder_of_images_is_one_video_and_an_empty_one_an_error(tmp_path: Path):
    images = tmp_path / "frames"
    images.mkdir()
    for t, pixels in enumerate(moving_pattern(14, seed=0)):
        Image.fromarray(pixels).save(images / f"{t}.png")
    (result,) = Predictor(Colours(), "cpu").predict_many(images)
    assert result.prediction.frame_indices == sorted(result.prediction.frame_indices)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="empty: the folder holds no videos"):
        list(Predictor(Colours(), "cpu").predict_many(tmp_path / "empty"))


def test_a_short_video_is_predicted_and_says_so(tmp_path: Path):
    write_video(tmp_path / "short.mp4", moving_pattern(4, seed=0), fps=10)
    predictor = Predictor(Colours(), "cpu", num_views=2)
    prediction = predictor.predict(tmp_path / "short.mp4")
    assert max(prediction.frame_indices) <= 3
    assert len(prediction.frame_indices) == 12
    (note,) = predictor.notes(prediction)
    assert "shorter than a clip of 6 frames" in note
    predictor.save(prediction, tmp_path / "report.html")
    assert note in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_overlay_shows_every_frame_cropped_as_the_model_sees_it(tmp_path: Path):
    frames = np.zeros((30, 96, 256, 3), dtype=np.uint8)
    frames[:, :, 64:192] = (0, 200, 0)  # a 4:3 crop of the middle sees green only
    write_video(tmp_path / "video.mp4", frames, fps=25)
    predictor = Predictor(Colours(), "cpu")
    prediction = predictor.predict(tmp_path / "video.mp4")
    seen = predictor.frames_seen(prediction)
    assert seen.shape == (
        6,
        96,
        128,
        3,
    )  # four times the model's 24 x 32: all the pixels that the video has
    assert np.abs(seen[:, 4:-4, 8:-8].astype(int) - (0, 200, 0)).max() < 25
    predictor.save(prediction, tmp_path / "overlay.mp4")
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 30
    assert pictures[0].shape[0] == 512


def test_report_names_the_model_and_the_answer(folder: Path, tmp_path: Path):
    predictor = Predictor(Colours(), "cpu")
    prediction = predictor.predict(folder / "clap" / "a.mp4")
    predictor.save(prediction, tmp_path / "report.html", model_name="two colours")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "two colours" in text
    assert f"<strong>{prediction.top(1)[0][0]}</strong>" in text
    assert "left listens to right" in text


def test_a_model_without_names_or_graph_works(tmp_path: Path):
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_spec = InputSpec(
                num_frames=2, height=16, width=16, channels=1, whole_video=True
            )

        def forward(self, video: Tensor) -> Tensor:
            return video.float().mean((1, 2, 4))[:, :7]

    write_video(tmp_path / "video.mp4", moving_pattern(9, seed=0), fps=10)
    predictor = Predictor(Plain(), "cpu", multi_label=True)
    prediction = predictor.predict(tmp_path / "video.mp4")
    assert prediction.explanation is None
    assert prediction.top(1)[0][0].startswith("class ")
    assert float(prediction.probabilities.sum()) > 1.5  # independent classes
    assert predictor.notes(prediction) == []
    predictor.save(prediction, tmp_path / "report.html")
    predictor.model.class_names = ["too", "few"]
    with pytest.raises(WeightsError, match="7 outputs but 2 class names"):
        predictor.predict(tmp_path / "video.mp4")


def test_a_model_of_several_labels_is_read_as_it_was_trained(folder: Path):
    model = Colours()
    model.multi_label = True
    independent, exclusive = (
        Predictor(model, "cpu", multi_label=chosen) for chosen in (None, False)
    )
    first, second = (
        predictor.predict(folder / "clap" / "a.mp4") for predictor in (independent, exclusive)
    )
    assert float(second.probabilities.sum()) == pytest.approx(1.0)
    assert abs(float(first.probabilities.sum()) - 1.0) > 0.1
    assert independent.notes(first) == []
    assert exclusive.notes(second) == [
        "The model was trained on videos with several labels each, but its scores went through a "
        "softmax: they sum to 1."
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.gif", r"out\.gif: a prediction is saved as \.mp4"), ("out", "choose one of")],
)
def test_an_unknown_suffix_is_one_line(tmp_path: Path, name: str, message: str):
    with pytest.raises(VidgraphError, match=message):
        check_save_target(tmp_path / name)


def test_an_unwritable_place_is_found_before_the_model_runs(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VidgraphError, match="is not a folder that you may write to"):
        check_save_target(tmp_path / "file" / "out.mp4")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(VidgraphError, match="is a folder; name a file"):
        check_save_target(tmp_path / "folder.html")
    check_save_target(tmp_path / "new" / "deeper" / "out.HTML")
