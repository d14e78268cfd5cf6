"""The driver on the real loop, between a node and an engine that only note what they are asked."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import pytest
import uvloop

from meshd.daemon import driver as driving
from meshd.daemon.driver import MAX_RESOLUTIONS, Driver, KnownHosts
from meshd.forward.engine.interface import DatagramPort, Engine, FramePort
from meshd.ids import Endpoint, HostId, LinkId, Mac
from meshd.node import (
    LATE_S,
    Answered,
    CloseLink,
    DialLink,
    Node,
    Output,
    PersistBoot,
    RememberHosts,
    Resolve,
    SendLink,
)
from meshd.node.queries import Answer

FAR = 3600.0


class StubNode:
    """Keeps the contract of `meshd.node`: touched by what goes in, read by poll_transmit."""

    def __init__(self) -> None:
        self.touched = True
        self.noted = False
        self.deadline: float | None = None
        self.outputs: list[Output] = []
        self.log: list[tuple[Any, ...]] = []
        self.acquainted: tuple[str, ...] = ()
        self.changed = asyncio.Event()
        self.on_timer: Callable[[float], None] = lambda now: None

    def _note(self, *what: Any) -> None:
        self.touched = True
        self.log.append(what)
        self.changed.set()

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.log if entry[0] == kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def handle_timer(self, now: float) -> None:
        self.noted = False
        self._note("timer", now)
        self.on_timer(now)

    def poll_transmit(self, now: float, buffered: Callable[[LinkId], int]) -> list[Output]:
        assert self.touched, "asked for no reason"
        assert buffered(LinkId(999)) == 0
        self.touched = False
        self.log.append(("poll",))
        outputs, self.outputs = self.outputs, []
        return outputs

    def next_deadline(self, now: float) -> float:
        return now + FAR if self.deadline is None else self.deadline

    def link_accepted(self, source: Endpoint, now: float) -> LinkId | None:
        self._note("accepted", source.host)
        self.outputs.append(SendLink(LinkId(50), b"welcome"))
        return LinkId(50)

    def link_connected(self, link: LinkId, now: float) -> None:
        self._note("connected", link)

    def link_failed(self, link: LinkId, error: str, now: float) -> None:
        self._note("failed", link, error)

    def receive_link(self, link: LinkId, data: bytes, now: float) -> None:
        self._note("received", link, data)

    def link_lost(self, link: LinkId, error: str, now: float) -> None:
        self._note("lost", link, error)

    def link_refused(self) -> None:
        self._note("refused")

    def receive_handshakes(self, data: bytes, size: int, source: Endpoint, lost: int, now: float) -> None:
        self._note("handshakes", data, size, lost)

    def resolved(self, target: str, addresses: tuple[str, ...], error: str, now: float) -> None:
        self._note("resolved", target, addresses, error)

    def boot_raised(self, boot: int, now: float) -> None:
        self._note("boot", boot)


class StubEngine:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.datagrams: list[bytes] = []
        self.failure: Exception | None = None
        self.source: socket.socket | None = None
        self.then: Callable[[], None] = lambda: None
        self.limit = 100
        self.upcalls: socket.socket | None = None  # readable when it wants something; None: it is pumped
        self.taken = 0
        self.running = False
        self.reads_frames = True
        self.until = 0.0

    def start(self) -> int | None:
        self.running = True
        return self.upcalls.fileno() if self.upcalls is not None else None

    def pump_until(self, now: float) -> None:
        self.until = now

    def stop(self) -> None:
        self.running = False

    def drop_frames(self) -> None:
        self.reads_frames = False

    def take_upcalls(self, now: float) -> bool:
        assert self.upcalls is not None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.upcalls.recv(100)
        self.taken += 1
        self.then()
        return False

    def pump_frames(self, now: float) -> bool:
        if self.failure is not None:
            raise self.failure
        assert self.source is not None
        for _ in range(self.limit):
            try:
                self.frames.append(self.source.recv(100))
            except BlockingIOError:
                return False
            self.then()
        return True

    def pump_datagrams(self, port: Any, now: float) -> bool:
        if self.failure is not None:
            raise self.failure
        self.datagrams.append(port.recv(100))
        self.then()
        return False

    def set_mirror(self, mirror: Any) -> None: ...

    def replace_frames(self, frames: Any) -> None:
        self.source, self.reads_frames = frames, True


class SidePort:
    """A side port: each datagram of a socket pair is one read; the kernel loses two more between two reads."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.overflow = 0
        self.grouped = 1  # in one read

    def fileno(self) -> int:
        return self.near.fileno()

    def receive(self) -> tuple[bytes, int, Endpoint, int] | None:
        try:
            data = self.near.recv(100)
        except BlockingIOError:
            return None
        self.overflow += 2
        return data, len(data) // self.grouped, Endpoint("192.0.2.1", 1), self.overflow


