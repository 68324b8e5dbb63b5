"""What is in boxes, looked at closely: windows, features from a store in place of crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidgraph.data.clips import ClipDataset
from vidgraph.data.extraction import video_tasks
from vidgraph.data.table import load_table
from vidgraph.encoders import feature_job, method_of
from vidgraph.errors import DataError, RecipeError
from vidgraph.models.base import ClipModel
from vidgraph.models.build import create_model
from vidgraph.precompute.boxes import BOXES, BoxStore
from vidgraph.precompute.extract import extract
from vidgraph.precompute.features import CropStore, FeatureStore
from vidgraph.precompute.store import Header, Method, fingerprint, path_in_store, save_file
from vidgraph.predictor import Predictor
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.video.crops import CropDraws, box_windows
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

EYES = "timm:tf_efficientnet_lite0"
SPEC = InputSpec(4, 64, 64, whole_video=True, fit="pad", boxes_per_frame=2, box_crops=True)
PERSON, BALL = 0, 32


class ThingsHead(nn.Module):
    """Scores from the features of things alone, and from nothing else."""

    num_classes = 3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(2 * channels, 3)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        assert regions is not None
        assert regions.features is not None
        found: Tensor = self.score(regions.features.float().mean(1).flatten(1))
        return found


def model() -> ClipModel:
    torch.manual_seed(0)
    made = create_model("pooled", 3, backbone=EYES, input=vars(SPEC))
    assert isinstance(made, ClipModel)
    made.head = ThingsHead(1280)
    return made.eval()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of noise: three things in the one, none in the other."""
    folder, lines = tmp_path_factory.mktemp("clips"), ["video,label,split"]
    for number, label in enumerate(["throw left", "throw right"]):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 256, (12, 6, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(folder / f"{number}.mp4", iter(frames), 12)  # of 96 x 48 pixels
        lines += [f"{number}.mp4,{label},{split}" for split in ("train", "test")]
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def rows_of(t: int) -> np.ndarray:
    """A ball of high score, and two persons of whom the surer one is seen in half the frames."""
    ball = [0.1, 0.1, 0.2, 0.2, 0.95, BALL, 0]
    anna = [0.5 + 0.01 * t, 0.2, 0.7 + 0.01 * t, 0.8, 0.6, PERSON, 1]
    ben = [0.2, 0.5, 0.4, 1.0, 0.9, PERSON, 2]
    return np.array([ball, *([ben] if t < 6 else []), anna], np.float32)


@pytest.fixture(scope="module")
def boxes(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> BoxStore:
    folder = tmp_path_factory.mktemp("stores") / "boxes"
    for number in range(2):
        video = clips.parent / f"{number}.mp4"
        known = video.name, video.stat().st_size, fingerprint(video)
        header = Header(Method(BOXES, "drawn", 1, {}), *known, 12, 48, 96, list(range(12)))
        rows = [rows_of(t) if number == 0 else np.zeros((0, 7), np.float32) for t in range(12)]
        save_file(path_in_store(folder, video.name), header, rows)
    return BoxStore(folder)


@pytest.fixture(scope="module")
def stores(
    clips: Path, boxes: BoxStore, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder, tasks = tmp_path_factory.mktemp("features"), video_tasks([clips])
    extract(feature_job(EYES, SPEC, True), tasks, folder / "maps")
    report = extract(feature_job(EYES, SPEC, True, boxes.folder), tasks, folder / "crops")
    # Two things in the one video, the frame as the only thing of the other, 4 frames, two views.
    assert report.counts["encoded"] == (2 + 1) * 4 * 2
    found = {"features": FeatureStore(folder / "maps"), "box_crops": CropStore(folder / "crops")}
    return {"boxes": boxes, **found}


def logits(network: ClipModel, clip: ClipBatch) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network(**clip.inputs(network.spec))
    return found


def test_things_keep_their_places_and_persons_come_first(clips: Path, boxes: BoxStore) -> None:
    found = boxes.boxes(clips.parent / "0.mp4").things_at([0, 4, 7, 10], 3)
    assert found.tracks.tolist() == [[1, 2, 0], [1, 2, 0], [1, -1, 0], [1, -1, 0]]  # 2.4, 1.8
    assert found.classes[0].tolist() == [PERSON, PERSON, BALL]
    assert np.allclose(found.boxes_xyxy[:, 0, 0], [0.5, 0.54, 0.57, 0.6])
    one = boxes.boxes(clips.parent / "0.mp4").things_at([0, 4, 7, 10], 1)
    assert np.array_equal(one.boxes_xyxy, found.boxes_xyxy[:, :1])
    nothing = boxes.boxes(clips.parent / "1.mp4").things_at([0, 5], 2)
    assert nothing.mask.tolist() == [[True, False]] * 2
    assert nothing.boxes_xyxy[:, 0].tolist() == [[0, 0, 1, 1]] * 2


def test_windows_are_square_wider_by_a_quarter_and_may_leave_the_frame() -> None:
    boxes = np.zeros((3, 2, 4), np.float32)
    boxes[:, 0] = [[0.1, 0, 0.2, 1], [0.2, 0, 0.3, 1], [0.9, 0, 1, 1]]  # the median is the second
    mask = np.array([[True, False]] * 3)
    near, absent = box_windows(boxes, mask, 40, 100, (32, 32))
    assert (near.top, near.left, near.height, near.width) == (-5, 0, 50, 50)
    assert near.size == absent.size == (32, 32)
    assert (absent.top, absent.left, absent.height, absent.width) == (-30, 0, 100, 100)
    wide = box_windows(boxes[:, :1], mask[:, :1], 40, 100, (16, 32))[0]
    assert (wide.height, wide.width, wide.left) == (50, 100, -25)


@pytest.mark.parametrize("number", [0, 1])
def test_cached_equals_live_in_evaluation_and_prediction(
    number: int, clips: Path, stores: dict[str, Any]
) -> None:
    """To 2e-3 of the largest logit, where things are seen and where none is."""
    network, table = model(), load_table(clips)
    live = ClipDataset(table, "test", SPEC, train=False, boxes=stores["boxes"])[number]
    cached = ClipDataset(table, "test", SPEC, train=False, **stores)[number]
    assert live.regions is not None
    assert live.regions.crops is not None
    assert live.regions.crops.shape == (1, 2, 3, 4, 64, 64)
    assert cached.regions is not None
    assert cached.regions.features is not None
    assert cached.regions.features.shape == (1, 4, 2, 1280)
    assert torch.equal(cached.regions.boxes_xyxy, live.regions.boxes_xyxy)
    assert bool(cached.regions.features[:, :, 1].any()) == (number == 0)
    wanted, found = logits(network, live), logits(network, cached)
    assert (found - wanted).abs().max() <= 2e-3 * wanted.abs().max()
    predicted = Predictor(network, device="cpu", boxes=stores["boxes"]).predict(
        clips.parent / f"{number}.mp4"
    )
    assert torch.allclose(predicted.probabilities, found[0].softmax(0), atol=2e-3)
    assert any("not a single box" in note for note in predicted.notes) == (number == 1)


def test_a_crop_shows_what_is_in_the_box(clips: Path, boxes: BoxStore) -> None:
    """Ben's window is 30 x 30 pixels about (28.8, 36): its middle is the frame's there."""
    clip = ClipDataset(load_table(clips), "test", SPEC, train=False, boxes=boxes)[0]
    assert clip.regions is not None
    assert clip.regions.crops is not None
    with open_video(clips.parent / "0.mp4") as video:
        pixels = video.read(clip.frame_indices[0].numpy())
    shown = clip.regions.crops[0, 1].float()  # [C, T, 64, 64]; 64 pixels show 30 of the frame's
    assert torch.allclose(shown[:, 0, 20, 32], torch.tensor(pixels[0, 30, 29]).float(), atol=12)
    assert (shown[:, :, 60] == 127).all()  # below the frame


def test_training_mirrors_crops_as_it_mirrors_maps(clips: Path, stores: dict[str, Any]) -> None:
    """The features of a mirrored clip are those of its mirrored crops, and left becomes right."""
    draws, table, network = CropDraws(SPEC, train=True, flip=True), load_table(clips), model()
    live = ClipDataset(table, "test", SPEC, train=False, boxes=stores["boxes"])[0].regions
    assert live is not None
    assert live.crops is not None
    training = ClipDataset(table, "train", SPEC, train=True, crops=draws, **stores)
    seen = set()
    for epoch in range(8):
        training.set_epoch(epoch)
        clip = training[0]
        flipped = int(clip.label) == 1
        with torch.inference_mode():
            crops = live.crops.flip(5) if flipped else live.crops
            wanted = network.forward_crops(replace(live, crops=crops)).features
        assert wanted is not None
        assert clip.regions is not None
        assert clip.regions.features is not None
        assert (clip.regions.features - wanted).abs().max() <= 2e-3 * wanted.abs().max()
        seen.add(flipped)
    assert seen == {False, True}


def test_what_does_not_fit_is_one_line(clips: Path, stores: dict[str, Any]) -> None:
    network, store = model(), stores["box_crops"]
    store.check(method_of(network, stores["boxes"].method))
    other = Method(BOXES, "motion", 1, {"count": 3})
    with pytest.raises(
        DataError, match=r"holds crops of timm.*, and the model takes crops of timm"
    ):
        store.check(method_of(network, other))
    with pytest.raises(DataError, match="holds crops, not features"):
        FeatureStore(store.folder)
    given = {"boxes": stores["boxes"], "features": stores["features"]}
    with pytest.raises(DataError, match=r"--data\.table\.box_crops STORE"):
        ClipDataset(load_table(clips), "test", SPEC, train=False, **given)
    with pytest.raises(RecipeError, match=r"input\.box_crops needs frames, and boxes_per_frame"):
        InputSpec(4, 64, 64, whole_video=True, box_crops=True)
