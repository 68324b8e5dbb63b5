"""`write_video`: what is written is read back, exactly if so asked, and never left half-written."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest

from vidgraph.errors import RunError, VideoError
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video


@pytest.mark.parametrize(
    "shape", [(6, 32, 48, 3), (6, 32, 48), (3, 33, 47, 3), (3, 33, 47), (1, 16, 16, 3), (1, 64, 64)]
)
def test_lossless_is_read_back_to_the_byte(tmp_path: Path, shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, fps=29.97, lossless=True)
    with open_video(tmp_path / "a.mp4") as video:
        assert video.num_frames == shape[0]
        read = video.read(range(shape[0]))
    expected = frames if frames.ndim == 4 else np.repeat(frames[..., None], 3, axis=3)
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_default_quality_is_close_and_keeps_odd_sizes(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]]
    pictures = [np.stack([4 * rows, 4 * columns, np.full(size, 20 * t)], 2) for t in range(8)]
    frames = np.stack(pictures).clip(0, 255).astype(np.uint8)
    write_video(tmp_path / "a.mp4", frames, fps=12.5)
    with open_video(tmp_path / "a.mp4") as video:
        assert (video.height, video.width, video.fps) == (*size, 12.5)
        assert np.abs(video.read(range(8)).astype(int) - frames).mean() < 3


def test_equal_frames_give_equal_files_and_key_frames_at_most_30_apart(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (70, 32, 32), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, fps=25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert max(np.diff([*keys, 70])) <= 30


TWO_SIZES = [np.zeros((16, 16), np.uint8), np.zeros((16, 18), np.uint8)]


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.avi", np.zeros((2, 16, 16), np.uint8), 25, "must end in .mp4"),
        ("a.mp4", np.zeros((2, 16, 16), np.float32), 25, "float32"),
        ("a.mp4", np.zeros((0, 16, 16), np.uint8), 25, "there are no frames to write"),
        ("a.mp4", np.zeros((2, 0, 16), np.uint8), 25, "not empty"),
        ("a.mp4", np.zeros((2, 16, 16, 4), np.uint8), 25, "[16, 16, 4]"),
        ("a.mp4", TWO_SIZES, 25, "uint8 [16, 16] as the first; got uint8 [16, 18]"),
        ("a.mp4", np.zeros((2, 16, 16), np.uint8), 0, "fps must be above 0"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, name: str, frames: Iterable[np.ndarray], fps: float, message: str
) -> None:
    with pytest.raises(VideoError) as caught:
        write_video(tmp_path / name, frames, fps=fps)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunError, match="cannot be written"):
            write_video(target, noise, fps=25, lossless=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
