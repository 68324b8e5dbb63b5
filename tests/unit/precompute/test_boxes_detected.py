"""YOLOX-nano: its output decoded, photographs of known content, and where weights come from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgraph.errors import WeightsError
from vidgraph.precompute import boxes_detected
from vidgraph.precompute.boxes_detected import (
    COCO_CLASSES,
    Detector,
    detections,
    detector_weights,
)


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    path = shared_data / "data" / "weights" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"the detector's weights are not at {path}")
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> Detector:
    return Detector(str(weights))


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (sum(areas) - shared)


def slowly(output: np.ndarray) -> list[list[float]]:
    """`detections`, cell by cell and box by box."""
    found, cell = [], 0
    for stride in (8, 16, 32):
        for row in range(416 // stride):
            for column in range(416 // stride):
                x, y, wide, high, is_object, *classes = output[cell].tolist()
                cell += 1
                best = max(range(80), key=lambda number: classes[number])
                if (score := is_object * classes[best]) <= 0.3:
                    continue
                x, y = (x + column) * stride, (y + row) * stride
                wide, high = math.exp(wide) * stride / 2, math.exp(high) * stride / 2
                found.append([x - wide, y - high, x + wide, y + high, score, best])
    kept: list[list[float]] = []
    for box in sorted(found, key=lambda box: -box[4]):
        if all(box[5] != other[5] or overlap(box, other) <= 0.45 for other in kept):
            kept.append(box)
    return kept


def test_decoding_is_that_of_a_plain_loop() -> None:
    """Five hundred likely cells, of three classes, that overlap."""
    generator = np.random.default_rng(0)
    output = generator.uniform(0, 0.25, (3549, 85)).astype(np.float32)
    output[:, :2] *= 4
    output[:, 2:4] = generator.normal(1.2, 0.3, (3549, 2))
    likely = generator.choice(np.arange(2704, 3549), 500, replace=False)
    output[likely, 4] = generator.uniform(0.5, 1, 500)
    output[likely, 5 + generator.integers(0, 3, 500)] = generator.uniform(0.3, 1, 500)
    expected = slowly(output)
    assert 100 < len(expected) < 400
    np.testing.assert_allclose(detections(output), expected, rtol=1e-5, atol=1e-3)
    assert detections(np.zeros((3549, 85), np.float32)).shape == (0, 6)


def test_classes_have_their_usual_numbers(shared_data: Path) -> None:
    """darknet's file has older names for six of them."""
    theirs = (shared_data / "data" / "weights" / "coco.names").read_text().split("\n")[:80]
    renamed = {"motorbike", "aeroplane", "sofa", "pottedplant", "diningtable", "tvmonitor"}
    assert len(COCO_CLASSES) == 80
    assert {old for old, name in zip(theirs, COCO_CLASSES, strict=True) if old != name} == renamed


GALLERY = "torchvision_assets/gallery/assets"
# Drawn by eye, as fractions of the picture.
PHOTOGRAPHS = {
    f"{GALLERY}/astronaut.jpg": [("person", 0.05, 0.03, 0.71, 1.0)],
    f"{GALLERY}/dog1.jpg": [("dog", 0.425, 0.335, 0.81, 0.775)],
    "photos/detectron_demo/34501842524_3c858b3080_k.jpg": [
        ("stop sign", 0.337, 0.25, 0.467, 0.59),
        ("car", 0.42, 0.605, 0.495, 0.7),
    ],
    "photos/detectron_demo/33887522274_eebd074106_k.jpg": [
        ("car", 0.21, 0.61, 0.36, 0.775),
        ("bus", 0.45, 0.4, 0.635, 0.735),
        ("person", 0.785, 0.595, 0.81, 0.735),
        ("person", 0.81, 0.59, 0.84, 0.735),
        ("person", 0.845, 0.6, 0.875, 0.735),
    ],
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("cut", [(0.0, 1.0), (0.02, 0.9)])
def test_photographs(
    detector: Detector, shared_data: Path, name: str, cut: tuple[float, float]
) -> None:
    """What is in them is found where it is, in whole pictures, wide or square, and in narrower
    ones."""
    with Image.open(shared_data / "data" / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    left, right = (round(share * pixels.shape[1]) for share in cut)
    rows = detector.compute(detector.prepare(pixels[:, left:right]))
    assert rows[:, :5].min() >= 0
    assert rows[:, :5].max() <= 1
    assert (np.diff(rows[:, 4]) <= 0).all()
    rows[:, [0, 2]] = (rows[:, [0, 2]] * (right - left) + left) / pixels.shape[1]
    for label, *box in PHOTOGRAPHS[name]:
        near = [row for row in rows.tolist() if overlap(row[:4], box) > 0.7]
        assert label in [COCO_CLASSES[int(row[5])] for row in near]


def test_colours_and_margin_are_those_of_the_authors(detector: Detector) -> None:
    """BGR from 0 to 255, at the top left of grey."""
    pixels = np.zeros((104, 208, 3), np.uint8)
    pixels[:] = 10, 20, 30
    image, size = detector.prepare(pixels)
    assert (image.shape, image.dtype, size) == ((1, 3, 416, 416), np.float32, (208, 416))
    assert (image[0, :, :208] == np.array([30, 20, 10])[:, None, None]).all()
    assert (image[0, :, 208:] == 114).all()


def test_weights_come_from_the_cache_once_fetched(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(boxes_detected, "WEIGHTS_URL", weights.resolve().as_uri())
    with pytest.raises(WeightsError, match=r"cannot be read or fetched \(invalid hash value"):
        detector_weights(None)  # it is not the published file
    assert [*(tmp_path / "cache").iterdir()] == []
    capfd.readouterr()
    given = detector_weights(str(weights))
    assert given == (weights, boxes_detected._KNOWN[1])
    monkeypatch.setattr(boxes_detected, "_PUBLISHED", given[1])
    here = tmp_path / "cache" / "yolox_nano.onnx", given[1]
    assert detector_weights(None) == here
    assert (
        capfd.readouterr().err == f"{here[0]}: YOLOX-nano (Apache-2.0), from {weights.as_uri()}\n"
    )
    monkeypatch.setattr(boxes_detected, "WEIGHTS_URL", "file:///nowhere")
    assert detector_weights(None) == here


def test_without_weights_it_says_what_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path))
    monkeypatch.setattr(boxes_detected, "WEIGHTS_URL", "file:///nowhere/nano.onnx")
    what = "download file:///nowhere/nano.onnx and put it there, or give it with --weights FILE"
    with pytest.raises(WeightsError, match=what) as absent:
        detector_weights(None)
    assert str(absent.value).startswith(f"{tmp_path / 'yolox_nano.onnx'}: ")
    with pytest.raises(WeightsError, match=what):
        detector_weights(str(tmp_path / "none.onnx"))
    (tmp_path / "yolox_nano.onnx").write_bytes(b"half")
    with pytest.raises(WeightsError, match="is not YOLOX-nano as published"):
        detector_weights(None)
