"""Type 8: three engines in a row, a – r – b, where a and b have no path of their own; and the codec by itself."""

from __future__ import annotations

import json

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite, new_aead, nonce
from meshd.crypto.session import relay_key
from meshd.errors import DecodeError
from meshd.forward.relay import (
    RELAY_HEADER_SIZE,
    RELAY_OVERHEAD,
    RELAY_TTL,
    RelayHeader,
    decode_relay_header,
    encode_relay_header,
    hop_head,
    relay_suite,
    route_half,
)
from meshd.ids import Endpoint, Relayed, ShortId
from tests.engine import make_relay_vectors
from tests.engine.reference import capture, complete, cut, ether, super_frame, tcp
from tests.engine.row import ONE, SIZE, TWO, Row

SUITES = list(Suite)


def frame(payload: bytes = b"hello mesh") -> bytes:
    return capture(bytes(ether())[:12] + b"\x88\xb5" + payload)


def bulk(size: int) -> bytes:
    return super_frame(tcp(bytes(size)), 1300)


# ── the codec


@pytest.mark.parametrize("number", range(3))
def test_pinned(number: int) -> None:
    vectors = json.loads(make_relay_vectors.VECTORS.read_text())
    assert vectors == make_relay_vectors.vectors()
    row = vectors["datagrams"][number]
    suite, key = Suite[row["suite"]], relay_key(bytes.fromhex(vectors["session_key"]))
    assert key.hex() == vectors["relay_key"]
    datagram = bytes.fromhex(row["datagram"])
    header = decode_relay_header(datagram)
    destination, source = ShortId(bytes.fromhex(vectors["destination"])), ShortId(bytes.fromhex(vectors["source_id"]))
    assert header == RelayHeader(0, row["receiver"], row["counter"], destination, source, row["ttl"])
    assert encode_relay_header(header) == datagram[:RELAY_HEADER_SIZE]
    assert hop_head(header.receiver) + datagram[8:16] + route_half(destination, source, header.ttl) == datagram[:36]
    assert datagram[RELAY_HEADER_SIZE:-16].hex() == row["inner"]
    tag = new_aead(relay_suite(suite), key).seal(nonce(header.counter), b"", datagram[:-16])
    assert tag == datagram[-16:]
    for at in range(len(datagram)):
        flipped = bytearray(datagram)
        flipped[at] ^= 1
        with pytest.raises(InvalidTag):
            new_aead(relay_suite(suite), key).open(nonce(header.counter), flipped[-16:], flipped[:-16])


short_ids = st.binary(min_size=8, max_size=8).map(ShortId)
headers = st.builds(
    RelayHeader, st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), short_ids, short_ids,
    st.integers(0, 255),
)  # fmt: skip


@given(headers, st.binary(min_size=20, max_size=100))
def test_headers_come_back(header: RelayHeader, rest: bytes) -> None:
    assert decode_relay_header(encode_relay_header(header) + rest) == header


@given(st.binary(max_size=120))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        header = decode_relay_header(data)
    except DecodeError:
        assert len(data) < RELAY_OVERHEAD + 4 or data[0] != 0x18
    else:
        again = bytearray(encode_relay_header(header))
        again[1], again[33:36] = data[1], data[33:36]  # flags and reserved bytes mean nothing
        assert again == data[:RELAY_HEADER_SIZE]


# ── on the way


@pytest.mark.parametrize("suite", SUITES)
def test_a_frame_and_a_super_frame_pass_a_relay(suite: Suite) -> None:
    row = Row(suite)
    plain = frame()
    assert [got[10:] for got in row.carry(plain)] == [plain[10:]]
    segments = [got for written in row.carry(bulk(60_000)) for got in complete(written)]
    assert segments == cut(tcp(bytes(60_000)), 1300)
    assert not row.a.drops
    assert not row.r.drops
    assert not row.b.drops
    counters = row.r.engine.peer_counters()
    assert counters[TWO].relayed_out == counters[TWO].data_out == 1 + len(segments)
    assert counters[TWO].relayed_bytes_out == sum(len(datagram) for call in row.r.port.sent for datagram in call)
    assert max(len(call) for call in row.r.port.sent) > 40  # as it came: in runs
    assert all(sum(map(len, call)) <= 64_000 for side in (row.a, row.r) for call in side.port.sent)


def test_the_relay_cannot_open_what_it_passes_on() -> None:
    row = Row()
    row.a.send(frame())
    (datagram,) = row.on_the_wire()
    inner = datagram[RELAY_HEADER_SIZE:-16]
    assert inner[0] == 0x14
    for one in (row.a, row.b, row.r):
        for other in (row.a, row.b, row.r):
            key = bytes([one.origin[0]]) * 16 + bytes([other.origin[0]]) * 16
            end_to_end = (one, other) == (row.a, row.b)
            for secret in (key, relay_key(key)):
                cipher = new_aead(Suite.AES_256_GCM, secret)
                counter = nonce(int.from_bytes(inner[8:16], "little"))
                if end_to_end and secret is key:
                    assert cipher.open(counter, inner[16:], inner[:16])
                else:
                    with pytest.raises(InvalidTag):
                        cipher.open(counter, inner[16:], inner[:16])


