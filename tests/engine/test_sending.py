"""What goes into which datagram, in which order, and what waits or is dropped on the way out."""

from __future__ import annotations

import pytest

from meshd.crypto.aead import Suite
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.forward.engine.tables import MAX_WAITING_BYTES, MAX_WAITING_FRAMES
from meshd.forward.slots import FIRST_PEER, MAX_PEERS
from meshd.ids import Endpoint, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.pair import KEY_AB, KEY_BA, NOW, PEER, Pair, Side
from tests.engine.reference import arp, capture, complete, cut, super_frame, tcp, udp, unfinished

ARP = capture(arp())


def small(number: int, size: int = 64) -> bytes:
    return capture(udp(bytes([number]) * size, ident=number))


def sizes(side: Side) -> list[list[int]]:
    """Of the datagrams of each send."""
    return [[len(datagram) for datagram in datagrams] for datagrams in side.port.sent]


def test_small_frames_of_one_wake_up_share_datagrams_of_at_most_1280_bytes() -> None:
    pair = Pair()
    frames = [small(number) for number in range(40)]
    assert pair.carry(*frames) == frames
    (sent,) = sizes(pair.a)
    full = 32 + 11 * (2 + 106)
    assert sent == [full, full, full, 32 + 7 * (2 + 106)]
    counters = pair.a.engine.peer_counters()[PEER]
    assert (counters.frames_out, counters.datagrams_out, counters.data_out) == (40, 4, 4)
    assert counters.bytes_out == sum(sent)


def test_small_frames_do_not_share_more_than_the_path_takes() -> None:
    pair = Pair(size=1000)
    frames = [small(number) for number in range(16)]
    assert pair.carry(*frames) == frames
    assert sizes(pair.a) == [[32 + 8 * (2 + 106)] * 2]


def test_nothing_waits_for_the_next_wake_up() -> None:
    pair = Pair()
    assert pair.carry(small(1)) == [small(1)]
    assert pair.carry(small(2)) == [small(2)]
    assert len(pair.a.port.sent) == 2


def test_vouched_and_finished_frames_do_not_share_a_datagram_and_keep_their_order() -> None:
    pair = Pair()
    mixed = [unfinished(udp(b"1")), small(2), small(3), unfinished(udp(b"4"))]
    assert [frame for data in pair.carry(*mixed) for frame in complete(data)] == [
        bytes(udp(b"1")),
        small(2)[10:],
        small(3)[10:],
        bytes(udp(b"4")),
    ]
    assert sum(map(len, sizes(pair.a))) == 3


def test_small_large_and_super_frames_keep_their_order() -> None:
    pair = Pair()
    packet = tcp(bytes(5000))
    pair.carry(small(0))  # the first one under a key is looked at by itself
    written = pair.carry(small(1), super_frame(packet, 1332), small(2), small(3, 1200), small(4), small(5, 1300))
    assert [frame for data in written for frame in complete(data)] == [
        small(1)[10:],
        *cut(packet, 1332),
        small(2)[10:],
        small(3, 1200)[10:],
        small(4)[10:],
        small(5, 1300)[10:],
    ]
    assert len(written) == 6


def test_one_send_is_at_most_64_datagrams_and_64000_bytes_all_equal_but_the_last() -> None:
    pair = Pair()
    pair.a.send(super_frame(tcp(bytes(63_000)), 200), super_frame(tcp(bytes(64_000)), 1332), *[small(9, 1300)] * 100)
    for sent in sizes(pair.a):
        assert len(sent) <= 64
        assert sum(sent) <= 64_000
        assert len(set(sent[:-1])) <= 1
        assert sent[-1] <= sent[0]
    assert max(len(sent) for sent in sizes(pair.a)) == 64


def test_what_the_queue_does_not_take_is_counted_and_nothing_else() -> None:
    """Of a send that the port cuts itself (no UDP_SEGMENT), some may be sent and others not."""
    pair = Pair()
    packet = tcp(bytes(13_000))
    pair.carry(small(0))
    before = pair.a.engine.peer_counters()[PEER].bytes_out
    pair.a.port.room[pair.b.endpoint] = 4
    assert [frame for data in pair.carry(super_frame(packet, 1300)) for frame in complete(data)] == cut(packet, 1300)[
        :4
    ]
    counters = pair.a.engine.peer_counters()[PEER]
    assert (counters.datagrams_out, counters.data_out, counters.bytes_out - before) == (5, 5, 4 * (1300 + 54 + 34))
    assert not pair.a.engine.send_control(PEER, b"\x01")
    assert pair.a.drops == {"queue_full": 6 + 1}


def test_tcp_super_frames_are_cut_to_the_path() -> None:
    pair = Pair(size=1000)
    packet, fits = tcp(bytes(3000)), 1000 - 32 - 2 - 54
    written = pair.carry(super_frame(packet, 1332))
    assert [frame for data in written for frame in complete(data)] == cut(packet, fits)
    assert {size for sent in sizes(pair.a) for size in sent[:-1]} == {1000}
    pair.a.engine.set_path(PEER, pair.b.endpoint, 40)
    assert pair.carry(super_frame(packet, 1332)) == []
    assert pair.a.drops == {"too_big": 1}


