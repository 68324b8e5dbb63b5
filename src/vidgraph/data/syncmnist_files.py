"""Synchronous digits as files: an .mp4 per clip, a table, and the track of every digit, for all
that works on video files.

Shapes: T frames, n digits per clip.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidgraph.data.digit_drawing import canvas_boxes
from vidgraph.data.digit_sources import SPLITS, load_digits
from vidgraph.data.syncmnist import SyncMnistStream
from vidgraph.errors import DataError
from vidgraph.util import whole_file, write_json
from vidgraph.video.writer import write_video

FPS = 10.0  # frames per second of the files: clips have no rate of their own
SETTINGS_FILE = "syncmnist.json"
_BATCH = 64  # clips drawn at once


def make_dataset(
    out_folder: str | Path,
    num_digits: int,
    counts: Mapping[str, int],
    digits: str | Path = "mnist",
    seed: int = 0,
    num_frames: int = 10,
    classes: Sequence[int] = range(10),
    no_sync_probability: float = 1 / 92,
    shuffle_layers: bool = True,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `table.csv` (video, label, split), lossless files `SPLIT/NUMBER.mp4`, and `boxes.csv`
    with the track of every digit.

    `boxes.csv` has one row per video, frame and digit: `video, frame, digit, x0, y0, x1, y1` in
    pixels of the 64x64 frame. `digit` is the class, which occurs once per video; rows are sorted by
    it, so that their order says nothing about the pair. The same call continues a run that was
    interrupted, and leaves a finished one as it is.

    Args:
        out_folder: a new or empty folder, or one begun by this function with the same settings.
        num_digits: digits per clip. With as many `classes`, frames alone say least (see
            `appearance_accuracy`).
        counts: clips per split, such as {"train": 800, "val": 100, "test": 200}; every split draws
            its own digit images.
        digits: source of the images, as for `load_digits`.
        seed: picks the clips.
        num_frames: frames per clip.
        classes: digit classes that appear.
        no_sync_probability: share of "none".
        shuffle_layers: draw the digits of a clip in random order; False draws the pair first, as
            the authors do.
        report: called with (clips done, clips in all).

    Returns:
        The path of `table.csv`.

    Raises:
        DataError: the folder holds something else or was begun with other settings; or as
            `load_digits` and `SyncMnistStream`.
        RunError: the folder cannot be written or the disk is full; what is whole stays, and the
            same call continues.
    """
    folder = Path(out_folder).expanduser()
    counts = {
        split: int(counts[split]) for split in sorted(counts, key=_split_place) if counts[split] > 0
    }
    if not counts:
        raise DataError(f"no clips to write; give counts for some of {', '.join(SPLITS)}")
    options: dict[str, Any] = {
        "num_frames": num_frames,
        "classes": sorted({int(c) for c in classes}),
        "no_sync_probability": no_sync_probability,
        "shuffle_layers": shuffle_layers,
    }
    streams = {
        split: SyncMnistStream(
            load_digits(digits, split), num_digits, count, 3 * seed + _split_place(split), **options
        )
        for split, count in counts.items()
    }
    _claim(
        folder,
        {
            "num_digits": num_digits,
            "counts": counts,
            "digits": str(digits),
            "seed": seed,
            **options,
        },
    )
    table = folder / "table.csv"
    if not table.is_file():
        _write_videos(folder, streams, report)
        _write_csv(
            folder / "boxes.csv",
            ("video", "frame", "digit", "x0", "y0", "x1", "y1"),
            _box_rows(streams),
        )
        _write_csv(
            table, ("video", "label", "split"), _table_rows(streams)
        )  # last: a table means that all is there
    return table


def _split_place(split: str) -> int:
    if split not in SPLITS:
        raise DataError(f"split {split!r} does not exist; use {', '.join(SPLITS)}")
    return SPLITS.index(split)


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Makes `folder` ours, or checks that it already is."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; choose a new folder")
    note = folder / SETTINGS_FILE
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{note}: cannot be read ({error}); choose a new folder") from error
        if not isinstance(found, dict) or found != settings:
            changed = sorted(
                k for k in settings if not isinstance(found, dict) or found.get(k) != settings[k]
            )
            raise DataError(
                f"{folder}: was begun with other settings ({', '.join(changed)}); repeat those or "
                "choose a new folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"{folder}: is not empty and holds no {SETTINGS_FILE}; choose a new or empty folder"
        )
    else:
        write_json(note, settings)


def _name(split: str, clip: int) -> str:
    return f"{split}/{clip:06d}.mp4"


def _write_videos(
    folder: Path, streams: Mapping[str, SyncMnistStream], report: Callable[[int, int], None] | None
) -> None:
    done, total = 0, sum(len(stream) for stream in streams.values())
    for split, stream in streams.items():
        for begin in range(0, len(stream), _BATCH):
            clips = range(begin, min(begin + _BATCH, len(stream)))
            # A file that is there is whole: files are renamed into place when they are finished.
            absent = [clip for clip in clips if not (folder / _name(split, clip)).is_file()]
            if absent:
                for clip, video in zip(
                    absent, stream.__getitems__(absent).video[:, 0].numpy(), strict=True
                ):
                    write_video(folder / _name(split, clip), video, FPS, lossless=True)
            done += len(clips)
            if report is not None:
                report(done, total)


def _box_rows(streams: Mapping[str, SyncMnistStream]) -> Iterable[tuple[Any, ...]]:
    for split, stream in streams.items():
        for begin in range(0, len(stream), _BATCH):
            rows = np.arange(begin, min(begin + _BATCH, len(stream)))
            images, path, _ = stream.plan(rows)
            for clip, shown, corners in zip(
                rows.tolist(), stream.digits.labels[images], path, strict=True
            ):
                boxes = canvas_boxes(corners)  # [T, n, 4]
                for frame, digit in np.ndindex(corners.shape[0], corners.shape[1]):
                    place = np.argsort(shown)[digit]
                    yield (
                        _name(split, clip),
                        frame,
                        int(shown[place]),
                        *(f"{x:.2f}" for x in boxes[frame, place]),
                    )


def _table_rows(streams: Mapping[str, SyncMnistStream]) -> Iterable[tuple[str, str, str]]:
    for split, stream in streams.items():
        for clip, label in enumerate(stream.plan(np.arange(len(stream)))[2]):
            yield _name(split, clip), stream.class_names[label], split


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