def test_control_and_handshakes_say_from_whom_they_are() -> None:
    row = Row()
    probe = b"\x01" + bytes(16)
    assert row.a.engine.send_control(TWO, probe, Relayed(row.b.origin), via=ONE)
    row.a.engine.send_relayed(b"\x11" + bytes(147), row.b.origin, ONE)
    row.pass_on()
    assert row.b.receive() == []
    ((slot, _, _, body, source),) = row.b.upcalls.controls
    assert (slot, body, source) == (TWO, probe, Relayed(row.a.origin))
    assert row.b.upcalls.newest == [True]
    assert row.b.upcalls.handshakes == [(b"\x11" + bytes(147), Relayed(row.a.origin))]


@pytest.mark.parametrize("first", [0x15, 0x16, 0x17, 0x18, 0x10, 0x1F])
def test_only_types_1_to_4_are_inside(first: int) -> None:
    row = Row()
    row.a.engine.send_relayed(bytes([first]) + bytes(147), row.b.origin, ONE)
    row.pass_on()
    assert row.b.receive() == []
    assert row.b.drops == {"unknown_type": 1}
    assert row.b.upcalls.handshakes == []


def test_a_relayed_datagram_confirms_the_hops_key() -> None:
    row = Row()
    row.a.send(frame())
    row.pass_on()
    assert row.r.upcalls.confirmed == [row.a.index_of(ONE)]


def test_every_flipped_bit_is_noticed_by_the_next_hop() -> None:
    row = Row()
    row.a.send(frame())
    (datagram,) = row.on_the_wire()
    row.pass_on()
    sent = len(row.r.port.sent)
    for at in range(1, len(datagram)):
        flipped = bytearray(datagram)
        flipped[at] ^= 0x10
        row.network.carry(Endpoint("10.0.0.66", 1), row.r.endpoint, bytes(flipped))
        row.pass_on()
    assert len(row.r.port.sent) == sent
    assert set(row.r.drops) <= {"bad_tag", "unknown_index", "unknown_segment", "replayed", "too_old"}


def test_copies_and_cuts_are_dropped() -> None:
    row = Row()
    row.a.send(bulk(13_000))
    wire = row.on_the_wire()
    row.pass_on()
    (whole,) = row.b.receive()
    for datagram in wire:
        row.network.carry(row.a.endpoint, row.r.endpoint, datagram)
    row.pass_on()
    assert row.r.drops == {"replayed": len(wire)}
    for size in (1, 10, 35, 52, 55):
        row.network.carry(row.a.endpoint, row.r.endpoint, wire[0][:size])
    row.pass_on()
    assert row.r.drops == {"replayed": len(wire), "truncated": 5}
    assert row.b.receive() == []
    assert whole


@given(st.lists(st.sampled_from(["keep", "lose", "copy", "flip"]), min_size=12, max_size=12))
def test_runs_with_faults_in_them_lose_only_what_is_faulty(plan: list[str]) -> None:
    """Copies, losses and flips in the middle of a run: what is whole is passed on, once."""
    row = Row()
    row.a.send(*(frame(payload=bytes([number]) * 900) for number in range(12)))
    wire = row.on_the_wire()
    assert len(wire) == 12
    while row.r.port.receive() is not None:
        pass
    for datagram, fate in zip(wire, plan, strict=True):
        copies = {"keep": 1, "lose": 0, "copy": 2, "flip": 1}[fate]
        flipped = datagram[:-1] + bytes([datagram[-1] ^ (fate == "flip")])
        for _ in range(copies):
            row.network.carry(row.a.endpoint, row.r.endpoint, flipped)
    row.pass_on()
    got = [data[-1] for data in row.b.receive()]
    assert got == [number for number, fate in enumerate(plan) if fate in ("keep", "copy")]


# ── what is not passed on


def test_nothing_goes_back_where_it_came_from() -> None:
    row = Row()
    row.r.upcalls.routes = {row.b.origin: ONE}
    assert row.carry(frame()) == []
    assert row.r.drops == {"relay_loop": 1}


def test_without_a_route_and_asked_once() -> None:
    row = Row()
    row.r.upcalls.routes = {}
    large = frame(bytes(900))  # two of them share no datagram
    assert row.carry(large, large) == []
    assert row.r.drops == {"relay_no_route": 2}
    assert row.carry(large) == []
    assert row.r.drops == {"relay_no_route": 3}
    assert row.r.upcalls.asked_routes == [row.b.origin]
    row.r.upcalls.routes = {row.b.origin: TWO}
    row.r.engine.void_routes()
    assert row.carry(frame()) != []


