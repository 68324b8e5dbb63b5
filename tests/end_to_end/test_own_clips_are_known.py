"""What is found on real clips: groups, near-duplicates, swapped labels, clips of another world."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from vidgraph.data.duplicates import near_duplicates
from vidgraph.data.extraction import video_tasks
from vidgraph.data.grouping import grouped_folds, split_clips
from vidgraph.data.table import load_table
from vidgraph.encoders import feature_job
from vidgraph.evaluation.calibration import (
    calibration_error,
    fit_temperature,
    nearest_distance,
    out_of_fold_logits,
    suspects,
    unlike_threshold,
)
from vidgraph.precompute.extract import extract
from vidgraph.precompute.features import FeatureStore
from vidgraph.records import InputSpec
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SPEC = InputSpec(8, 288, 288, whole_video=True, fit="pad")  # as vidgraph train takes them


class Clips(NamedTuple):
    """UCF101's eight classes: the rows that are used, and features of every frame, [n, T, D]."""

    frame: pd.DataFrame
    features: np.ndarray

    @property
    def is_train(self) -> np.ndarray:
        """Training and validation clips."""
        return (self.frame["split"] != "test").to_numpy()

    @property
    def pooled(self) -> np.ndarray:
        return np.asarray(self.features.mean(1))


def features_of(videos: list[str], folder: Path) -> np.ndarray:
    """Of every frame, pooled over its map, float32 [n, T, D]."""
    job = feature_job("timm:tf_efficientnet_lite0", SPEC)
    report = extract(job, video_tasks([*map(Path, videos)]), folder, workers=None)
    assert report.failures == []
    store = FeatureStore(folder)
    maps = (store.maps(video)[0] for video in videos)  # [D, T, h, w] each
    return np.stack([found.astype(np.float32).mean((2, 3)).T for found in maps])


@pytest.fixture(scope="module")
def clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    path = shared_data / "data" / "ucf101_8" / "manifest.csv"
    frame = split_clips(load_table(path, {"split": "split01"}, split_needed=False)).frame
    folder = tmp_path_factory.mktemp("features") / "ucf"
    return Clips(frame, features_of(frame["video"].tolist(), folder))


def altered(frames: np.ndarray, number: int) -> np.ndarray:
    """Cropped by 4 % of each side, brighter, mirrored, cropped and brighter, or as they are."""
    height, width = frames.shape[1:3]
    if number in (0, 3):
        y, x = round(0.02 * height), round(0.02 * width)
        inner = frames[:, y : height - y, x : width - x]
        frames = np.stack([cv2.resize(frame, (width, height)) for frame in inner])
    if number in (1, 3):
        frames = np.clip(1.15 * frames + 10, 0, 255).astype(np.uint8)
    return frames[:, :, ::-1] if number == 2 else frames


def test_planted_copies_are_the_only_near_duplicates(clips: Clips, tmp_path: Path) -> None:
    """Five copies in the other split, re-encoded and each altered in another way."""
    rows = np.random.default_rng(0).choice(len(clips.frame), 5, replace=False)
    videos = [str(tmp_path / f"{number}.mp4") for number in range(5)]
    for number, (row, video) in enumerate(zip(rows, videos, strict=True)):
        with open_video(clips.frame["video"][row]) as opened:
            frames = np.stack([*opened.frames()])
        write_video(video, np.ascontiguousarray(altered(frames, number)), 25, crf=23)
    features = np.concatenate([clips.features, features_of(videos, tmp_path / "store")])
    is_train = np.concatenate([clips.is_train, ~clips.is_train[rows]])
    found = {(pair.first, pair.second) for pair in near_duplicates(features, is_train)}
    planted = {(row, len(clips.frame) + number) for number, row in enumerate(rows)}
    assert planted <= found
    film = clips.frame["group"].to_numpy()
    of_film = np.concatenate([film, film[rows]])  # other clips of a copied film may agree as well
    assert all(of_film[first] == of_film[second] for first, second in found)
    assert near_duplicates(clips.features, clips.is_train) == []


def test_swapped_labels_are_among_the_first_suspects(clips: Clips) -> None:
    labels = clips.frame["class_index"].to_numpy()[clips.is_train]
    features = clips.pooled[clips.is_train]
    rng = np.random.default_rng(0)
    swapped = rng.choice(len(labels), 10, replace=False)
    given = labels.copy()
    given[swapped] = (given[swapped] + rng.integers(1, 8, 10)) % 8
    folds = grouped_folds(given, np.arange(len(given)))
    first = suspects(out_of_fold_logits(features, given, folds), given)[:20]
    found = [suspect for suspect in first if suspect.row in swapped]
    assert len(found) >= 9
    assert sum(suspect.suggested == labels[suspect.row] for suspect in found) >= 7


def test_clips_of_another_world_are_unlike(clips: Clips, shared_data: Path, tmp_path: Path) -> None:
    """Silhouettes on a lawn (Weizmann) against films of UCF101."""
    others = load_table(shared_data / "data" / "weizmann" / "video", split_needed=False)
    pooled = features_of(others.frame["video"].tolist(), tmp_path / "store").mean(1)
    reference = clips.pooled[clips.is_train]
    threshold = unlike_threshold(reference, clips.frame["group"].to_numpy()[clips.is_train])
    assert (nearest_distance(pooled, reference) > threshold).mean() >= 0.8
    assert (nearest_distance(clips.pooled[~clips.is_train], reference) > threshold).mean() <= 0.05


def test_temperature_from_folds_by_film_calibrates_test_clips(clips: Clips) -> None:
    """Of logits that are twice too sure."""
    labels, groups = (clips.frame[name].to_numpy() for name in ("class_index", "group"))
    train = clips.is_train
    folds = grouped_folds(labels[train], groups[train])
    logits = 2 * out_of_fold_logits(clips.pooled[train], labels[train], folds)
    temperature = fit_temperature(logits, labels[train])
    tested = np.where(train, 1, 0)  # fold 0 holds the test clips
    unseen = 2 * out_of_fold_logits(clips.pooled, labels, tested)[~train]
    before = calibration_error(softmax(unseen, 1), labels[~train])
    after = calibration_error(softmax(unseen / temperature, 1), labels[~train])
    assert 1.3 < temperature < 2.3
    assert after < 0.75 * before
