"""Guards on a host end, in the kernel: what is dropped there and counted, what passes, and that nothing stays behind."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from meshd.capture import guards
from meshd.capture.guards import (
    Guard,
    guard_counters,
    link_local,
    of_interfaces,
    remove_guard,
    remove_guards,
    set_guards,
)
from meshd.ids import format_mac, parse_mac
from tests.netns.capture_helpers import Space, spaces

MAC, OTHER = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")
BROADCAST = "ff:ff:ff:ff:ff:ff"
ADDRESSES = ("10.1.0.1/24", "fd00::1/64")
BRIDGE = "l2-br.0"


@dataclass
class Port:
    """A veth into a container; `send` injects at the container's end."""

    host: Space
    box: Space

    def send(self, *packets: Packet) -> None:
        frames = [bytes(packet) for packet in packets]
        self.box.run(lambda: _send(frames))

    def dropped(self) -> dict[str, int]:
        counters = self.host.run(lambda: guard_counters(BRIDGE))["mvtest"]
        return {reason: count for reason, count in counters.items() if count}


def _send(frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("mesh0", 0))
        for frame in frames:
            sock.send(frame)


@pytest.fixture
def port() -> Iterator[Port]:
    with spaces("host", "box") as (host, box):
        host.command("ip", "link", "add", "mvtest", "type", "veth", "peer", "name", "mesh0", "netns", box.name)
        host.command("ip", "link", "set", "mvtest", "up")
        box.command("ip", "link", "set", "mesh0", "up", "address", format_mac(MAC))
        yield Port(host, box)


def guard(port: Port, *, secure: bool = False, addresses: tuple[str, ...] = ADDRESSES) -> None:
    wanted = Guard(host_ifname="mvtest", mac=MAC, addresses=addresses, port_security=secure)
    port.host.run(lambda: set_guards(BRIDGE, [wanted]))


def ether(**fields: Any) -> Packet:
    return Ether(**{"src": format_mac(MAC), "dst": format_mac(OTHER), **fields})


ROUTER = {
    "router advertisement": ether() / IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA(),
    "router advertisement in a tag": ether() / Dot1Q(vlan=3) / IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_RA(),
    "redirect": ether() / IPv6(src="fe80::1", dst="fd00::9", hlim=255) / ICMPv6ND_Redirect(),
}
SERVER = {
    "DHCP offer": ether(dst=BROADCAST)
    / IP(src="10.1.0.1", dst="255.255.255.255")
    / UDP(sport=67, dport=68)
    / BOOTP(op=2)
    / DHCP(options=[("message-type", "offer")]),
    "DHCPv6 advertise": ether() / IPv6(src="fe80::1", dst="fe80::2") / UDP(sport=547, dport=546) / DHCP6_Advertise(),
}


@pytest.mark.parametrize("name", [*ROUTER, *SERVER])
def test_no_container_configures_another(port: Port, name: str) -> None:
    """CVE-2020-13401, CVE-2020-13597, CVE-2020-11091, CVE-2024-32473: rogue router advertisements from a container."""
    guard(port)
    port.send((ROUTER | SERVER)[name])
    assert port.dropped() == {"router" if name in ROUTER else "dhcp": 1}


OWN_LINK_LOCAL = str(link_local(MAC))
PASSES = {
    "IPv4": ether() / IP(src="10.1.0.1", dst="10.1.0.2") / UDP() / Raw(b"x"),
    "IPv6": ether() / IPv6(src="fd00::1", dst="fd00::2") / UDP() / Raw(b"x"),
    "link-local": ether() / IPv6(src=OWN_LINK_LOCAL, dst="ff02::fb") / UDP(),
    "DHCP discover": ether(dst=BROADCAST) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67),
    "ARP": ether(dst=BROADCAST) / ARP(hwsrc=format_mac(MAC), psrc="10.1.0.1", pdst="10.1.0.2"),
    "an ARP probe": ether(dst=BROADCAST) / ARP(hwsrc=format_mac(MAC), psrc="0.0.0.0", pdst="10.1.0.2"),
    "duplicate address detection": ether()
    / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
    / ICMPv6ND_NS(tgt="fd00::1"),
    "an advertisement": ether() / IPv6(src="fd00::1", dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt="fd00::1"),
    "another protocol": ether(type=0x88B5) / Raw(b"anything"),
}
SPOOFED = {
    "the MAC of another": ether(src=format_mac(OTHER)) / IP(src="10.1.0.1") / UDP(),
    "the address of another": ether() / IP(src="10.1.0.2") / UDP(),
    "the IPv6 address of another": ether() / IPv6(src="fd00::2", dst="fd00::3") / UDP(),
    "a link-local address of another": ether() / IPv6(src="fe80::2", dst="fd00::3") / UDP(),
    "ARP with the address of another": ether() / ARP(op=2, hwsrc=format_mac(MAC), psrc="10.1.0.254"),
    "ARP with the MAC of another": ether() / ARP(op=2, hwsrc=format_mac(OTHER), psrc="10.1.0.1"),
    "an advertisement for another": ether() / IPv6(src="fd00::1", dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt="fd00::2"),
    "a tag": ether() / Dot1Q(vlan=3) / IP(src="10.1.0.2") / UDP(),
    "a tag and its own address": ether() / Dot1Q(vlan=3) / IP(src="10.1.0.1", dst="10.1.0.2") / UDP() / Raw(b"x"),
    "a tag and another protocol": ether() / Dot1Q(vlan=3, type=0x88B5) / Raw(b"anything"),
    "a tag for priority alone": ether() / Dot1Q(vlan=0, prio=5) / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(),
    "a service tag": ether(type=0x88A8) / Dot1Q(vlan=3) / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(),
    "a tag in a tag": ether(type=0x88A8) / Dot1Q(vlan=3) / Dot1Q(vlan=4) / IP(src="10.1.0.2") / UDP(),
}


