"""For how long a next hop that led nowhere is left out, and which is next where none is known to lead anywhere."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from meshd.ids import HostId
from meshd.node.hops import AVOID, MAX_AVOID, Avoided, Turns

A, B = HostId(b"a" * 16), HostId(b"b" * 16)


def test_a_minute_and_each_time_twice_as_long() -> None:
    avoided, now = Avoided(), 100.0
    for span in (60.0, 120.0, 240.0, 480.0, 960.0, 960.0):
        avoided.add(A, now)
        assert A in avoided.at(now + span - 0.1)
        now += span
        assert A not in avoided.at(now)
        now += 2.0
    assert span == MAX_AVOID


@pytest.mark.parametrize(("good_for", "span"), [(AVOID - 0.1, 2 * AVOID), (AVOID, AVOID)])
def test_what_has_been_good_for_as_long_as_it_was_left_out_begins_anew(good_for: float, span: float) -> None:
    avoided = Avoided()
    avoided.add(A, 0.0)
    now = AVOID + good_for
    assert A not in avoided.at(now)
    avoided.add(A, now)
    assert A in avoided.at(now + span - 0.1)
    assert A not in avoided.at(now + span)


def test_each_by_itself_until_all_are_tried_again() -> None:
    avoided = Avoided()
    avoided.add(A, 0.0)
    avoided.add(B, 30.0)
    assert list(avoided.at(59.0)) == [A, B]
    assert list(avoided.at(60.0)) == [B]
    avoided.clear()
    assert not avoided.at(61.0)


def test_next_hops_are_taken_in_turn_from_the_best_on() -> None:
    turns, ways = Turns(), [A, B]

    def route(had: Collection[HostId]) -> HostId | None:
        return next((hop for hop in ways if hop not in had), None)

    assert [turns.next(route) for _ in range(5)] == [A, B, A, B, A]
    turns.begin_anew()
    assert turns.next(route) == A
    ways.clear()
    assert turns.next(route) is None
    ways.append(B)
    assert [turns.next(route) for _ in range(2)] == [B, B]
