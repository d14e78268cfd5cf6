"""Cutting a super-frame into segments, as the sender's kernel left it to us (TSO, USO).

The kernel hands over up to 64 KB of one flow under one set of headers. Each segment gets a copy of them with its own lengths,
IPv4 identification and checksum, and TCP sequence number; CWR stays on the first only, FIN and PSH on the last only (RFC 9293,
3168, and what `tcp_gso_segment` of Linux does). Checksums of TCP and UDP stay partial: the pseudo header of the segment,
nothing else.

The cut is made in place. The headers of a segment are written over the end of the payload before it, which has gone out by
then, so no payload is copied before the cipher does it:

    |hdr|payload 1|payload 2|payload 3|         segment 1 = hdr + payload 1
    |hdr|payl|hdr |payload 2|payload 3|         segment 2, when 1 is sealed

`header_run` predicts the headers of the next segment of such a series; the coalescer on the other side (forward/coalesce.py)
uses the same prediction to recognize a series. Headers here have the 2-byte entry header of a sealed datagram in front
(forward/entries.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

from meshd.forward.checksum import ipv4_header_checksum, pseudo_sum
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import TCP, UDP, Headers

__all__ = ["ACK", "CWR", "FIN", "PSH", "TCP_FLAGS_OFFSET", "fit_headers", "header_run", "segment_count", "segments"]

TCP_FLAGS_OFFSET = 13  # from l4
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80

_U16 = struct.Struct(">H")
_U16_LE = struct.Struct("<H")


def segment_count(payload: int, size: int) -> int:
    """How many segments a payload is cut into."""
    return -(-payload // size)


def segments(buffer: memoryview, start: int, headers: Headers, size: int) -> Iterator[memoryview]:
    """Entries (kind 0) of the segments of the frame at `start`, in order; each is valid until the next one is asked for.

    `buffer` is written over from `start` - 2 on. `size` is the payload of all segments but the last. The caller has checked that
    the headers are those of the frame, that they end with the buffer, and that there is payload.
    """
    width = ENTRY_HEADER_SIZE + headers.payload
    at = start + headers.payload
    end = len(buffer)
    template = bytearray(buffer[start - ENTRY_HEADER_SIZE : at])
    first_flags, last_flags = _take_boundary_flags(template, headers)
    fit_headers(template, headers, min(size, end - at))
    run = header_run(bytes(template), headers, size)
    if first_flags and end - at > size:
        buffer[at - width : at] = next(run)
        buffer[start + headers.l4 + TCP_FLAGS_OFFSET] |= first_flags
        yield buffer[at - width : at + size]
        at += size
        first_flags = 0
    while at < end - size:
        buffer[at - width : at] = next(run)
        yield buffer[at - width : at + size]
        at += size
    last = bytearray(next(run))
    fit_headers(last, headers, end - at)
    if headers.protocol == TCP:
        last[ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET] |= first_flags | last_flags
    buffer[at - width : at] = last
    yield buffer[at - width : end]


def _take_boundary_flags(template: bytearray, headers: Headers) -> tuple[int, int]:
    """Clear the flags that only the first (CWR) or the last segment (FIN, PSH) may have, and return them."""
    if headers.protocol != TCP:
        return 0, 0
    at = ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET
    flags = template[at]
    template[at] = flags & ~(CWR | FIN | PSH)
    return flags & CWR, flags & (FIN | PSH)


def fit_headers(block: bytearray, headers: Headers, payload: int) -> None:
    """Make entry header, lengths, IPv4 checksum and the partial L4 checksum of a header block fit a payload of this size."""
    frame = memoryview(block)[ENTRY_HEADER_SIZE:]
    length = headers.payload - headers.l4 + payload
    _U16_LE.pack_into(block, 0, headers.payload + payload & 0x3FFF)
    if headers.version == 4:
        _U16.pack_into(frame, headers.l3 + 2, headers.l4 - headers.l3 + length)
        _U16.pack_into(frame, headers.l3 + 10, 0)
        _U16.pack_into(frame, headers.l3 + 10, ipv4_header_checksum(frame[headers.l3 : headers.l4]))
    else:
        _U16.pack_into(frame, headers.l3 + 4, length)
    if headers.protocol == UDP:
        _U16.pack_into(frame, headers.l4 + 4, length)
    _U16.pack_into(frame, headers.l4 + headers.checksum_offset, pseudo_sum(frame, headers, length))


@lru_cache(maxsize=64)
def _layout(version: int, protocol: int, l3: int, l4: int, payload: int) -> struct.Struct:
    """The header block as the parts that stay and, between them, the numbers that change from segment to segment."""
    identification = ENTRY_HEADER_SIZE + l3 + 4
    sequence = ENTRY_HEADER_SIZE + l4 + 4
    rest = payload - l4 - 8
    if version == 4 and protocol == TCP:
        return struct.Struct(f">{identification}sH4sH{sequence - identification - 8}sI{rest}s")
    if version == 4:
        return struct.Struct(f">{identification}sH4sH{ENTRY_HEADER_SIZE + payload - identification - 8}s")
    return struct.Struct(f">{sequence}sI{rest}s")


def header_run(block: bytes, headers: Headers, size: int) -> Iterator[bytes]:
    """The header blocks of a series of equal segments, endlessly; the first is `block` itself.

    IPv4: the identification counts up, and since the checksum is a one's complement sum (forward/checksum.py) the two keep their
    sum modulo 65 535. TCP: the sequence number grows by `size`. A UDP segment over IPv6 has nothing that changes.
    """
    if headers.version == 6 and headers.protocol == UDP:
        while True:
            yield block
    layout = _layout(headers.version, headers.protocol, headers.l3, headers.l4, headers.payload)
    pack = layout.pack
    if headers.version == 6:
        before, sequence, after = layout.unpack(block)
        while True:
            yield pack(before, sequence, after)
            sequence = (sequence + size) & 0xFFFFFFFF
    if headers.protocol == UDP:
        before, identification, middle, checksum, after = layout.unpack(block)
        constant = checksum + identification
        while True:
            yield pack(before, identification, middle, (constant - identification) % 65535, after)
            identification = (identification + 1) & 0xFFFF
    before, identification, middle, checksum, ports, sequence, after = layout.unpack(block)
    constant = checksum + identification
    while True:
        yield pack(before, identification, middle, (constant - identification) % 65535, ports, sequence, after)
        identification = (identification + 1) & 0xFFFF
        sequence = (sequence + size) & 0xFFFFFFFF
