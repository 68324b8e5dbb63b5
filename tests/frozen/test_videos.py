"""Frames, scores and stores are what they were in version 0.1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from frozen import record

pytestmark = pytest.mark.usefixtures("shared_data")


@pytest.mark.parametrize("group", record.GROUPS)
def test_every_frame_of_every_video(group: str) -> None:
    found, expected = record.frames(group), record.load("frames")[group]
    assert found.keys() == expected.keys()
    for name, video in expected.items():
        for key in ("frames", "size", "sha1"):
            assert (name, found[name][key]) == (name, video[key])
        assert found[name]["last"] == pytest.approx(video["last"], abs=1e-6)
        np.testing.assert_allclose(found[name]["steps"], video["steps"], rtol=0, atol=0.5)


@pytest.mark.parametrize("name", record.SHIPPED)
def test_scores_and_predictions_of_shipped_weights(name: str) -> None:
    found, expected = record.scores(name), record.load("scores")[name]
    # Of a bootstrap, whose draws may change
    interval = found["eval"]["ci95"].pop("mean_class")
    assert interval == pytest.approx(expected["eval"]["ci95"].pop("mean_class"), abs=2.0)
    assert_close(found, expected)


def test_stored_boxes() -> None:
    for found, expected in zip(record.stores("boxes"), record.load("stores")["boxes"], strict=True):
        assert found["mask"] == expected["mask"]
        np.testing.assert_allclose(found["boxes_xyxy"], expected["boxes_xyxy"], rtol=0, atol=1e-3)
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-3)


def test_stored_flow() -> None:
    for found, expected in zip(record.stores("flow"), record.load("stores")["flow"], strict=True):
        assert found["shape"] == expected["shape"]
        np.testing.assert_allclose(found["quarters"], expected["quarters"], rtol=0, atol=0.5)


def assert_close(found: Any, expected: Any) -> None:
    """Equal, but for numbers that may differ by 1e-4; keys may come, but none may go."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected
