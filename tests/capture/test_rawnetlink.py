"""Attributes, as nftables writes them. Whole dumps are read from a kernel: tests/netns/test_capture_guards.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshd.capture.rawnetlink import attributes_of

# A counter of nine frames, 378 bytes, as Linux 6 says it in NFTA_OBJ_DATA
COUNTER = bytes.fromhex("0c000100 000000000000017a 0c000200 0000000000000009")


def test_the_value_of_each_type() -> None:
    assert attributes_of(COUNTER) == {1: (378).to_bytes(8, "big"), 2: (9).to_bytes(8, "big")}
    assert attributes_of(b"\x0c\0\1\x80" + bytes(8)) == {1: bytes(8)}, "nested is a flag, not another type"
    assert attributes_of(b"\7\0\1\0abc\0" + COUNTER[12:]) == {1: b"abc", 2: COUNTER[16:]}


def test_cut_anywhere_gives_the_whole_ones() -> None:
    for size in range(len(COUNTER)):
        assert len(attributes_of(COUNTER[:size])) == size // 12


@given(st.binary(max_size=100))
def test_noise_is_no_crash(data: bytes) -> None:
    attributes_of(data)
