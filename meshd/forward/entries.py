"""What is inside a sealed datagram: entries, one after the other, each a frame, a control message, or a flooded frame.

    +----------------------+----------------+
    | kind:2 | length:14   | body           |      one little-endian u16, then `length` bytes
    +----------------------+----------------+

    flood body:  origin 8 | origin boot u32 LE | sequence u32 LE | ttl 1 | reserved 1 | frame

Kinds are append-only; what is in a fragment: forward/fragment.py. A datagram with one bad entry loses that entry and what
follows it; what came before is good and already on its way.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from meshd.errors import DecodeError
from meshd.ids import SHORT_ID_SIZE, ShortId

__all__ = [
    "ENTRY_HEADER_SIZE",
    "FLOOD_HEADER_SIZE",
    "MAX_ENTRY_SIZE",
    "EntryKind",
    "FloodHeader",
    "decode_entries",
    "decode_flood",
    "encode_entry",
    "encode_flood",
    "entry_header",
]

ENTRY_HEADER_SIZE = 2
MAX_ENTRY_SIZE = 0x3FFF
FLOOD_HEADER_SIZE = SHORT_ID_SIZE + 10

_KIND_SHIFT = 14
_U16 = struct.Struct("<H")
_FLOOD = struct.Struct(f"<{SHORT_ID_SIZE}sIIBB")


@enum.unique
class EntryKind(enum.IntEnum):
    """The top two bits of the entry header. Append only."""

    FRAME = 0
    CONTROL = 1
    FLOOD = 2
    FRAGMENT = 3


class FloodHeader(NamedTuple):
    """Whose flood it is, which one, and how many more hosts may pass it on."""

    origin: ShortId
    boot: int
    sequence: int
    ttl: int


def entry_header(kind: int, size: int) -> bytes:
    return _U16.pack(kind << _KIND_SHIFT | size)


def encode_entry(kind: int, body: bytes | bytearray | memoryview) -> bytes:
    """One entry. The caller keeps the body within MAX_ENTRY_SIZE."""
    return b"".join((entry_header(kind, len(body)), body))


def decode_entries(plain: bytes) -> Iterator[tuple[int, memoryview]]:
    """Kind and body of each entry, in order. Raises DecodeError at the first one that does not fit."""
    view = memoryview(plain)
    at, end = 0, len(view)
    while at < end:
        if end - at < ENTRY_HEADER_SIZE:
            raise DecodeError("an entry header is cut short")
        word = view[at] | view[at + 1] << 8
        start = at + ENTRY_HEADER_SIZE
        at = start + (word & MAX_ENTRY_SIZE)
        if at > end:
            raise DecodeError("an entry is longer than its datagram")
        yield word >> _KIND_SHIFT, view[start:at]


def encode_flood(header: FloodHeader, frame: bytes | bytearray | memoryview) -> bytes:
    """A whole entry of kind 2, entry header included."""
    flood = _FLOOD.pack(header.origin, header.boot, header.sequence, header.ttl, 0)
    return b"".join((entry_header(EntryKind.FLOOD, FLOOD_HEADER_SIZE + len(frame)), flood, frame))


def decode_flood(body: memoryview) -> tuple[FloodHeader, memoryview]:
    """The flood header and the frame behind it. Raises DecodeError when the body is shorter than the header."""
    if len(body) < FLOOD_HEADER_SIZE:
        raise DecodeError("a flood entry is cut short")
    origin, boot, sequence, ttl, _ = _FLOOD.unpack_from(body)
    return FloodHeader(ShortId(origin), boot, sequence, ttl), body[FLOOD_HEADER_SIZE:]
