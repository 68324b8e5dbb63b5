"""Decoding of a stretch of packets of one file, on one thread unless asked otherwise.

Every decoded frame is tied to its packet by a tag that the decoder carries along, never by its
time: times may be missing, doubled or wrong, and frames may be missing where data are damaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from vidgraph.errors import VideoError
from vidgraph.video.h264 import is_clean_start
from vidgraph.video.packet_index import PacketIndex, PacketRecord, StreamFacts

# A seek costs about as much as demuxing this many packets without decoding them (measured: 1.2 ms
# and 4 us).
_CHEAPER_THAN_SEEK_PACKETS = 256
# A frame is handed out when no packet before it in decoding order can still turn out damaged:
# codecs reorder by at most 16.
_MAX_REORDER_PACKETS = 16
# Decoders that leave out frames on which no other builds without a change to those they do decode.
# Not MPEG-4 part 2: after a skipped b-frame it drops the next one too. Not HEVC: its mark means "no
# base within this temporal layer" only.
_CAN_SKIP_NON_REFERENCE = frozenset({"h264"})


class FileDecoder:
    """An open container and its video decoder; the cursor knows the next packet's number."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        """Opens `path`.

        Raises:
            VideoError: the file is missing, empty, not a video, or has no pictures.
        """
        self._path, self._num_threads = path, num_threads
        self._reformatter = VideoReformatter()
        self._open()

    def _open(self) -> None:
        self._container = container = _open_container(self._path)
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic
        ]
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
        self._lag_packets = _MAX_REORDER_PACKETS + (
            self._num_threads or 64 if self._num_threads != 1 else 0
        )
        self._packets = container.demux(self._stream)
        self._cursor = 0

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def facts(self) -> StreamFacts:
        """What the container says about the stream."""
        stream = self._stream
        rate = stream.average_rate or stream.base_rate or Fraction(25)
        base = stream.time_base or 1 / rate
        context = self._context
        declared = stream.frames or None
        size = (context.width, context.height)
        return StreamFacts(
            self._container.format.name,
            context.name,
            base,
            rate,
            declared,
            context.reorder_depth,
            *size,
        )

    def scan(self) -> list[PacketRecord]:
        """One pass over all packets, without decoding. Leaves the cursor at the end."""
        declared = [
            (entry.pos, entry.timestamp, entry.size) for entry in self._stream.index_entries
        ]
        records = [
            PacketRecord(
                p.pts,
                p.dts,
                p.pos,
                p.size,
                p.is_keyframe and self._is_start(p),
                p.is_discard,
                p.is_corrupt,
            )
            for p in _real_packets(self._packets)
        ]
        self._cursor = len(records)
        return (
            _with_lost_packets(records, declared)
            if self._container.format.name == "avi"
            else records
        )

    def _is_start(self, packet: av.Packet) -> bool:
        return self._context.name != "h264" or is_clean_start(
            bytes(packet), self._context.extradata
        )

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
            while waiting and waiting[0][0] <= number - self._lag_packets:
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
            # A fresh object every time: PyAV finds tags by their identity, and small integers are
            # shared.
            packet.opaque = (number,)
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError:
            # With several threads an error belongs to an earlier packet: suspect the earliest that
            # it can be.
            errors.add(number if self._num_threads == 1 else max(0, number - self._lag_packets))
            return []
        out = []
        for frame in frames:
            if not isinstance(frame.opaque, tuple):
                continue
            source = frame.opaque[0]
            if frame.is_corrupt:
                errors.add(source)
            if wanted is None or source in wanted:
                out.append((source, frame))
        return out

    def _numbered(
        self, index: PacketIndex, start: int, stop: int
    ) -> Iterator[tuple[int, av.Packet]]:
        """Packets from the cursor on, with their numbers, `start` to `stop`."""
        for packet in _real_packets(self._packets):
            number = (
                self._cursor
                if index.identity == "count"
                else index.number_of(packet.pos, packet.pts, packet.dts)
            )
            if number is None:
                continue
            self._cursor = number + 1
            if start <= number <= stop:
                yield number, packet
            if number >= stop:
                return

    def _go_to(self, index: PacketIndex, start: int) -> None:
        """Brings the cursor to `start` or a little before it."""
        if self._cursor <= start and (
            start <= self._cursor + _CHEAPER_THAN_SEEK_PACKETS or index.identity == "count"
        ):
            return
        if index.identity != "count":
            self._seek(index, start)
        if self._cursor > start:
            self._container.close()
            self._open()

    def _seek(self, index: PacketIndex, start: int) -> None:
        """Seeks, and learns from the first known packet where it landed."""
        record = index.records[start]
        times = (
            (record.pts, record.dts)
            if index.facts.container.startswith("matroska")
            else (record.dts, record.pts)
        )
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
        number = None if first is None else index.number_of(first.pos, first.pts, first.dts)
        if first is not None and number is not None:
            self._packets = _chain(first, packets)
            self._cursor = number

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Pixels as shown, uint8 [H, W, 3]: RGB, turned as the display matrix says."""
        # One reformatter for all frames: a new one per frame (`frame.to_ndarray`) costs ten times
        # the conversion itself.
        pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
        return (
            pixels
            if matrix is None
            else _turned(pixels, np.frombuffer(bytes(matrix), dtype=np.int32))
        )


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
        raise VideoError(
            path, f"this is not a video, or its beginning or index is cut off ({error.strerror})"
        ) from error


