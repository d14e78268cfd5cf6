"""Where the headers of a frame are: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP or UDP.

Only what segmentation, checksums and coalescing need, and only frames that keep their word: lengths inside the frame, no IP
fragments, no IPv6 extension headers, a UDP length that agrees with IP's. Everything else is None, "an opaque frame", which is
carried as it is and never trusted to have a checksum anywhere. Behind IPv6 extension headers only `parse_chained` looks, for
frames of which the sender's kernel has said where TCP or UDP is.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "ETHERNET_SIZE",
    "LINK_LOCAL_CONTROL",
    "TCP",
    "TCP_CHECKSUM_OFFSET",
    "UDP",
    "UDP_CHECKSUM_OFFSET",
    "V6_CHAIN",
    "V6_EXTENSIONS",
    "Headers",
    "is_link_local_control",
    "network_header",
    "parse_chained",
    "parse_headers",
]

ETHERNET_SIZE = 14
TCP = 6
UDP = 17
TCP_CHECKSUM_OFFSET = 16
UDP_CHECKSUM_OFFSET = 6
V6_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options (RFC 8200)
V6_CHAIN = 8  # extension headers that are followed
LINK_LOCAL_CONTROL = b"\x01\x80\xc2\x00\x00"  # …:00 to …:0f never leave a bridge (IEEE 802.1D, table 7-10)

_MAX_TAGS = 2
_VLAN_TYPES = (0x8100, 0x88A8)
_U16 = struct.Struct(">H")
_IPV4 = struct.Struct(">BxHxxHxB")  # version and header length, total length, flags and fragment offset, protocol
_IPV6_SIZE = 40
_IPV6 = struct.Struct(">B3xHB")  # version, payload length, next header
_MORE_OR_OFFSET = 0x3FFF


class Headers(NamedTuple):
    """Offsets into the frame; `end` is where the IP packet ends (padding may follow)."""

    version: int
    protocol: int
    l3: int
    l4: int
    payload: int
    end: int
    checksum_offset: int  # from l4

    @property
    def chained(self) -> bool:
        """Whether there are IPv6 extension headers."""
        return self.version == 6 and self.l4 - self.l3 > _IPV6_SIZE


def is_link_local_control(destination: bytes | memoryview) -> bool:
    return destination[:5] == LINK_LOCAL_CONTROL and destination[5] < 0x10


def network_header(frame: bytes | bytearray | memoryview) -> tuple[int, int]:
    """EtherType behind the VLAN tags, and where its packet begins. For frames of 14 B and more."""
    size = len(frame)
    l3 = ETHERNET_SIZE
    ethertype: int = _U16.unpack_from(frame, 12)[0]
    for _ in range(_MAX_TAGS):
        if ethertype not in _VLAN_TYPES or size < l3 + 4:
            break
        ethertype = _U16.unpack_from(frame, l3 + 2)[0]
        l3 += 4
    return ethertype, l3


def parse_headers(frame: bytes | bytearray | memoryview) -> Headers | None:
    """The offsets in a well-formed TCP or UDP frame, else None. Never raises."""
    size = len(frame)
    if size < ETHERNET_SIZE:
        return None
    ethertype, l3 = network_header(frame)
    if ethertype == 0x0800:
        return _parse_ipv4(frame, l3, size)
    if ethertype == 0x86DD:
        return _parse_ipv6(frame, l3, size)
    return None


def parse_chained(frame: bytes | bytearray | memoryview) -> Headers | None:
    """The same for IPv6 with up to V6_CHAIN extension headers. Never raises."""
    size = len(frame)
    ethertype, l3 = network_header(frame) if size >= ETHERNET_SIZE else (0, 0)
    if ethertype != 0x86DD or size < l3 + _IPV6_SIZE:
        return None
    first, length, kind = _IPV6.unpack_from(frame, l3)
    at = l3 + _IPV6_SIZE
    end = at + length
    if first >> 4 != 6 or end > size:
        return None
    for _ in range(V6_CHAIN):
        if kind not in V6_EXTENSIONS:
            break
        if at + 8 > end:
            return None
        kind, at = frame[at], at + 8 * (frame[at + 1] + 1)
    return _parse_l4(frame, 6, kind, l3, at, end)


def _parse_ipv4(frame: bytes | bytearray | memoryview, l3: int, size: int) -> Headers | None:
    if size < l3 + 20:
        return None
    first, total, fragment, protocol = _IPV4.unpack_from(frame, l3)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or total < header or l3 + total > size or fragment & _MORE_OR_OFFSET:
        return None
    return _parse_l4(frame, 4, protocol, l3, l3 + header, l3 + total)


def _parse_ipv6(frame: bytes | bytearray | memoryview, l3: int, size: int) -> Headers | None:
    if size < l3 + _IPV6_SIZE:
        return None
    first, length, protocol = _IPV6.unpack_from(frame, l3)
    if first >> 4 != 6 or l3 + _IPV6_SIZE + length > size:
        return None
    return _parse_l4(frame, 6, protocol, l3, l3 + _IPV6_SIZE, l3 + _IPV6_SIZE + length)


def _parse_l4(
    frame: bytes | bytearray | memoryview, version: int, protocol: int, l3: int, l4: int, end: int
) -> Headers | None:
    if protocol == TCP and end - l4 >= 20:
        header = (frame[l4 + 12] >> 4) * 4
        if 20 <= header <= end - l4:
            return Headers(version, TCP, l3, l4, l4 + header, end, TCP_CHECKSUM_OFFSET)
    elif protocol == UDP and end - l4 >= 8 and _U16.unpack_from(frame, l4 + 4)[0] == end - l4:
        return Headers(version, UDP, l3, l4, l4 + 8, end, UDP_CHECKSUM_OFFSET)
    return None
