"""Frames with IPv6 extension headers between IPv6 and TCP or UDP; with tests/engine/reference.py, none of meshd's own code."""

from __future__ import annotations

import itertools
import struct

from scapy.packet import Packet

from tests.engine.reference import cut, tcp, vnet

__all__ = [
    "CHAINS",
    "DESTINATION",
    "FOLLOWED",
    "FRAGMENT",
    "HOP_BY_HOP",
    "ICMPV6",
    "ROUTING",
    "TCP",
    "UDP",
    "chained",
    "cut_chained",
    "lengthened",
    "transport",
]

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, ICMPV6 = 0, 43, 44, 60, 58
TCP, UDP = 6, 17
CHAINS = (
    (HOP_BY_HOP,),
    (DESTINATION,),
    (FRAGMENT,),
    (HOP_BY_HOP, DESTINATION),
    (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION),
    (DESTINATION,) * 12,
)
FOLLOWED = [chain for chain in CHAINS if FRAGMENT not in chain and len(chain) <= 8]


def option(kind: int, following: int, units: int = 0, offset: int = 0) -> bytes:
    """One header of the chain, `units` times 8 B longer than the shortest; a fragment's offset counts 8 B."""
    if kind == FRAGMENT:
        return struct.pack(">BBHI", following, 0, offset << 3 | 1, 0x01020304)
    if kind == ROUTING:
        return struct.pack(">BBBBI", following, 0, 253, 0, 0)
    data = 8 * units + 4
    return struct.pack(">BBBB", following, units, 1, data) + bytes(data)  # one PadN


def chained(chain: tuple[int, ...], protocol: int, body: bytes, *, units: int = 0, offset: int = 0) -> bytes:
    """A frame: Ethernet, IPv6, these headers, and what the last one says is `protocol`."""
    kinds = (*chain, protocol)
    options = b"".join(option(kind, after, units, offset) for kind, after in itertools.pairwise(kinds))
    plain = bytes(tcp(b"", 6))
    head = bytearray(plain[:54])
    head[20] = kinds[0]
    struct.pack_into(">H", head, 18, len(options) + len(body))
    return bytes(head) + options + body


def transport(packet: bytes) -> bytes:
    """What stands behind the 40 B of IPv6 in scapy's frame, checksum and all: the pseudo header knows no extension headers."""
    return packet[54:]


def lengthened(data: bytes, chain: tuple[int, ...], units: int = 0) -> bytes:
    """A capture of IPv6 without VLAN tags, with these headers in it: what its kernel says is further behind."""
    frame = bytearray(data[10:])
    kinds = (*chain, frame[20])
    options = b"".join(option(kind, after, units) for kind, after in itertools.pairwise(kinds))
    flags, gso, head, size, start, offset = struct.unpack_from("=BBHHHH", data)
    frame[20] = kinds[0]
    struct.pack_into(">H", frame, 18, len(options) + len(frame) - 54)
    more = len(options)
    return vnet(flags, gso, head + more, size, start + more, offset) + bytes(frame[:54]) + options + bytes(frame[54:])


def cut_chained(packet: Packet, size: int, chain: tuple[int, ...], units: int = 0) -> list[bytes]:
    protocol = 6 if packet.haslayer("TCP") else 17
    return [chained(chain, protocol, transport(piece), units=units) for piece in cut(packet, size)]
