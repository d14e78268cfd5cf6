"""A router's life: killed, terminated, stopped, launched again, reset. Containers keep what they have."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import Host, Lab, until
from tests.netns.traffic import Stream, datagrams_arrive

ADDRESSES = ("10.32.0.1", "10.32.0.2", "10.32.0.3")


@pytest.fixture(autouse=True)
def nothing_left_by_the_test() -> None:
    """These tests replace the routers of the file's lab; what the whole file leaves behind is looked at all the same."""


class Pair:
    """Two hosts; two containers on the first, one on the second."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.first, self.second = lab.hosts
        self.here, self.beside, self.there = (lab.container(role) for role in ("here", "beside", "there"))
        lab.launch()
        for host, container, address in zip(
            (self.first, self.first, self.second), (self.here, self.beside, self.there), ADDRESSES, strict=True
        ):
            host.attach(container, f"{address}/24")
        self.here.reach(ADDRESSES[2])

    def works(self) -> None:
        """Everybody reaches everybody, in a while."""
        self.here.reach(ADDRESSES[2])
        self.there.reach(ADDRESSES[1])
        assert self.here.ping(ADDRESSES[1])
        datagrams_arrive(self.there, self.here, ADDRESSES[0])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Lab(tmp_path_factory.mktemp("life"), 2) as lab:
        yield Pair(lab)


def alive(pid: int) -> bool:
    """Zombies are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def successor(host: Host, before: int) -> int:
    """The pid of the router that came after this one and is ready."""

    def ready() -> int:
        with contextlib.suppress(OSError, ValueError):
            if host.pid != before and host.meshd("status", check=False).status == 0:
                return host.pid
        return 0

    return until(ready, "another router runs")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_router_that_dies_comes_back_as_the_same_host(pair: Pair, number: signal.Signals) -> None:
    host, before = pair.first, pair.first.report()
    ps, pid, supervisor = host.meshd("ps").out, host.pid, host.supervisor
    killed = time.monotonic()
    os.kill(pid, number)
    pid = successor(host, pid)
    print("seconds_until_ready:", round(time.monotonic() - killed, 2))  # pytest -rP shows it
    pair.here.reach(ADDRESSES[2])
    print("seconds_until_traffic:", round(time.monotonic() - killed, 2))  # pytest -rP shows it
    after = host.report()
    for part in ("Name", "NickName", "Port", "Targets"):
        assert after["Router"][part] == before["Router"][part]
    assert after["Mesh"] == before["Mesh"]
    assert after["Gossip"]["Epoch"] > before["Gossip"]["Epoch"]
    assert host.meshd("ps").out == ps
    assert host.supervisor == supervisor
    assert alive(pid)
    pair.lab.meshed()
    pair.works()


def test_the_second_host_comes_back_with_its_peers(pair: Pair) -> None:
    """The targets of the launch are remembered: it dials them again, though nobody tells it."""
    pid = pair.second.pid
    os.kill(pid, signal.SIGKILL)
    successor(pair.second, pid)
    assert pair.second.meshd("status", "targets").out == f"{pair.first.address}\n"
    pair.lab.meshed()
    pair.works()


def test_traffic_on_the_host_goes_on_while_the_router_is_away(pair: Pair) -> None:
    with Stream(pair.here, pair.beside, ADDRESSES[1]) as stream:
        stream.flows()
        pair.first.meshd("stop")
        stream.flows()
        pair.first.launch("--resume")
        stream.flows()
    assert stream.lost == []
    pair.lab.meshed()
    pair.works()


def test_stop_is_for_good_and_the_others_see_it_at_once(pair: Pair) -> None:
    host = pair.first
    processes = (host.pid, host.supervisor)
    links = host.ip("-br", "link")
    rules = host.run("iptables", "-S").out
    ps = host.meshd("ps").out
    assert host.meshd("stop").status == 0
    assert not any(alive(pid) for pid in processes)
    assert host.pids() == []
    until(lambda: pair.second.established() == set(), "the other host is told")
    macs = pair.second.meshd("status", "macs").out
    assert pair.here.mac() not in macs
    assert pair.there.mac() in macs
    assert pair.here.ping(ADDRESSES[1], count=3)
    assert pair.here.run("ping", "-c1", "-W1", ADDRESSES[2], check=False).status != 0
    assert "-i meshd -o meshd" in rules
    assert host.run("iptables", "-S").out == rules
    assert {line.split("@")[0].split()[0] for line in links.splitlines()} - {"meshd-tap"} == {
        line.split("@")[0].split()[0] for line in host.ip("-br", "link").splitlines()
    }
    assert sorted(path.name for path in host.folder.iterdir()) == ["db", "launch.json", "meshd.log"]

    again = host.meshd("stop")
    assert (again.status, again.out) == (0, "")
    assert "nothing to stop" in again.err
    for verb in (["status"], ["ps"], ["report"], ["attach", "10.32.0.9/24", pair.here.word], ["connect", "10.9.0.2"]):
        done = host.meshd(*verb, check=False)
        assert done.status == 3
        done.refused("not running", "meshd launch")

    pair.first.launch()  # no peers, no key: what it knows is enough, the other one dials
    assert host.meshd("ps").out == ps
    pair.lab.meshed()
    pair.works()


