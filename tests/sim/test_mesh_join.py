"""Joining: from one address each, hosts learn of each other, link, agree, and carry the containers' frames."""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from meshd.drops import DropReason
from meshd.forward.paths import PathKind
from meshd.forward.relay import RELAY_FIRST_BYTE
from meshd.gossip.overlay import ACTIVE_LOW
from meshd.node.edges import USUAL_EDGES
from meshd.testing.network import LinkConditions
from tests.sim.meshes import FakeSignatures, Mesh


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("hosts", "limit"), [(1, 0.0), (2, 1.0), (3, 1.0), (5, 1.0), (8, 2.0), (12, 3.0)])
def test_all_hosts_mesh_from_one_address(hosts: int, limit: float, seed: int) -> None:
    mesh = Mesh(seed=seed, hosts=hosts)
    mesh.start()
    took = mesh.wait(mesh.meshed, limit + 0.01)
    took += mesh.wait(mesh.owners_right, 1.0)
    assert took <= max(limit, 0.01)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(3))
def test_hosts_that_know_only_the_one_before_them(seed: int) -> None:
    mesh = Mesh(seed=seed, hosts=6, targets=lambda number: [Mesh.address(number - 1)] if number else [])
    mesh.start()
    mesh.wait(mesh.meshed, 3.0)
    mesh.wait(mesh.owners_right, 1.0)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(3))
def test_hosts_that_come_later_and_all_name_each_other(seed: int) -> None:
    """Everybody dials everybody: of each pair one link stays. Each newcomer is in within a second."""
    everybody = [Mesh.address(number) for number in range(5)]
    mesh = Mesh(seed=seed, hosts=5, targets=lambda _: everybody)
    for number, host in enumerate(mesh.hosts):
        host.start()
        mesh.wait(partial(mesh.meshed, mesh.hosts[: number + 1]), 12.0)
        mesh.run(mesh.rng.uniform(0.0, 5.0))
    mesh.wait(lambda: all(len(host.node.links.connector.connections(host.now)) == 5 for host in mesh.hosts), 15.0)
    for host in mesh.hosts:
        rows = host.node.view(host.now).connections
        assert sorted((row.state, row.info) for row in rows if row.state != "established") == [
            ("failed", "cannot connect to ourself, retry: never")
        ]
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(3))
def test_a_far_and_lossy_network_joins_too(seed: int) -> None:
    bad = LinkConditions(delay=0.1, jitter=0.03, loss=0.05, reorder=0.2, duplicate=0.1)
    mesh = Mesh(seed=seed, hosts=5, conditions=bad)
    mesh.start()
    mesh.wait(mesh.meshed, 15.0, every=0.1)
    mesh.wait(mesh.owners_right, 5.0)
    mesh.assert_sane()


def strangers(mesh: Mesh) -> list[tuple[int, int]]:
    """Pairs that share no key."""
    return [
        (i, j)
        for i, j in itertools.combinations(range(len(mesh.hosts)), 2)
        if mesh.hosts[i].node.peers.sessions.keypair(mesh.hosts[j].host_id) is None
        and mesh.hosts[j].node.peers.sessions.keypair(mesh.hosts[i].host_id) is None
    ]


@pytest.mark.parametrize("seed", range(1))
def test_thirty_hosts_hold_few_links_and_open_sessions_on_demand(seed: int) -> None:
    signatures = FakeSignatures()
    mesh = Mesh(seed=seed, hosts=30, signatures=signatures)
    mesh.start()
    mesh.wait(mesh.quiet, 5.0, every=0.1)
    assert all(len(host.node.links.linked_hosts()) >= ACTIVE_LOW - 2 for host in mesh.hosts)
    mesh.assert_floods()
    apart = strangers(mesh)
    assert len(apart) >= 100  # of 435 pairs: the overlay is no full mesh
    i, j = mesh.rng.choice(apart)
    assert mesh.ask(mesh.boxes[i], mesh.boxes[j]) <= 0.1
    mesh.assert_unicast()
    mesh.assert_sane()
    assert signatures.signed < signatures.verified


# sessions on demand: with discovery off, a chain of three links a–b–c leaves a and c without one


def chain(seed: int) -> Mesh:
    mesh = Mesh(
        seed=seed,
        hosts=3,
        discovery=False,
        targets=lambda number: [Mesh.address(number - 1)] if number else [],
    )
    mesh.start()
    mesh.wait(mesh.quiet, 3.0)
    return mesh


@pytest.mark.parametrize("seed", range(3))
def test_without_discovery_only_the_named_links_exist_and_floods_go_over_the_middle(seed: int) -> None:
    mesh = chain(seed)
    mesh.run(30)
    a, b, c = mesh.hosts
    assert a.node.links.linked_hosts() == c.node.links.linked_hosts() == {b.host_id}
    assert b.node.links.linked_hosts() == {a.host_id, c.host_id}
    assert a.host_id not in c.node.peers.alive()
    mesh.net.topology.cut_pair("h0", "h2")
    mesh.assert_floods()
    assert a.node.peers.sessions.keypair(c.host_id) is None
    mesh.assert_sane()


