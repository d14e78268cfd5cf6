"""A whole simulated host: the real node and the real python engine, on a simulated network and a bridge in memory.

    net = SimNetwork(seed=1)
    a = SimHost(net, "a", "10.0.0.1", key)
    b = SimHost(net, "b", "10.0.0.2", key, targets=["10.0.0.1"])
    box = a.attach("web", addresses=("10.1.0.1/24",))       # a container: `box.send(mac, payload)`, `box.received`
    a.start(); b.start()
    net.clock.wait_for(lambda: …, timeout=5)
    b.kill(); b.start()                                     # the same identity, a higher boot counter, an empty memory
    b.pause(); …; b.resume()                                # stopped and continued, or the whole machine suspended

The driver here does what `daemon.driver` does with a real loop. Frames are Ethernet with EtherType FRAME_TYPE and no checksum; the
bridge delivers what the engine writes to every container whose MAC fits, group addresses to all.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from meshd.config import NodeConfig
from meshd.crypto.identity import Identity, Signer, Verifier, verify_signature
from meshd.crypto.meshkey import MeshKey
from meshd.drops import Unsent
from meshd.forward.engine.interface import Buffer, Engine, Upcalls
from meshd.forward.engine.python import PythonEngine
from meshd.forward.vnet import VNET_SIZE
from meshd.ids import DEFAULT_PORT, Endpoint, HostId, LinkId, Mac, host_name, is_multicast, short_id
from meshd.node import LATE_S, Answered, CloseLink, DialLink, Node, PersistBoot, RememberHosts, Resolve, SendLink
from meshd.node.queries import Answer
from meshd.testing.clock import Timer
from meshd.testing.devices import MemoryFrames
from meshd.testing.network import SimNetwork, UdpSocket
from meshd.testing.streams import Stream, StreamEvents

__all__ = ["FRAME_TYPE", "SimContainer", "SimHost", "SimPort"]

FRAME_TYPE = b"\x88\xb5"  # IEEE 802 local experimental
_NO_OFFLOAD = bytes(VNET_SIZE)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _nearest(addresses: Iterable[str], destination: str) -> str:
    """The source that a kernel would choose: that of the longest common prefix (RFC 6724 § 5, rule 8)."""
    far = int(ip_address(destination))
    return min(addresses, key=lambda address: (int(ip_address(address)) ^ far).bit_length())


class SimPort:
    """A DatagramPort of one family over the simulated sockets of a host; what arrives waits until the engine reads it."""

    def __init__(self, family: int, wake: Callable[[], None]) -> None:
        self.family = family
        self.sockets: dict[str, UdpSocket] = {}  # by address
        self._waiting: deque[tuple[bytes, Endpoint]] = deque()
        self._wake = wake

    def fileno(self) -> int:
        return -1

    def deliver(self, data: bytes, source: Endpoint) -> None:
        self._waiting.append((data, source))
        self._wake()

    def receive(self) -> tuple[bytes, int, Endpoint, int] | None:
        if not self._waiting:
            return None
        data, source = self._waiting.popleft()
        return data, len(data), source, 0

    def send(self, parts: Collection[Buffer], segment_size: int, destination: Endpoint) -> Unsent | None:
        data = b"".join(parts)
        size = segment_size or len(data)
        socket = self.sockets[_nearest(self.sockets, destination.host)]
        for at in range(0, len(data), size):
            socket.send(data[at : at + size], destination)
        return None


@dataclass(slots=True, eq=False)
class SimContainer:
    """A container on a host's bridge. Moves with `SimHost.move`."""

    name: str
    mac: Mac
    addresses: tuple[str, ...]
    host: SimHost | None
    received: list[bytes] = field(default_factory=list)  # whole frames
    questions: list[bytes] = field(default_factory=list)  # whole frames, of the router's own

    def send(self, destination: Mac, payload: bytes) -> None:
        """Put a frame on the bridge; it reaches the containers here that it fits, and the router where it must."""
        if self.host is not None:
            self.host.from_container(self, destination + self.mac + FRAME_TYPE + payload)

    def payloads(self) -> list[bytes]:
        return [frame[14:] for frame in self.received]


