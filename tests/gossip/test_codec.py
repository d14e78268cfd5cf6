"""msgpack on a short leash: every way in which bytes can be wrong ends in DecodeError."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import DecodeError
from meshd.gossip.codec import MAX_ARRAY, pack, take_bytes, take_int, take_map, take_text, take_tuple, unpack


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",  # never used
        b"\x01\x01",  # something follows
        b"\x92\x01",  # an array that ends early
        b"\x82\x01\x01\x01\x02",  # a key twice
        b"\x82\x01\x01\xc3\x02",  # 1 and true are one key to Python
        b"\x81\x90\x01",  # an array as a key is fine for Python, a map as a key is not:
        b"\x81\x80\x01",
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
        b"\x91\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01",
        b"\xa2\xff\xfe",  # no UTF-8
        b"\xd4\x01\x00",  # extension
        b"\xd6\xff\x00\x00\x00\x00",  # timestamp
        b"\xdd\xff\xff\xff\xff",  # lengths that lie
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdc\x01\x01" + bytes(257),  # too long
        b"\xde\x00\x41" + b"".join(bytes((n, 0)) for n in range(65)),
        b"\x91" * 100 + b"\x01",  # too deep
        b"\xdd\x00\x00\x01\x00" * 10_000,
    ],
)
def test_refused(data: bytes) -> None:
    if data == b"\x81\x90\x01":
        assert unpack(data, max_bytes=10) == {(): 1}
        with pytest.raises(DecodeError):
            take_map({(): 1})
        return
    with pytest.raises(DecodeError):
        unpack(data, max_bytes=60_000)


def test_the_whole_is_bounded() -> None:
    assert unpack(pack(bytes(90)), max_bytes=100) == bytes(90)
    with pytest.raises(DecodeError):
        unpack(pack(bytes(99)), max_bytes=100)


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    try:
        value = unpack(data, max_bytes=200)
    except DecodeError:
        return
    assert unpack(msgpack.packb(value), max_bytes=400) == value


def test_fields() -> None:
    assert take_int(5, 0, 5) == 5
    assert take_bytes(b"ab", 2, 2) == b"ab"
    assert take_text("é", 2) == "é"
    assert take_tuple((1,), 1, 1) == (1,)
    assert take_map({1: 2}) == {1: 2}
    for call in (
        lambda: take_int(True),
        lambda: take_int(-1),
        lambda: take_int(1 << 64),
        lambda: take_int(1.0),
        lambda: take_int(None),
        lambda: take_bytes("ab", 0, 9),
        lambda: take_bytes(b"a", 2, 9),
        lambda: take_bytes(b"abc", 0, 2),
        lambda: take_text("é", 1),
        lambda: take_text(b"a", 9),
        lambda: take_text("a\nb", 9),
        lambda: take_text("\x1b[2J", 9),
        lambda: take_tuple([1], 9),
        lambda: take_tuple((), 9, 1),
        lambda: take_tuple((1, 2), 1),
        lambda: take_map({"a": 1}),
        lambda: take_map({True: 1}),
        lambda: take_map(()),
    ):
        with pytest.raises(DecodeError):
            call()
    assert MAX_ARRAY == 256
