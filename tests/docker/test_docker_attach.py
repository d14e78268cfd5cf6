"""Docker containers by every name and in every network mode, what is refused, and what happens over their lives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.docker.dockerd import DockerContainer, Dockerd
from tests.netns.lab import Host, Lab, until


@pytest.fixture(autouse=True)
def nothing_left_by_the_test() -> None:
    """Routers, daemons and containers of the file's world are replaced by its tests; what the whole file leaves is looked at."""


@dataclass
class World:
    lab: Lab
    host: Host
    dockerd: Dockerd

    def macs(self) -> set[str]:
        return {entry["Mac"] for entry in self.host.report()["Router"]["MACs"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Lab(tmp_path_factory.mktemp("attach"), 1) as lab:
        (host,) = lab.hosts
        with Dockerd(host) as dockerd:
            host.launch()
            yield World(lab, host, dockerd)
            host.meshd("reset")


@pytest.fixture
def run(world: World) -> Iterator[Callable[..., DockerContainer]]:
    made: list[str] = []

    def start(name: str, *options: str) -> DockerContainer:
        made.append(name)
        return world.dockerd.run(name, *options)

    yield start
    with contextlib.suppress(AssertionError):
        world.dockerd.remove(*made)
    until(lambda: not world.macs(), "nothing of them is left in the tables")


Run = Callable[..., DockerContainer]


def test_by_name_id_and_unique_beginnings(world: World, run: Run) -> None:
    container = run("frontend", "--network", "none")
    words = [container.name, container.id, container.id[:12], container.id[:6], "front"]
    macs = set()
    for number, word in enumerate(words, 1):
        assert world.host.meshd("attach", f"10.32.0.{number}/24", word).out.split() == [f"10.32.0.{number}"]
        macs.add(container.mac())
    assert len(macs) == 1
    assert container.addresses() == {f"10.32.0.{number}/24" for number in range(1, 6)}
    assert container.link()["mtu"] == 1372
    (line,) = world.host.meshd("ps", "frontend").out.splitlines()
    assert line.split()[:3] == ["frontend", container.mac(), "10.32.0.1/24"]
    assert world.host.meshd("ps").out.splitlines()[1].split()[0] == container.id[:12]
    assert world.host.meshd("detach", "10.32.0.2/24", "front").out == "10.32.0.2\n"
    assert len(container.addresses()) == 4
    world.host.meshd("detach", container.id[:12])
    assert container.link() == {}
    assert world.macs() == set()


def test_idempotent(world: World, run: Run) -> None:
    container = run("again")
    first = world.host.meshd("attach", "10.32.0.1/24", "again")
    link = container.link()
    again = world.host.meshd("attach", "10.32.0.1/24", "again")
    assert (first.status, first.out) == (again.status, again.out) == (0, "10.32.0.1\n")
    assert (container.link()["address"], container.link()["ifindex"]) == (link["address"], link["ifindex"])


def test_without_an_address_at_layer_2(world: World, run: Run) -> None:
    container = run("plain")
    done = world.host.meshd("attach", "plain")
    assert done.out == f"{container.mac()}\n"
    assert "meshd attach 10." in done.err


def test_every_network_mode(world: World, run: Run) -> None:
    world.dockerd.docker("network", "create", "--subnet", "172.31.5.0/24", "own")
    try:
        run("base")
        modes = {"none": ["none"], "bridge": ["bridge"], "own": ["own"]}
        for number, (name, (mode,)) in enumerate(modes.items(), 10):
            container = run(f"in-{name}", "--network", mode)
            world.host.meshd("attach", f"10.32.0.{number}/24", f"in-{name}")
            assert container.addresses() == {f"10.32.0.{number}/24"}
        shared = run("sharing", "--network", "container:base")
        world.host.meshd("attach", "10.32.0.20/24", "sharing")
        assert shared.addresses() == {"10.32.0.20/24"}
        assert shared.ping("10.32.0.10", count=2)
        # The namespace of both: attaching the other one is the same attachment.
        world.host.meshd("attach", "10.32.0.20/24", "base")
        assert shared.addresses() == {"10.32.0.20/24"}
        assert len(world.macs()) == 4
    finally:
        world.dockerd.remove("in-own")
        world.dockerd.docker("network", "rm", "own")


def links(host: Host) -> set[str]:
    """By name: Docker's own bridge changes its state when it likes."""
    return {str(link["ifname"]) for link in json.loads(host.ip("-j", "link"))}


def test_host_network_is_refused_with_the_reason(world: World, run: Run) -> None:
    run("on-host", "--network", "host")
    run("beside", "--network", "container:on-host")
    before = links(world.host)
    for name in ("on-host", "beside"):
        done = world.host.meshd("attach", "10.32.0.1/24", name, check=False)
        done.refused("host's network", "--network bridge or none")
    assert links(world.host) == before


def test_what_does_not_run_is_refused(world: World, run: Run) -> None:
    container = run("stopped")
    world.dockerd.docker("kill", "stopped")
    paused = run("paused")
    world.dockerd.docker("pause", "paused")
    run("twin-a")
    run("twin-b")
    before = links(world.host), world.host.meshd("ps").out
    for word, told in (
        ("stopped", ("stopped is exited", "docker start stopped")),
        (container.id[:10], ("stopped is exited",)),
        ("paused", ("paused is paused", "docker unpause paused")),
        ("nobody", ("no container 'nobody'", "docker ps")),
        ("twin", ("twin-a (running)", "twin-b (running)", "longer part")),
        ("no+name", ("names no container",)),
    ):
        world.host.meshd("attach", "10.32.0.1/24", word, check=False).refused(*told)
        assert (links(world.host), world.host.meshd("ps").out) == before
    world.dockerd.docker("unpause", "paused")
    world.host.meshd("attach", "10.32.0.1/24", "paused")
    assert paused.addresses() == {"10.32.0.1/24"}


def test_an_address_that_is_taken_is_refused_with_its_holder(world: World, run: Run) -> None:
    run("holder")
    second = run("second")
    world.host.meshd("attach", "10.32.0.1/24", "holder")
    for asked in ("10.32.0.1/24", "10.32.0.1/16"):
        world.host.meshd("attach", asked, "second", check=False).refused("10.32.0.1", "holder")
    assert second.link() == {}
    world.host.meshd("attach", "10.32.0.2/24", "second")
    world.host.meshd("attach", "10.32.0.9/24", "10.32.0.1/24", "second", check=False).refused("10.32.0.1", "holder")
    assert second.addresses() == {"10.32.0.2/24"}  # all or nothing


def test_restarted_container_comes_back_as_it_was(world: World, run: Run) -> None:
    container = run("restarted")
    world.host.meshd("attach", "10.32.0.1/24", "fd32::1/64", "restarted")
    mac = container.mac()
    world.dockerd.docker("restart", "-t", "0", "restarted")
    until(lambda: container.addresses() == {"10.32.0.1/24", "fd32::1/64"}, "it is attached by itself")
    assert container.mac() == mac
    world.dockerd.docker("kill", "restarted")
    until(lambda: world.macs() == set(), "it has left the tables", 5)
    world.dockerd.docker("start", "restarted")
    until(lambda: container.mac() == mac, "it is attached by itself")
    until(lambda: world.macs() == {mac}, "and known")


def test_restarted_while_the_router_is_away(world: World, run: Run) -> None:
    container = run("meanwhile")
    world.host.meshd("attach", "10.32.0.1/24", "meanwhile")
    mac = container.mac()
    world.host.meshd("stop")
    world.dockerd.docker("restart", "-t", "0", "meanwhile")
    assert container.link() == {}
    world.host.launch()
    until(lambda: container.mac() == mac and container.addresses() == {"10.32.0.1/24"}, "it is attached again")


def test_detached_container_stays_detached(world: World, run: Run) -> None:
    container = run("leaving")
    world.host.meshd("attach", "10.32.0.1/24", "leaving")
    world.host.meshd("detach", "leaving")
    other = run("other")
    world.host.meshd("attach", "10.32.0.2/24", "other")
    for name in ("leaving", "other"):
        world.dockerd.docker("restart", "-t", "0", name)
    until(lambda: other.addresses() == {"10.32.0.2/24"}, "the other one is attached again")
    assert container.link() == {}


def test_removed_container_leaves_the_tables(world: World, run: Run) -> None:
    run("removed")
    world.host.meshd("attach", "10.32.0.1/24", "removed")
    world.dockerd.remove("removed")
    until(lambda: world.macs() == set(), "it has left the tables", 5)
    assert len(world.host.meshd("ps").out.splitlines()) == 1
    again = run("removed")  # the same name is another container
    assert again.link() == {}


def test_a_renamed_container_leaves_its_name_to_the_next(world: World, run: Run) -> None:
    run("blue")
    world.host.meshd("attach", "10.32.0.1/24", "blue")
    world.dockerd.docker("rename", "blue", "green")
    try:
        until(lambda: "green" in world.host.meshd("status", "macs").out, "it is shown under its new name")
        run("blue")
        world.host.meshd("attach", "10.32.0.2/24", "blue")
        for name, address in (("blue", "10.32.0.2"), ("green", "10.32.0.1")):
            assert f"{address}/24" in world.host.meshd("ps", name).out
            assert world.host.meshd("trace", name).status == 0
    finally:
        world.dockerd.remove("green")


@pytest.mark.parametrize("away", [False, True], ids=["router there", "router away"])
def test_started_again_beside_a_container_that_keeps_its_former_network(world: World, run: Run, away: bool) -> None:
    """Its MAC and address are in one place, the new one, and `ps` says so."""
    maker = run("maker")
    guest = run("guest", "--network", "container:maker")
    peer = run("peer")
    world.host.meshd("attach", "10.32.0.1/24", "maker")
    world.host.meshd("attach", "10.32.0.2/24", "peer")
    mac = maker.mac()
    if away:
        world.host.meshd("stop")
    world.dockerd.docker("restart", "-t", "0", "maker")
    if away:
        world.host.launch()
    until(lambda: (maker.mac(), guest.link()) == (mac, {}), "the interface is the maker's alone")
    peer.reach("10.32.0.1")
    world.host.meshd("detach", "guest", check=False).refused("guest is not attached")
    assert world.host.meshd("detach", "maker").out == "10.32.0.1\n"


def test_what_a_removed_container_left_to_another_can_be_detached_by_its_name(world: World, run: Run) -> None:
    run("maker")
    guest = run("guest", "--network", "container:maker")
    world.host.meshd("attach", "10.32.0.1/24", "maker")
    world.dockerd.remove("maker")
    again = run("maker")
    assert world.host.meshd("detach", "maker").out == "10.32.0.1\n"
    assert guest.link() == {}
    world.host.meshd("attach", "10.32.0.1/24", "maker")
    assert again.addresses() == {"10.32.0.1/24"}


def test_shared_namespace_stays_until_its_last_container_goes(world: World, run: Run) -> None:
    run("maker")
    guest = run("guest", "--network", "container:maker")
    world.host.meshd("attach", "10.32.0.1/24", "maker")
    peer = run("peer")
    world.host.meshd("attach", "10.32.0.2/24", "peer")
    mac = guest.mac()
    world.dockerd.remove("maker")
    assert guest.ping("10.32.0.2", count=3)
    assert guest.mac() == mac
    assert mac in world.macs()
    assert mac in world.host.meshd("ps").out
    world.dockerd.remove("guest")
    until(lambda: mac not in world.macs(), "it has left the tables", 5)
    assert peer.addresses() == {"10.32.0.2/24"}
