"""`vidgraph demo` on a few clips goes the whole way; a second call only writes the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgraph.demo import run_demo
from vidgraph.errors import RecipeError

COUNTS = {"train": 32, "val": 8, "test": 8}
OVERRIDES = {"train.clips": "32", "train.val_every_clips": "16", "train.workers": "0"}


def test_the_demo_goes_the_whole_way_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_demo(tmp_path / "demo", OVERRIDES, COUNTS)
    said = capsys.readouterr().out
    for words in ("Writing 48 videos", "Training RSTG", "Training Mean + LSTM", "chance"):
        assert words in said
    text = report.read_text(encoding="utf-8")
    for words in ("Do two digits move together?", "Learning curves", "The graph over the frames"):
        assert words in text
    weights = tmp_path / "demo" / "rstg_small" / "model.safetensors"
    before = weights.read_bytes()
    report.unlink()
    run_demo(tmp_path / "demo", OVERRIDES, COUNTS)
    assert report.exists()
    assert weights.read_bytes() == before


def test_a_misspelt_override_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.lrr"):
        run_demo(tmp_path / "demo", {"train.lrr": "1"})
    assert not (tmp_path / "demo").exists()
