"""IGMP and MLD: what containers say about the groups they want, and the questions that make them say it again.

    IGMPv1 RFC 1112, v2 RFC 2236, v3 RFC 9776 (3376)     MLDv1 RFC 2710, v2 RFC 9777 (3810)

Only who is a member matters here, not of which sources: a group with any source is joined. A question of another's, or PIM, says
that a multicast router is there, which must hear everything. Questions of our own are of the newest version, which hosts of older
ones understand; in IPv4 they come from 0.0.0.0, so that no true querier gives way to them (RFC 4541, 2.1.1).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from meshd.forward.checksum import ipv4_header_checksum, ones_sum
from meshd.forward.ethernet import ETHERNET_SIZE
from meshd.forward.groups import group_mac
from meshd.forward.inspect import IGMP, PIM
from meshd.forward.neighbours import ICMPV6, IPV4, IPV6, icmpv6_sum, icmpv6_valid
from meshd.ids import Mac

__all__ = ["Heard", "parse_membership", "query4", "query6"]

Buffer = bytes | bytearray | memoryview

_QUERY4, _REPORT1, _REPORT2, _LEAVE2, _REPORT3 = 0x11, 0x12, 0x16, 0x17, 0x22
_QUERY6, _MLD1_REPORT, _MLD1_DONE, _MLD2_REPORT = 130, 131, 132, 143
_IS_INCLUDE, _IS_EXCLUDE, _TO_INCLUDE, _TO_EXCLUDE, _ALLOW, _BLOCK = 1, 2, 3, 4, 5, 6
_IPV6_SIZE = 40
_ALL_SYSTEMS = b"\xe0\x00\x00\x01"
_ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
_ALERT4 = b"\x94\x04\x00\x00"  # router alert (RFC 2113)
_ALERT6 = bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0])  # a hop-by-hop header with router alert (RFC 2711) and padding
_ROBUSTNESS = 2


class Heard(NamedTuple):
    """What one frame says. Groups are addresses of 4 or 16 bytes."""

    joined: tuple[bytes, ...] = ()
    left: tuple[bytes, ...] = ()
    router: bool = False


def parse_membership(frame: Buffer) -> Heard | None:
    """None: the frame says nothing about groups, or lies. Never raises."""
    packet = bytes(frame[ETHERNET_SIZE:])
    if frame[12:14] == IPV4:
        return _ipv4(packet)
    return _ipv6(packet) if frame[12:14] == IPV6 else None


def _ipv4(packet: bytes) -> Heard | None:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    if packet[9] == PIM:
        return Heard(router=True)
    header, end = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    message = packet[header:end]
    if packet[9] != IGMP or header < 20 or end > len(packet) or len(message) < 8 or ones_sum(message):
        return None
    kind, group = message[0], message[4:8]
    if kind == _QUERY4:
        return Heard(router=any(packet[12:16]))
    if kind in (_REPORT1, _REPORT2):
        return _only_groups(Heard(joined=(group,)))
    if kind == _LEAVE2:
        return _only_groups(Heard(left=(group,)))
    return _records(message, 4) if kind == _REPORT3 else None


def _ipv6(packet: bytes) -> Heard | None:
    if len(packet) < _IPV6_SIZE or packet[0] >> 4 != 6:
        return None
    if packet[6] == PIM:
        return Heard(router=True)
    end = _IPV6_SIZE + int.from_bytes(packet[4:6], "big")
    if packet[6] or end > len(packet) or len(packet) < _IPV6_SIZE + 8 or packet[_IPV6_SIZE] != ICMPV6:
        return None
    message = packet[_IPV6_SIZE + 8 * (packet[_IPV6_SIZE + 1] + 1) : end]
    if len(message) < 8 or not icmpv6_valid(packet[8:24], packet[24:40], message):
        return None
    kind, group = message[0], message[8:24]
    if kind == _QUERY6:
        return Heard(router=True)
    if kind == _MLD1_REPORT:
        return _only_groups(Heard(joined=(group,)))
    if kind == _MLD1_DONE:
        return _only_groups(Heard(left=(group,)))
    return _records(message, 16) if kind == _MLD2_REPORT else None


def _records(message: bytes, size: int) -> Heard:
    """The group records of IGMPv3 and MLDv2, as many as there really are."""
    joined, left = [], []
    at = 8
    for _ in range(int.from_bytes(message[6:8], "big")):
        if at + 4 + size > len(message):
            break
        kind, auxiliary = message[at], message[at + 1]
        sources = int.from_bytes(message[at + 2 : at + 4], "big")
        group = message[at + 4 : at + 4 + size]
        if kind in (_IS_EXCLUDE, _TO_EXCLUDE) or (kind in (_IS_INCLUDE, _TO_INCLUDE, _ALLOW) and sources):
            joined.append(group)
        elif kind in (_TO_INCLUDE, _BLOCK):  # perhaps the last source of the last member: who is left will say so
            left.append(group)
        at += 4 + size + size * sources + 4 * auxiliary
    return _only_groups(Heard(joined=tuple(joined), left=tuple(left)))


def _only_groups(heard: Heard) -> Heard:
    return Heard(tuple(filter(_is_group, heard.joined)), tuple(filter(_is_group, heard.left)))


def _is_group(address: bytes) -> bool:
    if len(address) == 4:
        return 0xE0 <= address[0] < 0xF0
    return len(address) == 16 and address[0] == 0xFF


# ── questions


def query4(source: Mac, response: float, interval: float, group: bytes = b"") -> bytes:
    """Who is a member (of this group)? To be answered within `response` seconds, up to 12; comes every `interval`, up to 127."""
    destination = group or _ALL_SYSTEMS
    body = (group or bytes(4)) + struct.pack(">BBH", _ROBUSTNESS, int(interval), 0)
    head = bytes([_QUERY4, int(response * 10)])
    checksum = 65535 - ones_sum(head + b"\0\0" + body)
    message = head + checksum.to_bytes(2, "big") + body
    header = bytearray(
        struct.pack(">BBHIBBH4s4s4s", 0x46, 0xC0, 24 + len(message), 0, 1, IGMP, 0, bytes(4), destination, _ALERT4)
    )
    struct.pack_into(">H", header, 10, ipv4_header_checksum(header))
    return group_mac(destination) + source + IPV4 + bytes(header) + message


def query6(source: Mac, response: float, interval: float, group: bytes = b"") -> bytes:
    """The same of MLDv2; from the link-local address of the MAC, as RFC 9777 wants it."""
    address = b"\xfe\x80" + bytes(6) + bytes([source[0] ^ 2]) + source[1:3] + b"\xff\xfe" + source[3:]
    destination = group or _ALL_NODES
    head = bytes([_QUERY6, 0])
    body = (
        struct.pack(">HH", int(response * 1000), 0)
        + (group or bytes(16))
        + struct.pack(">BBH", _ROBUSTNESS, int(interval), 0)
    )
    checksum = 65535 - icmpv6_sum(address, destination, head + b"\0\0" + body)
    message = head + checksum.to_bytes(2, "big") + body
    header = struct.pack(">IHBB", 6 << 28, len(_ALERT6) + len(message), 0, 1)
    return group_mac(destination) + source + IPV6 + header + address + destination + _ALERT6 + message
