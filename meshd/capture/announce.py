"""Telling the neighbours at once that an address is at this MAC: gratuitous ARP and unsolicited neighbour advertisements.

An address that moves to another container or host is otherwise looked for at the old MAC until the neighbours' caches time out.
The frames are pure functions here; `send_frames` puts them on an interface of the calling thread's namespace.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence

from meshd.ids import BROADCAST_MAC, Mac

__all__ = ["announcements", "gratuitous_arp", "send_frames", "unsolicited_advertisement"]

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_ETH_ARP, _ETH_IPV6 = 0x0806, 0x86DD
_ARP_REQUEST = 1
_ICMPV6 = 58
_NEIGHBOUR_ADVERTISEMENT = 136  # RFC 4861, section 4.4
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER = 2  # option, in units of 8 bytes
_ALL_NODES = ipaddress.IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464, section 7
_ROUNDS = 2  # one lost frame is enough to leave a neighbour wrong for a minute


def announcements(mac: Mac, addresses: Iterable[Address]) -> list[bytes]:
    return [
        gratuitous_arp(mac, address.ip)
        if isinstance(address, ipaddress.IPv4Interface)
        else unsolicited_advertisement(mac, address.ip)
        for address in addresses
    ]


def gratuitous_arp(mac: Mac, ip: ipaddress.IPv4Address) -> bytes:
    """An ARP announcement: a request for one's own address (RFC 5227, sections 2.3 and 3 say why not a reply)."""
    header = BROADCAST_MAC + mac + _ETH_ARP.to_bytes(2, "big")
    return header + struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, _ARP_REQUEST, mac, ip.packed, bytes(6), ip.packed)


def unsolicited_advertisement(mac: Mac, ip: ipaddress.IPv6Address) -> bytes:
    """RFC 4861, section 7.2.6: to all nodes, override set, with the target's link-layer address."""
    option = struct.pack("!BB6s", _TARGET_LINK_LAYER, 1, mac)
    body = struct.pack("!BBHI16s", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE, ip.packed) + option
    pseudo = ip.packed + _ALL_NODES.packed + struct.pack("!IxxxB", len(body), _ICMPV6)
    body = body[:2] + _checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    hop_limit = 255  # receivers drop it otherwise
    header = struct.pack("!IHBB16s16s", 0x60000000, len(body), _ICMPV6, hop_limit, ip.packed, _ALL_NODES.packed)
    return _ALL_NODES_MAC + mac + _ETH_IPV6.to_bytes(2, "big") + header + body


def send_frames(ifname: str, frames: Sequence[bytes]) -> None:
    """Send each frame twice. Raises OSError (ENETDOWN while the interface is down)."""
    if not frames:
        return
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:  # protocol 0: receives nothing
        raw.bind((ifname, 0))
        for _ in range(_ROUNDS):
            for frame in frames:
                raw.send(frame)


def _checksum(data: bytes) -> int:
    """RFC 1071; `data` is of even length here."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
