"""Ways through other hosts, by the link-state routes: to whom this host passes what others want relayed, and what is its own."""

from __future__ import annotations

from collections.abc import Collection

from meshd.ids import HostId, ShortId, SlotId, short_id
from meshd.node.directory import Directory
from meshd.node.peers import PeerTable

__all__ = ["Routes"]


class Routes:
    """`peers` is set once it is there: the table of peers asks for routes itself."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.peers: PeerTable

    def next_hop(self, destination: ShortId) -> SlotId | None:
        """For what others want relayed: the next hop towards this host, if there is a direct path to it."""
        hop = self._directory.topology.next_hop(destination)
        host = self._directory.host_of_short(hop) if hop is not None else None
        return self.peers.direct_slot(host) if host is not None else None

    def way_around(self, destination: HostId, avoid: Collection[HostId]) -> HostId | None:
        """For our own: the neighbour through which a way leads to this host, other than itself and these."""
        directory, passed = self._directory, {short_id(host) for host in (destination, *avoid)}
        while (hop := directory.topology.way_around(short_id(destination), passed)) is not None:
            host = directory.host_of_short(hop)
            if host is not None and self.peers.direct_slot(host) is not None:
                return host
            passed.add(hop)  # its path has just died, and the records do not say so yet
        return None
