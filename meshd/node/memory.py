"""Where the hosts of the mesh are, kept for the next life of this router: one that founded the mesh has no target to dial.

The map is stored a moment after it changed, so that a mesh that comes up writes once. An empty map is never stored: a router that
has lost everybody needs what it knew.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshd.gossip.values import HostValue
from meshd.ids import Endpoint, HostId
from meshd.node.outputs import RememberHosts

__all__ = ["MAX_REMEMBERED_HOSTS", "REMEMBER_S", "HostMemory"]

MAX_REMEMBERED_HOSTS = 64  # any one of them that answers tells of all the others
REMEMBER_S = 1.0  # at most so often


class HostMemory:
    """`stored` is what the disk has."""

    def __init__(self, me: HostId) -> None:
        self._me = me
        self._stored: tuple[tuple[HostId, tuple[Endpoint, ...]], ...] = ()
        self._due: float | None = None

    def changed(self, now: float) -> None:
        """A host record is new or other."""
        if self._due is None:
            self._due = now + REMEMBER_S

    def next_deadline(self) -> float | None:
        return self._due

    def poll(self, hosts: Mapping[HostId, HostValue], now: float) -> RememberHosts | None:
        """What to store now, if anything."""
        if self._due is None or now < self._due:
            return None
        self._due = None
        others = sorted(host for host in hosts if host != self._me)[:MAX_REMEMBERED_HOSTS]
        found = tuple((host, tuple(hosts[host].endpoints)) for host in others if hosts[host].endpoints)
        if not found or found == self._stored:
            return None
        self._stored = found
        return RememberHosts(found)