def _real_packets(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Leaves out the dummies that end a stream."""
    try:
        for packet in packets:
            if packet.size or packet.pts is not None or packet.dts is not None:
                yield packet
    except av.FFmpegError:
        return


def _chain(first: av.Packet, rest: Iterator[av.Packet]) -> Iterator[av.Packet]:
    yield first
    yield from rest


_AVI_CHUNK_HEADER_BYTES = 8


def _with_lost_packets(
    records: list[PacketRecord], declared: list[tuple[int, int, int]]
) -> list[PacketRecord]:
    """Puts a marker where an .avi file's own index names a packet that the demuxer did not find.

    Noise makes the demuxer skip packets and count on as if they had never been: every later frame
    would silently take the place of an earlier one. Times then come from the file's index too.
    """
    entries = {
        position + _AVI_CHUNK_HEADER_BYTES: (time, size) for position, time, size in declared
    }
    found = {record.position for record in records}
    lost = [
        position
        for position in entries
        if position not in found and position < max((p or 0 for p in found), default=0)
    ]
    if not lost or len(found & entries.keys()) * 2 < len(records):
        return records
    delay = next(
        (
            r.pts - entries[r.position][0]
            for r in records
            if r.position in entries and r.pts is not None
        ),
        0,
    )
    whole = [
        r._replace(pts=entries[r.position][0] + delay) if r.position in entries else r
        for r in records
    ]
    whole += [
        PacketRecord(entries[p][0] + delay, entries[p][0], p, entries[p][1], False, False, True)
        for p in lost
    ]
    return sorted(whole, key=lambda record: record.position or 0)


def _turned(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies a display matrix of quarter turns and mirrorings; others are ignored.

    The matrix [9] maps a column vector's transpose: (x, y) of the stored frame is shown at (a x + c
    y, b x + d y).
    """
    a, b, c, d = (
        int(np.sign(matrix[i])) if abs(int(matrix[i])) > 1 << 14 else 0 for i in (0, 1, 3, 4)
    )
    if abs(a) + abs(b) != 1 or abs(c) + abs(d) != 1 or abs(a) + abs(c) != 1:
        return pixels
    if b:  # x is shown along y
        pixels = pixels.swapaxes(0, 1)
        a, d = c, b
    rows, columns = slice(None, None, d), slice(None, None, a)
    return np.ascontiguousarray(pixels[rows, columns])
