"""`meshd capture` at real routers: what it shows, what it writes, and that nobody's looking leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.packet import Packet
from scapy.utils import PcapNgReader

from tests.netns.lab import MESHD, Container, Host, Lab, until
from tests.netns.traffic import tcp_arrives_whole

WEB, DB = "10.1.0.1", "10.1.0.2"


@dataclass(frozen=True, slots=True)
class Mesh:
    first: Host
    second: Host
    web: Container
    db: Container


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Mesh]:
    """Two hosts with a container each."""
    with Lab(tmp_path_factory.mktemp("capture"), 2) as lab:
        lab.launch("--engine", engine)
        lab.meshed()
        first, second = lab.hosts
        web, db = lab.container("web"), lab.container("db")
        first.attach(web, f"{WEB}/24")
        second.attach(db, f"{DB}/24")
        web.reach(DB)
        assert db.ping(WEB)
        yield Mesh(first, second, web, db)


@contextlib.contextmanager
def capturing(host: Host, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The verb runs, and the router has begun."""
    words = host.inside(MESHD, "capture", *arguments)
    environment = {**host.environment, "MESHD_DIR": str(host.folder)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as command:
        try:
            assert command.stderr is not None
            first = command.stderr.readline()
            assert "capturing" in first, first + command.stderr.read()
            yield command
        finally:
            if command.poll() is None:
                command.terminate()
                command.communicate(timeout=20)


@pytest.mark.both_engines
def test_a_ping_is_seen_at_both_hosts(mesh: Mesh) -> None:
    first, second, web, db = mesh.first, mesh.second, mesh.web, mesh.db
    with capturing(first, "icmp", "--count", "2") as here, capturing(second, db.word, "icmp", "--json") as there:
        assert web.ping(DB)
        out, err = here.communicate(timeout=20)
        lines = out.splitlines()
        assert [line.split()[1] for line in lines] == ["out", "in"]
        assert all("(host2)" in line and "98B" in line for line in lines)
        assert "ICMP 10.1.0.1 > 10.1.0.2 echo-request" in lines[0]
        assert "ICMP 10.1.0.2 > 10.1.0.1 echo-reply" in lines[1]
        assert err.endswith("2 frames shown\n")
        assert there.stdout is not None
        shown = [json.loads(there.stdout.readline()) for _ in range(2)]
        assert [(one["Direction"], "(host1)" in one["Peer"]) for one in shown] == [("in", True), ("out", True)]


@pytest.mark.parametrize("word", [WEB, "host2", "10.1.0.2"])
def test_an_address_and_a_peer(mesh: Mesh, word: str) -> None:
    with capturing(mesh.first, word, "icmp", "--count", "1") as command:
        assert mesh.web.ping(DB)
        assert "echo-request" in command.communicate(timeout=20)[0]


@pytest.mark.both_engines
def test_a_file(mesh: Mesh, tmp_path: Path) -> None:
    first, web, db = mesh.first, mesh.web, mesh.db
    file = tmp_path / "web.pcapng"
    with capturing(first, "-w", str(file), web.word) as command:
        assert web.ping(DB, count=3)
        tcp_arrives_whole(web, db, DB, 300_000)
        until(lambda: sent_by_web(packets_of(file)) >= 300_000, "all of the transfer is in the file")
    assert command.returncode == 0
    packets = packets_of(file)
    requests = [packet for packet in packets if ICMP in packet and packet[ICMP].type == 8]
    assert [(packet[IP].src, packet.direction) for packet in requests] == [(WEB, 2)] * 3
    assert all(b"(host2)" in (packet.comments or [b""])[0] for packet in requests)


def packets_of(file: Path) -> list[Packet]:
    """What is in the file by now; a packet of which the end is still to be written is not."""
    with PcapNgReader(str(file)) as reader:
        return list(reader)


def sent_by_web(packets: list[Packet]) -> int:
    """Octets of TCP payload: headers and comments must not make up for a packet that is missing."""
    return sum(len(packet[TCP].payload) for packet in packets if TCP in packet and packet[IP].src == WEB)


def test_a_filter_that_does_not_parse(mesh: Mesh) -> None:
    first = mesh.first
    first.meshd("capture", "tcp prot 80", check=False).refused("at 'prot' (character 5)")
    first.meshd("capture", "wbe", check=False).refused("'wbe' is no container, peer or address of this mesh")


def test_idle_routers_have_loaded_nothing_for_it(mesh: Mesh) -> None:
    """A TAP router has no libpcap until somebody filters, and never scapy; and when the verb ends, nobody looks any more."""
    first, second = mesh.first, mesh.second
    maps = Path(f"/proc/{second.pid}/maps")
    assert "scapy" not in maps.read_text()
    before = len(os.listdir(f"/proc/{first.pid}/fd"))
    with capturing(first):
        pass
    until(lambda: len(os.listdir(f"/proc/{first.pid}/fd")) <= before, "the stream is closed")


def test_the_router_ends_first(tmp_path: Path) -> None:
    with Lab(tmp_path, 1) as lab:
        (host,) = lab.hosts
        host.launch()
        assert "libpcap" not in Path(f"/proc/{host.pid}/maps").read_text()
        with capturing(host) as command:
            host.meshd("stop")
            _, err = command.communicate(timeout=20)
            assert (command.returncode, "the router ends" in err) == (0, True)
