"""Three hosts between whom paths fail: everything, UDP alone, one direction; a host behind a NAT; an IPv6 underlay; `--advertise`.

What is measured here is wall-clock time on a machine that does other things: the bounds are those of docs/protocol.md with room for
that; the exact ones are held by tests/sim/test_relays.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.netns.lab import Host, Lab, Space, until
from tests.netns.traffic import tcp_arrives_whole

ADDRESSES = ("10.32.0.1", "10.32.0.2", "10.32.0.3")
FAILOVER = 4.0
SLACK = 3.0  # commands take their time, too


class Trio:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.first, self.second, self.third = lab.hosts
        self.containers = [lab.container(f"c{number}") for number in range(3)]

    def join(self, engine: str = "auto") -> None:
        self.lab.launch("--engine", engine)
        for host, container, address in zip(self.lab.hosts, self.containers, ADDRESSES, strict=True):
            host.attach(container, f"{address}/24")
        for address in ADDRESSES[1:]:
            self.containers[0].reach(address)
        until(
            lambda: all(path_to(self.first, other)["State"] == "alive" for other in (self.second, self.third)), "paths"
        )


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    with Lab(tmp_path_factory.mktemp("relays"), 3) as lab:
        trio = Trio(lab)
        trio.join()
        yield trio


def path_to(host: Host, other: Host) -> dict[str, Any]:
    rows: list[dict[str, Any]] = host.report()["Paths"]
    return next((row for row in rows if row["NickName"] == other.nickname), {"State": "", "Kind": ""})


def relayed(one: Host, other: Host) -> bool:
    seen = path_to(one, other)
    return bool(seen["Kind"] == "relay" and seen["State"] == "alive")


def drop(host: Host, source: Host, what: str = "") -> None:
    """From now on nothing, or nothing of this kind, from that host gets in."""
    family = "ip6" if ":" in source.address else "ip"
    rule = f"{family} saddr {source.address} {what} drop"
    hook = "type filter hook ingress device eth0 priority 0;"
    host.run("nft", f"table netdev cut {{ chain in {{ {hook} {rule}; }}; }}")


def heal(*hosts: Host) -> None:
    for host in hosts:
        host.run("nft", "delete", "table", "netdev", "cut", check=False)


# Between another two each time: the more often a path has failed, the longer it has to be good before it is taken again.
@pytest.mark.parametrize(
    ("what", "one", "other"),
    [("everything", 0, 1), ("udp", 1, 2), ("one way", 2, 0)],
    ids=["everything", "udp", "one way"],
)
def test_a_cut_path_is_gone_round_and_status_says_so(trio: Trio, what: str, one: int, other: int) -> None:
    first, second = trio.lab.hosts[one], trio.lab.hosts[other]
    near, far, address = trio.containers[one], trio.containers[other], ADDRESSES[other]
    (third,) = {*trio.lab.hosts} - {first, second}
    until(lambda: path_to(first, second)["Kind"] == path_to(second, first)["Kind"] == "direct", "direct before")
    assert near.ping(address)
    kind = "udp dport 6783" if what == "udp" else ""
    drop(second, first, kind)
    if what != "one way":
        drop(first, second, kind)
    try:
        assert not near.ping(address)
        assert near.reach(address) <= FAILOVER + SLACK
        for here, there in ((first, second), (second, first)):
            until(partial(relayed, here, there), "relayed")
            seen = path_to(here, there)
            assert (seen["Kind"], seen["Endpoint"]) == ("relay", f"{third.address}:6783")
            assert seen["Via"].endswith(f"({third.nickname})")
            reason = f"relayed via {third.nickname}: no answer on {there.address}:6783"
            assert seen["Reason"].startswith(f"{reason} for ")
            assert reason in here.meshd("status").out
        tcp_arrives_whole(near, far, address)
        assert near.ping(address, count=20)
        assert path_to(third, first)["RelayedBytesOut"] > 0
    finally:
        heal(first, second)
    until(lambda: path_to(first, second)["Kind"] == path_to(second, first)["Kind"] == "direct", "direct again", 75.0)
    assert near.ping(address, count=20)


@pytest.mark.both_engines
def test_an_ipv6_underlay_where_two_never_reached_each_other(tmp_path: Path, engine: str) -> None:
    with Lab(tmp_path, 3, family=6) as lab:
        trio = Trio(lab)
        drop(trio.second, trio.third)
        drop(trio.third, trio.second)
        trio.join(engine)
        trio.containers[1].reach(ADDRESSES[2])
        seen = path_to(trio.second, trio.third)
        assert (seen["Kind"], seen["Endpoint"]) == ("relay", f"[{trio.first.address}]:6783")
        tcp_arrives_whole(trio.containers[1], trio.containers[2], ADDRESSES[2])


class Nat:
    """A router with one address outside, behind which a host is: it rewrites addresses and ports."""

    def __init__(self, lab: Lab, host: Host, address: str) -> None:
        self.space = lab._keep(Space("nat"))
        self.address = address
        host.ip("addr", "flush", "dev", "eth0")
        host.ip("link", "add", "eth1", "type", "veth", "peer", "name", "in", "netns", self.space.name)
        host.ip("addr", "add", "192.168.77.2/24", "dev", "eth1")
        host.ip("link", "set", "eth1", "up")
        host.ip("route", "add", "default", "via", "192.168.77.1")
        self.space.ip("link", "add", "out", "type", "veth", "peer", "name", "nat", "netns", lab.switch.name)
        lab.switch.ip("link", "set", "nat", "master", "br0", "up")
        self.space.ip("addr", "add", "192.168.77.1/24", "dev", "in")
        self.space.ip("link", "set", "in", "up")
        self.space.ip("link", "set", "out", "up")
        self.space.ip("addr", "add", f"{address}/24", "dev", "out")
        self.space.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        rule = "type nat hook postrouting priority 100; oifname out masquerade random"
        self.space.run("nft", f"table ip nat {{ chain post {{ {rule}; }}; }}")

    def renumber(self, address: str) -> None:
        """Another address outside: masquerading forgets what it has mapped."""
        self.space.ip("addr", "del", f"{self.address}/24", "dev", "out")
        self.space.ip("addr", "add", f"{address}/24", "dev", "out")
        self.address = address


def test_a_host_behind_a_nat_is_reached_and_followed(tmp_path: Path) -> None:
    with Lab(tmp_path, 2) as lab:
        first, second = lab.hosts
        nat = Nat(lab, second, "10.9.0.77")
        lab.launch()
        containers = [lab.container("one"), lab.container("two")]
        for host, container, address in zip(lab.hosts, containers, ADDRESSES[:2], strict=True):
            host.attach(container, f"{address}/24")
        containers[0].reach(ADDRESSES[1])
        seen = path_to(first, second)
        assert seen["Endpoint"].startswith("10.9.0.77:")
        assert not seen["Endpoint"].endswith(":6783")  # the NAT has chosen a port of its own
        assert seen["Reason"] == "direct: the address it was heard from answers"
        tcp_arrives_whole(containers[0], containers[1], ADDRESSES[1])
        nat.renumber("10.9.0.78")
        assert containers[0].reach(ADDRESSES[1]) <= 2.0 + SLACK
        until(lambda: path_to(first, second)["Endpoint"].startswith("10.9.0.78:"), "the new address in status")


def test_advertised_addresses_are_published_first_and_bad_ones_refused(tmp_path: Path) -> None:
    with Lab(tmp_path, 2) as lab:
        first, second = lab.hosts
        before = first.everything()
        for text, word in (
            ("nowhere", "not an IP address"),
            ("127.0.0.1", "no other host"),
            ("1.2.3.4:0", "not an IP"),
        ):
            done = first.meshd("launch", "--advertise", f"192.0.2.1,{text}", check=False)
            done.refused("--advertise", word)
        assert first.everything() == before
        lab.launch("--advertise", "192.0.2.1:7000", "--advertise", "192.0.2.2")
        lab.meshed()
        assert path_to(second, first)["State"] == "alive"