def test_detached_while_the_router_is_away_is_noticed(pair: Pair) -> None:
    """A container that ended meanwhile is not adopted, and leaves the tables everywhere."""
    short = pair.lab.container("short")
    pair.first.attach(short, "10.32.0.50/24")
    mac = short.mac()
    until(lambda: mac in pair.second.meshd("status", "macs").out, "the other host knows it")
    pair.first.meshd("stop")
    short.remove()
    pair.first.launch()
    pair.lab.meshed()
    assert mac not in pair.first.meshd("ps").out
    until(lambda: mac not in pair.second.meshd("status", "macs").out, "the other host forgets it")


def test_second_launch_names_the_first(pair: Pair) -> None:
    before = pair.first.everything()
    done = pair.first.meshd("launch", check=False)
    done.refused("already running", f"(pid {pair.first.pid})", "meshd stop")
    assert pair.first.everything() == before
    assert pair.first.meshd("launch", "--foreground", check=False).status == 1
    assert pair.first.everything() == before


def test_ends_in_order_under_a_service_manager(tmp_path: Path) -> None:
    """--foreground: logs to stderr, ends at SIGTERM with 0 and leaves nothing running."""
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        meshd = str(Path(sys.executable).with_name("meshd"))
        words = host.inside(meshd, "launch", "--foreground", "--nickname", "front")
        environment = {**host.environment, "MESHD_DIR": str(host.folder)}
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            until(lambda: host.meshd("status", check=False).status == 0, "it answers")
            assert "(front)" in host.meshd("status").out
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        assert (process.returncode, out) == (0, "")
        assert "is ready" in err
        assert host.key_file.read_text().strip() not in err
        assert host.pids() == []


def test_no_restart_stays_dead(tmp_path: Path) -> None:
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        host.launch("--no-restart")
        os.kill(host.pid, signal.SIGKILL)
        until(lambda: host.pids() == [], "the supervisor ends, too")
        host.meshd("status", check=False).refused("not running")
        host.launch()  # over what the dead one left


def test_killed_supervisor_and_router_can_be_launched_over(tmp_path: Path) -> None:
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        host.launch()
        container, beside = lab.container(), lab.container()
        for space, address in ((container, "10.32.0.1/24"), (beside, "10.32.0.2/24")):
            host.attach(space, address)
        name = host.report()["Router"]["Name"]
        for pid in (host.supervisor, host.pid):
            os.kill(pid, signal.SIGKILL)
        until(lambda: host.pids() == [], "both are dead")
        done = host.meshd("status", check=False)
        assert done.status == 3
        done.refused("not running")  # the socket is still there, and dead
        host.launch()
        assert host.report()["Router"]["Name"] == name
        assert len(host.meshd("ps").out.splitlines()) == 3
        container.reach("10.32.0.2")


def test_reset_leaves_nothing(tmp_path: Path) -> None:
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        host.folder.mkdir()
        before = host.everything()
        host.launch()
        container = lab.container()
        host.attach(container, "10.32.0.1/24")
        assert host.meshd("reset").status == 0
        after = host.everything()
        assert after["links"] == before["links"]
        assert after["rules"] == without_empty_chains(after["rules"])
        assert after["processes"] == []
        assert not host.folder.exists()
        assert not container.has()
        again = host.meshd("reset")
        assert again.status == 0
        assert "nothing to remove" in again.err


def without_empty_chains(rules: object) -> list[str]:
    """What is left of the firewall may be empty tables that iptables made to look into, but no rule."""
    assert isinstance(rules, list)
    assert not any("meshd" in text for text in rules)
    return rules


def test_reset_of_a_stopped_router_and_with_its_state_gone(tmp_path: Path) -> None:
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        host.launch("--bridge", "other")
        container = lab.container()
        host.attach(container, "10.32.0.1/24")
        host.meshd("stop")
        host.meshd("reset")
        assert '"other"' not in host.ip("-j", "link")
        assert not container.has()
        assert not host.folder.exists()


def test_containers_follow_a_launch_with_another_bridge_and_mtu(tmp_path: Path) -> None:
    """MACs and addresses stay; what is sent fits, or its sender is told. Nothing is lost without a word."""
    with Lab(tmp_path, 2) as lab:
        first, second = lab.hosts
        lab.launch()
        here, there = lab.container(), lab.container()
        first.attach(here, "10.32.0.1/24")
        second.attach(there, "10.32.0.2/24")
        ps, mac = first.meshd("ps").out, here.mac()
        for options, mtu in ((["--bridge", "other"], 1372), (["--mtu", "1200"], 1200), ([], 1372)):
            first.meshd("stop")
            first.launch("--peers", second.address, *options)
            here.reach("10.32.0.2")
            assert (first.meshd("ps").out, here.mac()) == (ps, mac)
            (link,) = json.loads(here.ip("-j", "link", "show", "mesh0"))
            assert link["mtu"] == mtu
            assert here.ping("10.32.0.2", "-M", "do", "-s", str(mtu - 28))
        first.meshd("reset")
        assert not here.has()
        assert '"other"' not in first.ip("-j", "link")


def test_a_router_that_hangs_can_be_stopped(tmp_path: Path) -> None:
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        host.launch()
        os.kill(host.pid, signal.SIGSTOP)
        host.meshd("stop")
        assert host.pids() == []
