"""The pump in a thread of its own: real descriptors, the loop's part played by the test."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from meshd.crypto.aead import Suite
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.forward.engine.interface import Engine, Verdict
from meshd.forward.engine.native import _core
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.slots import FIRST_PEER, drop_slot
from meshd.ids import Address, Mac, Relayed, ShortId, SlotId
from meshd.testing.devices import MemoryFrames
from tests.engine.pair import NOW, ScriptedUpcalls
from tests.engine.reference import capture, complete, cut, super_frame, tcp, udp, unfinished
from tests.engine.test_native_io import SO_NO_CHECK, Host, SocketFrames, Wire, leave_error

PEER, OTHER = FIRST_PEER, SlotId(FIRST_PEER + 1)
WAIT_S = 20.0
FIRST, SECOND = unfinished(tcp(b"first")), unfinished(tcp(b"second"))
OTHER_KEY, RELAY_KEY = b"\x33" * 32, b"\x44" * 32
KEY_PLACES = 4096  # KEY_BUCKETS of engine.h
PACKET = tcp(bytes(58_000))
SUPER, CUT = super_frame(PACKET, 1306), cut(PACKET, 1306)


class Loop:
    """Serves the upcalls of started engines, as the driver does."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.engines: dict[int, ThreadedEngine] = {}

    def start(self, host: Host) -> None:
        assert isinstance(host.engine, ThreadedEngine)
        fd = host.engine.start()
        self.poll.register(fd, select.POLLIN)
        self.engines[fd] = host.engine

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, "nothing came of it"
            self.once(5)

    def once(self, wait_ms: int = 0) -> None:
        for fd, _ in self.poll.poll(wait_ms):
            self.engines[fd].take_upcalls(NOW)

    def idle(self) -> bool:
        return not self.poll.poll(0)


