"""Which videos a path names."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgraph.errors import VideoError
from vidgraph.video.listing import list_videos, scan_folder


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_files_and_folders_of_frames_stand_side_by_side_in_natural_order(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        *("b10.MP4", "b9.mkv", "frames/1.JPG", "frames/notes.txt", "c/d/e.Webm", "c/poster.png"),
        *(".hidden.mp4", ".cache/a.mp4", "readme.txt"),
    )
    videos, others = scan_folder(root)
    assert [video.relative_to(root).as_posix() for video in videos] == [
        *("b9.mkv", "b10.MP4", "c/d/e.Webm", "frames")
    ]
    assert [other.relative_to(root).as_posix() for other in others] == [
        *("c/poster.png", "frames/notes.txt", "readme.txt")
    ]
    assert list_videos(root) == videos


def test_what_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    root = touch(tmp_path, "frames/0001.bmp", "empty/notes.txt")
    assert list_videos(root / "frames") == [root / "frames"]
    assert list_videos(root / "notes.txt") == [root / "notes.txt"]  # whatever its suffix
    assert list_videos(root) == [root / "frames"]
    with pytest.raises(VideoError, match="empty: the folder holds no videos and no images"):
        list_videos(root / "empty")
