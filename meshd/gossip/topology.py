"""The map of the mesh: a graph from all hosts' link records, routes over it, and a flood tree for each source.

An edge exists when *both* ends list it, so a host that lies about its links, or one that is cut off in one direction, makes
none. Its class is the worse of the two listed (0 best … 3 worst); class c costs 2^c, so that a slow edge is taken when the way
around is longer.

All is a pure function of the link records: hosts with equal records compute equal routes and trees. A source's tree is its tree
of shortest paths (Dijkstra), where of equally short ways the one over the lowest id is taken; each host's part of it is
`children`. While records differ for a moment, trees may too: floods carry a TTL and are deduplicated, so a frame may be lost or
come twice, never circle.

A link record changes the edges of its host alone, and costs no more than these. Trees and ways are found when somebody asks, once
for each graph; of a tree only this host's children are kept, for at a thousand hosts all trees would be a million entries.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping

from meshd.gossip.values import LinksValue
from meshd.ids import ShortId

__all__ = ["COSTS", "MAX_TREES", "MAX_WAYS", "Topology"]

COSTS = (1, 2, 4, 8)  # by cost class
MAX_TREES = 4096  # cached; one for each source that ever flooded under this version
MAX_WAYS = 64  # cached; one for each set of neighbours that is avoided
_HOP = 1 << 16  # a way's length is its cost and, below that, its hops: fewer hops win among equal costs
_WEIGHTS = tuple(cost * _HOP + 1 for cost in COSTS)
_NOTHING: frozenset[ShortId] = frozenset()


class Topology:
    """`version` counts the changes of the graph, for whoever caches what follows from it. `searches`: shortest paths computed."""

    def __init__(self, me: ShortId) -> None:
        self._me = me
        self._listed: dict[ShortId, dict[ShortId, int]] = {}
        self._edges: dict[ShortId, dict[ShortId, int]] = {}
        self._children: dict[ShortId, tuple[ShortId, ...]] = {}  # source → this host's children
        self._hops: dict[frozenset[ShortId], dict[ShortId, ShortId]] = {}  # avoided → destination → next hop
        self._reachable: frozenset[ShortId] | None = None
        self.version = 0
        self.searches = 0

    def set_links(self, host: ShortId, links: LinksValue | None) -> bool:
        """A host's link record changed, or is gone. True if the graph did."""
        before = self._listed.pop(host, {})
        listed = dict(links.neighbours) if links is not None else {}
        if links is not None:
            self._listed[host] = listed
        changed = False
        for neighbour in before.keys() | listed.keys():
            if neighbour != host and before.get(neighbour) != listed.get(neighbour):
                changed = self._set_edge(host, neighbour, listed.get(neighbour)) or changed
        if changed:
            self._children.clear()
            self._hops.clear()
            self._reachable = None
            self.version += 1
        return changed

    def _set_edge(self, host: ShortId, neighbour: ShortId, listed: int | None) -> bool:
        """`host` lists `neighbour` with this class, or does not. True if that changes the edge between them."""
        back = self._listed.get(neighbour, {}).get(host)
        cost_class = None if listed is None or back is None else max(listed, back)
        if cost_class == self._edges.get(host, {}).get(neighbour):
            return False
        for one, other in ((host, neighbour), (neighbour, host)):
            if cost_class is not None:
                self._edges.setdefault(one, {})[other] = cost_class
            elif len(self._edges[one]) > 1:
                del self._edges[one][other]
            else:
                del self._edges[one]
        return True

    @property
    def edges(self) -> Mapping[ShortId, Mapping[ShortId, int]]:
        """host → neighbour → cost class, both ways."""
        return self._edges

    def _search(self, source: ShortId, avoid: Collection[ShortId] = ()) -> dict[ShortId, ShortId]:
        """Dijkstra: host → its parent, of all that can be reached, nearest first. `avoid`: edges of the source not taken."""
        self.searches += 1
        parents: dict[ShortId, ShortId] = {}
        length = {source: 0}
        over = {source: source}
        heap = [(0, source)]
        while heap:
            at, host = heapq.heappop(heap)
            if host in parents:
                continue
            parents[host] = over[host]
            for neighbour, cost_class in self._edges.get(host, {}).items():
                offer = at + _WEIGHTS[cost_class]
                held = length.get(neighbour)
                if held is not None and offer == held:
                    if host < over[neighbour]:  # the lowest parent wins among equals, on every host alike
                        over[neighbour] = host
                elif (held is None or offer < held) and not (host == source and neighbour in avoid):
                    length[neighbour] = offer
                    over[neighbour] = host
                    heapq.heappush(heap, (offer, neighbour))
        return parents

    def reachable(self) -> frozenset[ShortId]:
        """This host and all that some way leads to."""
        if self._reachable is None:
            self._reachable = frozenset((self._me, *self._ways(_NOTHING)))
        return self._reachable

    def beside(self, hosts: Iterable[ShortId]) -> set[ShortId]:
        """These hosts, and all that they reach without this one."""
        found = set(hosts) - {self._me}
        open_ = list(found)
        while open_:
            for neighbour in self._edges.get(open_.pop(), ()):
                if neighbour != self._me and neighbour not in found:
                    found.add(neighbour)
                    open_.append(neighbour)
        return found

    # flood trees

    def children(self, source: ShortId) -> tuple[ShortId, ...]:
        """To whom this host passes a flood of `source`, in order of ids."""
        children = self._children.get(source)
        if children is None:
            tree = self._search(source)
            children = tuple(
                sorted(n for n in self._edges.get(self._me, ()) if n != source and tree.get(n) == self._me)
            )
            if len(self._children) >= MAX_TREES:
                self._children.clear()
            self._children[source] = children
        return children

    def has_children_of(self, source: ShortId) -> bool:
        """Whether `children` would cost nothing: the tree was asked for since the graph changed."""
        return source in self._children

    # ways

    def _ways(self, avoid: frozenset[ShortId]) -> dict[ShortId, ShortId]:
        """destination → next hop, for all that can be reached without these neighbours."""
        hops = self._hops.get(avoid)
        if hops is None:
            hops = {}
            for host, parent in self._search(self._me, avoid).items():
                if host != self._me:
                    hops[host] = host if parent == self._me else hops[parent]
            if len(self._hops) >= MAX_WAYS:
                self._hops.clear()
            self._hops[avoid] = hops
        return hops

    def next_hop(self, destination: ShortId) -> ShortId | None:
        """The neighbour through which the best way leads; None if there is no way, or for this host itself."""
        return self._ways(_NOTHING).get(destination)

    def way_around(self, destination: ShortId, avoid: Iterable[ShortId]) -> ShortId | None:
        """The same through other neighbours than these: not through itself, if that is among them."""
        return self._ways(frozenset(self._edges.get(self._me, {}).keys() & set(avoid))).get(destination)

    def routes(self) -> dict[ShortId, ShortId]:
        """destination → next hop, of all that can be reached."""
        return dict(sorted(self._ways(_NOTHING).items()))
