"""Two path monitors over the simulated network: bad networks are lived with, cut ones are found out, healed ones are used again."""

from __future__ import annotations

import pytest

from meshd.forward.control import Echo, Probe, decode_control
from meshd.forward.path import PathMonitor, PathState
from meshd.ids import Endpoint
from meshd.testing.clock import Timer
from meshd.testing.network import LinkConditions, SimNetwork

A, B = Endpoint("10.0.0.1", 6783), Endpoint("10.0.0.2", 6783)


class Prober:
    """A host that does nothing but watch one path, driven by its deadlines alone."""

    def __init__(self, net: SimNetwork, local: Endpoint, remote: Endpoint) -> None:
        self.net = net
        self.monitor = PathMonitor()
        self.remote = remote
        self.socket = net.bind_udp(local, self.receive)
        self.timer: Timer | None = None
        self.history: list[tuple[float, PathState]] = []
        self.monitor.start(remote, net.clock.now)
        self.settle()

    def receive(self, data: bytes, source: Endpoint) -> None:
        message = decode_control(data)
        if isinstance(message, Probe):
            echo = self.monitor.on_probe(message.seq, message.sent_us, message.heard, self.net.clock.now)
            self.socket.send(echo, source)
        elif isinstance(message, Echo):
            self.monitor.on_echo(message.seq, message.sent_us, message.heard, self.net.clock.now)
        self.settle()

    def settle(self) -> None:
        body = self.monitor.poll(self.net.clock.now)
        if body is not None:
            self.socket.send(body, self.remote)
        while (change := self.monitor.next_event()) is not None:
            self.history.append((change.at, change.state))
        if self.timer is not None:
            self.timer.cancel()
        deadline = self.monitor.next_deadline()
        assert deadline is not None
        self.timer = self.net.clock.call_at(deadline, self.settle)

    def states(self) -> set[PathState]:
        return {state for _, state in self.history}


def watch(conditions: LinkConditions, seed: int = 1) -> tuple[SimNetwork, Prober, Prober]:
    net = SimNetwork(seed, default=conditions)
    net.add_host("a", A.host)
    net.add_host("b", B.host)
    return net, Prober(net, A, B), Prober(net, B, A)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "conditions",
    [
        LinkConditions(),
        LinkConditions(loss=0.05, jitter=0.01, duplicate=0.02),
        LinkConditions(delay=0.3, jitter=0.1, loss=0.02),
        LinkConditions(loss=0.1),  # 19 % of round trips; eight in a row are lost about once a week
    ],
    ids=["good", "5 % loss", "far", "10 % loss"],
)
def test_ten_minutes_without_a_false_death(conditions: LinkConditions, seed: int) -> None:
    net, a, b = watch(conditions, seed)
    net.clock.run_for(600)
    for prober in (a, b):
        assert PathState.DEAD not in prober.states()
        assert prober.monitor.view().srtt == pytest.approx(2 * conditions.delay, abs=2 * conditions.jitter + 0.001)


def test_an_idle_good_path_costs_two_small_datagrams_a_second_each_way() -> None:
    net, a, _ = watch(LinkConditions())
    net.clock.run_for(100)
    assert net.trace.counts["udp sent"] <= 4 * 101
    assert a.monitor.cost == 0


@pytest.mark.parametrize("both", [True, False], ids=["both ways", "one way"])
def test_a_cut_is_found_within_three_seconds_by_both_and_healed_within_two(both: bool) -> None:
    net, a, b = watch(LinkConditions(delay=0.02, loss=0.02))
    net.clock.run_for(60.3)
    net.topology.cut("a", "b")
    if both:
        net.topology.cut("b", "a")
    dead = net.clock.wait_for(lambda: a.monitor.state is b.monitor.state is PathState.DEAD, timeout=10)
    assert dead is not None
    assert dead <= 3.05 + 0.25
    net.clock.run_for(100)
    net.topology.heal()
    alive = net.clock.wait_for(lambda: a.monitor.state is b.monitor.state is PathState.ALIVE, timeout=10)
    assert alive is not None
    assert alive <= 2.0
