"""The graph, its routes and its flood trees: properties on random graphs, against a slow oracle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.gossip.topology import COSTS, Topology
from meshd.gossip.values import LinksValue
from meshd.ids import ShortId


def host(n: int) -> ShortId:
    return ShortId(bytes((n,)) * 8)


def links(*neighbours: tuple[int, int]) -> LinksValue:
    return LinksValue(neighbours=tuple((host(n), cost) for n, cost in neighbours))


Graph = dict[int, dict[int, int]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 12 hosts; what each lists is its own affair, so many edges are one-sided."""
    count = draw(st.integers(1, 12))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = draw(st.lists(st.tuples(pair, st.integers(0, 3), st.booleans()), max_size=40))
    graph: Graph = {n: {} for n in range(count)}
    for (one, other), cost, both in edges:
        graph[one][other] = cost
        if both:
            graph[other][one] = cost
    return graph


def build(graph: Graph, me: int = 0, *, reverse: bool = False) -> Topology:
    topology = Topology(host(me))
    for n in sorted(graph, reverse=reverse):
        topology.set_links(host(n), links(*graph[n].items()))
    return topology


def distances(graph: Graph, source: int) -> dict[int, int]:
    """Bellman–Ford over the two-sided edges."""
    found = {source: 0}
    for _ in graph:
        for one in graph:
            for other, cost in graph[one].items():
                if one != other and one in graph[other] and one in found:
                    way = found[one] + COSTS[max(cost, graph[other][one])]
                    found[other] = min(found.get(other, way), way)
    return found


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_the_children_of_all_hosts_make_a_tree_of_shortest_paths(graph: Graph) -> None:
    topologies = {n: build(graph, n, reverse=bool(n % 2)) for n in graph}
    for source in graph:
        reached = distances(graph, source)
        parents: dict[int, int] = {}
        for n, topology in topologies.items():
            for child in topology.children(host(source)):
                assert child[0] not in parents  # each gets it once
                parents[child[0]] = n
        assert set(parents) == set(reached) - {source}
        for below, above in parents.items():
            edge = COSTS[max(graph[below][above], graph[above][below])]
            assert reached[below] == reached[above] + edge
        assert topologies[source].reachable() == {host(n) for n in reached}


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_routes_lead_there(graph: Graph) -> None:
    topologies = {n: build(graph, n) for n in graph}
    for source, topology in topologies.items():
        reached = distances(graph, source)
        routes = topology.routes()
        assert set(routes) == {host(n) for n in reached if n != source}
        for destination in routes:
            at, steps = host(source), 0
            while at != destination:
                hop = topologies[at[0]].next_hop(destination)
                assert hop is not None
                at, steps = hop, steps + 1
                assert steps <= len(graph)


def test_an_edge_needs_both_ends() -> None:
    topology = Topology(host(0))
    assert not topology.set_links(host(0), links((1, 0)))
    assert topology.version == 0
    assert topology.reachable() == {host(0)}
    assert topology.set_links(host(1), links((0, 2), (2, 0)))
    assert topology.version == 1
    assert topology.edges == {host(0): {host(1): 2}, host(1): {host(0): 2}}
    assert not topology.set_links(host(1), links((0, 2), (2, 0)))
    assert topology.set_links(host(1), links())
    assert topology.next_hop(host(1)) is None
    assert not topology.set_links(host(1), None)
    assert topology.version == 2


def test_the_better_way_round_is_taken_and_the_version_moves() -> None:
    topology = Topology(host(0))
    for n, neighbours in ((0, [(1, 3), (2, 0)]), (1, [(0, 0), (2, 0)]), (2, [(0, 0), (1, 0)])):
        topology.set_links(host(n), links(*neighbours))
    assert topology.next_hop(host(1)) == host(2)
    assert topology.children(host(0)) == (host(2),)
    before = topology.version
    topology.set_links(host(0), links((1, 0), (2, 0)))
    assert topology.version == before + 1
    assert topology.next_hop(host(1)) == host(1)
    assert topology.children(host(0)) == (host(1), host(2))


def test_an_unknown_source_has_no_children() -> None:
    topology = build({0: {1: 0}, 1: {0: 0}})
    assert topology.children(host(9)) == ()
    assert topology.next_hop(host(9)) is None
    assert topology.next_hop(host(0)) is None


Lists = list[tuple[int, list[tuple[int, int]] | None]]
rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=6, unique_by=lambda row: row[0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.none() | rows), max_size=30))
def test_edges_follow_the_records_whatever_changes_in_which_order(changes: Lists) -> None:
    topology = Topology(host(0))
    said: dict[int, dict[int, int]] = {}
    for n, listed in changes:
        before = {one: dict(edges) for one, edges in topology.edges.items()}
        said.pop(n, None)
        if listed is not None:
            said[n] = dict(listed)
        changed = topology.set_links(host(n), None if listed is None else links(*listed))
        expected = {
            host(one): edges
            for one, own in said.items()
            if (edges := {host(o): max(c, said[o][one]) for o, c in own.items() if o != one and one in said.get(o, {})})
        }
        assert topology.edges == expected
        assert changed == (expected != before)
        fresh = Topology(host(0))
        for one, own in said.items():
            fresh.set_links(host(one), links(*own.items()))
        assert topology.routes() == fresh.routes()
        assert [topology.children(host(m)) for m in range(6)] == [fresh.children(host(m)) for m in range(6)]


def ring(count: int) -> Topology:
    return build(
        {n: {(n + 1) % count: 0, (n - 1) % count: 0, (n + 7) % count: 1, (n - 7) % count: 1} for n in range(count)}
    )


def test_records_cost_no_search_and_each_question_one() -> None:
    topology = ring(200)
    assert topology.searches == 0  # not for 200 records
    for n in range(1, 200):
        topology.next_hop(host(n))
    topology.routes()
    topology.reachable()
    assert topology.searches == 1
    assert not topology.has_children_of(host(5))
    assert topology.children(host(5)) == topology.children(host(5))
    assert topology.has_children_of(host(5))
    assert topology.searches == 2
    topology.set_links(host(100), links((101, 0)))
    assert not topology.has_children_of(host(5))
    topology.next_hop(host(1))
    assert topology.searches == 3


def test_ways_around_the_same_neighbours_are_searched_for_once() -> None:
    topology = ring(200)
    for n in range(2, 190):
        assert topology.way_around(host(n), {host(1)}) not in (None, host(1))
        topology.way_around(host(n), {host(1), host(100)})  # no neighbour of ours: it changes nothing
    assert topology.searches == 1
    topology.way_around(host(5), {host(1), host(199)})
    assert topology.searches == 2
    topology.way_around(host(5), {host(100)})
    topology.next_hop(host(5))
    assert topology.searches == 3


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.gossip.topology.MAX_TREES", 3)
    monkeypatch.setattr("meshd.gossip.topology.MAX_WAYS", 2)
    topology = ring(20)
    for n in range(10):
        topology.children(host(n))
    assert sum(topology.has_children_of(host(n)) for n in range(10)) <= 3
    for avoided in ({1}, {19}, {7}, {13}, {1, 19}):
        topology.way_around(host(10), {host(n) for n in avoided})
    searches = topology.searches
    topology.way_around(host(10), {host(1)})  # was pushed out
    assert topology.searches == searches + 1
