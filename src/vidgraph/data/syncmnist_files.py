"""Synchronous digits as files: an .mp4 per clip, a table, and the track of every digit, for all
that works on video files.

Shapes: T frames, n digits per clip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vidgraph.data.digits import SPLITS, load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import FRAME, SyncMnistStream, digit_boxes
from vidgraph.errors import DataError
from vidgraph.util import atomic_write
from vidgraph.video.writer import write_video

FPS = 10.0  # frames per second of the files: clips have no rate of their own
SETTINGS_FILE = "syncmnist.json"
_BATCH = 64  # clips drawn at once


def make_dataset(
    out_folder: str | Path,
    options: SyncMnistOptions,
    counts: Mapping[str, int],
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Writes `table.csv`, lossless `SPLIT/NUMBER.mp4`, and `boxes.csv` with every digit's track.

    `boxes.csv` has one row per video, frame and digit: `video, frame, digit, x0, y0, x1, y1` in
    pixels of the 64x64 frame. `digit` is the class, which occurs once per video; rows are sorted by
    it, so that their order says nothing about the pair. The same call continues a run that was
    interrupted, and leaves a finished one as it is.

    Args:
        out_folder: a new or empty folder, or one begun by this function with the same settings.
        options: what clips show. Without `shuffle_layers` the pair is drawn first, as the authors
            do, which betrays it where digits overlap.
        counts: clips per split, such as {"train": 800, "val": 100, "test": 200}; every split draws
            its own digit images.
        seed: picks the clips.
        progress: called with (clips done, clips in all).

    Returns:
        The path of `table.csv`.

    Raises:
        DataError: the folder holds something else or was begun with other settings; or as
            `SyncMnistStream`.
        RunError: the folder cannot be written; what is whole stays, and the same call continues.
    """
    folder = Path(out_folder).expanduser()
    counts = {split: counts[split] for split in SPLITS if counts.get(split)}
    if not counts:
        raise DataError(f"no clips to write; give counts for some of {', '.join(SPLITS)}")
    streams = {}
    for split, count in counts.items():
        digits, own_seed = load_digits(options.digits, split), 3 * seed + SPLITS.index(split)
        streams[split] = SyncMnistStream(digits, options, count, own_seed)
    begin_folder(folder, SETTINGS_FILE, {"counts": counts, "seed": seed, **asdict(options)})
    table = folder / "table.csv"
    if not table.is_file():
        _write_videos(folder, streams, progress)
        # The table comes last: where it is, all is there.
        for path, rows_of in ((folder / "boxes.csv", _tracks), (table, _labels)):
            rows = pd.concat([rows_of(split, stream) for split, stream in streams.items()])
            with atomic_write(path) as temporary:
                rows.to_csv(temporary, index=False, float_format="%.2f", lineterminator="\r\n")
    return table


def begin_folder(folder: Path, note_name: str, settings: dict[str, Any]) -> None:
    """Notes the settings in a new folder, or checks that it was begun with the same."""
    note, text = folder / note_name, json.dumps(settings, indent=2)
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder}: exists, and no {note_name} in it says that it was begun with these "
            "settings; choose a new folder"
        )
    with atomic_write(note) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _name(split: str, clip: int) -> str:
    return f"{split}/{clip:06d}.mp4"


def _write_videos(
    folder: Path, streams: Mapping[str, SyncMnistStream], progress: Callable[[int, int], None]
) -> None:
    done, total = 0, sum(len(stream) for stream in streams.values())
    for split, stream in streams.items():
        for begin in range(0, len(stream), _BATCH):
            clips = range(begin, min(begin + _BATCH, len(stream)))
            # A file that is there is whole: files are renamed into place when they are finished.
            absent = [clip for clip in clips if not (folder / _name(split, clip)).is_file()]
            videos = stream.__getitems__(absent).video[:, 0].numpy()
            for clip, video in zip(absent, videos, strict=True):
                write_video(folder / _name(split, clip), video, FPS, lossless=True)
            done += len(clips)
            progress(done, total)


def _labels(split: str, stream: SyncMnistStream) -> pd.DataFrame:
    labels = [stream.class_names[k] for k in stream.plan(np.arange(len(stream)))[2]]
    names = [_name(split, clip) for clip in range(len(stream))]
    return pd.DataFrame({"video": names, "label": labels, "split": split})


def _tracks(split: str, stream: SyncMnistStream) -> pd.DataFrame:
    """A row per clip, frame and digit."""
    images, walks, _ = stream.plan(np.arange(len(stream)))
    digits = stream.digits.labels[images]  # [B, n]
    order = np.argsort(digits, axis=1)
    boxes = FRAME * np.take_along_axis(digit_boxes(walks), order[:, None, :, None], 2)
    clip, frame, digit = (index.ravel() for index in np.indices(boxes.shape[:3]))
    names, classes = [_name(split, number) for number in clip.tolist()], np.sort(digits, axis=1)
    rows = pd.DataFrame({"video": names, "frame": frame, "digit": classes[clip, digit]})
    rows[["x0", "y0", "x1", "y1"]] = boxes.reshape(-1, 4)
    return rows