class Threads(Wire):
    """a and b pump by themselves."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(4, ThreadedEngine, stack)
        self.loop = Loop()
        self.got: list[bytes] = []
        for host in (self.a, self.b):
            stack.callback(host.engine.stop)
            self.loop.start(host)

    def carry(self, *captures: bytes) -> list[bytes]:
        """Frames from a's bridge to b's, until as many are there as there should be."""
        for data in captures:
            self.a.frames.far.send(data)
        return self.arrive(sum(map(frames_in, captures)))

    def arrive(self, count: int) -> list[bytes]:
        got: list[bytes] = []

        def enough() -> bool:
            got.extend(frame for written in self.b.frames.take() for frame in complete(written))
            return len(got) >= count

        self.loop.until(enough)
        return got


def frames_in(data: bytes) -> int:
    return len(CUT) if data == SUPER else 1


@pytest.fixture
def threads() -> Iterator[Threads]:
    with ExitStack() as stack:
        yield Threads(stack)


def test_misses_go_by_the_loop_and_hits_do_not(threads: Threads) -> None:
    assert threads.carry(FIRST, FIRST) == [bytes(tcp(b"first"))] * 2
    threads.loop.until(threads.loop.idle)
    asked = len(threads.a.upcalls.asked_outbound), len(threads.b.upcalls.asked_inbound)
    assert asked == (1, 1)
    assert threads.b.upcalls.confirmed == [1]
    threads.loop.poll = select.poll()  # from now on nobody serves the upcalls
    assert threads.carry(SECOND, SUPER, SECOND) == [bytes(tcp(b"second")), *CUT, bytes(tcp(b"second"))]
    frames = 2 + 1 + len(CUT) + 1
    assert threads.a.engine.sent(PEER).frames_out == threads.b.engine.peer_counters()[PEER].frames_in == frames
    assert threads.a.engine.drops.as_dict() == threads.b.engine.drops.as_dict() == {}


def test_what_waits_behind_an_error_is_received(threads: Threads) -> None:
    core = threads.b.engine.core
    core.hold()  # the thread sees both, or the error is gone before the datagram is there
    with leave_error(threads.b.port._socket):
        core.release()
        threads.loop.until(lambda: bool(threads.b.upcalls.handshakes))
    assert [data for data, _ in threads.b.upcalls.handshakes] == [b"\x11 behind the error"]


def test_a_port_that_is_always_readable_and_never_has_anything_is_looked_at_now_and_then(threads: Threads) -> None:
    """Shut down, a socket is said to be readable for ever; datagrams come in nevertheless."""
    core = threads.b.engine.core
    threads.warm()
    with contextlib.suppress(OSError):  # not connected: said, and done
        threads.b.port._socket.shutdown(socket.SHUT_RD)
    threads.loop.until(lambda: core.in_vain(0)[1] >= 3)
    in_vain, rests = core.in_vain(0)
    assert in_vain <= _core.MAX_IN_VAIN + rests  # it looks once between two rests
    for _ in range(3):
        assert threads.carry(FIRST, SUPER) == [bytes(tcp(b"first")), *CUT]
    threads.loop.until(lambda: core.in_vain(0)[1] >= rests + 3)
    assert threads.b.engine.drops.as_dict() == {}


def test_an_odd_frame_is_not_overtaken_by_those_of_its_flow(threads: Threads) -> None:
    """A segment that is larger than the path is cut by Python; the next frames of the flow wait behind it."""
    threads.warm()
    threads.join(600)
    threads.warm()
    big, small = tcp(bytes(range(250)) * 4), tcp(b"small")
    fits = 600 - 34 - 54
    batch = [small, big, small, small, big, small]
    for data in batch:
        threads.a.frames.far.send(unfinished(data))
    pieces = [cut(big, fits) if data is big else [bytes(small)] for data in batch]
    assert threads.arrive(sum(map(len, pieces))) == [piece for one in pieces for piece in one]


def test_nothing_overtakes_a_send_that_the_kernel_would_not_cut(threads: Threads) -> None:
    """Without checksums there is no UDP_SEGMENT; that is found out while the loop is busy."""
    threads.warm()
    threads.loop.until(threads.loop.idle)
    threads.a.port._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    threads.loop.poll = select.poll()
    assert threads.carry(SUPER, SECOND) == [*CUT, bytes(tcp(b"second"))]


def test_control_and_handshakes_reach_the_node(threads: Threads) -> None:
    threads.warm()
    assert threads.a.engine.send_control(PEER, b"\x01probe")
    threads.a.engine.send_datagram(b"\x11hello", threads.b.port.local)
    threads.loop.until(lambda: bool(threads.b.upcalls.handshakes and threads.b.upcalls.controls))
    assert threads.b.upcalls.handshakes == [(b"\x11hello", threads.a.port.local)]
    assert [control[3:] for control in threads.b.upcalls.controls] == [(b"\x01probe", threads.a.port.local)]


def test_control_was_the_newest_when_it_came_whatever_came_while_it_waited(threads: Threads) -> None:
    """Under load something always does: a peer that has moved would never be heard at its new place."""
    threads.warm()
    threads.loop.until(threads.loop.idle)
    for _ in range(2):  # a hit behind it: once it is there, the probe waits in the queue
        assert threads.a.engine.send_control(PEER, b"\x01probe")
        threads.a.frames.far.send(SECOND)
        assert select.select([threads.b.frames.far], [], [], WAIT_S)[0]
        threads.b.frames.take()
    threads.loop.until(lambda: len(threads.b.upcalls.controls) == 2)
    assert threads.b.upcalls.newest == [True, True]


def test_what_comes_while_a_relayed_handshake_is_read_came_by_itself(threads: Threads) -> None:
    """Handshakes are read without the lock: the pump goes on, and what it leaves for Python meanwhile has sources of its own."""
    a, b, index = threads.a, threads.b, 99
    threads.warm()
    b.engine.add_receive_key(index, PEER, Suite.AES_256_GCM, OTHER_KEY, RELAY_KEY)
    a.engine.set_send_key(PEER, Suite.AES_256_GCM, OTHER_KEY, index, RELAY_KEY)
    a.engine.send_relayed(b"\x11 makes the relay layer", b.origin, PEER)
    threads.loop.until(lambda: len(b.upcalls.handshakes) == 1)
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]
    threads.loop.until(threads.loop.idle)
    read = b.upcalls.receive_handshake

    def meanwhile(data: memoryview, source: Address, now: float) -> None:
        read(data, source, now)
        if bytes(data) == b"\x11 relayed":
            a.engine.send_datagram(b"\x11 by itself", b.port.local)
            a.frames.far.send(
                SECOND
            )  # a hit, behind it: once it is there, the pump has left the other one in its queue
            assert select.select([b.frames.far], [], [], WAIT_S)[0]

    b.upcalls.handshakes.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b.upcalls, "receive_handshake", meanwhile)
        a.engine.send_relayed(b"\x11 relayed", b.origin, PEER)
        threads.loop.until(lambda: len(b.upcalls.handshakes) == 2)
    assert b.upcalls.handshakes == [(b"\x11 relayed", Relayed(a.origin)), (b"\x11 by itself", a.port.local)]


def test_the_first_frames_of_a_flow_are_not_overtaken(threads: Threads) -> None:
    """They wait for a verdict; once the first one has brought it, those that C could move wait behind the others."""
    engine, core = threads.a.engine, threads.a.engine.core
    threads.warm()
    threads.loop.until(threads.loop.idle)
    engine.void_flows()
    payloads = [b"%d" % number for number in range(6)]
    for payload in payloads[:-1]:
        threads.a.frames.far.send(capture(udp(payload)))
    emptied(threads.a)
    assert core.take_upcall(engine, NOW)
    threads.a.frames.far.send(capture(udp(payloads[-1])))
    emptied(threads.a)
    assert threads.arrive(len(payloads)) == [bytes(udp(payload)) for payload in payloads]
    threads.loop.until(threads.loop.idle)
    poll, threads.loop.poll = threads.loop.poll, select.poll()  # nobody serves the upcalls: none of them waits any more
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]
    threads.loop.poll = poll


def emptied(host: Host) -> None:
    """The pump has read what the bridge had, and is done with it."""
    deadline = time.monotonic() + WAIT_S
    while select.select([host.frames], [], [], 0)[0]:
        assert time.monotonic() < deadline
    core = host.engine.core
    core.hold()
    core.release()


def test_new_keys_under_load_lose_nothing(threads: Threads) -> None:
    threads.warm()
    got: list[bytes] = []
    for _ in range(40):
        threads.a.frames.far.send(SUPER)
        threads.rekey()
        got += threads.arrive(0)
    got += threads.arrive(40 * len(CUT) - len(got))
    assert sorted(got) == sorted(CUT * 40)  # the first ones under a key are the loop's, and come later
    assert threads.a.engine.drops.as_dict() == threads.b.engine.drops.as_dict() == {}


def test_no_frame_goes_by_a_verdict_that_is_void(threads: Threads) -> None:
    """The MAC moves to another peer while frames to it stream: none that is captured after the call goes to the old one."""
    threads.warm()
    with ExitStack() as stack:
        other = Host(3, 4, ThreadedEngine, stack)
        stack.callback(other.engine.stop)
        threads.loop.start(other)
        threads.a.engine.set_path(OTHER, other.port.local, 1472)
        other.engine.add_receive_key(77, PEER, Suite.AES_256_GCM, OTHER_KEY)
        threads.a.engine.set_send_key(OTHER, Suite.AES_256_GCM, OTHER_KEY, 77)
        hosts = {PEER: threads.b, OTHER: other}
        for number in range(50):
            owner = (PEER, OTHER)[number % 2]
            for _ in range(8):  # under way when the verdict changes
                threads.a.frames.far.send(capture(udp(b"before")))
            threads.a.upcalls.outbound = Verdict(owner)
            threads.a.engine.void_flows(Mac(capture(udp(b""))[10:16]))
            marked = bytes(udp(b"after %d" % number))
            threads.a.frames.far.send(capture(udp(b"after %d" % number)))
            seen: dict[SlotId, list[bytes]] = {slot: [] for slot in hosts}

            def arrived(seen: dict[SlotId, list[bytes]] = seen, marked: bytes = marked) -> bool:
                for slot, host in hosts.items():
                    seen[slot] += [frame for written in host.frames.take() for frame in complete(written)]
                return any(marked in frames for frames in seen.values())

            threads.loop.until(arrived)
            assert marked in seen[owner]


def new_path(threads: Threads) -> None:
    threads.a.engine.set_path(PEER, threads.b.port.local, 1400)


def no_send_key(threads: Threads) -> None:
    threads.a.engine.drop_send_key(PEER)
    threads.rekey()


def receive_key(threads: Threads) -> None:
    """It lies beside the one in use: their indices differ by what the table of keys has places."""
    engine, index = threads.b.engine, threads.keys + KEY_PLACES
    engine.add_receive_key(index, PEER, Suite.AES_256_GCM, OTHER_KEY)
    engine.drop_receive_key(index)


def frames_anew(threads: Threads) -> None:
    for host in (threads.a, threads.b):
        host.engine.drop_frames()
        host.engine.replace_frames(host.frames)


def mirror(threads: Threads) -> None:
    for host in (threads.a, threads.b):
        host.engine.set_mirror(lambda inward, slot, frame: None)
        host.engine.set_mirror(None)


def both(call: Callable[[Engine], object]) -> Callable[[Threads], None]:
    def calls(threads: Threads) -> None:
        for host in (threads.a, threads.b):
            call(host.engine)

    return calls


# How each call of the engine comes in the midst of traffic.
CALLS: dict[str, Callable[[Threads], None]] = {
    "set_send_key": Threads.rekey,
    "drop_send_key": no_send_key,
    "set_path": new_path,
    "add_receive_key": receive_key,
    "drop_receive_key": receive_key,
    "void_flows": both(lambda engine: engine.void_flows()),
    "void_trees": both(lambda engine: engine.void_trees()),
    "void_groups": both(lambda engine: engine.void_groups()),
    "raise_boot": both(lambda engine: engine.raise_boot(2)),
    "void_routes": both(lambda engine: engine.void_routes()),
    "send_frame": both(lambda engine: engine.send_frame(bytes(tcp(b"the node's")))),
    "send_control": both(lambda engine: engine.send_control(PEER, b"\x01probe")),
    "send_datagram": lambda threads: threads.a.engine.send_datagram(b"\x11hello", threads.b.port.local),
    "send_relayed": lambda threads: threads.a.engine.send_relayed(b"\x11hello", threads.b.origin, PEER),
    "drop_frames": frames_anew,
    "replace_frames": frames_anew,
    "set_mirror": mirror,
    "pump_until": both(lambda engine: engine.pump_until(time.monotonic() + WAIT_S)),
    "peer_counters": both(lambda engine: engine.peer_counters()),
    "sent": both(lambda engine: engine.sent(PEER)),
    "drops": both(lambda engine: engine.drops.as_dict()),
    "flow_count": both(lambda engine: engine.flow_count()),
    "sources": both(lambda engine: engine.sources(0.0)),
    "flows": both(lambda engine: engine.flows()),
}
# The tests around call these, or nobody does while the thread runs.
BY_OTHERS = {"name", "start", "stop", "take_upcalls", "pump_frames", "pump_datagrams"}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_may_come_at_any_moment(threads: Threads, name: str) -> None:
    """Traffic goes on after it. That there is a lock around what it touches, too, says the thread sanitizer (`make sanitize`)."""
    threads.warm()
    for _ in range(20):
        threads.a.frames.far.send(SUPER)
        for _ in range(3):
            CALLS[name](threads)
        threads.loop.once()
    threads.rekey()
    threads.a.frames.far.send(SECOND)
    threads.loop.until(lambda: any(b"second" in written for written in threads.b.frames.take()))


def test_no_call_is_forgotten() -> None:
    names = {name for name in (*vars(Engine), *Engine.__annotations__) if not name.startswith("_")}
    assert names - BY_OTHERS == CALLS.keys()


def test_after_a_standstill_the_loop_comes_first(threads: Threads) -> None:
    """Keys may have expired: nothing is sealed before the node has looked."""
    threads.warm()
    threads.loop.until(threads.loop.idle)
    engine, sent = threads.a.engine, threads.a.engine.sent(PEER).frames_out
    engine.pump_until(time.monotonic() - 0.001)
    threads.a.frames.far.send(SECOND)
    assert threads.loop.poll.poll(WAIT_S * 1000)
    assert not engine.take_upcalls(NOW)
    assert engine.sent(PEER).frames_out == sent
    engine.drop_send_key(PEER)
    engine.pump_until(time.monotonic() + WAIT_S)
    threads.loop.until(lambda: bool(threads.a.upcalls.wanted))
    assert engine.sent(PEER).frames_out == sent


def test_a_full_queue_drops_and_says_so(threads: Threads) -> None:
    """Nobody serves the loop: what needs it is kept up to 4 MiB, and hits go on."""
    threads.warm()
    threads.a.upcalls.outbound = Verdict(drop_slot(DropReason.UNKNOWN_INDEX))
    strange = bytearray(unfinished(tcp(bytes(1300))))
    strange[10 + 3] = 0x77
    drops = threads.a.engine.drops
    for number in range(4000):
        strange[10 + 4 : 10 + 6] = number.to_bytes(2, "big")
        with contextlib.suppress(BlockingIOError):
            threads.a.frames.far.send(bytes(strange))
    deadline = time.monotonic() + WAIT_S
    while "queue_full" not in drops.as_dict():
        assert time.monotonic() < deadline
        with contextlib.suppress(BlockingIOError):
            threads.a.frames.far.send(bytes(strange))
    poll, threads.loop.poll = threads.loop.poll, select.poll()
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]
    threads.loop.poll = poll
    threads.loop.until(threads.loop.idle)
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]


def test_who_looks_sees_everything_and_loses_nothing(threads: Threads) -> None:
    threads.warm()
    seen: list[tuple[bool, bytes]] = []
    for host in (threads.a, threads.b):
        host.engine.set_mirror(lambda inward, slot, frame: seen.append((inward, bytes(frame))))
    assert threads.carry(*[SUPER] * 20, SECOND) == [*CUT * 20, bytes(tcp(b"second"))]
    assert sum(not inward for inward, _ in seen) == 21
    assert sum(inward for inward, _ in seen) == 20 * len(CUT) + 1
    for host in (threads.a, threads.b):
        host.engine.set_mirror(None)
    seen.clear()
    threads.loop.until(threads.loop.idle)
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]
    assert seen == []


def test_the_frame_port_goes_and_another_one_comes(threads: Threads) -> None:
    threads.warm()
    a, old = threads.a, threads.a.frames
    a.engine.drop_frames()
    old.close()
    a.frames = SocketFrames()
    a.engine.replace_frames(a.frames)
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]
    threads.b.engine.drop_frames()
    a.frames.far.send(SECOND)
    threads.loop.until(lambda: threads.b.engine.drops.as_dict() == {"tap_down": 1})
    a.engine.drop_frames()
    a.frames.close()


class Undescribed(SocketFrames):
    """Readable, and each read is EINVAL, as the TAP's for a frame whose offload the kernel has no name for; until `accept`."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = (self._socket, self.far)
        self._socket, self._caller = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
        self._socket.bind("")  # a name of the kernel's choice, in no folder
        self._socket.listen()
        self._caller.connect(self._socket.getsockname())

    def accept(self) -> None:
        self._socket.accept()[0].close()

    def close(self) -> None:
        for end in (*self._ends, self._socket, self._caller):
            end.close()


