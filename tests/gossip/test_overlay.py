"""The choice of neighbours: all in a small mesh; bounded, steady and connected in a large one."""

from __future__ import annotations

from random import Random

import pytest

from meshd.gossip.overlay import (
    ACTIVE_HIGH,
    ACTIVE_LOW,
    ACTIVE_VIEW,
    ALL_TO_ALL,
    choose_neighbours,
    ring_neighbours,
)
from meshd.ids import HostId


def ids(count: int) -> list[HostId]:
    rng = Random(count)
    return [HostId(rng.randbytes(16)) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, ALL_TO_ALL])
def test_all_to_all_in_a_small_mesh(count: int) -> None:
    hosts = ids(count)
    for me in hosts:
        assert choose_neighbours(me, hosts, [], Random(1)) == frozenset(hosts) - {me}


def test_ring() -> None:
    hosts = sorted(ids(20))
    assert ring_neighbours(hosts[0], hosts) == {hosts[-1], hosts[1]}
    assert ring_neighbours(hosts[7], hosts) == {hosts[6], hosts[8]}
    assert ring_neighbours(hosts[0], hosts[:1]) == frozenset()
    assert ring_neighbours(hosts[0], hosts[:2]) == {hosts[1]}


@pytest.mark.parametrize("count", [13, 14, 50, 300])
def test_bounded_and_connected(count: int) -> None:
    hosts = ids(count)
    edges: dict[HostId, set[HostId]] = {host: set() for host in hosts}
    for n, me in enumerate(hosts):
        chosen = choose_neighbours(me, hosts, [], Random(n))
        assert me not in chosen
        assert len(chosen) <= ACTIVE_VIEW + 2
        assert ring_neighbours(me, hosts) <= chosen
        for other in chosen:
            edges[me].add(other)
            edges[other].add(me)
    seen, todo = {hosts[0]}, [hosts[0]]
    while todo:
        for other in edges[todo.pop()] - seen:
            seen.add(other)
            todo.append(other)
    assert len(seen) == count


def test_links_that_are_up_are_kept() -> None:
    hosts = ids(60)
    me = hosts[0]
    chosen = choose_neighbours(me, hosts, [], Random(1))
    assert choose_neighbours(me, hosts, chosen, Random(2)) == chosen
    joined = [*hosts, HostId(b"\x77" * 16)]
    random_part = chosen - ring_neighbours(me, hosts)
    assert random_part <= choose_neighbours(me, joined, chosen, Random(3))


def test_few_are_filled_up_and_many_are_cut() -> None:
    hosts = ids(60)
    me = hosts[0]
    ring = ring_neighbours(me, hosts)
    others = [host for host in hosts[1:] if host not in ring]
    kept = choose_neighbours(me, hosts, others[: ACTIVE_LOW - 1], Random(1)) - ring
    assert set(others[: ACTIVE_LOW - 1]) < kept
    assert len(kept) == ACTIVE_VIEW
    assert choose_neighbours(me, hosts, others[:ACTIVE_HIGH], Random(1)) - ring == set(others[:ACTIVE_HIGH])
    assert len(choose_neighbours(me, hosts, others[:30], Random(1)) - ring) == ACTIVE_HIGH
    assert choose_neighbours(me, hosts, [HostId(b"gone" * 4)], Random(1)).isdisjoint({HostId(b"gone" * 4)})
