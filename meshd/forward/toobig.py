"""What a router would say about a frame that is too large for its path: ICMP "fragmentation needed" (RFC 792, 1191) in IPv4,
"packet too big" (RFC 4443 § 3.2) in IPv6, as a frame for whoever sent it.

The sender then knows the path's size and keeps to it; so we say it only when the size was measured. A mesh is one Ethernet, and no
router of its own stands between two containers, so the answer comes from the address that the packet was for.

Nothing is said, as RFC 1812 § 4.3.2.7 and RFC 4443 § 2.4 (e) have it, about an ICMP error or redirect, a fragment, a packet to or
from a group, or from an address that is no single host's; nor where it would not help: IPv4 without DF, and IPv6 packets up to
1280 B, since nobody need send smaller ones.
"""

from __future__ import annotations

import struct

from meshd.forward.checksum import ipv4_header_checksum, ones_sum
from meshd.forward.ethernet import V6_CHAIN, V6_EXTENSIONS, network_header
from meshd.forward.neighbours import ICMPV6, icmpv6_sum

__all__ = ["IPV6_MIN_MTU", "too_big"]

IPV6_MIN_MTU = 1280

Buffer = bytes | bytearray | memoryview

_ICMP = 1
_V4_ERRORS = frozenset({3, 4, 5, 11, 12})  # unreachable, source quench, redirect, time exceeded, parameter problem
_V6_FIRST_INFORMATIONAL = 128
_V6_REDIRECT = 137
_V6_FRAGMENT = 44
_DF, _MORE_OR_OFFSET = 0x4000, 0x3FFF
_HOPS = 64
_QUOTED_V4 = 576 - 20 - 8  # RFC 1812 § 4.3.2.3
_QUOTED_V6 = IPV6_MIN_MTU - 40 - 8


def too_big(frame: Buffer, room: int) -> bytes | None:
    """The answer to `frame`, of which only frames of `room` bytes fit; None: nothing is said about it. Never raises."""
    if frame[0] & 1 or frame[6] & 1:
        return None
    ethertype, l3 = network_header(frame)
    packet = bytes(frame[l3:])
    head = bytes(frame[6:12]) + bytes(frame[:6]) + bytes(frame[12:l3])
    if ethertype == 0x0800:
        answer = _frag_needed(packet, room - l3)
    elif ethertype == 0x86DD:
        answer = _packet_too_big(packet, room - l3)
    else:
        answer = None
    return None if answer is None else head + answer


def _frag_needed(packet: bytes, mtu: int) -> bytes | None:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    fragment = int.from_bytes(packet[6:8], "big")
    source, destination = packet[12:16], packet[16:20]
    if header < 20 or not header + 8 <= total <= len(packet) or not fragment & _DF or fragment & _MORE_OR_OFFSET:
        return None
    if packet[9] == _ICMP and packet[header] in _V4_ERRORS:
        return None
    if total <= mtu or not _is_host_v4(source) or not _is_host_v4(destination):
        return None
    quoted = packet[: min(total, _QUOTED_V4)]
    message = bytearray(struct.pack(">BBHHH", 3, 4, 0, 0, max(0, mtu)) + quoted)
    struct.pack_into(">H", message, 2, 65535 - ones_sum(message))
    reply = bytearray(
        struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0, _HOPS, _ICMP, 0, destination, source)
    )
    struct.pack_into(">H", reply, 10, ipv4_header_checksum(reply))
    return bytes(reply + message)


def _packet_too_big(packet: bytes, mtu: int) -> bytes | None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    total = 40 + int.from_bytes(packet[4:6], "big")
    source, destination = packet[8:24], packet[24:40]
    mtu = max(mtu, IPV6_MIN_MTU)
    if not mtu < total <= len(packet) or not _is_host_v6(source) or not _is_host_v6(destination):
        return None
    if not _may_answer_v6(packet[:total]):
        return None
    quoted = packet[: min(total, _QUOTED_V6)]
    message = bytearray(struct.pack(">BBHI", 2, 0, 0, mtu) + quoted)
    struct.pack_into(">H", message, 2, 65535 - icmpv6_sum(destination, source, bytes(message)))
    return struct.pack(">IHBB16s16s", 6 << 28, len(message), ICMPV6, _HOPS, destination, source) + message


def _may_answer_v6(packet: bytes) -> bool:
    """False for ICMP errors and redirects, fragments, and chains of extension headers that cannot be followed to their end."""
    kind, at = packet[6], 40
    for _ in range(V6_CHAIN):
        if kind == _V6_FRAGMENT or at + 8 > len(packet):
            return False
        if kind == ICMPV6:
            return packet[at] >= _V6_FIRST_INFORMATIONAL and packet[at] != _V6_REDIRECT
        if kind not in V6_EXTENSIONS:
            return True
        kind, at = packet[at], at + 8 * (packet[at + 1] + 1)
    return False


def _is_host_v4(address: bytes) -> bool:
    """Not this network, loopback, group, reserved or broadcast."""
    return address[0] not in (0, 127) and address[0] < 224


def _is_host_v6(address: bytes) -> bool:
    """Not unspecified, loopback or a group."""
    return address[0] != 0xFF and any(address[:15])
