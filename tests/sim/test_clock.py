"""Virtual time: order, cancelling, waiting, and no way to stand still for ever."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.testing import clock as clock_module
from meshd.testing.clock import VirtualClock


def test_in_order_of_time_then_of_asking() -> None:
    clock, seen = VirtualClock(now=5.0), list[str]()

    def note(name: str) -> None:
        seen.append(f"{name}@{clock.now}")

    for name, delay in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("now", 0.0), ("past", -3.0)):
        clock.call_later(delay, partial(note, name))
    clock.run_until(6.5)
    assert seen == ["now@5.0", "past@5.0", "a@6.0", "b@6.0"]
    assert (clock.now, clock.next_deadline()) == (6.5, 7.0)
    clock.run_for(10)
    assert seen[-1] == "c@7.0"
    assert (clock.now, clock.next_deadline(), clock.step(), clock.calls) == (16.5, None, False, 5)


def test_cancelled_timers_do_nothing() -> None:
    clock, seen = VirtualClock(), list[int]()
    first = clock.call_later(1, lambda: seen.append(1))
    second = clock.call_later(2, lambda: seen.append(2))
    first.cancel()
    first.cancel()
    assert clock.next_deadline() == second.when
    clock.run_for(5)
    second.cancel()
    assert (seen, second.pending) == ([2], False)


def test_a_callback_may_ask_for_this_very_moment() -> None:
    clock, seen = VirtualClock(), list[float]()

    def ask() -> None:
        clock.call_at(0, lambda: seen.append(clock.now))

    clock.call_later(1, ask)
    clock.run_for(1)
    assert seen == [1001.0]


def test_wait_for() -> None:
    clock, seen = VirtualClock(), list[int]()
    for delay in (1, 2, 3):
        clock.call_later(delay, lambda: seen.append(0))
    assert clock.wait_for(lambda: len(seen) == 2, timeout=5) == 2.0
    assert clock.wait_for(lambda: len(seen) == 2, timeout=5) == 0.0
    assert clock.wait_for(lambda: len(seen) == 9, timeout=5) is None
    assert clock.now == 1007.0
    clock.run_until(3.0)  # in the past: nothing
    assert clock.now == 1007.0


def test_standing_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "MAX_AT_ONCE", 100)
    clock = VirtualClock()

    def again() -> None:
        clock.call_later(0, again)

    again()
    with pytest.raises(LocalProtocolError, match="time stands still"):
        clock.run_for(1)


def test_an_error_reaches_the_test_and_the_clock_goes_on() -> None:
    clock, seen = VirtualClock(), list[int]()
    clock.call_later(1, lambda: seen.append(1 // 0))
    clock.call_later(1, lambda: seen.append(1))
    with pytest.raises(ZeroDivisionError):
        clock.run_for(2)
    clock.run_for(2)
    assert seen == [1]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_time_never_goes_back(delays: list[float]) -> None:
    clock, seen = VirtualClock(), list[float]()
    for delay in delays:
        clock.call_later(delay, lambda: seen.append(clock.now))
    clock.run_for(200)
    assert seen == sorted(1000.0 + delay for delay in delays)
