"""TCP streams for the control links: accept, dial, pass bytes on. What the bytes mean is `gossip.link`'s business.

Accepting is bounded before a byte is read (docs/protocol.md, "Gate"): a bucket of ACCEPT_BURST tokens, one more every
ACCEPT_INTERVAL_S, and at most MAX_STREAMS streams; over that a connection is closed at once, unanswered. The 5 s deadline of an
unfinished handshake and the cap on half-open links are the node's, which knows when a link is ready.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Protocol, cast

from meshd.errors import UserError
from meshd.ids import Endpoint, LinkId
from meshd.net.scope import host_of

__all__ = [
    "ACCEPT_BURST",
    "ACCEPT_INTERVAL_S",
    "DIAL_TIMEOUT_S",
    "MAX_STREAMS",
    "LinkEvents",
    "Streams",
    "describe_error",
]

ACCEPT_BURST = 20
ACCEPT_INTERVAL_S = 0.05
DIAL_TIMEOUT_S = 5.0
MAX_STREAMS = 512
_BACKLOG = 128
_SEGMENT_SIZE = 512  # with 40 B of headers the floor of path MTU probing (forward/pmtu.py)
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class LinkEvents(Protocol):
    """What the shell is told. `accepted` answers the link's number, or None to refuse it."""

    def accepted(self, source: Endpoint) -> LinkId | None: ...

    def connected(self, link: LinkId, local: Endpoint) -> None: ...

    def failed(self, link: LinkId, error: str) -> None:
        """A dial came to nothing; the link never was."""
        ...

    def received(self, link: LinkId, data: bytes) -> None: ...

    def lost(self, link: LinkId, error: str) -> None:
        """The other end, or the network, ended a stream that was up. Not called after `Streams.close`."""
        ...

    def refused(self) -> None:
        """A connection was closed at once, over the limits."""
        ...


def describe_error(error: BaseException) -> str:
    """The short form in which listings show why a dial failed: `connection refused`, `no route to host`."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    if isinstance(error, TimeoutError):  # ours, of the dial: the kernel's has a number
        return "no answer within 5 s"
    return str(error) or type(error).__name__


def _endpoint(address: object) -> Endpoint:
    """A socket name as an endpoint; an IPv4 address that came in over an IPv6 socket is shown as IPv4."""
    if isinstance(address, tuple) and len(address) >= 2:
        host = host_of(address)
        return Endpoint(host.removeprefix("::ffff:") if "." in host.partition("%")[0] else host, int(address[1]))
    return Endpoint("0.0.0.0", 0)


class _Stream(asyncio.Protocol):
    """One TCP stream; hands everything to its owner, keeps nothing."""

    def __init__(self, owner: Streams, link: LinkId | None) -> None:
        self._owner = owner
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.ended = ""  # why, once it has

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(
            asyncio.Transport, transport
        )  # the loop's contract for TCP; uvloop's class is no subclass
        stream_socket = transport.get_extra_info("socket")
        if stream_socket is not None:
            stream_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.link is None:
            self.link = self._owner.admit(self, _endpoint(transport.get_extra_info("peername")))

    def data_received(self, data: bytes) -> None:
        if self.link is not None:
            self._owner.events.received(self.link, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = describe_error(exc) if exc else "closed by the other end"
        if self.link is not None:
            self._owner.gone(self.link, self.ended)


class Streams:
    """All control streams of one router. Must be made and used on the running loop's thread."""

    def __init__(self, events: LinkEvents, clock: Callable[[], float]) -> None:
        self.events = events
        self._clock = clock
        self._streams: dict[LinkId, _Stream] = {}
        self._dials: dict[LinkId, asyncio.Task[None]] = {}
        self._servers: list[asyncio.Server] = []
        self._tokens = float(ACCEPT_BURST)
        self._refilled = clock()

    async def listen(self, host: str | None, port: int) -> None:
        """Accept on this address (None: all of both families). Raises UserError when the port is taken or the address not ours."""
        loop = asyncio.get_running_loop()
        for family, address in _listen_addresses(host):
            try:
                listener = _listener(family, address, port)
            except OSError as error:
                if family == socket.AF_INET6 and host is None and error.errno in _NO_IPV6:
                    continue
                raise _listen_error(error, address, port) from error
            self._servers.append(await loop.create_server(lambda: _Stream(self, None), sock=listener))

    def dial(self, link: LinkId, endpoint: Endpoint) -> None:
        """Begin to connect; `connected` or `failed` follows."""
        task = asyncio.get_running_loop().create_task(self._dial(link, endpoint))
        self._dials[link] = task

    async def _dial(self, link: LinkId, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        stream = _Stream(self, link)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await loop.create_connection(lambda: stream, endpoint.host, endpoint.port)
            error = stream.ended  # the other end, full, may have closed it before we look
        except OSError as failure:
            error = describe_error(failure)
        finally:
            wanted = self._dials.pop(link, None) is not None  # else it was closed meanwhile
            if stream.transport is not None and not wanted:
                stream.transport.abort()
        if wanted and error:
            self.events.failed(link, error)
        elif wanted and stream.transport is not None:
            self._streams[link] = stream
            self.events.connected(link, _endpoint(stream.transport.get_extra_info("sockname")))

    def admit(self, stream: _Stream, source: Endpoint) -> LinkId | None:
        """Take in an accepted stream, or close it: over the accept budget, over MAX_STREAMS, or refused by the node."""
        now = self._clock()
        self._tokens = min(float(ACCEPT_BURST), self._tokens + (now - self._refilled) / ACCEPT_INTERVAL_S)
        self._refilled = now
        if self._tokens >= 1 and len(self._streams) < MAX_STREAMS:
            self._tokens -= 1
            link = self.events.accepted(source)
            if link is not None:
                self._streams[link] = stream
                return link
        else:
            self.events.refused()
        if stream.transport is not None:
            stream.transport.abort()
        return None

    def gone(self, link: LinkId, error: str) -> None:
        if self._streams.pop(link, None) is not None:
            self.events.lost(link, error)

    def send(self, link: LinkId, data: bytes) -> None:
        stream = self._streams.get(link)
        if stream is not None and stream.transport is not None:
            stream.transport.write(data)

    def backlog(self, link: LinkId) -> int:
        """Bytes that wait in this stream's send buffer."""
        stream = self._streams.get(link)
        return stream.transport.get_write_buffer_size() if stream is not None and stream.transport is not None else 0

    def close(self, link: LinkId) -> None:
        """End a stream or a dial; what was sent before still goes out. No event follows."""
        dial = self._dials.pop(link, None)
        if dial is not None:
            dial.cancel()
        stream = self._streams.pop(link, None)
        if stream is not None and stream.transport is not None:
            stream.transport.close()

    async def shutdown(self) -> None:
        """Close every server, dial and stream; waits until the dials have ended."""
        for server in self._servers:
            server.close()
        dials = list(self._dials.values())
        for link in [*self._dials, *self._streams]:
            self.close(link)
        await asyncio.gather(*dials, return_exceptions=True)


def _listener(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """Bound and listening. Raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # For both directions of what it accepts: segments this small pass wherever data does, so no MTU hole stops a link.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_SIZE)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_addresses(host: str | None) -> list[tuple[socket.AddressFamily, str]]:
    if host is None:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    return [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]


def _listen_error(error: OSError, address: str, port: int) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"TCP port {port} is taken by another program", hint="choose another with --port, or stop that program"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UserError(f"{address} is not an address of this host", hint="give --host one of them")
    return UserError(f"cannot listen on TCP {address} port {port}: {describe_error(error)}")
