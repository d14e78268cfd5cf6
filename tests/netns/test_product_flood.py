"""Floods of forged handshakes at a real router: what flows goes on flowing, who belongs to the mesh gets in, memory stays.

A process of its own sends as fast as it can, up to 100 000 a second, from invented addresses to which the router has a route. What
is asserted are losses and counts, with room for a busy machine.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.contender import rss_mib
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.wire import Message, MessageType, encode_message, mac1_static
from tests.netns.lab import Container, Host, Lab, Space, until
from tests.netns.traffic import Stream

ADDRESSES = ("10.32.78.1", "10.32.78.2")
ROUTER = "10.9.0.254"  # where the victim sends what is for invented addresses
RATE, SECONDS = 100_000, 60  # ended earlier
FORGED = 3000
RSS_GROWTH_MIB = 8


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts in a mesh; two more that will join it."""
    with Lab(tmp_path_factory.mktemp("flood"), 4) as lab:
        first, second, *_ = lab.hosts
        first.launch()
        second.launch("--key-file", lab.key_copy(first), "--peers", first.address)
        yield lab


@pytest.fixture(scope="module")
def containers(lab: Lab) -> list[Container]:
    containers = [lab.container() for _ in ADDRESSES]
    for host, container, address in zip(lab.hosts, containers, ADDRESSES, strict=False):
        host.attach(container, f"{address}/24")
    containers[0].reach(ADDRESSES[1])
    return containers


@pytest.fixture(scope="module")
def attacker(lab: Lab) -> Iterator[Space]:
    """At the same switch; the victim's way to everywhere leads to it."""
    space = Space("atk")
    try:
        space.ip("link", "add", "eth0", "type", "veth", "peer", "name", "patk", "netns", lab.switch.name)
        space.ip("link", "set", "eth0", "up")
        lab.switch.ip("link", "set", "patk", "master", "br0", "up")
        victim = lab.hosts[0]
        victim.ip("neigh", "add", ROUTER, "lladdr", space.mac("eth0"), "dev", "eth0", "nud", "permanent")
        victim.ip("route", "add", "default", "via", ROUTER)
        yield space
    finally:
        space.remove()


def forged(victim: Host, kind: str) -> bytes:
    """Types 1 and 5: what a stranger makes up, and what somebody makes up who has the mesh key and the victim's public one."""
    rng = random.Random(kind)
    static = Identity.from_bytes((victim.folder / "db" / "identity").read_bytes()).x25519_public
    bootstrap = MeshKey.parse(victim.key_file.read_text()).mac1_bootstrap
    keys = {MessageType.INIT: mac1_static(static), MessageType.BOOTSTRAP_INIT: bootstrap}
    datagrams = []
    for number in range(FORGED):
        what = MessageType.BOOTSTRAP_INIT if number % 2 else MessageType.INIT
        noise = rng.randbytes(48 if number % 2 else 108)
        key = rng.randbytes(32) if kind == "bad mac1" else keys[what]
        datagram = encode_message(Message(what, rng.randrange(1, 1 << 32), 0, noise), key)
        datagrams.append(len(datagram).to_bytes(2, "little") + datagram)
    return b"".join(datagrams)


class Flood:
    def __init__(self, attacker: Space, victim: Host, datagrams: bytes) -> None:
        words = attacker.inside(sys.executable, "-m", "tests.netns.flooder")
        words += ["eth0", victim.mac("eth0"), victim.address, str(SECONDS), str(RATE)]
        root = Path(__file__).parent.parent.parent
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=root)
        assert self.process.stdin is not None
        self.process.stdin.write(datagrams)
        self.process.stdin.close()

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    @property
    def goes_on(self) -> bool:
        return self.process.poll() is None


def dropped(host: Host) -> int:
    drops = host.report()["Drops"]
    return sum(drops.get(name, 0) for name in ("rate_limited", "bad_mac1", "bad_handshake", "no_cookie"))


@pytest.mark.parametrize(("kind", "joining"), [("bad mac1", 2), ("right mac1", 3)])
def test_a_flood_of_handshakes(lab: Lab, containers: list[Container], attacker: Space, kind: str, joining: int) -> None:
    victim, joins = lab.hosts[0], lab.hosts[joining]
    before = rss_mib([victim.pid])
    with (
        Flood(attacker, victim, forged(victim, kind)) as flood,
        Stream(containers[0], containers[1], ADDRESSES[1]) as out,
        Stream(containers[1], containers[0], ADDRESSES[0]) as back,
    ):
        until(lambda: dropped(victim) > 5000, "the flood has arrived")
        joins.launch("--key-file", lab.key_copy(victim), "--peers", victim.address)
        until(lambda: {"host1", "host2"} <= joins.established(), "a further host is in the mesh")
        until(lambda: joins.nickname in victim.established(), "and the victim sees it")
        out.flows()
        back.flows()
        assert flood.goes_on
    for stream in (out, back):
        assert len(stream.lost) < 0.05 * stream.sent, (len(stream.lost), stream.sent)
    drops = victim.report()["Drops"]
    assert drops.get("kernel_udp", 0) == 0, "the flood has a queue of its own"
    assert dropped(victim) > 20_000
    assert ("bad_handshake" in drops) == (kind == "right mac1"), "which has the victim do a DH"
    assert rss_mib([victim.pid]) < before + RSS_GROWTH_MIB
    assert joins.established() >= {"host1", "host2"}
    joins.meshd("stop")
