"""Liveness of a path: the timetable, what counts as alive, what the figures are; then any sequence of events."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.forward.control import Echo, Probe, decode_control
from meshd.forward.cost import LOSS_BOUNDS, RTT_BOUNDS, WORST_COST, next_cost
from meshd.forward.path import (
    DEAD_AFTER,
    FAST_INTERVAL,
    LATE,
    MAX_EXCUSES,
    PROBE_INTERVAL,
    PROBE_WINDOW,
    PathChange,
    PathMonitor,
    PathState,
    _Cause,
)
from meshd.ids import Endpoint

HERE, THERE = Endpoint("10.0.0.1", 6783), Endpoint("10.0.0.2", 6783)
IDLE, PROBING, ALIVE, SUSPECT, DEAD = PathState


def probe_of(body: bytes | None) -> Probe:
    assert body is not None
    probe = decode_control(body)
    assert isinstance(probe, Probe)
    return probe


class Wire:
    """A monitor and a peer that answers after `rtt`; asked exactly at its deadlines. `rtt` None: nothing comes back."""

    def __init__(self, rtt: float | None = 0.01, now: float = 100.0) -> None:
        self.monitor = PathMonitor()
        self.peer = PathMonitor()
        self.rtt = rtt
        self.now = now
        self.sent: list[float] = []
        self.last = Probe(0, 0, 0)
        self.lose: set[int] = set()
        self._coming: list[tuple[float, Echo]] = []
        self.monitor.start(THERE, now)

    def run(self, until: float) -> None:
        while True:
            deadline = self.monitor.next_deadline()
            times = [t for t in (deadline, *(at for at, _ in self._coming)) if t is not None]
            if not times or min(times) > until:
                self.now = until
                return
            self.now = max(self.now, min(times))
            arrived = [item for item in self._coming if item[0] <= self.now]
            self._coming = [item for item in self._coming if item[0] > self.now]
            for _, echo in arrived:
                self.monitor.on_echo(*echo, self.now)
            body = self.monitor.poll(self.now)
            if body is not None:
                self.sent.append(self.now)
                self.last = probe_of(body)
                if self.rtt is not None and self.last.seq not in self.lose:
                    answer = decode_control(self.peer.on_probe(*self.last, self.now))
                    assert isinstance(answer, Echo)
                    self._coming.append((self.now + self.rtt, answer))

    def gaps(self) -> list[float]:
        return [round(b - a, 6) for a, b in itertools.pairwise(self.sent)]

    def states(self) -> list[PathState]:
        return [change.state for change in iter(self.monitor.next_event, None)]


def test_idle_does_nothing() -> None:
    monitor = PathMonitor()
    assert monitor.state is IDLE
    assert monitor.next_deadline() is None
    assert monitor.poll(5.0) is None
    assert monitor.cost == WORST_COST
    assert not monitor.on_echo(1, 0, 0, 5.0)
    assert (monitor.view().stale_echoes, monitor.state) == (1, IDLE)


def test_first_probe_at_once_then_every_second() -> None:
    wire = Wire()
    wire.run(110.0)
    assert wire.sent[0] == 100.0
    assert set(wire.gaps()) == {PROBE_INTERVAL}
    assert wire.states() == [PROBING, ALIVE]
    assert wire.monitor.view().since == pytest.approx(100.01)


def test_silence_kills_a_living_path_within_three_seconds() -> None:
    wire = Wire()
    wire.run(105.5)
    wire.rtt = None
    wire.run(120.0)
    lost = [at for at in wire.sent if at > 105.5]
    assert lost[0] == pytest.approx(106.0)
    assert [round(b - a, 6) for a, b in itertools.pairwise(lost[:8])] == [FAST_INTERVAL] * 7
    changes = list(iter(wire.monitor.next_event, None))
    assert [change.state for change in changes][-2:] == [SUSPECT, DEAD]
    assert changes[-2].at == pytest.approx(106.25)
    assert changes[-1].at == pytest.approx(108.0)  # 2 s after the first lost probe, at most 3 s after the cut
    assert set(wire.gaps()[-8:]) == {PROBE_INTERVAL}  # dead: probed, slowly


@pytest.mark.parametrize("still", [1.5, 2.5, 10.0])
def test_a_peer_that_stood_still_makes_the_next_death_no_later_than_four_seconds(still: float) -> None:
    """It answers all at once what came meanwhile."""
    wire = Wire()
    wire.run(110.0)
    wire.rtt = None
    waiting: list[Probe] = []
    while wire.now < 110.0 + still:
        sent = len(wire.sent)
        wire.run(wire.now + 0.01)
        waiting += [wire.last] * (len(wire.sent) - sent)
    for probe in waiting:
        answer = decode_control(wire.peer.on_probe(*probe, wire.now))
        assert isinstance(answer, Echo)
        wire.monitor.on_echo(*answer, wire.now)
    assert wire.monitor.state is ALIVE
    wire.rtt = 0.01
    wire.run(wire.now + 5.0)
    wire.rtt, cut = None, wire.now
    while wire.monitor.state is not DEAD:
        assert wire.now < cut + 4.0
        wire.run(wire.now + 0.05)


def test_a_path_that_has_just_died_loses_everything() -> None:
    wire = Wire()
    wire.run(110.0)
    assert wire.monitor.loss == 0.0
    wire.rtt = None
    while wire.monitor.state is not DEAD:
        assert wire.now < 115.0
        wire.run(wire.now + 0.05)
    assert wire.monitor.loss == 1.0


def test_never_answered_is_dead_too() -> None:
    wire = Wire(rtt=None)
    wire.run(105.0)
    assert wire.states() == [PROBING, DEAD]
    assert wire.monitor.cost == WORST_COST


def test_a_dead_path_revives_and_its_outage_is_no_loss() -> None:
    wire = Wire(rtt=None)
    wire.run(110.0)
    assert wire.monitor.loss == 1.0
    wire.rtt = 0.02
    wire.run(112.0)
    assert wire.monitor.state is ALIVE
    assert wire.monitor.loss == 0.0


def test_one_lost_probe_is_a_suspicion_and_quickly_refuted() -> None:
    wire = Wire()
    wire.lose = {4}
    wire.run(120.0)
    assert [round(gap, 2) for gap in wire.gaps()[:5]] == [1.0, 1.0, 1.0, 0.25, 1.0]
    states = [state for state in wire.states() if state in (SUSPECT, ALIVE)]
    assert states == [ALIVE, SUSPECT, ALIVE]
    assert wire.monitor.view().misses == 0
    assert wire.monitor.loss == pytest.approx(1 / wire.monitor.view().sent)


def test_seven_in_a_row_are_not_dead_eight_are() -> None:
    for count, expected in ((DEAD_AFTER - 1, ALIVE), (DEAD_AFTER, DEAD)):
        wire = Wire()
        wire.run(102.5)
        wire.lose = set(range(4, 4 + count))
        wire.run(105.1)
        assert wire.monitor.state is expected


def test_long_round_trips_are_alive_and_probed_slowly_once_known() -> None:
    wire = Wire(rtt=0.6)
    wire.run(200.0)
    assert wire.monitor.state is ALIVE
    assert set(wire.gaps()[-20:]) == {PROBE_INTERVAL}
    assert wire.monitor.view().srtt == pytest.approx(0.6)
    assert wire.monitor.loss == 0.0  # those that were late at first were answered
    assert wire.monitor.cost == 3


def test_a_jump_of_the_delay_never_kills() -> None:
    wire = Wire(rtt=0.005)
    wire.run(150.0)
    wire.rtt = 0.8
    wire.run(300.0)
    assert DEAD not in wire.states()
    assert wire.monitor.state is ALIVE


def test_rtt_as_in_rfc_6298() -> None:
    monitor = PathMonitor()
    monitor.start(THERE, 0.0)
    srtt = rttvar = None
    now = 0.0
    for rtt in (0.1, 0.2, 0.05):
        probe = probe_of(monitor.poll(now))
        assert monitor.on_echo(probe.seq, probe.sent_us, 1, now + rtt)
        if srtt is None or rttvar is None:
            srtt, rttvar = rtt, rtt / 2
        else:
            rttvar = 0.75 * rttvar + 0.25 * abs(srtt - rtt)
            srtt = 0.875 * srtt + 0.125 * rtt
        view = monitor.view()
        assert view.srtt == pytest.approx(srtt)
        assert view.rttvar == pytest.approx(rttvar)
        now += PROBE_INTERVAL


# what counts


def test_hearing_is_not_being_heard() -> None:
    """A path cut in one direction only: data of the peer comes in, our probes do not get through."""
    wire = Wire()
    wire.run(102.5)
    wire.rtt = None
    for step in range(60):
        wire.run(102.5 + step / 10)
        wire.monitor.on_heard(wire.now)
        wire.monitor.on_probe(step, 0, 0, wire.now)
    assert wire.monitor.state is DEAD
    view = wire.monitor.view()
    assert view.last_heard == wire.now
    assert view.last_echo == pytest.approx(102.01)
    assert view.heard == 60


def test_echoes_that_do_not_count() -> None:
    monitor = PathMonitor()
    monitor.start(THERE, 10.0)
    probe = probe_of(monitor.poll(10.0))
    assert not monitor.on_echo(probe.seq + 1, probe.sent_us, 0, 10.1)  # never sent
    assert not monitor.on_echo(0, probe.sent_us, 0, 10.1)
    assert not monitor.on_echo(probe.seq, probe.sent_us + 1, 0, 10.1)  # another time
    assert monitor.state is PROBING
    assert monitor.on_echo(probe.seq, probe.sent_us, 0, 10.1)
    assert not monitor.on_echo(probe.seq, probe.sent_us, 0, 10.2)  # twice
    assert monitor.view().stale_echoes == 4


def test_an_echo_from_before_death_does_not_revive() -> None:
    wire = Wire(rtt=None)
    wire.run(101.9)
    last = wire.last
    wire.run(102.0)
    assert wire.monitor.state is DEAD
    assert not wire.monitor.on_echo(last.seq, last.sent_us, 1, 102.1)
    assert wire.monitor.state is DEAD
    wire.run(103.0)
    assert wire.monitor.on_echo(wire.last.seq, wire.last.sent_us, 1, 103.1)
    assert wire.monitor.state is ALIVE


def test_an_echo_older_than_eight_probes_does_not_count() -> None:
    wire = Wire()
    wire.lose = {2}
    wire.run(101.1)
    old = wire.last
    wire.run(115.0)
    assert old.seq == 2
    assert not wire.monitor.on_echo(old.seq, old.sent_us, 1, 115.0)


def test_a_new_endpoint_starts_anew() -> None:
    wire = Wire()
    wire.run(105.0)
    last = wire.last
    wire.monitor.start(HERE, 105.5)
    view = wire.monitor.view()
    assert (view.endpoint, view.state, view.srtt, view.loss, view.cost) == (HERE, PROBING, None, 0.0, WORST_COST)
    assert not wire.monitor.on_echo(last.seq, last.sent_us, 1, 105.6)
    probe = probe_of(wire.monitor.poll(105.6))
    assert probe.seq == last.seq + 1  # numbers go on
    wire.monitor.stop(106.0)
    assert (wire.monitor.state, wire.monitor.next_deadline()) == (IDLE, None)
    wire.monitor.stop(107.0)
    assert wire.monitor.view().since == 106.0


def test_what_was_heard_is_reported_both_ways() -> None:
    wire = Wire()
    wire.lose = {2, 3}
    wire.run(105.6)
    assert wire.monitor.view().sent == wire.last.seq
    assert wire.monitor.view().peer_heard == wire.last.seq - 2
    assert wire.peer.view().heard == wire.last.seq - 2
    assert wire.peer.state is IDLE  # it answers without using the path


def test_sequence_numbers_wrap() -> None:
    wire = Wire()
    wire.monitor._next_seq = 2**32 - 3
    wire.run(110.0)
    assert wire.monitor.state is ALIVE
    assert wire.monitor.loss == 0.0
    assert wire.last.seq < 10


# a slow host distrusts itself


def test_probes_missed_while_we_were_late_are_excused() -> None:
    wire = Wire()
    wire.run(102.5)
    wire.rtt = None
    wire.run(103.0)  # a probe is out
    probe, late = wire.last, 103.25 + LATE + 0.1
    body = wire.monitor.poll(late)
    assert wire.monitor.state is ALIVE
    assert body is None
    assert wire.monitor.loss == 0.0
    srtt = wire.monitor.view().srtt
    assert wire.monitor.on_echo(probe.seq, probe.sent_us, 1, late)  # it had waited in the socket
    assert wire.monitor.view().srtt == srtt


def test_a_host_that_was_stopped_for_a_minute_kills_nothing() -> None:
    wire = Wire()
    wire.run(102.5)
    wire.now = 170.0
    wire.run(180.0)
    assert DEAD not in wire.states()
    assert SUSPECT not in wire.states()


def test_a_host_that_is_always_late_still_finds_dead_paths() -> None:
    monitor = PathMonitor()
    monitor.start(THERE, 0.0)
    now, polls = 0.0, 0
    while monitor.state is not DEAD:
        deadline = monitor.next_deadline()
        assert deadline is not None
        now = deadline + LATE + 0.2
        monitor.poll(now)
        polls += 1
        assert polls < 3 * (MAX_EXCUSES + DEAD_AFTER)


# cost


@pytest.mark.parametrize(
    ("rtt", "loss", "cost"),
    [
        (0.0, 0.0, 0),
        (0.0049, 0.0, 0),
        (0.005, 0.0, 1),
        (0.03, 0.0, 2),
        (0.12, 0.0, 3),
        (9.0, 1.0, 3),
        (0.0, 0.019, 0),
        (0.0, 0.02, 1),
        (0.0, 0.05, 2),
        (0.0, 0.15, 3),
        (0.03, 0.02, 2),
        (0.005, 0.15, 3),
    ],
)
def test_first_cost(rtt: float, loss: float, cost: int) -> None:
    assert next_cost(None, rtt, loss) == cost


@pytest.mark.parametrize("bounds", [RTT_BOUNDS, LOSS_BOUNDS])
def test_a_figure_on_a_bound_never_flaps(bounds: tuple[float, ...]) -> None:
    rng = random.Random(1)
    for index, bound in enumerate(bounds):
        for start in (index, index + 1):
            cost = start
            for _ in range(100):
                figure = bound * rng.uniform(0.85, 1.2)
                cost = next_cost(cost, figure, 0.0) if bounds is RTT_BOUNDS else next_cost(cost, 0.0, figure)
                assert cost == start


@given(st.sampled_from([None, 0, 1, 2, 3]), st.floats(0, 10), st.floats(0, 1))
def test_cost_settles_at_once(current: int | None, rtt: float, loss: float) -> None:
    cost = next_cost(current, rtt, loss)
    assert 0 <= cost <= WORST_COST
    assert next_cost(cost, rtt, loss) == cost
    assert abs(cost - next_cost(None, rtt, loss)) <= 1


def test_a_change_of_cost_is_an_event() -> None:
    wire = Wire(rtt=0.001)
    wire.run(110.0)
    assert wire.monitor.cost == 0
    wire.states()
    wire.rtt = 0.06
    wire.run(180.0)
    changes = list(iter(wire.monitor.next_event, None))
    assert [(change.before, change.state, change.cost) for change in changes] == [(ALIVE, ALIVE, 1), (ALIVE, ALIVE, 2)]
    assert all(isinstance(change, PathChange) and change.endpoint == THERE for change in changes)


# any sequence

EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 3)),
    st.tuples(st.just("echo"), st.integers(0, 80)),
    st.tuples(st.just("probe"), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("stop"), st.just(0)),
)


@given(st.lists(EVENTS, max_size=120))
def test_invariants_under_any_sequence(events: list[tuple[str, float]]) -> None:
    monitor = PathMonitor()
    now, probes = 0.0, [Probe(0, 0, 0)]
    for what, value in events:
        match what:
            case "wait":
                now += value
                body = monitor.poll(now)
                if body is not None:
                    probes.append(probe_of(body))
            case "echo":
                old = probes[-1 - int(value) % len(probes)]
                counted = monitor.on_echo(old.seq, old.sent_us, 0, now)
                assert not counted or monitor.state is ALIVE
            case "probe":
                assert isinstance(decode_control(monitor.on_probe(int(value), 1, 2, now)), Echo)
            case "start":
                monitor.start(THERE, now)
            case _:
                monitor.stop(now)
        deadline = monitor.next_deadline()
        assert (deadline is None) == (monitor.state is IDLE)
        assert deadline is None or deadline <= now + PROBE_INTERVAL
        view = monitor.view()
        assert 0 <= view.loss <= 1
        assert 0 <= view.cost <= WORST_COST
        assert (view.misses >= DEAD_AFTER) == (view.state is DEAD)
        assert view.misses == 0 or view.state in (PROBING, SUSPECT, DEAD)
        assert len(monitor._window) <= PROBE_WINDOW
    assert len(list(iter(monitor.next_event, None))) <= 16


def test_unknown_transition_is_our_bug() -> None:
    monitor = PathMonitor()
    with pytest.raises(LocalProtocolError):
        monitor._change(_Cause.MISS, 0.0)
