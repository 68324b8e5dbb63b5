"""Charades through the command: official files, training on what clips show in stages, scoring by
the maximum, two models compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import error_of, json_of

import by_attribute
from vidgraph.cli import main
from vidgraph.video.writer import write_video

CLASSES = ["c000 Red light", "c001 Green light", "c002 Blue light", "c003 Walking"]
COLOURS = ((230, 20, 20), (20, 230, 20), (20, 20, 230))
HEADER = "id,subject,actions,length\n"
FPS, SHOWN = 10, 20  # frames of one light


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that show two or three lights one after another, with a square that moves before them;
    a table, actions and boxes."""
    folder = tmp_path_factory.mktemp("charades")
    (folder / "labels").mkdir()
    (folder / "labels" / "Charades_v1_classes.txt").write_text("\n".join(CLASSES) + "\n")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        lines = []
        for number in range(count):
            video, order = f"{split.upper()}{number:02}", rng.permutation(3)[: 2 + number % 2]
            lights = [np.tile(np.uint8(COLOURS[k]), (SHOWN, 48, 64, 1)) for k in order]
            frames = np.concatenate(lights)
            for t, frame in enumerate(frames):
                frame[20:30, t % 50 : t % 50 + 10] = 255
            write_video(folder / "videos" / f"{video}.mp4", frames, FPS, lossless=True)
            actions = ";".join(
                f"c00{k} {2 * place:.2f} {2 * place + 2:.2f}" for place, k in enumerate(order)
            )
            lines.append(f"{video},P{number % 8},{actions},{len(frames) / FPS:.2f}\n")
        (folder / "labels" / f"Charades_v1_{split}.csv").write_text(HEADER + "".join(lines))
    make = f"data make charades --labels {folder}/labels --videos {folder}/videos"
    assert main([*make.split(), "--out", f"{folder}/charades.csv"]) == 0
    extract = f"extract proposals {folder}/charades.csv --source motion --count 3 --workers 1"
    assert main([*extract.split(), "--out", f"{folder}/boxes"]) == 0
    return folder


def _recipe(folder: Path, out: Path) -> Path:
    """As the paper trains, at a size for a test: I3D with its graph frozen, then all together."""
    path = out / "lights.yaml"
    table = (
        f"path: {folder}/charades.csv, intervals: {folder}/charades_intervals.csv, boxes: "
        f"{folder}/boxes, short_side: [32, 40]"
    )
    path.write_text(
        "name: lights\n"
        f"shared:\n  data: {{table: {{{table}, val_split: none}}}}\n"
        "  train:\n"
        "    {batch_size: 8, lr: 4.0e-3, precision: fp32, threads: 1, tensorboard: false, device: "
        "cpu, workers: 1,\n"
        "     phases: [{name: backbone, clips: 160, freeze: [head.graph.]},\n"
        "              {name: joint, clips: 64, lr: 1.0e-3}]}\n"
        "  eval: {num_views: 3, full_frame: true, short_side: 32, fusion: max, past_end: loop}\n"
        "rows:\n"
        "  graph: {model: {name: strg_small, input: &input {height: 32, width: 32, num_frames: 4, "
        "sample_fps: 5.0, stride_frames: null,\n"
        "          boxes_per_frame: 3}, head: {dropout: 0.0, width: 32}}}\n"
        "  plain: {model: {name: strg_small, input: *input, head: {graph: none, dropout: 0.0, "
        "width: 32}},\n"
        "          train: {clips: 8, phases: []}}\n"
    )
    return path


@pytest.mark.slow
def test_lights_are_learnt_from_what_clips_show_and_compared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(folder, tmp_path)
    graph, plain = tmp_path / "graph", tmp_path / "plain"
    assert main(["train", f"{recipe}:graph", "--out", str(graph)]) == 0
    out = capsys.readouterr().out
    assert "phase 1 of 2, backbone: 160 clips, " in out
    assert "phase 2 of 2, joint: 64 clips, " in out
    assert main(["train", f"{recipe}:plain", "--out", str(plain)]) == 0
    assert json.loads((graph / "data.json").read_text())["intervals"]
    measured = json_of(capsys, "eval", graph, "--scores", tmp_path / "graph.npz")
    assert (measured["n"], measured["top1"]) == (6, None)
    assert measured["map"] > 90
    assert [row["name"] for row in measured["per_class"]] == CLASSES[:3]  # nobody walks
    assert json.loads((graph / "config.json").read_text())["multi_label"]

    # Two models on the same clips, by an attribute of their classes.
    (tmp_path / "attributes.csv").write_text(
        "class,Warm,Order\nc000,1,first\nc001,0,second\nc002,0,second\n"
    )
    json_of(capsys, "eval", plain, "--scores", tmp_path / "plain.npz")
    files = [str(tmp_path / "graph.npz"), str(tmp_path / "plain.npz")]
    by, chart = str(tmp_path / "attributes.csv"), str(tmp_path / "chart.png")
    assert by_attribute.main([*files, "--by", by, "--chart", chart, "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert [(row["attribute"], row["value"], row["num_classes"]) for row in compared] == [
        ("all", "", 3), ("Warm", "no", 2), ("Warm", "yes", 1), ("Order", "first", 1), ("Order",
          "second", 2),
    ]  # fmt: skip
    assert compared[0]["scores"][0] == measured["map"]
    first, second = compared[0]["scores"]
    assert compared[0]["difference"] == pytest.approx(first - second, abs=2e-3)
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", f"{_recipe(folder, tmp_path)}:graph", "--out", tmp_path / "run"]
    train += ["--train.workers", 0, "--data.table.intervals"]
    actions = tmp_path / "actions.csv"
    video = folder / "videos" / "TRAIN00.mp4"

    # An action that begins after its video, an unknown label, an unknown video, no such file.
    videos = sorted((folder / "videos").glob("T*.mp4"))
    header = "video,label,start_seconds,end_seconds"
    late = "\n".join(f"{path},c000 Red light,90,91" for path in videos)
    for rows, message in (
        (late, "the action from 90 s to 91 s (actions.csv, line "),
        (late, "lies outside the video, whose last frame is shown at "),
        (f"{video},c009 Purple light,0,1", "actions.csv, line 2: label 'c009 Purple light' is not "
         "among the 3 classes of charades.csv"),
        (f"{tmp_path}/absent.mp4,c000 Red light,0,1", "actions.csv, line 2: video "),
    ):  # fmt: skip
        actions.write_text(f"{header}\n{rows}\n")
        assert message in error_of(capsys, *train, actions)
    assert "there is no such file" in error_of(capsys, *train, tmp_path / "nowhere.csv")
    error = error_of(capsys, *train[:-1], "--data.table.label_scope", "row")
    assert "data.table.label_scope: should be 'clip' or 'video', not 'row'" in error
