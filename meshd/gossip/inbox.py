"""Received batches that wait for their signatures: a queue for each host that sent some, taken from in turns.

One queue for all would be the one host's that sends most, be it a container platform in trouble or a member that means harm: the
others' records would wait behind its own, and find no room. So where there is none, the newest of the host that has most goes.
"""

from __future__ import annotations

from collections import deque

from meshd.gossip.records import Batch
from meshd.ids import HostId, LinkId

__all__ = ["MAX_INBOX", "Inbox"]

MAX_INBOX = 1024  # batches


class Inbox:
    """Of one host, batches come out as they went in. `len`: how many there are of all."""

    __slots__ = ("_queues", "_size")

    def __init__(self) -> None:
        self._queues: dict[HostId, deque[tuple[LinkId, Batch]]] = {}  # none is empty; whose turn it is comes first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, host: HostId, link: LinkId, batch: Batch) -> bool:
        """False if there was no room, and one batch, this or another, is dropped."""
        fits = self._size < MAX_INBOX
        if not fits:
            most = max(self._queues, key=lambda other: len(self._queues[other]))
            if len(self._queues.get(host, ())) >= len(self._queues[most]):
                return False
            self._queues[most].pop()
            self._size -= 1
        self._queues.setdefault(host, deque()).append((link, batch))
        self._size += 1
        return fits

    def take(self) -> tuple[HostId, LinkId, Batch]:
        """The oldest of the host whose turn it is; then it is the next one's."""
        host = next(iter(self._queues))
        queue = self._queues.pop(host)
        link, batch = queue.popleft()
        if queue:
            self._queues[host] = queue
        self._size -= 1
        return host, link, batch

    def put_back(self, host: HostId, link: LinkId, rest: Batch) -> None:
        """What is left of the batch that was taken last."""
        self._queues.setdefault(host, deque()).appendleft((link, rest))
        self._size += 1
