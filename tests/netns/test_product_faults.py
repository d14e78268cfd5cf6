"""What goes wrong between and around hosts: other keys, taken addresses, moved containers, devices that others delete."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import Container, Host, Lab, until
from tests.netns.traffic import Capture, datagrams_arrive

ADDRESSES = ("10.32.0.1", "10.32.0.2")


@pytest.fixture(autouse=True)
def nothing_left_by_the_test() -> None:
    """The file's lab outlives a test; what the whole file leaves behind is looked at all the same."""


class Pair:
    """Two hosts with a container each."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = self.first, self.second = lab.hosts
        self.containers = [lab.container("one"), lab.container("two")]
        lab.launch()
        lab.meshed()
        for host, container, address in zip(self.hosts, self.containers, ADDRESSES, strict=True):
            host.attach(container, f"{address}/24")
        self.containers[0].reach(ADDRESSES[1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Lab(tmp_path_factory.mktemp("faults"), 2) as lab:
        yield Pair(lab)


# ── keys


def test_hosts_with_different_keys_stay_apart_and_both_say_so(tmp_path: Path) -> None:
    with Lab(tmp_path, 2) as lab, Capture(lab.switch) as capture:
        first, second = lab.hosts
        first.launch()
        second.launch("--peers", first.address)  # no key: it founds a mesh of its own
        dialled = until(functools.partial(lines, second, "other mesh key"), "the dialler says it")
        accepted = until(functools.partial(lines, first, "another mesh key"), "and so does the other side")
        assert dialled[0].startswith(f"-> {first.address}:6783")
        assert accepted[0].startswith(f"<- {second.address}")
        assert "meshd key set" in accepted[0]
        assert "meshd key set" in dialled[0]
        until(lambda: "no answer to our key: other mesh key" in second.log, "the dialler's log")
        said_by_first = rf"{second.address}:\d+ tried with another mesh key; `meshd key set`"
        until(lambda: re.search(said_by_first, first.log), "the other one's log")
        assert first.report()["Mesh"]["Id"] != second.report()["Mesh"]["Id"]
        assert len(first.report()["Router"]["Peers"]) == 1
        containers = [lab.container(), lab.container()]
        for host, container in zip(lab.hosts, containers, strict=True):
            host.attach(container, "10.32.0.1/24")  # the same address twice: they know nothing of each other
    said = [
        p for protocol in (6, 17) for source, _, _, _, p in capture.packets(protocol) if source == first.address and p
    ]
    assert said == []  # beyond TCP's own handshake


def lines(host: Host, text: str) -> list[str]:
    return [line for line in host.meshd("status", "connections").out.splitlines() if text in line]


def test_key_set_mends_it(tmp_path: Path) -> None:
    with Lab(tmp_path, 2) as lab:
        first, second = lab.hosts
        first.launch()
        second.launch("--peers", first.address)
        key = lab.key_copy(first)
        before = second.everything()
        second.meshd("launch", "--key-file", key, check=False).refused("already running")
        second.meshd("key", "set", "--key-file", key, check=False).refused("running", "meshd stop")
        assert second.everything() == before
        second.meshd("stop")
        stopped = second.everything()
        second.meshd("launch", "--key-file", key, check=False).refused("another key", "meshd key set")
        second.meshd("key", "set", given="mk1-nonsense\n", check=False).refused("key")
        second.meshd("key", "new", check=False).refused("has a mesh key already", "--force")
        assert second.everything() == stopped
        second.meshd("key", "set", given=first.key_file.read_text())
        second.launch("--resume")
        lab.meshed()


def test_a_password_is_as_good_as_a_key(tmp_path: Path) -> None:
    with Lab(tmp_path, 2) as lab:
        first, second = lab.hosts
        secret = {"MESHD_PASSWORD": "a rather long password"}
        first.meshd("launch", "--nickname", "host1", environment=secret)
        done = second.meshd("launch", "--nickname", "host2", "--peers", first.address, environment=secret)
        assert "guessed offline" in done.err
        lab.meshed()


# ── addresses and places


def test_an_address_is_held_once_in_the_mesh(pair: Pair) -> None:
    third = pair.lab.container("three")
    before = pair.second.everything()
    for asked in (f"{ADDRESSES[0]}/24", f"{ADDRESSES[0]}/32"):
        pair.second.meshd("attach", asked, third.word, check=False).refused(
            ADDRESSES[0], pair.containers[0].name, "host1"
        )
    assert pair.second.everything() == before
    assert not third.has()


def test_a_moved_container_is_followed(pair: Pair) -> None:
    """The same namespace and address, attached on the other host: traffic follows, from everywhere."""
    mover = pair.lab.container("mover")
    other = pair.containers[0]
    pair.first.attach(mover, "10.32.0.9/24")
    other.reach("10.32.0.9")
    seconds = []
    for source, target in ((pair.first, pair.second), (pair.second, pair.first)):
        source.meshd("detach", mover.word)
        until(functools.partial(free, target, "10.32.0.9"), "the other host knows that the address is free")
        target.attach(mover, "10.32.0.9/24")
        started = time.monotonic()
        mover.ip("neigh", "flush", "all")
        seconds.append(round(other.reach("10.32.0.9"), 2))
        pair.containers[1].reach("10.32.0.9")
        assert time.monotonic() - started < 20
        datagrams_arrive(other, mover, "10.32.0.9", sizes=(64, 1344))
        for host in pair.hosts:
            name = target.report()["Router"]["Name"]
            until(functools.partial(owner_is, host, mover.mac(), name), "every table has moved it")
    print("seconds_until_traffic:", seconds)  # pytest -rP shows it


def free(host: Host, address: str) -> bool:
    return not any(f"{address}/24" in mac["Addresses"] for mac in host.report()["Router"]["MACs"])


def owner_is(host: Host, mac: str, name: str) -> bool:
    return [entry["Name"] for entry in host.report()["Router"]["MACs"] if entry["Mac"] == mac] == [name]


def test_a_guest_inside_a_container_moves_with_its_mac(pair: Pair) -> None:
    """A MAC that no host attached (a guest behind a container's bridge) is learned from its frames, and follows when it moves."""
    mac = "02:00:00:0a:0b:0c"
    for number in (0, 1, 0):
        host, container = pair.hosts[number], pair.containers[number]
        speak(container, mac)
        for other in pair.hosts:
            until(functools.partial(says, other, mac, host.nickname), f"{mac} is at {host.nickname}")


def speak(container: Container, mac: str) -> None:
    """A broadcast of this station."""
    with container.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("mesh0", 0))
        sender.send(b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x88\xb5" + bytes(46))


def says(host: Host, mac: str, nickname: str) -> bool:
    return [entry["NickName"] for entry in host.report()["Router"]["MACs"] if entry["Mac"] == mac] == [nickname]


# ── devices


@pytest.mark.parametrize("name", ["meshd-tap", "meshd"])
def test_a_deleted_device_comes_back(pair: Pair, name: str) -> None:
    host, pid = pair.first, pair.first.pid
    before = bridge_mac(host)
    deleted = time.monotonic()
    host.ip("link", "del", name)
    pair.containers[0].reach(ADDRESSES[1])
    print("seconds:", round(time.monotonic() - deleted, 2))  # pytest -rP shows it
    pair.containers[1].reach(ADDRESSES[0])
    assert (host.pid, bridge_mac(host)) == (pid, before)
    datagrams_arrive(pair.containers[1], pair.containers[0], ADDRESSES[0], sizes=(1344,))


def test_a_port_that_somebody_took_out_of_the_bridge_is_put_back(pair: Pair) -> None:
    host = pair.first
    end = host_end(host, pair.containers[0])
    for port in ("meshd-tap", end):
        host.ip("link", "set", port, "nomaster")
        until(functools.partial(is_port, host, port), "it is back")
        pair.containers[0].reach(ADDRESSES[1])
        assert f"somebody took {port} out of its bridge" in host.log


def test_something_else_has_the_taps_name(pair: Pair) -> None:
    """It is not taken for the TAP; the router says what is in the way, and goes on when it is not."""
    host = pair.first
    other = "link del meshd-tap\ntuntap add meshd-tap mode tap\n"
    os.kill(host.pid, signal.SIGSTOP)  # or it would be quicker than we are, now and then
    try:
        subprocess.run(host.inside("ip", "-batch", "-"), input=other, text=True, check=True)
    finally:
        os.kill(host.pid, signal.SIGCONT)
    until(lambda: "an interface meshd-tap exists already and is not ours to use" in host.log, "it is told")
    assert "master" not in host.ip("link", "show", "meshd-tap")
    host.ip("link", "del", "meshd-tap")
    pair.containers[0].reach(ADDRESSES[1])


@pytest.mark.parametrize("change", [("mtu", "1000"), ("address", "02:00:00:00:00:07")])
def test_what_somebody_changes_on_the_bridge_is_put_right(pair: Pair, change: tuple[str, str]) -> None:
    host = pair.first
    (before,) = json.loads(host.ip("-j", "link", "show", "meshd"))
    host.ip("link", "set", "meshd", *change)
    until(lambda: json.loads(host.ip("-j", "link", "show", "meshd")) == [before], "it is as it was")


def test_a_containers_interface_that_somebody_deletes_comes_back(pair: Pair) -> None:
    """At either end; under its MAC, and with its addresses."""
    host, container = pair.first, pair.containers[0]
    before, mac = sorted(host.meshd("ps").out.splitlines()), container.mac()
    end = host_end(host, container)
    for space, name in ((host, end), (container, "mesh0")):
        deleted = time.monotonic()
        space.ip("link", "del", name)
        until(container.has, "it is there again")
        container.reach(ADDRESSES[1])
        print("seconds:", round(time.monotonic() - deleted, 2))  # pytest -rP shows it
        assert (sorted(host.meshd("ps").out.splitlines()), container.mac()) == (before, mac)


def host_end(host: Host, container: Container) -> str:
    links = json.loads(host.ip("-j", "link"))
    (name,) = (link["ifname"] for link in links if container.mac() in link.get("ifalias", ""))
    return str(name)


def is_port(host: Host, name: str) -> bool:
    return "master meshd" in host.ip("link", "show", name)


def bridge_mac(host: Host) -> str:
    return str(json.loads(host.ip("-j", "link", "show", "meshd"))[0]["address"])


def test_a_bridge_that_is_down_comes_back_with_it(pair: Pair) -> None:
    host = pair.first
    for device in ("meshd-tap", "meshd"):
        host.ip("link", "set", device, "down")
        host.ip("link", "set", device, "up")
    pair.containers[0].reach(ADDRESSES[1])


def test_a_flushed_firewall_is_mended(pair: Pair) -> None:
    host = pair.second
    host.run("iptables", "-F", "FORWARD")
    host.run("iptables", "-P", "FORWARD", "DROP")
    until(lambda: "-i meshd -o meshd" in host.run("iptables", "-S").out, "the rule is back")
    pair.containers[1].reach(ADDRESSES[0])
    host.run("iptables", "-P", "FORWARD", "ACCEPT")


def test_a_cut_underlay_is_survived(pair: Pair) -> None:
    """Cut, both sides see it; mended, traffic flows again, without anybody's help."""
    port = pair.second.port
    pair.lab.switch.ip("link", "set", port, "down")
    until(lambda: pair.first.established() == set(), "the cut is seen")
    assert pair.first.meshd("status").status == 0
    pair.lab.switch.ip("link", "set", port, "up")
    pair.containers[0].reach(ADDRESSES[1])
    pair.lab.meshed()


# ── verbs


@pytest.mark.parametrize("verb", ["status", "report", "ps", "version"])
def test_verbs_that_only_ask_load_little(pair: Pair, verb: str) -> None:
    """What makes them slow is what they import: none of the daemon's packages."""
    code = (
        "import sys; from meshd.cli.main import run; status = run(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    run = subprocess.run(
        pair.first.inside(sys.executable, "-c", code, verb),
        env={**pair.first.environment, "MESHD_DIR": str(pair.first.folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in run.stderr.split()}
    heavy = {"asyncio", "aiohttp", "pyroute2", "rich", "cryptography", "uvloop", "msgpack", "sqlite3"}
    assert loaded & heavy == set()
    assert not any(name.startswith("meshd.daemon") for name in run.stderr.split())
