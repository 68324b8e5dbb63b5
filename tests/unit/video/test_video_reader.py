"""`open_video` against the slow plain way: decode everything from the start and index the list."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vidgraph.errors import VideoError
from vidgraph.video import reader
from vidgraph.video.reader import VideoFile, open_video

Encode = Callable[..., Path]
DecodeAll = Callable[[Path], list[np.ndarray]]


def h264(params: str) -> dict[str, object]:
    return {"options": {"x264-params": params}}


OPEN = h264("open-gop=1:bframes=3:scenecut=0")
HEVC = {"x265-params": "bframes=4:keyint=12:log-level=none"}
VPX = {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}
FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "h264 b-frames .mp4": ("a.mp4", h264("bframes=4:b-pyramid=normal")),
    "h264 open groups .mp4": ("a.mp4", OPEN),
    "h264 open groups .mkv": ("a.mkv", OPEN),
    "h264 intra refresh .mp4": ("a.mp4", h264("intra-refresh=1:bframes=0")),
    "h264 interlaced .mp4": ("a.mp4", h264("interlaced=1:bframes=2")),
    "h264 10 bit .mp4": ("a.mp4", {"pixel_format": "yuv420p10le"}),
    "h264 .ts": ("a.ts", h264("bframes=3")),
    "h264 .avi": ("a.avi", h264("bframes=3")),
    "h264 bare": ("a.h264", h264("bframes=3")),
    "hevc open groups .mp4": ("a.mp4", {"codec": "libx265", "options": HEVC}),
    "vp9 .webm": ("a.webm", {"codec": "libvpx-vp9", "options": VPX}),
    "vp8 hidden frames .webm": ("a.webm", {"codec": "libvpx", "options": VPX}),
    "mpeg4 .avi": ("a.avi", {"codec": "mpeg4"}),
    "mpeg4 b-frames .avi": ("a.avi", {"codec": "mpeg4", "max_b_frames": 2}),
    "mpeg4 b-frames .mp4": ("a.mp4", {"codec": "mpeg4", "max_b_frames": 2}),
    "mpeg2 .mpg": ("a.mpg", {"codec": "mpeg2video", "max_b_frames": 2}),
    "mjpeg .avi": ("a.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    "wmv2 .wmv": ("a.wmv", {"codec": "wmv2"}),
    "gif": ("a.gif", {"codec": "gif", "pixel_format": "rgb8"}),
}


def check_random_reads(
    path: Path, expected: list[np.ndarray], num_reads: int = 25, num_threads: int = 1
) -> None:
    """Random sets of frames, with what was kept from counting thrown away halfway, then all frames
    in order."""
    draw = random.Random(0)
    with open_video(path, num_threads=num_threads) as video:
        assert video.num_frames == len(expected)
        assert (video.height, video.width) == expected[0].shape[:2]
        times = video.timestamps_seconds
        assert times.shape == (len(expected),)
        assert times[0] == 0
        assert len(times) == 1 or np.diff(times).min() > 0
        for turn in range(num_reads):
            if turn == num_reads // 2 and isinstance(video, VideoFile):
                video._kept.clear()
            wanted = [draw.randrange(len(expected)) for _ in range(draw.choice([1, 2, 5, 16]))]
            clip = video.read(wanted)
            for place, index in enumerate(wanted):
                assert np.array_equal(clip[place], expected[index]), f"frame {index} of {wanted}"
        for frame, reference in zip(video.frames(), expected, strict=True):
            assert np.array_equal(frame, reference)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_equals_a_sequential_decode(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll, name: str
) -> None:
    file, settings = FORMATS[name]
    path = encode(tmp_path / file, **settings)
    for num_threads in (1, 0, 2) if settings is OPEN else (1,):
        check_random_reads(path, decode_all(path), num_threads=num_threads)


def test_only_as_many_packets_as_needed_are_decoded(
    tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mp4", num_frames=360, **h264("bframes=0:scenecut=0"))
    with open_video(path) as video:
        assert isinstance(video, VideoFile)
        sent, send = [], video._decoder._send

        def note(packet: object, number: int, *rest: object) -> object:
            sent.append(number)
            return send(packet, number, *rest)

        monkeypatch.setattr(video._decoder, "_send", note)
        video.read([30, 27, 30, 340])
    # Groups of 12: packets 24 to 30 and 336 to 340, then one end mark each; the last group is not
    # decoded to learn the length.
    assert sent == [*range(24, 31), 30, *range(336, 341), 340]


def test_variable_rate_keeps_its_times(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll
) -> None:
    ticks = np.cumsum(np.random.default_rng(1).integers(1, 9, 60)).tolist()
    path = encode(tmp_path / "a.mp4", ticks=ticks, time_base=Fraction(1, 100))
    check_random_reads(path, decode_all(path))
    with open_video(path) as video:
        assert np.allclose(video.timestamps_seconds, (np.array(ticks) - ticks[0]) / 100, atol=1e-9)
        assert video.fps == pytest.approx(59 / (ticks[-1] - ticks[0]) * 100)


def test_an_edit_list_hides_the_first_frames(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll
) -> None:
    path = encode(tmp_path / "a.mp4", ticks=list(range(-7, 53)))
    expected = decode_all(path)
    assert len(expected) == 53
    check_random_reads(path, expected)
    with open_video(path) as video:
        assert video.declared_num_frames == 60


@pytest.mark.parametrize(
    ("degrees", "mirror"),
    [(0, False), (90, False), (180, False), (-90, False), (0, True), (90, True)],
)
def test_rotation_and_mirroring_are_applied(
    tmp_path: Path, encode: Encode, degrees: int, mirror: bool
) -> None:
    plain = encode(tmp_path / "plain.mp4", num_frames=3)
    turned = tmp_path / "turned.mp4"
    encode(turned, num_frames=3, prepare=lambda s: s.set_display_rotation(degrees, hflip=mirror))
    with open_video(plain) as video:
        expected = video.read([0, 2])
    # FFmpeg's matrix turns by `degrees` counterclockwise, then mirrors what is shown.
    expected = np.rot90(expected, degrees // 90, axes=(1, 2))
    expected = expected[:, :, ::-1] if mirror else expected
    with open_video(turned) as video:
        assert (video.height, video.width) == expected.shape[1:3]
        assert np.array_equal(video.read([0, 2]), expected)


def test_one_frame(tmp_path: Path, encode: Encode) -> None:
    with open_video(encode(tmp_path / "a.mp4", num_frames=1)) as video:
        assert (video.num_frames, video.fps, video.timestamps_seconds.tolist()) == (1, 25.0, [0.0])
        assert video.read([0, 0]).shape == (2, 48, 64, 3)
        with pytest.raises(VideoError, match=r"frame 1: there is no such frame; .* has 1 frame$"):
            video.read([1])
        assert video.read([]).shape == (0, 48, 64, 3)


# --- damage


def readable_frames(path: Path, num_frames: int, clean: list[np.ndarray]) -> list[int]:
    """Frames that are handed out, one by one; each must equal the clean file's, the others must
    raise and name themselves."""
    sound = []
    with open_video(path) as video:
        assert video.num_frames == num_frames
        for index in range(num_frames):
            error = None
            try:
                frame = video.read([index])[0]
            except VideoError as caught:
                error = caught
            if error is not None:
                assert (error.path, error.frame) == (path, index)
                assert f"{path}, frame {index}: " in str(error)
            else:
                assert np.array_equal(frame, clean[index]), f"frame {index} is not the clean file's"
                sound.append(index)
        if bad := sorted(set(range(num_frames)) - set(sound)):
            with pytest.raises(VideoError, match=f"frame {bad[0]}:"):
                list(video.frames())
    return sound


def overwrite_with_noise(path: Path, bad: Path, begin: int, stop: int) -> None:
    content = bytearray(path.read_bytes())
    content[begin:stop] = np.random.default_rng(3).bytes(stop - begin)
    bad.write_bytes(content)


def packet_places(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        return [(p.pos, p.pos + p.size) for p in container.demux(video=0) if p.size]


# Groups of 12 frames: noise over one frame, over a key frame, over three groups, over the end.
@pytest.mark.parametrize(("first", "last"), [(50, 50), (48, 48), (41, 70), (90, 95)])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_noise_over_packets_raises_and_never_shifts(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll, suffix: str, first: int, last: int
) -> None:
    how = h264("bframes=2:scenecut=0") if suffix == ".mp4" else {"codec": "mpeg4"}
    path = encode(tmp_path / f"a{suffix}", num_frames=96, **how)
    clean, places = decode_all(path), packet_places(path)
    bad = tmp_path / f"bad{suffix}"
    overwrite_with_noise(path, bad, places[first][0], places[last][1])
    at_end = last == 95
    with open_video(bad) as video:
        num_frames = video.num_frames
    # b-frames: packet 90 is shown up to two frames later
    assert num_frames <= 90 + 3 if at_end else num_frames == 96
    sound = readable_frames(bad, num_frames, clean)
    after = [] if at_end else range((last // 12 + 1) * 12, 96)
    assert {*range(first // 12 * 12 - 1), *after} <= set(sound)
    assert not set(sound) & set(range(first + 3, last - 2))


def test_a_few_noisy_bytes_harm_their_group_only(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll
) -> None:
    # H.264 has no checksums: damage within one packet may decode without complaint, so nothing is
    # claimed of frames 48 to 59.
    path = encode(tmp_path / "a.mp4", num_frames=96, **h264("scenecut=0"))
    clean, places = decode_all(path), packet_places(path)
    begin = sum(places[48]) // 2
    overwrite_with_noise(path, tmp_path / "bad.mp4", begin, begin + 40)
    others = [*range(48), *range(60, 96)]
    with open_video(tmp_path / "bad.mp4") as video:
        assert video.num_frames == 96
        assert np.array_equal(video.read(others), np.stack(clean)[others])


def test_half_a_file_with_its_index_in_front_is_as_long_as_what_decodes(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll
) -> None:
    path = encode(tmp_path / "a.mp4", num_frames=96, container_options={"movflags": "faststart"})
    clean = decode_all(path)
    content = path.read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(content[: len(content) // 2])
    with open_video(half) as video:
        length = video.num_frames
        assert 30 < length < 66
        assert video.declared_num_frames == 96
        has = rf"the video has {length} frames \(its header says 96\)"
        with pytest.raises(VideoError, match=f"frame 95: there is no such frame; {has}"):
            video.read([0, 95])
    assert readable_frames(half, length, clean) == list(range(length))


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_half_without_index(path: Path, encode: Encode) -> None:
    content = encode(path.with_name("whole.mp4")).read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, encode: None, "there is no such file"),
        (lambda path, encode: path.write_bytes(b""), "the file is empty"),
        (lambda path, encode: path.write_text("not a video\n" * 500), "this is not a video"),
        (lambda path, encode: _write_sound(path), "only audio"),
        (_write_half_without_index, "cut off"),
        (lambda path, encode: path.mkdir(), "the folder holds no images"),
    ],
    ids=["missing", "empty", "text", "audio", "half", "empty folder"],
)
def test_what_is_no_video_is_one_line(
    tmp_path: Path, encode: Encode, make: Callable[[Path, Encode], object], message: str
) -> None:
    path = tmp_path / "a.mp4"
    make(path, encode)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_size_change_within_a_file_raises(tmp_path: Path) -> None:
    parts = []
    for name, size in (("a.h264", 64), ("b.h264", 96)):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = size, 48, "yuv420p"
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((48, size, 3), 20 * index, np.uint8))
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        parts.append((tmp_path / name).read_bytes())
    (tmp_path / "both.h264").write_bytes(b"".join(parts))
    with open_video(tmp_path / "both.h264") as video:
        assert video.read([0, 9]).shape == (2, 48, 64, 3)
        assert video.read([12]).shape == (1, 48, 96, 3)
        with pytest.raises(VideoError, match="frame 12: its size 96x48 differs from 64x48"):
            video.read([3, 12])


# --- index cache, workers, folders


def test_a_changed_file_is_indexed_anew_and_old_ones_are_forgotten(
    tmp_path: Path, encode: Encode
) -> None:
    path = encode(tmp_path / "a.mp4", num_frames=20)
    for _ in range(2):
        with open_video(path) as video:
            assert video.num_frames == 20
    assert len(reader._INDICES._indices) == 1
    encode(path, num_frames=31)
    with open_video(path) as video:
        assert video.num_frames == 31
    small = reader.IndexCache(max_packets=40)
    with open_video(path) as video:
        assert isinstance(video, VideoFile)
        small.put(path, video._index)
        small.put(encode(tmp_path / "b.mp4", num_frames=20), video._index)
    assert len(small._indices) == 1


def test_threads_read_one_file_as_one_does(
    tmp_path: Path, encode: Encode, decode_all: DecodeAll
) -> None:
    """They share one index, which no reader changes."""
    path = encode(tmp_path / "a.mp4", num_frames=40)
    expected = np.stack(decode_all(path))
    reader.clear_index_cache()

    def read(indices: list[int]) -> bool:
        with open_video(path) as video:
            return video.num_frames == 40 and np.array_equal(video.read(indices), expected[indices])

    wanted = [[i, 39 - i, (7 * i) % 40] for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, wanted))
    with open_video(path) as video:
        assert isinstance(video, VideoFile)
        with pytest.raises(FrozenInstanceError):
            video._index.num_frames = 3  # type: ignore[misc]


def test_a_folder_of_images_is_sorted_by_number(tmp_path: Path) -> None:
    for number in (10, 2, 1, 33):
        Image.fromarray(np.full((8, 12, 3), number, np.uint8)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._frame1.png").write_bytes(b"left by another system")
    with open_video(tmp_path, folder_fps=12) as video:
        assert (video.num_frames, video.height, video.width, video.fps) == (4, 8, 12, 12.0)
        assert video.read([0, 1, 2, 3, 0])[:, 0, 0, 0].tolist() == [1, 2, 10, 33, 1]
        assert [int(frame[0, 0, 0]) for frame in video.frames()] == [1, 2, 10, 33]
        assert video.timestamps_seconds.tolist() == pytest.approx([0, 1 / 12, 2 / 12, 3 / 12])
        with pytest.raises(VideoError, match="frame -1: there is no such frame"):
            video.read([-1])


def test_a_broken_or_odd_sized_image_raises(tmp_path: Path) -> None:
    for number, width in enumerate((12, 12, 13)):
        Image.new("RGB", (width, 8)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:60])
    with open_video(tmp_path) as video:
        assert video.read([0]).shape == (1, 8, 12, 3)
        with pytest.raises(VideoError, match=r"1.jpg, frame 1: the image cannot be decoded"):
            video.read([0, 1])
        with pytest.raises(VideoError, match=r"2.jpg, frame 2: its size 13x8 differs from 12x8"):
            video.read([2])