class SimHost:
    """One host: its identity, boot counter and remembered hosts survive `kill`, all else begins anew at `start`.

    `also`: more addresses of it, of either family.
    """

    def __init__(
        self,
        net: SimNetwork,
        name: str,
        address: str,
        key: MeshKey,
        *,
        also: Collection[str] = (),
        targets: Collection[str] = (),
        discovery: bool = True,
        rekey_s: float = 120.0,
        advertise: tuple[Endpoint, ...] = (),
        signer: Callable[[Identity], Signer] | None = None,
        verifier: Verifier = verify_signature,
    ) -> None:
        self.net = net
        self.name = name
        self.address = address
        self.addresses = (address, *also)
        self.key = key
        self.boot = 0
        self.answers: list[Answer] = []  # to node.ask
        self.remembered: dict[HostId, tuple[Endpoint, ...]] = {}
        self.targets = tuple(targets)
        self._discovery = discovery
        self._rekey_s = rekey_s
        self._advertise = advertise
        self._rng = random.Random(f"{name}/{net.rng.random()}")
        self.identity = Identity.generate(self._rng.randbytes)
        self._signer = signer
        self._verifier = verifier
        self.containers: list[SimContainer] = []
        self.running = False
        self.node: Node
        self.engine: Engine
        self._frames = MemoryFrames()
        self._streams: dict[LinkId, Stream] = {}
        self._timer: Timer | None = None
        self._pumping = False
        self._late: list[Callable[[float], object]] | None = None  # what a paused process has not seen yet
        net.add_host(name, *self.addresses)

    @property
    def host_id(self) -> HostId:
        return self.identity.host_id

    @property
    def now(self) -> float:
        return self.net.clock.now

    # ── life

    def start(self) -> None:
        self.boot += 1
        self.running = True
        self._frames = MemoryFrames()
        self._ports = {family: SimPort(family, self._pump_soon) for family in sorted(set(map(_family, self.addresses)))}
        for address in self.addresses:
            port = self._ports[_family(address)]
            port.sockets[address] = self.net.bind_udp(Endpoint(address, DEFAULT_PORT), port.deliver)
        config = NodeConfig(
            name=host_name(self.host_id),
            nickname=self.name,
            version="sim",
            advertise=self._advertise,
            endpoints=self.addresses,
            own_addresses=frozenset({*self.addresses, "127.0.0.1"}),
            discovery=self._discovery,
            rekey_interval_s=self._rekey_s,
        )
        self.node = Node(
            config,
            self.identity,
            self.key,
            boot=self.boot,
            targets=self.targets,
            make_engine=self._make_engine,
            entropy=self._rng.randbytes,
            rng=random.Random(self._rng.random()),
            now=self.now,
            signer=self._signer(self.identity) if self._signer is not None else None,
            verifier=self._verifier,
            remembered=self.remembered,
        )
        for address in self.addresses:
            self.net.listen(Endpoint(address, DEFAULT_PORT), self._accept)
        for container in self.containers:
            self._announce(container)
        self._run(self.node.handle_timer)

    def _make_engine(self, upcalls: Upcalls) -> Engine:
        self.engine = PythonEngine(
            self._frames,
            tuple(self._ports.values()),
            upcalls,
            origin=short_id(self.host_id),
            boot=self.boot,
            clock=lambda: self.net.clock.now,
        )
        return self.engine

    def stop(self) -> None:
        """An orderly end: the peers are told."""
        self.node.leave(self.now)
        self._carry_out()
        self._end()
        self.net.clock.call_later(0.0, lambda: self.net.kill(self.name) if not self.running else None)

    def kill(self) -> None:
        """The process is gone, and nobody was told."""
        self._end()
        self.net.kill(self.name)

    def _end(self) -> None:
        self.running = False
        self._streams.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause(self) -> None:
        """The process is stopped (SIGSTOP), or all of the machine; the kernel keeps what comes meanwhile, streams stay open."""
        self._late = []

    def resume(self) -> None:
        """It goes on; what has come is read before its timers are looked at, the worse order of the two."""
        late, self._late = self._late or [], None
        self._pump()
        for work in late:
            self._run(work)

    # ── containers

    def attach(self, name: str, addresses: tuple[str, ...] = (), mac: Mac | None = None) -> SimContainer:
        made = mac or Mac(b"\x02" + self._rng.randbytes(5))
        container = SimContainer(name=name, mac=made, addresses=addresses, host=self)
        self.containers.append(container)
        if self.running:
            self._announce(container)
        return container

    def _announce(self, container: SimContainer) -> None:
        self.node.attach(
            container.name, label=container.name, mac=container.mac, addresses=container.addresses, now=self.now
        )
        self._run(self.node.handle_timer)

    def detach(self, container: SimContainer) -> None:
        self.containers.remove(container)
        container.host = None
        if self.running:
            self.node.detach(container.name, self.now)
            self._run(self.node.handle_timer)

    def move(self, container: SimContainer, to: SimHost) -> None:
        """Live migration: the same MAC and addresses, on another host."""
        self.detach(container)
        container.host = to
        to.containers.append(container)
        to._announce(container)

    def from_container(self, sender: SimContainer, frame: bytes) -> None:
        destination = frame[:6]
        local = [other for other in self.containers if other is not sender and other.mac == destination]
        if is_multicast(destination):
            local = [other for other in self.containers if other is not sender]
        for other in local:
            other.received.append(frame)
        if (not local or is_multicast(destination)) and self.running:
            self._frames.to_engine.append(_NO_OFFLOAD + frame)
            self._pump_soon()

    def _deliver(self) -> None:
        for written in self._frames.take():
            frame = written[VNET_SIZE:]
            for container in self.containers:
                if container.mac == frame[:6] or (is_multicast(frame[:6]) and container.mac != frame[6:12]):
                    own = frame[6:12] == self.node.layer2.mac
                    (container.questions if own else container.received).append(frame)

    # ── the driver

    def _pump_soon(self) -> None:
        if not self._pumping and self._late is None:
            self._pumping = True
            self.net.clock.call_later(0.0, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if not self.running or self._late is not None:
            return
        if self._timer is not None and self.now > self._timer.when + LATE_S:
            self.node.handle_timer(self.now)
        more = self.engine.pump_frames(self.now)
        for port in self._ports.values():
            more = self.engine.pump_datagrams(port, self.now) or more
        self._carry_out()
        if more:
            self._pump_soon()

    def wake(self) -> None:
        """The node was told something from outside."""
        self._run(self.node.handle_timer)

    def _run(self, work: Callable[[float], object]) -> None:
        if self.running and self._late is not None:
            self._late.append(work)
        elif self.running:
            work(self.now)
            self._carry_out()

    def _carry_out(self) -> None:
        node = self.node
        if node.noted:
            node.handle_timer(self.now)
        while node.touched:
            for output in node.poll_transmit(self.now, self._backlog):
                self._do(output)
        self._deliver()
        if self.running:
            self._arm(node.next_deadline(self.now))

    def _do(self, output: object) -> None:
        match output:
            case SendLink(link=link, data=data) if link in self._streams:
                self._streams[link].write(data)
            case DialLink(link=link, endpoint=endpoint):
                self._dial(link, endpoint)
            case CloseLink(link=link) if link in self._streams:
                self._streams.pop(link).close()
            case Resolve(target=target, host=host):
                address = self.net.hosts.get(host, ())
                self.net.clock.call_later(
                    0.001, lambda: self._run(lambda now: self.node.resolved(target, address, "", now))
                )
            case PersistBoot(at_least=at_least):
                self.boot = max(self.boot + 1, at_least)
                self.node.boot_raised(self.boot, self.now)
            case RememberHosts(hosts=hosts):
                self.remembered = dict(hosts)
            case Answered(answer=answer):
                self.answers.append(answer)

    def _dial(self, link: LinkId, endpoint: Endpoint) -> None:
        mine = [address for address in self.addresses if _family(address) == _family(endpoint.host)]
        if mine:
            self._streams[link] = self.net.dial(_nearest(mine, endpoint.host), endpoint, _Events(self, link))
        else:
            self.net.clock.call_later(
                0.0, lambda: self._run(lambda now: self.node.link_failed(link, "network is unreachable", now))
            )

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.net.clock.call_at(max(deadline, self.now), lambda: self._run(self.node.handle_timer))

    def _backlog(self, link: LinkId) -> int:
        stream = self._streams.get(link)
        return stream.pending if stream is not None else 0

    def _accept(self, stream: Stream) -> StreamEvents | None:
        if not self.running or self._late is not None:
            return None
        link = self.node.link_accepted(stream.remote, self.now)
        self._streams[link] = stream
        self._carry_out()
        return _Events(self, link)

    def stream_ended(self, link: LinkId) -> bool:
        return self._streams.pop(link, None) is not None


class _Events(StreamEvents):
    """What happens on one stream, told to its host's node."""

    def __init__(self, host: SimHost, link: LinkId) -> None:
        self._host = host
        self._link = link

    def connected(self) -> None:
        self._host._run(lambda now: self._host.node.link_connected(self._link, now))

    def failed(self, error: str) -> None:
        self._host.stream_ended(self._link)
        self._host._run(lambda now: self._host.node.link_failed(self._link, error, now))

    def received(self, data: bytes) -> None:
        self._host._run(lambda now: self._host.node.receive_link(self._link, data, now))

    def lost(self, error: str) -> None:
        if self._host.stream_ended(self._link):
            self._host._run(lambda now: self._host.node.link_lost(self._link, error, now))
