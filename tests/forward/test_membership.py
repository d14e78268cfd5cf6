"""IGMP and MLD as scapy writes and reads them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.igmp import IGMP, IGMPv3, IGMPv3_MQ, IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from meshd.forward.groups import group_mac, is_joinable
from meshd.forward.membership import Heard, parse_membership, query4, query6
from meshd.ids import format_mac, parse_mac

MAC = parse_mac("02:6e:00:00:00:01")
ONE, TWO = (ipaddress.ip_address(text).packed for text in ("239.1.2.3", "239.1.2.4"))
SIX, SEVEN = (ipaddress.ip_address(text).packed for text in ("ff05::1:6", "ff05::1:7"))


def igmp(message: Packet, source: str = "10.1.0.1") -> bytes:
    return bytes(Ether(dst="01:00:5e:00:00:16") / IP(src=source, dst="224.0.0.22", ttl=1, proto=2) / message)


def mld(message: Packet) -> bytes:
    head = Ether(dst="33:33:00:00:00:16") / IPv6(src="fe80::1", dst="ff02::16", hlim=1)
    return bytes(head / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / message)


def group3(kind: int, group: str, *sources: str) -> Packet:
    return IGMPv3_MR_Group(rtype=kind, maddr=group, srcaddrs=list(sources), numsrc=len(sources))


def report3(*groups: Packet) -> bytes:
    return igmp(IGMPv3_MR(records=list(groups)))


def record6(kind: int, group: str, *sources: str) -> Packet:
    return ICMPv6MLDMultAddrRec(rtype=kind, dst=group, sources=list(sources))


CASES = {
    "IGMPv1 report": (igmp(IGMP(type=0x12, gaddr="239.1.2.3")), Heard(joined=(ONE,))),
    "IGMPv2 report": (igmp(IGMP(type=0x16, gaddr="239.1.2.3")), Heard(joined=(ONE,))),
    "IGMPv2 leave": (igmp(IGMP(type=0x17, gaddr="239.1.2.3")), Heard(left=(ONE,))),
    "IGMPv3 joins": (
        report3(group3(4, "239.1.2.3"), group3(2, "239.1.2.4", "10.0.0.1")),
        Heard(joined=(ONE, TWO)),
    ),
    "IGMPv3 joins of sources": (
        report3(group3(3, "239.1.2.3", "10.0.0.1", "10.0.0.2"), group3(5, "239.1.2.4", "10.0.0.1")),
        Heard(joined=(ONE, TWO)),
    ),
    "IGMPv3 leave": (report3(group3(3, "239.1.2.3")), Heard(left=(ONE,))),
    "IGMPv3 leave of a source": (report3(group3(6, "239.1.2.4", "10.0.0.1")), Heard(left=(TWO,))),
    "IGMPv3 another source": (
        report3(group3(5, "239.1.2.4", "10.0.0.2"), group3(6, "239.1.2.4", "10.0.0.1")),
        Heard(joined=(TWO,), left=(TWO,)),
    ),
    "a query of another": (igmp(IGMP(type=0x11, gaddr="0.0.0.0")), Heard(router=True)),
    "a query of a switch": (igmp(IGMP(type=0x11, gaddr="0.0.0.0"), source="0.0.0.0"), Heard()),
    "no group": (igmp(IGMP(type=0x16, gaddr="10.1.2.3")), Heard()),
    "PIM": (bytes(Ether() / IP(dst="224.0.0.13", proto=103)), Heard(router=True)),
    "PIM over IPv6": (bytes(Ether() / IPv6(dst="ff02::d", nh=103)), Heard(router=True)),
    "MLDv1 report": (mld(ICMPv6MLReport(mladdr="ff05::1:6")), Heard(joined=(SIX,))),
    "MLDv1 done": (mld(ICMPv6MLDone(mladdr="ff05::1:6")), Heard(left=(SIX,))),
    "MLDv2 joins": (
        mld(ICMPv6MLReport2(records=[record6(4, "ff05::1:6"), record6(1, "ff05::1:7", "fd00::1")])),
        Heard(joined=(SIX, SEVEN)),
    ),
    "MLDv2 leave of a source": (
        mld(ICMPv6MLReport2(records=[record6(6, "ff05::1:6", "fd00::1")])),
        Heard(left=(SIX,)),
    ),
    "MLDv2 leave": (mld(ICMPv6MLReport2(records=[record6(3, "ff05::1:6")])), Heard(left=(SIX,))),
    "a query of another in IPv6": (mld(ICMPv6MLQuery2()), Heard(router=True)),
    "an old query in IPv6": (mld(ICMPv6MLQuery()), Heard(router=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_scapy_writes_it(name: str) -> None:
    frame, heard = CASES[name]
    assert parse_membership(frame) == heard
    assert parse_membership(frame + bytes(6)) == heard


@pytest.mark.parametrize("name", [name for name in CASES if "PIM" not in name])
def test_a_wrong_checksum_says_nothing(name: str) -> None:
    changed = bytearray(CASES[name][0])
    changed[-1] ^= 1
    assert parse_membership(changed) is None


@given(st.sampled_from([frame for frame, _ in CASES.values()]), st.data())
def test_changed_and_cut_frames_are_survived(frame: bytes, data: st.DataObject) -> None:
    changed = bytearray(frame)
    changed[data.draw(st.integers(12, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    parse_membership(changed[: data.draw(st.integers(14, len(frame)))])


@given(st.binary(min_size=8, max_size=200))
def test_lying_counts_are_survived(body: bytes) -> None:
    message = bytes([0x22, 0, 0, 0]) + body
    packet = IP(src="10.1.0.1", dst="224.0.0.22", proto=2) / message
    raw = bytearray(bytes(Ether() / packet))
    checksum = 65535 - (int.from_bytes(message + b"\0" * (len(message) & 1), "big") % 65535)
    raw[36:38] = checksum.to_bytes(2, "big")
    heard = parse_membership(raw)
    assert heard is not None
    assert len(heard.joined) + len(heard.left) <= len(body) // 8


def test_our_questions_are_what_scapy_reads() -> None:
    general = Ether(query4(MAC, 2.0, 30.0))
    assert (general.dst, general.src) == ("01:00:5e:00:00:01", format_mac(MAC))
    ip = general[IP]
    assert (ip.src, ip.dst, ip.ttl, len(ip.options)) == ("0.0.0.0", "224.0.0.1", 1, 1)
    assert bytes(IP(bytes(ip))) == bytes(ip)
    del ip.chksum
    assert bytes(general) == query4(MAC, 2.0, 30.0), "the header's checksum"
    assert (ip[IGMPv3].type, ip[IGMPv3].mrcode, ip[IGMPv3_MQ].gaddr, ip[IGMPv3_MQ].qrv) == (0x11, 20, "0.0.0.0", 2)
    assert parse_membership(query4(MAC, 2.0, 30.0)) == Heard()
    one = Ether(query4(MAC, 1.0, 30.0, ONE))
    assert (one.dst, one[IP].dst, one[IGMPv3_MQ].gaddr) == ("01:00:5e:01:02:03", "239.1.2.3", "239.1.2.3")


def test_our_questions_in_ipv6() -> None:
    general = Ether(query6(MAC, 2.0, 30.0))
    ip = general[IPv6]
    assert (general.dst, ip.src, ip.dst, ip.hlim) == ("33:33:00:00:00:01", "fe80::6e:ff:fe00:1", "ff02::1", 1)
    assert isinstance(ip[IPv6ExtHdrHopByHop].options[0], RouterAlert)
    query = ip[ICMPv6MLQuery2]
    assert (query.mladdr, query.mrd, query.QRV, query.QQIC, query.sources_number) == ("::", 2000, 2, 30, 0)
    del query.cksum
    assert bytes(general) == query6(MAC, 2.0, 30.0)
    assert Ether(query6(MAC, 1.0, 30.0, SIX))[ICMPv6MLQuery2].mladdr == "ff05::1:6"


@pytest.mark.parametrize(
    ("address", "mac", "joinable"),
    [
        ("239.1.2.3", "01:00:5e:01:02:03", True),
        ("239.129.2.3", "01:00:5e:01:02:03", True),
        ("224.0.0.251", "01:00:5e:00:00:fb", False),
        ("ff05::1:6", "33:33:00:01:00:06", True),
        ("ff02::fb", "33:33:00:00:00:fb", False),
        ("ff02::1:ff00:1", "33:33:ff:00:00:01", False),
    ],
)
def test_group_macs(address: str, mac: str, joinable: bool) -> None:
    found = group_mac(ipaddress.ip_address(address).packed)
    assert (format_mac(found), is_joinable(found)) == (mac, joinable)
