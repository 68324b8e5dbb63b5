"""Where each frame of a file lies: its packet, and the key frame from which decoding must start.

Built from one pass over the packets, without decoding, wherever packets tell the truth; by decoding
once where they do not (see `packets_tell_frames`).

Shapes: P packets in the order of the file (decoding order), N frames in the order of showing.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import av
import numpy as np

# Containers that store the time of showing with every packet, and codecs in which one packet is one
# shown frame.
_TIMED_CONTAINERS = ("mov", "matroska")
_ONE_FRAME_PER_PACKET = frozenset(
    ["h264", "hevc", "vp9", "av1", "libdav1d", "libaom-av1", "mjpeg", "ffv1", "prores", "png"]
)
# An MPEG-4 frame that says "nothing new" takes 7 bytes or little more; decoders never show it.
_MIN_CODED_BYTES = 64


class PacketRecord(NamedTuple):
    """One packet as the demuxer hands it out; times in units of the stream's time base."""

    pts: int | None
    dts: int | None
    position: int | None
    size: int
    is_key: bool
    is_discarded: bool
    is_corrupt: bool


@dataclass(frozen=True)
class StreamFacts:
    """What the container says about its video stream."""

    container: str
    codec: str
    time_base: Fraction
    rate: Fraction
    declared_num_frames: int | None
    reorder_depth: int
    width: int
    height: int


@dataclass(frozen=True)
class PacketIndex:
    """The map from frames to packets. It never changes, so readers in several threads may share it;
    what one learns while decoding is an index of its own (`learned`).

    Attributes:
        facts: of the stream.
        records: all packets, [P].
        numbers: what tells a packet apart after a seek (its place in the file, or else its times)
            -> its number; empty where packets can only be counted from the start.
        keys: packets at which decoding can start, increasing.
        order: packet of each frame, int64 [N].
        starts: packet (of a key frame, or 0) at which to start decoding for each frame, int64 [N].
        rank: frame of each packet, -1 where a packet shows none, int64 [P].
        errors: packets known to be damaged, lost, or flagged by the decoder.
        num_frames: frames up to the last one that decodes; None until the file's end has been
            decoded once.
    """

    facts: StreamFacts
    records: list[PacketRecord]
    numbers: dict[object, int]
    keys: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    rank: np.ndarray
    errors: frozenset[int]
    num_frames: int | None = None

    def learned(self, errors: AbstractSet[int], num_frames: int | None) -> PacketIndex:
        """The same index with further damaged packets, and a length where it is known."""
        return replace(self, errors=self.errors | errors, num_frames=num_frames or self.num_frames)

    def number_of(self, packet: av.Packet) -> int | None:
        """The number of a packet; None if it is new, or if packets can only be counted."""
        by_times = self.numbers.get((packet.pts, packet.dts))
        return self.numbers.get(packet.pos, by_times)

    def is_damaged(self, number: int, errors: AbstractSet[int]) -> bool:
        """Whether packet `number` is, or may build upon, one of the packets `errors`.

        A frame builds upon what was decoded since its start. Frames that are decoded after a key
        frame and shown before it ("leading") are no base for those shown after it, so their faults
        spread no further.
        """
        frame = self.rank[number]
        start = int(self.starts[frame]) if frame >= 0 else 0
        is_leading = ((self.keys > start) & (self.keys <= number)).any()
        return any(
            is_leading or self.rank[error] < 0 or self.starts[self.rank[error]] == start
            for error in errors
            if start <= error <= number
        )

    def times_seconds(self, num_frames: int) -> np.ndarray:
        """When each of the first `num_frames` frames is shown, from 0, float64 [num_frames]."""
        times = [self.records[number].pts for number in self.order.tolist()]
        known = [time for time in times if time is not None]
        # Packed b-frames of .avi files fill some ticks with packets that show nothing: only the
        # rate is to be trusted there.
        is_packed = self.facts.container == "avi" and self.facts.reorder_depth > 0
        if is_packed or len(set(known)) < len(times):
            return np.arange(num_frames, dtype=np.float64) / float(self.facts.rate)
        ticks = np.sort(np.asarray(known, dtype=np.int64))
        base = self.facts.time_base
        return (ticks - ticks[0])[:num_frames] * (base.numerator / base.denominator)

    @property
    def fps(self) -> float:
        """Average rate over all frames; the container's own where there is one frame only."""
        span = float(self.times_seconds(len(self.order))[-1]) if len(self.order) > 1 else 0.0
        rate = float(self.facts.rate)
        average = (len(self.order) - 1) / span if span > 0 else rate
        # Times are rounded to ticks of up to 1/30 s (.avi) or 1 ms (.mkv): keep the exact rate
        # where both agree.
        return rate if abs(average - rate) < 1e-3 * rate else average


