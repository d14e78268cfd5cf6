"""Path queries and reports: pinned bytes, every prefix and trailing byte, every bit, and what does not fit together."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import DecodeError, LocalProtocolError
from meshd.forward.query import (
    NO_HOP,
    PathQuery,
    PathReport,
    Way,
    decode_query,
    decode_report,
    encode_query,
    encode_report,
)
from meshd.ids import ShortId

HOST = ShortId(bytes(range(0x10, 0x18)))
U32 = st.integers(0, 2**32 - 1)
IDS = st.binary(min_size=8, max_size=8).filter(lambda short: short != NO_HOP).map(ShortId)
QUERIES = st.builds(PathQuery, U32, IDS)
REPORTS = st.builds(
    PathReport,
    U32,
    st.sampled_from([Way.SELF, Way.DIRECT, Way.RELAYED]),
    IDS,
    st.none() | st.integers(0, 2**32 - 2),
    st.integers(0, 65535),
    st.integers(0, 3),
)


def test_pinned() -> None:
    """The layouts of docs/protocol.md, byte by byte."""
    query = encode_query(PathQuery(0x01020304, HOST))
    assert query.hex() == "08040302011011121314151617"
    report = encode_report(PathReport(0x01020304, Way.RELAYED, HOST, 420, 1472, 1))
    assert report.hex() == "0404030201031011121314151617a4010000c00501"
    none = encode_report(PathReport(7, Way.NONE, NO_HOP, None, 0, 3))
    assert none.hex() == "0407000000040000000000000000ffffffff000003"


@given(QUERIES)
def test_query_round_trip(query: PathQuery) -> None:
    assert decode_query(memoryview(encode_query(query))) == query


@given(REPORTS)
def test_report_round_trip(report: PathReport) -> None:
    assert decode_report(memoryview(encode_report(report))) == report


@given(st.binary(max_size=64))
def test_anything_else_is_a_decode_error(body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert encode_query(decode_query(body)) == body
    with contextlib.suppress(DecodeError):
        assert encode_report(decode_report(body)) == body


def test_every_prefix_and_a_trailing_byte_are_refused() -> None:
    query = encode_query(PathQuery(1, HOST))
    report = encode_report(PathReport(1, Way.DIRECT, HOST, 1, 1, 1))
    for size in range(len(query)):
        with pytest.raises(DecodeError):
            decode_query(query[:size])
    for size in range(len(report)):
        with pytest.raises(DecodeError):
            decode_report(report[:size])
    with pytest.raises(DecodeError):
        decode_query(query + b"\0")
    with pytest.raises(DecodeError):
        decode_report(report + b"\0")


@pytest.mark.parametrize(
    "body",
    [
        "040000000000101112131415161700000000000000",  # no way
        "040000000005101112131415161700000000000000",
        "040000000004101112131415161700000000000000",  # none, but a hop
        "040000000002000000000000000000000000000000",  # direct, without one
        "040000000002101112131415161700000000000004",  # a cost class that is none
        "050000000002101112131415161700000000000000",
    ],
)
def test_reports_that_contradict_themselves(body: str) -> None:
    with pytest.raises(DecodeError):
        decode_report(bytes.fromhex(body))


@pytest.mark.parametrize(
    "report",
    [
        PathReport(-1, Way.DIRECT, HOST, 0, 0, 0),
        PathReport(1 << 32, Way.DIRECT, HOST, 0, 0, 0),
        PathReport(1, Way.DIRECT, ShortId(b"short"), 0, 0, 0),
        PathReport(1, Way.DIRECT, HOST, 0, 65536, 0),
        PathReport(1, Way.DIRECT, HOST, 0, 0, 4),
    ],
)
def test_what_no_field_holds_is_our_bug(report: PathReport) -> None:
    with pytest.raises(LocalProtocolError):
        encode_report(report)


def test_a_round_trip_too_long_for_its_field_is_the_longest() -> None:
    assert decode_report(encode_report(PathReport(1, Way.DIRECT, HOST, 1 << 40, 0, 0))).rtt_us == 2**32 - 2
