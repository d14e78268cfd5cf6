"""Path MTU probing against a path that a test describes: what is found, how soon, at what cost, and what is never believed."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.forward import pmtu as module
from meshd.forward.control import MAX_CONTROL, SizeProbe, decode_control
from meshd.forward.pmtu import (
    BASE_MTU,
    CONFIRMED_WITHIN,
    FLOOR_MTU,
    MAX_OUTSTANDING,
    PRECISION,
    RAISE_INTERVAL,
    PathSizes,
    Pmtu,
    PmtuState,
)

IPV4 = 28


class Path:
    """One direction with an MTU that may change, a round trip, and loss; and the traffic on it."""

    def __init__(self, limit: int = 1500, *, mtu: int | None = None, rtt: float = 0.02, seed: int = 1) -> None:
        self.pmtu = Pmtu()
        self.limit = limit
        self.mtu = limit if mtu is None else mtu
        self.device = 1 << 16  # what the device itself refuses with EMSGSIZE
        self.rtt = rtt
        self.loss = 0.0
        self.traffic = 100_000  # bytes a second
        self.now = 100.0
        self.sent = 0.0
        self.probes: list[int] = []  # sizes sent
        self.refused = 0
        self.states: list[PmtuState] = []
        self._random = random.Random(seed)
        self._echoes: list[tuple[float, int, int]] = []

    def start(self) -> None:
        self.pmtu.start(self.limit, IPV4, self.now)

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> float:
        start = self.now
        while self.now < start + seconds and not until():
            due = [echo for echo in self._echoes if echo[0] <= self.now]
            self._echoes = [echo for echo in self._echoes if echo[0] > self.now]
            for _, seq, size in due:
                self.pmtu.on_echo(seq, size, self.now)
            for body in self.pmtu.poll(self.now, srtt=self.rtt, sent=lambda: int(self.sent)):
                self._carry(body)
            if not self.states or self.states[-1] is not self.pmtu.state:
                self.states.append(self.pmtu.state)
            self.now += 0.01
            self.sent += self.traffic * 0.01
        return self.now - start

    def _carry(self, body: bytes) -> None:
        probe = decode_control(body)
        assert isinstance(probe, SizeProbe)
        size = probe.size + 2 + 32 + IPV4
        if size > self.device:
            self.pmtu.on_refused(body)
            self.refused += 1
            return
        self.probes.append(size)
        self.sent += size - IPV4
        if size <= self.mtu and self._random.random() >= self.loss:
            self._echoes.append((self.now + self.rtt, probe.seq, probe.size))

    def wait(self, state: PmtuState, seconds: float = 10.0) -> float:
        took = self.run(seconds, until=lambda: self.pmtu.state is state)
        assert self.pmtu.state is state
        return took


def test_a_clean_path_is_measured_by_two_probes_in_one_round_trip() -> None:
    path = Path()
    path.start()
    assert path.pmtu.size == BASE_MTU
    assert path.wait(PmtuState.COMPLETE) == pytest.approx(path.rtt, abs=0.03)
    assert path.probes == [BASE_MTU, 1500]
    assert path.pmtu.size == 1500


def test_sizes_are_those_of_ip_packets() -> None:
    path = Path()
    path.start()
    (base, limit) = path.pmtu.poll(path.now, srtt=None, sent=lambda: 0)
    assert len(base) == 1280 - 28 - 32 - 2
    assert len(limit) == 1500 - 28 - 32 - 2
    assert path.pmtu.sizes(path.now) == PathSizes(1280 - 28, None, False)


@pytest.mark.parametrize("limit", [576, 1000, 1280, 1281, 1300, 1500, 9000])
def test_the_limit_of_a_clean_path_is_used_to_the_full(limit: int) -> None:
    path = Path(limit)
    path.start()
    path.wait(PmtuState.COMPLETE)
    assert path.pmtu.size == limit


@pytest.mark.parametrize("mtu", [1280, 1400, 1420, 1450, 1480, 1492])
def test_usual_tunnels_are_found_exactly(mtu: int) -> None:
    path = Path(mtu=mtu)
    path.start()
    path.wait(PmtuState.COMPLETE)
    assert path.pmtu.size == mtu


@given(st.integers(FLOOR_MTU, 9000), st.integers(FLOOR_MTU, 9000), st.sampled_from([0.002, 0.02, 0.3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_any_path_is_found_to_within_8_bytes_and_never_above(limit: int, mtu: int, rtt: float) -> None:
    path = Path(limit, mtu=min(mtu, limit), rtt=rtt)
    path.start()
    path.run(40.0, until=lambda: path.pmtu.state is PmtuState.COMPLETE)
    assert path.pmtu.state is PmtuState.COMPLETE
    assert path.mtu - PRECISION < path.pmtu.size <= path.mtu


def test_a_probe_is_never_larger_than_an_entry() -> None:
    path = Path(65_536)
    path.start()
    path.wait(PmtuState.COMPLETE)
    assert path.pmtu.size == MAX_CONTROL + 2 + 32 + IPV4


def test_until_the_base_was_answered_it_is_used_unless_smaller_ones_were() -> None:
    path = Path(mtu=1000)
    path.start()
    path.run(0.2)
    assert path.pmtu.size == BASE_MTU
    path.wait(PmtuState.SEARCH)
    assert path.pmtu.size == 1000


@pytest.mark.parametrize("mtu", [1480, 1300, 1000, 700])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.6, 0.9])
def test_a_hole_is_worked_around_within_two_seconds(mtu: int, phase: float) -> None:
    path = Path()
    path.start()
    path.run(5.0 + phase)
    path.mtu = mtu
    assert path.run(5.0, until=lambda: path.pmtu.size <= mtu) <= 2.0
    path.wait(PmtuState.COMPLETE)
    assert mtu - PRECISION < path.pmtu.size <= mtu


def test_a_hole_that_closes_is_noticed_after_ten_minutes() -> None:
    path = Path(mtu=1400)
    path.start()
    path.wait(PmtuState.COMPLETE)
    path.mtu = 1500
    path.run(RAISE_INTERVAL - 10)
    assert path.pmtu.size == 1400
    path.run(12)
    assert path.pmtu.size == 1500


def test_an_idle_path_is_not_probed_and_a_hole_is_found_when_traffic_begins() -> None:
    path = Path()
    path.start()
    path.run(2.0)
    path.traffic = 100  # liveness probes
    path.run(2.0)
    path.probes.clear()
    path.run(300.0)
    assert path.probes == []
    path.mtu = 1200
    path.run(10.0)
    assert path.pmtu.size == 1500
    path.traffic = 10_000
    assert path.run(5.0, until=lambda: path.pmtu.size == 1200) <= 2.5


def test_confirmation_costs_one_packet_a_second_at_most() -> None:
    path = Path()
    path.start()
    path.run(2.0)
    path.probes.clear()
    path.run(60.0)
    assert 50 <= len(path.probes) <= 67
    assert set(path.probes) == {1500}


def test_large_aggregates_only_for_fifteen_seconds_after_a_confirmation() -> None:
    path = Path()
    path.start()
    path.run(1.0)
    assert path.pmtu.sizes(path.now) == PathSizes(1472, 1472, True)
    path.traffic = 0
    path.run(CONFIRMED_WITHIN + 1)
    assert path.pmtu.sizes(path.now) == PathSizes(1472, None, True)
    path.traffic = 10_000
    path.run(1.5)
    assert path.pmtu.sizes(path.now) == PathSizes(1472, 1472, True)


def test_an_outage_is_no_hole() -> None:
    path = Path()
    path.start()
    path.run(3.0)
    path.mtu = 0
    path.run(8.0)
    assert (path.pmtu.state, path.pmtu.size) == (PmtuState.DOUBT, 1500)
    path.mtu = 1500
    path.run(2.5)
    assert (path.pmtu.state, path.pmtu.size) == (PmtuState.COMPLETE, 1500)
    assert PmtuState.SEARCH not in path.states[2:]


def test_an_outage_costs_few_probes() -> None:
    path = Path()
    path.start()
    path.run(3.0)
    path.mtu = 0
    path.run(2.0)
    path.probes.clear()
    path.run(60.0)
    assert len(path.probes) <= 62


def test_a_peer_that_never_answers_gets_the_floor_and_few_probes() -> None:
    path = Path(mtu=0)
    path.start()
    path.wait(PmtuState.SILENT)
    assert path.pmtu.size == FLOOR_MTU
    path.probes.clear()
    path.run(60.0)
    assert set(path.probes) == {FLOOR_MTU, BASE_MTU}
    assert len(path.probes) <= 64
    path.mtu = 1500
    path.wait(PmtuState.COMPLETE)
    assert path.pmtu.size == 1500


@pytest.mark.parametrize("seed", range(5))
def test_loss_does_not_lower_the_size_for_long(seed: int) -> None:
    path = Path(seed=seed)
    path.loss = 0.1
    path.start()
    path.run(3.0)
    low = 0.0
    for _ in range(600):
        path.run(1.0)
        low += path.pmtu.size < 1500
    assert low <= 12


def test_what_the_device_refuses_is_not_tried_again() -> None:
    path = Path()
    path.device = path.mtu = 1400
    path.start()
    path.wait(PmtuState.COMPLETE)
    assert path.pmtu.size == 1400
    assert max(path.probes) == 1400
    path.device = path.mtu = 1300  # ip link set eth0 mtu 1300
    path.run(5.0, until=lambda: path.pmtu.size <= 1300)
    path.wait(PmtuState.COMPLETE)
    assert 1300 - PRECISION < path.pmtu.size <= 1300


def test_a_device_that_refuses_even_the_floor_costs_a_try_now_and_then() -> None:
    path = Path()
    path.device = path.mtu = 500
    path.start()
    path.run(10.0)
    assert path.pmtu.size == FLOOR_MTU
    assert path.refused < 20
    deadline = path.pmtu.next_deadline()
    assert deadline is not None
    assert deadline >= path.now
    path.device = path.mtu = 1500
    path.wait(PmtuState.COMPLETE)


def test_only_echoes_of_our_probes_count() -> None:
    path = Path()
    path.start()
    base, limit = (decode_control(body) for body in path.pmtu.poll(path.now, srtt=None, sent=lambda: 0))
    assert isinstance(base, SizeProbe)
    assert isinstance(limit, SizeProbe)
    assert not path.pmtu.on_echo(99, limit.size, path.now)
    assert not path.pmtu.on_echo(limit.seq, limit.size - 1, path.now)
    assert path.pmtu.state is PmtuState.BASE
    assert path.pmtu.on_echo(limit.seq, limit.size, path.now)
    assert not path.pmtu.on_echo(limit.seq, limit.size, path.now)
    assert path.pmtu.size == 1500
    path.start()  # another endpoint
    assert not path.pmtu.on_echo(base.seq, base.size, path.now)
    assert path.pmtu.size == BASE_MTU


def test_a_late_poll_counts_no_silence() -> None:
    path = Path()
    path.start()
    path.run(3.0)
    path.run(2.0, until=lambda: path.pmtu.next_deadline() is not None)  # a confirmation is on its way
    path.now += 60.0
    assert path.pmtu.poll(path.now, srtt=None, sent=lambda: 0) == []
    assert path.pmtu.state is PmtuState.COMPLETE


def test_stop_and_start() -> None:
    path = Path()
    assert path.pmtu.state is PmtuState.IDLE
    assert path.pmtu.poll(path.now, srtt=None, sent=lambda: 0) == []
    for seconds in (0.0, 0.1, 5.0):
        path.start()
        path.run(seconds)
        path.pmtu.stop()
        assert path.pmtu.next_deadline() is None
        assert path.pmtu.poll(path.now, srtt=None, sent=lambda: 0) == []


def test_another_path_begins_with_no_more_than_the_one_before_took() -> None:
    path = Path(mtu=1000)
    path.start()
    assert path.pmtu.size == BASE_MTU
    path.wait(PmtuState.COMPLETE)
    for stopped in (False, True):
        if stopped:
            path.pmtu.stop()
        path.start()
        assert path.pmtu.size == 1000
        path.wait(PmtuState.COMPLETE)
        assert path.pmtu.size == 1000
    path.mtu = 1500  # and is no slower for that
    path.start()
    assert path.wait(PmtuState.COMPLETE) == pytest.approx(path.rtt, abs=0.03)
    path.start()
    assert path.pmtu.size == BASE_MTU


def test_outstanding_probes_are_bounded() -> None:
    path = Path(9000, mtu=3000, rtt=1.0)
    path.start()
    for _ in range(100):
        path.run(0.5)
        assert len(path.pmtu._outstanding) <= MAX_OUTSTANDING


def test_every_state_can_be_started_and_stopped_and_nothing_else_is_allowed() -> None:
    for state in PmtuState:
        assert module._TRANSITIONS[state, module._Cause.START] is PmtuState.BASE
        assert module._TRANSITIONS[state, module._Cause.STOP] is PmtuState.IDLE
    with pytest.raises(LocalProtocolError, match="FOUND"):
        Pmtu()._change(module._Cause.FOUND)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_order_of_echoes_loss_and_lateness_breaks_it(data: st.DataObject) -> None:
    """Whatever comes: no exception, sizes between floor and limit, no more probes outstanding than allowed, an end of polling."""
    pmtu, now, known = Pmtu(), 0.0, [SizeProbe(7, 100)]
    limit = data.draw(st.integers(FLOOR_MTU, 9000))
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["start", "stop", "echo", "refuse", "poll", "poll", "poll"])):
            case "start":
                pmtu.start(limit, IPV4, now)
            case "stop":
                pmtu.stop()
            case "echo":
                probe = data.draw(st.sampled_from(known))
                pmtu.on_echo(probe.seq, probe.size, now)
            case "refuse":
                pmtu.on_refused(bytes(data.draw(st.sampled_from(known)).size))
            case _:
                now += data.draw(st.sampled_from([0.0, 0.01, 0.25, 1.0, 30.0, 700.0]))
                srtt, sent = data.draw(st.sampled_from([None, 0.01, 2.0])), int(now * 1e6)
                polls = 0
                while polls == 0 or ((deadline := pmtu.next_deadline()) is not None and deadline <= now):
                    for body in pmtu.poll(now, srtt=srtt, sent=partial(int, sent)):
                        sent_probe = decode_control(body)
                        assert isinstance(sent_probe, SizeProbe)
                        assert FLOOR_MTU <= sent_probe.size + 34 + IPV4 <= limit
                        known.append(sent_probe)
                    polls += 1
                    assert polls < 10
        assert FLOOR_MTU <= pmtu.size <= limit
        assert len(pmtu._outstanding) <= MAX_OUTSTANDING
