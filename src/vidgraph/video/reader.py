"""Exact frames of a video, by index, at the cost of what is needed.

A file is read in three steps: one pass over its packets (`packet_index.py`), a plan of stretches
that each start at a key frame and stop at the last frame wanted, and decoding of these stretches
(`file_decoder.py`).

The rules, in short:

* Frame `i` is the i-th frame that a decode from the start would show. Times never decide which
  frame is read.
* `num_frames` is what decodes: the frames after the last key frame are decoded once when it is
  first asked for, and frames missing or broken at the end are not counted. A damaged frame before
  that is counted, and raises when it is read.
* A frame is damaged if the decoder says so, or if anything it builds upon is: pixels that a decoder
  had to guess are never handed out. What no decoder can see stays unseen: H.264 and MPEG-4 carry no
  checksums, and a few changed bytes within one frame may decode without a complaint.

Shapes: H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import av
import numpy as np

from vidgraph.errors import VideoError
from vidgraph.video.array_video import ArrayVideo
from vidgraph.video.base import Video
from vidgraph.video.file_decoder import FileDecoder
from vidgraph.video.frame_folder import FrameFolder
from vidgraph.video.packet_index import (
    IndexCache,
    PacketIndex,
    index_by_decoding,
    index_by_time,
    packets_tell_frames,
)
from vidgraph.video.webm import missing_bytes

# Frames decoded to find the length are kept for reading, up to this much memory per open video.
_KEEP_BYTES = 64 << 20
# Where the end of a file is too large to be kept, so many of its last frames are looked at first.
_TAIL_FRAMES = 16
# Decoding on over so many packets is cheaper than starting the next stretch at its key frame.
_DECODE_OVER_PACKETS = 2

_INDICES = IndexCache()


Frames = str | Path | np.ndarray | Sequence[np.ndarray]  # a video, by its path or in memory


def open_video(path: Frames, *, num_threads: int = 1, folder_fps: float = 25.0) -> Video:
    """Opens a video file, or a folder of images (.jpg, .png, ...; sorted naturally) as a video.

    Args:
        path: the file or folder; or frames, uint8 [T, H, W, 3] or a list of them.
        num_threads: decoding threads; 1 is right in data workers, 0 lets FFmpeg choose. Files only.
        folder_fps: frames per second of what holds no times: a folder of images, or frames.

    Raises:
        VideoError: missing, empty, not a video, only audio, a WebM or Matroska file that is cut
            short, or a folder without images or with a gap in their numbers.
    """
    if not isinstance(path, str | Path):
        return ArrayVideo(path, folder_fps)
    path = Path(path)
    return FrameFolder(path, folder_fps) if path.is_dir() else VideoFile(path, num_threads)


def clear_index_cache() -> None:
    """Forgets what is known of files opened before; for measurements."""
    _INDICES.clear()


class VideoFile(Video):
    """A video file read with PyAV; see `open_video`. What takes decoding to know is lazy."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        self.path, self._num_threads = path, num_threads
        self._kept: dict[int, av.VideoFrame] = {}  # by packet
        self._kept_bytes = 0
        self._decoder = FileDecoder(path, num_threads)
        try:
            self._index = _INDICES.get(path) or self._build_index()
        except BaseException:
            self._decoder.close()
            raise
        self.declared_num_frames = self._index.facts.declared_num_frames

    def _build_index(self) -> PacketIndex:
        if cut := missing_bytes(self.path):
            problem = f"the file is cut short, {cut:,} bytes that it announces are missing"
            raise VideoError(self.path, f"{problem}; fetch it again")
        facts, records = self._decoder.facts(), self._decoder.scan()
        if not records:
            raise VideoError(self.path, "the file holds no frames")
        index = index_by_time(facts, records)
        if not packets_tell_frames(facts, records):
            errors = set(index.errors)
            decoded = self._decode_and_keep(index, 0, len(records) - 1, None, errors)
            index = index_by_decoding(facts, records, decoded, errors)
            index = index.learned(errors, _length(index, {*decoded} - errors, first=0))
        _INDICES.put(self.path, index)
        return index

    def _decode_and_keep(
        self,
        index: PacketIndex,
        start: int,
        stop: int,
        wanted: Collection[int] | None,
        errors: set[int],
    ) -> list[int]:
        """The packets that decode; their frames are kept for `read` while there is room."""
        decoded = []
        for number, frame in self._decoder.decode(index, start, stop, wanted, errors):
            decoded.append(number)
            size = sum(plane.buffer_size for plane in frame.planes)
            if self._kept_bytes + size <= _KEEP_BYTES:
                self._kept[number] = frame
                self._kept_bytes += size
        return decoded

    @cached_property
    def num_frames(self) -> int:  # type: ignore[override]
        index, end = self._index, len(self._index.order)
        while index.num_frames is None and end > 0:
            # The last stretch that starts at a key frame, and then those before it, until one holds
            # a frame that decodes.
            first = int(index.starts[:end].argmax())
            start, packets = int(index.starts[first]), index.order[first:end]
            num_bytes = len(packets) * index.facts.width * index.facts.height * 3 // 2
            fits = num_bytes <= _KEEP_BYTES - self._kept_bytes
            for wanted in [None] if fits else [set(packets[-_TAIL_FRAMES:].tolist()), None]:
                errors: set[int] = set()
                decoded = self._decode_and_keep(index, start, int(packets.max()), wanted, errors)
                length = _length(index, {*decoded} - index.errors - errors, first)
                index = index.learned(errors, length)
                if length:
                    break
            end = first
        if index is not self._index:
            self._index = index
            _INDICES.put(self.path, index)
        if not index.num_frames:
            raise VideoError(self.path, "no frame of the file can be decoded")
        return index.num_frames

    @cached_property
    def timestamps_seconds(self) -> np.ndarray:  # type: ignore[override]
        return self._index.times_seconds(self.num_frames)

    @cached_property
    def fps(self) -> float:  # type: ignore[override]
        return self._index.fps

    def _has(self, index: int) -> bool:
        """Frames before the last key frame exist whatever the end looks like."""
        starts = self._index.starts
        if self._index.num_frames is None and 0 <= index < len(starts):
            return bool(starts[index] < starts.max()) or super()._has(index)
        return super()._has(index)

    def frames(self) -> Iterator[np.ndarray]:
        expected, stop = 0, int(self._index.order[: self.num_frames].max())
        decoder = FileDecoder(self.path, self._num_threads)
        try:
            for place, pixels in self._sound(decoder, 0, stop, None):
                if expected <= place < self.num_frames:
                    yield from map(self._decode_alone, range(expected, place))
                    yield pixels
                    expected = place + 1
            yield from map(self._decode_alone, range(expected, self.num_frames))
        finally:
            decoder.close()

    def _sound(
        self, decoder: FileDecoder, start: int, stop: int, wanted: Collection[int] | None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decodes `start` to `stop`; yields (index, pixels) of the undamaged frames of `wanted`."""
        index = self._index
        errors = set(index.errors)
        for number, frame in decoder.decode(index, start, stop, wanted, errors):
            if not index.is_damaged(number, errors):
                yield int(index.rank[number]), decoder.to_rgb(frame)

    def _read_sorted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        index = self._index
        missing = set(wanted)
        for place in wanted:
            number = int(index.order[place])
            if number in self._kept and not index.is_damaged(number, index.errors):
                missing.discard(place)
                yield place, self._decoder.to_rgb(self._kept[number])
        for start, packets in self._stretches(missing):
            for place, pixels in self._sound(self._decoder, start, max(packets), packets):
                missing.discard(place)
                yield place, pixels
        for place in sorted(missing):
            yield place, self._decode_alone(place)

    def _decode_alone(self, place: int) -> np.ndarray:
        """A frame that did not come out among others: damage elsewhere can drop sound frames.

        Tries from the frame's own start, then from one key frame before it, where a container's
        mark was wrong.
        """
        index = self._index
        number, start = int(index.order[place]), int(index.starts[place])
        for begin in (start, int(index.keys[index.keys < start].max(initial=0))):
            for _, pixels in self._sound(self._decoder, begin, number, {number}):
                return pixels
        problem = "the frame cannot be decoded, its data are damaged or missing"
        advice = "re-encode the video or put it on the skip list"
        raise VideoError(self.path, f"{problem}; {advice}", place)

    def _stretches(self, places: Collection[int]) -> list[tuple[int, set[int]]]:
        """The cheapest stretches that hold the frames `places`: their start and packets wanted."""
        index = self._index
        stretches: list[tuple[int, set[int]]] = []
        stop = -math.inf
        for start, number in sorted((int(index.starts[p]), int(index.order[p])) for p in places):
            if start > stop + 1 + _DECODE_OVER_PACKETS:
                stretches.append((start, set()))
            stop = max(stop, number)
            stretches[-1][1].add(number)
        return stretches

    def close(self) -> None:
        self._kept.clear()
        self._decoder.close()


def _length(index: PacketIndex, sound: set[int], first: int) -> int | None:
    """The length up to the last frame, from `first` on, that decodes soundly; None if none does."""
    places = index.rank[sorted(sound)].tolist()
    return max((place + 1 for place in places if place >= first), default=None)
