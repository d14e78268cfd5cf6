"""Frames that do not fit their path: cut, told about, sent in pieces; what arrives is what was sent."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet import ICMP, IP, TCPAOValue
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.layers.l2 import Ether

from meshd.crypto.aead import Suite, new_aead
from meshd.forward.engine.interface import Verdict
from meshd.forward.engine.oversize import TOO_BIG_BURST
from meshd.forward.entries import MAX_ENTRY_SIZE, EntryKind, encode_entry
from meshd.forward.header import data_header_head
from meshd.forward.slots import FIRST_PEER, FLOOD
from meshd.ids import Endpoint, SegmentId, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.pair import KEY_AB, NOW, PEER, Pair, Side
from tests.engine.reference import A_MAC, B_MAC, arp, capture, complete, cut, super_frame, tcp, udp, unfinished
from tests.ones import checksum

SMALL = 600  # datagram of the path


def narrow(size: int = SMALL, *, measured: bool = False) -> Pair:
    pair = Pair(size=size)
    pair.a.engine.set_path(PEER, pair.b.endpoint, size, measured=measured)
    return pair


def whole(written: list[bytes]) -> list[bytes]:
    return [frame for data in written for frame in complete(data)]


def largest(side: Side) -> int:
    return max(len(datagram) for datagrams in side.port.sent for datagram in datagrams)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [SMALL, 433, 1200])
def test_udp_arrives_in_pieces(version: int, size: int) -> None:
    pair = narrow(size)
    packet = udp(bytes(range(250)) * 6, version)
    assert whole(pair.carry(capture(packet), unfinished(packet))) == [bytes(packet)] * 2
    assert largest(pair.a) <= size
    assert pair.a.engine.peer_counters()[PEER].frames_out == 2
    assert pair.b.engine.peer_counters()[PEER].frames_in == 2
    assert pair.a.drops == pair.b.drops == {}


def test_pieces_leave_in_the_order_of_capture_and_share_datagrams_with_small_frames() -> None:
    pair = narrow()
    large, small = udp(bytes(1300)), udp(b"small")
    assert pair.carry(capture(small), capture(large), capture(small), capture(arp())) == [
        capture(small),
        capture(large),
        capture(small),
        capture(arp()),
    ]
    assert largest(pair.a) <= SMALL


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("vouched", [True, False])
def test_single_tcp_frames_are_cut_like_super_frames(version: int, vouched: bool) -> None:
    pair = narrow()
    packet = tcp(bytes(range(250)) * 5, version, flags="PA")
    written = pair.carry(unfinished(packet) if vouched else capture(packet))
    head = len(bytes(packet)) - 1250
    assert whole(written) == cut(packet, SMALL - 34 - head)
    assert largest(pair.a) == SMALL
    assert pair.a.engine.peer_counters()[PEER].frames_out == 3


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "options",
    [
        [("MD5", bytes(16))],
        [("NOP", None), ("Timestamp", (9, 8)), ("AO", TCPAOValue(keyid=1, rnextkeyid=2, mac=bytes(12)))],
    ],
    ids=["MD5", "AO"],
)
def test_a_signed_tcp_frame_is_not_cut(version: int, options: list[object]) -> None:
    """The signature is over the whole segment: its receiver would drop every part."""
    pair = narrow()
    packet = tcp(bytes(range(250)) * 5, version, options=options)
    assert whole(pair.carry(unfinished(packet), capture(packet))) == [bytes(packet)] * 2
    assert pair.a.engine.peer_counters()[PEER].frames_out == 2


@pytest.mark.parametrize("options", [b"\x00\x13\x12\x00", b"\x01\x08\x01\x13", b"\x01\x01\x08\x13"])
def test_what_only_looks_like_a_signature_is_none(options: bytes) -> None:
    """Behind the end of the options, behind a length that cannot be, within another option."""
    pair = narrow()
    packet = tcp(bytes(1250), options=[("NOP", None)] * 4)
    frame = bytearray(bytes(packet))
    frame[54:58] = options
    frame[50:52] = bytes(2)
    frame[50:52] = checksum(pseudo_header(frame) + frame[34:]).to_bytes(2, "big")
    pair.carry(capture(bytes(frame)))
    assert pair.a.engine.peer_counters()[PEER].frames_out == 3


def pseudo_header(frame: bytes | bytearray) -> bytes:
    """Of TCP over IPv4."""
    return bytes(frame[26:34]) + (6).to_bytes(2, "big") + (len(frame) - 34).to_bytes(2, "big")


def test_a_tcp_frame_whose_checksum_is_wrong_arrives_wrong() -> None:
    pair = narrow()
    packet = bytearray(bytes(tcp(bytes(1250))))
    packet[-1] ^= 1
    assert pair.carry(capture(bytes(packet))) == [capture(bytes(packet))]


@pytest.mark.parametrize("flags", ["S", "R", "UA"])
def test_tcp_that_is_no_plain_segment_goes_in_pieces(flags: str) -> None:
    pair = narrow()
    packet = tcp(bytes(1250), flags=flags)
    assert pair.carry(capture(packet)) == [capture(packet)]


def test_udp_super_frames_keep_their_datagrams() -> None:
    pair = narrow()
    packet = udp(bytes(range(250)) * 14)
    assert whole(pair.carry(super_frame(packet, 1332))) == cut(packet, 1332)
    assert pair.a.drops == {}


def test_a_path_that_takes_no_pieces_is_too_small() -> None:
    pair = narrow(200)
    assert pair.carry(capture(udp(bytes(500)))) == []
    assert pair.a.drops == {"too_big": 1}


def test_what_is_larger_than_an_entry_is_dropped() -> None:
    pair = Pair(size=60_000)
    assert pair.carry(capture(udp(bytes(17_000)))) == []
    assert pair.a.drops == {"too_big": 1}


def test_jumbo_frames_need_no_pieces_on_a_jumbo_path() -> None:
    pair = Pair(size=8972)
    packet = udp(bytes(8800))
    assert pair.carry(capture(packet)) == [capture(packet)]
    assert len(pair.a.port.sent) == 1
    assert largest(pair.a) == 34 + len(bytes(packet))


def test_large_aggregates_where_the_path_was_confirmed() -> None:
    pair = Pair(size=8972)
    frames = [capture(udp(bytes(500))) for _ in range(20)]
    pair.carry(*frames)
    assert largest(pair.a) <= 1280
    pair.a.port.sent.clear()
    pair.a.engine.set_path(PEER, pair.b.endpoint, 8972, aggregate_limit=8972)
    assert pair.carry(*frames) == frames
    assert 8000 < largest(pair.a) <= 8972


# ── losing, copying and reordering pieces


def test_a_lost_piece_costs_its_frame_and_no_other() -> None:
    lost = itertools.count()
    network_drops = {1}
    pair = Pair(fault=lambda source, destination, data: [] if next(lost) in network_drops else [data], size=SMALL)
    one, other = udp(b"1" * 1300), udp(b"2" * 1300)
    assert pair.carry(capture(one), capture(other)) == [capture(other)]
    pair.b.now = pair.a.now = NOW + 1.5
    assert pair.carry(capture(other)) == [capture(other)]
    assert pair.b.drops == {"fragment_lost": 1}


def test_pieces_in_reverse_order() -> None:
    held: list[bytes] = []

    def hold(source: Endpoint, destination: Endpoint, data: bytes) -> list[bytes]:
        held.append(data)
        return []

    pair = Pair(fault=hold, size=SMALL)
    packet = udp(bytes(range(200)) * 7)
    pair.a.send(capture(packet))
    for datagram in reversed(held):
        pair.b.port.deliver(datagram, pair.a.endpoint)
    assert pair.b.receive() == [capture(packet)]


def test_pieces_of_nonsense_are_counted() -> None:
    pair = Pair()
    for counter, plain in enumerate(
        [encode_entry(EntryKind.FRAGMENT, b""), encode_entry(EntryKind.FRAGMENT, bytes(200))]
    ):
        head = data_header_head(0, SegmentId(0), 0x100) + counter.to_bytes(8, "little")
        sealed = new_aead(Suite.AES_256_GCM, KEY_AB).seal(bytes(4) + counter.to_bytes(8, "little"), plain, head)
        pair.b.port.deliver(head + sealed, pair.a.endpoint)
    assert pair.b.receive() == []
    assert pair.b.drops == {"bad_fragment": 1}  # the second one waits for the others


# ── floods


def test_floods_go_in_pieces_and_are_passed_on_whole_where_they_fit() -> None:
    network = MemoryNetwork()
    a, b, c = (Side(network, number) for number in (1, 2, 3))
    a.know(b, PEER, b"\x01" * 32, size=SMALL)
    b.know(a, PEER, b"\x02" * 32, size=SMALL)
    b.know(c, SlotId(FIRST_PEER + 1), b"\x03" * 32, size=1472)
    a.upcalls.outbound = Verdict(FLOOD)
    a.upcalls.children = {a.origin: [PEER]}
    b.upcalls.children = {a.origin: [SlotId(FIRST_PEER + 1)]}
    c.upcalls.children = {a.origin: []}
    packet = udp(bytes(range(250)) * 5)
    a.send(capture(packet), super_frame(packet, 900))
    expected = [bytes(packet), *cut(packet, 900)]
    assert whole(b.receive()) == expected
    assert whole(c.receive()) == expected
    assert largest(a) <= SMALL
    assert len(b.port.sent) == 2  # nothing in pieces any more
    assert a.drops == b.drops == c.drops == {}


# ── telling the sender


def told(side: Side) -> list[Ether]:
    return [Ether(data[10:]) for data in side.frames.take()]


def test_the_sender_is_told_and_the_frame_goes_all_the_same() -> None:
    pair = narrow(measured=True)
    packet = udp(bytes(1300))
    assert pair.carry(capture(packet)) == [capture(packet)]
    (answer,) = told(pair.a)
    assert (answer.src, answer.dst) == (B_MAC, A_MAC)
    assert answer[ICMP].nexthopmtu == SMALL - 34 - 14
    assert answer[IP].dst == packet[IP].src
    packet = udp(bytes(1300), 6)
    assert pair.carry(capture(packet)) == [capture(packet)]
    (answer,) = told(pair.a)
    assert answer[ICMPv6PacketTooBig].mtu == 1280
    fits = udp(bytes(SMALL - 34 - 42))
    assert pair.carry(capture(fits)) == [capture(fits)]
    assert told(pair.a) == []


def test_nobody_is_told_while_the_path_is_not_measured_or_about_tcp_or_floods() -> None:
    pair = narrow()
    pair.a.send(capture(udp(bytes(1300))))
    assert told(pair.a) == []
    pair = narrow(measured=True)
    pair.a.send(capture(tcp(bytes(1300))))
    assert told(pair.a) == []
    pair.a.upcalls.outbound = Verdict(FLOOD)
    pair.a.upcalls.children = {pair.a.origin: [PEER]}
    pair.a.engine.void_flows()
    pair.a.send(capture(udp(bytes(1300))))
    assert told(pair.a) == []


def test_answers_are_few() -> None:
    pair = narrow(measured=True)
    pair.a.send(*[capture(udp(bytes(1300)))] * 100)
    assert len(told(pair.a)) == TOO_BIG_BURST
    pair.a.now = NOW + 0.5
    pair.a.send(*[capture(udp(bytes(1300)))] * 100)
    assert len(told(pair.a)) == 5
    assert len(pair.b.receive()) == 200
    assert pair.b.drops == {}


def test_a_path_that_shrinks_and_grows_again() -> None:
    pair = Pair()
    packet, stream = udp(bytes(1300)), tcp(bytes(5000))
    for size in (1472, SMALL, 1000, 524, 1472):
        pair.a.engine.set_path(PEER, pair.b.endpoint, size)
        written = pair.carry(capture(packet)) + pair.carry(super_frame(stream, 1332))
        fits = min(1332, size - 34 - 54)
        assert whole(written) == [bytes(packet), *cut(stream, fits)]


def test_waiting_frames_go_in_pieces_too() -> None:
    pair = narrow()
    pair.a.engine.drop_send_key(PEER)
    packet = udp(bytes(1300))
    pair.a.send(capture(packet))
    pair.a.engine.set_send_key(PEER, Suite.AES_256_GCM, b"\x77" * 32, 900)
    pair.b.engine.add_receive_key(900, PEER, Suite.AES_256_GCM, b"\x77" * 32)
    assert pair.b.receive() == [capture(packet)]


def test_no_answer_without_a_port() -> None:
    pair = narrow(measured=True)
    pair.a.engine.set_path(PEER, Endpoint("fd00::1", 6783), SMALL, measured=True)
    pair.a.send(capture(udp(bytes(1300))))
    assert told(pair.a) == []


def test_a_path_wider_than_an_entry_cuts_to_the_entry() -> None:
    """14 bits of length: a segment beyond them would be an entry that lies."""
    pair = narrow(60_000)
    packet = tcp(bytes(range(250)) * 80, flags="A")
    written = pair.carry(capture(packet))
    head = len(bytes(packet)) - 20_000
    assert whole(written) == cut(packet, MAX_ENTRY_SIZE - head)
    assert pair.a.drops == pair.b.drops == {}
