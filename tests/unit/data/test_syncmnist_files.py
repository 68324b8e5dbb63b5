"""Synchronous digits as video files: what is written, and what an interrupted run leaves."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidgraph.data.digits import load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import SyncMnistStream
from vidgraph.data.syncmnist_files import make_dataset
from vidgraph.errors import DataError

OPTIONS = SyncMnistOptions(
    3, "embedded", classes=[1, 4, 7], no_sync_probability=0.25, shuffle_layers=True
)
SETTINGS: dict[str, Any] = {"options": OPTIONS, "counts": {"train": 5, "test": 3}, "seed": 4}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "digits"
    assert make_dataset(folder, **SETTINGS) == folder / "table.csv"
    return folder


def test_table_names_every_file_with_its_label(made: Path) -> None:
    rows = rows_of(made / "table.csv")
    assert [(r["video"], r["split"]) for r in rows[:1] + rows[-1:]] == [
        ("train/000000.mp4", "train"),
        ("test/000002.mp4", "test"),
    ]
    assert len(rows) == 8
    assert all((made / r["video"]).is_file() for r in rows)
    assert {r["label"] for r in rows} <= {"4-1", "7-1", "7-4", "none"}


def test_files_hold_the_pixels_of_the_stream(made: Path) -> None:
    stream = SyncMnistStream(load_digits("embedded", "test"), OPTIONS, 3, seed=3 * 4 + 2)
    batch = stream.__getitems__(range(3))
    labels = [r["label"] for r in rows_of(made / "table.csv") if r["split"] == "test"]
    assert labels == [stream.class_names[i] for i in batch.label]
    for clip in range(3):
        np.testing.assert_array_equal(
            frames_of(made / f"test/{clip:06d}.mp4"), batch.video[clip, 0].numpy()
        )


def test_boxes_track_every_digit_and_its_pair(made: Path) -> None:
    boxes, rows = rows_of(made / "boxes.csv"), rows_of(made / "table.csv")
    assert len(boxes) == 8 * 10 * 3
    assert list(boxes[0]) == ["video", "frame", "digit", "x0", "y0", "x1", "y1"]
    for row in rows:
        mine = [b for b in boxes if b["video"] == row["video"]]
        assert [b["digit"] for b in mine] == ["1", "4", "7"] * 10
        corners = (
            np.array([[float(b["x0"]), float(b["y0"])] for b in mine]).reshape(10, 3, 2) / 0.64
        )
        steps = np.diff(np.rint(corners), axis=0)
        together = {
            f"{b}-{a}"
            for i, a in enumerate((1, 4, 7))
            for j, b in enumerate((1, 4, 7))
            if i < j and (steps[:, i] == steps[:, j]).all()
        }
        assert together == ({row["label"]} - {"none"})
        pixels = frames_of(made / row["video"])
        for box in mine:
            x0, y0, x1, y1 = (round(float(box[k])) for k in ("x0", "y0", "x1", "y1"))
            assert pixels[int(box["frame"]), y0:y1, x0:x1].sum() > 1000


def test_an_interrupted_run_continues_and_a_finished_one_stays(tmp_path: Path, made: Path) -> None:
    folder = tmp_path / "digits"

    def interrupt(done: int, total: int) -> None:
        assert total == 8
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(folder, **SETTINGS, progress=interrupt)
    assert not (folder / "table.csv").exists()
    kept = folder / "train" / "000000.mp4"
    before = kept.stat().st_mtime_ns
    (folder / "train" / "000001.mp4").unlink()
    seen: list[tuple[int, int]] = []
    make_dataset(folder, **SETTINGS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 8), (8, 8)]
    assert kept.stat().st_mtime_ns == before
    for file in sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file()):
        assert (folder / file).read_bytes() == (made / file).read_bytes()
    make_dataset(folder, **SETTINGS, progress=interrupt)  # nothing to do


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "says that it was begun with these settings; choose a new folder"),
        ({"counts": {"train": 6, "test": 3}}, "was begun with these settings"),
        ({"counts": {"val": 0}}, "no clips to write"),
        ({"options": replace(OPTIONS, num_digits=4)}, "num_digits is 4; give 2 to 3"),
        ({"options": replace(OPTIONS, digits="/nowhere")}, "/nowhere: no train-images"),
    ],
)
def test_other_settings_are_refused(made: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_dataset(made, **{**SETTINGS, **change})


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(DataError, match=r"exists, and no syncmnist\.json"):
            make_dataset(folder, **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
