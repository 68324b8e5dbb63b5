"""The wrapper of torchvision's region proposal network, with random weights: what it gives is what
torchvision computes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from vidgraph.errors import WeightsError
from vidgraph.precompute.proposals import ProposalJob
from vidgraph.precompute.rpn import RegionProposals, build_detector, weights_name

SIDE = 96


@pytest.fixture(scope="module")
def source() -> RegionProposals:
    return RegionProposals("random", SIDE)


def photo(shared_data: Path, number: int) -> np.ndarray:
    file = sorted((shared_data / "data" / "photos" / "detectron_demo").glob("*.jpg"))[number]
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((image.width // 4, image.height // 4)))


def test_boxes_and_scores_are_torchvisions(source: RegionProposals, shared_data: Path) -> None:
    """The detector's own `rpn(images, features)` gives the same boxes, in resized pixels and
    without the scores.
    """
    detector = build_detector("random", SIDE)
    for pixels in (
        photo(shared_data, 0),
        photo(shared_data, 1).transpose(1, 0, 2),
    ):  # wide and tall
        boxes, scores = source.propose(source.prepare(pixels), [])
        with torch.inference_mode():
            images, _ = detector.transform([torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255])
            features = detector.backbone(images.tensors)
            (expected,), _ = detector.rpn(images, features)
        height, width = images.image_sizes[0]
        assert (min(height, width), images.tensors.shape[2] % 32, images.tensors.shape[3] % 32) == (
            SIDE,
            0,
            0,
        )
        np.testing.assert_allclose(
            boxes * [width, height, width, height], expected.numpy(), atol=1e-3
        )
        assert boxes.shape[0] == scores.shape[0] > 50
        assert (np.diff(scores) <= 0).all()
        assert (scores.min() >= 0, scores.max() <= 1, boxes.min() >= 0, boxes.max() <= 1) == (
            True,
        ) * 4


def test_scores_belong_to_their_boxes(source: RegionProposals, shared_data: Path) -> None:
    """Objectness of the anchor that a box comes from, found anew by brute force over all
    anchors.
    """
    pixels = photo(shared_data, 2)
    boxes, scores = source.propose(source.prepare(pixels), [])
    detector = build_detector("random", SIDE)
    with torch.inference_mode():
        images, _ = detector.transform([torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255])
        features = list(detector.backbone(images.tensors).values())
        objectness, deltas = detector.rpn.head(features)
        (anchors,) = detector.rpn.anchor_generator(images, features)
    height, width = images.image_sizes[0]
    place, matched, size = 0, 0, np.array([width, height, width, height])
    for level_scores, level_deltas in zip(objectness, deltas, strict=True):
        for row in range(0, level_scores.shape[2], 3):
            for column in range(0, level_scores.shape[3], 3):
                for a in range(3):
                    anchor = anchors[place + (row * level_scores.shape[3] + column) * 3 + a][None]
                    box = detector.rpn.box_coder.decode_single(
                        level_deltas[:, 4 * a : 4 * a + 4, row, column], anchor
                    )[0]
                    if (box <= 0).any() or (box >= torch.from_numpy(size)).any():
                        continue  # cut off at the border, where several boxes become equal
                    near = np.flatnonzero(np.abs(boxes * size - box.numpy()).max(1) < 1e-3)
                    score = float(level_scores[0, a, row, column].sigmoid())
                    matched += len(near)
                    assert len(near) == 0 or np.abs(scores[near] - score).min() < 1e-5
        place += level_scores[0].numel()
    assert place == len(anchors)
    assert matched > 10


def test_the_best_k_are_kept(source: RegionProposals, shared_data: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        Image.fromarray(photo(shared_data, 3)).save(frames / f"{number}.png")
    from vidgraph.precompute.store import decode_boxes
    from vidgraph.precompute.tasks import Task

    job = ProposalJob("rpn", count=7, short_side=SIDE, weights="random")
    assert job.method().settings == {
        "count": 7,
        "every": 1,
        "short_side": SIDE,
        "weights": "random",
    }
    found = job.start()(Task(frames, "frames"))
    all_boxes, all_scores = source.propose(source.prepare(photo(shared_data, 3)), [])
    for record in found.records:
        boxes, scores = decode_boxes(record)
        np.testing.assert_allclose(boxes, all_boxes[:7], atol=1e-6)
        np.testing.assert_allclose(scores, all_scores[:7], atol=1e-6)


def test_the_network_is_torchvisions_without_its_classifier() -> None:
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    ours = build_detector("random").state_dict()
    kept = {
        key: value.shape
        for key, value in theirs.items()
        if not key.startswith("roi_heads") and "num_batches" not in key
    }
    assert {key: value.shape for key, value in ours.items()} == kept
    detector = build_detector("random")
    assert (detector.transform.min_size, detector.transform.max_size) == ((800,), 1333)
    assert detector.rpn._pre_nms_top_n["testing"] == detector.rpn._post_nms_top_n["testing"] == 1000
    assert detector.rpn.nms_thresh == 0.7


def test_weights_from_a_file(source: RegionProposals, tmp_path: Path) -> None:
    detector = build_detector("random", SIDE)
    for number, parameter in enumerate(detector.parameters()):
        parameter.data += 0.01 * np.cos(number)
    whole = detector.state_dict() | {
        "roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 1024)
    }
    torch.save(whole, tmp_path / "coco.pth")
    save_file(whole, tmp_path / "coco.safetensors")
    for name in ("coco.pth", "coco.safetensors"):
        loaded = build_detector(str(tmp_path / name), SIDE).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in detector.state_dict().items())
    assert weights_name(str(tmp_path / "coco.pth")) != weights_name(
        str(tmp_path / "coco.safetensors")
    )
    assert weights_name("random") == "random"


def test_weights_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "text.safetensors").write_text("text")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        (
            "part.pth",
            r"is not fasterrcnn_resnet50_fpn's, backbone\.body\.\S+ and \d+ more are absent or of "
            r"another shape",
        ),
        ("text.pth", "holds no weights that can be read without running code"),
        ("text.safetensors", "cannot be read"),
        ("list.pth", "holds no weights by name"),
        ("gone.pth", "there is no such file; leave out --weights"),
    ):
        with pytest.raises(WeightsError, match=message) as error:
            build_detector(str(tmp_path / name))
        assert "\n" not in str(error.value)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing is kept there,
    for scheme in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # and nothing can be fetched
    with pytest.raises(
        WeightsError,
        match=r"the weights of the rpn cannot be fetched \(.*with --weights FILE, or use --source "
        r"motion",
    ) as error:
        ProposalJob("rpn").method()
    assert FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url in str(error.value)
    assert "\n" not in str(error.value)
