"""The gate by itself: who is let through, who must show a cookie, who meets silence; and what a flood leaves to others."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from meshd.crypto.gate import (
    BUDGET_BURST_S,
    COOKIE_BURST,
    COOKIE_RATE,
    HANDSHAKE_COST_S,
    HANDSHAKE_SHARE,
    LOAD_HOLD_S,
    LOOK_BURST,
    LOOK_RATE,
    MAX_ACQUAINTED,
    MAX_SOURCES,
    SOURCE_BURST,
    SOURCE_RATE,
    WARN_EVERY_S,
    Gate,
    Opening,
    bucket_key,
)
from meshd.ids import Endpoint

A, B = Endpoint("192.0.2.1", 6783), Endpoint("192.0.2.2", 6783)


class RelayedAddress(NamedTuple):
    """Some other kind of address."""

    source: bytes


def exhaust(gate: Gate, now: float, source: Endpoint = A) -> None:
    """Work until the gate says that it is loaded."""
    while not gate.loaded(now):
        gate.charge(gate.started(), now)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (A, A._replace(port=1), True),
        (A, B, False),
        (Endpoint("2001:db8::1", 1), Endpoint("2001:db8::ffff:0:0:2", 2), True),
        (Endpoint("2001:db8:0:1::1", 1), Endpoint("2001:db8:0:2::1", 1), False),
        (Endpoint("fe80::1%eth0", 1), Endpoint("fe80::2", 1), True),
        (RelayedAddress(b"12345678"), RelayedAddress(b"12345678"), True),
        (RelayedAddress(b"12345678"), RelayedAddress(b"12345679"), False),
        (Endpoint("no:address", 1), Endpoint("no:address", 2), True),
    ],
)
def test_whose_bucket(one: object, other: object, same: bool) -> None:
    assert (bucket_key(one) == bucket_key(other)) is same


def test_a_source_has_its_burst_then_its_rate_then_needs_a_cookie() -> None:
    gate = Gate()
    assert [gate.opening(A, 0, proven=False) for _ in range(int(SOURCE_BURST))] == [Opening.PASS] * int(SOURCE_BURST)
    assert gate.opening(A, 0, proven=False) is Opening.COOKIE
    assert gate.opening(B, 0, proven=False) is Opening.PASS
    assert gate.opening(A, 1 / SOURCE_RATE, proven=False) is Opening.PASS
    assert gate.opening(A, 1 / SOURCE_RATE, proven=False) is Opening.COOKIE


def test_who_is_proven_has_a_bucket_that_nobody_else_can_empty() -> None:
    gate = Gate()
    while gate.opening(A, 0, proven=False) is Opening.PASS:
        pass  # somebody who writes A into his datagrams
    assert [gate.opening(A, 0, proven=True) for _ in range(int(SOURCE_BURST))] == [Opening.PASS] * int(SOURCE_BURST)
    assert gate.opening(A, 0, proven=True) is Opening.REFUSE


def test_under_load_everybody_needs_a_cookie_until_it_has_passed() -> None:
    gate = Gate()
    exhaust(gate, 0)
    assert gate.opening(B, 0, proven=False) is Opening.COOKIE
    assert gate.opening(B, 0, proven=True) is Opening.PASS
    assert gate.opening(B, LOAD_HOLD_S - 0.01, proven=False) is Opening.COOKIE
    assert gate.opening(B, LOAD_HOLD_S, proven=False) is Opening.PASS


def test_work_is_paid_from_a_share_of_the_time() -> None:
    gate, now, done = Gate(), 0.0, 0
    while now < 10:
        now += 0.001
        source = Endpoint(f"10.0.{done >> 8}.{done & 255}", 1)
        if gate.opening(source, now, proven=True) is Opening.PASS:
            gate.charge(gate.started(), now)
            done += 1
    assert done * HANDSHAKE_COST_S == pytest.approx(10 * HANDSHAKE_SHARE + BUDGET_BURST_S, rel=0.05)


def test_our_own_handshakes_have_a_part_of_the_budget_to_themselves() -> None:
    gate = Gate()
    while gate.opening(A, 0, proven=True) is Opening.PASS or gate.opening(B, 0, proven=True) is Opening.PASS:
        gate.charge(gate.started(), 0)
    sources = (Endpoint(f"10.1.0.{number}", 1) for number in range(256))
    while gate.opening(next(sources), 0, proven=True) is Opening.PASS:
        gate.charge(gate.started(), 0)
    answered = 0
    while gate.answer(next(sources), 0):
        gate.charge(gate.started(), 0)
        answered += 1
    assert answered == pytest.approx(BUDGET_BURST_S / 4 / HANDSHAKE_COST_S, abs=2)


def test_what_work_costs_is_measured_and_a_clock_that_jumped_costs_little() -> None:
    times = iter([1.0, 1.02, 5.0, 5000.0, 5000.0, 4000.0])
    gate = Gate(lambda: next(times))
    gate.charge(gate.started(), 0)
    assert not gate.loaded(0), "20 ms count as 10, of which there are 50"
    gate.charge(gate.started(), 0)
    gate.charge(gate.started(), 0)
    assert not gate.loaded(0)


def test_a_flood_is_cut_before_it_is_read() -> None:
    gate, passed = Gate(), 0
    for number in range(200_000):  # two seconds of 100 000 a second, each from another address
        passed += gate.look(Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1), number / 100_000)
    assert passed == pytest.approx(2 * LOOK_RATE + LOOK_BURST, rel=0.01)


def test_a_flood_leaves_members_alone() -> None:
    gate = Gate()
    gate.acquaint(A)
    heard = 0
    for number in range(100_000):
        now = number / 100_000
        gate.look(Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1), now)
        if number >= 50_000 and number % 10_000 == 0:
            heard += gate.look(A._replace(port=4711), now)
            assert gate.cookie(A, now) is Opening.COOKIE
    assert heard == 5


def test_one_member_that_floods_leaves_the_others_alone() -> None:
    gate = Gate()
    gate.acquaint(A)
    gate.acquaint(B)
    passed = sum(gate.look(A, number / 100_000) for number in range(100_000))
    assert passed == pytest.approx(LOOK_RATE + LOOK_BURST + SOURCE_RATE + SOURCE_BURST, rel=0.01)
    assert gate.look(B, 1.0)


def test_cookies_are_limited() -> None:
    gate = Gate()
    exhaust(gate, 0)
    openings = [gate.opening(Endpoint(f"10.2.{n >> 8}.{n & 255}", 1), 0, proven=False) for n in range(1000)]
    assert openings.count(Opening.COOKIE) == COOKIE_BURST
    assert openings.count(Opening.REFUSE) == 1000 - COOKIE_BURST
    assert gate.cookie(A, 1 / COOKIE_RATE) is Opening.COOKIE


def test_tables_are_bounded() -> None:
    gate = Gate()
    for number in range(MAX_ACQUAINTED + 100):
        source = Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
        gate.acquaint(source)
        gate.opening(source, number, proven=False)
        gate.opening(source, number, proven=True)
    assert len(gate._known) == MAX_ACQUAINTED
    assert len(gate._claimed) == len(gate._proven) == MAX_SOURCES


def test_one_warning_in_ten_seconds() -> None:
    gate = Gate()
    said = [now for now in range(30) if gate.may_warn("stranger", float(now))]
    assert said == [0, WARN_EVERY_S, 2 * WARN_EVERY_S]