class Bench:
    """Driver, node, engine, and the far ends of its TAP and its UDP socket."""

    def __init__(self) -> None:
        self.node = StubNode()
        self.engine = StubEngine()
        self.tap, self.frames = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire, self.port = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.tap, self.frames, self.wire, self.port):
            end.setblocking(False)
        self.engine.source = self.frames
        self.lost = 0
        self.boots: list[int] = []
        self.hosts: list[KnownHosts] = []
        self.blocked: list[Mac] = []
        self.answers: list[Answer] = []
        self.clock: Callable[[], float] = time.monotonic
        self.side_port = SidePort()
        self.steered: list[tuple[str, ...]] = []
        self.driver = Driver(
            node=cast(Node, self.node),
            engine=cast(Engine, self.engine),
            frames=cast(FramePort, self.frames),
            ports=[cast(DatagramPort, self.port)],
            clock=lambda: self.clock(),
            tap_lost=self.tap_lost,
            persist_boot=self.boots.append,
            remember_hosts=self.hosts.append,
            block_port=self.blocked.append,
            answered=self.answers.append,
            side_ports=[cast(DatagramPort, self.side_port)],
            steer=self.steered.append,
        )

    def tap_lost(self) -> None:
        self.lost += 1
        self.node.changed.set()

    async def close(self) -> None:
        await self.driver.close()
        for end in (self.tap, self.frames, self.wire, self.port, self.side_port.near, self.side_port.far):
            end.close()

    def ask(self, *outputs: Output) -> None:
        """The node wants these at the next wake-up, which is now."""
        self.node.outputs += outputs
        self.driver.wake()


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    failures: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        bench = Bench()
        try:
            await test(bench)
        finally:
            await bench.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert failures == []


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def spin_until(condition: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


# ── wake-ups


def test_frames_and_datagrams_wake_the_engine_and_not_the_node() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.start()
        bench.node.log.clear()
        for word in (b"one", b"two", b"three"):
            bench.tap.send(word)
            bench.wire.send(word)
        await spin_until(lambda: len(bench.engine.frames) + len(bench.engine.datagrams) == 6)
        assert bench.engine.frames == bench.engine.datagrams == [b"one", b"two", b"three"]
        assert bench.node.log == []  # nothing per packet

    run(test)


def test_what_a_pump_leaves_behind_wakes_it_again_after_the_other_direction() -> None:
    async def test(bench: Bench) -> None:
        order: list[str] = []
        bench.engine.limit = 1
        bench.engine.then = lambda: order.append(
            "frame" if len(bench.engine.frames) > order.count("frame") else "datagram"
        )
        for _ in range(3):
            bench.tap.send(b"x")
            bench.wire.send(b"y")
        bench.driver.start()
        await spin_until(lambda: len(order) == 6)
        assert {order[at] for at in (0, 1)} == {order[at] for at in (2, 3)} == {"frame", "datagram"}

    run(test)


def test_what_an_upcall_noted_is_done_right_after_the_pump() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.start()
        bench.node.log.clear()

        def note() -> None:
            bench.node.noted = True

        bench.engine.then = note
        bench.wire.send(b"handshake")
        await bench.node.until(lambda: bool(bench.node.log))
        assert [entry[0] for entry in bench.node.log] == ["timer", "poll"]

    run(test)


def test_one_timer_at_the_nodes_deadline() -> None:
    async def test(bench: Bench) -> None:
        node = bench.node
        bench.driver.start()
        assert len(node.of("timer")) == 1
        node.deadline = bench.clock() + 0.05

        def tick(now: float) -> None:
            node.deadline = now + (0.02 if len(node.of("timer")) < 5 else FAR)

        node.on_timer = tick
        bench.driver.wake()
        begun = node.of("timer")[1][0]
        await node.until(lambda: len(node.of("timer")) == 5)
        times = [when for (when,) in node.of("timer")]
        assert all(times[at + 1] - times[at] >= 0.019 for at in range(1, 4)), begun
        assert bench.driver.loop_view().lag_p99_ms >= 0
        assert len(bench.driver._lags) == 3

    run(test)


def test_an_earlier_deadline_replaces_the_timer_and_the_same_one_does_not() -> None:
    async def test(bench: Bench) -> None:
        node = bench.node
        node.deadline = bench.clock() + FAR
        bench.driver.start()
        timer = bench.driver._timer
        bench.driver.wake()
        assert bench.driver._timer is timer
        node.deadline = bench.clock()
        node.on_timer = lambda now: setattr(node, "deadline", now + FAR) if len(node.of("timer")) > 3 else None
        bench.driver.wake()
        assert timer is not None
        assert timer.cancelled()
        await node.until(lambda: len(node.of("timer")) == 4)

    run(test)


def test_after_standing_still_the_timer_comes_before_what_has_arrived_meanwhile() -> None:
    async def test(bench: Bench) -> None:
        now = bench.clock()
        bench.clock = lambda: now
        for late, order in ((LATE_S + 1, ["timer", "lost"]), (LATE_S / 2, ["lost"])):
            bench.node.deadline = now + FAR
            bench.driver.wake()
            bench.node.log.clear()
            now += FAR + late
            bench.driver.lost(LinkId(1), "closed by the other end")
            assert [entry[0] for entry in bench.node.log if entry[0] != "poll"] == order

    run(test)


def test_slow_callbacks_are_counted() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.start()
        now = [bench.clock()]
        bench.clock = lambda: now[0]
        before = bench.driver.loop_view().slow_callbacks
        bench.driver.wake()
        assert bench.driver.loop_view().slow_callbacks == before
        bench.node.on_timer = lambda _now: now.__setitem__(0, now[0] + 0.0021)
        bench.driver.wake()
        assert bench.driver.loop_view().slow_callbacks == before + 1

    run(test)


# ── bugs and losses


def test_a_lost_tap_is_told_once_and_read_no_more() -> None:
    async def test(bench: Bench) -> None:
        for code in (errno.EBADFD, errno.ENODEV, errno.EBADF, errno.EIO):
            bench.engine.failure = OSError(code, "gone")
            bench.driver.replace_frames(cast(FramePort, bench.frames))
            bench.tap.send(b"the device is gone")
            await bench.node.until(lambda: bench.lost > 0)
            await turns(20)
            assert bench.lost == 1
            bench.lost = 0

    run(test)


def test_an_interface_that_went_down_is_read_on() -> None:
    """libuv stops to watch a descriptor that showed an error: it has to be told again."""

    async def test(bench: Bench) -> None:
        bench.engine.failure = OSError(errno.ENETDOWN, "down")
        bench.driver.start()
        bench.tap.send(b"wakes it")
        await turns(20)
        bench.engine.failure = None
        await spin_until(lambda: bool(bench.engine.frames))
        assert bench.lost == 0

    run(test)


def test_an_error_that_nobody_foresaw_does_not_end_reading(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal on a connected UDP socket is such a one; with it libuv stops to watch, as with any error that poll shows."""
    monkeypatch.setattr(driving, "RETRY_S", 0.001)

    async def test(bench: Bench) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.setblocking(False)
            near.bind(("127.0.0.1", 0))
            far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            far.bind(("127.0.0.1", 0))
            place = far.getsockname()
            near.connect(place)
            bench.driver.start()
            bench.driver.drop_frames()
            bench.driver.replace_frames(cast(FramePort, near))
            far.close()
            near.send(b"nobody is there")
            await spin_until(lambda: "refused" in caplog.text)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
                far.bind(place)
                far.sendto(b"frame", near.getsockname())
                await spin_until(lambda: bench.engine.frames == [b"frame"])
            assert bench.lost == 0
            bench.driver.drop_frames()

    run(test)


def test_nor_that_of_an_engine_that_pumps_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "RETRY_S", 0.001)

    async def test(bench: Bench) -> None:
        far, bench.engine.upcalls = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        bench.engine.upcalls.setblocking(False)
        bench.driver.start()
        bench.engine.failure = OSError(errno.EPERM, "no idea")
        bench.engine.reads_frames = False  # it has stopped
        far.send(b"look")
        await spin_until(lambda: bench.engine.reads_frames)
        bench.engine.failure = OSError(errno.EPERM, "no idea")
        bench.engine.reads_frames = False
        far.send(b"look")
        await spin_until(lambda: bench.engine.failure is None)
        bench.driver.drop_frames()  # the TAP is closed before the time is over: it is not looked at again
        bench.frames.close()
        await asyncio.sleep(2 * driving.RETRY_S)  # a timer for that would be due before
        assert not bench.engine.reads_frames
        await bench.driver.close()
        far.close()
        bench.engine.upcalls.close()

    run(test)


def test_an_engine_that_pumps_by_itself_is_only_asked_what_it_wants() -> None:
    async def test(bench: Bench) -> None:
        far, bench.engine.upcalls = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        bench.engine.upcalls.setblocking(False)
        bench.driver.start()
        bench.tap.send(b"frame")
        bench.wire.send(b"datagram")
        far.send(b"wanted")
        await spin_until(lambda: bench.engine.taken == 1)
        assert bench.engine.until == bench.driver._armed + LATE_S
        await turns(20)
        assert bench.engine.frames == bench.engine.datagrams == []
        bench.engine.failure = OSError(errno.EBADFD, "gone")
        far.send(b"the device is gone")
        await bench.node.until(lambda: bench.lost == 1)
        assert not bench.engine.reads_frames
        bench.driver.replace_frames(cast(FramePort, bench.frames))
        await spin_until(lambda: bench.engine.taken == 2)
        assert (bench.lost, bench.engine.reads_frames, bench.engine.frames) == (1, True, [])
        await bench.driver.close()
        assert not bench.engine.running
        far.close()
        bench.engine.upcalls.close()

    run(test)


def test_a_new_tap_takes_the_old_ones_place() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.start()
        far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        bench.driver.drop_frames()
        bench.frames.close()
        bench.driver.drop_frames()  # again, now that it is closed: no matter
        bench.driver.replace_frames(cast(FramePort, near))
        far.send(b"through the new one")
        await spin_until(lambda: bool(bench.engine.frames))
        bench.driver.drop_frames()
        far.close()
        near.close()

    run(test)


def test_a_bug_costs_a_step_and_not_the_timer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(driving, "RETRY_S", 0.001)

    async def test(bench: Bench) -> None:
        node = bench.node

        def fail(now: float) -> None:
            if len(node.of("timer")) < 5:
                raise ZeroDivisionError

        node.on_timer = fail
        bench.driver.start()
        await node.until(lambda: len(node.of("timer")) == 5)
        bench.engine.failure = RuntimeError("a bug in the engine")
        bench.wire.send(b"x")
        await turns(20)
        bench.engine.failure = None
        await spin_until(lambda: bool(bench.engine.datagrams))

    with caplog.at_level(logging.ERROR):
        run(test)
    assert caplog.text.count("a bug in the router") == 1  # of many: the log is not flooded
    assert "ZeroDivisionError" in caplog.text


def test_closing_lets_go_of_everything() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.start()
        known = ((HostId(b"h" * 16), (Endpoint("192.0.2.1", 6783),)),)
        answer = Answer(1, None, None)
        bench.node.outputs += [PersistBoot(9), RememberHosts(known), Answered(answer)]
        bench.node.touched = True
        await bench.driver.close()
        assert (bench.boots, bench.hosts, bench.answers) == ([9], [known], [answer])  # what it still had to say
        bench.node.log.clear()
        bench.tap.send(b"x")
        bench.wire.send(b"y")
        bench.driver.wake()
        bench.driver.boot_raised(3)
        await turns(20)
        assert bench.node.log == []
        assert bench.engine.frames == bench.engine.datagrams == []

    run(test)


def test_closing_before_the_start() -> None:
    async def test(bench: Bench) -> None:
        await bench.driver.close()

    run(test)


def test_handshakes_have_ports_of_their_own_and_what_these_lost_is_told() -> None:
    async def test(bench: Bench) -> None:
        for number in range(3):
            bench.side_port.far.send(bytes((number,)))
        bench.driver.start()
        await bench.node.until(lambda: len(bench.node.of("handshakes")) == 3)
        assert bench.node.of("handshakes") == [(bytes((number,)), 1, 2) for number in range(3)]
        assert bench.engine.datagrams == []

    run(test)


def test_few_handshakes_are_read_at_a_time_however_many_come_in_one_read() -> None:
    """The kernel puts equal ones of one source together, 64 of them."""

    async def test(bench: Bench) -> None:
        bench.side_port.grouped = driving.MAX_SIDE_DATAGRAMS // 2 + 1
        for _ in range(4):
            bench.side_port.far.send(bytes(bench.side_port.grouped))
        bench.driver._pump_side(cast(DatagramPort, bench.side_port), 1.0)
        assert len(bench.node.of("handshakes")) == 2

    run(test)


def test_the_ports_are_told_of_members_once_for_each_change() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.start()
        for members in (("10.0.0.1",), ("10.0.0.1", "10.0.0.2")):
            bench.node.acquainted = members
            bench.driver.wake()
            bench.driver.wake()
        assert bench.steered == [("10.0.0.1",), ("10.0.0.1", "10.0.0.2")]

    run(test)


# ── control streams


def test_streams_are_dialled_written_and_closed_as_the_node_wants() -> None:
    async def test(bench: Bench) -> None:
        node = bench.node
        bench.driver.start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        await bench.driver.streams.listen("127.0.0.1", port)
        bench.ask(DialLink(LinkId(1), Endpoint("127.0.0.1", port)))
        await node.until(lambda: bool(node.of("connected")) and bool(node.of("accepted")))
        # the node's first word on an accepted link is not lost, though it was said before the link had a stream
        await node.until(lambda: (1, b"welcome") in node.of("received"))
        bench.ask(SendLink(LinkId(1), b"a"), SendLink(LinkId(1), b"b"), CloseLink(LinkId(1)))
        await node.until(lambda: bool(node.of("lost")))
        assert b"".join(data for link, data in node.of("received") if link == 50) == b"ab"
        assert node.of("lost") == [(50, "closed by the other end")]
        bench.ask(DialLink(LinkId(2), Endpoint("127.0.0.1", 9)))
        await node.until(lambda: bool(node.of("failed")))
        assert node.of("failed") == [(2, "connection refused")]
        bench.driver.refused()
        assert node.of("refused") == [()]

    run(test)


# ── names


class Resolver:
    """In the place of the loop's getaddrinfo."""

    def __init__(self, answer: Iterable[str] | Exception) -> None:
        self.answer = answer

    async def __call__(self, host: str, port: None, **_: Any) -> list[Any]:
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return [(2, 1, 6, "", (address, 0)) for address in self.answer]


class Loop:
    """The loop, with another resolver: uvloop's own cannot be replaced."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resolver: Any) -> None:
        self._loop = loop
        self.getaddrinfo = resolver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@pytest.mark.parametrize(
    ("answer", "addresses", "error"),
    [
        (["10.0.0.2", "10.0.0.2", "fd00::2"], ("10.0.0.2", "fd00::2"), ""),
        (socket.gaierror(-2, "Name or service not known"), (), "lookup host2: name or service not known"),
        (socket.gaierror(-3), (), "lookup host2: failed"),
        (OSError("strange"), (), "lookup host2: strange"),
        (UnicodeError("label too long"), (), "lookup host2: label too long"),
    ],
)
def test_names_are_looked_up(answer: Any, addresses: tuple[str, ...], error: str) -> None:
    async def test(bench: Bench) -> None:
        bench.driver._loop = cast(Any, Loop(asyncio.get_running_loop(), Resolver(answer)))
        bench.ask(Resolve("host2:7000", "host2"))
        await bench.node.until(lambda: bool(bench.node.of("resolved")))
        assert bench.node.of("resolved") == [("host2:7000", addresses, error)]
        await turns()
        assert bench.driver._resolutions == set()

    run(test)


def test_too_many_names_at_once_are_refused_after_all_that_was_wanted() -> None:
    async def test(bench: Bench) -> None:
        stuck: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def never(*_: Any, **__: Any) -> Any:
            return await stuck

        bench.driver._loop = cast(Any, Loop(asyncio.get_running_loop(), never))
        names = [Resolve(f"host{number}", f"host{number}") for number in range(MAX_RESOLUTIONS + 2)]
        bench.ask(*names, PersistBoot(77))
        assert bench.boots == [77]
        assert bench.node.of("resolved") == []  # not from within: what follows in the list comes first
        await bench.node.until(lambda: len(bench.node.of("resolved")) == 2)
        assert [error for _, _, error in bench.node.of("resolved")] == ["too many names are being looked up"] * 2
        await bench.driver.close()
        assert bench.driver._resolutions == set()

    run(test)


def test_a_numeric_address_with_the_real_resolver() -> None:
    async def test(bench: Bench) -> None:
        bench.ask(Resolve("t", "127.0.0.1"))
        await bench.node.until(lambda: bool(bench.node.of("resolved")))
        assert bench.node.of("resolved") == [("t", ("127.0.0.1",), "")]

    run(test)


# ── the boot counter


def test_the_boot_counter_goes_out_to_disk_and_back() -> None:
    async def test(bench: Bench) -> None:
        bench.ask(PersistBoot(12))
        assert bench.boots == [12]
        bench.driver.boot_raised(12)
        assert bench.node.of("boot") == [(12,)]
        assert not bench.node.touched  # and what follows from it was carried out

    run(test)
