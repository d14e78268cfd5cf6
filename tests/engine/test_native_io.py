"""The native engine on real descriptors: a pair of packet sockets stands in for each TAP, UDP over the loopback between them."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from meshd.crypto.aead import Suite
from meshd.drops import DropReason
from meshd.forward.engine.interface import Buffer, Verdict
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.slots import FIRST_PEER, drop_slot
from meshd.ids import Endpoint, Mac, ShortId
from meshd.net.udp import UdpPort, open_udp_port
from tests.engine.pair import KEY_AB, KEY_BA, NOW, ScriptedUpcalls
from tests.engine.reference import arp, capture, complete, cut, super_frame, tcp, udp, unfinished

WAIT_MS = 5000
SO_NO_CHECK, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX = 11, 101, 102  # asm-generic/socket.h, linux/udp.h
ARP = capture(arp())
PEER = FIRST_PEER


class SocketFrames:
    """A frame port over one end of a socket pair; the test holds the other one. One packet is one frame, as with a TAP."""

    direct = True

    def __init__(self) -> None:
        self._socket, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, self.far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> memoryview | None:
        try:
            return memoryview(bytearray(self._socket.recv(1 << 17)))
        except BlockingIOError:
            return None

    def write(self, parts: Sequence[Buffer]) -> bool:
        os.writev(self.fileno(), parts)
        return True

    def take(self) -> list[bytes]:
        """What the bridge got."""
        taken: list[bytes] = []
        while True:
            try:
                taken.append(self.far.recv(1 << 17))
            except BlockingIOError:
                return taken

    def close(self) -> None:
        self._socket.close()
        self.far.close()


class Host:
    def __init__(self, number: int, family: int, engine: type[NativeEngine], stack: ExitStack) -> None:
        self.frames = SocketFrames()
        self.port: UdpPort = open_udp_port(6 if family == 6 else 4, "::1" if family == 6 else "127.0.0.1", 0)
        stack.callback(self.frames.close)
        stack.callback(self.port.close)
        self.upcalls = ScriptedUpcalls()
        self.origin = ShortId(bytes([number]) * 8)
        self.engine = engine(self.frames, [self.port], self.upcalls, origin=self.origin, boot=1, clock=lambda: NOW)

    def send(self, *captures: bytes) -> None:
        for data in captures:
            self.frames.far.send(data)
        while self.engine.pump_frames(NOW):
            pass

    def receive(self) -> list[bytes]:
        """Wait for something, then take all there is."""
        poll = select.poll()
        poll.register(self.port.fileno(), select.POLLIN)
        assert poll.poll(WAIT_MS)
        while self.engine.pump_datagrams(self.port, NOW) or poll.poll(0):
            pass
        return self.frames.take()


class Wire:
    def __init__(self, family: int, engine: type[NativeEngine], stack: ExitStack) -> None:
        self.a, self.b = Host(1, family, engine, stack), Host(2, family, engine, stack)
        self.keys = 0
        self.join(1472)

    def join(self, size: int) -> None:
        self.a.engine.set_path(PEER, self.b.port.local, size)
        self.b.engine.set_path(PEER, self.a.port.local, size)
        self.rekey()

    def rekey(self) -> None:
        self.keys += 1
        for sender, receiver, key in ((self.a, self.b, KEY_AB), (self.b, self.a, KEY_BA)):
            fresh = key[:-1] + bytes([self.keys])
            receiver.engine.add_receive_key(self.keys, PEER, Suite.AES_256_GCM, fresh)
            sender.engine.set_send_key(PEER, Suite.AES_256_GCM, fresh, self.keys)

    def carry(self, *captures: bytes) -> list[bytes]:
        self.a.send(*captures)
        return [frame for written in self.b.receive() for frame in complete(written)]

    def warm(self) -> None:
        """Keys and flows are known from now on: what follows are hits."""
        assert self.carry(unfinished(tcp(b"first"))) == [bytes(tcp(b"first"))]


@pytest.fixture(params=[(4, NativeEngine), (6, NativeEngine), (4, ThreadedEngine)], ids=["4", "6", "thread-4"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with ExitStack() as stack:
        family, engine = request.param
        yield Wire(family, engine, stack)


def test_frames_of_all_kinds_arrive_whole_and_in_order(wire: Wire) -> None:
    wire.warm()
    packet, datagrams, last = (
        tcp(bytes(range(250)) * 236, seq=0xFFFFF000),
        udp(bytes(range(250)) * 30),
        tcp(bytes(9), 6),
    )
    got = wire.carry(
        ARP, super_frame(packet, 1306), super_frame(packet, 1306), super_frame(datagrams, 1200), unfinished(last), ARP
    )
    expected = [bytes(arp()), *cut(packet, 1306) * 2, *cut(datagrams, 1200), bytes(last), bytes(arp())]
    if isinstance(
        wire.a.engine, ThreadedEngine
    ):  # a new flow's first frame waits for Python, other flows do not wait for it
        got, expected = sorted(got), sorted(expected)
    assert got == expected
    counters, peers = wire.a.engine.peer_counters()[PEER], wire.b.engine.peer_counters()[PEER]
    assert counters.frames_out == peers.frames_in == 1 + len(got)
    assert counters.datagrams_out == counters.data_out == peers.datagrams_in
    assert counters.bytes_out == peers.bytes_in
    assert peers.last_heard == NOW
    assert wire.a.engine.drops.as_dict() == wire.b.engine.drops.as_dict() == {}


def test_a_super_frame_arrives_as_one(wire: Wire) -> None:
    wire.warm()
    packet = tcp(bytes(58_000))
    wire.a.send(super_frame(packet, 1306), super_frame(packet, 1306))
    written = wire.b.receive()
    assert [len(data) for data in written] == [10 + len(bytes(packet))] * 2
    assert [frame for data in written for frame in complete(data)] == cut(packet, 1306) * 2


@pytest.mark.parametrize("guess", [1306, 700, 9000])
def test_whatever_was_expected_what_comes_is_cut_right(wire: Wire, guess: int) -> None:
    """The places where payloads are read to are guessed from the last super-frame."""
    wire.warm()
    wire.join(9000)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (9, 8))]
    first, second = tcp(bytes(range(256)) * 120), tcp(bytes(range(255, -1, -1)) * 150, options=options)
    got = wire.carry(
        super_frame(first, guess if guess < 8000 else 8000), super_frame(second, 1306), capture(udp(bytes(1340)))
    )
    assert got == [*cut(first, min(guess, 8000)), *cut(second, 1306), bytes(udp(bytes(1340)))]
    many = [capture(udp(bytes([number]) * 1200)) for number in range(40)]  # the expectation is given up meanwhile
    assert wire.carry(*many, super_frame(second, 1306))[40:] == cut(second, 1306)


def test_where_the_kernel_does_not_cut_the_engine_does(wire: Wire) -> None:
    """UDP_SEGMENT wants checksums: without them the kernel refuses, as it does for a device that cannot make them."""
    wire.warm()
    no_checksum = (
        (socket.SOL_SOCKET, SO_NO_CHECK) if wire.a.port.family == 4 else (socket.IPPROTO_UDP, UDP_NO_CHECK6_TX)
    )
    wire.a.port._socket.setsockopt(*no_checksum, 1)
    wire.b.port._socket.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    packet = tcp(bytes(30_000))
    for _ in range(3):  # the first time it is found out
        assert wire.carry(super_frame(packet, 1306)) == cut(packet, 1306)
        wire.a.engine.peer_counters()
        assert not wire.a.port.segmenting
    assert wire.a.engine.drops.as_dict() == {}
    counters = wire.a.engine.peer_counters()[PEER]
    assert (counters.datagrams_out, counters.frames_out) == (1 + 3 * 23, 1 + 3 * 23)


def test_a_port_without_udp_segment_is_not_asked_for_it() -> None:
    with ExitStack() as stack:
        wire = Wire(4, NativeEngine, stack)
        assert wire.a.engine.core.segmenting(0)
        wire.a.port.segmenting = False
        frames, upcalls = wire.a.frames, wire.a.upcalls
        later = NativeEngine(frames, [wire.a.port], upcalls, origin=wire.a.origin, boot=1, clock=lambda: NOW)
        assert not later.core.segmenting(0)


def test_what_is_too_long_for_the_device_is_said(wire: Wire) -> None:
    wire.warm()
    wire.a.engine.set_path(PEER, wire.b.port.local, 66_000)
    with pytest.raises(OSError, match="too long"):
        wire.a.port._socket.sendto(bytes(65_530), wire.b.port.local)
    wire.a.send(super_frame(tcp(bytes(40_000)), 16_000))
    assert [frame for data in wire.b.receive() for frame in complete(data)] == cut(tcp(bytes(40_000)), 16_000)


def test_nobody_listens_there(wire: Wire) -> None:
    """An ICMP that an earlier datagram has left behind costs nothing of the next one."""
    wire.warm()
    gone = open_udp_port(6 if wire.a.port.family == 6 else 4, wire.b.port.local.host, 0)
    nobody = gone.local
    gone.close()
    for _ in range(3):
        wire.a.engine.set_path(PEER, nobody, 1472)
        wire.a.send(unfinished(tcp(b"lost")))
        wire.a.engine.set_path(PEER, wire.b.port.local, 1472)
        assert wire.carry(unfinished(tcp(b"found"))) == [bytes(tcp(b"found"))]
    assert wire.a.engine.drops.as_dict() == {}


def leave_error(sock: socket.socket) -> socket.socket:
    """An ICMP about a datagram of the socket's own waits on it from now on, and then a datagram. Returns where that came from."""
    far = socket.socket(sock.family, socket.SOCK_DGRAM)
    far.bind((sock.getsockname()[0], 0))
    address = far.getsockname()
    far.close()
    sock.connect(address)
    sock.send(b"to nobody")
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(WAIT_MS)[0][1] & select.POLLERR
    far = socket.socket(sock.family, socket.SOCK_DGRAM)
    far.bind(address)
    far.sendto(b"\x11 behind the error", sock.getsockname())
    return far