def test_what_is_the_containers_own_passes(port: Port) -> None:
    guard(port, secure=True)
    port.send(*PASSES.values())
    assert port.dropped() == {}


@pytest.mark.parametrize("name", SPOOFED)
def test_what_is_anothers_does_not_pass_port_security(port: Port, name: str) -> None:
    guard(port)
    port.send(SPOOFED[name])
    assert port.dropped() == {}
    guard(port, secure=True)
    port.send(SPOOFED[name])
    assert port.dropped() == {"spoofed": 1}


@pytest.mark.parametrize(
    "group", [BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:01", "01:80:c2:00:00:10", "33:33:ff:00:00:01"]
)
def test_a_storm_ends_here(port: Port, group: str) -> None:
    guard(port)
    storm = [ether(dst=group, type=0x88B5) / Raw(b"x" * 40)] * 5000
    before = time.monotonic()
    port.send(*storm)
    may_pass = guards.FLOOD_BURST + guards.FLOOD_RATE * (time.monotonic() - before + 1)
    assert 5000 - may_pass <= port.dropped()["flood"] <= 5000 - guards.FLOOD_BURST


def test_a_stream_to_a_group_and_unicast_are_no_storm(port: Port) -> None:
    guard(port)
    port.send(*[ether(dst="01:00:5e:01:02:03") / IP(dst="239.1.2.3") / UDP()] * 1000, *[PASSES["IPv4"]] * 1000)
    assert port.dropped() == {}


def test_set_again_counts_on_and_new_addresses_hold(port: Port) -> None:
    guard(port, secure=True, addresses=("10.1.0.7/24",))
    port.send(PASSES["IPv4"])
    guard(port, secure=True)
    port.send(PASSES["IPv4"], SPOOFED["the address of another"])
    assert port.dropped() == {"spoofed": 2}


def test_what_is_counted_is_what_nft_says(port: Port) -> None:
    """More than one answer of the kernel's holds, and of this table alone."""
    ends = [f"mv{number}" for number in range(60)]
    port.host.command("sh", "-c", "".join(f"ip link add {end} type veth peer name p{end};" for end in ends))
    for bridge in (BRIDGE, "other"):
        rules = [Guard(host_ifname=end, mac=MAC, addresses=ADDRESSES, port_security=True) for end in ends]
        port.host.run(partial(set_guards, bridge, rules))
    guard(port)
    port.send(ROUTER["redirect"], SERVER["DHCP offer"], SERVER["DHCP offer"])
    assert port.dropped() == {"router": 1, "dhcp": 2}
    assert port.host.run(lambda: guard_counters(BRIDGE)).keys() == {*ends, "mvtest"}
    port.host.command("nft", "flush", "chain", "netdev", "meshd_other", "mv7")
    assert port.host.run(lambda: guard_counters("other")).keys() == {*ends} - {"mv7"}
    assert port.host.run(lambda: guard_counters("nobody")) == {}


def test_an_interface_that_is_gone_has_no_guard(port: Port) -> None:
    gone = Guard(host_ifname="mvgone", mac=OTHER)
    here = Guard(host_ifname="mvtest", mac=MAC)
    assert port.host.run(lambda: of_interfaces([gone, here])) == [here]


def ruleset(space: Space) -> str:
    return space.command("nft", "list", "ruleset")


def test_removed_one_by_one_and_all(port: Port) -> None:
    guard(port)
    port.host.run(lambda: remove_guard(BRIDGE, "mvtest"))
    assert port.host.run(lambda: guard_counters(BRIDGE)) == {}
    assert "mvtest" not in ruleset(port.host)
    port.host.run(lambda: remove_guard(BRIDGE, "mvtest"))  # nothing is there
    guard(port)
    assert port.host.run(lambda: remove_guards(BRIDGE))
    assert not port.host.run(lambda: remove_guards(BRIDGE))
    assert ruleset(port.host) == ""


def test_an_interface_that_went_and_came_back(port: Port) -> None:
    """Older kernels remove the chain with the interface, newer ones keep it."""
    guard(port)
    port.host.command("ip", "link", "del", "mvtest")
    port.host.command("ip", "link", "add", "mvtest", "type", "veth", "peer", "name", "mesh0", "netns", port.box.name)
    port.host.command("ip", "link", "set", "mvtest", "up")
    port.box.command("ip", "link", "set", "mesh0", "up")
    guard(port)
    port.send(ROUTER["redirect"])
    assert port.dropped() == {"router": 1}
    port.host.command("ip", "link", "del", "mvtest")
    port.host.run(lambda: remove_guard(BRIDGE, "mvtest"))
    assert "mvtest" not in ruleset(port.host)


def test_what_nft_refuses_changes_nothing(port: Port) -> None:
    guard(port)
    missing = Guard(host_ifname="mv" + 40 * "x", mac=OTHER)  # newer kernels take a name that is not there yet
    with pytest.raises(OSError, match="nft: "):
        port.host.run(lambda: set_guards(BRIDGE, [missing]))
    assert port.host.run(lambda: guard_counters(BRIDGE)).keys() == {"mvtest"}


def test_without_nft(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not guards.available()
    assert not remove_guards(BRIDGE)
    with pytest.raises(OSError, match="nft is not installed"):
        set_guards(BRIDGE, [Guard(host_ifname="mvtest", mac=MAC)])


def test_an_nft_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nft", 20)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(TimeoutError, match="nft does not end"):
        remove_guard(BRIDGE, "mvtest")
