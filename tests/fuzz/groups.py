"""Frames that say who has joined what, and the checksum that a changed one needs to be read at all."""

from __future__ import annotations

from meshd.forward.checksum import ones_sum
from meshd.forward.membership import query4, query6
from meshd.forward.neighbours import IPV4, IPV6, icmpv6_sum
from meshd.ids import Mac

__all__ = ["memberships", "with_checksum"]

_MAC = Mac(bytes.fromhex("02000000000a"))
_V4 = "450000%02x0000000001020000" + "0a000001e0000016"
_V6 = "60000000%04x0001" + "fe80" + "00" * 13 + "01" + "ff02" + "00" * 13 + "16"
_V3 = "2200000000000002" + "04000000ef010203" + "03000002ef010204" + "0a0000010a000002"
_MLD1 = "8300000000000000" + "ff05" + "00" * 13 + "06"
_MLD2 = "8f00000000000002" + "04000000ff05" + "00" * 13 + "06" + "05000001ff05" + "00" * 13 + "07" + "fd" * 16
_ALERT = "3a00050200000100"


def memberships() -> tuple[bytes, ...]:
    """Reports of IGMPv2 and v3, MLDv1 and v2, and questions."""
    packets = [(IPV4, _V4 % 28 + "16000000ef010203"), (IPV4, _V4 % (20 + len(_V3) // 2) + _V3)]
    packets += [(IPV6, _V6 % ((len(_ALERT) + len(body)) // 2) + _ALERT + body) for body in (_MLD1, _MLD2)]
    reports = (b"\1\0\x5e\0\0\x16" + _MAC + kind + bytes.fromhex(packet) for kind, packet in packets)
    return (*map(with_checksum, reports), query4(_MAC, 10, 125), query6(_MAC, 10, 125))


def with_checksum(frame: bytes) -> bytes:
    """The IGMP or ICMPv6 checksum made right, where the message is long enough to have one."""
    packet = frame[14:]
    if frame[12:14] == IPV4 and len(packet) >= 20:
        start, end = 14 + 4 * (packet[0] & 15), 14 + int.from_bytes(packet[2:4], "big")
    elif frame[12:14] == IPV6 and len(packet) > 41:
        start, end = 14 + 40 + (8 * (packet[41] + 1) if not packet[6] else 0), 54 + int.from_bytes(packet[4:6], "big")
    else:
        return frame
    message = bytearray(frame[start:end])
    if len(message) < 4:
        return frame
    message[2:4] = b"\0\0"
    total = ones_sum(message) if frame[12:14] == IPV4 else icmpv6_sum(packet[8:24], packet[24:40], bytes(message))
    message[2:4] = (65535 - total).to_bytes(2, "big")
    return frame[:start] + message + frame[end:]
