"""Control streams on loopback, on the loop that the router runs on: limits of accepting, dials that fail, ends of every kind."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from meshd.errors import UserError
from meshd.ids import Endpoint, LinkId
from meshd.net import tcp
from meshd.net.tcp import ACCEPT_BURST, ACCEPT_INTERVAL_S, Streams, describe_error

HOST = "127.0.0.1"


class Events:
    """Notes what the shell is told; numbers accepted links from 1000 on."""

    def __init__(self) -> None:
        self.log: list[tuple[str, object]] = []
        self.data: dict[LinkId, bytes] = {}
        self.accepting = True
        self.turned_away = 0
        self.sources: list[Endpoint] = []
        self._numbers = itertools.count(1000)
        self._changed = asyncio.Event()

    def _note(self, what: str, detail: object) -> None:
        self.log.append((what, detail))
        self._changed.set()

    def accepted(self, source: Endpoint) -> LinkId | None:
        self.sources.append(source)
        link = LinkId(next(self._numbers)) if self.accepting else None
        self._note("accepted", link)
        return link

    def connected(self, link: LinkId, local: Endpoint) -> None:
        self._note("connected", link)

    def failed(self, link: LinkId, error: str) -> None:
        self._note("failed", (link, error))

    def received(self, link: LinkId, data: bytes) -> None:
        self.data[link] = self.data.get(link, b"") + data
        self._changed.set()

    def lost(self, link: LinkId, error: str) -> None:
        self._note("lost", (link, error))

    def refused(self) -> None:
        self.turned_away += 1
        self._changed.set()

    def of(self, what: str) -> list[object]:
        return [detail for kind, detail in self.log if kind == what]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Side:
    """One router's streams."""

    def __init__(self) -> None:
        self.events = Events()
        self.clock = Clock()
        self.streams = Streams(self.events, self.clock)
        self.port = 0

    async def listen(self) -> Endpoint:
        self.port = free_port()
        await self.streams.listen(HOST, self.port)
        return Endpoint(HOST, self.port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def run(test: Callable[[Side, Side], Awaitable[None]]) -> None:
    """Run with two sides, which are shut down after it; a callback that raises fails the test."""
    failures: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        one, other = Side(), Side()
        try:
            await test(one, other)
        finally:
            await one.streams.shutdown()
            await other.streams.shutdown()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert failures == []


async def joined(one: Side, other: Side) -> tuple[LinkId, LinkId]:
    """A stream from one to other: its numbers on both sides."""
    one.streams.dial(LinkId(1), await other.listen())
    await one.events.until(lambda: bool(one.events.of("connected")))
    await other.events.until(lambda: bool(other.events.of("accepted")))
    return LinkId(1), LinkId(1000)


def test_bytes_go_both_ways_in_order() -> None:
    async def test(one: Side, other: Side) -> None:
        here, there = await joined(one, other)
        block = os.urandom(1 << 20)
        for at in range(0, len(block), 50_000):
            one.streams.send(here, block[at : at + 50_000])
        other.streams.send(there, b"answer")
        await other.events.until(lambda: len(other.events.data.get(there, b"")) == len(block))
        await one.events.until(lambda: here in one.events.data)
        assert other.events.data[there] == block
        assert one.events.data[here] == b"answer"

    run(test)


def test_what_was_sent_before_a_close_arrives() -> None:
    async def test(one: Side, other: Side) -> None:
        here, there = await joined(one, other)
        block = bytes(300_000)
        one.streams.send(here, block)
        one.streams.close(here)
        await other.events.until(lambda: bool(other.events.of("lost")))
        assert other.events.data[there] == block
        assert other.events.of("lost") == [(there, "closed by the other end")]
        assert one.events.of("lost") == []  # its own doing

    run(test)


def test_a_slow_reader_shows_in_the_backlog() -> None:
    async def test(one: Side, other: Side) -> None:
        here, there = await joined(one, other)
        transport = other.streams._streams[there].transport
        assert transport is not None
        transport.pause_reading()
        assert one.streams.backlog(here) == 0
        one.streams.send(here, bytes(32 << 20))
        assert one.streams.backlog(here) > 1 << 20
        transport.resume_reading()
        await other.events.until(lambda: len(other.events.data.get(there, b"")) == 32 << 20)
        assert one.streams.backlog(here) == 0

    run(test)


def test_a_reset_is_a_loss() -> None:
    async def test(one: Side, other: Side) -> None:
        here, there = await joined(one, other)
        transport = other.streams._streams[there].transport
        assert transport is not None
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        transport.abort()
        await one.events.until(lambda: bool(one.events.of("lost")))
        assert one.events.of("lost") == [(here, "connection reset by peer")]
        one.streams.send(here, b"into the void")  # a link that is gone takes anything
        assert one.streams.backlog(here) == 0
        one.streams.close(here)

    run(test)


# ── dialling


def test_a_refused_dial() -> None:
    async def test(one: Side, _other: Side) -> None:
        one.streams.dial(LinkId(5), Endpoint(HOST, free_port()))
        await one.events.until(lambda: bool(one.events.log))
        assert one.events.log == [("failed", (5, "connection refused"))]
        assert one.streams._dials == {}

    run(test)


def test_a_dial_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full drops the SYN."""
    monkeypatch.setattr(tcp, "DIAL_TIMEOUT_S", 0.2)

    async def test(one: Side, _other: Side) -> None:
        with socket.socket() as full, socket.socket() as first, socket.socket() as second:
            full.bind((HOST, 0))
            full.listen(0)
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            one.streams.dial(LinkId(5), Endpoint(*full.getsockname()))
            await one.events.until(lambda: bool(one.events.log))
            assert one.events.log == [("failed", (5, "no answer within 5 s"))]

    run(test)


def test_a_dial_that_is_closed_says_nothing_and_leaves_nothing() -> None:
    async def test(one: Side, other: Side) -> None:
        endpoint = await other.listen()
        for turns in range(12):  # the close may come at every stage of the dial
            before = len(other.events.of("accepted"))
            one.streams.dial(LinkId(turns), endpoint)
            for _ in range(turns):
                await asyncio.sleep(0)
            one.streams.close(LinkId(turns))
            assert LinkId(turns) not in one.streams._dials
            await asyncio.sleep(0.02)  # what the dial had begun may still arrive
            if len(other.events.of("accepted")) > before:
                await other.events.until(lambda: len(other.events.of("lost")) == len(other.events.of("accepted")))
        assert one.events.of("failed") == one.events.of("lost") == []
        assert (one.streams._streams, one.streams._dials) == ({}, {})
        assert other.streams._streams == {}

    run(test)


def test_a_stream_that_ends_before_the_dial_is_done_is_a_failed_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(one: Side, other: Side) -> None:
        loop = asyncio.get_running_loop()
        other.events.accepting = False
        endpoint = await other.listen()

        class Slow:
            """The loop, with a connect that returns after what came with the connection."""

            async def create_connection(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> object:
                made = await loop.create_connection(factory, host, port)
                await asyncio.sleep(0.1)
                return made

        monkeypatch.setattr(asyncio, "get_running_loop", Slow)
        dial = one.streams._dial(LinkId(3), endpoint)
        one.streams._dials[LinkId(3)] = loop.create_task(dial)
        await one.events.until(lambda: bool(one.events.log))
        monkeypatch.undo()
        assert one.events.log == [("failed", (3, "closed by the other end"))]
        assert one.streams._streams == {}

    run(test)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "no answer within 5 s"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "connection timed out"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to host"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "connection refused"),
        (OSError("something else"), "something else"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_in_words(error: BaseException, text: str) -> None:
    assert describe_error(error) == text


# ── accepting


async def strangers(endpoint: Endpoint, count: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, endpoint)
        made.append(client)
    return made


async def is_closed(client: socket.socket) -> bool:
    try:
        return await asyncio.get_running_loop().sock_recv(client, 1) == b""
    except ConnectionResetError:
        return True


def test_a_burst_of_strangers_is_cut_and_comes_back_with_time() -> None:
    async def test(one: Side, _other: Side) -> None:
        endpoint = await one.listen()
        events = one.events
        clients = await strangers(endpoint, ACCEPT_BURST + 5)
        await events.until(lambda: len(events.of("accepted")) + events.turned_away == ACCEPT_BURST + 5)
        assert (len(events.of("accepted")), events.turned_away) == (ACCEPT_BURST, 5)
        for client in clients[ACCEPT_BURST:]:
            assert await is_closed(client)
        one.clock.now += 2.5 * ACCEPT_INTERVAL_S
        clients += await strangers(endpoint, 4)
        await events.until(lambda: len(events.of("accepted")) + events.turned_away == ACCEPT_BURST + 9)
        assert (len(events.of("accepted")), events.turned_away) == (ACCEPT_BURST + 2, 7)
        one.clock.now += 3600  # no more than a burst is saved up
        clients += await strangers(endpoint, ACCEPT_BURST + 1)
        await events.until(lambda: events.turned_away == 8)
        for client in clients:
            client.close()

    run(test)


def test_no_more_than_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_STREAMS", 3)

    async def test(one: Side, _other: Side) -> None:
        endpoint = await one.listen()
        clients = await strangers(endpoint, 4)
        await one.events.until(lambda: one.events.turned_away == 1)
        assert len(one.streams._streams) == 3
        clients.pop(0).close()
        await one.events.until(lambda: bool(one.events.of("lost")))
        clients += await strangers(endpoint, 1)
        await one.events.until(lambda: len(one.events.of("accepted")) == 4)
        for client in clients:
            client.close()

    run(test)


def test_whom_the_node_refuses_is_closed_and_counted_there_alone() -> None:
    async def test(one: Side, _other: Side) -> None:
        one.events.accepting = False
        (client,) = await strangers(await one.listen(), 1)
        assert await is_closed(client)
        client.close()
        assert one.events.log == [("accepted", None)]
        assert one.events.turned_away == 0
        assert one.streams._streams == {}

    run(test)


def test_both_families_and_how_their_addresses_are_shown() -> None:
    async def test(one: Side, other: Side) -> None:
        port = free_port()
        await other.streams.listen(None, port)
        one.streams.dial(LinkId(1), Endpoint("127.0.0.1", port))
        one.streams.dial(LinkId(2), Endpoint("::1", port))
        await one.events.until(lambda: len(one.events.of("connected")) == 2)
        await other.events.until(lambda: len(other.events.sources) == 2)
        assert {endpoint.host for endpoint in other.events.sources} == {"127.0.0.1", "::1"}

    run(test)


def test_a_port_that_is_taken_and_an_address_that_is_not_ours() -> None:
    async def test(one: Side, other: Side) -> None:
        endpoint = await one.listen()
        for host in (HOST, None):
            with pytest.raises(UserError, match=f"TCP port {endpoint.port} is taken") as refused:
                await other.streams.listen(host, endpoint.port)
            assert "--port" in refused.value.hint
        with pytest.raises(UserError, match="is not an address of this host"):
            await other.streams.listen("192.0.2.1", endpoint.port)

    run(test)


def test_a_host_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without(family: int = socket.AF_INET, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    async def test(one: Side, _other: Side) -> None:
        port = free_port()
        monkeypatch.setattr(socket, "socket", without)
        await one.streams.listen(None, port)
        with pytest.raises(UserError, match="cannot listen on TCP ::1"):
            await one.streams.listen("::1", port)
        monkeypatch.undo()
        assert len(one.streams._servers) == 1

    run(test)


def test_shutdown_ends_everything_and_says_nothing() -> None:
    async def test(one: Side, other: Side) -> None:
        await joined(one, other)
        one.streams.dial(LinkId(7), Endpoint("192.0.2.1", 9))
        before = list(one.events.log)
        await one.streams.shutdown()
        await other.events.until(lambda: bool(other.events.of("lost")))
        assert one.events.log == before
        assert (one.streams._streams, one.streams._dials) == ({}, {})
        endpoint = Endpoint(HOST, other.port)
        await other.streams.shutdown()
        one.streams.dial(LinkId(8), endpoint)
        await one.events.until(lambda: bool(one.events.of("failed")))
        assert one.events.of("failed") == [(8, "connection refused")]

    run(test)
