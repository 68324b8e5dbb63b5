"""Laws of multi-view evaluation, on models that run on the pixels of real small videos."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale
from PIL import Image
from torch import Tensor, nn

from vidgraph.data.clips import ClipDataset
from vidgraph.data.table import VideoTable, load_table
from vidgraph.errors import RecipeError
from vidgraph.evaluation.inference import (
    eval_batches,
    evaluate,
    fuse_views,
    predict_batch,
    view_scores,
)
from vidgraph.evaluation.metrics import Scores
from vidgraph.experiment import score_model
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.predictor import Predictor, load_predictor
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.views import Fusion, ViewPlan
from vidgraph.weights import save_weights

FUSIONS: tuple[Fusion, ...] = ("mean", "max", "logits", "max_logits")


class Convolved(VideoModel):
    """A small fully convolutional network; remembers the shape of each batch."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__(spec, 3)
        torch.manual_seed(0)
        self.class_names = ["a", "b", "c"]
        self.convolution = nn.Conv3d(spec.channels, 6, 3, padding=1, padding_mode="replicate")
        self.classifier = nn.Linear(6, 3)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, video: Tensor, flow: Any = None, regions: Any = None) -> Tensor:
        self.shapes.append(tuple(video.shape))
        return self.classifier(self.convolution(video.float() / 32).relu().mean((2, 3, 4)))


