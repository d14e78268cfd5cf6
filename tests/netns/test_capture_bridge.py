"""The bridge keeps what was set on it, whatever its ports are like."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.capture.announce import send_frames
from meshd.capture.bridge import bridge_fdb, bridge_ports, enslave, ensure_bridge, remove_bridge
from meshd.capture.links import Link, require_link
from meshd.errors import UserError
from meshd.ids import Mac, parse_mac
from tests.netns.capture_helpers import Space

MAC = parse_mac("06:00:00:00:00:99")
OTHER_MAC = parse_mac("06:00:00:00:00:98")


def ensure(host: Space, mac: Mac = MAC, mtu: int = 1372) -> bool:
    return host.netlink(lambda ipr: ensure_bridge(ipr, "meshd", mac, mtu))


def bridge(host: Space) -> Link:
    return host.netlink(lambda ipr: require_link(ipr, "meshd"))


def add_veth(host: Space, name: str, mtu: int, mac: str) -> None:
    host.command("ip", "link", "add", name, "mtu", str(mtu), "address", mac, "type", "veth", "peer", "name", f"{name}p")
    host.command("ip", "link", "set", name, "up")
    host.command("ip", "link", "set", f"{name}p", "up")


def test_bridge_is_made_once(host: Space) -> None:
    assert ensure(host)
    link = bridge(host)
    assert (link.kind, link.mac, link.mtu, link.up) == ("bridge", MAC, 1372, True)
    details = host.command("ip", "-d", "link", "show", "meshd")
    assert "stp_state 0" in details
    assert "mcast_snooping 0" in details
    assert not ensure(host)
    assert bridge(host) == link


def test_host_has_no_ipv6_on_it(host: Space) -> None:
    ensure(host)
    conf = Path("/proc/sys/net/ipv6/conf/meshd")
    assert host.run(lambda: (conf / "disable_ipv6").read_text()) == "1\n"
    assert host.run(lambda: (conf / "accept_ra").read_text()) == "0\n"
    assert "inet6" not in host.command("ip", "addr", "show", "meshd")


@pytest.mark.parametrize("mtu", [1372, 1500])
def test_ports_change_neither_mac_nor_mtu(host: Space, mtu: int) -> None:
    ensure(host, mtu=mtu)
    add_veth(host, "p0", 1000, "02:00:00:00:00:01")  # a lower MAC, a smaller MTU: a bridge would take both
    host.netlink(lambda ipr: enslave(ipr, "p0", "meshd"))
    host.netlink(lambda ipr: enslave(ipr, "p0", "meshd"))
    assert (bridge(host).mac, bridge(host).mtu) == (MAC, mtu)
    assert [port.name for port in host.netlink(lambda ipr: bridge_ports(ipr, "meshd"))] == ["p0"]


def test_what_somebody_changed_is_put_right(host: Space) -> None:
    ensure(host)
    host.command("ip", "link", "set", "meshd", "down", "address", str(OTHER_MAC.hex(":")), "mtu", "900")
    host.command("ip", "link", "set", "meshd", "type", "bridge", "mcast_snooping", "1")
    assert not ensure(host)
    link = bridge(host)
    assert (link.mac, link.mtu, link.up) == (MAC, 1372, True)
    assert "mcast_snooping 0" in host.command("ip", "-d", "link", "show", "meshd")


def test_something_else_of_that_name_is_refused_and_stays(host: Space) -> None:
    add_veth(host, "meshd", 1500, "02:00:00:00:00:01")
    with pytest.raises(UserError, match=r"not a bridge but a veth device.*--bridge"):
        ensure(host)
    with pytest.raises(UserError, match="it stays"):
        host.netlink(lambda ipr: remove_bridge(ipr, "meshd"))
    assert bridge(host).kind == "veth"


def test_bridge_in_use_by_something_else_is_refused_and_stays_as_it_is(host: Space) -> None:
    host.command("ip", "link", "add", "meshd", "type", "bridge")
    host.command("ip", "addr", "add", "172.17.0.1/16", "dev", "meshd")
    before = bridge(host)
    with pytest.raises(UserError, match="in use by something else"):
        ensure(host)
    with pytest.raises(UserError, match="it stays"):
        host.netlink(lambda ipr: remove_bridge(ipr, "meshd"))
    assert bridge(host) == before
    host.command("ip", "addr", "flush", "dev", "meshd")
    add_veth(host, "p0", 1500, "02:00:00:00:00:01")
    host.netlink(lambda ipr: enslave(ipr, "p0", "meshd"))
    with pytest.raises(UserError, match="in use by something else"):
        ensure(host)
    host.command("ip", "link", "set", "p0", "nomaster")
    assert not ensure(host)  # empty: taken over, and ours from now on
    host.netlink(lambda ipr: enslave(ipr, "p0", "meshd"))
    assert not ensure(host)


def test_failure_leaves_no_bridge(host: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ifname: str) -> None:
        raise PermissionError(ifname)

    monkeypatch.setattr("meshd.capture.bridge.disable_ipv6", fail)
    with pytest.raises(PermissionError):
        ensure(host)
    assert host.links() == {"lo"}


def test_fdb_tells_what_was_learned_and_where(host: Space) -> None:
    ensure(host)
    add_veth(host, "p0", 1372, "02:00:00:00:00:01")
    add_veth(host, "p1", 1372, "02:00:00:00:00:02")
    host.netlink(lambda ipr: enslave(ipr, "p0", "meshd"))
    host.netlink(lambda ipr: enslave(ipr, "p1", "meshd"))
    wait_forwarding(host, "p1")
    source = parse_mac("02:aa:00:00:00:01")
    host.run(lambda: send_frames("p1p", [b"\xff" * 6 + source + b"\x88\xb5" + bytes(46)]))
    assert host.netlink(lambda ipr: bridge_fdb(ipr, "meshd")).get(source) == "p1"


def wait_forwarding(host: Space, name: str) -> None:
    for _ in range(1000):
        link = host.netlink(lambda ipr: require_link(ipr, name))
        if link.port_state == 3 and link.running:
            return
    pytest.fail(f"{name} does not forward")


def test_remove(host: Space) -> None:
    ensure(host)
    assert host.netlink(lambda ipr: remove_bridge(ipr, "meshd"))
    assert not host.netlink(lambda ipr: remove_bridge(ipr, "meshd"))
    assert host.links() == {"lo"}


def test_name_that_is_no_name(host: Space) -> None:
    with pytest.raises(UserError, match="no interface name"):
        host.netlink(lambda ipr: ensure_bridge(ipr, "sixteen-letters-", MAC, 1372))
