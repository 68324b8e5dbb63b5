"""Feature maps of a frozen backbone from a store in place of frames: the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgraph.data.clips import ClipDataset
from vidgraph.data.extraction import video_tasks
from vidgraph.data.table import load_table
from vidgraph.encoders import feature_job, method_of
from vidgraph.errors import DataError, RecipeError
from vidgraph.models.build import create_model
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.boxes_proposed import ProposalJob
from vidgraph.precompute.extract import extract
from vidgraph.precompute.features import FeatureStore
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.video.crops import CropDraws
from vidgraph.video.writer import write_video

EYES = "timm:tf_efficientnet_lite0"
SPEC = InputSpec(4, 64, 64, whole_video=True, fit="pad")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two videos that are wider than high, of a bright square that moves."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["video,label,split"]
    for number, label in enumerate(["go left", "go right"]):
        frames = np.full((12, 48, 96, 3), 40 * number, np.uint8)
        for t in range(12):
            x = 4 * t if number else 60 - 4 * t
            frames[t, 10:34, x : x + 24] = (250, 120, 30)
        write_video(folder / f"{number}.mp4", iter(frames), 12)
        lines += [f"{number}.mp4,{label},{split}" for split in ("train", "test")]
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def store(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("stores") / "features"
    report = extract(feature_job(EYES, SPEC, mirrored=True), video_tasks([clips]), folder)
    assert (report.done, report.counts["encoded"]) == (2, 2 * 2 * 4)
    return FeatureStore(folder)


def model_of(head: str, **options: Any) -> Any:
    torch.manual_seed(0)
    spec = {**vars(SPEC), **options.pop("input", {})}
    return create_model(head, 2, backbone=EYES, input=spec, **options).eval()


def logits(model: Any, clip: ClipBatch) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(**clip.inputs(model.spec))
    return found


@pytest.mark.parametrize("head", ["pooled", "mean_lstm", "rstg", "strg"])
def test_cached_equals_live(head: str, clips: Path, store: FeatureStore, tmp_path: Path) -> None:
    """To 2e-3 of the largest logit, boxes addressing both maps alike."""
    boxes, model = None, model_of(head, input={"boxes_per_frame": 3 if head == "strg" else 0})
    if head == "strg":
        extract(ProposalJob("motion", count=3), video_tasks([clips]), tmp_path / "boxes")
        boxes = BoxStore(tmp_path / "boxes")
    table, common = load_table(clips), {"train": False, "boxes": boxes}
    live = ClipDataset(table, "test", model.spec, **common)
    cached = ClipDataset(table, "test", model.spec, features=store, **common)
    for i in range(2):
        wanted, found = logits(model, live[i]), logits(model, cached[i])
        assert (found - wanted).abs().max() <= 2e-3 * wanted.abs().max()
        assert torch.equal(cached[i].frame_indices, live[i].frame_indices)
        if boxes is not None:
            seen, expected = cached[i].regions, live[i].regions
            assert seen is not None
            assert expected is not None
            assert torch.equal(seen.boxes_xyxy, expected.boxes_xyxy)
            assert seen.mask.any()


def test_training_mirrors_maps_and_labels(clips: Path, store: FeatureStore) -> None:
    """A mirrored map is that of the mirrored clip, and going left becomes going right."""
    model, crops = model_of("pooled"), CropDraws(SPEC, train=True, flip=True)
    table = load_table(clips)
    live = ClipDataset(table, "test", SPEC, train=False)[0].video
    training = ClipDataset(table, "train", SPEC, train=True, crops=crops, features=store)
    seen = set()
    for epoch in range(8):
        training.set_epoch(epoch)
        clip = training[0]
        flipped = int(clip.label) == 1
        assert clip.features is not None
        with torch.inference_mode():
            wanted = model.forward_features(live.flip(4) if flipped else live)
        scale = wanted.abs().max()
        assert (clip.features - wanted).abs().max() <= 2e-3 * scale
        seen.add(flipped)
    assert seen == {False, True}


def test_maps_of_frames_that_see_each_other(clips: Path, tmp_path: Path) -> None:
    """An image network with a temporal shift passes whole clips, on a CPU too."""
    moving = {"type": "timm", "name": "tf_efficientnet_lite0", "temporal_shift": 0.125}
    extract(feature_job(moving, SPEC), video_tasks([clips]), tmp_path)
    model: Any = create_model("pooled", 2, backbone=moving, input=vars(SPEC)).eval()
    table = load_table(clips)
    live = ClipDataset(table, "test", SPEC, train=False)[0]
    stored = FeatureStore(tmp_path)
    stored.check(method_of(model))
    cached = ClipDataset(table, "test", SPEC, train=False, features=stored)[0]
    wanted = logits(model, live)
    assert (logits(model, cached) - wanted).abs().max() <= 2e-3 * wanted.abs().max()


def test_other_maps_than_the_models_are_refused(store: FeatureStore) -> None:
    store.check(method_of(model_of("rstg")))
    for options, words in (
        ({"num_frames": 8}, "frames 8"),
        ({"fit": "crop"}, "fit crop"),
        ({"height": 96, "width": 96}, r"size \[96, 96\]"),
    ):
        with pytest.raises(DataError, match=rf"the model takes .*{words}"):
            store.check(method_of(model_of("pooled", input=options)))
    moving = {"type": "timm", "name": "tf_efficientnet_lite0", "temporal_shift": 0.125}
    with pytest.raises(DataError, match=r"the model takes .*@head shifted by 0\.125"):
        store.check(method_of(create_model("pooled", 2, backbone=moving, input=vars(SPEC))))
    other = model_of("pooled")
    with torch.no_grad():
        next(other.backbone.parameters()).add_(1)
    with pytest.raises(DataError, match="extract again into another store"):
        store.check(method_of(other))
    strided = replace(SPEC, whole_video=False, stride_frames=2)
    with pytest.raises(RecipeError, match=r"input\.whole_video"):
        method_of(model_of("pooled", input=vars(strided)))
