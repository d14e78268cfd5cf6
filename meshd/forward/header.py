"""The outer header of every datagram, and the sealed form of type 4. Every header byte is authenticated.

    0        1        2        3        4                 8                                16
    +--------+--------+-----------------+-----------------+---------------------------------+-------------+---------+
    |ver|type| flags  | segment LE      | receiver index  | counter LE                      | ciphertext  | tag 16  |
    +--------+--------+-----------------+-----------------+---------------------------------+-------------+---------+
     all types                           type 4 only

The first 16 bytes are the associated data; the nonce is four zero bytes and the counter. Type numbers are append-only; a layout
of fixed length is extended by a new type, never by a longer datagram (docs/protocol.md, "Datagrams";
tests/vectors/datagram.json).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from meshd.crypto.wire import MessageType as DatagramType
from meshd.errors import DecodeError
from meshd.forward.runs import byte_run

__all__ = [
    "COMMON_SIZE",
    "DATA_HEADER_SIZE",
    "DATA_OVERHEAD",
    "FLAG_VOUCHED",
    "LAST_COUNTER",
    "NONCE_PREFIX",
    "TAG_SIZE",
    "VERSION",
    "DataHeader",
    "DatagramType",
    "counter_run",
    "data_header_head",
    "decode_data_header",
    "encode_data_header",
]

VERSION = 1
COMMON_SIZE = 4
DATA_HEADER_SIZE = 16
TAG_SIZE = 16
DATA_OVERHEAD = DATA_HEADER_SIZE + TAG_SIZE
NONCE_PREFIX = bytes(4)
LAST_COUNTER = 1 << 63  # far beyond what any key seals

FLAG_VOUCHED = (
    0x01  # type 4: the frames inside carry a pseudo-header-only L4 checksum that the sender's kernel vouched for
)


class DataHeader(NamedTuple):
    """The fields of a type 4 header; unknown flag bits are kept as they came."""

    flags: int
    segment: int
    receiver: int  # index of the receiver's key
    counter: int


_DATA = struct.Struct("<BBHIQ")
_HEAD = struct.Struct("<BBHI")
_BOTH_COUNTERS = 1 << 8 * 8 | 1 << 8 * (DATA_HEADER_SIZE + 4)  # one more in a header and in the nonce behind it
_FIRST_BYTE = VERSION << 4 | DatagramType.DATA


def encode_data_header(header: DataHeader) -> bytes:
    return _DATA.pack(_FIRST_BYTE, header.flags, header.segment, header.receiver, header.counter)


def data_header_head(flags: int, segment: int, index: int) -> bytes:
    """All of the header but the counter: what stays the same under one key."""
    return _HEAD.pack(_FIRST_BYTE, flags, segment, index)


def counter_run(head: bytes, counter: int, count: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The headers of datagrams with consecutive counters, and their nonces."""
    tail = counter.to_bytes(8, "little")
    blocks = byte_run((head + tail, NONCE_PREFIX + tail), _BOTH_COUNTERS, count, "little")
    return blocks[::2], blocks[1::2]


def decode_data_header(datagram: bytes | memoryview) -> DataHeader:
    """The header of a type 4 datagram. Raises DecodeError for a short one, another version or another type."""
    if len(datagram) < DATA_OVERHEAD:
        raise DecodeError(f"{len(datagram)} bytes are no data datagram")
    first, flags, segment, index, counter = _DATA.unpack_from(datagram)
    if first != _FIRST_BYTE:
        raise DecodeError(f"first byte {first:#04x} is not version {VERSION}, type {DatagramType.DATA.value}")
    return DataHeader(flags, segment, index, counter)
