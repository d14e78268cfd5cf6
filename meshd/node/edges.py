"""Which neighbours this host lists as its edges, where there are more than a graph for everybody should have of one host.

The USUAL_EDGES cheapest, and each neighbour that these do not lead to without us: a spoke that only this hub reaches would be
nowhere for all others. A neighbour that is new has ALONE_S to find others first, as every host that joins through its founder
does; one that was listed stays meanwhile. What was listed for that reason and is reached by others, too, is dropped a minute or
two later, at a random moment: of two hubs that list it one stops, and the other one sees that.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from meshd.gossip.topology import Topology
from meshd.gossip.values import MAX_NEIGHBOURS
from meshd.ids import HostId, short_id

__all__ = ["ALONE_S", "KEPT_S", "LOOK_S", "USUAL_EDGES", "Edges"]

USUAL_EDGES = 14  # the two on the ring and the twelve of a full active view
ALONE_S = 2.0  # below the time after which a host without edges is dead
KEPT_S = 60.0  # up to twice as long
LOOK_S = 0.5  # at most so often for changes far away: of a thousand hosts there may be many, and each look walks the whole graph


class Edges:
    """`choose` is to be called again at `next_deadline`, and when `alive` is another one."""

    def __init__(self, topology: Topology, rng: Random) -> None:
        self._topology = topology
        self._rng = rng
        self._version = -1
        self._looked_at = float("-inf")
        self._many = False
        self._listed: frozenset[HostId] = frozenset()
        self._alone: dict[HostId, float] = {}  # since when
        self._extra: dict[HostId, float] = {}  # until when

    def next_deadline(self) -> float | None:
        waiting = [since + ALONE_S for host, since in self._alone.items() if host not in self._extra]
        if self._many and self._version != self._topology.version:
            waiting.append(self._looked_at + LOOK_S)
        return min([*waiting, *self._extra.values()], default=None)

    def choose(self, alive: Mapping[HostId, int], now: float) -> dict[HostId, int]:
        """Of the neighbours with a living path and their cost classes, those to list."""
        self._version, self._looked_at = self._topology.version, now
        order = sorted(alive, key=lambda host: (alive[host], host))
        usual, rest = order[:USUAL_EDGES], order[USUAL_EDGES:]
        self._many = bool(rest)
        alone = self._not_reached(usual, rest)
        self._alone = {host: self._alone.get(host, now) for host in alone}
        self._extra = {host: until for host, until in self._extra.items() if host in alive and now < until}
        for host, since in self._alone.items():
            if host in self._listed or now >= since + ALONE_S:
                self._extra[host] = now + self._rng.uniform(KEPT_S, 2 * KEPT_S)
        chosen = dict.fromkeys((*usual, *self._extra))
        listed = {host: alive[host] for host in list(chosen)[:MAX_NEIGHBOURS]}
        self._listed = frozenset(listed)
        return listed

    def _not_reached(self, usual: list[HostId], rest: list[HostId]) -> list[HostId]:
        """Of `rest`, the first of each part of the mesh that only this host connects with what the others reach."""
        if not rest:
            return []
        reached = self._topology.beside(map(short_id, usual))
        alone = []
        for host in rest:
            if short_id(host) not in reached:
                alone.append(host)
                reached |= self._topology.beside((short_id(host),))
        return alone
