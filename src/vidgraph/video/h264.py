"""Which H.264 packets are clean places to start decoding.

Containers and parsers also call frames "key" that are none: plain I frames, and the first frame of
an intra refresh, after which a decoder is right only many frames later. Decoding from these gives
pixels that are nearly right and flagged by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SLICE_IDR, _SEI = 5, 6
_SEI_RECOVERY_POINT = 6
# Type and size of a supplemental message: bytes that are summed, of which 255 means "and more".
_SEI_HEADER = re.compile(rb"(\xff*[\0-\xfe])(\xff*[\0-\xfe])")


def is_clean_start(packet: bytes, extradata: bytes | None) -> bool:
    """Whether decoding from `packet` on gives exactly what decoding from the start gives.

    True for an IDR frame, and for a recovery point that recovers at once (the I frame of an open
    group of pictures). `extradata` is the decoder's configuration.
    """
    for unit in _units(packet, extradata):
        kind = unit[0] & 31
        if kind == _SLICE_IDR or (kind == _SEI and _recovers_at_once(unit)):
            return True
    return False


def _units(packet: bytes, extradata: bytes | None) -> Iterator[bytes]:
    """The units of a packet: after their length (.mp4, .mkv) or between start codes."""
    if extradata and extradata[0] == 1 and len(extradata) > 4:
        num_length_bytes = (extradata[4] & 3) + 1
        position = 0
        while position + num_length_bytes < len(packet):
            length = int.from_bytes(packet[position : position + num_length_bytes], "big")
            position += num_length_bytes
            if length:
                yield packet[position : position + length]
            position += length
    else:
        yield from filter(None, packet.split(b"\0\0\1")[1:])


def _recovers_at_once(unit: bytes) -> bool:
    """Whether a supplemental unit holds a recovery point at once (H.264, D.1.8)."""
    payload, position = unit[1:].replace(b"\0\0\3", b"\0\0"), 0
    while header := _SEI_HEADER.match(payload, position):
        position = header.end()
        if sum(header[1]) == _SEI_RECOVERY_POINT and position < len(payload):
            return payload[position] & 0x80 != 0
        position += sum(header[2])
    return False
