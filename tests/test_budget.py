"""Token buckets against the arithmetic they stand for, and the bound of the table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.budget import BucketTable, TokenBucket
from meshd.errors import LocalProtocolError


def test_burst_then_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(100.05)
    assert bucket.take(100.125)
    assert not bucket.take(100.125)


def test_a_long_rest_fills_no_more_than_the_burst() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    bucket.take(0.0)
    assert bucket.level(1e9) == 5


def test_time_going_back_is_harmless() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(50.0)
    assert not bucket.take(10.0)
    assert not bucket.take(50.5)  # the clock did not start again at 10
    assert bucket.take(51.0)


def test_a_charge_may_go_into_debt_that_the_rate_pays_off() -> None:
    table = BucketTable[str](rate=10, burst=5, limit=2)
    table.charge("a", 100.0, 25)
    assert not table.ready("a", 101.9)
    assert table.ready("a", 102.2)
    assert table.ready("b", 100.0)


def test_ready_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=2)
    assert all(bucket.ready(0.0, 2) for _ in range(10))
    assert not bucket.ready(0.0, 3)
    assert bucket.take(0.0, 2)
    assert not bucket.ready(0.0)


@pytest.mark.parametrize(("rate", "burst"), [(-1, 1), (1, 0), (1, -1)])
def test_useless_buckets_are_refused(rate: float, burst: float) -> None:
    with pytest.raises(LocalProtocolError):
        TokenBucket(rate, burst)
    with pytest.raises(LocalProtocolError):
        BucketTable[str](rate, burst, 1)


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.floats(0, 3), max_size=80))
def test_never_more_than_burst_plus_rate_times_time(rate: int, burst: int, steps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 0.0, 0
    for step in steps:
        now += step
        ready = bucket.ready(now)
        assert bucket.take(now) == ready
        taken += ready
        assert taken <= burst + rate * now + 1e-6


def test_table_keeps_keys_apart_and_is_bounded() -> None:
    table = BucketTable[str](rate=1, burst=1, limit=2)
    assert table.take("a", 0)
    assert not table.take("a", 0)
    assert table.take("b", 0)
    assert not table.take("a", 0)  # used again: b is now the oldest
    assert table.take("c", 0)
    assert (len(table), table.evicted) == (2, 1)
    assert not table.ready("a", 0)
    assert table.ready("b", 0)  # pushed out, so it starts anew


def test_table_ready_makes_no_bucket() -> None:
    table = BucketTable[int](rate=1, burst=1, limit=4)
    assert table.ready(1, 0)
    assert not table.ready(1, 0, cost=2)
    assert len(table) == 0


def test_table_needs_room() -> None:
    with pytest.raises(LocalProtocolError):
        BucketTable[int](1, 1, 0)
