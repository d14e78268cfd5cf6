"""Type 8: a datagram that other hosts pass on. Each hop authenticates all of it and can read none of what is sealed inside.

    0        1        2        3        4                 8                                16
    +--------+--------+-----------------+-----------------+---------------------------------+
    |  0x18  | flags  | segment u16 = 0 | receiver    u32 | counter                     u64 |
    +--------+--------+-----------------+-----------------+---------------------------------+
    16                         24                         32    33        36            36+n      52+n
    +--------------------------+--------------------------+-----+---------+--------------+---------+
    | destination short id   8 | source short id        8 | ttl | 0     3 | datagram   n | tag 16  |
    +--------------------------+--------------------------+-----+---------+--------------+---------+

`receiver` and `counter` are the hop's: the index of its session, and a count of its own. The tag covers everything before it,
under the relay key of the hop's session (`crypto.session.relay_key`) and nonce = 4 zero bytes | counter: AES-256-GCM of nothing,
or ChaCha20-Poly1305 of nothing where the suite says so. The datagram inside is of type 1 to 4, sealed between source and
destination; a relay writes a new first half, takes one from `ttl`, and leaves the rest as it is. Flags and the reserved bytes
are sent as 0 and ignored. Pinned in tests/vectors/relay.json.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from meshd.crypto.aead import Suite
from meshd.errors import DecodeError
from meshd.forward.header import COMMON_SIZE, TAG_SIZE, VERSION, DatagramType
from meshd.ids import SHORT_ID_SIZE, ShortId

__all__ = [
    "CARRIED_TYPES",
    "RELAY_FIRST_BYTE",
    "RELAY_HEADER_SIZE",
    "RELAY_OVERHEAD",
    "RELAY_TTL",
    "RelayHeader",
    "decode_relay_header",
    "encode_relay_header",
    "hop_head",
    "relay_suite",
    "route_half",
]

RELAY_HEADER_SIZE = 36
RELAY_OVERHEAD = RELAY_HEADER_SIZE + TAG_SIZE
RELAY_TTL = 16  # hops, at the source; like a flood's, it only ends what circles while routes differ
RELAY_FIRST_BYTE = VERSION << 4 | DatagramType.RELAY
CARRIED_TYPES = frozenset({DatagramType.INIT, DatagramType.RESPONSE, DatagramType.COOKIE, DatagramType.DATA})

_RELAY = struct.Struct(f"<BBHIQ{SHORT_ID_SIZE}s{SHORT_ID_SIZE}sB3x")
_HOP = struct.Struct("<BBHI")
_ROUTE = struct.Struct(f"<{SHORT_ID_SIZE}s{SHORT_ID_SIZE}sB3x")


class RelayHeader(NamedTuple):
    segment: int
    receiver: int  # index of the hop's session at its receiver
    counter: int
    destination: ShortId
    source: ShortId
    ttl: int


def relay_suite(suite: Suite) -> Suite:
    """What a relay's tag is made with: that of a plain mesh is the same GMAC, which is AES-256-GCM of nothing."""
    return Suite.AES_256_GCM if suite is Suite.PLAIN else suite


def encode_relay_header(header: RelayHeader) -> bytes:
    return _RELAY.pack(RELAY_FIRST_BYTE, 0, *header)


def hop_head(receiver: int) -> bytes:
    """The part of a header that stays the same for one hop's key; its counter follows."""
    return _HOP.pack(RELAY_FIRST_BYTE, 0, 0, receiver)


def route_half(destination: ShortId, source: ShortId, ttl: int = RELAY_TTL) -> bytes:
    """The part after the counter."""
    return _ROUTE.pack(destination, source, ttl)


def decode_relay_header(datagram: bytes | memoryview) -> RelayHeader:
    """Raises DecodeError for one too short to carry anything, another version or another type."""
    if len(datagram) < RELAY_OVERHEAD + COMMON_SIZE:
        raise DecodeError(f"{len(datagram)} bytes are no relayed datagram")
    first, _, segment, receiver, counter, destination, source, ttl = _RELAY.unpack_from(datagram)
    if first != RELAY_FIRST_BYTE:
        raise DecodeError(f"first byte {first:#04x} is not version {VERSION}, type {DatagramType.RELAY.value}")
    return RelayHeader(segment, receiver, counter, ShortId(destination), ShortId(source), ttl)
