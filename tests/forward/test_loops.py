"""Probes that come back, and those that only look so."""

from __future__ import annotations

from meshd.forward.inspect import is_inspected
from meshd.forward.loops import GIVE_WAY, PROBE_EVERY, LoopWatch
from meshd.ids import HostId, parse_mac

KEY = b"k" * 32
LOW, HIGH = HostId(b"\1" * 16), HostId(b"\2" * 16)
MAC, OTHER = parse_mac("02:6e:00:00:00:01"), parse_mac("02:6e:00:00:00:02")


def probe(watch: LoopWatch, now: float) -> bytes:
    frame = watch.probe(now)
    assert frame is not None
    assert is_inspected(frame)
    return frame


def test_ones_own_probe_that_comes_back_is_a_loop() -> None:
    watch = LoopWatch(KEY, LOW, 5, MAC, 0.0)
    assert watch.probe(PROBE_EVERY / 2) is None
    assert watch.next_deadline() == PROBE_EVERY
    frame = probe(watch, 1.0)
    assert watch.captured(frame, 1.001) == LOW
    assert watch.captured(frame + bytes(10), 1.001) == LOW
    for second in range(2, 20):
        probe(watch, float(second))
    assert watch.captured(frame, 20.0) is None, "an old one"
    assert LoopWatch(KEY, LOW, 6, MAC, 0.0).captured(frame, 1.0) is None, "of an earlier life"


def test_a_loop_shows_within_two_seconds_though_three_probes_are_lost() -> None:
    assert 4 * PROBE_EVERY <= 2.0


def test_of_two_hosts_the_higher_id_blocks_at_once_and_the_lower_one_if_it_must() -> None:
    low, high = LoopWatch(KEY, LOW, 5, MAC, 0.0), LoopWatch(KEY, HIGH, 5, OTHER, 0.0)
    assert high.captured(probe(low, 1.0), 1.0) == LOW
    seen = [low.captured(probe(high, float(second)), float(second)) for second in range(1, 8)]
    assert seen == [None] * int(GIVE_WAY) + [HIGH] * 2
    assert low.captured(probe(high, 60.0), 60.0) is None, "a while later it begins again"


def test_what_no_member_sent_or_has_another_source_is_none() -> None:
    watch = LoopWatch(KEY, LOW, 5, MAC, 0.0)
    frame = probe(watch, 1.0)
    assert LoopWatch(b"x" * 32, HIGH, 5, OTHER, 0.0).captured(frame, 1.0) is None
    for at in range(len(frame)):
        changed = bytearray(frame)
        changed[at] ^= 1
        assert watch.captured(bytes(changed), 1.0) is None
    for size in range(len(frame)):
        assert watch.captured(frame[:size], 1.0) is None
