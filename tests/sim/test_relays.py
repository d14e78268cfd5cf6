"""Hosts that do not reach each other, or no longer, or one way only: what goes through a third one, how soon, and when it ends.

Traffic is a frame each way every 25 ms; a gap is the longest time in which none of them arrived.
"""

from __future__ import annotations

import itertools
import re

import pytest

from meshd.forward.paths import HOLD, PathKind
from meshd.forward.relay import RELAY_FIRST_BYTE
from meshd.ids import Endpoint
from meshd.testing.conditions import LinkConditions
from meshd.testing.host import SimContainer, SimHost
from meshd.testing.nat import Nat
from meshd.views import PathView
from tests.sim.meshes import FakeSignatures, Mesh

SEEDS = range(2)
STEP = 0.025


def meshed(seed: int, hosts: int = 3, conditions: LinkConditions | None = None) -> Mesh:
    mesh = Mesh(seed=seed, hosts=hosts, conditions=conditions or LinkConditions())
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.wait(mesh.owners_right, 3.0)
    mesh.run(mesh.rng.uniform(2.0, 5.0))
    return mesh


class Talk:
    """Two containers that send each other a numbered frame every STEP; tells when frames were lost, and for how long."""

    def __init__(self, mesh: Mesh, one: SimContainer, other: SimContainer, *, pad: int = 0) -> None:
        self.mesh, self.boxes, self.pad = mesh, (one, other), bytes(pad)
        self.sent: list[tuple[float, bytes, bytes]] = []
        self._before = {box.name: len(box.received) for box in self.boxes}

    def run(self, seconds: float) -> None:
        one, other = self.boxes
        for _ in range(round(seconds / STEP)):
            there, back = self.mesh.payload() + self.pad, self.mesh.payload() + self.pad
            self.sent.append((self.mesh.clock_now, there, back))
            one.send(other.mac, there)
            other.send(one.mac, back)
            self.mesh.run(STEP)

    def lost(self) -> list[float]:
        """When the frames were sent that have not arrived, either way. None may arrive twice."""
        self.mesh.run(0.5)
        one, other = (box.payloads()[self._before[box.name] :] for box in self.boxes)
        arrived_there, arrived_back = set(other), set(one)
        ours = {payload for _, there, back in self.sent for payload in (there, back)}
        for got in (one, other):
            mine = [payload for payload in got if payload in ours]
            assert len(mine) == len(set(mine)), "a frame arrived twice"
        return [at for at, there, back in self.sent if there not in arrived_there or back not in arrived_back]

    def gap(self) -> float:
        """From the first lost frame to the last one."""
        lost = self.lost()
        return lost[-1] - lost[0] + STEP if lost else 0.0


def way(one: SimHost, other: SimHost) -> PathKind:
    return one.node.peers.peers[other.host_id].paths.kind


def path(one: SimHost, other: SimHost) -> PathView:
    return next(row for row in one.node.view(one.now).paths if row.nickname == other.name)


def no_udp(mesh: Mesh, one: SimHost, other: SimHost, *, both: bool = True) -> None:
    """UDP between these two is dropped, TCP passes."""
    pairs = {(one.address, other.address)} | ({(other.address, one.address)} if both else set())
    mesh.net.hooks.append(lambda source, to, data: [] if (source.host, to.host) in pairs else [data])


def passes_nothing_on(mesh: Mesh, relay: SimHost) -> None:
    mesh.net.hooks.append(
        lambda source, _, data: [] if source.host == relay.address and data[0] == RELAY_FIRST_BYTE else [data]
    )


# ── cut


