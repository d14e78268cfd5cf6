"""Who is alive: the grace after the last edge, goodbyes, and hosts that come back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ids import HostId
from meshd.node.changes import GOODBYE_S
from meshd.node.reach import MIN_GRACE_S, Reach
from tests.sim.meshes import Mesh

A, B, C = (HostId(bytes([number]) * 16) for number in range(3))


def test_a_host_that_lost_its_last_edge_has_a_grace() -> None:
    reach = Reach()
    assert reach.update({A, B}, 2, 0.0)
    assert not reach.update({A}, 2, 10.0)  # nothing changes yet
    assert reach.alive == {A, B}
    assert reach.next_deadline() == 10.0 + MIN_GRACE_S
    assert not reach.handle_timer(14.999)
    assert reach.handle_timer(15.0)
    assert (set(reach.alive), reach.next_deadline()) == ({A}, None)
    assert not reach.handle_timer(16.0)


@pytest.mark.parametrize(("hosts", "grace"), [(0, 5.0), (1, 5.0), (17, 5.0), (100, 8.0), (1000, 12.0)])
def test_a_large_mesh_is_more_patient(hosts: int, grace: float) -> None:
    reach = Reach()
    reach.update({A}, hosts, 0.0)
    reach.update((), hosts, 0.0)
    assert reach.next_deadline() == pytest.approx(grace)


def test_a_host_that_comes_back_within_its_grace_was_never_gone() -> None:
    reach = Reach()
    reach.update({A, B}, 2, 0.0)
    reach.update({A}, 2, 1.0)
    assert not reach.update({A, B}, 2, 2.0)
    assert not reach.handle_timer(100.0)
    assert reach.alive == {A, B}
    reach.update({A}, 2, 200.0)
    assert reach.next_deadline() == 205.0  # a new loss, a new grace


def test_the_grace_counts_from_the_first_loss() -> None:
    reach = Reach()
    reach.update({A}, 1, 0.0)
    for now in (1.0, 2.0, 3.0):
        reach.update((), 1, now)
    assert reach.next_deadline() == 6.0


def test_a_goodbye_counts_at_once() -> None:
    reach = Reach()
    reach.update({A, B}, 2, 0.0)
    assert reach.gone(B)
    assert not reach.gone(B)
    assert reach.alive == {A}
    reach.update({A}, 2, 1.0)  # its edges go: no grace for who said goodbye
    assert (set(reach.alive), reach.next_deadline()) == ({A}, None)
    assert reach.update({A, B}, 2, 2.0)  # started again


def test_a_goodbye_within_the_grace() -> None:
    reach = Reach()
    reach.update({A}, 1, 0.0)
    reach.update((), 1, 1.0)
    assert reach.gone(A)
    assert reach.next_deadline() is None
    assert not reach.handle_timer(100.0)


@given(st.lists(st.tuples(st.sets(st.sampled_from([A, B, C])), st.floats(0, 10)), max_size=20))
def test_against_what_it_should_be(steps: list[tuple[set[HostId], float]]) -> None:
    """A host is alive while it was reachable less than its grace ago."""
    reach, now, last = Reach(), 0.0, dict.fromkeys((A, B, C), -math.inf)
    reached: set[HostId] = set()
    for following, wait in steps:
        now += wait
        for host in reached:
            last[host] = now
        reach.handle_timer(now)
        reach.update(following, 3, now)
        reached = following
        assert reach.alive == {host for host in last if host in reached or now < last[host] + MIN_GRACE_S}


def test_a_host_that_is_back_with_the_same_records_is_not_taken_for_gone() -> None:
    """Of a new life that says what the former one said nothing is news but the epoch."""
    mesh = Mesh(seed=1, hosts=3)
    mesh.start()
    mesh.wait(mesh.meshed, 3.0)
    here, between, far = mesh.hosts
    mesh.net.topology.cut_pair(here.name, far.name)
    mesh.wait(lambda: far.host_id not in here.node.peers.alive(), 10.0)
    mesh.wait(lambda: far.host_id in here.node.reach.alive, 10.0)
    here.node.said_bye(far.host_id, here.now)
    here.wake()
    assert far.host_id not in here.node.reach.alive
    mesh.run(10.0)
    assert far.host_id not in here.node.reach.alive
    here.node.gossip.store.logs[far.host_id].epoch += 1  # as if it had been replaced by an equal one
    mesh.wait(lambda: far.host_id in here.node.reach.alive, 2 * GOODBYE_S)
    assert between.host_id in here.node.reach.alive
