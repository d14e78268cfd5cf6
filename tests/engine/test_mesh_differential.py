"""Three hosts side by side with each engine, and everything between them at once: the same of everything in the end.

What the stories of test_differential.py and test_relaying_differential.py tell one by one is mixed here: each host captures frames
for the two others, for its tree, for groups and for nobody, and passes on floods, frames of moved MACs and relayed datagrams; paths
become smaller, larger, relayed and direct again, keys reach their last datagrams, TAPs go down, queues fill up, somebody looks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from meshd.crypto.aead import Suite
from meshd.crypto.session import relay_key
from meshd.drops import DropReason
from meshd.forward.engine.interface import Inspected, Verdict
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.engine.python import PythonEngine
from meshd.forward.engine.tables import MAX_KEY_DATAGRAMS
from meshd.forward.header import TAG_SIZE
from meshd.forward.relay import RELAY_FIRST_BYTE, RELAY_OVERHEAD
from meshd.forward.slots import FIRST_PEER, FLOOD, GROUP, LOCAL, drop_slot
from meshd.ids import Endpoint, Mac, Relayed, SegmentId, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.compare import compare
from tests.engine.pair import ScriptedUpcalls
from tests.engine.pair import Side as OneSide
from tests.engine.reference import arp, capture, super_frame, tcp, udp, unfinished, vnet
from tests.engine.test_differential import PAYLOAD, Faults, frames_of

HOSTS = range(3)
OLD_KEYS = 18  # as many newer ones there are when a key is dropped
STRANGER = Endpoint("10.0.0.66", 6783)
# Last bytes of destinations; below TO_HOSTS they name a host, turned around by `moved`.
TO_HOSTS, NOT_THERE, ELSEWHERE, ASKED_EACH_TIME = 6, 3, 4, 5
TO_TREE, TO_NOBODY, TO_ALL_JOINED, NONE_JOINED, NEVER_JOINED = 6, 7, 8, 9, 10
VERDICTS = {TO_TREE: FLOOD, TO_NOBODY: drop_slot(DropReason.UNKNOWN_LIMITED)}


def slot(host: int) -> SlotId:
    return SlotId(FIRST_PEER + host)


@dataclass
class Decided(ScriptedUpcalls):
    me: int = 0
    moved: int = 0

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_outbound.append((source, destination))
        last = destination[5]
        if last >= TO_HOSTS:
            return Verdict(VERDICTS.get(last, GROUP))
        host = (last + self.moved) % len(HOSTS)
        return Verdict(LOCAL if host == self.me else slot(host), cached=last != ASKED_EACH_TIME)

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_inbound.append((peer, source, destination))
        elsewhere = slot((self.me + 1) % len(HOSTS))
        return Verdict({NOT_THERE: drop_slot(DropReason.NOT_LOCAL), ELSEWHERE: elsewhere}.get(destination[5], LOCAL))


class Mesh:
    """One engine's three hosts, who are each other's peers; `slot(n)` is host n at both others."""

    def __init__(
        self, engine: type[PythonEngine], seed: int = 0, rate: float = 0.0, suite: Suite = Suite.AES_256_GCM
    ) -> None:
        class Side(OneSide):
            engine_type = engine
            upcalls_type = Decided

        self.network = MemoryNetwork()
        self.suite = suite
        self.keys = 0
        self.frames: list[list[bytes]] = [[] for _ in HOSTS]
        self.looked_at: list[tuple[object, ...]] = []
        self.sides = [Side(self.network, host + 1) for host in HOSTS]
        self.faults = self.network.fault = Faults(seed, rate)
        for host in HOSTS:
            upcalls = self.decided(host)
            upcalls.me = host
            others = [other for other in HOSTS if other != host]
            upcalls.routes = {self.sides[other].origin: slot(other) for other in others}
            upcalls.members = {mac(TO_ALL_JOINED): [slot(other) for other in others], mac(NONE_JOINED): []}
            following, before = slot((host + 1) % 3), (host + 2) % 3  # a tree is the way round, as far as the last one
            upcalls.children = {self.sides[host].origin: [following], self.sides[before].origin: [following]}
            upcalls.children[self.sides[(host + 1) % 3].origin] = []
        for host, other in PAIRS:
            self.sides[host].engine.set_path(slot(other), self.sides[other].endpoint, 1472)
            self.rekey(host, other)

    def decided(self, host: int) -> Decided:
        upcalls = self.sides[host].upcalls
        assert isinstance(upcalls, Decided)
        return upcalls

    # steps

    def send(self, host: int, captures: list[bytes], deliveries: int) -> None:
        for side in self.sides:
            side.now += 1.0
        self.sides[host].send(*captures)
        self.deliver(deliveries)

    def deliver(self, times: int) -> None:
        for _ in range(times):
            for host, side in enumerate(self.sides):
                self.frames[host] += [frame for written in side.receive() for frame in frames_of(written)]

    def rekey(self, host: int, other: int) -> None:
        self.keys += 1
        key = bytes((host, other)) + self.keys.to_bytes(30, "big")
        receiver = self.sides[other].engine
        receiver.drop_receive_key(self.keys - OLD_KEYS)
        receiver.add_receive_key(self.keys, slot(host), self.suite, key, relay_key(key))
        self.sides[host].engine.set_send_key(slot(other), self.suite, key, self.keys, relay_key(key))

    def lose_key(self, host: int, other: int) -> None:
        self.sides[host].engine.drop_send_key(slot(other))

    def path(self, host: int, other: int, kind: int, size: int, aggregate: int | None, measured: bool) -> None:
        """0: none; 1: through the third host; else direct."""
        engine, via = self.sides[host].engine, None
        address: Endpoint | Relayed | None = self.sides[other].endpoint
        if kind == 0:
            address, size = None, 0
        elif kind == 1:
            address, size, via = (
                Relayed(self.sides[other].origin),
                max(1, size - RELAY_OVERHEAD),
                slot(sum(HOSTS) - host - other),
            )
        engine.set_path(slot(other), address, size, via, aggregate_limit=aggregate, measured=measured)

    def wear_out(self, host: int, other: int, left: int) -> None:
        """The key that is sealed with has so many datagrams left. Not its relay layer: C uses up its last ones singly."""
        engine = self.sides[host].engine
        assert isinstance(engine, PythonEngine)
        key = engine._peers[slot(other)].send_key
        if key is not None:
            key.counter = max(key.counter, MAX_KEY_DATAGRAMS - left)

    def look(self, host: int, on: bool) -> None:
        def mirror(inward: bool, slot: SlotId, frame: bytes | bytearray | memoryview) -> None:
            self.looked_at.append((host, inward, slot, bytes(frame)))

        self.sides[host].engine.set_mirror(mirror if on else None)

    def move(self, host: int, last: int) -> None:
        self.decided(host).moved += 1
        self.sides[host].engine.void_flows(Mac(mac(last)))

    def void(self, host: int) -> None:
        engine = self.sides[host].engine
        for void in (engine.void_flows, engine.void_trees, engine.void_groups, engine.void_routes):
            void()

    def control(self, host: int, other: int, body: bytes) -> None:
        self.sides[host].engine.send_control(slot(other), body)

    def tap(self, host: int, up: bool) -> None:
        self.sides[host].frames.up = up

    def group(self, host: int, on: bool) -> None:
        """UDP_GRO."""
        self.sides[host].port.group = on

    def inspected(self, host: int, forward: bool, reply: bool, instead: bool) -> None:
        peers = [slot(other) for other in HOSTS if other != host and instead]
        self.decided(host).inspected = Inspected(forward, bytes(udp(b"a reply")) if reply else b"", peers)

    def garbage(self, host: int, data: bytes) -> None:
        self.network.carry(STRANGER, self.sides[host].endpoint, data)

    def refuse(self, host: int, reason: DropReason | None) -> None:
        self.sides[host].port.refuse = reason

    def room(self, host: int, other: int, left: int | None) -> None:
        room, destination = self.sides[host].port.room, self.sides[other].endpoint
        room.pop(destination, None)
        if left is not None:
            room[destination] = left

    def seen(self) -> dict[str, object]:
        wire = {at: [without_hop(datagram) for datagram in datagrams] for at, datagrams in self.faults.wire.items()}
        result: dict[str, object] = {"wire": wire, "frames": self.frames, "looked at": self.looked_at}
        for host, side in enumerate(self.sides):
            upcalls = side.upcalls
            result[f"{host} drops"] = side.drops
            result[f"{host} counters"] = dict(side.engine.peer_counters())
            result[f"{host} flows"] = {
                (flow.outbound, flow.source_slot, flow.source, flow.destination): flow for flow in side.engine.flows()
            }
            result[f"{host} asked"] = (
                upcalls.asked_outbound, upcalls.asked_inbound, upcalls.asked_children, upcalls.asked_members,
                upcalls.asked_inspect, upcalls.asked_routes, upcalls.wanted, upcalls.confirmed, upcalls.handshakes,
                upcalls.controls,
            )  # fmt: skip
        return result


class Settled(Mesh):
    """What waits for Python may be overtaken by what need not wait: nothing is compared before all is there, and no order."""

    def send(self, host: int, captures: list[bytes], deliveries: int) -> None:
        for one in captures:
            super().send(host, [one], 8)

    def seen(self) -> dict[str, object]:
        self.deliver(8)
        result: dict[str, object] = {"frames": [sorted(frames) for frames in self.frames]}
        for host, side in enumerate(self.sides):
            upcalls = side.upcalls
            result[f"{host} drops"] = side.drops
            result[f"{host} counters"] = {
                peer: (counters.frames_out, counters.frames_in)
                for peer, counters in side.engine.peer_counters().items()
            }
            result[f"{host} flows"] = sorted(
                (flow.source, flow.destination, flow.slot, flow.frames, flow.bytes) for flow in side.engine.flows()
            )
            result[f"{host} asked"] = (
                sorted(upcalls.asked_outbound), sorted(upcalls.asked_inbound), sorted(upcalls.asked_routes),
                sorted(upcalls.confirmed), sorted(upcalls.wanted), len(upcalls.handshakes), len(upcalls.controls),
            )  # fmt: skip
        return result


PAIRS = [(host, other) for host in HOSTS for other in HOSTS if host != other]


def without_hop(datagram: bytes) -> bytes:
    """A relayed datagram without the hop's counter and tag: own ones are sealed before, or after, others that are passed on."""
    return datagram[:8] + datagram[16:-TAG_SIZE] if datagram[0] == RELAY_FIRST_BYTE else datagram


