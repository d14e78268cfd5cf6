"""Answers to frames that are too large: read by scapy, and given to nobody who must not get one."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from meshd.forward.toobig import IPV6_MIN_MTU, too_big

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
DATA = Raw(bytes(range(256)) * 5 + bytes(20))  # 1300 B


def v4(payload: Packet = DATA, **fields: Any) -> Packet:
    return Ether(src=A, dst=B) / IP(**{"src": "10.2.0.1", "dst": "10.2.0.2", "flags": "DF", **fields}) / payload


def v6(payload: Packet = DATA, **fields: Any) -> Packet:
    return Ether(src=A, dst=B) / IPv6(**{"src": "fd00::1", "dst": "fd00::2", **fields}) / payload


def answer(packet: Packet | bytes, mtu: int = 1000, l2: int = 14) -> Packet | None:
    reply = too_big(bytes(packet), mtu + l2)
    return None if reply is None else Ether(reply)


def rebuilt(packet: Packet) -> bytes:
    """With all checksums and lengths made anew by scapy."""
    copy = Ether(bytes(packet))
    for layer, fields in (
        (IP, ("chksum", "len")),
        (ICMP, ("chksum",)),
        (IPv6, ("plen",)),
        (ICMPv6PacketTooBig, ("cksum",)),
    ):
        if layer in copy:
            for name in fields:
                delattr(copy[layer], name)
    return bytes(copy)


@pytest.mark.parametrize("inner", [UDP(sport=1, dport=2) / DATA, ICMP() / DATA, ICMP(type=0) / DATA, TCP() / DATA])
def test_fragmentation_needed(inner: Packet) -> None:
    sent = v4(inner, ttl=9)
    reply = answer(sent)
    assert reply is not None
    assert (reply.src, reply.dst) == (B, A)
    assert (reply[IP].src, reply[IP].dst, reply[IP].proto) == ("10.2.0.2", "10.2.0.1", 1)
    assert (reply[ICMP].type, reply[ICMP].code, reply[ICMP].nexthopmtu) == (3, 4, 1000)
    assert reply[IP].len == 576 == len(reply) - 14
    assert bytes(reply[ICMP])[8:] == bytes(sent[IP])[: 576 - 28]
    assert bytes(reply) == rebuilt(reply)


@pytest.mark.parametrize("extension", [None, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(segleft=0)])
def test_packet_too_big(extension: Packet | None) -> None:
    inner = UDP(sport=1, dport=2) / DATA
    sent = v6(inner if extension is None else extension / inner)
    reply = answer(sent, 1290)
    assert reply is not None
    assert (reply.src, reply.dst) == (B, A)
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].nh) == ("fd00::2", "fd00::1", 58)
    assert (reply[ICMPv6PacketTooBig].code, reply[ICMPv6PacketTooBig].mtu) == (0, 1290)
    assert len(reply) - 14 == IPV6_MIN_MTU
    assert bytes(reply[ICMPv6PacketTooBig])[8:] == bytes(sent[IPv6])[: IPV6_MIN_MTU - 48]
    assert bytes(reply) == rebuilt(reply)


def test_ipv6_is_never_told_less_than_1280() -> None:
    reply = answer(v6(), 700)
    assert reply is not None
    assert reply[ICMPv6PacketTooBig].mtu == IPV6_MIN_MTU
    assert answer(v6(Raw(bytes(1240))), 700) is None  # 1280 B: nobody need send less


def test_vlan_tags_come_back_and_count() -> None:
    inner = IP(src="10.2.0.1", dst="10.2.0.2", flags="DF") / DATA
    sent = Ether(src=A, dst=B) / Dot1Q(vlan=7) / Dot1Q(vlan=8) / inner
    reply = answer(sent, 1000, 22)
    assert reply is not None
    assert [reply[Dot1Q].vlan, reply[Dot1Q].payload.vlan] == [7, 8]
    assert reply[ICMP].nexthopmtu == 1000


def test_ip_options_are_quoted_and_small_quotes_are_whole() -> None:
    sent = v4(UDP(sport=1, dport=2) / Raw(bytes(100)), options=[IPOption_NOP()] * 4)
    reply = answer(sent, 100)
    assert reply is not None
    assert bytes(reply[ICMP])[8:] == bytes(sent[IP])


ERRORS_V4 = [ICMP(type=kind) / DATA for kind in (3, 4, 5, 11, 12)]
NOT_TOLD = [
    *[v4(error) for error in ERRORS_V4],
    v4(flags=""),
    v4(flags="DF+MF"),
    v4(flags="DF", frag=100),
    v4(dst="224.0.0.251"),
    v4(dst="255.255.255.255"),
    v4(src="0.0.0.0"),
    v4(src="127.0.0.1"),
    v4(src="240.0.0.1"),
    v4(src="224.0.0.1"),
    v4(Raw(bytes(980))),  # fits
    v6(ICMPv6DestUnreach() / DATA),
    v6(ICMPv6PacketTooBig() / DATA),
    v6(ICMPv6ND_Redirect() / DATA),
    v6(IPv6ExtHdrDestOpt() / ICMPv6DestUnreach() / DATA),
    v6(IPv6ExtHdrFragment(offset=10, nh=17) / DATA),
    v6(IPv6ExtHdrFragment(offset=0, m=1, nh=17) / DATA),
    v6(dst="ff02::1"),
    v6(src="::"),
    v6(src="::1"),
    v6(src="ff02::1"),
    Ether(src=A, dst=B) / ARP() / DATA,
    Ether(src=A, dst=B, type=0x88B5) / DATA,
    Ether(src=A, dst="ff:ff:ff:ff:ff:ff") / IP(src="10.2.0.1", dst="10.2.0.2", flags="DF") / DATA,
    Ether(src="01:00:00:00:00:0a", dst=B) / IP(src="10.2.0.1", dst="10.2.0.2", flags="DF") / DATA,
]


@pytest.mark.parametrize("packet", NOT_TOLD, ids=lambda packet: packet.summary())
def test_nothing_is_said(packet: Packet) -> None:
    assert answer(packet) is None


def test_an_echo_request_in_ipv6_is_answered() -> None:
    assert answer(v6(ICMPv6EchoRequest() / DATA), 1280) is not None


@pytest.mark.parametrize("packet", [v4(UDP() / DATA), v6(IPv6ExtHdrHopByHop() / UDP() / DATA)])
def test_cut_frames_and_lying_lengths(packet: Packet) -> None:
    raw = bytes(packet)
    for size in range(14, len(raw), 7):
        assert too_big(raw[:size], 500) is None  # shorter than its own length says
    for at in range(12, 70):
        for value in (0, 1, 0x7F, 0xFF):
            too_big(raw[:at] + bytes([value]) + raw[at + 1 :], 500)


def test_a_chain_of_extension_headers_without_end() -> None:
    chain = b"".join(struct.pack(">BB6x", 0, 0) for _ in range(40))
    assert (
        answer(Ether(src=A, dst=B) / IPv6(src="fd00::1", dst="fd00::2", nh=0) / Raw(chain + bytes(1200)), 1280) is None
    )


@given(
    st.binary(min_size=14, max_size=200), st.integers(0, 300), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00"])
)
def test_any_frame_is_survived(frame: bytes, room: int, ethertype: bytes) -> None:
    too_big(frame[:12] + ethertype + frame[14:], room)
