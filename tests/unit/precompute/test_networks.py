"""The wrappers of torchvision's region proposal network and RAFT, with random weights: what they
give is what torchvision computes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

from vidgraph.errors import WeightsError
from vidgraph.precompute.boxes_proposed import ProposalJob
from vidgraph.precompute.extract import Task, extract
from vidgraph.precompute.flow import FlowJob
from vidgraph.precompute.flow_store import FlowStore
from vidgraph.precompute.networks import (
    RAFT_WEIGHTS,
    RPN_WEIGHTS,
    PublishedWeights,
    Raft,
    RegionProposals,
    build_detector,
)
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

SIDE = 96


@pytest.fixture(scope="module")
def source() -> RegionProposals:
    return RegionProposals("random", SIDE)


def photo(shared_data: Path, number: int) -> np.ndarray:
    file = sorted((shared_data / "data" / "photos" / "detectron_demo").glob("*.jpg"))[number]
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((image.width // 4, image.height // 4)))


def test_boxes_are_torchvisions(source: RegionProposals, shared_data: Path) -> None:
    """The detector's own `rpn(images, features)` gives the same boxes, in resized pixels and
    without the scores; of wide and tall frames."""
    detector = build_detector("random", SIDE)
    for pixels in (photo(shared_data, 0), photo(shared_data, 1).transpose(1, 0, 2)):
        rows = source.compute(source.prepare(pixels), [])
        with torch.inference_mode():
            images, _ = detector.transform([torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255])
            features = detector.backbone(images.tensors)
            (expected,), _ = detector.rpn(images, features)
            objectness, _ = detector.rpn.head([*features.values()])
        height, width = images.image_sizes[0]
        assert min(height, width) == SIDE
        boxes, scores = rows[:, :4] * [width, height, width, height], rows[:, 4]
        np.testing.assert_allclose(boxes, expected.numpy(), atol=1e-3)
        assert len(boxes) > 50
        known = torch.cat([level.flatten() for level in objectness]).sigmoid().numpy()
        assert np.isin(scores.round(5), known.round(5)).mean() > 0.95
        assert (np.diff(scores) <= 0).all()
        assert ((rows >= 0) & (rows <= 1)).all()


def test_the_best_k_are_kept(source: RegionProposals, shared_data: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        Image.fromarray(photo(shared_data, 3)).save(frames / f"{number}.png")
    job = ProposalJob("rpn", count=7, short_side=SIDE, weights="random")
    expected = {"count": 7, "every": 1, "short_side": SIDE, "weights": "random"}
    assert job.method.settings == expected
    assert job.use_gpu
    best = source.compute(source.prepare(photo(shared_data, 3)), [])[:7]
    with open_video(frames) as video:
        frame_indices, found = job.start()(Task(frames, "frames"), video, Counter())
        for rows in found:
            np.testing.assert_allclose(rows, best, atol=1e-6)
    assert frame_indices == [0, 1]


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


def raft_frames(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def test_motion_is_torchvisions() -> None:
    """Against the network built and fed by hand, with torchvision's own preprocessing; 130 x 60
    become 136 x 128."""
    pair, raft = raft_frames(130, 60), Raft("random")
    first, second = (raft.prepare(frame) for frame in pair)
    motion = raft.compute(first, [second])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = raft_large(weights=None).eval()
    both = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in pair]
    padded = [torch.cat([image, image[:, :, -1:].expand(-1, -1, 6, -1)], 2) for image in both]
    padded = [torch.cat([image, image[:, :, :, -1:].expand(-1, -1, -1, 68)], 3) for image in padded]
    with torch.inference_mode():
        inputs = Raft_Large_Weights.C_T_SKHT_V2.transforms()(*padded)
        expected = network(*inputs, num_flow_updates=12)[-1][0, :, :130, :60]
    assert motion.dtype == np.float32
    np.testing.assert_allclose(motion, expected.permute(1, 2, 0).numpy(), atol=1e-3)
    assert np.abs(motion).max() > 0.1


def test_flow_of_raft_through_a_store_and_on_the_way(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    write_video(video, raft_frames(64, 96).repeat(2, axis=0)[:3], fps=10, lossless=True)
    job = FlowJob("raft", short_side=32, weights="random")
    assert job.use_gpu
    assert job.method.settings == {"bound": 20.0, "short_side": 32, "weights": "random"}
    assert extract(job, [Task(video, "a.mp4")], tmp_path / "flow").done == 1
    stored = FlowStore(tmp_path / "flow").reader(video).read([0, 1])
    with open_video(video) as opened:
        assert np.array_equal(stored, job.reader(video, opened).read([0, 1]))
    assert stored.shape == (2, 32, 48, 2)


def test_weights_from_a_file(tmp_path: Path) -> None:
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
    names = {RPN_WEIGHTS.name(str(tmp_path / f"coco.{end}")) for end in ("pth", "safetensors")}
    assert [len(name) for name in names] == [64, 64]
    assert RPN_WEIGHTS.name("random") == "random"


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    torch.save({"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "text.safetensors").write_text("text")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        ("part.pth", r"holds no weights for the rpn, backbone\.\S+ and \d+ more are absent"),
        ("text.pth", ""),
        ("text.safetensors", ""),
        ("list.pth", ""),
        ("gone.pth", ""),
    ):
        with pytest.raises(WeightsError, match=f"{name}.*{message}") as error:
            build_detector(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="there is no such file; leave out --weights"):
        RPN_WEIGHTS.name(str(tmp_path / "gone.pth"))


@pytest.mark.parametrize(
    ("weights", "instead"),
    [(RPN_WEIGHTS, "or use --source motion"), (RAFT_WEIGHTS, "or use --method dis or tvl1")],
)
def test_weights_without_a_network(
    weights: PublishedWeights, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept in TORCH_HOME, and nothing can be fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    with pytest.raises(
        WeightsError, match=f"the weights of {weights.user} cannot be fetched .*{instead}"
    ) as error:
        weights.name(None)
    assert weights.entry.url in str(error.value)
    assert "\n" not in str(error.value)
