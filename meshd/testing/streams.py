"""TCP as applications see it, between simulated hosts: ordered bytes, in pieces that nobody chose, until the network ends them.

Packets are not modelled, their effects are:
  dial       a SYN at once, 1, 3 and 7 s later, each lost like a datagram; nobody listens: refused after one round trip; no
  answer within
             DIAL_TIMEOUT: failed
  data       what was written at one moment is joined, then cut anew at random; a lost segment is RETRANSMIT later, and all
  behind it cut        nothing passes when either direction is cut (data or its acknowledgement): the data waits and is tried
  again at growing intervals;
             after STALL_TIMEOUT without success the writing end is told, the other one learns nothing
  close      the peer gets all data, then `lost`
  abort      the peer gets `lost` at once, unless the network is cut: then it has half a connection, and is told when it next
  writes
An end that writes nothing never notices a cut, as on the wire. Writes never block; `Stream.pending` is what has not been sent
yet.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from meshd.errors import LocalProtocolError
from meshd.ids import Endpoint
from meshd.testing.clock import Timer, VirtualClock
from meshd.testing.conditions import LinkConditions

__all__ = [
    "CLOSED",
    "DIAL_TIMEOUT",
    "REFUSED",
    "RESET",
    "RETRANSMIT",
    "STALL_TIMEOUT",
    "SYN_TIMES",
    "TIMED_OUT",
    "Accept",
    "Stream",
    "StreamEvents",
    "Streams",
    "Underlay",
]

DIAL_TIMEOUT = 10.0
SYN_TIMES = (0.0, 1.0, 3.0, 7.0)
RETRANSMIT = 0.2
STALL_TIMEOUT = 30.0
_MAX_RETRY = 5.0
_MAX_PIECES = 4  # of the data of one moment

REFUSED = "connection refused"
TIMED_OUT = "connection timed out"
RESET = "connection reset by peer"
CLOSED = "closed by the other end"


class StreamEvents(Protocol):
    """What one end is told. After `failed` or `lost`, and after its own `close` or `abort`, nothing more."""

    def connected(self) -> None:
        """A dialled stream is up (not called on accepted ones)."""
        ...

    def failed(self, error: str) -> None:
        """A dial came to nothing."""
        ...

    def received(self, data: bytes) -> None: ...

    def lost(self, error: str) -> None:
        """A stream that was up ended, by the other end or by the network."""
        ...


class Underlay(Protocol):
    """What streams need to know of the network."""

    clock: VirtualClock
    rng: random.Random

    def passes(self, source: Endpoint, destination: Endpoint) -> bool: ...

    def conditions(self, source: Endpoint, destination: Endpoint) -> LinkConditions: ...

    def note(self, kind: str, source: Endpoint, destination: Endpoint, data: bytes = b"") -> None: ...


Accept = Callable[["Stream"], StreamEvents | None]  # None: not wanted, it is reset


class Stream:
    """One end. Made by `Streams.dial` and for `Accept`; writing before `connected` or after the end is an error of the caller."""

    def __init__(self, owner: Streams, local: Endpoint, remote: Endpoint, events: StreamEvents | None) -> None:
        self.local = local
        self.remote = remote
        self.up = False
        self._owner = owner
        self._net = owner.net
        self._events = events
        self._peer: Stream | None = None
        self._written = bytearray()
        self._flush: Timer | None = None
        self._waiting: deque[bytes] = deque()  # pieces that cannot pass now; empty bytes: the end
        self._closing = False
        self._stall_ends = 0.0
        self._retry = 0.0
        self._last_arrival = 0.0

    @property
    def pending(self) -> int:
        """Bytes written that are not on their way yet."""
        return len(self._written) + sum(map(len, self._waiting))

    def write(self, data: bytes) -> None:
        if not self.up or self._closing:
            raise LocalProtocolError(f"write on a stream {self.local} to {self.remote} that is not up")
        self._written += data
        self._wake()

    def close(self) -> None:
        """Say no more and hear no more; what was written still goes out, then the peer's `lost`. Also ends a dial."""
        if self.up and not self._closing:
            self._closing = True
            self._wake()
        self._events = None
        if not self.up:
            self._owner.forget(self)

    def abort(self) -> None:
        """End at once; what is pending is lost."""
        if self.up:
            self._end(None)
            self._send_reset()
        self._events = None
        self._owner.forget(self)

    # sending

    def _wake(self) -> None:
        if self._flush is None:
            self._flush = self._net.clock.call_at(self._net.clock.now, self._flushed)

    def _flushed(self) -> None:
        self._flush = None
        blocked = bool(self._waiting)
        if self._written:
            self._waiting.extend(self._pieces(bytes(self._written)))
            self._written.clear()
        if self._closing and (not self._waiting or self._waiting[-1]):
            self._waiting.append(b"")
        if not blocked:
            self._transmit()

    def _pieces(self, data: bytes) -> list[bytes]:
        count = self._net.rng.randint(0, min(_MAX_PIECES, len(data)) - 1)
        cuts = sorted(self._net.rng.randrange(1, len(data)) for _ in range(count)) if len(data) > 1 else []
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]

    def _transmit(self) -> None:
        """Put what waits on the wire, or try again later."""
        if not self.up or not self._waiting:
            return
        net, now = self._net, self._net.clock.now
        if not (net.passes(self.local, self.remote) and net.passes(self.remote, self.local)):
            self._stall(now)
            return
        self._retry = 0.0
        while self._waiting:
            piece = self._waiting.popleft()
            self._net.note("tcp data" if piece else "tcp fin", self.local, self.remote, piece)
            self._arrive_later(self._trip(), piece)
        if self._closing:
            self._end(None)

    def _stall(self, now: float) -> None:
        if self._retry == 0.0:
            self._stall_ends = now + STALL_TIMEOUT
            self._net.note("tcp stall", self.local, self.remote)
        if now >= self._stall_ends:
            self._end(TIMED_OUT)
            return
        self._retry = min(_MAX_RETRY, 2 * self._retry or RETRANSMIT)
        self._net.clock.call_at(min(now + self._retry, self._stall_ends), self._transmit)

    def _trip(self) -> float:
        """The time one piece takes: delay, jitter, and one RETRANSMIT for each time it is lost."""
        link, rng = self._net.conditions(self.local, self.remote), self._net.rng
        trip = link.delay + rng.uniform(0.0, link.jitter)
        while link.loss and rng.random() < min(link.loss, 0.9):
            trip += RETRANSMIT
        return trip

    def _arrive_later(self, trip: float, piece: bytes) -> None:
        self._last_arrival = max(self._last_arrival, self._net.clock.now + trip)
        self._net.clock.call_at(self._last_arrival, lambda: self._arrived(piece))

    def _arrived(self, piece: bytes) -> None:
        peer = self._peer
        if peer is None or not peer.up:
            if piece:
                self._reset_back()
            return
        if not piece:
            peer._end(CLOSED)
        elif peer._events is not None:
            self._net.note("tcp in", self.local, self.remote, piece)
            peer._events.received(piece)

    def _reset_back(self) -> None:
        """The other host has no such connection and says so, if it can."""
        if self._net.passes(self.remote, self.local):
            delay = self._net.conditions(self.remote, self.local).delay
            self._net.clock.call_later(delay, lambda: self._end(RESET))

    def _send_reset(self) -> None:
        peer = self._peer
        if peer is not None and self._net.passes(self.local, self.remote):
            self._net.note("tcp reset", self.local, self.remote)
            self._net.clock.call_later(self._net.conditions(self.local, self.remote).delay, lambda: peer._end(RESET))

    # the ends of it

    def _connect(self, peer: Stream) -> None:
        self._peer = peer
        self.up = True

    def _end(self, error: str | None) -> None:
        """Down for good; tells the application unless it did it itself (None)."""
        if not self.up:
            return
        self.up = False
        self._waiting.clear()
        self._written.clear()
        self._owner.forget(self)
        events, self._events = self._events, None
        if events is not None and error is not None:
            self._net.note(f"tcp lost: {error}", self.local, self.remote)
            events.lost(error)

    def _fail(self, error: str) -> None:
        events, self._events = self._events, None
        self._owner.forget(self)
        if events is not None:
            self._net.note(f"tcp failed: {error}", self.local, self.remote)
            events.failed(error)


