"""Key slots and timers on their own: what the whole-session tests reach only by chance."""

from __future__ import annotations

import random

import pytest

from meshd.crypto.session import KEYS_PER_PEER, LARGE_DATAGRAM, KeyPair, KeySlots, Timing
from meshd.crypto.timers import Timers
from meshd.errors import LocalProtocolError


def key(index: int, at: float = 0.0) -> KeyPair:
    secret = index.to_bytes(32, "little")
    return KeyPair(
        local_index=index,
        remote_index=index + 1000,
        send_key=secret,
        receive_key=secret,
        initiator=True,
        established_at=at,
        rekey_at=at + 120,
    )


def test_next_current_previous() -> None:
    slots = KeySlots(Timing())
    assert slots.install(key(1), may_send=True).send == key(1)
    assert not slots.install(key(2), may_send=False).send_changed
    assert (slots.next, slots.current, slots.previous) == (key(2), key(1), ())
    assert slots.confirm(2, 1.0).send == key(2)
    assert (slots.next, slots.current, slots.previous) == (None, key(2), (key(1),))
    assert not slots.confirm(1, 1.0).send_changed, "an older key is never current again"
    assert not slots.confirm(99, 1.0).send_changed


def test_a_key_that_has_sealed_never_seals_again() -> None:
    slots = KeySlots(Timing())
    slots.install(key(1), may_send=True)
    slots.install(key(2, 100.0), may_send=True)
    assert slots.refuse().send_changed
    assert slots.current is None
    assert not slots.confirm(1, 101.0).send_changed
    assert not slots.confirm(2, 101.0).send_changed


def test_a_key_confirmed_too_late_does_not_seal() -> None:
    slots = KeySlots(Timing())
    slots.install(key(1), may_send=False)
    assert not slots.confirm(1, 176.0).send_changed


def test_eviction_keeps_current_newest_and_the_one_heard_last() -> None:
    slots = KeySlots(Timing())
    slots.install(key(1), may_send=False)
    slots.confirm(1, 0.0)
    slots.install(key(2), may_send=True)
    removed = [pair for index in range(3, 40) for pair in slots.install(key(index), may_send=False).removed]
    assert len(slots.keys) == KEYS_PER_PEER
    assert {key(1), key(2), key(39)} <= set(slots.keys)
    assert len(removed) == 39 - KEYS_PER_PEER


def test_deadlines_and_expiry() -> None:
    slots = KeySlots(Timing())
    assert slots.deadline() is None
    slots.install(key(1), may_send=True)
    assert slots.deadline() == 175.0
    change = slots.expire(175.0)
    assert (change.send_changed, change.send, change.removed) == (True, None, ())
    assert slots.deadline() == 180.0
    assert slots.expire(180.0).removed == (key(1),)
    assert slots.deadline() is None


def test_rekey_needs_something_sealed() -> None:
    slots = KeySlots(Timing())
    assert not slots.rekey_due(500.0, 5)
    slots.install(key(1), may_send=True)
    assert not slots.rekey_due(119.0, 5)
    assert not slots.rekey_due(120.0, 0)
    assert slots.rekey_due(120.0, 1)
    assert slots.rekey_due(1.0, 1 << 27)


def test_one_index_twice_is_our_own_bug() -> None:
    slots = KeySlots(Timing())
    slots.install(key(1), may_send=True)
    with pytest.raises(LocalProtocolError):
        slots.install(key(1), may_send=True)


def test_long_datagrams_renew_keys_earlier() -> None:
    assert Timing.for_datagrams(LARGE_DATAGRAM).rekey_datagrams == 1 << 27
    long = Timing.for_datagrams(LARGE_DATAGRAM + 1).scaled(2.0)
    assert (long.rekey_datagrams, long.refuse_datagrams) == (1 << 24, 1 << 25)


def test_scaled_timing_keeps_its_proportions() -> None:
    timing = Timing().scaled(2.0)
    assert (timing.rekey_s, timing.reject_s) == (2.0, 3.0)
    assert timing.rekey_s * (1 + timing.rekey_jitter) + timing.takeover_s < timing.reject_s - timing.handoff_s
    assert timing.retries == Timing().retries


def test_what_comes_under_an_older_key_than_one_that_was_heard_is_late() -> None:
    slots = KeySlots(Timing())
    for index in (1, 2, 3):
        slots.install(key(index), may_send=False)
    assert not slots.overtaken(1)
    slots.confirm(1, 1.0)
    assert not slots.overtaken(1), "2 and 3 may be keys that the other side never got to know of"
    slots.confirm(2, 2.0)
    assert [slots.overtaken(index) for index in (1, 2, 3)] == [True, False, False]
    assert slots.overtaken(99), "gone already"
    slots.clear()
    assert not slots.overtaken(99), "nothing is newer"


def test_timers_against_a_dict() -> None:
    rng = random.Random(3)
    timers: Timers[int] = Timers()
    plain: dict[int, float] = {}
    now = 0.0
    for _ in range(5000):
        name = rng.randrange(20)
        match rng.randrange(4):
            case 0:
                timers.cancel(name)
                plain.pop(name, None)
            case 1:
                now += rng.random()
                due = timers.pop_due(now)
                earliest = min(plain, key=lambda other: plain[other], default=None)
                assert due == (earliest if earliest is not None and plain[earliest] <= now else None)
                if due is not None:
                    del plain[due]
            case _:
                plain[name] = now + rng.random() * 5
                timers.set(name, plain[name])
        assert timers.next() == min(plain.values(), default=None)
        assert len(timers) == len(plain)
        assert len(timers._heap) <= 64 + 3 * 20