def mac(last: int) -> bytes:
    """Groups from TO_TREE on."""
    return bytes((1 if last >= TO_TREE else 2, 0, 0, 0, 0, last))


# ── stories, drawn by seed: long ones, of which hypothesis makes few

SIZES = (60, 536, 1000, 1300, 1306, 1320, 4000, 8900, 16_329)
DESTINATIONS = (*range(TO_HOSTS), *range(3), *range(3), TO_TREE, TO_NOBODY, TO_ALL_JOINED, NONE_JOINED, NEVER_JOINED)
MeshStep = Callable[[Mesh], None]


def drawn_capture(rng: random.Random) -> bytes:
    match rng.randrange(9):
        case 0:
            data = capture(udp(PAYLOAD[: rng.choice((0, 1, 100, 700, 1340, 1400))], ident=rng.randrange(9)))
        case 1:
            data = unfinished(tcp(PAYLOAD[: rng.choice((0, 1, 60, 700, 1300, 1400))], rng.choice((4, 6))))
        case 2:
            data = unfinished(udp(PAYLOAD[: rng.choice((0, 60, 1300))]))
        case 3:
            return capture(arp())
        case 4:
            data = vnet() + bytes(12) + b"\x88\xb5" + PAYLOAD[: rng.choice((0, 40, 1500, 3000, 16_370, 16_371, 17_000))]
        case kind:
            size, version = rng.choice(SIZES), rng.choice((4, 6))
            count = rng.choice((1, 2, 3, 11, 44, 45, 46, 63, 64, 65))
            payload = PAYLOAD[: min(64_000, size * count + rng.choice((0, 0, -1, 1, 33)))]
            packet = (
                udp(payload, version) if kind == 8 else tcp(payload, version, flags=rng.choice(("A", "A", "PA", "FPA")))
            )
            data = super_frame(packet, size)
    return data[:10] + mac(rng.choice(DESTINATIONS)) + data[16:]


