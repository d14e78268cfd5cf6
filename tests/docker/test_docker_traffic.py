"""Containers of two Docker hosts talk, with br_netfilter on and Docker's FORWARD DROP in the way."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.docker.dockerd import DockerContainer, Dockerd
from tests.netns.lab import Host, Lab, until
from tests.netns.traffic import datagrams_arrive, groups_reach, tcp_arrives_whole

ADDRESSES = ("10.32.0.1", "10.32.0.2", "10.32.0.3", "10.32.0.4")


@pytest.fixture(autouse=True)
def nothing_left_by_the_test() -> None:
    """Routers, daemons and containers of the file's world are replaced by its tests; what the whole file leaves is looked at."""


@dataclass
class World:
    lab: Lab
    dockerds: list[Dockerd]
    containers: list[DockerContainer]  # two on each host


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Lab(tmp_path_factory.mktemp("traffic"), 2) as lab, ExitStack() as ending:
        dockerds = [ending.enter_context(Dockerd(host)) for host in lab.hosts]
        lab.launch()
        containers = []
        for number, address in enumerate(ADDRESSES):
            host, dockerd = lab.hosts[number // 2], dockerds[number // 2]
            containers.append(dockerd.run(f"box{number}", "--network", "none" if number % 2 else "bridge"))
            host.meshd("attach", f"{address}/24", f"box{number}")
        lab.meshed()
        yield World(lab, dockerds, containers)


def forward(host: Host) -> str:
    return host.run("iptables", "-S").out


def test_the_firewall_is_dockers(world: World) -> None:
    """Else the rest of this file would show nothing."""
    for host in world.lab.hosts:
        assert "-P FORWARD DROP" in forward(host)
        assert host.run("sysctl", "-n", "net.bridge.bridge-nf-call-iptables").out == "1\n"
        assert "-A DOCKER-USER -i meshd -o meshd" in forward(host)


def test_everybody_reaches_everybody(world: World) -> None:
    for source in world.containers:
        for address in ADDRESSES:
            assert source.ping(address, count=3), (source.name, address)
            assert source.ping(address, "-s", "8000"), (source.name, address)


@pytest.mark.parametrize(("source", "sink"), [(0, 2), (2, 0), (1, 3), (3, 1), (0, 1)])
def test_streams_and_datagrams(world: World, source: int, sink: int) -> None:
    boxes = world.containers
    tcp_arrives_whole(boxes[source], boxes[sink], ADDRESSES[sink], size=10_000_000)
    datagrams_arrive(boxes[source], boxes[sink], ADDRESSES[sink])


def test_groups(world: World) -> None:
    source, *others = world.containers
    for group in ("10.32.0.255", "239.9.9.9"):
        groups_reach(source, list(others), group, group.encode())


def test_the_rule_comes_back_after_a_flush(world: World) -> None:
    host = world.lab.hosts[0]
    host.run("iptables", "-F")
    assert "-i meshd -o meshd" not in forward(host)
    until(lambda: "-i meshd -o meshd" in forward(host), "the rule is back", 15)
    assert world.containers[0].ping(ADDRESSES[2], count=3)
    assert world.containers[0].ping(ADDRESSES[1], count=3)


def test_a_router_that_is_killed_keeps_docker_containers(world: World) -> None:
    host, mac = world.lab.hosts[1], world.containers[2].mac()
    pid = host.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: host.meshd("ps", check=False).out.count(mac) == 1, "it is back, and has them")
    world.containers[0].reach(ADDRESSES[2])
    world.containers[1].reach(ADDRESSES[3])


def test_mac_tables_name_the_containers(world: World) -> None:
    for host in world.lab.hosts:
        until(functools.partial(lists_all, host), "every container is listed")


def lists_all(host: Host) -> bool:
    return host.meshd("status", "macs").out.count("box") == len(ADDRESSES)


def test_docker_away_and_back(world: World) -> None:
    """Without its daemon nothing can be attached, and the line says so; the mesh goes on; a new daemon is followed again."""
    host, dockerd = world.lab.hosts[1], world.dockerds[1]
    dockerd.stop()
    host.meshd("attach", "10.32.0.9/24", "box2", check=False).refused("Docker does not answer")
    until(lambda: len(host.meshd("ps").out.splitlines()) == 1, "its containers ended with it")
    dockerd.start()
    dockerd.docker("start", "box2")
    until(lambda: world.containers[2].addresses() == {f"{ADDRESSES[2]}/24"}, "it is attached by itself")
    world.containers[0].reach(ADDRESSES[2])
