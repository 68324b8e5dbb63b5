"""Frozen networks through onnxruntime give torch's maps, are exported once, and fall back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidgraph.backbones.image import SmallResNet2D, TimmNetwork, TimmOptions
from vidgraph.precompute.onnx import frozen_on_cpu

SIZE = (3, 48, 80)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path))
    return tmp_path / "onnx"


def small_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallResNet2D((8, 16)).eval().requires_grad_(False)


def images(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(0.2, 1.5, (number, *SIZE)).astype(np.float32)


def assert_like_torch(network: nn.Module, key: str) -> None:
    frozen = frozen_on_cpu(network, torch.zeros(1, *SIZE), key, threads=1)
    for number in (1, 2, 5):
        with torch.inference_mode():
            expected = network(torch.from_numpy(images(number))).numpy()
        found = frozen(images(number))
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.onnx"))


@pytest.mark.parametrize(
    "name",
    ["tf_efficientnet_lite0"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050")
    ],
)
def test_maps_of_timm_networks_are_torchs(
    name: str, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """For any number of images, without a word."""
    network = TimmNetwork(TimmOptions(name), 3, SIZE[1:])
    assert_like_torch(network.eval(), f"{name}@head")
    assert [path.name.partition("-")[0] for path in files(cache)] == [f"{name}@head"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_network_is_exported_once(cache: Path) -> None:
    """Other weights, or another size, are another file; nothing else is left in the folder."""
    for _ in range(2):
        assert_like_torch(small_network(), "small: a/b")
    (first,) = files(cache)
    written = first.stat().st_mtime_ns
    frozen_on_cpu(small_network(1), torch.zeros(1, *SIZE), "small: a/b")
    frozen_on_cpu(small_network(), torch.zeros(1, 3, 48, 48), "small: a/b")
    assert len(files(cache)) == 3
    assert first.stat().st_mtime_ns == written
    assert first.name.startswith("small_a_b-")
    assert {path.suffix for path in cache.iterdir()} <= {".onnx", ".lock"}


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_made_anew(damage: str, cache: Path) -> None:
    """One that is cut short, and one that holds other weights."""
    frozen_on_cpu(small_network(), torch.zeros(1, *SIZE), "small")
    (path,) = files(cache)
    whole = path.read_bytes()
    frozen_on_cpu(small_network(1), torch.zeros(1, *SIZE), "other")
    (other,) = set(files(cache)) - {path}
    path.write_bytes(whole[:-100] if damage == "cut" else other.read_bytes())
    assert_like_torch(small_network(), "small")
    assert abs(path.stat().st_size - len(whole)) < 100


class Halved(nn.Module):
    """Is another function when it is traced."""

    def forward(self, images: Tensor) -> Tensor:
        return images * (0.999 if torch.compiler.is_compiling() else 1.0)


class Branching(nn.Module):
    """Depends on values, which no graph of operations does."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum().item() > 0 else -images


@pytest.mark.parametrize(
    ("network", "reason"), [(Halved(), "differ from torch's by 1.0e-03"), (Branching(), "")]
)
def test_what_onnxruntime_does_not_take_runs_in_torch(
    network: nn.Module, reason: str, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_like_torch(network.eval(), "odd")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("vidgraph: warning: odd runs in torch, which is slower: ")
    assert reason in err
    assert files(cache) == []


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDGRAPH_CACHE", str(tmp_path / "file"))
    assert_like_torch(small_network(), "small")
    assert "small runs in torch" in capfd.readouterr().err


RACE = """
import sys, torch
from vidgraph.backbones.image import SmallResNet2D
from vidgraph.precompute.onnx import frozen_on_cpu
torch.manual_seed(0)
network = SmallResNet2D((8, 16)).eval()
print(frozen_on_cpu(network, torch.zeros(1, 3, 32, 32), "small", 1)(
    torch.ones(1, 3, 32, 32).numpy()).sum())
"""


@pytest.mark.slow
def test_two_processes_at_once(cache: Path) -> None:
    start = [sys.executable, "-c", RACE]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(start, env=dict(os.environ), **pipes) for _ in range(2)]
    ended = [process.communicate() for process in both]
    assert [err for _, err in ended] == ["", ""]
    assert ended[0] == ended[1]
    assert len(files(cache)) == 1
