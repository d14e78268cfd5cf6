"""Which neighbours are listed where there are many: hubs and their spokes."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

import pytest

from meshd.gossip.topology import Topology
from meshd.gossip.values import LinksValue
from meshd.ids import HostId, short_id
from meshd.node.edges import ALONE_S, KEPT_S, LOOK_S, USUAL_EDGES, Edges


def host(number: int) -> HostId:
    return HostId(bytes([number]) * 16)


HUB, OTHER = host(0), host(1)
SPOKES = [host(number) for number in range(10, 10 + USUAL_EDGES + 6)]
NEAR, FAR = SPOKES[:USUAL_EDGES], SPOKES[USUAL_EDGES:]


def say(topology: Topology, one: HostId, neighbours: Collection[HostId]) -> None:
    topology.set_links(short_id(one), LinksValue(neighbours=tuple((short_id(it), 0) for it in neighbours)))


def test_few_neighbours_are_all_listed() -> None:
    edges, alive = Edges(Topology(short_id(HUB)), Random(1)), dict.fromkeys(NEAR, 2)
    assert edges.choose(alive, 0.0) == alive
    assert edges.next_deadline() is None


def test_of_many_the_cheapest_and_soon_those_that_nobody_else_reaches() -> None:
    topology = Topology(short_id(HUB))
    edges, alive = Edges(topology, Random(1)), {**dict.fromkeys(NEAR, 0), **dict.fromkeys(FAR, 1)}
    for spoke in SPOKES:
        say(topology, spoke, [HUB])
    say(topology, FAR[0], [HUB, NEAR[0]])
    say(topology, NEAR[0], [HUB, FAR[0]])
    say(topology, FAR[1], [HUB, FAR[2]])
    say(topology, FAR[2], [HUB, FAR[1]])
    assert edges.choose(alive, 10.0).keys() == set(NEAR)
    assert edges.next_deadline() == 10.0 + ALONE_S
    # one is reached through another spoke, and of two that reach each other one is enough
    listed = {*SPOKES} - {FAR[0], FAR[2]}
    assert edges.choose(alive, 10.0 + ALONE_S).keys() == listed
    due = edges.next_deadline()
    assert due is not None
    assert 10.0 + ALONE_S + KEPT_S <= due <= 10.0 + ALONE_S + 2 * KEPT_S
    assert edges.choose(alive, due).keys() == listed
    assert edges.choose(dict.fromkeys(NEAR, 0), due).keys() == set(NEAR)


def test_a_neighbour_whose_other_ways_are_lost_far_away_is_listed() -> None:
    topology = Topology(short_id(HUB))
    edges, alive = Edges(topology, Random(1)), dict.fromkeys(SPOKES[: USUAL_EDGES + 1], 0)
    say(topology, FAR[0], [HUB, NEAR[0]])
    say(topology, NEAR[0], [HUB, FAR[0]])
    assert edges.choose(alive, 0.0).keys() == set(NEAR)
    assert edges.next_deadline() is None
    say(topology, NEAR[0], [HUB])
    assert edges.next_deadline() == LOOK_S
    edges.choose(alive, 1.0)
    assert edges.choose(alive, 1.0 + ALONE_S).keys() == alive.keys()


def test_a_spoke_that_grows_dearer_stays_listed() -> None:
    edges = Edges(Topology(short_id(HUB)), Random(1))
    edges.choose(dict.fromkeys(NEAR, 0), 0.0)
    alive = {**dict.fromkeys(SPOKES, 0), NEAR[0]: 3}
    assert NEAR[0] in edges.choose(alive, 0.0)


@pytest.mark.parametrize("seed", range(10))
def test_two_hubs_come_to_rest_and_every_spoke_keeps_an_edge(seed: int) -> None:
    """Both hear of each other's choice a little later; the spokes list both."""
    rng = Random(seed)
    hubs = [HUB, OTHER]
    topologies = [Topology(short_id(hub)) for hub in hubs]
    sides = [Edges(topology, Random(rng.random())) for topology in topologies]
    for topology in topologies:
        for spoke in SPOKES:
            say(topology, spoke, hubs)
    said: list[set[HostId]] = [set(), set()]
    late = rng.uniform(0.05, 0.5)
    heard: list[tuple[float, int, set[HostId]]] = []  # when, who said it, what
    lost, changes = 0.0, []
    for step in range(4000):
        now = step * 0.1
        for _, number, listed in [item for item in heard if item[0] <= now]:
            for topology in topologies:
                say(topology, hubs[number], listed)
        heard = [item for item in heard if item[0] > now]
        for number, edges in enumerate(sides):
            due = edges.next_deadline()
            if step == 0 or (due is not None and now >= due):
                alive = {**dict.fromkeys(SPOKES, 0), hubs[1 - number]: 0}
                listed = set(edges.choose(alive, now))
                if listed != said[number]:
                    said[number] = listed
                    heard.append((now + late, number, listed))
                    changes.append(now)
        covered = said[0] | said[1]
        lost = lost + 0.1 if not covered >= set(SPOKES) else 0.0
        assert lost <= ALONE_S + 2 * (late + LOOK_S) + 0.3
    assert changes[-1] < 3 * KEPT_S + 10.0
    assert len(changes) < 12