@pytest.mark.parametrize("what", ["everything", "udp", "one way"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_that_is_cut_is_gone_round_within_four_seconds_and_comes_back_without_loss(seed: int, what: str) -> None:
    mesh = meshed(seed)
    a, b, c = mesh.hosts
    keys = a.node.peers.sessions.keypair(b.host_id)
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(1)
    if what == "everything":
        mesh.net.topology.cut_pair("h0", "h1")
    elif what == "udp":
        no_udp(mesh, a, b)
    else:
        mesh.net.topology.cut("h0", "h1")
    talk.run(20)
    assert 1.0 < talk.gap() <= 4.0
    for one, other in ((a, b), (b, a)):
        assert way(one, other) is PathKind.RELAY
        assert one.node.peers.peers[other.host_id].via == c.host_id
        assert other.host_id not in one.node.peers.alive()  # down both ways
        assert other.host_id in one.node.reach.alive
        shown = path(one, other)
        assert (shown.kind, shown.state, shown.endpoint) == ("relay", "alive", f"{c.address}:6783")
        assert shown.via.endswith("(h2)")
        assert re.fullmatch(rf"relayed via h2: no answer on {other.address}:6783 for 2\d s", shown.reason)
        assert shown.mtu == 1500 - 28 - 52 - 48
    assert a.node.peers.sessions.keypair(b.host_id) == keys  # the same keys, another way
    mesh.assert_floods()
    mesh.net.topology.heal()
    mesh.net.hooks.clear()
    healed = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    healed.run(1)
    assert way(a, b) is way(b, a) is PathKind.RELAY  # not before it has proved itself
    healed.run(HOLD + 4)
    assert way(a, b) is way(b, a) is PathKind.DIRECT
    assert healed.lost() == []
    mesh.wait(mesh.meshed, 5.0)
    mesh.assert_unicast()
    mesh.assert_sane()


def test_the_way_back_to_a_direct_path_loses_no_frame_where_all_paths_are_narrow() -> None:
    mesh = meshed(0, conditions=LinkConditions(mtu=1000))
    a, b, _ = mesh.hosts
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(15)
    assert way(a, b) is PathKind.RELAY
    mesh.net.topology.heal()
    talk = Talk(
        mesh, mesh.boxes[0], mesh.boxes[1], pad=1100
    )  # one datagram of 1280 B, which is what a new path begins with
    talk.run(10)
    assert way(a, b) is way(b, a) is PathKind.DIRECT
    assert talk.lost() == []


@pytest.mark.parametrize("what", ["everything", "udp", "one way"])
@pytest.mark.parametrize("seed", SEEDS)
def test_hosts_that_never_reached_each_other_talk_through_the_third(seed: int, what: str) -> None:
    mesh = Mesh(seed=seed, hosts=3, targets=lambda number: [Mesh.address(1)] if number != 1 else [])
    a, _, c = mesh.hosts
    if what == "everything":
        mesh.net.topology.cut_pair("h0", "h2")
    elif what == "udp":
        no_udp(mesh, a, c)
    else:
        mesh.net.topology.cut("h2", "h0")
    mesh.start()
    mesh.wait(mesh.quiet, 5.0)
    mesh.wait(lambda: way(a, c) is way(c, a) is PathKind.RELAY, 5.0)
    mesh.run(1)
    mesh.assert_unicast()
    mesh.assert_floods()
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[2])
    talk.run(20)
    assert talk.lost() == []
    assert way(a, c) is way(c, a) is PathKind.RELAY
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_relay_dies_and_the_next_one_takes_over(seed: int) -> None:
    mesh = meshed(seed, hosts=4)
    a, b = mesh.hosts[:2]
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(10)
    first = next(host for host in mesh.hosts if host.host_id == a.node.peers.peers[b.host_id].via)
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(1)
    mesh.net.topology.isolate(first.name, [host.name for host in mesh.hosts])
    first.kill()
    talk.run(12)
    assert talk.gap() <= 4.0
    (second,) = (host for host in mesh.hosts if host not in (a, b, first))
    assert a.node.peers.peers[b.host_id].via == b.node.peers.peers[a.host_id].via == second.host_id


@pytest.mark.parametrize("seed", SEEDS)
def test_the_far_edge_of_a_relay_is_cut(seed: int) -> None:
    mesh = meshed(seed, hosts=4)
    a, b = mesh.hosts[:2]
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(10)
    first = next(host for host in mesh.hosts if host.host_id == a.node.peers.peers[b.host_id].via)
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(1)
    mesh.net.topology.cut_pair(first.name, b.name)
    talk.run(12)
    assert talk.gap() <= 4.0
    assert a.node.peers.peers[b.host_id].via != first.host_id
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_relay_that_takes_everything_and_passes_nothing_on_is_left(seed: int) -> None:
    """Link records cannot tell of it; probes through it do. It is tried again after a minute, and then more and more rarely."""
    mesh = meshed(seed, hosts=4)
    a, b = mesh.hosts[:2]
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(10)
    first = next(host for host in mesh.hosts if host.host_id == a.node.peers.peers[b.host_id].via)
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(1)
    passes_nothing_on(mesh, first)
    talk.run(20)
    assert talk.gap() <= 4.0
    assert a.node.peers.peers[b.host_id].via != first.host_id
    used = [False]
    for _ in range(400):
        mesh.run(0.5)
        used.append(a.node.peers.peers[b.host_id].via == first.host_id)
    assert sum(now and not before for before, now in itertools.pairwise(used)) == 2  # after one minute and after three


def test_where_no_relay_passes_anything_on_all_are_tried_in_turn() -> None:
    mesh = meshed(0, hosts=4)
    a, b, *relays = mesh.hosts
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(10)
    for relay in relays:
        passes_nothing_on(mesh, relay)
    mesh.run(30)
    for relay, hook in zip(relays, list(mesh.net.hooks), strict=True):
        mesh.net.hooks.remove(hook)
        mesh.wait(lambda: a.node.peers.peers[b.host_id].paths.relay_lives, 10.0)
        assert a.node.peers.peers[b.host_id].via == relay.host_id
        passes_nothing_on(mesh, relay)
        mesh.run(30)


@pytest.mark.parametrize("bad", [2, 3])
def test_a_relay_that_passes_nothing_on_does_not_keep_two_hosts_from_meeting(bad: int) -> None:
    """They have no keys yet, so no probe finds it out; and of two relays either may be the first in everybody's order."""
    mesh = Mesh(seed=0, hosts=4, targets=lambda number: [Mesh.address(2), Mesh.address(3)] if number != 2 else [])
    mesh.net.topology.cut_pair("h0", "h1")
    passes_nothing_on(mesh, mesh.hosts[bad])
    mesh.start()
    a, b = mesh.hosts[:2]
    mesh.wait(lambda: b.host_id in a.node.peers.peers and a.host_id in b.node.peers.peers, 5.0)
    ends = (a.node.peers.peers[b.host_id], b.node.peers.peers[a.host_id])
    mesh.wait(lambda: all(end.paths.relay_lives for end in ends), 10.0)
    mesh.run(0.5)
    mesh.ask(mesh.boxes[0], mesh.boxes[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_two_relays_in_a_row(seed: int) -> None:
    """h0 – h1 – h2 – h3, and no other path at all."""
    mesh = Mesh(seed=seed, hosts=4, targets=lambda number: [Mesh.address(number - 1)] if number else [])
    for one, other in itertools.combinations(range(4), 2):
        if other - one > 1:
            mesh.net.topology.cut_pair(f"h{one}", f"h{other}")
    mesh.start()
    mesh.wait(mesh.quiet, 10.0)
    ends = (mesh.hosts[0], mesh.hosts[3])
    mesh.wait(lambda: way(*ends) is way(*reversed(ends)) is PathKind.RELAY, 6.0)
    mesh.run(3)
    mesh.assert_unicast()
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[3])
    talk.run(10)
    assert talk.lost() == []
    assert path(*ends).rtt_ms == pytest.approx(6.0, abs=0.5)
    mesh.assert_sane()


def test_no_way_at_all_is_a_death() -> None:
    mesh = meshed(0, hosts=2)
    a, b = mesh.hosts
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(5)
    assert way(a, b) is way(b, a) is PathKind.NONE
    mesh.run(10)
    assert b.host_id not in a.node.reach.alive
    mesh.net.topology.heal()
    mesh.wait(mesh.meshed, 15.0)
    mesh.assert_unicast()


# ── no flapping


@pytest.mark.parametrize("seed", SEEDS)
def test_five_percent_loss_moves_nothing_for_ten_minutes(seed: int) -> None:
    mesh = meshed(seed, conditions=LinkConditions(loss=0.05, jitter=0.005))
    begun = {
        (a.name, b.name): a.node.peers.peers[b.host_id].paths.since for a, b in itertools.permutations(mesh.hosts, 2)
    }
    mesh.run(600)
    for a, b in itertools.permutations(mesh.hosts, 2):
        assert way(a, b) is PathKind.DIRECT
        assert a.node.peers.peers[b.host_id].paths.since == begun[a.name, b.name]


@pytest.mark.parametrize("seed", range(1))
def test_a_path_that_comes_and_goes_costs_at_most_a_change_a_minute(seed: int) -> None:
    mesh = meshed(seed)
    a, b, _ = mesh.hosts
    changes, last = 0, way(a, b)
    for turn in range(60):
        if turn % 2 == 0:
            mesh.net.topology.cut_pair("h0", "h1")
        else:
            mesh.net.topology.heal()
        for _ in range(100):
            mesh.run(0.1)
            changes, last = changes + (way(a, b) is not last), way(a, b)
    assert changes <= 2 * 10  # to and fro, in ten minutes
    mesh.net.topology.heal()
    mesh.wait(lambda: way(a, b) is way(b, a) is PathKind.DIRECT, 70.0)


def test_one_way_for_ten_minutes_is_quiet() -> None:
    mesh = meshed(0)
    a, b, _ = mesh.hosts
    mesh.net.topology.cut("h0", "h1")
    mesh.run(10)
    begun = [one.node.peers.peers[other.host_id].paths.since for one, other in ((a, b), (b, a))]
    mesh.run(600)
    assert [one.node.peers.peers[other.host_id].paths.since for one, other in ((a, b), (b, a))] == begun
    mesh.assert_unicast()


# ── larger meshes: a host that is no neighbour


def test_a_host_that_is_no_neighbour_is_reached_through_others() -> None:
    fakes = FakeSignatures()
    mesh = Mesh(seed=1, hosts=16, signatures=fakes)
    mesh.start()
    mesh.wait(mesh.quiet, 20.0, every=0.2)
    mesh.run(5)
    one, other = next(
        (a, b)
        for a, b in itertools.permutations(range(16), 2)
        if not mesh.hosts[a].node.peers.peers[mesh.hosts[b].host_id].keep
        and not mesh.hosts[b].node.peers.peers[mesh.hosts[a].host_id].keep
    )
    mesh.net.topology.cut_pair(f"h{one}", f"h{other}")
    assert mesh.ask(mesh.boxes[one], mesh.boxes[other], timeout=2.0) <= 1.0
    talk = Talk(mesh, mesh.boxes[one], mesh.boxes[other])
    talk.run(10)
    assert talk.lost() == []
    assert way(mesh.hosts[one], mesh.hosts[other]) is PathKind.RELAY
    mesh.net.topology.heal()
    mesh.run(10)
    assert way(mesh.hosts[one], mesh.hosts[other]) is PathKind.DIRECT
    mesh.assert_sane()


# ── addresses that change


@pytest.mark.parametrize("seed", SEEDS)
def test_a_nat_that_changes_its_port_is_followed_within_two_seconds(seed: int) -> None:
    mesh = Mesh(seed=seed, hosts=2)
    outside, inside = mesh.hosts
    local, nat = Endpoint(inside.address, 6783), Nat("192.0.2.7", [inside.address])
    mesh.net.nats.append(nat)
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)
    mesh.run(3)
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(3)
    assert talk.lost() == []
    before = nat.outside(local)
    assert path(outside, inside).endpoint == str(before)
    nat.rebind()
    talk.run(10)
    assert 0 < talk.gap() <= 2.0
    assert path(outside, inside).endpoint == str(nat.outside(local)) != str(before)
    assert way(outside, inside) is PathKind.DIRECT
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_two_hosts_behind_nats_of_their_own_talk_through_the_third(seed: int) -> None:
    mesh = Mesh(seed=seed, hosts=3)
    _, b, c = mesh.hosts
    mesh.net.nats += [Nat("192.0.2.7", [b.address]), Nat("192.0.2.8", [c.address])]
    mesh.start()
    mesh.wait(mesh.quiet, 5.0)
    mesh.wait(lambda: way(b, c) is way(c, b) is PathKind.RELAY, 5.0)
    mesh.run(2)
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_copy_from_elsewhere_steals_nothing(seed: int) -> None:
    """Somebody holds back every datagram of one host and sends it from an address of his own: he gets two small ones for each
    probe, and no frame."""
    mesh = meshed(seed, hosts=2)
    a, b = mesh.hosts
    thief = Endpoint("203.0.113.9", 666)
    mesh.net.add_host("thief", thief.host)
    stolen: list[bytes] = []
    mesh.net.bind_udp(thief, lambda data, _: stolen.append(data))
    seen = 0

    def copy(source: Endpoint, to: Endpoint, data: bytes) -> list[bytes]:
        nonlocal seen
        if source.host == a.address and to.host == b.address:
            seen += len(data)
            mesh.net.clock.call_later(0.0, lambda: mesh.net._forward(thief, to, data))
        return [data]

    mesh.net.topology.set_link("h0", "h1", LinkConditions(delay=0.05))  # so that the copy comes first
    mesh.net.hooks.append(copy)
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(20)
    assert talk.lost() == []
    assert path(b, a).endpoint == str(Endpoint(a.address, 6783))
    assert 0 < sum(map(len, stolen)) <= seen // 10
    assert max(map(len, stolen)) <= 200
