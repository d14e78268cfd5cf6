"""The map of the mesh: a graph from all hosts' link records, routes over it, and a flood tree for each source.

An edge exists when *both* ends list it, so a host that lies about its links, or one that is cut off in one direction, makes
none. Its class is the worse of the two listed (0 best … 3 worst); class c costs 2^c, so that a slow edge is taken when the way
around is longer.

All is a pure function of the link records: hosts with equal records compute equal routes and trees. A source's tree is its tree
of shortest paths (Dijkstra), where of equally short ways the one over the lowest id is taken; each host's part of it is
`children`. While records differ for a moment, trees may too: floods carry a TTL and are deduplicated, so a frame may be lost or
come twice, never circle.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping

from meshd.gossip.values import LinksValue
from meshd.ids import ShortId

__all__ = ["COSTS", "Topology"]

COSTS = (1, 2, 4, 8)  # by cost class
MAX_TREES = 4096  # cached; one for each source that ever flooded under this version


class Topology:
    """`version` counts the changes of the graph, for whoever caches what follows from it."""

    def __init__(self, me: ShortId) -> None:
        self._me = me
        self._links: dict[ShortId, LinksValue] = {}
        self._edges: dict[ShortId, dict[ShortId, int]] = {}
        self._trees: dict[ShortId, dict[ShortId, ShortId]] = {}  # source → host → its parent
        self.version = 0

    def set_links(self, host: ShortId, links: LinksValue | None) -> bool:
        """A host's link record changed, or is gone. True if the graph did."""
        if links == self._links.get(host):
            return False
        if links is None:
            del self._links[host]
        else:
            self._links[host] = links
        edges = self._build()
        if edges == self._edges:
            return False
        self._edges = edges
        self._trees.clear()
        self.version += 1
        return True

    def _build(self) -> dict[ShortId, dict[ShortId, int]]:
        listed = {host: dict(links.neighbours) for host, links in self._links.items()}
        edges: dict[ShortId, dict[ShortId, int]] = {}
        for host, neighbours in listed.items():
            for neighbour, cost_class in neighbours.items():
                back = listed.get(neighbour, {}).get(host)
                if back is not None and neighbour != host:
                    edges.setdefault(host, {})[neighbour] = max(cost_class, back)
        return edges

    @property
    def edges(self) -> Mapping[ShortId, Mapping[ShortId, int]]:
        """host → neighbour → cost class, both ways."""
        return self._edges

    def _tree(self, source: ShortId) -> dict[ShortId, ShortId]:
        tree = self._trees.get(source)
        if tree is None:
            tree = self._dijkstra(source)
            if len(self._trees) >= MAX_TREES:
                self._trees.clear()
            self._trees[source] = tree
        return tree

    def _dijkstra(self, source: ShortId, avoid: Collection[ShortId] = ()) -> dict[ShortId, ShortId]:
        """`avoid`: edges of the source that are not taken."""
        parents: dict[ShortId, ShortId] = {}
        done: set[ShortId] = set()
        # (distance, hops, parent, host): the lowest parent wins among equals, on every host alike
        heap: list[tuple[int, int, ShortId, ShortId]] = [(0, 0, source, source)]
        while heap:
            distance, hops, parent, host = heapq.heappop(heap)
            if host in done:
                continue
            done.add(host)
            parents[host] = parent
            for neighbour, cost_class in self._edges.get(host, {}).items():
                if neighbour not in done and not (host == source and neighbour in avoid):
                    heapq.heappush(heap, (distance + COSTS[cost_class], hops + 1, host, neighbour))
        return parents

    def reachable(self) -> frozenset[ShortId]:
        """This host and all that some way leads to."""
        return frozenset(self._tree(self._me))

    def children(self, source: ShortId, host: ShortId | None = None) -> tuple[ShortId, ...]:
        """To whom `host` (this one) passes a flood of `source`, in order of ids."""
        tree = self._tree(source)
        node = self._me if host is None else host
        return tuple(sorted(child for child, parent in tree.items() if parent == node and child != source))

    def next_hop(self, destination: ShortId) -> ShortId | None:
        """The neighbour through which the best way leads; None if there is no way, or for this host itself."""
        return self._first_hop(self._tree(self._me), destination)

    def way_around(self, destination: ShortId, avoid: Collection[ShortId]) -> ShortId | None:
        """The same through other neighbours than these: not through itself, if that is among them."""
        if self._edges.get(self._me, {}).keys().isdisjoint(avoid):
            return self.next_hop(destination)
        return self._first_hop(self._dijkstra(self._me, avoid), destination)

    def _first_hop(self, tree: Mapping[ShortId, ShortId], destination: ShortId) -> ShortId | None:
        if destination not in tree or destination == self._me:
            return None
        hop = destination
        while tree[hop] != self._me:
            hop = tree[hop]
        return hop

    def routes(self) -> dict[ShortId, ShortId]:
        """destination → next hop, of all that can be reached."""
        return {host: hop for host in sorted(self._tree(self._me)) if (hop := self.next_hop(host)) is not None}