class Streams:
    """All listeners and streams of a simulated network."""

    def __init__(self, net: Underlay) -> None:
        self.net = net
        self._listeners: dict[Endpoint, Accept] = {}
        self._streams: dict[
            Stream, None
        ] = {}  # in the order of their making: a set's order would change from run to run

    def listen(self, endpoint: Endpoint, accept: Accept) -> None:
        """Raises LocalProtocolError where somebody listens already."""
        if endpoint in self._listeners:
            raise LocalProtocolError(f"somebody listens on {endpoint}")
        self._listeners[endpoint] = accept

    def listening(self, endpoint: Endpoint) -> bool:
        return endpoint in self._listeners

    def unlisten(self, endpoint: Endpoint) -> None:
        self._listeners.pop(endpoint, None)

    def unlisten_all(self, host: str) -> None:
        for endpoint in [endpoint for endpoint in self._listeners if endpoint.host == host]:
            del self._listeners[endpoint]

    def dial(self, source: Endpoint, destination: Endpoint, events: StreamEvents) -> Stream:
        """Begin to connect; `connected` or `failed` follows, never within this call."""
        stream = Stream(self, source, destination, events)
        self._streams[stream] = None
        for delay in SYN_TIMES:
            self.net.clock.call_later(delay, lambda: self._syn(stream))
        self.net.clock.call_later(DIAL_TIMEOUT, lambda: None if stream._peer else stream._fail(TIMED_OUT))
        return stream

    def of(self, host: str) -> list[Stream]:
        """The streams of one address, dials included, oldest first."""
        return [stream for stream in self._streams if stream.local.host == host]

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream, None)

    def _syn(self, stream: Stream) -> None:
        if stream not in self._streams or stream._peer is not None:
            return
        there, back = (stream.local, stream.remote), (stream.remote, stream.local)
        self.net.note("tcp syn", *there)
        out, home, rng = self.net.conditions(*there), self.net.conditions(*back), self.net.rng
        lost = rng.random() < out.loss or rng.random() < home.loss
        if lost or not (self.net.passes(*there) and self.net.passes(*back)):
            return
        self.net.clock.call_later(out.delay, lambda: self._syn_arrived(stream, home.delay))

    def _syn_arrived(self, stream: Stream, delay: float) -> None:
        if stream not in self._streams or stream._peer is not None:
            return
        if stream.remote not in self._listeners:
            self.net.clock.call_later(delay, lambda: None if stream._peer else stream._fail(REFUSED))
            return
        accepted = Stream(self, stream.remote, stream.local, None)
        stream._peer = accepted  # no other SYN of this dial counts from here on
        self.net.clock.call_later(delay, lambda: self._connected(stream, accepted))

    def _connected(self, stream: Stream, accepted: Stream) -> None:
        """The dialler has its SYN-ACK; the acknowledgement makes the connection on the listening side."""
        if stream not in self._streams:
            return
        stream._connect(accepted)
        trip = self.net.conditions(stream.local, stream.remote).delay
        stream._last_arrival = self.net.clock.now + trip
        self.net.clock.call_later(trip, lambda: self._accepted(stream, accepted))
        if stream._events is not None:
            self.net.note("tcp connected", stream.local, stream.remote)
            stream._events.connected()

    def _accepted(self, stream: Stream, accepted: Stream) -> None:
        accept = self._listeners.get(accepted.local)
        accepted._connect(stream)
        self._streams[accepted] = None
        self.net.note("tcp accepted", accepted.remote, accepted.local)
        events = accept(accepted) if accept is not None else None
        if events is None:
            accepted.abort()
        elif accepted.up and not accepted._closing:  # or `accept` has ended it already
            accepted._events = events