def drawn_garbage(rng: random.Random) -> bytes:
    known = b"\x00\x00" + rng.randrange(1, 20).to_bytes(4, "little") + bytes(rng.choice((24, 60)))
    anything = bytes((rng.choice((0x11, 0x13, 0x14, 0x18, 0x24, 0)),)) + rng.randbytes(rng.randrange(70))
    return rng.choice((b"\x14\x00" + known, b"\x18\x00" + known, anything))


def sending(rng: random.Random) -> MeshStep:
    batch = [drawn_capture(rng) for _ in range(rng.choice((1, 2, 4, 8)))] * rng.choice((1, 1, 1, 2, 9))
    host, deliveries = rng.choice(HOSTS), rng.randrange(3)
    return lambda mesh: mesh.send(host, batch, deliveries)


def changing(rng: random.Random) -> MeshStep:
    host, other = rng.choice(PAIRS)
    some, more, third = (rng.random() < 0.5 for _ in range(3))
    match rng.randrange(14):
        case 0 | 1:
            return lambda mesh: mesh.rekey(host, other)
        case 2 | 3 | 4:
            kind, aggregate = rng.choice((0, 1, 1, 2, 2, 2)), rng.choice((None, None, 0, 47, 400, 1472, 9000))
            size = rng.choice((40, 100, 552, 1000, 1400, 1472, 9000, 20_000))
            return lambda mesh: mesh.path(host, other, kind, size, aggregate, some)
        case 5:
            return lambda mesh: mesh.lose_key(host, other)
        case 6:
            return lambda mesh: mesh.void(host)
        case 7:
            return lambda mesh: mesh.move(host, other)
        case 8:
            return lambda mesh: mesh.look(host, some)
        case 9:
            body = rng.randbytes(rng.randrange(1, 30))
            return lambda mesh: mesh.control(host, other, body)
        case 10:
            return lambda mesh: mesh.tap(host, some or more)
        case 11:
            return lambda mesh: mesh.inspected(host, some, more, third)
        case 12:
            garbage = drawn_garbage(rng)
            return lambda mesh: mesh.garbage(host, garbage)
        case _:
            reason = rng.choice((None, None, DropReason.QUEUE_FULL, DropReason.SEND_FAILED))
            return lambda mesh: mesh.refuse(host, reason)


