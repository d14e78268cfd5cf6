"""How this host reaches another one, as a path report says it: the answer to other routers' `trace`."""

from __future__ import annotations

from meshd.forward.cost import WORST_COST
from meshd.forward.query import NO_HOP, PathReport, Way
from meshd.forward.relay import RELAY_OVERHEAD
from meshd.ids import HostId, ShortId, short_id
from meshd.node.directory import Directory
from meshd.node.peers import PeerTable
from meshd.node.routes import Routes

__all__ = ["way_to"]


def way_to(
    token: int, destination: ShortId, me: HostId, directory: Directory, peers: PeerTable, routes: Routes
) -> PathReport:
    """The report for `destination`; of a host that nobody knows, and of one that cannot be reached now: NONE."""
    if destination == short_id(me):
        return PathReport(token, Way.SELF, destination, 0, 0, 0)
    host = directory.host_of_short(destination)
    peer = peers.peers.get(host) if host is not None else None
    if peer is None or peer.path is None or peer.sizes is None:
        return _passed_on(token, destination, peers, routes)
    rtt = peer.monitor.view().srtt
    rtt_us = None if rtt is None else int(rtt * 1e6)
    way, hop = (Way.DIRECT, destination) if peer.via is None else (Way.RELAYED, short_id(peer.via))
    return PathReport(token, way, hop, rtt_us, peer.sizes.datagram, peer.monitor.cost)


def _passed_on(token: int, destination: ShortId, peers: PeerTable, routes: Routes) -> PathReport:
    """Without a session of its own a host still relays what others send there; it has measured nothing but the next leg."""
    slot = routes.next_hop(destination)
    hop = peers.peers.get(peers.slots.peer(slot)) if slot is not None else None
    if hop is None or hop.sizes is None:
        return PathReport(token, Way.NONE, NO_HOP, None, 0, WORST_COST)
    return PathReport(token, Way.RELAYED, hop.short, None, hop.sizes.datagram - RELAY_OVERHEAD, WORST_COST)
