"""`vidgraph train FOLDER`: made clips, from files to a recogniser and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, run, text_of

import vidgraph
from vidgraph.data.grouping import split_clips
from vidgraph.data.table import load_table
from vidgraph.own_clips import heads, training
from vidgraph.predictor import Predictor
from vidgraph.training.frozen import HeadTraining
from vidgraph.video.writer import write_video

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 230)}
SMALL = ("--frames", "3", "--size", "64", "--workers", "1")
QUICK = HeadTraining(lr=3e-3, weight_decay=0.01, max_epochs=20)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen clips of seven persons in each of three classes, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for label, colour in COLOURS.items():
        for number in range(14):
            rng = np.random.default_rng(number)
            frames = np.full((8, 48, 64, 3), colour, np.uint8)
            frames[:, rng.integers(30) :, :20] = rng.integers(0, 255, 3)
            (folder / label).mkdir(exist_ok=True)
            write_video(folder / label / f"p{number // 2}_{number}.mp4", iter(frames), 8)
    (folder / "red" / "p9_broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [replace(plan, how=QUICK) for plan in (heads.PLANS[0], heads.PLANS[-1])]
    monkeypatch.setattr(training, "PLANS", tuple(plans))


def words(clips: Path, out: Path, *more: str) -> tuple[object, ...]:
    return ("train", clips, "--out", out, "--group-by", r"(p\d+)_", *SMALL, *more)


def test_from_a_folder_to_a_recogniser(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "clips"
    said = text_of(capsys, *words(clips, out))
    assert "1 files are skipped" in said
    assert "42 clips of 3 classes" in said
    assert "<- the model" in said
    assert (out / "skip_list.txt").read_text().count("p9_broken.mp4") == 1
    scores = json.loads((out / "scores.json").read_text())
    assert sum(scores["clips"].values()) == 42
    best = next(head for head in scores["heads"] if head["chosen"])
    assert best["test_accuracy"] == 1
    page = (out / "report.html").read_text()
    assert "mean + linear" in page
    assert "p9_broken.mp4" in page
    # The recogniser answers from files as it did from cached maps.
    predictor = Predictor(out)
    found = predictor.predict(clips / "blue" / "p0_0.mp4", explain=True)
    assert found.top(1)[0][0] == "blue"
    assert found.notes == []
    grey = np.random.default_rng(0).integers(0, 255, (8, 48, 64, 3), np.uint8)
    write_video(tmp_path / "noise.mp4", iter(grey), 8)
    assert any("unlike" in note for note in predictor.predict(tmp_path / "noise.mp4").notes)
    # Nothing is overwritten; the same call with --resume trains nothing again.
    assert "add --resume" in error_of(capsys, *words(clips, out))
    before = {file: file.stat().st_mtime_ns for file in (out / "heads").iterdir()}
    run(*words(clips, out, "--resume"))
    assert {file: file.stat().st_mtime_ns for file in (out / "heads").iterdir()} == before
    assert json.loads((out / "scores.json").read_text())["heads"] == scores["heads"]
    said = error_of(capsys, *words(clips, out, "--resume", "--seed", "1"))
    assert "was begun with seed 0, not 1" in said


def test_logits_of_the_recogniser_are_those_of_the_heads(clips: Path, tmp_path: Path) -> None:
    """From whole maps, live, as from the means over 3 x 3 cells that it was trained on."""
    out = tmp_path / "runs" / "clips"
    run(*words(clips, out))
    table = load_table(clips, split_needed=False)
    skip = "p9_broken"
    table = replace(table, frame=table.frame[~table.frame["name"].str.contains(skip)])
    splits = split_clips(table, r"(p\d+)_", 0)
    chosen = json.loads((out / "scores.json").read_text())["heads"]
    number = next(i for i, head in enumerate(chosen) if head["chosen"])
    plan = training.PLANS[number]
    kept = sorted((out / "heads").glob(f"{plan.name.replace(' ', '-')}-*.safetensors"))
    from safetensors.torch import load_file

    wanted = torch.stack([load_file(file)["test_logits"] for file in kept]).mean(0)
    model = vidgraph.from_pretrained(out)
    predictor = Predictor(out)
    for row, logits in zip(splits.rounds[0]["test"].tolist()[:3], wanted, strict=False):
        video = predictor.predict(splits.frame["video"][row])
        assert model.class_names is not None
        assert video.top(1)[0][0] == model.class_names[int(logits.argmax())]
        temperature = predictor.reference.temperature if predictor.reference else 1.0
        expected = torch.softmax(logits / temperature, 0)
        torch.testing.assert_close(video.probabilities, expected, rtol=0, atol=5e-3)
