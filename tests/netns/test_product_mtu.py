"""Paths that take less, or more, than 1500 bytes: holes without ICMP, forged ICMP, jumbo frames, a device that is made smaller.

Devices here cut super-packets before they send (`gso_max_segs 1`), so that what drops large packets sees those of the wire.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.netns.lab import Container, Host, Lab, Space, until
from tests.netns.traffic import SECONDS, datagrams_arrive, tcp_arrives_whole
from tests.ones import checksum

ADDRESSES = ("10.32.0.1", "10.32.0.2")
ADDRESSES6 = ("fd32::1", "fd32::2")
SEALED = 28 + 48  # from the underlay's IP packet to the inner one
FORGER = "10.9.0.66"


class Pair:
    def __init__(self, lab: Lab, mtu: int, engine: str = "auto") -> None:
        self.lab = lab
        self.first, self.second = lab.hosts
        for host in lab.hosts:
            host.ip("link", "set", "eth0", "mtu", str(mtu), "gso_max_segs", "1")
            lab.switch.ip("link", "set", host.port, "mtu", str(mtu))
        self.containers = [lab.container("one"), lab.container("two")]
        lab.launch("--engine", engine)
        lab.meshed()
        for host, container, *addresses in zip(lab.hosts, self.containers, ADDRESSES, ADDRESSES6, strict=True):
            host.attach(container, f"{addresses[0]}/24", f"{addresses[1]}/64")
        for address in (ADDRESSES[1], ADDRESSES6[1]):
            self.containers[0].reach(address)

    def measured(self) -> bool:
        """A sender is told of a size only when it is known to be the largest that passes."""
        return all(path["Measured"] for host in self.lab.hosts for path in host.report()["Paths"])

    def mtus(self) -> list[int]:
        """Of the paths, as both hosts' status has them."""
        return [int(path["MTU"]) for host in self.lab.hosts for path in host.report()["Paths"]]


def limit(lab: Lab, size: int) -> None:
    """From now on the switch drops in silence what is larger, in both directions."""
    hook = "type filter hook ingress device {port} priority 0; meta length > {size} drop;"
    chains = [f"chain {host.port} {{ {hook.format(port=host.port, size=size)} }}" for host in lab.hosts]
    lab.switch.run("nft", f"table netdev hole {{ {'; '.join(chains)}; }}")


class Flow:
    """A TCP stream that goes on while the `with` block runs; what arrived must be what was sent.

    A stream that stands still for SECONDS ends on both sides; then what arrived is not whole.
    """

    def __init__(self, source: Container, sink: Container, address: str) -> None:
        self._stopped = threading.Event()
        self._ends = contextlib.ExitStack()
        self.received = 0
        self._sent, self._arrived = hashlib.sha256(), hashlib.sha256()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        with contextlib.ExitStack() as ends:
            listener = ends.enter_context(sink.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.settimeout(SECONDS)
            listener.bind((address, 5100))
            listener.listen(1)
            self._sender = ends.enter_context(source.socket(socket.AF_INET, socket.SOCK_STREAM))
            self._sender.settimeout(SECONDS)
            self._sender.connect((address, 5100))
            self._accepted, _ = listener.accept()
            ends.enter_context(self._accepted)
            self._accepted.settimeout(SECONDS)
            self._ends = ends.pop_all()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._ends.close()

    def _send(self) -> None:
        source = random.Random(1)
        with contextlib.suppress(OSError):
            while not self._stopped.wait(0.02):
                piece = source.randbytes(100_000)
                self._sent.update(piece)
                self._sender.sendall(piece)
            self._sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self._accepted.recv(65536):
                self.received += len(piece)
                self._arrived.update(piece)

    def goes_on(self) -> None:
        before = self.received
        until(lambda: self.received > before + 2_000_000, "the stream goes on")

    def whole(self) -> bool:
        return self._sent.digest() == self._arrived.digest()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Pair]:
    with Lab(tmp_path_factory.mktemp("mtu"), 2) as lab:
        yield Pair(lab, 1500, engine)


def cached_mtu(space: Space, address: str) -> int:
    """What the kernel there was told about the address; 65 535 if nothing."""
    found = re.search(r"mtu (?:lock )?(\d+)", space.ip("route", "get", address))
    return int(found[1]) if found else 65_535


@pytest.mark.both_engines
def test_forged_icmp_decides_nothing(pair: Pair) -> None:
    until(lambda: pair.mtus() == [1500 - SEALED] * 2, "both directions are measured")
    forger = pair.lab.container("forger")
    forger.ip("link", "add", "eth0", "type", "veth", "peer", "name", "pforger", "netns", pair.lab.switch.name)
    forger.ip("addr", "add", f"{FORGER}/24", "dev", "eth0")
    forger.ip("link", "set", "eth0", "up")
    pair.lab.switch.ip("link", "set", "pforger", "master", "br0", "up")
    forger.reach(pair.first.address)
    with forger.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for _ in range(20):
            raw.sendto(frag_needed(pair.first, pair.second, 68), (pair.first.address, 0))
    forger.remove()
    until(lambda: cached_mtu(pair.first, pair.second.address) < 600, "the kernel believes it")
    one, two = pair.containers
    assert one.ping(ADDRESSES[1], "-M", "do", "-s", "1344", count=20)
    tcp_arrives_whole(one, two, ADDRESSES[1])
    assert pair.mtus() == [1500 - SEALED] * 2
    assert not {"too_big", "send_failed"} & {*pair.first.report()["Drops"]}