def test_frames_wait_for_a_session_in_order_and_no_longer_than_there_is_room() -> None:
    network = MemoryNetwork()
    a, b = Side(network, 1), Side(network, 2)
    packet = tcp(bytes(3000))
    a.send(small(0), super_frame(packet, 1332), *[small(number % 250) for number in range(MAX_WAITING_FRAMES)])
    assert a.upcalls.wanted == [PEER]
    assert a.drops == {"no_session": 2}
    a.now = NOW + 1
    a.send(small(1))
    assert a.upcalls.wanted == [PEER, PEER]
    assert a.port.sent == []
    a.know(b, PEER, KEY_AB)
    frames = [frame for data in b.receive() for frame in complete(data)]
    assert frames == [
        small(0)[10:],
        *cut(packet, 1332),
        *[small(number)[10:] for number in range(MAX_WAITING_FRAMES - 2)],
    ]
    assert a.drops == {"no_session": 3}


def test_the_key_may_come_before_the_path() -> None:
    network = MemoryNetwork()
    a, b = Side(network, 1), Side(network, 2)
    b.engine.add_receive_key(5, PEER, Suite.AES_256_GCM, KEY_AB)
    a.send(ARP)
    a.engine.set_send_key(PEER, Suite.AES_256_GCM, KEY_AB, 5)
    assert a.port.sent == []
    a.engine.set_path(PEER, b.endpoint, 1472)
    assert b.receive() == [ARP]


def test_waiting_frames_are_bounded_in_bytes_too() -> None:
    a = Side(MemoryNetwork(), 1)
    data = super_frame(tcp(bytes(60_000)), 1332)
    a.send(*[data] * 10)
    assert a.drops == {"no_session": 10 - MAX_WAITING_BYTES // len(data)}


def test_no_path_no_session_and_a_dropped_key() -> None:
    pair = Pair()
    pair.a.engine.set_path(PEER, None, 0)
    assert pair.carry(ARP) == []
    assert not pair.a.engine.send_control(PEER, b"\x01")
    assert pair.a.drops == {"no_path": 2}
    pair.a.engine.drop_send_key(PEER)
    assert not pair.a.engine.send_control(PEER, b"\x01")
    assert pair.a.drops == {"no_path": 2, "no_session": 1}
    pair.a.engine.set_path(PEER, pair.b.endpoint, 1472)
    pair.a.send(ARP)
    pair.a.engine.set_path(PEER, None, 0)
    assert pair.a.drops == {"no_path": 3, "no_session": 1}
    pair.a.engine.set_path(PEER, Endpoint("fd00::1", 6783), 1472)  # no IPv6 port here
    pair.a.engine.set_send_key(PEER, Suite.AES_256_GCM, KEY_BA, 1)
    assert pair.carry(ARP) == []
    assert pair.a.drops == {"no_path": 4, "no_session": 1}


def test_what_the_port_refuses_is_counted_per_datagram() -> None:
    pair = Pair()
    pair.a.port.refuse = DropReason.QUEUE_FULL
    pair.a.send(super_frame(tcp(bytes(4000)), 1332), ARP)
    assert pair.a.drops == {"queue_full": 5}
    assert pair.a.engine.peer_counters()[PEER].datagrams_out == 0
    pair.a.port.refuse = None
    assert pair.carry(ARP) == [ARP]


def test_control_goes_alone_at_once_and_to_another_endpoint_if_told() -> None:
    pair = Pair()
    assert pair.a.engine.send_control(PEER, b"\x01probe")
    pair.b.receive()
    assert pair.b.upcalls.controls == [(PEER, 0x100, 0, b"\x01probe", pair.a.endpoint)]
    assert sizes(pair.a) == [[32 + 2 + 6]]
    other = pair.network.port(Endpoint("10.0.0.9", 1))
    assert pair.a.engine.send_control(PEER, b"\x02", other.endpoint)
    assert other.receive() is not None
    pair.a.engine.send_datagram(b"\x11hello", pair.b.endpoint)
    pair.b.receive()
    assert pair.b.upcalls.handshakes == [(b"\x11hello", pair.a.endpoint)]
    counters = pair.a.engine.peer_counters()[PEER]
    assert (counters.datagrams_out, counters.data_out, counters.frames_out) == (2, 2, 0)
    assert pair.b.engine.peer_counters()[PEER].last_heard == NOW


def test_slots_that_are_no_peers_are_refused() -> None:
    a = Side(MemoryNetwork(), 1)
    for slot in (0, FIRST_PEER - 1, FIRST_PEER + MAX_PEERS):
        with pytest.raises(LocalProtocolError, match="no peer"):
            a.engine.set_path(SlotId(slot), None, 0)


def test_a_pump_ends_in_time_and_says_that_there_is_more() -> None:
    pair = Pair()
    ticks = iter(range(1000))
    pair.a.engine._clock = lambda: next(ticks) * 0.0004  # type: ignore[attr-defined]
    pair.a.frames.to_engine.extend([ARP] * 5)
    assert pair.a.engine.pump_frames(NOW)
    assert len(pair.a.frames.to_engine) == 2
    assert pair.b.receive() == [ARP] * 3
    assert not pair.a.engine.pump_frames(NOW)


def test_a_pump_ends_after_a_mebibyte() -> None:
    pair = Pair()
    data = super_frame(tcp(bytes(60_000)), 1332)
    pair.a.frames.to_engine.extend([data] * 20)
    assert pair.a.engine.pump_frames(NOW)
    assert len(pair.a.frames.to_engine) == 20 - -(-(1 << 20) // len(data))
