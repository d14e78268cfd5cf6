"""The choice between direct, relay and none, and the endpoints tried beside the one in use."""

from __future__ import annotations

from meshd.forward.candidates import FIRST_SEQ, MAX_ASKED, SEARCH_INTERVAL, Candidates
from meshd.forward.control import Probe, decode_control
from meshd.forward.path import PathState
from meshd.forward.paths import HOLD, PathKind, PeerPaths
from meshd.ids import Endpoint

HERE, THERE = Endpoint("10.0.0.2", 6783), Endpoint("192.0.2.7", 40_001)


class World:
    """One peer. `open`: the endpoints that answer; time passes in steps of 50 ms."""

    def __init__(self) -> None:
        self.now = 100.0
        self.paths = PeerPaths()
        self.open = {HERE}
        self.route = False
        self.relay_answers = True
        self.paths.handshake_from(HERE, self.now)
        self.run(0.1)

    def kind(self) -> PathKind:
        return self.paths.kind

    def endpoint(self) -> Endpoint | None:
        return self.paths.direct.endpoint

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            for endpoint, body in self.paths.poll([HERE, THERE], self.now):
                if endpoint in self.open:
                    probe = probe_of(body)
                    self.paths.on_echo(probe.seq, probe.sent_us, 1, self.now)
            relayed = self.paths.relay.poll(self.now)
            if relayed is not None and self.relay_answers:
                probe = probe_of(relayed)
                self.paths.relay.on_echo(probe.seq, probe.sent_us, 1, self.now)
            if self.paths.choose(self.route, self.now) and self.paths.kind is PathKind.RELAY:
                self.paths.relay.start(None, self.now)
            self.now += 0.05


def probe_of(body: bytes) -> Probe:
    message = decode_control(body)
    assert isinstance(message, Probe)
    return message


def test_direct_is_used_as_soon_as_a_handshake_came_from_there() -> None:
    world = World()
    assert (world.kind(), world.paths.lives) == (PathKind.DIRECT, True)


def test_without_a_route_a_dead_path_is_none_and_back_at_once() -> None:
    world = World()
    world.open.clear()
    world.run(4)
    assert world.kind() is PathKind.NONE
    assert world.paths.hopeless
    world.open.add(HERE)
    world.run(1.1)
    assert world.kind() is PathKind.DIRECT


def test_with_a_route_it_is_the_relay_until_direct_has_held() -> None:
    world = World()
    world.route = True
    world.open.clear()
    world.run(4)
    assert (world.kind(), world.paths.lives, world.paths.hopeless) == (PathKind.RELAY, True, False)
    world.open.add(HERE)
    world.run(HOLD - 0.5)
    assert world.kind() is PathKind.RELAY
    world.run(1.7)
    assert world.kind() is PathKind.DIRECT
    assert world.paths.relay.state is PathState.IDLE


def test_each_early_death_doubles_the_hold() -> None:
    world = World()
    world.route = True
    for hold in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        world.open.clear()
        world.run(4)
        assert world.kind() is PathKind.RELAY
        world.open.add(HERE)
        world.run(hold - 0.5)
        assert world.kind() is PathKind.RELAY
        world.run(2.0)
        assert world.kind() is PathKind.DIRECT


def test_a_relay_that_does_not_answer_is_left_for_a_direct_path_that_does() -> None:
    world = World()
    world.route, world.relay_answers = True, False
    world.open.clear()
    world.run(7)
    assert world.paths.hopeless
    assert world.paths.silent(world.now)
    world.open.add(HERE)
    world.run(1.1)
    assert world.kind() is PathKind.DIRECT


def test_an_endpoint_that_answers_is_moved_to_only_when_the_one_in_use_does_not() -> None:
    world = World()
    world.open.add(THERE)
    world.paths.probe_from(THERE, world.now)
    world.run(1)
    assert world.endpoint() == HERE
    world.open.remove(HERE)
    for _ in range(4):
        world.paths.probe_from(THERE, world.now)
        world.run(0.5)
    assert (world.endpoint(), world.kind()) == (THERE, PathKind.DIRECT)
    assert world.paths.direct.state is PathState.ALIVE


def test_an_endpoint_that_never_answers_is_never_moved_to() -> None:
    world = World()
    world.open.clear()
    for _ in range(8):
        world.paths.probe_from(THERE, world.now)
        world.run(0.5)
    assert world.endpoint() == HERE


def test_candidates_ask_once_for_each_offer_and_search_all_at_once_then_in_turn() -> None:
    candidates = Candidates()
    assert candidates.next_deadline() is None
    candidates.offer(THERE)
    candidates.offer(THERE)
    ((endpoint, body),) = candidates.poll([], 1.0)
    assert endpoint == THERE
    assert candidates.poll([], 1.0) == []
    probe = probe_of(body)
    assert probe.seq == FIRST_SEQ
    assert candidates.on_echo(probe.seq, probe.sent_us + 1) is None
    assert candidates.on_echo(probe.seq, probe.sent_us) == THERE
    assert candidates.on_echo(probe.seq, probe.sent_us) is None
    candidates.search(True, 2.0)
    asked = [
        [endpoint for endpoint, _ in candidates.poll([HERE, THERE], 2.0 + turn * SEARCH_INTERVAL)] for turn in range(4)
    ]
    assert asked == [[HERE, THERE], [HERE], [THERE], [HERE]]
    candidates.search(False, 6.0)
    candidates.search(True, 7.0)
    assert len(candidates.poll([HERE, THERE], 7.0)) == 2
    candidates.stop()
    assert candidates.next_deadline() is None


def test_candidates_forget_the_oldest() -> None:
    candidates = Candidates()
    candidates.search(True, 0.0)
    first = probe_of(candidates.poll([HERE], 0.0)[0][1])
    for turn in range(1, MAX_ASKED + 1):
        candidates.poll([HERE], float(turn))
    assert candidates.on_echo(first.seq, first.sent_us) is None
