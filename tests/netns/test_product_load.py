"""Real routers while everything goes on at once: keys change every few seconds, floods, a relay, containers that come, go and move.

Host 2 and host 3 do not see each other, so host 1 relays between them. At a rate far below what any machine carries nothing is
lost, and a frame that is sent once a move is known goes to the new place alone. Above what the machine carries, what is lost is
lost in a queue, and counted there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from bench import blast
from tests.netns.lab import Container, Host, Lab, until
from tests.netns.test_product_relays import drop, relayed
from tests.netns.traffic import Listener, Stream

ADDRESSES = ("10.32.0.1", "10.32.0.2", "10.32.0.3")
EVERYBODY, GUEST = "10.32.0.255", "10.32.0.77"
INTERVAL = 0.001  # of each stream: under 1000 frames a second
REKEY_S = 5.0  # a key then opens for 7.5 s: longer than any queue of a busy machine holds what was sealed under it
KEYS = 2  # so many handshakes at least meanwhile
ROUNDS = 2  # of coming, going and moving; a MAC may move five times before it is frozen
ROAMING = bytes.fromhex("060000000001")
ETHERTYPE = 0x88B5  # IEEE 802, for experiments
FRAMES = 200  # to the MAC that has moved
PORT = 5004
# The flood lasts a second: it has begun by then, and goes on after the router has stood still.
FLOOD_FIRST_S, STANDSTILL_S = 0.3, 0.3
# No queue of ours holds more than it is made for, nor does the kernel's of the socket or the TAP.
QUEUES = {"queue_full", "kernel_udp", "kernel_tap"}
# A new interface's kernel speaks to groups that nobody has joined; of two tries at a handshake the first one's answer came late.
NOT_OF_THE_FLOWS = {"no_members", "unexpected_handshake"}
CASES = (
    pytest.param(("--engine", "native", "--pump", "thread"), id="native-thread"),
    pytest.param(("--engine", "native", "--pump", "loop"), id="native-loop", marks=pytest.mark.slow),
    pytest.param(("--engine", "python"), id="python", marks=pytest.mark.slow),
)


class Roamer:
    """A MAC that is now in this container, now in that; and frames to it."""

    def __init__(self, stack: contextlib.ExitStack, source: Container, places: dict[Host, Container]) -> None:
        self._sockets = {}
        for container in (source, *places.values()):
            raw = container.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
            self._sockets[container] = stack.enter_context(raw)
            raw.bind(("mesh0", ETHERTYPE))
            raw.setblocking(False)
        self._source, self._places = source, places
        self._sent = 0

    def appears(self, host: Host) -> None:
        """As a machine does that has come: it says so to everybody."""
        self._sockets[self._places[host]].send(bytes([255]) * 6 + ROAMING + ETHERTYPE.to_bytes(2, "big") + bytes(46))

    def is_sent(self, count: int) -> list[int]:
        """Send these many frames; their numbers."""
        head = ROAMING + bytes.fromhex(self._source.mac().replace(":", "")) + ETHERTYPE.to_bytes(2, "big")
        numbers = list(range(self._sent, self._sent + count))
        for number in numbers:
            self._sockets[self._source].send(head + number.to_bytes(4, "big") + bytes(42))
            time.sleep(INTERVAL)
        self._sent += count
        return numbers

    def arrives(self, host: Host, numbers: list[int]) -> bool:
        """Each of them there once. The first ones, of which the router asks Python, may be overtaken on arrival."""
        arrived: list[int] = []

        def enough() -> bool:
            arrived.extend(self.got(host))
            return len(arrived) >= len(numbers)

        until(enough, f"{len(numbers)} frames for the MAC that has moved to {host.nickname}")
        return sorted(arrived) == numbers

    def got(self, host: Host) -> list[int]:
        """What has arrived there since the last look."""
        numbers = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self._sockets[self._places[host]].recv(2048)
                if frame[:6] == ROAMING:
                    numbers.append(int.from_bytes(frame[14:18], "big"))
        return numbers


def owns(seen_by: Host, mac: bytes, host: Host) -> bool:
    rows = seen_by.report()["Router"]["MACs"]
    return any(row["NickName"] == host.nickname for row in rows if row["Mac"] == mac.hex(":"))


def drops(lab: Lab) -> Counter[str]:
    total: Counter[str] = Counter()
    for host in lab.hosts:
        total.update(host.report()["Drops"])
    return total


def count_handshakes(host: Host) -> None:
    """From now on the host's firewall counts those that begin one, both ways."""
    rule = "udp dport 6783 @th,64,8 0x11 counter"
    chains = (f"chain {hook} {{ type filter hook {hook} priority 0; {rule}; }}" for hook in ("input", "output"))
    host.run("nft", f"table inet handshakes {{ {'; '.join(chains)}; }}")


def handshakes(host: Host) -> int:
    return sum(map(int, re.findall(r"packets (\d+)", host.run("nft", "list", "table", "inet", "handshakes").out)))


