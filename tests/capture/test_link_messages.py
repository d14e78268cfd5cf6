"""Link events as the kernel writes them: whole, in a row, cut anywhere, and as noise."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from meshd.capture.link_watcher import LinkChange, LinkEvent, parse_link_messages

NEWLINK, DELLINK, NEWADDR = 16, 17, 20


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def link(kind: int, name: str, index: int, *, flags: int = 0, master: int = 0, family: int = socket.AF_UNSPEC) -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(3, name.encode() + b"\0")
    if master:
        body += attribute(1, b"\x02\0\0\0\0\7") + attribute(4, struct.pack("=I", 1372))
        body += attribute(10, struct.pack("=I", master))
    return message(kind, body)


STREAM = (
    link(NEWLINK, "mv0", 7, flags=0x1003, master=3)
    + message(NEWADDR, bytes(8))
    + link(DELLINK, "mv1", 8, family=socket.AF_BRIDGE)  # left its bridge, and is still there
    + link(DELLINK, "mv2", 9)
)
EVENTS = [
    LinkEvent(change=LinkChange.PRESENT, name="mv0", index=7, up=True, master=3, address=b"\x02\0\0\0\0\7", mtu=1372),
    LinkEvent(change=LinkChange.REMOVED, name="mv2", index=9),
]


def test_events_of_one_read() -> None:
    assert list(parse_link_messages(STREAM)) == EVENTS


def test_trailing_bytes_change_nothing() -> None:
    assert list(parse_link_messages(STREAM + b"\1\0\0")) == EVENTS


def test_cut_anywhere_gives_the_whole_ones() -> None:
    for size in range(len(STREAM)):
        found = list(parse_link_messages(STREAM[:size]))
        assert found == EVENTS[: len(found)]


@given(st.binary(max_size=300))
def test_noise_is_no_crash(data: bytes) -> None:
    list(parse_link_messages(data))


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_one_wrong_byte_is_no_crash(position: int, flip: int) -> None:
    wrong = bytearray(STREAM)
    wrong[position] ^= flip
    assert len(list(parse_link_messages(bytes(wrong)))) <= 4
