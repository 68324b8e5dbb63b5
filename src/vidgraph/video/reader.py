"""Exact frames of a video, by index, at the cost of what is needed.

A file is read in three steps: one pass over its packets (`packet_index.py`), a plan of stretches
that each start at a key frame and stop at the last frame wanted, and decoding of these stretches
(`file_decoder.py`).

The rules, in short:

* Frame `i` is the i-th frame that a decode from the start would show. Times never decide which
frame is read. * `num_frames` is what decodes: the frames after the last key frame are decoded once
when it is first asked for, and frames
  missing or broken at the end are not counted. A damaged frame before that is counted, and raises
  when it is read.
* A frame is damaged if the decoder says so, or if anything it builds upon is: pixels that a decoder
had to guess are never
  handed out. What no decoder can see stays unseen: H.264 and MPEG-4 carry no checksums, and a few
  changed bytes within one frame may decode without a complaint.

Shapes: T frames asked for, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from vidgraph.errors import VideoError
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

# Frames that had to be decoded to find the length are kept for reading, up to this much memory per
# open video.
_KEEP_BYTES = 64 << 20
# Where the end of a file is too large to be kept, so many of its last frames are looked at first.
_TAIL_FRAMES = 16
# Decoding on over a gap of this many packets is cheaper than ending a stretch and starting the next
# at its key frame.
_DECODE_OVER_PACKETS = 2

_INDICES = IndexCache()


def open_video(path: str | Path, *, num_threads: int = 1, folder_fps: float = 25.0) -> Video:
    """Opens a video file, or a folder of images (.jpg, .png, ...; sorted naturally) as a video.

    Args:
        path: the file or folder.
        num_threads: decoding threads; 1 is right in data workers, 0 lets FFmpeg choose. Files only.
        folder_fps: frames per second of a folder of images, which holds no times.

    Raises:
        VideoError: missing, empty, not a video, only audio, a WebM or Matroska file that is cut
            short, or a folder without images or with a gap in their numbers.
    """
    path = Path(path)
    if path.is_dir():
        return FrameFolder(path, folder_fps)
    return VideoFile(path, num_threads)


def clear_index_cache() -> None:
    """Forgets what is known of files opened before; for measurements."""
    _INDICES.clear()


@dataclass
class _Stretch:
    """Packets `start` to `stop` in decoding order, of which `wanted` are frames to hand out."""

    start: int
    stop: int
    wanted: set[int] = field(default_factory=set)


def _length(index: PacketIndex, sound: set[int], first: int) -> int | None:
    """The length up to the last frame, from `first` on, that decodes soundly; None if none does."""
    there = [i for i in range(first, len(index.order)) if int(index.order[i]) in sound]
    return there[-1] + 1 if there else None


class VideoFile(Video):
    """A video file read with PyAV; see `open_video`."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        self.path, self._num_threads = path, num_threads
        self._kept: dict[int, av.VideoFrame] = {}
        self._kept_bytes = 0
        self._size: tuple[int, int] | None = None
        self._decoder = FileDecoder(path, num_threads)
        try:
            self._index = self._cached_index()
        except BaseException:
            self._decoder.close()
            raise
        self.declared_num_frames = self._index.facts.declared_num_frames

    def _cached_index(self) -> PacketIndex:
        index = _INDICES.get(self.path)
        if index is None:
            index = self._build_index()
            _INDICES.put(self.path, index)
        return index

    def _build_index(self) -> PacketIndex:
        if cut := missing_bytes(self.path):
            raise VideoError(
                self.path,
                f"the file is cut short, {cut:,} bytes that it announces are missing; fetch it "
                "again",
            )
        facts, records = self._decoder.facts(), self._decoder.scan()
        if not records:
            raise VideoError(self.path, "the file holds no frames")
        index = index_by_time(facts, records)
        if packets_tell_frames(facts, records):
            return index
        errors = set(index.errors)
        decoded = [
            number
            for number, frame in self._decoder.decode(index, 0, len(records) - 1, None, errors)
            if self._keep(number, frame)
        ]
        index = index_by_decoding(facts, records, decoded, errors).learned(errors, None)
        return index.learned(frozenset(), _length(index, {*decoded} - errors, first=0))

    def _tails(self, first: int, end: int) -> list[set[int] | None]:
        """Packets to decode to find the last sound frame: all (None) if they can be kept."""
        facts, packets = self._index.facts, self._index.order[first:end]
        if len(packets) * facts.width * facts.height * 3 // 2 <= _KEEP_BYTES - self._kept_bytes:
            return [None]
        return [set(packets[-_TAIL_FRAMES:].tolist()), None]

    def _keep(self, number: int, frame: av.VideoFrame) -> bool:
        """Keeps a decoded frame for `read` while there is room; always True."""
        size = sum(plane.buffer_size for plane in frame.planes)
        if self._kept_bytes + size <= _KEEP_BYTES:
            self._kept[number] = frame
            self._kept_bytes += size
        return True

    @property
    def num_frames(self) -> int:
        index = self._index
        end = len(index.order)
        while index.num_frames is None and end > 0:
            # Decode the last stretch that starts at a key frame; go one back as long as nothing in
            # it decodes.
            first = int(np.flatnonzero(index.starts[:end] == index.starts[:end].max())[0])
            for wanted in self._tails(first, end):
                errors: set[int] = set()
                start, stop = int(index.starts[first]), int(index.order[first:end].max())
                decoded = [
                    n
                    for n, frame in self._decoder.decode(index, start, stop, wanted, errors)
                    if self._keep(n, frame)
                ]
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

    @property
    def timestamps_seconds(self) -> np.ndarray:
        return self._index.times_seconds(self.num_frames)

    @property
    def fps(self) -> float:
        return self._index.fps

    @property
    def height(self) -> int:
        return self._shown_size()[0]

    @property
    def width(self) -> int:
        return self._shown_size()[1]

    def _shown_size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = next(pixels.shape[:2] for _, pixels in self._read_sorted([0]))
        return self._size

    def _has(self, index: int) -> bool:
        """Frames before the last key frame exist whatever the end looks like."""
        known = self._index.num_frames
        if (
            known is None
            and 0 <= index < len(self._index.order)
            and self._index.starts[index] < self._index.starts.max()
        ):
            return True
        return super()._has(index)

    def frames(self) -> Iterator[np.ndarray]:
        num_frames, index = self.num_frames, self._index
        decoder = FileDecoder(self.path, self._num_threads)
        try:
            expected = 0
            errors = set(index.errors)
            stop = int(index.order[:num_frames].max())
            for number, frame in decoder.decode(index, 0, stop, None, errors):
                place = int(index.rank[number])
                if not expected <= place < num_frames or index.is_damaged(number, errors):
                    continue
                for missing in range(expected, place):
                    yield self._decode_alone(missing)
                yield decoder.to_rgb(frame)
                expected = place + 1
            for missing in range(expected, num_frames):
                yield self._decode_alone(missing)
        finally:
            decoder.close()

    def _read_sorted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        index = self._index
        missing = set(wanted)
        for place in wanted:
            number = int(index.order[place])
            if number in self._kept and not index.is_damaged(number, index.errors):
                missing.discard(place)
                yield place, self._decoder.to_rgb(self._kept[number])
        for stretch in self._stretches(sorted(missing)):
            errors = set(index.errors)
            for number, frame in self._decoder.decode(
                index, stretch.start, stretch.stop, stretch.wanted, errors
            ):
                place = int(index.rank[number])
                if place in missing and not index.is_damaged(number, errors):
                    missing.discard(place)
                    yield place, self._decoder.to_rgb(frame)
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
            errors = set(index.errors)
            for found, frame in self._decoder.decode(index, begin, number, {number}, errors):
                if found == number and not index.is_damaged(number, errors):
                    return self._decoder.to_rgb(frame)
        problem = (
            "the frame cannot be decoded, its data are damaged or missing; re-encode the "
            "video or put it on the skip list"
        )
        raise VideoError(self.path, problem, frame=place)

    def _stretches(self, places: list[int]) -> list[_Stretch]:
        """The cheapest stretches that hold the frames `places`."""
        index = self._index
        needs = sorted((int(index.starts[place]), int(index.order[place])) for place in places)
        stretches: list[_Stretch] = []
        for start, number in needs:
            if not stretches or start > stretches[-1].stop + 1 + _DECODE_OVER_PACKETS:
                stretches.append(_Stretch(start, number))
            stretches[-1].stop = max(stretches[-1].stop, number)
            stretches[-1].wanted.add(number)
        return stretches

    def close(self) -> None:
        self._kept.clear()
        self._decoder.close()
