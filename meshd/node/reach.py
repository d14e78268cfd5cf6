"""Which hosts are alive: those that some way of two-way edges leads to, and those that lost it only a moment ago.

A host that no edge leads to any more is dead after max(5 s, 4·log10 N s), as docs/protocol.md has it; one that said goodbye is
dead at once. What a dead host has attached is hidden from the tables, and back with its first edge.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from meshd.ids import HostId

__all__ = ["MIN_GRACE_S", "Reach"]

MIN_GRACE_S = 5.0


class Reach:
    """`alive` is what the tables show; `update` and `handle_timer` tell whether it changed."""

    def __init__(self) -> None:
        self.alive: frozenset[HostId] = frozenset()
        self._lost: dict[HostId, float] = {}  # host → when it is dead

    def update(self, reachable: Collection[HostId], hosts: int, now: float) -> bool:
        """The graph changed: these hosts are reachable, of `hosts` that are known."""
        grace = max(MIN_GRACE_S, 4 * math.log10(max(hosts, 1)))
        reached = frozenset(reachable)
        for host in self.alive - reached:
            self._lost.setdefault(host, now + grace)
        for host in reached:
            self._lost.pop(host, None)
        return self._set(reached | frozenset(self._lost))

    def gone(self, host: HostId) -> bool:
        """The host said goodbye."""
        self._lost.pop(host, None)
        return self._set(self.alive - {host})

    def next_deadline(self) -> float | None:
        return min(self._lost.values(), default=None)

    def handle_timer(self, now: float) -> bool:
        dead = [host for host, when in self._lost.items() if now >= when]
        for host in dead:
            del self._lost[host]
        return self._set(self.alive - frozenset(dead))

    def _set(self, alive: frozenset[HostId]) -> bool:
        changed = alive != self.alive
        self.alive = alive
        return changed
