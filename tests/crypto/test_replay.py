"""The window against the plainest possible one: a set of everything seen."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.crypto.replay import RING_BITS, WINDOW, ReplayWindow
from meshd.drops import DropReason


def naive(seen: set[int], counter: int) -> DropReason | None:
    head = max(seen, default=-1)
    if counter <= head - WINDOW:
        return DropReason.TOO_OLD
    return DropReason.REPLAYED if counter in seen else None


steps = st.one_of(
    st.integers(1, 3), st.integers(-40, 40), st.integers(-WINDOW - 3, -WINDOW + 3), st.integers(-9000, 9000), st.just(0)
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**40), st.lists(steps, max_size=200))
def test_against_a_set(start: int, moves: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for move in (0, *moves):
        counter = max(0, (window.head if seen else start) + move)
        expected = naive(seen, counter)
        assert window.check(counter) is expected
        if expected is None:
            window.commit(counter)
            seen.add(counter)
        assert window.head == max(seen)
        assert window.received == len(seen)


def test_edges_of_the_window() -> None:
    assert (RING_BITS, WINDOW) == (8192, 8128)
    window = ReplayWindow()
    window.commit(20_000)
    assert window.check(20_000 - WINDOW) is DropReason.TOO_OLD
    assert window.check(20_000 - WINDOW + 1) is None
    assert window.check(20_000) is DropReason.REPLAYED
    window.commit(20_000 - WINDOW + 1)
    assert window.check(20_000 - WINDOW + 1) is DropReason.REPLAYED
    assert (window.too_old, window.duplicate, window.late) == (1, 2, 1)


def test_every_jump_clears_what_the_ring_held_before() -> None:
    for jump in (1, 7, 8, 9, 63, 64, RING_BITS - 8, RING_BITS, RING_BITS + 1, 5 * RING_BITS + 3):
        window = ReplayWindow()
        for counter in range(RING_BITS):
            window.commit(counter)
        head = RING_BITS - 1 + jump
        window.commit(head)
        for counter in range(max(RING_BITS, head - WINDOW + 1), head):
            assert window.check(counter) is None, (jump, counter)


def test_a_lookup_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.check(2**63) is None
    assert window.head == -1
    assert window.check(0) is None


def test_lost_counts_the_gaps() -> None:
    window = ReplayWindow()
    for counter in (0, 1, 5, 3):
        window.commit(counter)
    assert (window.lost, window.late) == (2, 1)