def test_what_has_passed_too_many_hosts_ends() -> None:
    row = Row()
    header = RelayHeader(0, row.a.index_of(ONE), 0, row.b.origin, row.a.origin, 1)
    key = relay_key(bytes([1]) * 16 + bytes([2]) * 16)
    covered = encode_relay_header(header) + b"\x14" + bytes(40)
    tag = new_aead(Suite.AES_256_GCM, key).seal(nonce(0), b"", covered)
    row.network.carry(row.a.endpoint, row.r.endpoint, covered + tag)
    row.pass_on()
    assert row.r.drops == {"relay_ttl": 1}


def test_one_hop_less_each_time() -> None:
    row = Row()
    row.a.send(frame())
    row.pass_on()
    ((onward,),) = row.r.port.sent
    assert decode_relay_header(row.on_the_wire()[0]).ttl == RELAY_TTL
    assert decode_relay_header(onward).ttl == RELAY_TTL - 1


def test_our_own_come_back() -> None:
    row = Row()
    row.a.engine.send_relayed(b"\x14" + bytes(40), ShortId(b"\x09" * 8), ONE)
    row.r.upcalls.routes = {ShortId(b"\x09" * 8): ONE}
    key = relay_key(bytes([2]) * 16 + bytes([1]) * 16)
    header = RelayHeader(0, row.r.index_of(ONE), 0, ShortId(b"\x09" * 8), row.a.origin, 9)
    covered = encode_relay_header(header) + b"\x14" + bytes(40)
    row.network.carry(
        row.r.endpoint, row.a.endpoint, covered + new_aead(Suite.AES_256_GCM, key).seal(nonce(0), b"", covered)
    )
    assert row.a.receive() == []
    assert row.a.drops == {"relay_loop": 1}


def test_a_key_without_a_relay_key_relays_nothing() -> None:
    row = Row()
    row.r.engine.set_send_key(TWO, Suite.AES_256_GCM, b"\x77" * 32, 9)
    assert row.carry(frame()) == []
    assert row.r.drops == {"no_session": 1}
    row.r.engine.drop_receive_key(row.a.index_of(ONE))
    row.r.engine.add_receive_key(row.a.index_of(ONE), ONE, Suite.AES_256_GCM, b"\x01" * 16 + b"\x02" * 16)
    assert row.carry(frame()) == []
    assert row.r.drops == {"no_session": 1, "unknown_index": 1}


@pytest.mark.parametrize("room", [0, 3, 46, 47])
def test_at_the_source_only_what_was_not_sent_is_lost(room: int) -> None:
    """With what a relay adds they are two sends: each may be cut short."""
    row = Row()
    assert row.carry(frame()) == [frame()]
    before = row.a.engine.peer_counters()[ONE].relayed_bytes_out
    packet, size = tcp(bytes(48 * 1220)), 1220
    row.a.port.room[row.r.endpoint] = room
    assert [data for written in row.carry(super_frame(packet, size)) for data in complete(written)] == cut(
        packet, size
    )[:room]
    via, end = (row.a.engine.peer_counters()[slot] for slot in (ONE, TWO))
    each = size + 54 + 34 + RELAY_OVERHEAD
    assert (via.relayed_out, via.data_out, via.relayed_bytes_out - before) == (1 + room, 1 + room, room * each)
    assert (end.frames_out, end.datagrams_out) == (1 + 48, 1 + room)
    assert row.a.drops == {"queue_full": 48 - room}


@pytest.mark.parametrize("room", [0, 3])
def test_at_the_relay_only_what_was_not_sent_is_lost(room: int) -> None:
    row = Row()
    assert row.carry(frame()) == [frame()]
    packet, size = tcp(bytes(13_000)), 1300
    row.r.port.room[row.b.endpoint] = room
    assert [data for written in row.carry(super_frame(packet, size)) for data in complete(written)] == cut(
        packet, size
    )[:room]
    assert row.r.engine.peer_counters()[TWO].relayed_out == 1 + room
    assert row.r.drops == {"queue_full": 10 - room}


def test_a_relay_is_reached_directly_or_not_at_all() -> None:
    row = Row()
    row.r.engine.set_path(TWO, Relayed(row.b.origin), SIZE, via=ONE)
    assert row.carry(frame()) == []
    assert row.r.drops == {"no_path": 1}
    row.r.engine.set_path(TWO, None, 0)
    assert row.carry(frame()) == []
    assert row.r.drops == {"no_path": 2}


def test_a_path_through_nobody_is_no_path() -> None:
    row = Row()
    row.a.engine.set_path(TWO, Relayed(row.b.origin), SIZE)
    assert row.carry(frame()) == []
    assert row.a.drops == {"no_path": 1}


def test_a_peer_that_invents_destinations_meets_its_limit() -> None:
    row = Row()
    for number in range(300):
        row.a.engine.send_relayed(b"\x14" + bytes(40), ShortId(number.to_bytes(8, "big")), ONE)
    row.pass_on()
    assert row.r.drops["upcall_overload"] == 100
    assert row.r.drops["relay_no_route"] == 200
