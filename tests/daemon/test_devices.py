"""The machine's part of a router, as far as it needs no rights: ports, names, MTU, and what is closed after a refusal."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from pyroute2 import IPRoute

from meshd.config import LaunchOptions
from meshd.daemon import devices as module
from meshd.daemon.capturing import capturing_for
from meshd.daemon.devices import Devices, bridge_mac, open_ports, survey
from meshd.errors import UserError
from meshd.ids import is_multicast
from meshd.net.steer import open_side_ports
from meshd.net.udp import UdpPort, open_udp_port


@pytest.fixture
def port() -> Iterator[int]:
    """A free UDP port of both families."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        number = int(probe.getsockname()[1])
    yield number
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", number))


def test_the_bridges_mac_is_stable_local_and_everywhere_another() -> None:
    mac = bridge_mac(b"m" * 16, b"h" * 16)
    assert mac == bridge_mac(b"m" * 16, b"h" * 16)
    assert len({mac, bridge_mac(b"m" * 16, b"i" * 16), bridge_mac(b"n" * 16, b"h" * 16)}) == 3
    assert not is_multicast(mac)
    assert mac[0] & 2


def test_one_port_for_each_family(port: int) -> None:
    ports = open_ports(LaunchOptions(port=port))
    assert [opened.family for opened in ports] == [4, 6]
    assert {opened.local.port for opened in ports} == {port}
    side_ports = [side for opened in ports for side in open_side_ports(opened)]
    assert {(side.family, side.local.port) for side in side_ports} == {(4, port), (6, port)}
    capturing = capturing_for(LaunchOptions(), bridge_mac(b"m" * 16, b"h" * 16), 1372)
    devices = Devices(ports=ports, side_ports=side_ports, capturing=capturing)
    assert set(devices.port_offloads()) <= {"udp gso", "udp gro"}
    devices.close()
    devices.close()
    assert devices.port_offloads() == []


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", 4), ("::1", 6)])
def test_one_address_alone(port: int, host: str, family: int) -> None:
    (opened,) = open_ports(LaunchOptions(port=port, host=host))
    assert (opened.family, opened.local.host) == (family, host)
    opened.close()


def test_a_port_that_is_taken_is_refused_in_either_family(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", port))
        with pytest.raises(UserError, match=f"UDP port {port} is taken"):
            open_ports(LaunchOptions(port=port))


def test_a_host_without_ipv6(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(family: Any, host: str, number: int) -> UdpPort:
        if family == 6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return open_udp_port(family, host, number)

    monkeypatch.setattr(module, "open_udp_port", without)
    (opened,) = open_ports(LaunchOptions(port=port))
    assert opened.family == 4
    opened.close()
    with pytest.raises(UserError, match="address family not supported"):
        open_ports(LaunchOptions(port=port, host="::1"))


# ── the underlay


class Link(dict[str, Any]):
    def get_attr(self, name: str) -> Any:
        return self.get(name)


class Kernel:
    """Two devices: eth0 with both families, wg0 with a smaller MTU."""

    def get_addr(self) -> list[Link]:
        return [
            Link(index=1, IFA_ADDRESS="10.0.0.1"),
            Link(index=1, IFA_ADDRESS="fd00::1"),
            Link(index=2, IFA_ADDRESS="10.9.0.1"),
            Link(index=3, IFA_ADDRESS="172.17.0.1"),
        ]

    def get_links(self) -> list[Link]:
        return [Link(index=1, IFLA_MTU=1500), Link(index=2, IFLA_MTU=1420), Link(index=3, IFLA_MTU=800)]


@pytest.mark.parametrize(
    ("found", "options", "mtu", "interface"),
    [
        (["10.0.0.1", "fd00::1"], {}, 1500, 1372),
        (["10.0.0.1", "10.9.0.1"], {}, 1420, 1292),  # what fits the smallest fits everywhere
        (["fd00::1"], {}, 1500, 1352),
        (["10.0.0.1"], {"mtu": 1000}, 1500, 1000),
        (["10.0.0.1"], {"host": "10.9.0.1"}, 1420, 1292),
        ([], {}, 1500, 1372),
    ],
)
def test_the_underlay(
    monkeypatch: pytest.MonkeyPatch, found: list[str], options: dict[str, Any], mtu: int, interface: int
) -> None:
    asked: list[set[str]] = []

    def endpoints(_ipr: object, exclude: set[str]) -> list[str]:
        asked.append(exclude)
        return found

    monkeypatch.setattr(module, "local_endpoints", endpoints)
    monkeypatch.setattr(module, "addresses_of_host", lambda _ipr: ["10.0.0.1", "127.0.0.1"])
    seen = survey(cast(IPRoute, Kernel()), LaunchOptions(**options))
    assert (seen.mtu, seen.interface_mtu) == (mtu, interface)
    assert seen.endpoints == ((options["host"],) if "host" in options else tuple(found))
    assert seen.own_addresses == {"10.0.0.1", "127.0.0.1"}
    assert asked in ([], [{"meshd", "meshd-tap"}])


def test_an_underlay_that_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "get_links", lambda _self: [Link(index=1, IFLA_MTU=600)])
    monkeypatch.setattr(module, "local_endpoints", lambda _ipr, _exclude: ["10.0.0.1"])
    monkeypatch.setattr(module, "addresses_of_host", lambda _ipr: [])
    with pytest.raises(UserError, match="leaves no room"):
        survey(cast(IPRoute, Kernel()), LaunchOptions())
