"""Named deadlines: many timers, one "when is the next".

A heap with stale entries left in place and skipped when they surface, so that setting and cancelling cost O(log n) and the
driver may ask for the next deadline after every event. Stale entries are bounded: the heap is rebuilt when they outnumber the
live ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Timers"]

Name = TypeVar("Name", bound=Hashable)

_REBUILD_FROM = 64


class Timers(Generic[Name]):
    """At most one deadline for each name."""

    __slots__ = ("_heap", "_order", "_when")

    def __init__(self) -> None:
        self._when: dict[Name, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Name]] = []
        self._order = 0  # breaks ties in the order of setting, so that runs repeat exactly

    def set(self, name: Name, when: float) -> None:
        self._order += 1
        self._when[name] = (when, self._order)
        heapq.heappush(self._heap, (when, self._order, name))
        if len(self._heap) > _REBUILD_FROM + 2 * len(self._when):
            self._heap = [(when, order, name) for name, (when, order) in self._when.items()]
            heapq.heapify(self._heap)

    def cancel(self, name: Name) -> None:
        self._when.pop(name, None)

    def next(self) -> float | None:
        """The earliest deadline."""
        self._skip_stale()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Name | None:
        """Take out one name whose time has come."""
        self._skip_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        _, _, name = heapq.heappop(self._heap)
        del self._when[name]
        return name

    def __len__(self) -> int:
        return len(self._when)

    def _skip_stale(self) -> None:
        heap = self._heap
        while heap and self._when.get(heap[0][2]) != heap[0][:2]:
            heapq.heappop(heap)
