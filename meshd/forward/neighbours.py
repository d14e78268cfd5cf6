"""Who has this address? Questions of ARP and of neighbour discovery, and the answers that this host gives for a distant container.

A container that looks for another asks everybody: one flood for each pair that talks. Records say who has an address, so the
router of the asker answers in the owner's place, with the MAC of the owner, and the question never leaves the host (RFC 9161 says
the same for EVPN).

`parse_question` sees only what may be answered for somebody else. It is None, and the frame goes on as any other, for
  - an address looked for before it is used (ARP probe of RFC 5227, NS from ::), and one's own announced (gratuitous ARP): the
    others must see these, or no double would ever be found and no VRRP address would move
  - a sender that the frame itself contradicts, a wrong checksum, hop limit or length (RFC 4861, 7.1.1)
  - options that we do not know, such as those of SEND (RFC 3971): an answer of ours could not be signed
  - anything inside a VLAN tag: records name addresses of the untagged network.

The advertisement has the override flag, since the record is newer than what the asker remembers, and no router flag: containers
send no router advertisements here (docs/operations.md, "Guards"), so nobody has a default route that hangs on it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from meshd.forward.checksum import ones_sum
from meshd.forward.ethernet import ETHERNET_SIZE
from meshd.ids import BROADCAST_MAC, Mac, is_multicast

__all__ = [
    "ARP",
    "ICMPV6",
    "IPV4",
    "IPV6",
    "Question",
    "answer",
    "icmpv6_packet",
    "icmpv6_sum",
    "icmpv6_valid",
    "parse_question",
]

Buffer = bytes | bytearray | memoryview

IPV4 = b"\x08\x00"
ARP = b"\x08\x06"
IPV6 = b"\x86\xdd"
ICMPV6 = 58

_ARP_ETHERNET_IPV4 = bytes.fromhex("000108000604")
_ARP_SIZE = 28
_REQUEST, _REPLY = b"\x00\x01", b"\x00\x02"

_IPV6_SIZE = 40
_SOLICITATION, _ADVERTISEMENT = 135, 136
_NEIGHBOUR_SIZE = 24  # type, code, checksum, flags, target
_SOURCE_MAC, _TARGET_MAC = b"\x01\x01", b"\x02\x01"  # options: type, and length in units of 8
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")  # and the last three bytes of the address
_SOLICITED_OVERRIDE = 0x60
_LAST_HOP = 255  # what has passed no router


class Question(NamedTuple):
    """`mac`, which has the address `sender`, looks for `target`; both packed, of one family."""

    mac: Mac
    sender: bytes
    target: bytes


def parse_question(frame: Buffer) -> Question | None:
    """What a broadcast or multicast frame asks, if somebody else may answer it. Never raises."""
    if frame[12:14] == ARP:
        return _arp(bytes(frame[: ETHERNET_SIZE + _ARP_SIZE]))
    if frame[12:14] == IPV6:
        return _solicitation(bytes(frame))
    return None


def answer(question: Question, owner: Mac) -> bytes:
    """The frame that the owner of the address would send back."""
    if len(question.target) == 4:
        parts = (owner, question.target, question.mac, question.sender)
        return question.mac + owner + ARP + _ARP_ETHERNET_IPV4 + _REPLY + b"".join(parts)
    body = struct.pack(">I", _SOLICITED_OVERRIDE << 24) + question.target + _TARGET_MAC + owner
    packet = icmpv6_packet(question.target, question.sender, _ADVERTISEMENT, body)
    return question.mac + owner + IPV6 + packet


def icmpv6_packet(source: bytes, destination: bytes, kind: int, body: bytes) -> bytes:
    """An IPv6 packet with one ICMPv6 message of code 0 that is not to be routed."""
    message = struct.pack(">BBH", kind, 0, 0) + body
    checksum = 65535 - icmpv6_sum(source, destination, message)
    message = struct.pack(">BBH", kind, 0, checksum) + body
    return struct.pack(">IHBB", 6 << 28, len(message), ICMPV6, _LAST_HOP) + source + destination + message


def icmpv6_valid(source: bytes, destination: bytes, message: bytes) -> bool:
    """Whether the checksum is right."""
    return icmpv6_sum(source, destination, message) == 0


def icmpv6_sum(source: bytes, destination: bytes, message: bytes) -> int:
    return ones_sum(source + destination + struct.pack(">II", len(message), ICMPV6) + message)


def _arp(frame: bytes) -> Question | None:
    packet = frame[ETHERNET_SIZE:]
    if len(packet) < _ARP_SIZE or packet[:6] != _ARP_ETHERNET_IPV4 or packet[6:8] != _REQUEST:
        return None
    mac, sender, target = packet[8:14], packet[14:18], packet[24:28]
    if frame[:6] != BROADCAST_MAC or mac != frame[6:12] or is_multicast(mac):
        return None
    if not any(sender) or sender == target:  # a probe, or gratuitous
        return None
    return Question(Mac(mac), sender, target)


def _solicitation(frame: bytes) -> Question | None:
    packet = frame[ETHERNET_SIZE:]
    if len(packet) < _IPV6_SIZE + _NEIGHBOUR_SIZE or packet[0] >> 4 != 6 or packet[6] != ICMPV6:
        return None
    end = _IPV6_SIZE + int.from_bytes(packet[4:6], "big")
    source, destination, message = packet[8:24], packet[24:40], packet[40:end]
    if packet[7] != _LAST_HOP or end > len(packet) or len(message) < _NEIGHBOUR_SIZE or message[0] != _SOLICITATION:
        return None
    target, options = message[8:24], message[_NEIGHBOUR_SIZE:]
    if destination != _SOLICITED_NODE + target[13:] or not any(source) or 0xFF in (source[0], target[0]):
        return None
    mac = frame[6:12]
    if source == target or options != _SOURCE_MAC + mac or is_multicast(mac):
        return None
    if message[1] or not icmpv6_valid(source, destination, message):
        return None
    return Question(Mac(mac), source, target)