def start(lab: Lab, options: tuple[str, ...]) -> list[Container]:
    _, second, third = lab.hosts
    drop(second, third)
    drop(third, second)
    lab.launch("--rekey-interval", f"{REKEY_S:g}", *options)
    containers = [lab.container(f"c{number}") for number in range(3)]
    for host, container, address in zip(lab.hosts, containers, ADDRESSES, strict=True):
        host.attach(container, f"{address}/24")
    for source, sink in ((0, 1), (0, 2), (1, 2)):
        containers[source].reach(ADDRESSES[sink])
    until(lambda: relayed(second, third) and relayed(third, second), "host 1 relays")
    return containers


def tables_change(lab: Lab, guest: Container, roamer: Roamer) -> None:
    """A container comes and goes at each of two hosts; a MAC moves from one to the other, and what is sent to it then finds it."""
    first, *others = lab.hosts
    for number in range(ROUNDS):
        for host in others:
            host.attach(guest, f"{GUEST}/24")
            host.meshd("detach", guest.word)
        here, elsewhere = others[number % 2], others[1 - number % 2]
        roamer.appears(here)
        until(partial(owns, first, ROAMING, here), "the move is known")
        assert roamer.arrives(here, roamer.is_sent(FRAMES))
        assert roamer.got(elsewhere) == [], "a verdict of before the move"


@pytest.mark.timeout(300)  # with a sanitizer in it, on a busy machine; else half a minute
@pytest.mark.parametrize("options", CASES)
def test_nothing_is_lost_but_in_queues(tmp_path: Path, options: tuple[str, ...]) -> None:
    with Lab(tmp_path, 3) as lab, contextlib.ExitStack() as stack:
        one, two, three = start(lab, options)
        guest = lab.container("guest")
        roamer = Roamer(stack, one, dict(zip(lab.hosts[1:], (two, three), strict=True)))
        count_handshakes(lab.hosts[0])
        before = drops(lab)
        with (
            Stream(one, two, ADDRESSES[1], INTERVAL) as direct,
            Stream(two, three, ADDRESSES[2], INTERVAL) as through_a_relay,
            Stream(three, two, EVERYBODY, 4 * INTERVAL) as flood,
        ):
            tables_change(lab, guest, roamer)
            until(lambda: handshakes(lab.hosts[0]) >= KEYS, "keys change")
        lost = {
            "direct": direct.lost,
            "through a relay": through_a_relay.lost,
            "flood": flood.lost,
        }
        after = drops(lab) - before
        print("sent:", direct.sent, through_a_relay.sent, flood.sent, "dropped:", dict(after))
        assert not any(lost.values()), (lost, after)
        assert direct.repeated == through_a_relay.repeated == flood.repeated == 0
        assert set(after) <= NOT_OF_THE_FLOWS

        with Sink(two, ADDRESSES[1]) as sink:
            sent = flood_for_a_second((one, three), ADDRESSES[1], lab.hosts[0])

            def accounted_for() -> bool:
                after.update(drops(lab) - before - after)
                return sink.received + after.total() >= sent

            with contextlib.suppress(AssertionError):  # what is missing is told below
                until(accounted_for, "what was sent has arrived or is counted")
        print("flood:", sent, "arrived:", sink.received, "dropped:", dict(after))
        assert sink.received + after.total() >= sent
        assert set(after) <= NOT_OF_THE_FLOWS | QUEUES
        assert QUEUES & set(after)
        assert two.ping(ADDRESSES[2], count=5)
        assert one.ping(ADDRESSES[1], count=5)


class Sink(Listener):
    """Counts what arrives at a port."""

    def __init__(self, space: Container, address: str) -> None:
        listening = space.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.setsockopt(socket.SOL_SOCKET, blast.SO_RCVBUFFORCE, blast.RECEIVE_BUFFER)
        listening.setblocking(False)
        listening.bind((address, PORT))
        super().__init__(listening)
        self.received = 0

    def _read(self) -> None:
        batch = blast.Batch(blast.MAX_DATAGRAM)
        while not self._ended.is_set():
            if select.select([self._socket], [], [], 0.1)[0]:
                self.received += batch.receive(self._socket.fileno())


def flood_for_a_second(sources: tuple[Container, ...], address: str, victim: Host) -> int:
    """All that senders can send, and a router that stands still meanwhile for a moment: that is above what any machine carries.
    How many they were."""
    words = (sys.executable, "-I", "-S", str(Path(blast.__file__)), "send", address, str(PORT), "64", "0", "1.0")
    senders = [subprocess.Popen(source.inside(*words), stdout=subprocess.PIPE, text=True) for source in sources]
    time.sleep(FLOOD_FIRST_S)
    os.kill(victim.pid, signal.SIGSTOP)
    time.sleep(STANDSTILL_S)
    os.kill(victim.pid, signal.SIGCONT)
    return sum(int(json.loads(sender.communicate(timeout=30)[0])["sent"]) for sender in senders)