def test_a_hub_connects_more_spokes_than_it_usually_lists() -> None:
    """Firewalls, or NATs, let each of them reach the hub and nobody else."""
    mesh = Mesh(seed=3, hosts=USUAL_EDGES + 4, discovery=False, signatures=FakeSignatures())
    for one, other in itertools.combinations(mesh.hosts[1:], 2):
        mesh.net.topology.cut_pair(one.name, other.name)
    mesh.start()
    mesh.wait(mesh.quiet, 10.0, every=0.1)
    mesh.assert_floods()
    last = mesh.boxes[-4:]
    mesh.ask(last[0], last[-1])
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(3))
def test_without_discovery_unicast_goes_directly_where_datagrams_pass(seed: int) -> None:
    """--no-discovery is about control links: whose record is known can be sent to, end to end."""
    mesh = chain(seed)
    assert mesh.ask(mesh.boxes[0], mesh.boxes[2]) <= 0.1
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(3))
def test_without_a_direct_way_unicast_goes_through_the_middle(seed: int) -> None:
    mesh = chain(seed)
    a, b, c = mesh.hosts
    mesh.net.topology.cut_pair("h0", "h2")
    assert mesh.ask(mesh.boxes[0], mesh.boxes[2]) <= 1.0
    mesh.assert_unicast()
    for one, other in ((a, c), (c, a)):
        peer = one.node.peers.peers[other.host_id]
        assert (peer.paths.kind, peer.via) == (PathKind.RELAY, b.host_id)
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(3))
def test_a_way_that_opens_again_is_taken_at_once(seed: int) -> None:
    """Keys were asked for in vain all the while, every five seconds by now, and every second time directly."""
    mesh = chain(seed)
    a, _, c = mesh.hosts
    mesh.net.topology.cut_pair("h0", "h2")
    mesh.net.topology.cut_pair("h1", "h2")
    for _ in range(50):
        mesh.boxes[0].send(mesh.boxes[2].mac, mesh.payload())
        mesh.run(0.1)
    mesh.run(mesh.rng.uniform(15.0, 20.0))
    assert a.node.peers.sessions.handshaking(c.host_id)
    mesh.net.topology.mend("h1", "h2")
    mesh.wait(lambda: mesh.reachable([a, c, mesh.hosts[1]]), 10.0)
    assert mesh.ask(mesh.boxes[0], mesh.boxes[2]) <= 0.5
    mesh.assert_unicast()


def test_where_no_way_leads_unicast_is_a_counted_drop() -> None:
    mesh = chain(1)
    a, _, c = mesh.hosts
    mesh.net.topology.cut_pair("h0", "h2")
    mesh.net.hooks.append(lambda _, __, data: [] if data[0] == RELAY_FIRST_BYTE else [data])
    for _ in range(100):
        mesh.boxes[0].send(mesh.boxes[2].mac, mesh.payload())
        mesh.run(0.01)
    assert a.engine.drops[DropReason.NO_SESSION] == 100 - 64
    mesh.run(100)
    assert a.engine.drops[DropReason.NO_PATH] == 64  # given up: what waited is gone, not kept until it is stale
    mesh.net.topology.heal()
    mesh.net.hooks.clear()
    mesh.run(1)
    assert not mesh.boxes[2].received
    mesh.boxes[0].send(mesh.boxes[2].mac, mesh.payload())  # counted too, but it asks for a new try
    mesh.run(0.1)
    assert a.engine.drops[DropReason.NO_PATH] == 65
    assert mesh.ask(mesh.boxes[0], mesh.boxes[2]) <= 0.1
    assert c.node.reach.alive == mesh.ids()


def test_an_idle_session_on_demand_ends_at_both_ends_and_is_made_anew_without_loss() -> None:
    mesh = chain(1)
    a, _, c = mesh.hosts
    mesh.ask(mesh.boxes[0], mesh.boxes[2])
    mesh.run(45)
    assert a.node.peers.sessions.keypair(c.host_id) is not None

    def one_has_ended() -> bool:
        return None in (a.node.peers.sessions.keypair(c.host_id), c.node.peers.sessions.keypair(a.host_id))

    mesh.wait(one_has_ended, 200, every=1.0)
    mesh.run(0.1)
    assert a.node.peers.sessions.keypair(c.host_id) is c.node.peers.sessions.keypair(a.host_id) is None
    assert a.node.reach.alive == mesh.ids()
    assert mesh.ask(mesh.boxes[2], mesh.boxes[0]) <= 0.1
    mesh.assert_unicast()
    mesh.assert_sane()


def test_keys_that_the_other_end_has_lost_are_given_up_within_seconds() -> None:
    mesh = chain(1)
    a, _, c = mesh.hosts
    mesh.ask(mesh.boxes[0], mesh.boxes[2])
    mesh.run(5)
    a.node.peers.forget(c.host_id, a.now)  # and its goodbye is lost
    sent = []
    for _ in range(40):
        sent.append(mesh.payload())
        mesh.boxes[2].send(mesh.boxes[0].mac, sent[-1])
        mesh.run(0.1)
    got = mesh.boxes[0].payloads()
    assert sent[-1] in got
    assert got.count(sent[-1]) == 1
    assert len(set(sent) - set(got)) <= 35
    assert a.engine.drops[DropReason.UNKNOWN_INDEX] > 0
    mesh.assert_unicast()


@pytest.mark.parametrize("seed", range(2))
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    def digest(chosen: int) -> str:
        bad = LinkConditions(loss=0.05, jitter=0.005, duplicate=0.05, reorder=0.1)
        mesh = Mesh(seed=chosen, hosts=4, conditions=bad)
        mesh.start()
        mesh.run(3)
        mesh.hosts[1].kill()
        mesh.run(3)
        mesh.hosts[1].start()
        mesh.run(10)
        return mesh.net.trace.digest()

    assert digest(seed) == digest(seed)
    assert digest(seed) != digest(seed + 100)
