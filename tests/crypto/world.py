"""Two or more `Sessions` on a virtual clock, engines that hold keys as the real ones do, and a seeded, lossy link between them.

After every step `check` asserts the package's promise: what any host would seal now, the other end can open. Engines refuse what
would be a disaster on the wire: a key sealed under twice, an index that is added twice or removed unknown.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence

from meshd.crypto.events import (
    Event,
    HandshakeFailed,
    ReceiveKeyAdded,
    ReceiveKeyRemoved,
    SendKeyChanged,
    SendKeyRemoved,
    SessionLost,
    SessionReady,
)
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.session import Timing
from meshd.crypto.sessions import Sessions
from meshd.crypto.wire import LivenessCounter
from meshd.drops import DropCounters, DropReason
from meshd.ids import Endpoint, HostId

MESH = MeshKey.generate(random.Random(7).randbytes)


class FakeEngine:
    """The tables of a packet engine, and a datagram of type 4 reduced to what matters: index, key, number."""

    def __init__(self) -> None:
        self.receive_keys: dict[int, tuple[HostId, bytes]] = {}
        self.send_keys: dict[HostId, tuple[int, bytes]] = {}
        self.sealed: dict[HostId, int] = {}
        self.used: set[bytes] = set()
        self.confirmed: set[int] = set()

    def carry_out(self, event: Event) -> None:
        match event:
            case ReceiveKeyAdded():
                assert event.index not in self.receive_keys
                self.receive_keys[event.index] = (event.peer, event.key)
            case ReceiveKeyRemoved():
                del self.receive_keys[event.index]
            case SendKeyChanged():
                assert event.key not in self.used, "a key is sealed under from counter 0 a second time"
                self.used.add(event.key)
                self.send_keys[event.peer] = (event.remote_index, event.key)
                self.sealed[event.peer] = 0
            case SendKeyRemoved():
                del self.send_keys[event.peer]


class Host:
    def __init__(self, world: World, name: str, mesh: MeshKey = MESH, boot: int = 1, seed: int = 0) -> None:
        self.world = world
        self.name = name
        self.endpoint = Endpoint(name, 6783)
        self.identity = Identity.generate(random.Random(name).randbytes)
        self.id = self.identity.host_id
        self.mesh = mesh
        self.start(boot, seed)

    def start(self, boot: int, seed: int = 0) -> None:
        """A new process: all state is gone, the boot counter has grown."""
        rng = random.Random(f"{self.name} {boot} {seed}")
        self.engine = FakeEngine()
        self.drops = DropCounters()
        self.events: list[Event] = []
        self.received: list[int] = []
        self.sessions = Sessions(
            identity=self.identity,
            mesh=self.mesh,
            entropy=rng.randbytes,
            rng=rng,
            liveness=LivenessCounter(boot),
            lookup=self.world.lookup,
            sealed=lambda peer: self.engine.sealed.get(peer, 0),
            drops=self.drops,
            timing=self.world.timing,
        )

    def connect(self, other: Host, endpoints: Sequence[Endpoint] | None = None) -> None:
        where = [other.endpoint] if endpoints is None else endpoints
        self.sessions.connect(other.id, other.identity.x25519_public, where, self.world.now)
        self.flush()

    def bootstrap(self, endpoint: Endpoint) -> None:
        self.sessions.bootstrap(endpoint, self.world.now)
        self.flush()

    def send(self, other: Host, number: int) -> bool:
        """Seal and send one datagram; False where there is no session."""
        key = self.engine.send_keys.get(other.id)
        if key is None:
            return False
        self.engine.sealed[other.id] += 1
        self.world.carry(self, other.endpoint, (key[0], key[1], number))
        return True

    def arrive(self, packet: bytes | tuple[int, bytes, int], source: Endpoint) -> DropReason | None:
        if isinstance(packet, bytes):
            reason = self.sessions.receive(packet, source, self.world.now)
            self.flush()
            return reason
        index, sealed_under, number = packet
        held = self.engine.receive_keys.get(index)
        if held is None:
            self.drops.add(DropReason.UNKNOWN_INDEX)
            return DropReason.UNKNOWN_INDEX
        assert held[1] == sealed_under
        self.received.append(number)
        if index not in self.engine.confirmed:
            self.engine.confirmed.add(index)
            self.sessions.confirm(index, self.world.now)
            self.flush()
        return None

    def tick(self) -> None:
        self.sessions.handle_timer(self.world.now)
        self.flush()

    def flush(self) -> None:
        """What the daemon does after each call: events first, then datagrams; a probe under each new send key."""
        probes: list[HostId] = []
        while (event := self.sessions.next_event()) is not None:
            self.events.append(event)
            self.engine.carry_out(event)
            if isinstance(event, SendKeyChanged):
                probes.append(event.peer)
        for datagram, endpoint in self.sessions.poll_transmit():
            assert isinstance(endpoint, Endpoint)  # this world has no relays
            self.world.carry(self, endpoint, datagram)
        for peer in probes:
            if self.world.probes and peer in self.engine.send_keys:
                self.send(self.world.by_id[peer], -1)

    def ready(self) -> list[SessionReady]:
        return [event for event in self.events if isinstance(event, SessionReady)]

    def lost(self) -> list[SessionLost]:
        return [event for event in self.events if isinstance(event, SessionLost)]

    def failed(self) -> list[HandshakeFailed]:
        return [event for event in self.events if isinstance(event, HandshakeFailed)]


Packet = bytes | tuple[int, bytes, int]


class World:
    """`loss` 0..1, `delay` (least, most) seconds; reordering follows from the spread of the delays."""

    def __init__(
        self,
        *,
        seed: int = 0,
        loss: float = 0.0,
        delay: tuple[float, float] = (0.001, 0.001),
        duplicate: float = 0.0,
        timing: Timing | None = None,
        probes: bool = True,
    ) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.loss = loss
        self.delay = delay
        self.duplicate = duplicate
        self.timing = timing if timing is not None else Timing()
        self.probes = probes
        self.records: dict[bytes, HostId] = {}
        self.by_id: dict[HostId, Host] = {}
        self.hosts: dict[Endpoint, Host] = {}
        self.wire: list[tuple[Host, Endpoint, bytes]] = []  # every handshake datagram ever sent
        self.drop_if: Callable[[Packet], bool] = lambda packet: False
        self._flying: list[tuple[float, int, Endpoint, Endpoint, Packet]] = []
        self._count = 0

    def host(self, name: str, mesh: MeshKey = MESH, *, known: bool = True, seed: int = 0) -> Host:
        host = Host(self, name, mesh, seed=seed)
        self.hosts[host.endpoint] = host
        self.by_id[host.id] = host
        if known:
            self.records[host.identity.x25519_public] = host.id
        return host

    def lookup(self, static: bytes) -> HostId | None:
        return self.records.get(static)

    def carry(self, sender: Host, to: Endpoint, packet: Packet) -> None:
        if isinstance(packet, bytes):
            self.wire.append((sender, to, packet))
        if to not in self.hosts or self.rng.random() < self.loss or self.drop_if(packet):
            return
        for _ in range(2 if self.rng.random() < self.duplicate else 1):
            self._count += 1
            arrival = self.now + self.rng.uniform(*self.delay)
            heapq.heappush(self._flying, (arrival, self._count, sender.endpoint, to, packet))

    def run(self, seconds: float, *, check: bool = True) -> None:
        """Let everything happen that is due until then."""
        end = self.now + seconds
        while True:
            deadlines = [host.sessions.next_deadline() for host in self.hosts.values()]
            times = [deadline for deadline in deadlines if deadline is not None]
            if self._flying:
                times.append(self._flying[0][0])
            moment = min(times, default=math.inf)
            if moment > end:
                self.now = end
                return
            self.now = max(self.now, moment)
            for host in self.hosts.values():
                host.tick()
            while self._flying and self._flying[0][0] <= self.now:
                _, _, source, to, packet = heapq.heappop(self._flying)
                if to in self.hosts:
                    self.hosts[to].arrive(packet, source)
            if check:
                self.check()

    def check(self) -> None:
        for sender in self.hosts.values():
            for peer, (index, key) in sender.engine.send_keys.items():
                receiver = self.by_id[peer]
                assert receiver.engine.receive_keys.get(index) == (sender.id, key), (sender.name, receiver.name)


def pair(
    *,
    seed: int = 0,
    loss: float = 0.0,
    delay: tuple[float, float] = (0.001, 0.001),
    timing: Timing | None = None,
    probes: bool = True,
) -> tuple[World, Host, Host]:
    world = World(seed=seed, loss=loss, delay=delay, timing=timing, probes=probes)
    return world, world.host("alice", seed=seed), world.host("bob", seed=seed)