def limiting(rng: random.Random) -> MeshStep:
    host, other = rng.choice(PAIRS)
    left, on = rng.choice((0, 1, 5, 20, 100)), rng.random() < 0.7
    match rng.randrange(3):
        case 0:
            return lambda mesh: mesh.wear_out(host, other, left)
        case 1:
            return lambda mesh: mesh.room(host, other, left if on else None)
        case _:
            return lambda mesh: mesh.group(host, on)


def story(rng: random.Random, *kinds: Callable[[random.Random], MeshStep]) -> list[MeshStep]:
    return [rng.choice(kinds)(rng) for _ in range(25)]


@pytest.mark.parametrize("seed", range(50))
def test_everything_at_once(seed: int) -> None:
    rng = random.Random(seed)
    rate, suite = rng.choice((0.0, 0.0, 0.05, 0.3)), rng.choice(list(Suite))
    steps = story(rng, sending, sending, sending, changing, changing, changing, limiting)
    compare(steps, *(Mesh(engine, seed, rate, suite) for engine in (PythonEngine, NativeEngine)))


@pytest.mark.parametrize("seed", range(20))
def test_what_waits_for_python_is_no_less_and_no_more(seed: int) -> None:
    steps = story(random.Random(seed), sending, changing)
    compare(steps, *(Settled(engine) for engine in (PythonEngine, ThreadedEngine)))
