"""Decoding of a stretch of packets of one file, on one thread unless asked otherwise.

Every decoded frame is tied to its packet by a tag that the decoder carries along, never by its
time: times may be missing, doubled or wrong, and frames may be missing where data are damaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from vidgraph.errors import VideoError
from vidgraph.video.h264 import is_clean_start
from vidgraph.video.packet_index import PacketIndex, PacketRecord, StreamFacts

# A seek costs about as much as demuxing this many packets undecoded (measured: 1.2 ms and 4 us).
_CHEAPER_THAN_SEEK_PACKETS = 256
# A frame is handed out when no packet before it in decoding order can still turn out damaged:
# codecs reorder by at most 16.
_MAX_REORDER_PACKETS = 16
# Decoders that leave out frames on which no other builds without a change to those they do decode.
# Not MPEG-4 part 2: after a skipped b-frame it drops the next one too. Not HEVC: its mark means "no
# base within this temporal layer" only.
_CAN_SKIP_NON_REFERENCE = frozenset({"h264"})
_AVI_CHUNK_HEADER_BYTES = 8


class FileDecoder:
    """An open container and its video decoder; the cursor knows the next packet's number.

    Raises:
        VideoError: the file is missing, empty, not a video, or has no pictures.
    """

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        self._path, self._num_threads = path, num_threads
        # How late a packet's fate may show
        self._lag = _MAX_REORDER_PACKETS + (0 if num_threads == 1 else num_threads or 64)
        # One for all frames: a new one per frame (`frame.to_ndarray`) costs ten times the
        # conversion itself.
        self._reformatter = VideoReformatter()
        self._open()

    def _open(self) -> None:
        self._container = container = _open_container(self._path)
        cover = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & cover]
        if not streams:
            kind = "only audio" if container.streams.audio else "no pictures"
            container.close()
            raise VideoError(self._path, f"the file holds {kind}; it needs a video stream")
        self._stream = streams[0]
        for other in container.streams:
            if other.index != self._stream.index:
                other.discard = av.stream.Discard.all
        context = self._context = self._stream.codec_context
        context.copy_opaque = True
        context.thread_count = self._num_threads
        if self._num_threads != 1:
            context.thread_type = "AUTO"
        self._packets = container.demux(self._stream)
        self._cursor = 0

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def facts(self) -> StreamFacts:
        """What the container says about the stream."""
        stream, context = self._stream, self._context
        rate = stream.average_rate or stream.base_rate or Fraction(25)
        return StreamFacts(
            container=self._container.format.name,
            codec=context.name,
            time_base=stream.time_base or 1 / rate,
            rate=rate,
            declared_num_frames=stream.frames or None,
            reorder_depth=context.reorder_depth,
            width=context.width,
            height=context.height,
        )

    def scan(self) -> list[PacketRecord]:
        """One pass over all packets, without decoding. Leaves the cursor at the end."""
        entries = {
            entry.pos + _AVI_CHUNK_HEADER_BYTES: (entry.timestamp, entry.size)
            for entry in self._stream.index_entries
        }
        records = [self._record(packet) for packet in _real_packets(self._packets)]
        self._cursor = len(records)
        is_avi = self._container.format.name == "avi"
        return _with_lost_packets(records, entries) if is_avi else records

    def _record(self, packet: av.Packet) -> PacketRecord:
        is_key = packet.is_keyframe
        if is_key and self._context.name == "h264":
            is_key = is_clean_start(bytes(packet), self._context.extradata)
        place = packet.pts, packet.dts, packet.pos, packet.size
        return PacketRecord(*place, is_key, packet.is_discard, packet.is_corrupt)

    def decode(
        self,
        index: PacketIndex,
        start: int,
        stop: int,
        wanted: Collection[int] | None,
        errors: set[int],
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decodes packets `start` to `stop` and yields (packet number, frame) of `wanted`.

        Frames on which no other builds are skipped where they are not wanted. A frame is handed out
        only once the fate of every packet before its own is known.

        Args:
            index: of this file.
            start: a key frame's packet, or 0.
            stop: the last packet that is needed.
            wanted: packet numbers, or None for all.
            errors: receives the packets that fail or that the decoder flags as damaged.
        """
        self._go_to(index, start)
        context = self._context
        context.flush_buffers()
        can_skip = wanted is not None and context.name in _CAN_SKIP_NON_REFERENCE
        waiting: list[tuple[int, av.VideoFrame]] = []
        number = start
        for number, packet in self._numbered(index, start, stop):
            if can_skip:
                context.skip_frame = "DEFAULT" if number in wanted else "NONREF"  # type: ignore[operator]
            waiting += self._send(packet, number, wanted, errors)
            while waiting and waiting[0][0] <= number - self._lag:
                yield waiting.pop(0)
        context.skip_frame = "DEFAULT"
        waiting += self._send(None, number, wanted, errors)
        yield from waiting

    def _send(
        self,
        packet: av.Packet | None,
        number: int,
        wanted: Collection[int] | None,
        errors: set[int],
    ) -> list[tuple[int, av.VideoFrame]]:
        """Sends one packet (None: the end) and returns the wanted frames that come out."""
        if packet is not None:
            # A fresh object: PyAV finds tags by their identity, and small integers are shared.
            packet.opaque = (number,)
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError:
            # With several threads an error belongs to an earlier packet: suspect the earliest that
            # it can be.
            errors.add(number if self._num_threads == 1 else max(0, number - self._lag))
            return []
        tagged = [(f.opaque[0], f) for f in frames if isinstance(f.opaque, tuple)]
        errors.update(source for source, frame in tagged if frame.is_corrupt)
        return [(source, frame) for source, frame in tagged if wanted is None or source in wanted]

    def _numbered(
        self, index: PacketIndex, start: int, stop: int
    ) -> Iterator[tuple[int, av.Packet]]:
        """Packets from the cursor on, with their numbers, `start` to `stop`."""
        for packet in _real_packets(self._packets):
            number = index.number_of(packet) if index.numbers else self._cursor
            if number is None:
                continue
            self._cursor = number + 1
            if start <= number <= stop:
                yield number, packet
            if number >= stop:
                return

    def _go_to(self, index: PacketIndex, start: int) -> None:
        """Brings the cursor to `start` or a little before it."""
        near = start - _CHEAPER_THAN_SEEK_PACKETS if index.numbers else 0
        if near <= self._cursor <= start:
            return
        if index.numbers:
            self._seek(index, start)
        if self._cursor > start:
            self._container.close()
            self._open()

    def _seek(self, index: PacketIndex, start: int) -> None:
        """Seeks, and learns from the first known packet where it landed."""
        record = index.records[start]
        times = [record.dts, record.pts]
        if index.facts.container.startswith("matroska"):
            times.reverse()
        time = next((time for time in times if time is not None), None)
        self._cursor = len(index.records)
        if time is None:
            return
        try:
            self._container.seek(time, stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            first = next(_real_packets(packets), None)
        except av.FFmpegError:
            return
        number = None if first is None else index.number_of(first)
        if first is not None and number is not None:
            self._packets, self._cursor = chain([first], packets), number

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Pixels as shown, uint8 [H, W, 3]: RGB, turned as the display matrix says."""
        pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
        return pixels if matrix is None else _turned(pixels, np.frombuffer(bytes(matrix), np.int32))


def _open_container(path: Path) -> av.container.InputContainer:
    try:
        if path.stat().st_size == 0:
            raise VideoError(path, "the file is empty")
        return av.open(str(path), metadata_errors="ignore")
    except FileNotFoundError as error:
        raise VideoError(path, "there is no such file") from error
    except PermissionError as error:
        raise VideoError(path, "the file may not be read; check its permissions") from error
    except (av.FFmpegError, OSError) as error:
        problem = "this is not a video, or its beginning or index is cut off"
        raise VideoError(path, f"{problem} ({error.strerror})") from error


def _real_packets(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Leaves out the dummies that end a stream."""
    try:
        for packet in packets:
            if packet.size or packet.pts is not None or packet.dts is not None:
                yield packet
    except av.FFmpegError:
        return


def _with_lost_packets(
    records: list[PacketRecord], entries: dict[int, tuple[int, int]]
) -> list[PacketRecord]:
    """Puts a marker where an .avi file's own index names a packet that the demuxer did not find.

    Noise makes the demuxer skip packets and count on as if they had never been: every later frame
    would silently take the place of an earlier one. Times then come from the file's index too,
    which is given as time and size by position.
    """
    found = {record.position for record in records}
    last = max((position or 0 for position in found), default=0)
    lost = [position for position in entries if position not in found and position < last]
    if not lost or len(found & entries.keys()) * 2 < len(records):
        return records
    known = [(r.pts, entries[r.position][0]) for r in records if r.position in entries]
    delay = next((pts - time for pts, time in known if pts is not None), 0)
    whole = [
        r._replace(pts=entries[r.position][0] + delay) if r.position in entries else r
        for r in records
    ]
    for position in lost:
        time, size = entries[position]
        whole.append(PacketRecord(time + delay, time, position, size, False, False, True))
    return sorted(whole, key=lambda record: record.position or 0)


def _turned(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies a display matrix [9] of quarter turns and mirrorings; others are ignored.

    Of the matrix ((a, b), (c, d)) in its corner, (x, y) of the stored frame is shown at
    (a x + c y, b x + d y).
    """
    corner = matrix.reshape(3, 3)[:2, :2].astype(np.int64)
    turn = np.where(abs(corner) > 1 << 14, np.sign(corner), 0)
    if (abs(turn).sum(0) != 1).any() or (abs(turn).sum(1) != 1).any():
        return pixels
    if turn[0, 1]:  # x is shown along y
        pixels = pixels.swapaxes(0, 1)
    across, down = turn.sum(0)
    return np.ascontiguousarray(pixels[::down, ::across])
