"""With br_netfilter and a FORWARD that drops, frames of our bridge pass because of our rule, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.capture.bridge import ensure_bridge
from meshd.capture.firewall import (
    ensure_rules,
    firewall_warning,
    forward_rejects,
    remove_rules,
)
from meshd.capture.preflight import check_machine
from meshd.capture.veth import Mtus, Plug, host_ifname, plug, stable_mac
from meshd.errors import UserError
from meshd.ids import parse_mac
from tests.netns.capture_helpers import Space, spaces

NETFILTER = Path("/proc/sys/net/bridge")


@pytest.fixture
def host(host: Space) -> Space:
    """A host whose bridges meet iptables, as Docker sets it."""
    set_netfilter(host, 1)
    return host


def set_netfilter(space: Space, value: int) -> None:
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        space.run(lambda name=name: (NETFILTER / name).write_text(str(value)))  # type: ignore[misc]


def dump(host: Space, command: str = "iptables") -> str:
    return host.command(command, "-S")


def docker_like(host: Space, command: str = "iptables") -> None:
    for arguments in (
        "-N DOCKER",
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-A FORWARD -j DOCKER-USER",
        "-P FORWARD DROP",
    ):
        host.command(command, *arguments.split())


def test_containers_reach_one_another_behind_a_drop(host: Space) -> None:
    with spaces("one", "two") as (one, two):
        host.netlink(lambda ipr: ensure_bridge(ipr, "meshd", parse_mac("06:00:00:00:00:99"), 1372))
        for number, space in enumerate((one, two), 1):
            want = Plug(
                host_ifname=host_ifname(space.inode, "meshd"),
                ifname="mesh0",
                bridge="meshd",
                mac=stable_mac(b"seed", space.name),
                mtus=Mtus(1372, 1372),
                gso_max_size=59_000,
                addresses=(f"10.2.1.{number}/24", f"fd00::{number}/64"),
            )
            host.netlink(lambda ipr, space=space, want=want: plug(ipr, space.fd, want))  # type: ignore[misc]
        host.command("iptables", "-P", "FORWARD", "DROP")
        host.command("ip6tables", "-P", "FORWARD", "DROP")
        assert not one.pings("10.2.1.2")  # what the rule is for
        assert host.run(lambda: ensure_rules("meshd"))
        assert one.pings("10.2.1.2")
        assert one.pings("fd00::2")


def test_nothing_is_touched_where_bridges_do_not_meet_iptables(host: Space) -> None:
    set_netfilter(host, 0)
    assert not host.run(lambda: ensure_rules("meshd"))
    assert "meshd" not in dump(host)


def test_twice_is_once_and_a_flush_is_mended(host: Space) -> None:
    before = dump(host), dump(host, "ip6tables")
    assert host.run(lambda: ensure_rules("meshd"))
    assert not host.run(lambda: ensure_rules("meshd"))
    assert dump(host).count("meshd meshd") == dump(host, "ip6tables").count("meshd meshd") == 1
    host.command("iptables", "-F", "FORWARD")
    assert host.run(lambda: ensure_rules("meshd"))
    assert host.run(lambda: remove_rules("meshd"))
    assert not host.run(lambda: remove_rules("meshd"))
    assert (dump(host), dump(host, "ip6tables")) == before


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_docker_user_chain_of_the_variant_in_use(host: Space, variant: str) -> None:
    command, other = f"iptables-{variant}", {"nft": "iptables-legacy", "legacy": "iptables-nft"}[variant]
    docker_like(host, command)
    assert host.run(lambda: ensure_rules("meshd"))
    rules = [line for line in dump(host, command).splitlines() if line.startswith("-A")]
    assert rules[:1] == ["-A FORWARD -j DOCKER-USER"]
    assert rules[1].startswith("-A DOCKER-USER -i meshd -o meshd")
    assert "meshd" not in dump(host, other)
    assert host.run(lambda: remove_rules("meshd"))
    assert "meshd" not in dump(host, command)


def test_docker_user_chain_that_forward_does_not_lead_to_is_not_used(host: Space) -> None:
    docker_like(host)
    host.command("iptables", "-F", "FORWARD")
    host.run(lambda: ensure_rules("meshd"))
    assert "-A FORWARD -i meshd -o meshd" in dump(host)


def test_rule_behind_a_drop_is_moved_before_it(host: Space) -> None:
    host.run(lambda: ensure_rules("meshd"))
    host.command("iptables", "-I", "FORWARD", "1", "-p", "icmp", "-j", "DROP")
    assert host.run(lambda: ensure_rules("meshd"))
    forward = [line for line in dump(host).splitlines() if line.startswith("-A FORWARD")]
    assert len(forward) == 2
    assert "meshd" in forward[0]


def test_two_bridges_leave_each_other_alone(host: Space) -> None:
    host.run(lambda: ensure_rules("meshd"))
    assert host.run(lambda: ensure_rules("mesh"))
    assert not host.run(lambda: ensure_rules("meshd"))
    assert not host.run(lambda: ensure_rules("mesh"))
    host.run(lambda: remove_rules("mesh"))
    assert not host.run(lambda: ensure_rules("meshd"))


def test_without_iptables_there_is_a_warning_only(host: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.run(firewall_warning) is None
    monkeypatch.setenv("PATH", "/nonexistent")
    warning = host.run(firewall_warning)
    assert warning is not None
    assert warning.startswith("iptables and ip6tables not found")
    assert not host.run(lambda: ensure_rules("meshd"))
    assert not host.run(lambda: remove_rules("meshd"))
    set_netfilter(host, 0)
    assert host.run(firewall_warning) is None


def test_preflight_only_looks(host: Space) -> None:
    links, rules = host.links(), dump(host)
    assert host.netlink(lambda ipr: check_machine(ipr, "meshd", "meshd-tap")) == []
    assert (host.links(), dump(host)) == (links, rules)
    host.command("iptables", "-A", "FORWARD", "-j", "REJECT")
    assert host.run(forward_rejects)
    (warning,) = host.netlink(lambda ipr: check_machine(ipr, "meshd", "meshd-tap"))
    assert "REJECT" in warning


@pytest.mark.parametrize(("name", "text"), [("meshd", "not a bridge"), ("meshd-tap", "exists already")])
def test_preflight_refuses_a_name_that_is_taken(host: Space, name: str, text: str) -> None:
    host.command("ip", "link", "add", name, "type", "veth", "peer", "name", "p")
    with pytest.raises(UserError, match=text):
        host.netlink(lambda ipr: check_machine(ipr, "meshd", "meshd-tap"))
