"""What happened in a simulation, as a hash, as counts and for whoever listens.

The hash covers every event with its time, its ends and its bytes: two runs are the same run if their hashes are equal, which
is how the tests hold the simulation to its promise of being deterministic, and how a failed seed is known to have been
reproduced.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from meshd.ids import Endpoint

__all__ = ["Trace", "TraceEvent"]


class TraceEvent(NamedTuple):
    """`kind`: see the list in network.py. `data`: the datagram, the chunk of a stream, or empty."""

    at: float
    kind: str
    source: Endpoint
    destination: Endpoint
    data: bytes


class Trace:
    """Observers see every event, in order, before it has consequences."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.counts: Counter[str] = Counter()
        self.observers: list[Callable[[TraceEvent], None]] = []

    def note(self, event: TraceEvent) -> None:
        at, kind, source, destination, data = event
        self.counts[kind] += 1
        head = f"{at!r} {kind} {source[0]} {source[1]} {destination[0]} {destination[1]} {len(data)}\n"
        self._hash.update(head.encode() + data)
        for observer in self.observers:
            observer(event)

    def digest(self) -> str:
        return self._hash.hexdigest()
