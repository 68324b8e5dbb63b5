"""The wrapper of torchvision's RAFT, with random weights: what it gives is what torchvision
computes on the frame and its margin.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
from torchvision.transforms.v2 import functional as F

from vidgraph.errors import WeightsError
from vidgraph.precompute.engine import extract
from vidgraph.precompute.flow import FlowJob, LiveFlow
from vidgraph.precompute.flow_store import open_flow
from vidgraph.precompute.raft import Raft
from vidgraph.precompute.tasks import Task
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video


@pytest.fixture(scope="module")
def estimator() -> Raft:
    return Raft("random")


def frames(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def test_flow_is_torchvisions(estimator: Raft) -> None:
    """Against the network built and fed by hand, with torchvision's own preprocessing; 130 x 60
    become 136 x 128.
    """
    pair = frames(130, 60)
    field = estimator.field(*(estimator.prepare(frame) for frame in pair))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = raft_large(weights=None).eval()
    both = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in pair]
    padded = [torch.cat([image, image[:, :, -1:].expand(-1, -1, 6, -1)], 2) for image in both]
    padded = [torch.cat([image, image[:, :, :, -1:].expand(-1, -1, -1, 68)], 3) for image in padded]
    with torch.inference_mode():
        expected = network(
            *Raft_Large_Weights.C_T_SKHT_V2.transforms()(*padded), num_flow_updates=12
        )[-1][0, :, :130, :60]
    assert field.shape == (130, 60, 2)
    assert field.dtype == np.float32
    np.testing.assert_allclose(field, F.to_image(expected).permute(1, 2, 0).numpy(), atol=1e-3)
    assert np.abs(field).max() > 0.1


def test_through_a_store_and_on_the_way(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(64, 96).repeat(2, axis=0)[:3], fps=10, lossless=True)
    job = FlowJob("raft", short_side=32, weights="random")
    assert job.wants_gpu
    assert job.method().settings == {"bound": 20.0, "short_side": 32, "weights": "random"}
    assert extract(job, [Task(tmp_path / "a.mp4", "a.mp4")], tmp_path / "flow").done == 1
    stored = open_flow(tmp_path / "flow").flow(tmp_path / "a.mp4").read([0, 1])
    with open_video(tmp_path / "a.mp4") as video:
        assert np.array_equal(
            stored, LiveFlow(video, "raft", short_side=32, weights="random").read([0, 1])
        )
    assert stored.shape == (2, 32, 48, 2)


def test_weights_from_a_file_and_weights_that_are_none(
    estimator: Raft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {
        key: value + 0.001
        for key, value in estimator._network.state_dict().items()
        if value.is_floating_point()
    }
    torch.save(estimator._network.state_dict() | state, tmp_path / "raft.pth")
    loaded = Raft(str(tmp_path / "raft.pth"))._network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert (
        len(str(FlowJob("raft", weights=str(tmp_path / "raft.pth")).method().settings["weights"]))
        == 64
    )
    torch.save({"feature_encoder.convnormrelu.0.weight": torch.zeros(1)}, tmp_path / "part.pth")
    for name, message in (
        ("part.pth", "is not raft_large's, .* absent or of another shape"),
        ("gone.pth", "there is no such file; leave out --weights"),
    ):
        with pytest.raises(WeightsError, match=message) as error:
            Raft(str(tmp_path / name))
        assert "\n" not in str(error.value)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing is kept there,
    for scheme in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # and nothing can be fetched
    with pytest.raises(
        WeightsError,
        match=r"the weights of raft cannot be fetched \(.*or use --method dis, tvl1 or farneback",
    ) as error:
        FlowJob("raft").method()
    assert Raft_Large_Weights.C_T_SKHT_V2.url in str(error.value)
    assert "\n" not in str(error.value)
