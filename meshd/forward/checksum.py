"""The Internet checksum (RFC 1071), whole, pseudo-header only, and completed.

A one's complement sum of big-endian 16-bit words is the number that the bytes spell, modulo 65 535 (2^16 is 1 there). So
Python's own long integers do the loop. Of the two zeros of that arithmetic the field gets 0xffff, as Linux does
(`CSUM_MANGLED_0`), since 0 means "no checksum" to UDP; only an IPv4 header gets a true 0.
"""

from __future__ import annotations

import struct

from meshd.forward.ethernet import Headers

__all__ = ["complete_checksum", "ipv4_header_checksum", "is_right", "ones_sum", "pseudo_sum"]

_U16 = struct.Struct(">H")


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """The sum of all 16-bit words, 0 … 65 534; an odd last byte counts as the high half of a word."""
    return (int.from_bytes(data, "big") << 8 * (len(data) & 1)) % 65535


def ipv4_header_checksum(header: bytes | bytearray | memoryview) -> int:
    """The checksum of an IPv4 header whose checksum field is zero."""
    return 65535 - (ones_sum(header) or 65535)


def pseudo_sum(frame: bytes | bytearray | memoryview, headers: Headers, length: int) -> int:
    """What stands in a "partial" checksum field: the sum of the pseudo header for `length` bytes of L4 (RFC 9293, 8200)."""
    addresses = (
        frame[headers.l3 + 12 : headers.l3 + 20] if headers.version == 4 else frame[headers.l3 + 8 : headers.l3 + 40]
    )
    return (ones_sum(addresses) + headers.protocol + length) % 65535 or 65535


def is_right(frame: bytes | bytearray | memoryview, headers: Headers) -> bool:
    """Whether the L4 checksum is whole, and that of what is there."""
    pseudo = pseudo_sum(frame, headers, headers.end - headers.l4)
    return (ones_sum(frame[headers.l4 : headers.end]) + pseudo) % 65535 == 0


def complete_checksum(frame: bytearray | memoryview, start: int, offset: int) -> bool:
    """Finish a partial checksum in place; False, and nothing touched, when the place is outside the frame."""
    at = start + offset
    if at + 2 > len(frame):
        return False
    _U16.pack_into(frame, at, 65535 - ones_sum(frame[start:]))
    return True
