"""Small tables of videos, written for a test."""

from __future__ import annotations

from pathlib import Path

from vidgraph.data.table import VideoTable, load_table

SPANS = "video,label,split,start_seconds,end_seconds"


def write_table(
    folder: Path, *rows: str, header: str = "video,label,split", name: str = "t.csv"
) -> VideoTable:
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return load_table(folder / name)
