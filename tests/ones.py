"""The one's complement sum, by the book (RFC 1071): the tests' own, beside which the product's is held."""

from __future__ import annotations

__all__ = ["checksum", "fold"]


def fold(data: bytes) -> int:
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """What stands in the header whose checksum field is zero in `data`."""
    return ~fold(data) & 0xFFFF