def packets_tell_frames(facts: StreamFacts, records: list[PacketRecord]) -> bool:
    """Whether order and number of the frames follow from the packets alone.

    True for containers with a time of showing per packet and codecs with one frame per packet,
    starting at a key frame; also for MPEG-4 part 2 without b-frames and without "nothing new"
    frames (UCF101's .avi files). Everything else, such as the packed b-frames of HMDB51's .avi
    files, is decoded once.
    """
    shown = [record for record in records if not record.is_discarded]
    times = [record.pts for record in shown if record.pts is not None]
    if not shown or len(set(times)) < len(shown) or not records[0].is_key:
        return False
    if not records[0].is_discarded and min(times) < times[0]:
        return False
    if facts.codec == "mpeg4":
        smallest = min(record.size for record in records)
        return facts.reorder_depth == 0 and smallest >= _MIN_CODED_BYTES
    return facts.container.startswith(_TIMED_CONTAINERS) and facts.codec in _ONE_FRAME_PER_PACKET


def index_by_time(facts: StreamFacts, records: list[PacketRecord]) -> PacketIndex:
    """The index of a file whose packets tell its frames: frames in the order of their times."""
    by_time = sorted(range(len(records)), key=lambda number: records[number].pts or 0)
    shown = [number for number in by_time if not records[number].is_discarded]
    place = np.empty(len(records), dtype=np.int64)
    place[by_time] = np.arange(len(records))
    return _index(facts, records, shown, place)


def index_by_decoding(
    facts: StreamFacts, records: list[PacketRecord], decoded: list[int], failed: set[int]
) -> PacketIndex:
    """The index of a file that was decoded once, from the packets in the order they were shown.

    Packets that failed between the first and the last shown keep their place, so that the frames
    after them keep their number.
    """
    order = list(decoded)
    for number in sorted(failed - set(decoded)):
        if decoded and min(decoded) < number < max(decoded):
            order.insert(next(i for i, other in enumerate(order) if other > number), number)
    place = np.full(len(records), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    return _index(facts, records, order, place)


def _index(
    facts: StreamFacts, records: list[PacketRecord], order: list[int], place: np.ndarray
) -> PacketIndex:
    """Each frame's start: the last key frame neither decoded nor shown after it."""
    # Parsers may call a tiny filler packet a key frame; one that shows no frame is no place to
    # start either.
    least = _MIN_CODED_BYTES if facts.codec == "mpeg4" else 1
    found = [n for n, r in enumerate(records) if r.is_key and r.size >= least and place[n] >= 0]
    keys, packets = np.array(found, dtype=np.int64), np.array(order, dtype=np.int64)
    group = np.searchsorted(keys, packets, side="right") - 1
    key_places = np.append(place[keys], -1)  # the last is that of group -1, before any key frame
    while (is_leading := key_places[group] > place[packets]).any():
        group -= is_leading
    starts = np.append(keys, 0)[group]
    rank = np.full(len(records), -1, dtype=np.int64)
    rank[packets] = np.arange(len(packets))
    errors = frozenset(n for n, record in enumerate(records) if record.is_corrupt)
    return PacketIndex(facts, records, _numbers(records), keys, packets, starts, rank, errors)


def _numbers(records: list[PacketRecord]) -> dict[object, int]:
    """The number of each packet by its place or its times, the first that differs everywhere."""
    places: dict[object, int] = {record.position: n for n, record in enumerate(records)}
    times: dict[object, int] = {(record.pts, record.dts): n for n, record in enumerate(records)}
    if len(places) == len(records) and not {None, -1} & places.keys():
        return places
    return times if len(times) == len(records) else {}


class IndexCache:
    """The indices of the files opened last; one pass per file, shared by threads.

    A file is known by path, size and time of change; a changed file is indexed anew. All are
    forgotten when they become too large together.
    """

    def __init__(self, max_packets: int = 50_000) -> None:
        self._indices: dict[tuple[str, int, int], PacketIndex] = {}
        self._max_packets, self._lock = max_packets, Lock()

    def get(self, path: Path) -> PacketIndex | None:
        """The index of `path`, or None."""
        return self._indices.get(_identity(path))

    def put(self, path: Path, index: PacketIndex) -> None:
        """Keeps `index` in place of an older one of the same file."""
        key = _identity(path)
        with self._lock:
            self._indices.pop(key, None)
            kept = sum(len(other.records) for other in self._indices.values())
            if kept + len(index.records) > self._max_packets:
                self._indices.clear()
            self._indices[key] = index

    def clear(self) -> None:
        """Drops all entries."""
        with self._lock:
            self._indices.clear()


def _identity(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns
