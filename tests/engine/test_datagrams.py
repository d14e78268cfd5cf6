"""What is wrong with a datagram: every kind is dropped under its own name, and nothing of it is delivered or kept."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite, new_aead
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.forward.engine.python import PythonEngine
from meshd.forward.engine.tables import MAX_KEY_DATAGRAMS, SendKey
from meshd.forward.entries import EntryKind, encode_entry
from meshd.forward.header import DataHeader, encode_data_header
from meshd.ids import Endpoint
from tests.engine.pair import KEY_AB, PEER, Pair
from tests.engine.reference import arp, capture, super_frame, tcp, unfinished, vnet

FRAME = capture(arp())
INDEX = 0x100  # of b's receive key in a Pair


def one_datagram(pair: Pair) -> bytes:
    """Seal a frame at a; it is not delivered."""
    pair.network.fault = lambda *_: ()
    pair.a.send(FRAME)
    pair.network.fault = None
    return pair.a.port.sent[-1][0]


def arrive(pair: Pair, *datagrams: bytes) -> list[bytes]:
    for datagram in datagrams:
        pair.b.port.deliver(datagram, pair.a.endpoint)
    return pair.b.receive()


def sealed(
    counter: int, plain: bytes, flags: int = 0, segment: int = 0, index: int = INDEX, key: bytes = KEY_AB
) -> bytes:
    """A datagram made by hand, with whatever is wrong inside."""
    header = encode_data_header(DataHeader(flags, segment, index, counter))
    return header + new_aead(Suite.AES_256_GCM, key).seal(bytes(4) + counter.to_bytes(8, "little"), plain, header)


@pytest.mark.parametrize("suite", list(Suite))
def test_every_flipped_bit_is_noticed(suite: Suite) -> None:
    pair = Pair(suite=suite)
    good = one_datagram(pair)
    flips = [(at, bit) for at in range(len(good)) for bit in range(8)]
    for at, bit in flips:
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        assert arrive(pair, bytes(bad)) == []
    assert pair.b.upcalls.confirmed == []
    assert sum(pair.b.drops.values()) + len(pair.b.upcalls.handshakes) == len(flips)
    assert set(pair.b.drops) == {"bad_tag", "unknown_index", "unknown_segment", "unknown_version"}
    assert len(pair.b.upcalls.handshakes) == 4  # another type: the node's gate looks at it
    assert arrive(pair, good) == [FRAME]


def test_every_truncation_is_noticed() -> None:
    pair = Pair()
    good = one_datagram(pair)
    for size in range(1, len(good)):
        assert arrive(pair, good[:size]) == []
    assert set(pair.b.drops) == {"truncated", "bad_tag"}
    assert pair.b.drops["truncated"] == 31
    assert arrive(pair, good + b"\0") == []
    assert arrive(pair, good) == [FRAME]


def test_replayed_and_too_old() -> None:
    pair = Pair()
    first = one_datagram(pair)
    assert arrive(pair, first, first) == [FRAME]
    assert arrive(pair, first) == []
    assert pair.b.drops == {"replayed": 2}
    assert arrive(pair, sealed(10_000, encode_entry(EntryKind.FRAME, FRAME[10:]))) == [FRAME]
    assert arrive(pair, sealed(1, b"")) == []
    assert pair.b.drops == {"replayed": 2, "too_old": 1}


def test_reflected_and_foreign() -> None:
    pair = Pair()
    mine = one_datagram(pair)
    pair.a.port.deliver(mine, pair.b.endpoint)
    assert pair.a.receive() == []
    assert pair.a.drops == {"unknown_index": 1}
    assert arrive(pair, sealed(3, b"", key=b"\x77" * 32), sealed(4, b"", index=99)) == []
    assert pair.b.drops == {"bad_tag": 1, "unknown_index": 1}


def test_reordered_datagrams_all_arrive_and_order_within_a_datagram_holds() -> None:
    pair = Pair()
    held: list[bytes] = []

    def hold(_: Endpoint, __: Endpoint, datagram: bytes) -> Iterable[bytes]:
        held.append(datagram)
        return ()

    pair.network.fault = hold
    pair.a.send(super_frame(tcp(bytes(13_320)), 1332))
    written = arrive(pair, *reversed(held))
    assert len(written) == 10
    assert pair.b.drops == {}
    assert arrive(pair, *held) == []
    assert pair.b.drops == {"replayed": 10}


def test_a_loss_in_the_middle_costs_one_segment() -> None:
    lost = 3
    seen = 0

    def lose(_: Endpoint, __: Endpoint, datagram: bytes) -> Iterable[bytes]:
        nonlocal seen
        seen += 1
        return () if seen == lost else (datagram,)

    pair = Pair()
    assert pair.carry(unfinished(tcp(b"now key and flow are known")))
    pair.network.fault = lose
    written = pair.carry(super_frame(tcp(bytes(13_320)), 1332))
    assert sum(len(data) for data in written) == 13_320 - 1332 + 2 * (10 + 54)
    assert pair.b.engine.peer_counters()[PEER].frames_in == 1 + 9


def test_a_duplicate_and_a_forgery_inside_a_series() -> None:
    def twice(_: Endpoint, __: Endpoint, datagram: bytes) -> Iterable[bytes]:
        forged = bytearray(datagram)
        forged[40] ^= 1
        return bytes(forged), datagram, datagram

    pair = Pair(twice)
    written = pair.carry(super_frame(tcp(bytes(13_320)), 1332))
    assert sum(len(data) - 64 for data in written) == 13_320
    assert pair.b.drops == {"bad_tag": 10, "replayed": 10}
    counters = pair.b.engine.peer_counters()[PEER]
    assert (counters.datagrams_in, counters.bytes_in) == (10, 10 * (1332 + 54 + 34))


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (b"\x05", "bad_entry"),
        (b"\x05\x00abcd", "bad_entry"),
        (encode_entry(EntryKind.FRAGMENT, bytes(40)), "bad_fragment"),
        (encode_entry(EntryKind.FLOOD, bytes(17)), "bad_entry"),
        (encode_entry(EntryKind.FRAME, bytes(13)), "bad_frame"),
        (encode_entry(EntryKind.FLOOD, bytes(18 + 13)), "bad_frame"),
    ],
)
def test_bad_entries_cost_only_what_comes_after(plain: bytes, reason: str) -> None:
    pair = Pair()
    good = encode_entry(EntryKind.FRAME, FRAME[10:])
    assert arrive(pair, sealed(1, good + plain)) == [FRAME]
    assert pair.b.drops == {reason: 1}


def test_a_vouched_frame_without_a_checksum_is_a_lie() -> None:
    pair = Pair()
    assert arrive(pair, sealed(1, encode_entry(EntryKind.FRAME, FRAME[10:]), flags=1)) == []
    assert pair.b.drops == {"bad_frame": 1}


def test_other_types_go_to_the_node_unread() -> None:
    pair = Pair()
    arrive(pair, b"\x11\0\0\0" + bytes(144), b"\x2f", b"\x21\0\0\0", b"\x24\0\0\0" + bytes(60))
    assert [data[:1] for data, _ in pair.b.upcalls.handshakes] == [b"\x11", b"\x21"]
    assert pair.b.upcalls.handshakes[0][1] == pair.a.endpoint
    assert pair.b.drops == {"truncated": 1, "unknown_version": 1}


def test_both_keys_open_while_both_are_there() -> None:
    pair = Pair()
    old = one_datagram(pair)
    pair.b.engine.add_receive_key(0x777, PEER, Suite.CHACHA20_POLY1305, b"\x55" * 32)
    pair.a.engine.set_send_key(PEER, Suite.CHACHA20_POLY1305, b"\x55" * 32, 0x777)
    new = one_datagram(pair)
    assert arrive(pair, new, old) == [FRAME, FRAME]
    assert pair.b.upcalls.confirmed == [0x777, INDEX]
    pair.b.engine.drop_receive_key(INDEX)
    assert arrive(pair, sealed(9, b"")) == []
    assert pair.b.drops == {"unknown_index": 1}
    assert pair.a.engine.peer_counters()[PEER].data_out == 1
    assert pair.b.engine.peer_counters()[PEER].datagrams_in == 2


def test_a_key_is_never_started_twice_and_an_index_never_given_twice() -> None:
    pair = Pair()
    with pytest.raises(LocalProtocolError, match="nonces"):
        pair.a.engine.set_send_key(PEER, Suite.AES_256_GCM, KEY_AB, 5)
    with pytest.raises(LocalProtocolError, match="in use"):
        pair.b.engine.add_receive_key(INDEX, PEER, Suite.AES_256_GCM, KEY_AB)


def key_of(pair: Pair) -> SendKey:
    """What a seals with."""
    assert isinstance(pair.a.engine, PythonEngine)
    key = pair.a.engine._peers[PEER].send_key
    assert key is not None
    return key


def test_a_key_is_refused_at_its_last_datagram() -> None:
    pair = Pair()
    key = key_of(pair)
    key.counter = MAX_KEY_DATAGRAMS - 1
    assert pair.carry(FRAME) == [FRAME]
    assert pair.carry(FRAME, super_frame(tcp(bytes(5000)), 1332)) == []
    assert not pair.a.engine.send_control(PEER, b"\x01")
    assert pair.a.drops == {"key_expired": 1 + 4 + 1}


def test_what_goes_before_a_super_frame_counts_towards_the_last_datagram_of_a_key() -> None:
    pair = Pair()
    assert pair.carry(FRAME) == [FRAME]
    key = key_of(pair)
    key.counter = MAX_KEY_DATAGRAMS - 4
    assert pair.carry(FRAME, super_frame(tcp(bytes(5000)), 1332)) == [FRAME]
    assert key.counter == MAX_KEY_DATAGRAMS - 3
    assert pair.a.drops == {"key_expired": 4}


def test_kernel_drops_are_counted_as_they_grow() -> None:
    pair = Pair()
    pair.b.port.overflow = 5
    pair.carry(FRAME)
    pair.b.port.overflow = 7
    pair.carry(FRAME)
    assert pair.b.engine.drops[DropReason.KERNEL_UDP] == 7


def test_a_tap_that_is_down_is_counted() -> None:
    pair = Pair()
    pair.b.frames.up = False
    assert pair.carry(FRAME) == []
    assert pair.b.drops == {"tap_down": 1}


def test_each_frame_of_a_super_frame_that_cannot_be_written_is_counted() -> None:
    """However many of them were put together."""
    pair = Pair()
    assert pair.carry(FRAME) == [FRAME]
    pair.b.frames.up = False
    assert pair.carry(super_frame(tcp(bytes(13_000)), 1300)) == []
    assert pair.b.drops == {"tap_down": 10}
    assert pair.b.engine.peer_counters()[PEER].frames_in == 1 + 10


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 3))
def test_any_plaintext_is_survived(plain: bytes, vouched: bool, kind: int) -> None:
    pair = Pair()
    entry = encode_entry(EntryKind(kind), plain)
    arrive(pair, sealed(1, plain, flags=vouched), sealed(2, entry, flags=vouched))


@given(st.binary(min_size=1, max_size=200), st.integers(1, 200))
def test_any_datagram_is_survived(data: bytes, size: int) -> None:
    pair = Pair()
    pair.b.port.group = True
    arrive(pair, data, data[:size], b"\x14\0\0\0" + INDEX.to_bytes(4, "little") + data)
    assert pair.b.upcalls.confirmed == []


real = st.sampled_from(
    [unfinished(tcp(b"abc")), super_frame(tcp(bytes(3000)), 1000), super_frame(tcp(bytes(99), 6), 40)]
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A real capture with some bytes of its headers changed, or cut, or grown."""
    data = bytearray(draw(real))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4)):
        data[at % len(data)] = value
    size = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    return bytes(data[:size]) + draw(st.sampled_from([b"", b"\0" * 5]))


