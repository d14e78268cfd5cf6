"""Questions read and answered as scapy reads and writes them; everything else is left to flood."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether

from meshd.forward.neighbours import Question, answer, parse_question
from meshd.ids import Mac, format_mac, parse_mac

ASKER, OWNER = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")
BROADCAST = "ff:ff:ff:ff:ff:ff"

macs = st.binary(min_size=6, max_size=6).map(lambda raw: Mac(bytes([raw[0] & 0xFE | 2]) + raw[1:]))
addresses4 = st.integers(0x0A000001, 0x0AFFFFFE).map(lambda number: number.to_bytes(4, "big"))
addresses6 = st.binary(min_size=15, max_size=15).map(lambda raw: b"\xfd" + raw)


def request(**fields: Any) -> bytes:
    values: dict[str, Any] = {"op": 1, "hwsrc": format_mac(ASKER), "psrc": "10.1.0.1", "pdst": "10.1.0.2"}
    return bytes(Ether(dst=BROADCAST, src=format_mac(ASKER)) / ARP(**(values | fields)))


def solicited_node(target: str) -> tuple[str, str]:
    last = ipaddress.IPv6Address(target).packed[13:]
    return f"33:33:ff:{last.hex(':')}", str(ipaddress.IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + last))


def solicitation(target: str = "fd00::2", source: str = "fd00::1", hop: int = 255, **fields: Any) -> bytes:
    mac, group = solicited_node(target)
    option = ICMPv6NDOptSrcLLAddr(lladdr=format_mac(ASKER))
    layers = Ether(dst=mac, src=format_mac(ASKER)) / IPv6(src=source, dst=group, hlim=hop)
    return bytes(layers / ICMPv6ND_NS(tgt=target, **fields) / option)


def test_an_arp_request() -> None:
    question = parse_question(request())
    assert question == Question(ASKER, bytes([10, 1, 0, 1]), bytes([10, 1, 0, 2]))
    assert parse_question(request() + bytes(18)) == question  # padding


def test_a_solicitation() -> None:
    one, two = (ipaddress.IPv6Address(f"fd00::{n}").packed for n in (1, 2))
    assert parse_question(solicitation()) == Question(ASKER, one, two)
    assert parse_question(memoryview(bytearray(solicitation() + bytes(4)))) == Question(ASKER, one, two)


@given(macs, macs, addresses4, addresses4)
def test_an_arp_answer_is_what_scapy_reads(asker: Mac, owner: Mac, sender: bytes, target: bytes) -> None:
    frame = answer(Question(asker, sender, target), owner)
    read = Ether(frame)
    assert (read.dst, read.src, read.type) == (format_mac(asker), format_mac(owner), 0x0806)
    arp = read[ARP]
    assert (arp.op, arp.hwsrc, arp.hwdst) == (2, format_mac(owner), format_mac(asker))
    assert (arp.psrc, arp.pdst) == (str(ipaddress.ip_address(target)), str(ipaddress.ip_address(sender)))
    made = Ether(dst=read.dst, src=read.src) / ARP(op=2, hwsrc=arp.hwsrc, hwdst=arp.hwdst, psrc=arp.psrc, pdst=arp.pdst)
    assert bytes(made) == frame
    assert parse_question(frame) is None


@given(macs, macs, addresses6, addresses6)
def test_an_advertisement_is_what_scapy_makes(asker: Mac, owner: Mac, sender: bytes, target: bytes) -> None:
    frame = answer(Question(asker, sender, target), owner)
    source, destination = (str(ipaddress.ip_address(packed)) for packed in (target, sender))
    made = (
        Ether(dst=format_mac(asker), src=format_mac(owner))
        / IPv6(src=source, dst=destination, hlim=255)
        / ICMPv6ND_NA(R=0, S=1, O=1, tgt=source)
        / ICMPv6NDOptDstLLAddr(lladdr=format_mac(owner))
    )
    assert bytes(made) == frame
    assert parse_question(frame) is None


FLOODED = {
    "an ARP probe": request(psrc="0.0.0.0"),
    "a gratuitous request": request(pdst="10.1.0.1"),
    "a gratuitous reply": request(op=2, pdst="10.1.0.1"),
    "a reply": request(op=2),
    "a sender that is another": request(hwsrc=format_mac(OWNER)),
    "a request to one": bytes.fromhex("020000000002") + request()[6:],
    "ARP of another network": request(ptype=0x0842),
    "half an ARP request": request()[:41],
    "a tagged request": bytes(
        Ether(dst=BROADCAST, src=format_mac(ASKER)) / Dot1Q(vlan=7) / ARP(psrc="10.1.0.1", pdst="10.1.0.2")
    ),
    "duplicate address detection": bytes(
        Ether(dst=solicited_node("fd00::2")[0], src=format_mac(ASKER))
        / IPv6(src="::", dst=solicited_node("fd00::2")[1], hlim=255)
        / ICMPv6ND_NS(tgt="fd00::2")
    ),
    "a solicitation from far away": solicitation(hop=254),
    "a solicitation with another code": solicitation(code=1),
    "a wrong checksum": solicitation(cksum=1),
    "a group as target": solicitation(target="ff02::7"),
    "its own address": solicitation(target="fd00::1"),
    "an option that we do not know": bytes(
        Ether(dst=solicited_node("fd00::2")[0], src=format_mac(ASKER))
        / IPv6(src="fd00::1", dst=solicited_node("fd00::2")[1], hlim=255)
        / ICMPv6ND_NS(tgt="fd00::2")
        / ICMPv6NDOptSrcLLAddr(lladdr=format_mac(ASKER))
        / ICMPv6NDOptUnknown(type=14, len=1, data=b"\1\2\3\4\5\6")
    ),
    "a solicitation without its MAC": bytes(
        Ether(dst=solicited_node("fd00::2")[0], src=format_mac(ASKER))
        / IPv6(src="fd00::1", dst=solicited_node("fd00::2")[1], hlim=255)
        / ICMPv6ND_NS(tgt="fd00::2")
    ),
    "an advertisement": bytes(
        Ether(dst="33:33:00:00:00:01", src=format_mac(ASKER))
        / IPv6(src="fd00::1", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt="fd00::1")
    ),
    "nothing": b"",
}


@pytest.mark.parametrize("name", FLOODED)
def test_what_others_must_see(name: str) -> None:
    assert parse_question(FLOODED[name]) is None


@given(st.sampled_from([request(), solicitation()]), st.data())
def test_a_flipped_bit_or_a_cut_is_never_answered_wrongly(frame: bytes, data: st.DataObject) -> None:
    """What is still a question has a sender that owns the frame; nothing raises."""
    changed = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    for piece in (bytes(changed), bytes(changed[: data.draw(st.integers(0, len(frame)))])):
        question = parse_question(piece)
        if question is not None:
            assert question.mac == piece[6:12]
            assert question.sender != question.target
            assert any(question.sender)


@given(st.binary(max_size=120), st.sampled_from([b"\x08\x06", b"\x86\xdd", b"\x08\x00"]))
def test_any_bytes_are_survived(body: bytes, kind: bytes) -> None:
    parse_question(BROADCAST_AND_SOURCE + kind + body)


BROADCAST_AND_SOURCE = b"\xff" * 6 + ASKER
