"""Netlink by hand, for what pyroute2 has no words for (nftables' objects) or brings its own loop for (events).

    message    length u32 | type u16 | flags u16 | sequence u32 | port u32 | body | padding to 4      linux/netlink.h
    attribute  length u16 | type u16 | value | padding to 4

Lengths are of everything but the padding; numbers have the host's byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Attributes", "Message", "attribute", "attributes_of", "message", "messages_of", "text_of"]

Attributes = dict[int, bytes]

_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_KIND = 0x3FFF  # of an attribute's type; two flags are above


class Message(NamedTuple):
    kind: int
    flags: int
    body: bytes


def message(kind: int, flags: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 0, 0) + body


def messages_of(data: bytes) -> Iterator[Message]:
    """Those of one read; ends at the first that does not fit."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, flags, _, _ = _MESSAGE.unpack_from(data, at)
        if length < _MESSAGE.size or at + length > len(data):
            return
        yield Message(kind, flags, data[at + _MESSAGE.size : at + length])
        at += _align(length)


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes_of(data: bytes) -> Attributes:
    """By type; ends at the first that does not fit."""
    found: Attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & _KIND] = data[at + _ATTRIBUTE.size : at + length]
        at += _align(length)
    return found


def text_of(value: bytes) -> str:
    """A name, which ends with a zero."""
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _align(length: int) -> int:
    return (length + 3) & ~3
