"""The driver: hangs engine and node on the event loop. One synchronous chain for each wake-up, one timer, nothing per packet.

    descriptor readable → engine.pump_… (≤ 1 ms or 1 MiB) → if the node was asked or told anything: carry out what it wants
    or, where the engine pumps by itself: upcalls waiting → engine.take_upcalls (≤ 1 ms) → the same
    timer               → node.handle_timer → the same

The loop's readers are level-triggered: what a pump left behind wakes it again, after the other descriptors had their turn, so the
two directions alternate by themselves.

An exception that reaches the driver is a bug of ours. It is logged and costs the wake-up that it happened in, never the timer: a
node that no longer ticks would look alive and be dead.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import functools
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from meshd.forward.engine.interface import DatagramPort, Engine, FramePort
from meshd.ids import Endpoint, HostId, LinkId, Mac
from meshd.net.scope import host_of
from meshd.net.tcp import Streams
from meshd.node import (
    LATE_S,
    Answered,
    BlockPort,
    CloseLink,
    DialLink,
    Node,
    PersistBoot,
    RememberHosts,
    Resolve,
    SendLink,
)
from meshd.node.queries import Answer
from meshd.views import LoopView

__all__ = ["MAX_RESOLUTIONS", "SLOW_CALLBACK_S", "Driver", "KnownHosts"]

_log = logging.getLogger(__name__)

SLOW_CALLBACK_S = 0.002
MAX_SIDE_DATAGRAMS = 64  # 0.3 ms; the last read may bring as many once more
MAX_RESOLUTIONS = 64  # names being looked up at one time; a further one waits for its next retry
RETRY_S = 0.1  # after a wake-up that failed, or an error of the frame port that nobody foresaw
LOG_EVERY_S = 10.0  # a bug that each packet meets must not fill the disk
_LAG_SAMPLES = 512
KnownHosts = tuple[tuple[HostId, tuple[Endpoint, ...]], ...]
_TAP_GONE = (errno.EBADFD, errno.EBADF, errno.ENODEV, errno.EIO)  # the last one while it is being deleted


class _Driven(Protocol):
    def __call__(self, now: float) -> object: ...


def _nothing(now: float) -> None:
    """Work for a wake-up that only carries out."""


class Driver:
    """Drives one node and its engine. Everything runs on the loop's thread. `clock` is the loop's monotonic time."""

    def __init__(
        self,
        *,
        node: Node,
        engine: Engine,
        frames: FramePort,
        ports: Sequence[DatagramPort],
        clock: Callable[[], float],
        tap_lost: Callable[[], None],
        persist_boot: Callable[[int], None],
        remember_hosts: Callable[[KnownHosts], None],
        answered: Callable[[Answer], None],
        side_ports: Sequence[DatagramPort] = (),
        steer: Callable[[tuple[str, ...]], None] = lambda members: None,
        block_port: Callable[[Mac], None] = lambda mac: None,
    ) -> None:
        self._node = node
        self._engine = engine
        self._frames = frames
        self._ports = ports
        self._side_ports = side_ports
        self._steer = steer
        self._members: tuple[str, ...] = ()
        self._overflows: dict[
            int, int
        ] = {}  # of the side ports, by descriptor: what the kernel had dropped at the last read
        self._clock = clock
        self._tap_lost = tap_lost
        self._persist_boot = persist_boot
        self._remember_hosts = remember_hosts
        self._block_port = block_port
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self.streams = Streams(self, clock)
        self._upcalls: int | None = None  # of an engine that pumps by itself: readable when it wants something
        self._timer: asyncio.TimerHandle | None = None
        self._look_again: asyncio.TimerHandle | None = None  # at the frame port, after an error
        self._armed = float("inf")
        self._lags: collections.deque[float] = collections.deque(maxlen=_LAG_SAMPLES)
        self._slow = 0
        self._resolutions: set[asyncio.Task[None]] = set()
        self._logged = float("-inf")
        self._closed = False

    # ── start and end

    def start(self) -> None:
        self._upcalls = self._engine.start()
        if self._upcalls is not None:
            self._loop.add_reader(self._upcalls, self._run, self._take_upcalls)
        else:
            self._watch_frames()
            for port in self._ports:
                self._loop.add_reader(port.fileno(), self._run, functools.partial(self._engine.pump_datagrams, port))
        for port in self._side_ports:
            self._loop.add_reader(port.fileno(), self._run, functools.partial(self._pump_side, port))
        self.wake()

    def drop_frames(self) -> None:
        """The TAP is going: stop reading it, before its descriptor is closed."""
        if self._look_again is not None:
            self._look_again.cancel()
        self._engine.drop_frames()
        if self._upcalls is None:
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(self._frames.fileno())

    def replace_frames(self, frames: FramePort) -> None:
        """The TAP was made anew."""
        self._frames = frames
        self._engine.replace_frames(frames)
        if self._upcalls is None:
            self._watch_frames()

    def _watch_frames(self) -> None:
        self._loop.add_reader(self._frames.fileno(), self._run, self._pump_frames)

    async def close(self) -> None:
        """Send what the node still has to say, then let go of everything."""
        self._guarded(self._carry_out, self._clock())
        self._closed = True
        self.drop_frames()
        if self._upcalls is not None:
            self._loop.remove_reader(self._upcalls)
        self._engine.stop()
        for port in (*self._ports, *self._side_ports):
            self._loop.remove_reader(port.fileno())
        if self._timer is not None:
            self._timer.cancel()
        for task in self._resolutions:
            task.cancel()
        await asyncio.gather(*self._resolutions, return_exceptions=True)
        await self.streams.shutdown()

    def wake(self) -> None:
        """The node was told something from outside (a command): let it act on it now."""
        self._run(self._node.handle_timer)

    def boot_raised(self, boot: int) -> None:
        self._run(functools.partial(self._node.boot_raised, boot))

    # ── wake-ups

    def _run(self, work: _Driven) -> None:
        if self._closed:
            return
        started = self._clock()
        if started > self._armed + LATE_S:
            self._guarded(self._node.handle_timer, started)
        if not (self._guarded(work, started) and self._guarded(self._carry_out, started)):
            self._arm(started + RETRY_S)
        if self._clock() - started > SLOW_CALLBACK_S:
            self._slow += 1

    def _guarded(self, work: _Driven, now: float) -> bool:
        try:
            work(now=now)
        except Exception:
            if now >= self._logged + LOG_EVERY_S:
                self._logged = now
                _log.exception("a bug in the router: it goes on without this step")
            return False
        return True

    def _pump_frames(self, now: float) -> None:
        try:
            self._engine.pump_frames(now)
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # a captured interface; libuv has stopped to watch what showed an error
                self.drop_frames()
                self._watch_frames()
                return
            self._frames_failed(error)

    def _take_upcalls(self, now: float) -> None:
        try:
            self._engine.take_upcalls(now)
        except OSError as error:
            self._frames_failed(error)

    def _frames_failed(self, error: OSError) -> None:
        """Whoever watched the port (libuv, the engine's thread) may do so no longer, whatever the error was."""
        self.drop_frames()
        if error.errno not in _TAP_GONE:
            self._look_again = self._loop.call_later(RETRY_S, self.replace_frames, self._frames)
            raise error
        self._tap_lost()

    def _pump_side(self, port: DatagramPort, now: float) -> None:
        """Handshakes, few at a time: what else is readable has its turn before the next ones."""
        left = MAX_SIDE_DATAGRAMS
        while left > 0 and (received := port.receive()) is not None:
            data, size, source, overflow = received
            left -= -(-len(data) // size)
            lost = (overflow - self._overflows.get(port.fileno(), 0)) & 0xFFFFFFFF
            self._overflows[port.fileno()] = overflow
            self._node.receive_handshakes(data, size, source, lost, now)

    def _timer_due(self) -> None:
        self._lags.append(max(0.0, self._clock() - self._armed))
        self._armed = float("inf")
        self._run(self._node.handle_timer)

    def _carry_out(self, now: float) -> None:
        """What the node wants done, until it wants nothing; then the one timer."""
        node = self._node
        if node.noted:
            node.handle_timer(now)
        if not node.touched:
            return
        if node.acquainted is not self._members:
            self._members = node.acquainted
            self._steer(self._members)
        for output in node.poll_transmit(now, self.streams.backlog):
            match output:
                case SendLink(link=link, data=data):
                    self.streams.send(link, data)
                case DialLink(link=link, endpoint=endpoint):
                    self.streams.dial(link, endpoint)
                case CloseLink(link=link):
                    self.streams.close(link)
                case Resolve(target=target, host=host):
                    self._resolve(target, host)
                case PersistBoot(at_least=at_least):
                    self._persist_boot(at_least)
                case RememberHosts(hosts=hosts):
                    self._remember_hosts(hosts)
                case BlockPort(mac=mac):
                    self._block_port(mac)
                case Answered(answer=answer):
                    self._answered(answer)
        self._arm(node.next_deadline(now))

    def _arm(self, deadline: float) -> None:
        if deadline == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = deadline
        self._engine.pump_until(deadline + LATE_S)
        self._timer = self._loop.call_later(max(0.0, deadline - self._clock()), self._timer_due)

    # ── control streams (LinkEvents)

    def accepted(self, source: Endpoint) -> LinkId:
        """The answer comes first: what the node wants done with this link must find its stream."""
        link = self._node.link_accepted(source, self._clock())
        self._loop.call_soon(self._run, _nothing)
        return link

    def connected(self, link: LinkId, local: Endpoint) -> None:
        self._run(functools.partial(self._node.link_connected, link))

    def failed(self, link: LinkId, error: str) -> None:
        self._run(functools.partial(self._node.link_failed, link, error))

    def received(self, link: LinkId, data: bytes) -> None:
        self._run(functools.partial(self._node.receive_link, link, data))

    def lost(self, link: LinkId, error: str) -> None:
        self._run(functools.partial(self._node.link_lost, link, error))

    def refused(self) -> None:
        self._node.link_refused()

    # ── names

    def _resolve(self, target: str, host: str) -> None:
        if len(self._resolutions) >= MAX_RESOLUTIONS:  # later: we are within `_carry_out`, whose order must hold
            refusal = functools.partial(self._node.resolved, target, (), "too many names are being looked up")
            self._loop.call_soon(self._run, refusal)
            return
        task = self._loop.create_task(self._look_up(target, host))
        self._resolutions.add(task)
        task.add_done_callback(self._resolutions.discard)

    async def _look_up(self, target: str, host: str) -> None:
        error = ""
        addresses: list[str] = []
        try:
            found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(host_of(entry[4]) for entry in found))
        except socket.gaierror as failure:
            error = f"lookup {host}: {failure.strerror or 'failed'}".lower()
        except (OSError, UnicodeError) as failure:
            error = f"lookup {host}: {failure}"
        self._run(functools.partial(self._node.resolved, target, tuple(addresses), error))

    # ── how the loop is doing

    def loop_view(self) -> LoopView:
        lags = sorted(self._lags)
        p99 = lags[min(len(lags) - 1, int(len(lags) * 0.99))] if lags else 0.0
        return LoopView(lag_p99_ms=round(p99 * 1000, 3), slow_callbacks=self._slow)