def test_a_frame_that_cannot_be_read_is_a_bad_frame_and_no_end(threads: Threads) -> None:
    threads.warm()
    a, old = threads.a, threads.a.frames
    a.engine.drop_frames()
    with contextlib.closing(Undescribed()) as odd:
        a.engine.replace_frames(odd)
        threads.loop.until(lambda: a.engine.drops.as_dict().get("bad_frame", 0) > 0)
        odd.accept()
        a.engine.drop_frames()
    a.engine.replace_frames(old)
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]


def test_it_can_be_stopped_and_started_again(threads: Threads) -> None:
    threads.warm()
    engine = threads.a.engine
    assert isinstance(engine, ThreadedEngine)
    with pytest.raises(RuntimeError, match="runs already"):
        engine.start()
    engine.stop()
    engine.stop()
    threads.loop = Loop()
    threads.b.engine.stop()
    for host in (threads.a, threads.b):
        threads.loop.start(host)
    assert threads.carry(SECOND) == [bytes(tcp(b"second"))]


def test_what_has_no_descriptor_cannot_be_waited_for() -> None:
    with ExitStack() as stack:
        host = Host(1, 4, ThreadedEngine, stack)
        engine = ThreadedEngine(
            MemoryFrames(), [host.port], ScriptedUpcalls(), origin=ShortId(bytes(8)), boot=1, clock=lambda: NOW
        )
        with pytest.raises(LocalProtocolError, match="descriptor"):
            engine.start()
