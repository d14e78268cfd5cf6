"""The simulated network keeps its promises: what a bad network does, what a good one does not, and all of it again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.ids import Endpoint
from meshd.testing.conditions import LOOPBACK, REORDER_HOLD
from meshd.testing.network import LinkConditions, SimNetwork
from meshd.testing.streams import (
    CLOSED,
    DIAL_TIMEOUT,
    REFUSED,
    RESET,
    RETRANSMIT,
    STALL_TIMEOUT,
    TIMED_OUT,
    Stream,
    StreamEvents,
)
from meshd.testing.trace import TraceEvent

A, B, C = Endpoint("10.0.0.1", 6783), Endpoint("10.0.0.2", 6783), Endpoint("fd00::3", 6783)


def make(conditions: LinkConditions | None = None, seed: int = 1) -> SimNetwork:
    net = SimNetwork(seed, default=conditions)
    net.add_host("a", "10.0.0.1")
    net.add_host("b", "10.0.0.2", "10.0.0.22")
    net.add_host("c", "10.0.0.3", "fd00::3")
    return net


class Inbox:
    """A bound socket that notes what comes in and when."""

    def __init__(self, net: SimNetwork, local: Endpoint) -> None:
        self.net = net
        self.got: list[tuple[bytes, Endpoint]] = []
        self.times: list[float] = []
        self.socket = net.bind_udp(local, self.receive)

    def receive(self, data: bytes, source: Endpoint) -> None:
        self.got.append((data, source))
        self.times.append(self.net.clock.now)

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.got]


class End:
    """One end of a stream: notes what it is told; `greeting` is written once it is up."""

    def __init__(self, net: SimNetwork, greeting: bytes = b"") -> None:
        self.net = net
        self.greeting = greeting
        self.log: list[str] = []
        self.times: list[float] = []
        self.pieces: list[bytes] = []
        self.stream: Stream | None = None

    @property
    def heard(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def s(self) -> Stream:
        assert self.stream is not None
        return self.stream

    def _note(self, what: str) -> None:
        self.log.append(what)
        self.times.append(self.net.clock.now)

    def dial(self, source: str = A.host, destination: Endpoint = B) -> End:
        self.stream = self.net.dial(source, destination, self)
        return self

    def accept(self, stream: Stream) -> StreamEvents | None:
        self.stream = stream
        self._note("accepted")
        if self.greeting:
            stream.write(self.greeting)
        return self

    def connected(self) -> None:
        self._note("connected")
        if self.greeting:
            self.s.write(self.greeting)

    def failed(self, error: str) -> None:
        self._note(f"failed: {error}")

    def received(self, data: bytes) -> None:
        assert data
        self.pieces.append(data)

    def lost(self, error: str) -> None:
        self._note(f"lost: {error}")


def pair(net: SimNetwork) -> tuple[End, End]:
    """A stream that is up: the dialler's end at a, the listener's at b."""
    dialler, listener = End(net), End(net)
    net.listen(B, listener.accept)
    dialler.dial()
    net.clock.run_for(1)
    assert (dialler.log, listener.log) == (["connected"], ["accepted"])
    return dialler, listener


# UDP


def test_a_datagram_arrives_after_the_delay_with_its_source() -> None:
    net = make(LinkConditions(delay=0.02))
    a, b = Inbox(net, A), Inbox(net, B)
    a.socket.send(bytearray(b"hello"), B)
    assert b.got == []
    net.clock.run_for(1)
    assert b.got == [(b"hello", A)]
    assert b.times == [1000.02]
    b.socket.send(b"", A)
    net.clock.run_for(1)
    assert a.got == [(b"", B)]


def test_without_jitter_the_order_stays_with_it_it_does_not() -> None:
    sent = [bytes([n]) for n in range(100)]
    for conditions, ordered in (
        (LinkConditions(), True),
        (LinkConditions(jitter=0.01), False),
        (LinkConditions(reorder=0.2), False),
    ):
        net = make(conditions)
        a, b = Inbox(net, A), Inbox(net, B)
        for data in sent:
            a.socket.send(data, B)
        net.clock.run_for(1)
        assert (b.data == sent) == ordered
        assert sorted(b.data) == sent
        assert max(b.times) <= 1000.001 + 0.01 + REORDER_HOLD


def test_loss_duplication_and_flips_come_as_often_as_asked() -> None:
    net = make(LinkConditions(loss=0.1, duplicate=0.05, flip=0.02))
    a, b = Inbox(net, A), Inbox(net, B)
    for _ in range(5000):
        a.socket.send(bytes(20), B)
    net.clock.run_for(1)
    counts = net.trace.counts
    assert 400 < counts["udp lost"] < 600
    assert 180 < counts["udp duplicated"] < 280
    flipped = [data for data in b.data if any(data)]
    assert 60 < len(flipped) == counts["udp flipped"] < 150
    assert {int.from_bytes(data, "big").bit_count() for data in flipped} == {1}
    assert len(b.got) == 5000 - counts["udp lost"] + counts["udp duplicated"] == counts["udp in"]


def test_what_is_larger_than_the_path_vanishes() -> None:
    net = make(LinkConditions(mtu=1400))
    a, b, c = Inbox(net, A), Inbox(net, B), Inbox(net, C)
    a.socket.send(bytes(1372), B)
    a.socket.send(bytes(1373), B)
    a.socket.send(bytes(1352), C)
    a.socket.send(bytes(1353), C)
    net.clock.run_for(1)
    assert (len(b.got), len(c.got), net.trace.counts["udp too big"]) == (1, 1, 2)


def test_one_way_cut() -> None:
    net = make()
    a, b = Inbox(net, A), Inbox(net, B)
    net.topology.cut("a", "b")
    a.socket.send(b"1", B)
    b.socket.send(b"2", A)
    net.clock.run_for(1)
    assert (a.data, b.data, net.trace.counts["udp cut"]) == ([b"2"], [], 1)
    net.topology.mend("b", "a")
    a.socket.send(b"3", B)
    net.clock.run_for(1)
    assert b.data == [b"3"]


def test_partition_isolation_and_heal() -> None:
    net = make()
    boxes = {"a": Inbox(net, A), "b": Inbox(net, B), "c": Inbox(net, C)}

    def reach() -> set[str]:
        for box in boxes.values():
            box.got.clear()
        for name, box in boxes.items():
            for other in boxes.values():
                box.socket.send(name.encode(), other.socket.local)
        net.clock.run_for(1)
        return {source.decode() + name for name, box in boxes.items() for source in box.data}

    everything = {one + other for one in "abc" for other in "abc"}
    assert reach() == everything
    net.topology.partition(["a", "b"], ["c"])
    assert reach() == {"aa", "ab", "ba", "bb", "cc"}
    net.topology.partition(["a"])  # the others, unnamed, stay together
    assert reach() == {"aa", "bb", "bc", "cb", "cc"}
    net.topology.partition()
    net.topology.isolate("b", net.hosts)
    assert reach() == {"aa", "ac", "ca", "cc", "bb"}
    net.topology.heal()
    assert reach() == everything


def test_conditions_belong_to_one_direction_of_one_pair() -> None:
    net = make(LinkConditions(delay=0.001))
    a, b = Inbox(net, A), Inbox(net, B)
    net.topology.set_link("a", "b", LinkConditions(delay=0.5))
    a.socket.send(b"", B)
    b.socket.send(b"", A)
    a.socket.send(b"", A)
    net.clock.run_for(1)
    assert b.times == [1000.5]
    assert a.times == [1000.0 + LOOPBACK.delay, 1000.001]


def test_hooks_see_and_change_datagrams() -> None:
    net = make()
    a, b = Inbox(net, A), Inbox(net, B)
    net.hooks.append(lambda source, destination, data: [] if data == b"drop" else [data, data.upper()])
    net.hooks.append(lambda source, destination, data: [data + str(source.port).encode()])
    a.socket.send(b"x", B)
    a.socket.send(b"drop", B)
    net.clock.run_for(1)
    assert b.data == [b"x6783", b"X6783"]
    assert net.trace.counts["udp hooked"] == 1


def test_nobody_there() -> None:
    net = make()
    a = Inbox(net, A)
    a.socket.send(b"", B)
    a.socket.send(b"", Endpoint("192.0.2.1", 1))
    net.clock.run_for(1)
    assert net.trace.counts["udp unreachable"] == 2


def test_a_strangers_datagram() -> None:
    net = make()
    b, stranger = Inbox(net, B), Endpoint("192.0.2.9", 1)
    net.send_udp(stranger, B, b"garbage")
    net.clock.run_for(1)
    assert b.got == [(b"garbage", stranger)]


def test_binding_as_a_kernel_does() -> None:
    net = make()
    a = Inbox(net, A)
    for local, code in ((A, errno.EADDRINUSE), (Endpoint("10.9.9.9", 1), errno.EADDRNOTAVAIL)):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            Inbox(net, local)
        assert caught.value.errno == code
    a.socket.close()
    a.socket.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        a.socket.send(b"", B)
    again = Inbox(net, A)
    a.socket.close()  # the old one's end is not the new one's
    again.socket.send(b"", A)
    net.clock.run_for(1)
    assert (len(a.got), len(again.got)) == (0, 1)


def test_hosts_are_named_once() -> None:
    net = make()
    for name, address in (("a", "10.1.1.1"), ("d", "10.0.0.2")):
        with pytest.raises(LocalProtocolError):
            net.add_host(name, address)
    assert net.host_of("10.0.0.22") == "b"
    assert net.host_of("10.1.1.1") is None


# TCP


def test_streams_connect_after_one_round_trip_and_carry_bytes_both_ways() -> None:
    net = make(LinkConditions(delay=0.01))
    listener, dialler = End(net, b"from b"), End(net, b"from a")
    net.listen(B, listener.accept)
    dialler.dial()
    assert dialler.log == []
    net.clock.run_for(1)
    assert (dialler.log, listener.log) == (["connected"], ["accepted"])
    assert dialler.times == [pytest.approx(1000.02)]
    assert listener.times == [pytest.approx(1000.03)]
    assert (dialler.heard, listener.heard) == (b"from b", b"from a")
    assert listener.s.remote == dialler.s.local
    assert dialler.s.local.host == A.host
    assert [stream.local for stream in net.streams("b")] == [B]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(0, 1000))
def test_bytes_arrive_whole_and_in_order_in_any_pieces(writes: list[bytes], seed: int) -> None:
    net = make(LinkConditions(jitter=0.05, loss=0.2), seed)
    dialler, listener = End(net), End(net)
    net.listen(B, listener.accept)
    dialler.dial()
    assert net.clock.wait_for(lambda: bool(listener.log) or "failed" in "".join(dialler.log), 20) is not None
    if not listener.log:
        return  # all four SYNs were lost
    for number, data in enumerate(writes):
        dialler.s.write(data)
        if number % 3 == 0:
            net.clock.run_for(0.01)
    dialler.s.close()
    net.clock.run_for(20)
    assert listener.heard == b"".join(writes)
    assert listener.log == ["accepted", f"lost: {CLOSED}"]
    assert dialler.log == ["connected"]
    assert net.streams("a") == net.streams("b") == []


def test_pieces_are_not_what_was_written() -> None:
    net = make()
    dialler, listener = pair(net)
    for _ in range(50):
        dialler.s.write(b"0123456789")
        dialler.s.write(b"abcdefghij")
        net.clock.run_for(1)
    sizes = Counter(map(len, listener.pieces))
    assert len(sizes) > 10
    assert sizes[20] > 0
    assert listener.heard == b"0123456789abcdefghij" * 50


def test_refused_where_nobody_listens() -> None:
    net = make(LinkConditions(delay=0.01))
    end = End(net).dial()
    net.clock.run_for(20)
    assert end.log == [f"failed: {REFUSED}"]
    assert end.times == [pytest.approx(1000.02)]
    assert net.streams("a") == []


def test_refused_by_the_application() -> None:
    net = make()
    net.listen(B, lambda stream: None)
    end = End(net).dial()
    net.clock.run_for(20)
    assert end.log == ["connected", f"lost: {RESET}"]


@pytest.mark.parametrize("direction", [("a", "b"), ("b", "a")])
def test_a_dial_into_a_black_hole_times_out(direction: tuple[str, str]) -> None:
    net = make()
    listener = End(net)
    net.listen(B, listener.accept)
    net.topology.cut(*direction)
    end = End(net).dial()
    net.clock.run_for(30)
    assert end.log == [f"failed: {TIMED_OUT}"]
    assert end.times == [1000.0 + DIAL_TIMEOUT]
    assert listener.log == []


def test_a_dial_succeeds_when_the_network_heals_in_time() -> None:
    net = make()
    listener = End(net)
    net.listen(B, listener.accept)
    net.topology.partition(["a"], ["b"])
    end = End(net).dial()
    net.clock.run_for(2)
    net.topology.heal()
    net.clock.run_for(20)
    assert end.log == ["connected"]
    assert end.times == [pytest.approx(1003.002)]
    assert listener.log == ["accepted"]


def test_a_dial_can_be_given_up() -> None:
    net = make()
    listener = End(net)
    net.listen(B, listener.accept)
    one, other = End(net).dial(), End(net).dial()
    one.s.close()
    net.clock.run_for(0.001)
    other.s.abort()
    net.clock.run_for(30)
    assert one.log == other.log == listener.log == []


def test_dialling_an_address_of_nobody_times_out() -> None:
    net = make()
    end = End(net).dial(destination=Endpoint("192.0.2.1", 6783))
    net.clock.run_for(30)
    assert end.log == [f"failed: {TIMED_OUT}"]


def test_a_short_cut_only_delays() -> None:
    net = make()
    dialler, listener = pair(net)
    net.topology.cut("b", "a")  # the acknowledgements
    dialler.s.write(b"one")
    net.clock.run_for(3)
    dialler.s.write(b"two")
    net.clock.run_for(2)
    assert listener.heard == b""
    assert dialler.s.pending == 6
    net.topology.heal()
    net.clock.run_for(10)
    assert listener.heard == b"onetwo"
    assert dialler.s.pending == 0
    assert (dialler.log, listener.log) == (["connected"], ["accepted"])


def test_a_long_cut_breaks_the_end_that_writes() -> None:
    net = make()
    dialler, listener = pair(net)
    net.topology.partition(["a"], ["b"])
    dialler.s.write(b"lost")
    net.clock.run_for(STALL_TIMEOUT + 1)
    assert dialler.log == ["connected", f"lost: {TIMED_OUT}"]
    assert dialler.times[-1] == pytest.approx(1001.0 + STALL_TIMEOUT)
    assert listener.log == ["accepted"]  # half a connection
    net.topology.heal()
    listener.s.write(b"hello?")
    net.clock.run_for(1)
    assert listener.log == ["accepted", f"lost: {RESET}"]
    assert listener.heard == b""


def test_an_idle_stream_never_notices() -> None:
    net = make()
    dialler, listener = pair(net)
    net.topology.partition(["a"], ["b"])
    net.clock.run_for(3600)
    net.topology.heal()
    dialler.s.write(b"still here")
    net.clock.run_for(1)
    assert listener.heard == b"still here"


def test_abort_discards_and_resets() -> None:
    net = make()
    dialler, listener = pair(net)
    dialler.s.write(b"never sent")
    dialler.s.abort()
    dialler.s.abort()
    net.clock.run_for(1)
    assert (listener.heard, listener.log) == (b"", ["accepted", f"lost: {RESET}"])
    assert dialler.log == ["connected"]


def test_after_the_end_writing_is_our_own_fault() -> None:
    net = make()
    dialler, listener = pair(net)
    dialler.s.close()
    with pytest.raises(LocalProtocolError):
        dialler.s.write(b"x")
    net.clock.run_for(1)
    with pytest.raises(LocalProtocolError):
        listener.s.write(b"x")
    with pytest.raises(LocalProtocolError):
        End(net).dial().s.write(b"x")


def test_an_application_may_end_a_stream_while_it_accepts_it() -> None:
    net = make()
    listener = End(net)

    def accept(stream: Stream) -> StreamEvents:
        stream.write(b"no")
        stream.close()
        return listener

    net.listen(B, accept)
    dialler = End(net, b"hello").dial()
    net.clock.run_for(1)
    assert (dialler.heard, dialler.log) == (b"no", ["connected", f"lost: {CLOSED}"])
    assert (listener.heard, listener.log) == (b"", [])


def test_loss_makes_streams_slow_not_wrong() -> None:
    net = make(seed=3)
    dialler, listener = pair(net)
    net.topology.default = LinkConditions(loss=0.3)
    start = net.clock.now
    for _ in range(20):
        dialler.s.write(bytes(1000))
    assert net.clock.wait_for(lambda: len(listener.heard) == 20_000, 20) is not None
    for _ in range(20):
        dialler.s.write(bytes(1000))
        net.clock.run_for(0.001)
    assert net.clock.wait_for(lambda: len(listener.heard) == 40_000, 20) is not None
    assert net.clock.now - start >= RETRANSMIT


def test_listening_as_a_kernel_does() -> None:
    net = make()
    end = End(net)
    net.listen(B, end.accept)
    for local, code in ((B, errno.EADDRINUSE), (Endpoint("10.9.9.9", 1), errno.EADDRNOTAVAIL)):
        with pytest.raises(OSError, match=os.strerror(code)):
            net.listen(local, end.accept)
    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
        End(net).dial(source="10.9.9.9")
    net.unlisten(B)
    net.listen(B, end.accept)


def test_a_killed_process_is_noticed_at_once_a_lost_machine_is_not() -> None:
    for isolated in (False, True):
        net = make()
        Inbox(net, B)
        dialler, listener = pair(net)
        if isolated:
            net.topology.isolate("b", net.hosts)
        net.kill("b")
        net.clock.run_for(60)
        assert dialler.log == (["connected"] if isolated else ["connected", f"lost: {RESET}"])
        assert listener.log == ["accepted"]
        assert net.streams("b") == []
        Inbox(net, B)  # it may start again
        net.topology.heal()
        net.listen(B, End(net).accept)


# the same again


def scenario(seed: int) -> SimNetwork:
    """Everything at once: a bad network, cuts and repairs, chatter over UDP and TCP."""
    net = make(LinkConditions(jitter=0.02, loss=0.05, duplicate=0.02, flip=0.01, reorder=0.1), seed)
    boxes = [Inbox(net, endpoint) for endpoint in (A, B, C)]
    ends: list[End] = []

    def accept(stream: Stream) -> StreamEvents:
        ends.append(End(net, b"welcome"))
        return ends[-1].accept(stream) or ends[-1]

    for endpoint in (A, B, C):
        net.listen(endpoint, accept)

    def chatter(number: int) -> None:
        box = boxes[number % 3]
        for other in boxes:
            box.socket.send(number.to_bytes(4, "big") * (number % 50), other.socket.local)
        if number % 20 == 0:
            ends.append(End(net, bytes(number)).dial(box.socket.local.host, boxes[(number + 1) % 3].socket.local))
        for end in ends:
            if end.stream is not None and end.stream.up and number % 7 == 0:
                end.stream.write(bytes(100))

    for number in range(200):
        net.clock.call_later(number / 10, partial(chatter, number))
    net.clock.call_later(5, lambda: net.topology.partition(["a", "b"], ["c"]))
    net.clock.call_later(9, net.topology.heal)
    net.clock.call_later(12, lambda: net.topology.cut("a", "b"))
    net.clock.run_for(90)
    return net


def test_same_seed_same_run_other_seed_other_run() -> None:
    first, second, other = scenario(7), scenario(7), scenario(8)
    assert first.trace.digest() == second.trace.digest() != other.trace.digest()
    assert first.trace.counts == second.trace.counts
    assert first.clock.calls == second.clock.calls
    kinds = {kind.split(":")[0] for kind in first.trace.counts}
    assert kinds >= {
        "udp lost",
        "udp cut",
        "udp flipped",
        "udp duplicated",
        "tcp stall",
        "tcp lost",
        "tcp data",
        "tcp in",
    }


def test_the_run_does_not_depend_on_the_hash_seed() -> None:
    command = "from tests.sim.test_network import scenario; print(scenario(7).trace.digest())"
    output = subprocess.run(
        [sys.executable, "-c", command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.strip() == scenario(7).trace.digest()


def test_an_observer_sees_every_byte_on_the_wire() -> None:
    net = make()
    seen: list[TraceEvent] = []
    net.trace.observers.append(seen.append)
    Inbox(net, A).socket.send(b"datagram", B)
    dialler, _ = pair(net)
    dialler.s.write(b"stream")
    net.clock.run_for(1)
    assert [event.data for event in seen if event.kind == "udp sent"] == [b"datagram"]
    assert b"".join(event.data for event in seen if event.kind == "tcp data") == b"stream"
    assert [event.at for event in seen] == sorted(event.at for event in seen)
    assert sum(net.trace.counts.values()) == len(seen)