class Fixed(Convolved):
    """The same with a last layer that takes its own frame size only."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__(spec)
        self.flat = nn.Linear(spec.channels * spec.num_frames * spec.height * spec.width, 3)

    def forward(self, video: Tensor, flow: Any = None, regions: Any = None) -> Tensor:
        return self.flat(video.flatten(1).float() / 255)


def write_frames(folder: Path, seed: int, num_frames: int, height: int, width: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 9, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height)))
    for t in range(num_frames):
        Image.fromarray(np.roll(pixels, 2 * t, axis=1)).save(folder / f"{t:03d}.png")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> VideoTable:
    """Three videos of different shapes and lengths."""
    folder = tmp_path_factory.mktemp("views")
    for k, (num_frames, height, width) in enumerate([(20, 24, 40), (13, 24, 24), (31, 40, 24)]):
        write_frames(folder / str(k), k, num_frames, height, width)
    (folder / "t.csv").write_text("video,label,split\n0,a,test\n1,b,test\n2,c,test\n")
    return load_table(folder / "t.csv")


SPEC = InputSpec(num_frames=4, height=24, width=24, stride_frames=2)


def scored(
    model: VideoModel, table: VideoTable, plan: ViewPlan, order: Sequence[int] = (), **options: Any
) -> Scores:
    """Clips in `order`, two at a time where their frames have one shape."""
    dataset = ClipDataset(table, "test", model.spec, train=False, views=plan)
    items = [dataset[i] for i in (order or range(len(dataset)))]
    pairs = [items[i : i + 2] for i in range(0, len(items), 2)]
    batches = items if plan.full_frame else [ClipBatch.joined(pair) for pair in pairs]
    return evaluate(model, batches, class_names=dataset.class_names, **options)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_view_equals_the_single_evaluation(table: VideoTable, fusion: Fusion) -> None:
    model = Convolved(SPEC)
    scores = scored(model, table, ViewPlan(), fusion=fusion)
    dataset = ClipDataset(table, "test", SPEC, train=False)
    with torch.no_grad():
        expected = torch.cat([model(dataset[i].video) for i in range(3)]).softmax(-1)
    assert np.abs(scores.probabilities - expected.numpy()).max() < 1e-6
    assert np.ptp(scores.probabilities, axis=0).max() > 0.01  # else the videos would not differ


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_order_of_views_does_not_matter(table: VideoTable, fusion: Fusion) -> None:
    model, plan = Convolved(SPEC), ViewPlan(num_views=3, crops=3)
    first = scored(model, table, plan, fusion=fusion)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(9).tolist()
        other = scored(model, table, plan, order, fusion=fusion)
        assert np.abs(first.probabilities - other.probabilities).max() < 1e-6
        assert first.names == other.names


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("multi_label", [False, True])
def test_identical_views_change_nothing(fusion: Fusion, multi_label: bool) -> None:
    logits = torch.tensor([[2.0, -1, 0.5]])
    one, many = (
        fuse_views(view_scores(logits.repeat(n, 1), multi_label, fusion), multi_label, fusion)
        for n in (1, 5)
    )
    assert torch.allclose(one, many, atol=1e-12)
    assert_close_to_scale(one.float(), logits[0].sigmoid() if multi_label else logits[0].softmax(0))


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        # Logits ln 3, 0 and 0, ln 7: probabilities 3/4, 1/4 and 1/8, 7/8.
        ("mean", [7 / 16, 9 / 16]),
        ("max", [3 / 4, 7 / 8]),
        ("logits", [3**0.5 / (3**0.5 + 7**0.5), 7**0.5 / (3**0.5 + 7**0.5)]),
        ("max_logits", [3 / 10, 7 / 10]),
    ],
)
def test_fusion_by_hand(fusion: Fusion, expected: list[float]) -> None:
    logits = torch.tensor([[np.log(3), 0.0], [0.0, np.log(7)]])
    fused = fuse_views(view_scores(logits, False, fusion), False, fusion)
    assert fused.tolist() == pytest.approx(expected)
    # The same through `evaluate`, views in two batches.
    about = torch.tensor([1]), torch.tensor([4]), torch.zeros(1, 1, dtype=torch.int64)
    batches = [ClipBatch(row.view(1, 1, 1, 1, 2), *about) for row in logits]
    spec = InputSpec(num_frames=1, height=1, width=2, channels=1, stride_frames=1)

    class Same(VideoModel):
        def forward(self, video: Tensor, flow: Any = None, regions: Any = None) -> Tensor:
            return video.flatten(1)

    scores = evaluate(Same(spec, 2), batches, class_names=["x", "y"], fusion=fusion)
    assert scores.probabilities[0] == pytest.approx(expected, abs=1e-5)
    assert scores.n == 1


def test_views_are_those_cut_by_hand(table: VideoTable) -> None:
    """Two clips of three crops of the first video, 24 x 40, against slices of its frames."""
    model = Convolved(SPEC)
    files = sorted((table.folder / "0").iterdir())
    frames = np.stack([np.asarray(Image.open(file)) for file in files])  # [20, 24, 40, 3]
    views = [
        frames[start : start + 7 : 2, :, left : left + 24]
        for start, left in itertools.product((0, 13), (0, 8, 16))
    ]
    with torch.no_grad():
        logits = model(torch.from_numpy(np.stack(views)).permute(0, 4, 1, 2, 3))
    scores = scored(model, table, ViewPlan(num_views=2, crops=3))
    assert scores.probabilities[0] == pytest.approx(logits.softmax(-1).mean(0).numpy(), abs=1e-5)


def test_whole_frames_equal_one_crop_where_the_video_has_the_model_s_shape(
    table: VideoTable,
) -> None:
    model = Convolved(SPEC)
    whole, crop = scored(model, table, ViewPlan(full_frame=True)), scored(model, table, ViewPlan())
    assert whole.probabilities[1] == pytest.approx(crop.probabilities[1], abs=1e-5)  # 24 x 24
    assert np.abs(whole.probabilities[[0, 2]] - crop.probabilities[[0, 2]]).min() > 1e-5
    assert {shape[3:] for shape in model.shapes} == {(24, 40), (24, 24), (40, 24)}
    model.shapes.clear()
    scored(model, table, ViewPlan(full_frame=True, short_side=36))
    assert {shape[3:] for shape in model.shapes} == {(36, 60), (36, 36), (60, 36)}


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(num_frames=3, height=16, width=24, stride_frames=1),
        InputSpec(num_frames=5, height=24, width=16, sample_fps=10.0),
        InputSpec(num_frames=8, height=16, width=16, channels=1, whole_video=True),
        InputSpec(num_frames=1, height=20, width=20, whole_video=True),
        InputSpec(num_frames=40, height=16, width=16, stride_frames=1),  # longer than all videos
    ],
)
@pytest.mark.parametrize(
    "plan",
    [
        ViewPlan(2, 3),
        ViewPlan(3, full_frame=True),
        ViewPlan(2, 2, short_side=32, crop_size=28, past_end="loop"),
    ],
)
def test_any_input_is_evaluated_and_predicted_alike(
    table: VideoTable, spec: InputSpec, plan: ViewPlan
) -> None:
    model = Convolved(spec)
    scores = scored(model, table, plan)
    predictor = Predictor(model, plan, "cpu", batch_size=2)
    for row, name in zip(scores.probabilities, scores.names, strict=True):
        prediction = predictor.predict(name)
        assert prediction.probabilities.numpy() == pytest.approx(row, abs=1e-5)
        assert len(prediction.frame_indices) == plan.num_views * spec.num_frames
        assert predictor.frames_seen(prediction).shape[0] == len(prediction.frame_indices)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_the_batch_size_bounds_a_forward_pass_and_changes_nothing(
    table: VideoTable, batch_size: int
) -> None:
    model, plan = Convolved(SPEC), ViewPlan(num_views=2, crops=5)
    whole = scored(model, table, plan)
    assert max(shape[0] for shape in model.shapes) == 10
    model.shapes.clear()
    parts = scored(model, table, plan, batch_size=batch_size)
    assert max(shape[0] for shape in model.shapes) == min(batch_size, 10)
    assert sum(shape[0] for shape in model.shapes) == 30
    assert np.abs(whole.probabilities - parts.probabilities).max() < 1e-6


def test_a_model_for_one_size_says_so(table: VideoTable) -> None:
    assert scored(Fixed(SPEC), table, ViewPlan(crops=3)).n == 3
    message = r"frames of 24x24 pixels and cannot use views of 24x40 .*leave out eval.full_frame"
    with pytest.raises(RecipeError, match=message):
        scored(Fixed(SPEC), table, ViewPlan(full_frame=True))

    class Broken(Convolved):
        def forward(self, video: Tensor, flow: Any = None, regions: Any = None) -> Tensor:
            raise RuntimeError("of another kind")

    batch = ClipDataset(table, "test", SPEC, train=False)[0]
    with pytest.raises(RuntimeError, match="of another kind"):
        predict_batch(Broken(SPEC), batch)


# ---- how a recipe's views are read and batched ---------------------------------------------------


def test_clips_are_read_together_as_far_as_one_forward_pass_takes_them(table: VideoTable) -> None:
    def batches(clips: int, **settings: Any) -> list[list[int]]:
        views = ViewPlan(num_views=clips, **settings)
        dataset = ClipDataset(table, "test", SPEC, train=False, views=views)
        return eval_batches(dataset, views)

    assert batches(2, batch_size=4) == [[0, 1, 2, 3], [4, 5]]
    assert batches(2, batch_size=4, crops=2) == [[0, 1], [2, 3], [4, 5]]
    assert batches(2, batch_size=4, crops=11) == [[0], [1], [2], [3], [4], [5]]
    # Whole frames: never two videos in one batch.
    assert batches(3, batch_size=2, full_frame=True) == [[0, 1], [2], [3, 4], [5], [6, 7], [8]]
    assert batches(1, batch_size=8, full_frame=True) == [[0], [1], [2]]
    ten_crops = ViewPlan(crops=5, crop_places="corners", mirrored=True)
    assert eval_batches(range(13), ten_crops) == [[*range(6)], [*range(6, 12)], [12]]


def test_a_run_folder_is_scored_and_predicted_as_its_recipe_says(
    table: VideoTable, tmp_path: Path
) -> None:
    """Predictions take its sampling and size, and the centre."""
    torch.manual_seed(0)
    # One luma frame of 64 x 64, fully convolutional.
    model = create_model("digit_stem", class_names=["a", "b", "c"])
    save_weights(model, tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        f"name: x\ndata: {{table: {{path: {table.source}}}}}\nmodel: {{name: digit_stem}}\n"
        "train: {epochs: 1}\neval: {num_views: 2, crops: 3, short_side: 72, crop_size: 68, "
        "fusion: max, batch_size: 5, past_end: loop, folder_fps: 12}\n"
    )
    run, done = str(tmp_path), list[tuple[int, int]]()
    sampling: Any = {"past_end": "loop", "folder_fps": 12.0}
    plan = ViewPlan(num_views=2, crops=3, short_side=72, crop_size=68, **sampling)
    expected = scored(model, table, plan, fusion="max")
    for workers in (0, 2):
        scores, name = score_model(
            run, device="cpu", workers=workers, progress=lambda *count: done.append(count)
        )
        assert scores.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert done[-1] == (18, 18)
        assert name.endswith("t.csv (test)")
    centre = {"eval.crops": 1, "eval.crop_size": "null", "eval.num_views": 1, "eval.batch_size": 4}
    one, _ = score_model(run, overrides=centre, device="cpu", workers=0)
    predictor = load_predictor(run, device="cpu")
    assert predictor.plan == ViewPlan(short_side=72, fusion="max", batch_size=5, **sampling)
    predicted = predictor.predict(one.names[0])
    assert predicted.probabilities.numpy() == pytest.approx(one.probabilities[0], abs=1e-5)
