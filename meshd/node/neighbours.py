"""Whom this host holds control links with, and to whom it keeps a path alive: the overlay's choice, carried out.

A neighbour is a host that a link is up with, or wanted with. Its path is kept: so a lost host is looked for over UDP too, every few
seconds, while the connector's backoff is for hosts that may never be.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from meshd.config import NodeConfig
from meshd.gossip.overlay import choose_neighbours
from meshd.ids import Endpoint, HostId
from meshd.node.directory import Directory
from meshd.node.links import LinkEvents, LinkTable
from meshd.node.own import OwnRecords
from meshd.node.peers import PeerTable

__all__ = ["Neighbours"]


class Neighbours(LinkEvents):
    """`left`: a host said goodbye on its link."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        self_id: HostId,
        links: LinkTable,
        peers: PeerTable,
        directory: Directory,
        own: OwnRecords,
        rng: random.Random,
        left: Callable[[HostId, float], None],
    ) -> None:
        self._config = config
        self._self = self_id
        self._links = links
        self._peers = peers
        self._directory = directory
        self._own = own
        self._rng = rng
        self._left = left
        self._wanted: frozenset[HostId] = frozenset()  # by the overlay: its choice is steady
        links.bind(self)

    def choose(self, now: float) -> None:
        """Hosts or links are others than before."""
        linked = self._links.linked_hosts()
        hosts, connector = self._directory.hosts, self._links.connector
        wanted = self._wanted = choose_neighbours(self._self, list(hosts), linked | self._wanted, self._rng)
        connector.want({host: hosts[host].endpoints for host in sorted(wanted) if host in hosts}, now)
        kept = wanted if self._config.discovery else connector.expected()
        self._peers.keep((linked | kept) - {self._self}, now)

    def observe(self, host: HostId, now: float) -> None:
        """Where a link with the host goes is where its datagrams go first; the port of an accepted one is in its record."""
        link = self._links.link_of(host)
        record = self._directory.hosts.get(host)
        if link is not None and record is not None:
            endpoint, outbound = link
            self._peers.observed(host, endpoint if outbound else Endpoint(endpoint.host, record.port), now)

    # LinkEvents

    def neighbour_up(self, host: HostId, now: float) -> None:
        self.observe(host, now)
        self.choose(now)

    def neighbour_lost(self, host: HostId, left: bool, now: float) -> None:
        if left:
            self._peers.forget(host, now)
            self._left(host, now)
        self._wanted -= {host}
        self.choose(now)

    def dial_failed(self, endpoint: Endpoint, now: float) -> None:
        """TCP is closed there; where nobody is known yet, UDP may be open and tell at least who it is."""
        known = {host for host, record in self._directory.hosts.items() if endpoint in record.endpoints}
        if not known and endpoint.host not in self._config.own_addresses:
            self._peers.bootstrap(endpoint, now)
        if known & self._wanted:
            self._wanted -= known  # a larger mesh has others to choose
            self.choose(now)

    def seen_at(self, neighbour: HostId, address: str, now: float) -> None:
        self._own.seen_at(neighbour, address, now)