def test_what_waits_behind_an_error_is_received_in_the_same_pump(wire: Wire) -> None:
    with leave_error(wire.b.port._socket) as far:
        source = Endpoint(*far.getsockname()[:2])
        wire.b.engine.pump_datagrams(wire.b.port, NOW)
        assert wire.b.upcalls.handshakes == [(b"\x11 behind the error", source)]
    assert wire.b.engine.drops.as_dict() == {}


def test_a_closed_frame_port_is_down_and_a_new_one_goes_on(wire: Wire) -> None:
    wire.warm()
    old = wire.b.frames
    old._socket.close()
    wire.a.send(unfinished(tcp(b"lost")))
    poll = select.poll()
    poll.register(wire.b.port.fileno(), select.POLLIN)
    assert poll.poll(WAIT_MS)
    wire.b.engine.pump_datagrams(wire.b.port, NOW)
    assert wire.b.engine.drops.as_dict() == {"tap_down": 1}
    with pytest.raises(OSError, match="descriptor"):
        wire.b.engine.pump_frames(NOW)
    wire.b.frames = SocketFrames()
    wire.b.engine.replace_frames(wire.b.frames)
    assert wire.carry(unfinished(tcp(b"found"))) == [bytes(tcp(b"found"))]
    old.close()
    wire.b.frames.far.close()
    wire.a.send(unfinished(tcp(b"nobody reads")))
    assert poll.poll(WAIT_MS)
    wire.b.engine.pump_datagrams(wire.b.port, NOW)
    assert wire.b.engine.drops.as_dict() == {"tap_down": 2}
    wire.b.frames.close()


