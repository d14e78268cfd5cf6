"""Announcements byte by byte, and the names and MACs that follow from others."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from meshd.capture.addresses import MAX_ADDRESSES, parse_address, parse_addresses
from meshd.capture.announce import announcements, gratuitous_arp, unsolicited_advertisement
from meshd.capture.links import check_ifname
from meshd.capture.netns import Inode
from meshd.capture.veth import host_ifname, stable_mac
from meshd.errors import UserError
from meshd.ids import is_multicast, parse_mac

MAC = parse_mac("02:00:00:00:00:07")


def test_gratuitous_arp_is_an_arp_announcement() -> None:
    """RFC 5227, section 3: a request in which both protocol addresses are the sender's."""
    frame = gratuitous_arp(MAC, ipaddress.IPv4Address("10.2.1.1"))
    assert frame == bytes.fromhex(
        "ffffffffffff 020000000007 0806"  # Ethernet
        "0001 0800 06 04 0001"  # Ethernet, IPv4, request
        "020000000007 0a020101 000000000000 0a020101"
    )
    assert ARP in Ether(frame)


def test_unsolicited_advertisement_is_what_another_implementation_makes() -> None:
    frame = unsolicited_advertisement(MAC, ipaddress.IPv6Address("fd00::7"))
    expected = (
        Ether(src="02:00:00:00:00:07", dst="33:33:00:00:00:01")
        / IPv6(src="fd00::7", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(R=0, S=0, O=1, tgt="fd00::7")
        / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:07")
    )
    assert frame == bytes(expected)


@given(st.binary(min_size=16, max_size=16))
def test_checksum_of_any_advertisement(packed: bytes) -> None:
    body = unsolicited_advertisement(MAC, ipaddress.IPv6Address(packed))[14:]
    summed = body[8:40] + len(body[40:]).to_bytes(4, "big") + b"\0\0\0\x3a" + body[40:]
    total = sum(int.from_bytes(summed[i : i + 2], "big") for i in range(0, len(summed), 2))
    assert total % 0xFFFF == 0  # RFC 1071: the sum including the checksum is all ones


def test_one_announcement_for_each_address() -> None:
    frames = announcements(MAC, parse_addresses(["10.2.1.1/24", "fd00::7/64"]))
    assert [frame[12:14].hex() for frame in frames] == ["0806", "86dd"]


@given(st.binary(max_size=80), st.text(max_size=70))
def test_stable_mac_is_local_unicast_and_stable(seed: bytes, container: str) -> None:
    mac = stable_mac(seed, container)
    assert len(mac) == 6
    assert not is_multicast(mac)
    assert mac[0] & 2
    assert mac == stable_mac(seed, container)


def test_stable_mac_differs_between_containers_and_meshes() -> None:
    """Pinned: a new release must not give a container another MAC."""
    assert stable_mac(b"seed", "web").hex(":") == "86:e7:f0:3a:43:de"
    assert len({stable_mac(seed, name) for seed in (b"a", b"b", b"a" * 40, b"a" * 41) for name in ("x", "y")}) == 8


def test_host_ifname_fits_and_tells_apart() -> None:
    names = {host_ifname(Inode(4, number), bridge) for number in range(200) for bridge in ("meshd", "weave")}
    assert len(names) == 400
    assert all(check_ifname(name) == name and len(name) == 12 for name in names)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "sixteen-letters-", "ä", "a\n", "%d"])
def test_bad_interface_names(name: str) -> None:
    with pytest.raises(UserError, match="no interface name"):
        check_ifname(name)


@pytest.mark.parametrize("text", ["10.2.1.1/24", "10.2.1.1/32", "10.2.1.0/31", "fd00::1/64", "fd00::/127"])
def test_addresses_that_can_be_given(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.2.1.1", "no prefix length"),
        ("", "no prefix length"),
        ("10.2.1.1/33", "no address"),
        ("10.2.1/24", "no address"),
        ("10.2.1.1/24/24", "no address"),
        ("10.2.1.1/-1", "no address"),
        ("container/24", "no address"),
        ("10.2.1.0/24", "network's own"),
        ("10.2.1.255/24", "broadcast"),
        ("0.0.0.0/0", "cannot have"),
        ("127.0.0.1/8", "cannot have"),
        ("239.1.1.1/8", "cannot have"),
        ("::1/128", "cannot have"),
        ("ff02::1/64", "cannot have"),
        ("fd00::1%eth0/64", "without '%'"),
    ],
)
def test_addresses_that_cannot(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_address(text)


@given(st.text(max_size=50))
def test_any_text_is_an_address_or_a_user_error(text: str) -> None:
    refused: UserError | None = None
    try:
        parse_address(text)
    except UserError as error:
        refused = error
    assert "\n" not in str(refused)


def test_addresses_are_in_order_and_once_and_not_too_many() -> None:
    assert [str(a) for a in parse_addresses(["10.0.0.2/8", "10.0.0.1/8", "10.0.0.2/8"])] == ["10.0.0.2/8", "10.0.0.1/8"]
    with pytest.raises(UserError, match="at most"):
        parse_addresses(f"10.0.{n}.1/24" for n in range(MAX_ADDRESSES + 1))
