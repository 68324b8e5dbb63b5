"""How long a WebM or Matroska file says it is: one that broke off decodes without a complaint."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

# Identifiers of EBML (RFC 8794) and Matroska (RFC 9559)
_HEADER, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """By how many bytes the file is shorter than its segment says.

    0 for a whole file, for one whose writer did not know its length (a live stream), and for other
    formats.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) != _HEADER:
                return 0
            file.seek(_length(file) or 0, 1)
            length = _length(file) if file.read(4) == _SEGMENT else None
            return 0 if length is None else max(0, file.tell() + length - path.stat().st_size)
    except OSError:
        return 0  # the decoder says what is wrong with it


def _length(file: BinaryIO) -> int | None:
    """A variable-length number: its leading zeros count the bytes that follow."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    size = 9 - first[0].bit_length()
    rest = file.read(size - 1)
    value = int.from_bytes(bytes([first[0] ^ (1 << (8 - size))]) + rest, "big")
    return None if len(rest) < size - 1 or value == (1 << (7 * size)) - 1 else value