def test_the_sources_of_what_python_gets(wire: Wire) -> None:
    wire.a.engine.send_datagram(b"\x11hello", wire.b.port.local)
    assert wire.a.engine.send_control(PEER, b"\x01probe")
    wire.b.receive()
    assert wire.b.upcalls.handshakes == [(b"\x11hello", wire.a.port.local)]
    assert [control[4] for control in wire.b.upcalls.controls] == [wire.a.port.local]
    assert isinstance(wire.b.upcalls.handshakes[0][1], Endpoint)


def test_under_load_keys_tables_and_macs_change_and_nothing_is_lost(wire: Wire) -> None:
    """Pumps and what the node may do meanwhile take turns; every frame arrives, each by the newest verdict."""
    wire.warm()
    source, destination = Mac(bytes.fromhex("02000000000a")), Mac(bytes.fromhex("02000000000b"))
    packet = tcp(bytes(range(256)) * 200)
    expected = cut(packet, 1306)
    for turn in range(60):
        match turn % 6:
            case 0:
                wire.rekey()
            case 1:
                assert wire.a.engine.void_flows(destination) == 1
            case 2:
                wire.b.engine.void_flows(source)
            case 3:
                wire.a.engine.set_path(PEER, wire.b.port.local, 1400 + turn)
            case 4:  # the MAC moves away: not one more frame goes out, and it comes back
                wire.a.upcalls.outbound = Verdict(drop_slot(DropReason.NOT_LOCAL))
                wire.a.engine.void_flows(destination)
                before = wire.a.engine.peer_counters()[PEER].datagrams_out
                wire.a.send(super_frame(packet, 1306), unfinished(tcp(b"nobody")))
                assert wire.a.engine.peer_counters()[PEER].datagrams_out == before
                wire.a.upcalls.outbound = Verdict(PEER)
                wire.a.engine.void_flows(destination)
            case _:
                wire.a.engine.void_trees()
                assert wire.a.engine.send_control(PEER, b"\x01probe")
        small = udp(bytes([turn]) * 64)
        got = wire.carry(super_frame(packet, 1306), *[unfinished(small)] * 3)
        assert got == [*expected, *[bytes(small)] * 3]
    assert wire.a.engine.drops.as_dict() == {"not_local": 20}
    assert wire.b.engine.drops.as_dict() == {}
