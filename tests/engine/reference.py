"""An independent second opinion: frames made and cut by scapy, checksums by scapy; none of meshd's own code."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.ones import fold

__all__ = [
    "A_MAC",
    "B_MAC",
    "arp",
    "capture",
    "complete",
    "cut",
    "partial",
    "super_frame",
    "tcp",
    "udp",
    "unfinished",
    "vnet",
]

A_MAC, B_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
_VNET = struct.Struct("=BBHHHH")
_GSO = {(4, "tcp"): 1, (6, "tcp"): 4, (4, "udp"): 5, (6, "udp"): 5}
FIN, PSH, CWR = 0x01, 0x08, 0x80


def vnet(flags: int = 0, gso: int = 0, hdr: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    return _VNET.pack(flags, gso, hdr, size, start, offset)


def capture(packet: Packet | bytes) -> bytes:
    """A finished frame as the TAP hands it over."""
    return vnet() + bytes(packet)


def ether(vlan: int | None = None) -> Packet:
    head = Ether(src=A_MAC, dst=B_MAC)
    return head if vlan is None else head / Dot1Q(vlan=vlan)


def ip(version: int, **fields: Any) -> Packet:
    if version == 4:
        return IP(**{"src": "10.2.0.1", "dst": "10.2.0.2", "flags": "DF", **fields})
    return IPv6(src="fd00::1", dst="fd00::2")


def tcp(payload: bytes, version: int = 4, vlan: int | None = None, ident: int = 1, **fields: Any) -> Packet:
    fields = {"sport": 4000, "dport": 5001, "seq": 1000, "ack": 77, "flags": "A", "window": 501, **fields}
    network = ip(version, id=ident) if version == 4 else ip(version)
    return ether(vlan) / network / TCP(**fields) / Raw(payload)


def udp(payload: bytes, version: int = 4, ident: int = 1, **fields: Any) -> Packet:
    network = ip(version, id=ident) if version == 4 else ip(version)
    return ether() / network / UDP(**{"sport": 4000, "dport": 5001, **fields}) / Raw(payload)


def arp() -> Packet:
    return Ether(src=A_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.2.0.1", pdst="10.2.0.2")


def places(packet: Packet) -> tuple[int, int, int]:
    """Start of L4, offset of its checksum, start of the payload."""
    l4 = packet[TCP] if TCP in packet else packet[UDP]
    raw = bytes(packet)
    start = len(raw) - len(bytes(l4))
    if TCP in packet:
        return start, 16, start + (raw[start + 12] >> 4) * 4
    return start, 6, start + 8


def partial(packet: Packet) -> bytes:
    """The frame with the pseudo-header-only checksum that a container's kernel leaves in it."""
    raw = bytearray(bytes(packet))
    start, offset, _ = places(packet)
    if IP in packet:
        source, destination = packet[IP].src, packet[IP].dst
        addresses = b"".join(bytes(map(int, host.split("."))) for host in (source, destination))
    else:
        addresses = bytes(raw[start - 32 : start])
    protocol = 6 if TCP in packet else 17
    pseudo = bytes(addresses) + struct.pack(">II", len(raw) - start, protocol)
    raw[start + offset : start + offset + 2] = struct.pack(">H", fold(pseudo))
    return bytes(raw)


def unfinished(packet: Packet) -> bytes:
    """Captured with a partial checksum."""
    start, offset, _ = places(packet)
    return vnet(flags=1, start=start, offset=offset) + partial(packet)


def super_frame(packet: Packet, size: int, ecn: bool = False) -> bytes:
    """Captured as a super-frame of segments of `size`."""
    start, offset, payload = places(packet)
    kind = _GSO[4 if IP in packet else 6, "tcp" if TCP in packet else "udp"] | (0x80 if ecn else 0)
    return vnet(1, kind, payload, size, start, offset) + partial(packet)


def cut(packet: Packet, size: int) -> list[bytes]:
    """The segments of a super-frame, with complete checksums, as a card with TSO would send them."""
    _, _, start = places(packet)
    data = bytes(packet)[start:]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    result = []
    for number, piece in enumerate(pieces):
        part = packet.copy()
        l4 = part[TCP] if TCP in part else part[UDP]
        l4.remove_payload()
        l4.add_payload(Raw(piece))
        l4.chksum = None
        if IP in part:
            part[IP].id = (packet[IP].id + number) & 0xFFFF
            part[IP].len = part[IP].chksum = None
        else:
            part[IPv6].plen = None
        if TCP in part:
            flags = int(packet[TCP].flags)
            if number:
                flags &= ~CWR
            if number < len(pieces) - 1:
                flags &= ~(FIN | PSH)
            part[TCP].flags = flags
            part[TCP].seq = (packet[TCP].seq + number * size) & 0xFFFFFFFF
        else:
            part[UDP].len = None
        result.append(bytes(part))
    return result


def complete(written: bytes) -> list[bytes]:
    """What the receiving kernel makes of one write: super-frames cut, partial checksums completed. Checks the vnet header."""
    flags, gso, _, size, start, offset = _VNET.unpack_from(written)
    frame = written[_VNET.size :]
    if not flags & 1:
        assert gso == 0
        return [frame]
    packet = Ether(frame)
    assert (start, offset) == places(packet)[:2]
    assert partial(packet)[start:] == frame[start:]
    if gso == 0:
        l4 = packet[TCP] if TCP in packet else packet[UDP]
        del l4.chksum
        return [bytes(packet)]
    assert gso == _GSO[4 if IP in packet else 6, "tcp" if TCP in packet else "udp"]
    return cut(packet, size)
