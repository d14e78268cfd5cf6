"""Memory devices: a frame port and a datagram network for engines in one process, under the test's hand.

`MemoryFrames` is a TAP without a kernel: what is put into it is read by the engine, what the engine writes is kept.
`MemoryNetwork` joins `MemoryPort`s by endpoint; every datagram passes `fault`, which may drop, copy or change it. Datagrams
wait until they are received.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from meshd.drops import DropReason, Unsent
from meshd.ids import Endpoint

__all__ = ["Fault", "MemoryFrames", "MemoryNetwork", "MemoryPort"]

Buffer = bytes | bytearray | memoryview
Fault = Callable[[Endpoint, Endpoint, bytes], Iterable[bytes]]  # source, destination, datagram → what arrives
MAX_QUEUED = 4096
MAX_GROUP = 64000
NO_FILE = -1


class MemoryFrames:
    """A FramePort; both directions carry vnet header and frame. `up` False: writes are refused, as by a TAP that is down."""

    def __init__(self) -> None:
        self.to_engine: deque[bytes] = deque()
        self.from_engine: list[bytes] = []
        self.up = True

    def fileno(self) -> int:
        return NO_FILE

    def read(self) -> memoryview | None:
        return memoryview(bytearray(self.to_engine.popleft())) if self.to_engine else None

    def write(self, parts: Sequence[Buffer]) -> bool:
        if self.up:
            self.from_engine.append(b"".join(parts))
        return self.up

    def take(self) -> list[bytes]:
        """What the engine has written since the last call."""
        taken, self.from_engine = self.from_engine, []
        return taken


class MemoryNetwork:
    """Ports by endpoint. A datagram to an endpoint that is not there is lost, as one to a closed port."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self._ports: dict[Endpoint, MemoryPort] = {}

    def port(self, endpoint: Endpoint) -> MemoryPort:
        """A new port at this endpoint."""
        port = self._ports[endpoint] = MemoryPort(endpoint, self)
        return port

    def carry(self, source: Endpoint, destination: Endpoint, datagram: bytes) -> None:
        arriving = [datagram] if self.fault is None else self.fault(source, destination, datagram)
        for data in arriving:
            if (port := self._ports.get(destination)) is not None:
                port.deliver(data, source)


class MemoryPort:
    """A DatagramPort. Equal datagrams of one source that wait together are received together, as by UDP_GRO, if `group` is set."""

    def __init__(self, endpoint: Endpoint, network: MemoryNetwork) -> None:
        self.family = 6 if ":" in endpoint.host else 4
        self.endpoint = endpoint
        self.group = True
        self.refuse: DropReason | None = None  # what `send` answers while set
        self.room: dict[Endpoint, int] = {}  # how many more datagrams it takes for these; then its queue is full
        self.sent: list[list[bytes]] = []  # the datagrams of each call of `send`
        self.overflow = 0
        self._network = network
        self._waiting: deque[tuple[bytes, Endpoint]] = deque()

    def fileno(self) -> int:
        return NO_FILE

    def deliver(self, data: bytes, source: Endpoint) -> None:
        """A datagram arrives; an overfull queue loses it and counts."""
        if len(self._waiting) >= MAX_QUEUED:
            self.overflow += 1
        elif data:
            self._waiting.append((data, source))

    def receive(self) -> tuple[bytes, int, Endpoint, int] | None:
        if not self._waiting:
            return None
        first, source = self._waiting.popleft()
        size, together = len(first), [first]
        while self.group and self._waiting and len(together[-1]) == size and (len(together) + 1) * size <= MAX_GROUP:
            data, other = self._waiting[0]
            if other != source or len(data) > size:
                break
            together.append(data)
            self._waiting.popleft()
        return b"".join(together), size, source, self.overflow

    def send(self, parts: Sequence[Buffer], segment_size: int, destination: Endpoint) -> Unsent | None:
        joined = b"".join(parts)
        size = segment_size or len(joined)
        if self.refuse is not None:
            return Unsent(self.refuse, -(-len(joined) // size))
        datagrams = [joined[at : at + size] for at in range(0, len(joined), size)]
        sent = datagrams[: self.room.get(destination, len(datagrams))]
        if destination in self.room:
            self.room[destination] -= len(sent)
        if sent:
            self.sent.append(sent)
        for datagram in sent:
            self._network.carry(self.endpoint, destination, datagram)
        return Unsent(DropReason.QUEUE_FULL, len(datagrams) - len(sent)) if len(sent) < len(datagrams) else None
