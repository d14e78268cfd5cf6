"""Plugging containers in: they reach one another, twice is once, and what fails leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.capture.addresses import interface_addresses
from meshd.capture.announce import send_frames
from meshd.capture.bridge import bridge_fdb, ensure_bridge
from meshd.capture.links import Link, require_link
from meshd.capture.veth import (
    HostEnd,
    Mtus,
    Plug,
    Plugged,
    host_ends,
    host_ifname,
    plug,
    rejoin,
    remove_addresses,
    stable_mac,
    unplug,
)
from meshd.errors import UserError
from meshd.ids import Mac, format_mac, parse_mac
from tests.netns.capture_helpers import Space, spaces
from tests.netns.lab import until

SEED = b"seed of this mesh"
BRIDGE_MAC = parse_mac("06:00:00:00:00:99")


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    host: Space
    one: Space
    two: Space

    def plug(self, container: Space, *addresses: str, **changes: object) -> Plugged:
        want = dataclasses.replace(wanted(container, *addresses), **changes)  # type: ignore[arg-type]
        return self.host.netlink(lambda ipr: plug(ipr, container.fd, want))

    def link(self, name: str) -> Link:
        return self.host.netlink(lambda ipr: require_link(ipr, name))


def wanted(container: Space, *addresses: str) -> Plug:
    return Plug(
        host_ifname=host_ifname(container.inode, "meshd"),
        ifname="mesh0",
        bridge="meshd",
        mac=stable_mac(SEED, container.name),
        mtus=Mtus(1372, 1372),
        gso_max_size=59_000,
        addresses=addresses,
    )


def addresses(container: Space) -> tuple[str, ...]:
    return tuple(map(str, container.netlink(lambda ipr: interface_addresses(ipr, "mesh0"))))


@pytest.fixture
def world() -> Iterator[World]:
    with spaces("host", "one", "two") as (host, one, two):
        host.netlink(lambda ipr: ensure_bridge(ipr, "meshd", BRIDGE_MAC, 1372))
        yield World(host, one, two)


def test_two_containers_reach_one_another(world: World) -> None:
    first = world.plug(world.one, "10.2.1.1/24", "fd00:2::1/64")
    world.plug(world.two, "10.2.1.2/24", "fd00:2::2/64")
    assert first == Plugged(mac=stable_mac(SEED, world.one.name), created=True, added=("10.2.1.1/24", "fd00:2::1/64"))
    assert world.one.pings("10.2.1.2")
    assert world.two.pings("fd00:2::1")  # at once: no duplicate address detection


def test_both_ends_are_as_wanted(world: World) -> None:
    world.plug(world.one, "10.2.1.1/24")
    inner = world.one.netlink(lambda ipr: require_link(ipr, "mesh0"))
    outer = world.link(host_ifname(world.one.inode, "meshd"))
    assert (inner.mac, inner.mtu, inner.gso_max_size, inner.up) == (
        stable_mac(SEED, world.one.name),
        1372,
        59_000,
        True,
    )
    assert (outer.mtu, outer.gso_max_size, outer.up) == (1372, 59_000, True)
    assert outer.master == world.link("meshd").index
    assert outer.mac not in (inner.mac, BRIDGE_MAC)
    assert world.link("meshd").mac == BRIDGE_MAC
    details = world.host.command("ip", "-d", "link", "show", outer.name)
    assert "hairpin off" in details

    def sysctl(space: Space, path: str) -> str:
        return space.run(lambda: Path("/proc/sys/net", path).read_text().strip())

    assert sysctl(world.host, f"ipv6/conf/{outer.name}/disable_ipv6") == "1"
    assert sysctl(world.one, "ipv6/conf/mesh0/accept_ra") == "0"
    assert sysctl(world.one, "ipv4/neigh/mesh0/base_reachable_time_ms") == "5000"
    assert sysctl(world.one, "ipv4/neigh/mesh0/delay_first_probe_time") == "2"
    assert sysctl(world.one, "ipv6/neigh/mesh0/ucast_solicit") == "1"
    assert "224.0.0.0/4" in world.one.command("ip", "route", "show", "dev", "mesh0")


def test_without_addresses_it_is_layer_two_only(world: World) -> None:
    assert world.plug(world.one).added == ()
    assert addresses(world.one) == ()
    assert world.one.command("ip", "route") == ""
    assert world.one.netlink(lambda ipr: require_link(ipr, "mesh0")).up


def test_multicast_route_can_be_left_out_or_be_there_already(world: World) -> None:
    world.plug(world.one, "10.2.1.1/24", multicast_route=False)
    assert "224.0.0.0/4" not in world.one.command("ip", "route")
    world.two.command("ip", "route", "add", "224.0.0.0/4", "dev", "lo")
    world.plug(world.two, "10.2.1.2/24")
    assert world.two.command("ip", "route", "show", "224.0.0.0/4").startswith("224.0.0.0/4 dev lo")


def test_ipv6_where_docker_switched_it_off(world: World) -> None:
    world.one.command("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
    assert world.plug(world.one, "fd00:2::1/64").added == ("fd00:2::1/64",)


def test_twice_is_once(world: World) -> None:
    world.plug(world.one, "10.2.1.1/24")
    own = parse_mac("02:00:00:00:77:01")
    world.one.command("ip", "link", "set", "mesh0", "address", format_mac(own))
    again = world.plug(world.one, "10.2.1.1/24", "10.2.2.1/24")
    assert again == Plugged(mac=own, created=False, added=("10.2.2.1/24",))
    assert world.plug(world.one, "10.2.1.1/24").added == ()
    assert addresses(world.one) == ("10.2.1.1/24", "10.2.2.1/24")
    assert len(world.host.links()) == 3


def test_ipv6_needs_its_smallest_mtu(world: World) -> None:
    """The kernel would say "invalid argument", or take the addresses away when the MTU is lowered."""
    with pytest.raises(UserError, match="IPv6 needs an MTU of 1280, and that of the mesh's interfaces is 1279"):
        world.plug(world.one, "fd00:2::1/64", mtus=Mtus(1279, 1279))
    assert world.one.links() == {"lo"}
    world.plug(world.one, "fd00:2::1/64", mtus=Mtus(1280, 1280))
    with pytest.raises(UserError, match="IPv6 needs"):
        world.plug(world.one, "fd00:2::1/64", mtus=Mtus(1279, 1279))
    assert addresses(world.one) == ("fd00:2::1/64",)


def test_a_link_local_address_is_one_like_others(world: World) -> None:
    """The kernel gives one by itself, which is none of ours; what the user gave can be given again, and taken."""

    def link_local() -> set[str]:
        (link,) = json.loads(world.one.command("ip", "-j", "-6", "addr", "show", "dev", "mesh0"))
        return {entry["local"] for entry in link["addr_info"] if entry["scope"] == "link"}

    assert world.plug(world.one, "fe80::5/64").added == ("fe80::5/64",)
    assert world.plug(world.one, "fe80::5/64", "10.2.1.1/24").added == ("10.2.1.1/24",)
    assert "fe80::5" in link_local()
    assert remove_addresses(world.one.fd, "mesh0", ["fe80::5/64"]) == ("fe80::5/64",)
    assert "fe80::5" not in link_local()


def test_again_after_the_bridge_was_made_anew(world: World) -> None:
    world.plug(world.one, "10.2.1.1/24")
    world.plug(world.two, "10.2.1.2/24")
    world.host.command("ip", "link", "del", "meshd")
    world.host.netlink(lambda ipr: ensure_bridge(ipr, "meshd", BRIDGE_MAC, 1372))
    world.plug(world.one)
    world.plug(world.two)
    assert world.one.pings("10.2.1.2")


def learned(world: World) -> dict[Mac, str]:
    return world.host.netlink(lambda ipr: bridge_fdb(ipr, "meshd"))


def forge(space: Space, mac: Mac) -> None:
    space.run(lambda: send_frames("mesh0", [b"\xff" * 6 + mac + b"\x88\xb5" + bytes(46)]))


@pytest.mark.parametrize("anew", [False, True], ids=["as plugged", "on a bridge made anew"])
def test_a_neighbour_does_not_take_its_mac_from_it(world: World, anew: bool) -> None:
    mac = world.plug(world.one).mac
    world.plug(world.two)
    end = host_ifname(world.one.inode, "meshd")
    if anew:
        world.host.command("ip", "link", "del", "meshd")
        world.host.netlink(lambda ipr: ensure_bridge(ipr, "meshd", BRIDGE_MAC, 1372))
        world.host.netlink(lambda ipr: rejoin(ipr, "meshd"))
    free = parse_mac("02:00:00:00:77:01")

    def forged() -> bool:
        for source in (mac, free):
            forge(world.two, source)
        return learned(world).get(free) == host_ifname(world.two.inode, "meshd")

    until(forged, "the bridge forwards and learns")
    assert learned(world)[mac] == end
    world.host.command("ip", "link", "set", end, "down")  # as for a loop behind it
    assert learned(world)[mac] == end


def test_an_interface_that_changed_its_mac_is_pinned_by_the_next_plug(world: World) -> None:
    world.plug(world.one)
    own = parse_mac("02:00:00:00:77:01")
    world.one.command("ip", "link", "set", "mesh0", "address", format_mac(own))
    world.plug(world.one)
    assert learned(world)[own] == host_ifname(world.one.inode, "meshd")


def test_interface_of_another_is_refused_and_stays(world: World) -> None:
    world.one.command("ip", "link", "add", "mesh0", "type", "bridge")
    with pytest.raises(UserError, match=r"interface mesh0 already.*--ifname"):
        world.plug(world.one, "10.2.1.1/24")
    assert world.host.links() == {"lo", "meshd"}
    assert world.one.netlink(lambda ipr: require_link(ipr, "mesh0")).kind == "bridge"
    assert world.plug(world.one, "10.2.1.1/24", ifname="ethwe").created


def test_second_name_for_an_attached_container_is_refused(world: World) -> None:
    world.plug(world.one)
    with pytest.raises(UserError, match="attached already, as mesh0"):
        world.plug(world.one, ifname="mesh1")
    assert world.one.links() == {"lo", "mesh0"}


def test_host_name_that_leads_elsewhere_is_refused(world: World) -> None:
    world.plug(world.one)
    with pytest.raises(UserError, match="does not lead to this container"):
        world.plug(world.two, host_ifname=host_ifname(world.one.inode, "meshd"))
    assert world.two.links() == {"lo"}


@pytest.mark.parametrize(
    "addresses",
    [("10.2.1.1",), ("10.2.1.1/24", "nonsense"), ("10.2.1.0/24",), ("10.2.1.255/24",), ("224.0.0.1/8",), ("::/64",)],
)
def test_malformed_addresses_change_nothing(world: World, addresses: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        world.plug(world.one, *addresses)
    assert world.host.links() == {"lo", "meshd"}
    assert world.one.links() == {"lo"}


@pytest.mark.parametrize("step", ["_connect_host_end", "_configure", "ensure_multicast_route"])
def test_failure_at_any_step_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, step)

    monkeypatch.setattr(f"meshd.capture.veth.{step}", fail)
    with pytest.raises(OSError, match=step):
        world.plug(world.one, "10.2.1.1/24")
    assert world.host.links() == {"lo", "meshd"}
    assert world.one.links() == {"lo"}


def test_failure_on_an_attached_container_takes_the_new_addresses_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.plug(world.one, "10.2.1.1/24")

    def fail(*_: object) -> None:
        raise OSError(5, "no route")

    monkeypatch.setattr("meshd.capture.veth.ensure_multicast_route", fail)
    with pytest.raises(OSError, match="no route"):
        world.plug(world.one, "10.2.1.1/24", "10.2.2.1/24", "fd00::1/64")
    assert addresses(world.one) == ("10.2.1.1/24",)


def test_address_that_the_kernel_refuses_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.capture.addresses.write_sysctl", lambda *_: True)  # so IPv6 stays off
    world.one.command("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    with pytest.raises(PermissionError):
        world.plug(world.one, "10.2.1.1/24", "fd00::1/64")
    assert world.host.links() == {"lo", "meshd"}
    assert world.one.links() == {"lo"}


def test_no_bridge(world: World) -> None:
    with pytest.raises(OSError, match="no interface nobridge"):
        world.plug(world.one, bridge="nobridge")
    assert world.one.links() == {"lo"}


def test_addresses_go(world: World) -> None:
    world.plug(world.one, "10.2.1.1/24", "10.2.1.5/24", "fd00::5/64")
    assert remove_addresses(world.one.fd, "mesh0", ["10.2.1.1/24", "10.9.9.9/24"]) == ("10.2.1.1/24",)
    assert addresses(world.one) == ("10.2.1.5/24", "fd00::5/64")  # no secondary went with its primary
    with pytest.raises(OSError, match="no interface gone0"):
        remove_addresses(world.one.fd, "gone0", ["10.2.1.1/24"])


def test_unplug_removes_both_ends_and_only_ours(world: World) -> None:
    world.plug(world.one, "10.2.1.1/24")
    name = host_ifname(world.one.inode, "meshd")
    assert world.host.netlink(lambda ipr: host_ends(ipr, "meshd")) == {
        name: HostEnd(stable_mac(SEED, world.one.name), Mtus(1372, 1372))
    }
    assert world.host.netlink(lambda ipr: host_ends(ipr, "other")) == {}
    assert world.host.netlink(lambda ipr: unplug(ipr, name))
    assert not world.host.netlink(lambda ipr: unplug(ipr, name))
    assert world.one.links() == {"lo"}
    with pytest.raises(UserError, match="stays"):
        world.host.netlink(lambda ipr: unplug(ipr, "meshd"))


def test_the_host_can_tell_what_mtu_a_container_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a change that went wrong half way: what the container's end has is not told then."""

    def ends() -> list[Mtus]:
        return [end.mtus for end in world.host.netlink(lambda ipr: host_ends(ipr, "meshd")).values()]

    world.plug(world.one, mtus=Mtus(1500, 1372))
    assert ends() == [Mtus(1500, 1372)]
    with monkeypatch.context() as broken:
        broken.setattr("meshd.capture.veth.write_sysctl", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.plug(world.one, mtus=Mtus(1500, 1200))
    assert ends() == [Mtus(1500, 0)]
    world.plug(world.one, mtus=Mtus(1500, 1200))
    assert ends() == [Mtus(1500, 1200)]
    world.host.command(
        "ip", "link", "set", host_ifname(world.one.inode, "meshd"), "alias", "meshd meshd 02:00:00:00:00:01"
    )
    assert ends() == [Mtus(1500, 0)]  # a former version's
    world.host.command("ip", "link", "set", host_ifname(world.one.inode, "meshd"), "alias", "meshd meshd of mine")
    assert ends() == []


def test_neighbours_learn_of_an_address_that_moved(world: World) -> None:
    with spaces("third") as (third,):
        world.plug(world.one, "10.2.1.1/24")
        world.plug(world.two, "10.2.1.2/24")
        assert world.one.pings("10.2.1.2")
        remove_addresses(world.two.fd, "mesh0", ["10.2.1.2/24"])
        moved = world.plug(third, "10.2.1.2/24")
        neighbours = world.one.command("ip", "neigh", "show", "10.2.1.2")
        assert format_mac(moved.mac) in neighbours
        assert world.one.pings("10.2.1.2")


def test_announcement_goes_out_in_time(world: World) -> None:
    """The port must forward before the announcement is sent; somebody on the bridge hears it."""
    world.plug(world.two)

    def listen() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        raw.bind(("mesh0", 0x0806))
        return raw

    with world.two.run(listen) as raw:
        raw.settimeout(5)
        plugged = world.plug(world.one, "10.2.1.1/24")
        frame = raw.recv(2000)
    assert frame[6:12] == plugged.mac
    assert frame[28:32] == socket.inet_aton("10.2.1.1") == frame[38:42]
