"""Header, entries, frame headers, checksums, segments: pinned bytes, oracles, and input that means harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from meshd.crypto.aead import Suite, new_aead, nonce
from meshd.errors import DecodeError
from meshd.forward.checksum import complete_checksum, ipv4_header_checksum, ones_sum
from meshd.forward.coalesce import Coalescer
from meshd.forward.entries import (
    EntryKind,
    FloodHeader,
    decode_entries,
    decode_flood,
    encode_entry,
    encode_flood,
)
from meshd.forward.ethernet import is_link_local_control, parse_headers
from meshd.forward.header import DATA_HEADER_SIZE, DataHeader, data_header_head, decode_data_header, encode_data_header
from meshd.ids import ShortId
from tests.engine.make_vectors import VECTORS, vectors
from tests.engine.reference import arp, partial, places, tcp, udp
from tests.ones import fold

PINNED = json.loads(VECTORS.read_text())


def test_the_vectors_are_what_the_layout_by_hand_gives() -> None:
    assert vectors() == PINNED
    assert Path(VECTORS).name == "datagram.json"


@pytest.mark.parametrize("vector", PINNED["datagrams"])
def test_pinned_datagrams(vector: dict[str, int | str]) -> None:
    aead = new_aead(Suite[PINNED["suite"]], bytes.fromhex(PINNED["key"]))
    datagram, plain = bytes.fromhex(str(vector["datagram"])), bytes.fromhex(str(vector["plaintext"]))
    header = decode_data_header(datagram)
    assert header == DataHeader(int(vector["flags"]), 0, int(vector["index"]), int(vector["counter"]))
    assert encode_data_header(header) == datagram[:DATA_HEADER_SIZE]
    assert data_header_head(header.flags, 0, header.receiver) == datagram[:8]
    sealed = aead.seal(nonce(header.counter), plain, datagram[:DATA_HEADER_SIZE])
    assert sealed == datagram[DATA_HEADER_SIZE:]
    entries = [(EntryKind(kind), bytes(body)) for kind, body in decode_entries(plain)]
    assert b"".join(encode_entry(kind, body) for kind, body in entries) == plain
    for kind, body in entries:
        if kind is EntryKind.FLOOD:
            flood, frame = decode_flood(memoryview(body))
            assert flood == FloodHeader(ShortId(bytes.fromhex("a0a1a2a3a4a5a6a7")), 0x01020304, 0x05060708, 16)
            assert encode_flood(flood, frame) == plain


@given(st.binary(max_size=64))
def test_a_data_header_decodes_to_a_fix_point_or_not_at_all(data: bytes) -> None:
    for candidate in (data, b"\x14" + data):
        try:
            header = decode_data_header(candidate)
        except DecodeError:
            continue
        assert encode_data_header(header) == candidate[:DATA_HEADER_SIZE]


@given(st.binary(max_size=64))
def test_entries_decode_to_a_fix_point_or_raise_decode_error(plain: bytes) -> None:
    rebuilt = b""
    try:
        for kind, body in decode_entries(plain):
            rebuilt += encode_entry(EntryKind(kind), body)
            if kind == EntryKind.FLOOD:
                decode_flood(body)
    except DecodeError:
        assert plain.startswith(rebuilt)
    else:
        assert rebuilt == plain


@given(st.binary(max_size=200))
def test_ones_sum_against_the_loop(data: bytes) -> None:
    assert ones_sum(data) == fold(data) % 65535


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("payload", [b"", b"a", b"ab" * 300])
def test_completing_a_partial_checksum_gives_scapys(version: int, make: object, payload: bytes) -> None:
    packet = (tcp if make is tcp else udp)(payload, version=version)
    frame = bytearray(partial(packet))
    start, offset, at = places(packet)
    headers = parse_headers(frame)
    assert headers is not None
    assert (headers.l4, headers.checksum_offset, headers.payload, headers.end) == (start, offset, at, len(frame))
    assert complete_checksum(frame, start, offset)
    assert frame == bytes(packet)
    assert not complete_checksum(frame, len(frame) - 1, 0)


def test_ipv4_header_checksum_is_scapys() -> None:
    packet = bytes(tcp(b"x")[IP])
    assert ipv4_header_checksum(packet[:10] + b"\0\0" + packet[12:20]) == int.from_bytes(packet[10:12], "big")


def test_what_is_not_plain_tcp_or_udp_is_opaque() -> None:
    good = bytes(tcp(b"abc"))
    assert parse_headers(good) is not None
    assert parse_headers(bytes(arp())) is None
    changes = {
        14: 0x44,
        17: 0xFF,
        20: 0x60,
        21: 1,
        23: 1,
        46: 0xF0,
    }  # header length, total, MF, offset, ICMP, data offset
    for at, value in changes.items():
        assert parse_headers(good[:at] + bytes([value]) + good[at + 1 :]) is None, at
    for size in range(len(good)):
        assert parse_headers(good[:size]) is None
    v6 = bytes(udp(b"abc", version=6))
    assert parse_headers(v6[:20] + b"\0" + v6[21:]) is None  # a hop-by-hop header
    assert parse_headers(v6[:59] + b"\x77" + v6[60:]) is None  # a UDP length of its own


@given(st.binary(max_size=120), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00\0\1\x08\x00", b"\x88\xa8"]))
def test_headers_of_anything_are_inside_it(data: bytes, ethertype: bytes) -> None:
    frame = bytes(12) + ethertype + data
    headers = parse_headers(frame)
    if headers is not None:
        assert 14 <= headers.l3 < headers.l4 < headers.payload <= headers.end <= len(frame)


def test_link_local_control_is_the_sixteen_addresses_of_802_1d() -> None:
    assert is_link_local_control(bytes.fromhex("0180c2000000"))
    assert is_link_local_control(bytes.fromhex("0180c200000f"))
    assert not is_link_local_control(bytes.fromhex("0180c2000010"))
    assert not is_link_local_control(bytes.fromhex("01005e00000f"))


def series(*frames: bytes) -> list[int]:
    """How many segments each write would have, if these vouched frames came one after the other."""
    coalescer, counts = Coalescer(), []
    for frame in frames:
        plain = encode_entry(EntryKind.FRAME, frame)
        headers = parse_headers(frame)
        assert headers is not None
        if coalescer.take((plain,)):
            continue
        last = coalescer.ends_with(plain)
        counts.append(coalescer.end()[1])
        if not last and not coalescer.begin(plain, headers):
            counts.append(1)
    counts.append(coalescer.end()[1])
    return [count for count in counts if count]


def segment(number: int, size: int = 100, **fields: Any) -> bytes:
    return partial(tcp(bytes(size), ident=7 + number, **{"seq": 1000 + number * 100, **fields}))


def test_what_may_be_in_one_series() -> None:
    first, second = segment(0), segment(1)
    assert series(first, second, segment(2)) == [3]
    assert series(first, second, segment(2, size=40)) == [3]
    assert series(first, second, segment(2, flags="PA"), segment(3)) == [3, 1]
    assert series(first, segment(1, flags="FA")) == [2]
    assert series(segment(0, flags="EA"), segment(1, flags="EA")) == [2]
    later = Ether(second)
    later[IP].tos = 3  # congestion experienced
    later[IP].chksum = None
    assert series(first, partial(later)) == [1, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"size": 101},
        {"seq": 1101},
        {"ident": None, "number": 2, "seq": 1100},
        {"ack": 78},
        {"window": 500},
        {"sport": 1},
        {"flags": "CA"},
        {"flags": "UA"},
        {"flags": "SA"},
        {"flags": "EA"},
        {"options": [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]},
        {"size": 0},
    ],
)
def test_what_ends_a_series(other: dict[str, object]) -> None:
    fields = {name: value for name, value in other.items() if name not in ("ident", "number", "size")}
    number, size = other.get("number", 1), other.get("size", 100)
    assert isinstance(number, int)
    assert isinstance(size, int)
    assert series(segment(0), segment(number, size, **fields)) == [1, 1]


@pytest.mark.parametrize("flags", ["PA", "FA", "SA", "CA", "A"])
def test_what_may_begin_a_series(flags: str) -> None:
    assert series(segment(0, flags=flags), segment(1, flags="A")) == ([2] if flags == "A" else [1, 1])


def test_a_bad_ipv4_checksum_is_not_mended_by_coalescing() -> None:
    first = bytearray(segment(0))
    first[24] ^= 1
    assert series(bytes(first), segment(1)) == [1, 1]


def test_a_super_frame_never_exceeds_ip() -> None:
    frames = [partial(tcp(bytes(1332), ident=number, seq=number * 1332)) for number in range(60)]
    counts = series(*frames)
    assert sum(counts) == 60
    assert max(counts) * 1332 + 40 <= 65535
