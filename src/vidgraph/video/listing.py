"""Which videos a path names: a file, a folder of frame images, or a folder with videos in it."""

from __future__ import annotations

import os
from pathlib import Path

from vidgraph.errors import VideoError
from vidgraph.util import natural_key
from vidgraph.video.frame_folder import IMAGE_SUFFIXES

_KINDS = "mp4 avi mkv webm mov m4v mpg mpeg wmv flv f4v ts mts m2ts 3gp 3g2 ogv vob gif mxf divx"
VIDEO_SUFFIXES = frozenset("." + kind for kind in _KINDS.split())


def has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    """Whether a file's name ends in one of them, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in suffixes


def list_videos(path: str | Path) -> list[Path]:
    """A file or a folder of frame images as it is; any other folder as the videos in it.

    Raises:
        VideoError: the folder holds no video, or cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    videos, _ = scan_folder(path)
    if not videos:
        raise VideoError(path, "the folder holds no videos and no images")
    return videos


def scan_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """The videos in a folder, and its other files, both at any depth and in natural order.

    Video files are told by their suffix; a folder is a video if it holds images, and no video at
    any depth. Hidden files and folders are passed over.

    Raises:
        VideoError: the folder, or one in it, cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise VideoError(folder, f"cannot be read ({error.strerror or error})") from error
    videos: list[Path] = []
    images: list[Path] = []
    others: list[Path] = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            videos_below, others_below = scan_folder(Path(entry.path))
            videos += videos_below
            others += others_below
            continue
        is_video, is_image = (has_suffix(entry.name, s) for s in (VIDEO_SUFFIXES, IMAGE_SUFFIXES))
        (videos if is_video else images if is_image else others).append(Path(entry.path))
    return ([folder], others) if images and not videos else (videos, others + images)
