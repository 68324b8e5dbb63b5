"""Where each frame of a file lies: its packet, and the key frame from which decoding must start to
reach it.

Built from one pass over the packets, without decoding, wherever packets tell the truth; by decoding
once where they do not (see `packets_tell_frames`).

Shapes: P packets in the order of the file (decoding order), N frames in the order of showing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np

# Containers that store the time of showing with every packet, and codecs in which one packet is one
# shown frame.
_TIMED_CONTAINERS = ("mov", "matroska")
_ONE_FRAME_PER_PACKET = frozenset(
    {"h264", "hevc", "vp9", "av1", "libdav1d", "libaom-av1", "mjpeg", "ffv1", "prores", "png"}
)
# An MPEG-4 frame that says "nothing new" takes 7 bytes or little more and is never shown by
# decoders.
_MIN_CODED_BYTES = 64

Identity = Literal["position", "times", "count"]


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
        identity: what tells a packet apart after a seek: its place in the file, its times, or
            nothing but counting from the start.
        numbers: that place, or those times, -> the packet's number.
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
    identity: Identity
    numbers: dict[object, int]
    keys: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    rank: np.ndarray
    errors: frozenset[int] = frozenset()
    num_frames: int | None = None

    def learned(self, errors: AbstractSet[int], num_frames: int | None) -> PacketIndex:
        """The same index with further damaged packets, and a length where it is known."""
        return replace(self, errors=self.errors | errors, num_frames=num_frames or self.num_frames)

    def number_of(self, position: int | None, pts: int | None, dts: int | None) -> int | None:
        """The number of a packet; None if it is new, or if packets can only be counted."""
        return self.numbers.get(position if self.identity == "position" else (pts, dts))

    def is_damaged(self, number: int, errors: AbstractSet[int]) -> bool:
        """Whether packet `number` is, or may build upon, one of the packets `errors`.

        A frame builds upon what was decoded since its start. Frames that are decoded after a key
        frame and shown before it ("leading") are no base for those shown after it, so their faults
        spread no further.
        """
        frame = self.rank[number]
        start = int(self.starts[frame]) if frame >= 0 else 0
        between = [error for error in errors if start <= error <= number]
        is_leading = ((self.keys > start) & (self.keys <= number)).any()
        return any(
            is_leading or self.rank[error] < 0 or self.starts[self.rank[error]] == start
            for error in between
        )

    def times_seconds(self, num_frames: int) -> np.ndarray:
        """When each of the first `num_frames` frames is shown, from 0, float64 [num_frames]."""
        times = [self.records[number].pts for number in self.order.tolist()]
        known = [time for time in times if time is not None]
        # Packed b-frames of .avi files fill some ticks with packets that show nothing: only the
        # rate is to be trusted there.
        is_packed = self.facts.container == "avi" and self.facts.reorder_depth > 0
        if is_packed or len(known) < len(times) or len(set(known)) < len(known):
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
    times = [record.pts for record in shown]
    if not shown or None in times or len(set(times)) < len(times) or not records[0].is_key:
        return False
    first_key = records[0].pts
    if not records[0].is_discarded and any(time < first_key for time in times):  # type: ignore[operator]
        return False
    if facts.codec == "mpeg4":
        return (
            facts.reorder_depth == 0
            and min(record.size for record in records if record.size >= 0) >= _MIN_CODED_BYTES
        )
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
    """The index of a file that was decoded once: frames in the order they were shown.

    Args:
        decoded: the packet of each shown frame, in the order of showing.
        failed: packets from which the decoder made no frame and reported an error, or that the
            demuxer lost. Those between the first and the last shown frame keep their place, so that
            the frames after them keep their number.
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
    minimum = _MIN_CODED_BYTES if facts.codec == "mpeg4" else 1
    # Parsers may call a tiny filler packet a key frame; one that shows no frame is no place to
    # start either.
    keys = np.array(
        [n for n, r in enumerate(records) if r.is_key and r.size >= minimum and place[n] >= 0],
        dtype=np.int64,
    )
    packets = np.asarray(order, dtype=np.int64)
    group = np.searchsorted(keys, packets, side="right") - 1
    for _ in range(len(keys)):
        leading = (
            (group >= 0) & (place[keys[np.maximum(group, 0)]] > place[packets])
            if len(keys)
            else np.zeros(0, dtype=bool)
        )
        if not leading.any():
            break
        group = group - leading
    starts = (
        np.where(group >= 0, keys[np.maximum(group, 0)], 0) if len(keys) else np.zeros_like(packets)
    )
    rank = np.full(len(records), -1, dtype=np.int64)
    rank[packets] = np.arange(len(packets))
    identity, numbers = _identities(records)
    errors = frozenset(n for n, record in enumerate(records) if record.is_corrupt)
    return PacketIndex(facts, records, identity, numbers, keys, packets, starts, rank, errors)


def _identities(records: list[PacketRecord]) -> tuple[Identity, dict[object, int]]:
    """The first of place and times that differs from packet to packet."""
    places: dict[object, int] = {record.position: number for number, record in enumerate(records)}
    if len(places) == len(records) and all(
        record.position is not None and record.position >= 0 for record in records
    ):
        return "position", places
    times: dict[object, int] = {
        (record.pts, record.dts): number for number, record in enumerate(records)
    }
    return ("times", times) if len(times) == len(records) else ("count", {})


class IndexCache:
    """The indices of the files opened last; one pass per file, shared by threads.

    A file is known by path, size and time of change; a changed file is indexed anew.
    """

    def __init__(self, max_packets: int = 50_000) -> None:
        self._indices: OrderedDict[tuple[str, int, int], PacketIndex] = OrderedDict()
        self._max_packets, self._lock = max_packets, Lock()

    @staticmethod
    def _key(path: Path) -> tuple[str, int, int]:
        status = path.stat()
        return str(path.absolute()), status.st_size, status.st_mtime_ns

    def get(self, path: Path) -> PacketIndex | None:
        """The index of `path`, or None."""
        key = self._key(path)
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
            return self._indices.get(key)

    def put(self, path: Path, index: PacketIndex) -> None:
        """Keeps `index`, and forgets those unused for longest if all together are too large."""
        key = self._key(path)
        with self._lock:
            self._indices[key] = index
            self._indices.move_to_end(key)
            while len(self._indices) > 1 and self._num_packets() > self._max_packets:
                self._indices.popitem(last=False)

    def _num_packets(self) -> int:
        return sum(len(index.records) for index in self._indices.values())

    def clear(self) -> None:
        """Drops all entries."""
        with self._lock:
            self._indices.clear()