def frag_needed(source: Host, destination: Host, mtu: int) -> bytes:
    """ICMP 3/4 about a datagram of the data plane."""
    addresses = socket.inet_aton(source.address) + socket.inet_aton(destination.address)
    quoted = struct.pack(">BBHHHBBH", 0x45, 0, 1400, 1, 0x4000, 64, 17, 0) + addresses
    quoted += struct.pack(">HHHH", 6783, 6783, 1380, 0)
    message = struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quoted
    return message[:2] + struct.pack(">H", checksum(message)) + message[4:]


@pytest.mark.both_engines
def test_a_hole_in_mid_flow(pair: Pair) -> None:
    one, two = pair.containers
    until(lambda: pair.mtus() == [1500 - SEALED] * 2, "both directions are measured")
    with Flow(one, two, ADDRESSES[1]) as flow:
        flow.goes_on()
        limit(pair.lab, 1000)
        until(lambda: max(pair.mtus()) <= 1000 - SEALED, "the hole is found in both directions")
        flow.goes_on()
        until(lambda: min(pair.mtus()) > 1000 - SEALED - 8, "and measured")
        flow.goes_on()
    assert flow.whole()
    # senders that need to know are told …
    until(pair.measured, "nothing larger is being tried")
    pinged = one.run("ping", "-n", "-M", "do", "-s", "1300", "-c", "4", "-i", "0.2", ADDRESSES[1], check=False)
    assert f"Frag needed and DF set (mtu = {pair.mtus()[0]})" in pinged.out
    assert cached_mtu(one, ADDRESSES[1]) == pair.mtus()[0]
    one.run("ping", "-n", "-6", "-M", "do", "-s", "1260", "-c", "4", "-i", "0.2", ADDRESSES6[1], check=False)
    assert cached_mtu(one, ADDRESSES6[1]) == 1280
    # … and everything arrives all the same
    assert two.ping(ADDRESSES[0], "-s", "1300", count=5)
    assert two.ping(ADDRESSES6[0], "-s", "8000", count=5)
    datagrams_arrive(two, one, ADDRESSES[0])
    tcp_arrives_whole(two, one, ADDRESSES[0])
    for host in pair.lab.hosts:
        assert not {"too_big", "bad_fragment", "send_failed"} & {*host.report()["Drops"]}
        assert {path["State"] for path in host.report()["Paths"]} == {"alive"}


@pytest.mark.parametrize(("family", "mtu"), [(4, 600), (6, 1400)])
def test_a_path_that_is_narrow_from_the_start(tmp_path: Path, family: int, mtu: int) -> None:
    """Control links live on it too."""
    sealed = SEALED if family == 4 else SEALED + 20
    with Lab(tmp_path, 2, family=family) as lab:
        limit(lab, mtu)
        pair = Pair(lab, 1500)
        until(lambda: min(pair.mtus()) > mtu - sealed - 8 and max(pair.mtus()) <= mtu - sealed, "measured")
        one, two = pair.containers
        tcp_arrives_whole(one, two, ADDRESSES[1], size=1_000_000)
        datagrams_arrive(one, two, ADDRESSES[1])


def test_jumbo_frames_are_used_to_the_full(tmp_path: Path) -> None:
    with Lab(tmp_path, 2) as lab:
        pair = Pair(lab, 9000)
        until(lambda: pair.mtus() == [9000 - SEALED] * 2, "both directions are measured")
        one, two = pair.containers
        (link,) = links(one)
        assert link["mtu"] == 9000 - 128
        assert one.ping(ADDRESSES[1], "-M", "do", "-s", str(9000 - 128 - 28), count=5)
        tcp_arrives_whole(one, two, ADDRESSES[1], size=20_000_000)
        datagrams_arrive(two, one, ADDRESSES[0], (0, 8000, 20_000))
        pair.first.ip("link", "set", "eth0", "mtu", "4000")  # and now they are not
        with Flow(one, two, ADDRESSES[1]) as flow, Flow(two, one, ADDRESSES[0]) as back:
            until(
                lambda: all(4000 - SEALED - 8 < mtu <= 4000 - SEALED for mtu in pair.mtus()),
                "it is noticed at both ends",
            )
            flow.goes_on()
            back.goes_on()
        assert flow.whole()
        assert back.whole()


def links(container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(container.ip("-j", "link", "show", "mesh0"))
    return found