@given(st.lists(st.one_of(st.binary(max_size=120), mangled()), min_size=1, max_size=4))
def test_any_capture_is_survived_and_followed_by_good_ones(captured: list[bytes]) -> None:
    pair = Pair()
    pair.carry(*captured)
    assert FRAME in pair.carry(FRAME)


def test_runts_and_liars_are_bad_frames() -> None:
    pair = Pair()
    good = super_frame(tcp(bytes(3000)), 1000)
    lies = [
        b"",
        vnet() + bytes(13),
        vnet(1, 1, 54, 1000, 34, 16) + good[10:-1],  # shorter than its IP header says
        vnet(0, 1, 54, 1000, 34, 16) + good[10:],  # a super-frame without a partial checksum
        vnet(1, 4, 54, 1000, 34, 16) + good[10:],  # IPv6, it says
        vnet(1, 3, 54, 1000, 34, 16) + good[10:],  # UFO, which nobody asked for
        vnet(1, 1, 54, 0, 34, 16) + good[10:],
        vnet(1, 1, 54, 1000, 36, 16) + good[10:],
        vnet(1, 0, 0, 0, 60, 40) + FRAME[10:],  # a checksum outside the frame
    ]
    assert pair.carry(*lies) == []
    assert pair.a.drops == {"bad_frame": len(lies)}


def test_a_checksum_where_no_header_is_gets_completed_at_its_place() -> None:
    pair = Pair()
    frame = b"\x02" * 12 + b"\x88\xb5" + b"\x12\x34\x00\x00\x56\x78"
    (written,) = pair.carry(vnet(1, start=14, offset=2) + frame)
    assert written == vnet() + frame[:16] + (0xFFFF - 0x1234 - 0x5678).to_bytes(2, "big") + frame[18:]
