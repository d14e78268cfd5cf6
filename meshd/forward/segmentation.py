"""Cutting a super-frame into segments, as the sender's kernel left it to us (TSO, USO).

The kernel hands over up to 64 KB of one flow under one set of headers. Each segment gets a copy of them with its own lengths,
IPv4 identification and checksum, and TCP sequence number; CWR stays on the first only, FIN and PSH on the last only (RFC 9293,
3168, and what `tcp_gso_segment` of Linux does). Checksums of TCP and UDP stay partial: the pseudo header of the segment,
nothing else.

Nothing loops over segments in Python: payloads are cut by one call, header blocks made by one sum (forward/runs.py), and the two
joined by `map`. Copying a payload once more costs a tenth of sealing it; a turn of a loop costs as much as the sealing.

`header_blocks` is the series of headers; the coalescer on the other side (forward/coalesce.py) predicts by it what comes next.
Behind IPv6 extension headers a receiver does not look for a checksum (protocol.md, Data): segments with such headers are finished
here, in a loop (`chained_segments`), since few have them.

Headers here have the 2-byte entry header of a sealed datagram in front (forward/entries.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from meshd.forward.checksum import complete_checksum, ipv4_header_checksum, pseudo_sum
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import TCP, UDP, Headers
from meshd.forward.runs import byte_run, split

__all__ = [
    "ACK",
    "CWR",
    "FIN",
    "MIN_SEGMENT",
    "PSH",
    "TCP_FLAGS_OFFSET",
    "chained_segments",
    "fit_headers",
    "header_blocks",
    "segment_count",
    "segments",
]

TCP_FLAGS_OFFSET = 13  # from l4
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
MIN_SEGMENT = 128  # bytes of payload: smaller ones cost more than pieces do

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U16_LE = struct.Struct("<H")
_ID_AND_CHECKSUM = struct.Struct(">H4xH")  # from the identification on


def segment_count(payload: int, size: int) -> int:
    """How many segments a payload is cut into."""
    return -(-payload // size)


def segments(data: memoryview, start: int, headers: Headers, size: int) -> list[bytes]:
    """Entries (kind 0) of the segments of the frame at `start`, in order.

    `size` is the payload of all segments but the last. The caller has checked that the headers are those of the frame, that they
    end with the buffer, and that there is payload.
    """
    at = start + headers.payload
    left = len(data) - at
    whole = left // size
    payloads: list[bytes] = list(split(whole, size).unpack_from(data, at)) if whole else []
    if left % size:
        payloads.append(bytes(data[at + whole * size :]))
    template = bytearray(ENTRY_HEADER_SIZE) + data[start:at]
    first_flags, last_flags = _take_boundary_flags(template, headers)
    fit_headers(template, headers, min(size, left))
    blocks = list(header_blocks(bytes(template), headers, size, len(payloads)))
    if first_flags:
        blocks[0] = _with_flags(blocks[0], headers, first_flags)
    if left % size:
        last = bytearray(blocks[-1])
        fit_headers(last, headers, left % size)
        blocks[-1] = bytes(last)
    if last_flags:
        blocks[-1] = _with_flags(blocks[-1], headers, last_flags)
    return list(map(bytes.__add__, blocks, payloads))


def chained_segments(data: memoryview, start: int, headers: Headers, size: int) -> list[bytes]:
    """The same for a frame with IPv6 extension headers, checksums finished.

    The partial checksum gets another length and is else the kernel's: with a routing header, it may be over another destination
    than the one that stands in the IPv6 header (RFC 8200 § 8.1).
    """
    at = start + headers.payload
    payload = data[at:]
    template = bytearray(ENTRY_HEADER_SIZE) + data[start:at]
    first_flags, last_flags = _take_boundary_flags(template, headers)
    l3, l4 = ENTRY_HEADER_SIZE + headers.l3, ENTRY_HEADER_SIZE + headers.l4
    checksum = l4 + headers.checksum_offset
    pseudo = _U16.unpack_from(template, checksum)[0] - (headers.end - headers.l4)
    sequence = _U32.unpack_from(template, l4 + 4)[0]
    entries = []
    for done in range(0, len(payload), size):
        entry = template + payload[done : done + size]
        length = len(entry) - l4
        _U16_LE.pack_into(entry, 0, len(entry) - ENTRY_HEADER_SIZE & 0x3FFF)
        _U16.pack_into(entry, l3 + 4, len(entry) - l3 - 40)
        _U16.pack_into(entry, checksum, (pseudo + length) % 65535 or 65535)
        if headers.protocol == UDP:
            _U16.pack_into(entry, l4 + 4, length)
        else:
            _U32.pack_into(entry, l4 + 4, (sequence + done) & 0xFFFFFFFF)
            entry[l4 + TCP_FLAGS_OFFSET] |= (0 if done else first_flags) | (
                last_flags if done + size >= len(payload) else 0
            )
        complete_checksum(memoryview(entry)[ENTRY_HEADER_SIZE:], headers.l4, headers.checksum_offset)
        entries.append(bytes(entry))
    return entries


def _with_flags(block: bytes, headers: Headers, flags: int) -> bytes:
    at = ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET
    return block[:at] + bytes((block[at] | flags,)) + block[at + 1 :]


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


def header_blocks(block: bytes, headers: Headers, size: int, count: int) -> tuple[bytes, ...]:
    """The header blocks of a series of `count` equal segments; the first is `block` itself. All at once where no field wraps."""
    step = _step(block, headers, size, count)
    if step is None:
        return tuple(islice(_header_run(block, headers, size), count))
    return byte_run((block,), step, count, "big")


def _step(block: bytes, headers: Headers, size: int, count: int) -> int | None:
    """What one block is more than the one before, as integers; None where a field would wrap within the series."""
    step = 0
    if headers.protocol == TCP:
        at = ENTRY_HEADER_SIZE + headers.l4 + 4
        if int.from_bytes(block[at : at + 4], "big") + count * size > 0xFFFFFFFF:
            return None
        step += size << 8 * (len(block) - at - 4)
    if headers.version == 4:
        at = ENTRY_HEADER_SIZE + headers.l3 + 4
        identification, checksum = _ID_AND_CHECKSUM.unpack_from(block, at)
        if identification + count > 0xFFFF or checksum == 0xFFFF or checksum < count:
            return None
        step += (1 << 8 * (len(block) - at - 2)) - (1 << 8 * (len(block) - at - 8))
    return step


def _header_run(block: bytes, headers: Headers, size: int) -> Iterator[bytes]:
    """The same one by one, endlessly, with fields that wrap.

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
