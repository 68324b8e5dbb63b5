"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidgraph.video.writer import write_video


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data; users do not have it, continuous integration does."""
    folder = Path(
        os.environ.get("VIDGRAPH_TEST_DATA", Path(__file__).parents[2] / "shared")
    ).resolve()
    if not (folder / "data").is_dir():
        pytest.skip(f"real test data is not at {folder}; set VIDGRAPH_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def generated_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 10 frames of 64x64 pixels."""
    path = tmp_path_factory.mktemp("generated") / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    write_video(path, noise, fps=10)
    return path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two Ray nodes with one processor each on this machine; the command finds them by
    RAY_ADDRESS."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # at Ray's 15 they starve beside other work
    memory = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    cluster.add_node(num_cpus=1, **memory)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()
