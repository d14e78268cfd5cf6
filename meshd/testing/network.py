"""A network in memory: UDP and TCP between simulated hosts on a virtual clock, as bad as wanted, the same in every run.

Nothing here knows meshd; whoever composes a host puts its node, engine and devices on top:

    net = SimNetwork(seed=1)                                       # net.clock is its VirtualClock
    net.add_host("a", "10.0.0.1")                                  # a name for conditions and cuts; one or more addresses
    net.add_host("b", "10.0.0.2", "fd00::2")
    socket = net.bind_udp(Endpoint("10.0.0.1", 6783), on_datagram) # on_datagram(data, source); from now on
    socket.send(b"…", Endpoint("10.0.0.2", 6783))                  # arrives later, never within this call
    net.listen(Endpoint("10.0.0.2", 6783), on_accept)              # on_accept(stream) → StreamEvents, or None to refuse
    stream = net.dial("10.0.0.1", Endpoint("10.0.0.2", 6783), events)   # events.connected() or .failed(error) follows
    net.topology.set_pair("a", "b", LinkConditions(delay=0.02, jitter=0.005, loss=0.05))
    net.topology.cut("a", "b"); net.topology.partition(["a"], ["b"]); net.topology.heal()
    net.hooks.append(lambda source, destination, data: [data, data])    # each UDP datagram as sent → those that go on
    net.nats.append(Nat("192.0.2.7", ["10.0.0.1"]))                     # UDP of this host is seen from there
    net.kill("b")                                                  # the process is gone: sockets closed, streams reset
    net.clock.run_for(5); net.clock.wait_for(lambda: …, timeout=5)
    net.trace.digest(), net.trace.counts, net.trace.observers      # what happened; what an eavesdropper sees

Callbacks run within `clock.step`, one at a time, and may call anything here again. All chance comes from one generator seeded
with `seed`, drawn in the order of events, and nothing iterates over a set: same seed and same inputs, same run, whatever
PYTHONHASHSEED is. There is no bandwidth: queues belong to the hosts. One host's own addresses reach each other without
conditions.

Event kinds: udp sent, lost, cut, too big, hooked (a hook took it away), translated (a NAT did), flipped,
duplicated, unreachable, in; tcp syn, connected, accepted, failed: …, data, in, stall, fin, reset, lost: …
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence

from meshd.errors import LocalProtocolError
from meshd.ids import Endpoint
from meshd.testing.clock import VirtualClock
from meshd.testing.conditions import REORDER_HOLD, LinkConditions, Topology
from meshd.testing.nat import Nat
from meshd.testing.streams import Accept, Stream, StreamEvents, Streams
from meshd.testing.trace import Trace, TraceEvent

__all__ = ["FIRST_EPHEMERAL", "Hook", "LinkConditions", "Receiver", "SimNetwork", "UdpSocket"]

FIRST_EPHEMERAL = 32_768  # as Linux's ip_local_port_range
_LAST_EPHEMERAL = 60_999
_OVERHEAD_V4, _OVERHEAD_V6 = 28, 48  # IP and UDP headers

Receiver = Callable[[bytes, Endpoint], None]
Hook = Callable[[Endpoint, Endpoint, bytes], Sequence[bytes]]


class UdpSocket:
    """One bound endpoint. After `close` sends are an error and what arrives is unreachable."""

    def __init__(self, net: SimNetwork, local: Endpoint, receiver: Receiver) -> None:
        self.local = local
        self.receiver = receiver
        self._net = net

    def send(self, data: bytes | bytearray | memoryview, destination: Endpoint) -> None:
        """Send a copy of `data`. Never blocks and never tells what became of it."""
        if not self._net.is_bound(self):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._net.send_udp(self.local, destination, bytes(data))

    def close(self) -> None:
        self._net.unbind(self)


class SimNetwork:
    """See the text at the top of this file."""

    def __init__(self, seed: int, clock: VirtualClock | None = None, default: LinkConditions | None = None) -> None:
        self.clock = clock if clock is not None else VirtualClock()
        self.rng = random.Random(seed)
        self.topology = Topology(default if default is not None else LinkConditions())
        self.trace = Trace()
        self.hooks: list[Hook] = []
        self.nats: list[Nat] = []
        self.hosts: dict[str, tuple[str, ...]] = {}  # addresses by name
        self._names: dict[str, str] = {}  # names by address
        self._udp: dict[Endpoint, UdpSocket] = {}
        self._streams = Streams(self)
        self._ephemeral = FIRST_EPHEMERAL

    # hosts

    def add_host(self, name: str, *addresses: str) -> None:
        """Raises LocalProtocolError for a name or an address that is there already."""
        if name in self.hosts or any(address in self._names for address in addresses):
            raise LocalProtocolError(f"host {name} or one of its addresses {addresses} is there already")
        self.hosts[name] = addresses
        self._names.update(dict.fromkeys(addresses, name))

    def host_of(self, address: str) -> str | None:
        return self._names.get(address)

    def kill(self, name: str) -> None:
        """The process of this host ends without a word: sockets closed, streams reset where the network lets it be known.

        For a host that loses its power, `topology.isolate` it first: then nobody is told anything.
        """
        for address in self.hosts[name]:
            for endpoint in [endpoint for endpoint in self._udp if endpoint.host == address]:
                del self._udp[endpoint]
            self._streams.unlisten_all(address)
            for stream in self._streams.of(address):
                stream.abort()

    # UDP

    def bind_udp(self, local: Endpoint, receiver: Receiver) -> UdpSocket:
        """Raises OSError as a kernel does: EADDRNOTAVAIL, EADDRINUSE."""
        self._check_local(local.host)
        if local in self._udp:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        socket = self._udp[local] = UdpSocket(self, local, receiver)
        return socket

    def is_bound(self, socket: UdpSocket) -> bool:
        return self._udp.get(socket.local) is socket

    def unbind(self, socket: UdpSocket) -> None:
        if self.is_bound(socket):
            del self._udp[socket.local]

    def send_udp(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        """Send from any source, also one that is nobody's: what an attacker, or a NAT in between, can do."""
        self.note("udp sent", source, destination, data)
        datagrams = [data]
        for hook in self.hooks:
            datagrams = [out for datagram in datagrams for out in hook(source, destination, datagram)]
        if not datagrams:
            self.note("udp hooked", source, destination, data)
        ends: tuple[Endpoint, Endpoint] | None = source, destination
        for nat in self.nats:
            ends = nat.translate(*ends) if ends is not None else None
        for datagram in datagrams:
            if ends is None:
                self.note("udp translated", source, destination, datagram)
            else:
                self._forward(*ends, datagram)

    def _forward(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        if destination.host not in self._names:
            self.note("udp unreachable", source, destination, data)
            return
        link, rng = self.conditions(source, destination), self.rng
        if len(data) + (_OVERHEAD_V6 if ":" in destination.host else _OVERHEAD_V4) > link.mtu:
            self.note("udp too big", source, destination, data)
        elif not self.passes(source, destination):
            self.note("udp cut", source, destination, data)
        elif rng.random() < link.loss:
            self.note("udp lost", source, destination, data)
        else:
            self._arrive_later(source, destination, data, link)
            if rng.random() < link.duplicate:
                self.note("udp duplicated", source, destination, data)
                self._arrive_later(source, destination, data, link)

    def _arrive_later(self, source: Endpoint, destination: Endpoint, data: bytes, link: LinkConditions) -> None:
        rng = self.rng
        if data and rng.random() < link.flip:
            data = _flip_bit(data, rng.randrange(8 * len(data)))
            self.note("udp flipped", source, destination, data)
        trip = link.delay + rng.uniform(0.0, link.jitter) + (REORDER_HOLD if rng.random() < link.reorder else 0.0)
        self.clock.call_later(trip, lambda: self._arrived(source, destination, data))

    def _arrived(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        socket = self._udp.get(destination)
        self.note("udp unreachable" if socket is None else "udp in", source, destination, data)
        if socket is not None:
            socket.receiver(data, source)

    # TCP

    def listen(self, local: Endpoint, accept: Accept) -> None:
        """Raises OSError as a kernel does: EADDRNOTAVAIL, EADDRINUSE."""
        self._check_local(local.host)
        if self._streams.listening(local):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._streams.listen(local, accept)

    def unlisten(self, local: Endpoint) -> None:
        """Accept no more; streams that are up stay."""
        self._streams.unlisten(local)

    def dial(self, source: str | Endpoint, destination: Endpoint, events: StreamEvents) -> Stream:
        """Begin to connect from an address (with a port of its own), or from an endpoint. Raises OSError: EADDRNOTAVAIL."""
        local = source if isinstance(source, Endpoint) else self._ephemeral_port(source)
        self._check_local(local.host)
        return self._streams.dial(local, destination, events)

    def streams(self, name: str) -> list[Stream]:
        """All streams and dials of a host, oldest first of each address."""
        return [stream for address in self.hosts[name] for stream in self._streams.of(address)]

    def _ephemeral_port(self, address: str) -> Endpoint:
        port = self._ephemeral
        self._ephemeral = FIRST_EPHEMERAL if port >= _LAST_EPHEMERAL else port + 1
        return Endpoint(address, port)

    # what streams ask (streams.Underlay)

    def passes(self, source: Endpoint, destination: Endpoint) -> bool:
        """Whether something sent now gets there; a source that is nobody's is on no side of any cut."""
        one, other = self._names.get(source.host), self._names.get(destination.host)
        return other is not None and (one is None or self.topology.passes(one, other))

    def conditions(self, source: Endpoint, destination: Endpoint) -> LinkConditions:
        one, other = self._names.get(source.host), self._names.get(destination.host)
        return self.topology.default if one is None or other is None else self.topology.conditions(one, other)

    def note(self, kind: str, source: Endpoint, destination: Endpoint, data: bytes = b"") -> None:
        self.trace.note(TraceEvent(self.clock.now, kind, source, destination, data))

    def _check_local(self, address: str) -> None:
        if address not in self._names:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _flip_bit(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)
