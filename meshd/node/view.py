"""What `status` and `report` show of a node, as plain snapshots. Reads everything, changes nothing.

`status connections` lists every link and every address that is dialled; `paths` every host that is known, with how data reaches
it and why so; `macs` every MAC that has an owner, and those that hide. The flood tree of each source costs a search of the graph:
in a mesh of more than ALL_TREES hosts only those are shown that are in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from meshd.drops import DropCounters
from meshd.forward.claims import ClaimKind, MacKey
from meshd.forward.engine.interface import PeerCounters
from meshd.gossip.requests import Connection
from meshd.ids import HostId, ShortId, SlotId, format_mac, short_id
from meshd.node.own import PROTOCOL_VERSION
from meshd.node.path_view import SEALED_OVERHEAD, kind_of, mtu_of, via_of
from meshd.node.path_view import path_view as view_of_path
from meshd.views import ConnectionView, GossipView, LinkView, MacView, NodeView, PathView, PeerView, RouteView

if TYPE_CHECKING:
    from meshd.node.node import Node

__all__ = ["ALL_TREES", "SEALED_OVERHEAD", "build_view", "name_of", "path_view"]

ALL_TREES = 32  # hosts


class _Listed(NamedTuple):
    """A host as it stands in other hosts' rows; of two the lower id is shown as the one that dials."""

    host: HostId
    dialled: LinkView
    dialling: LinkView


def build_view(node: Node, now: float) -> NodeView:
    directory = node.directory
    hosts = [node.host_id, *sorted(host for host in directory.hosts if host != node.host_id)]
    listed = {
        short_id(host): _listed(node, host) for host in hosts
    }  # once: each stands in the rows of all its neighbours
    counters = node.engine.peer_counters()
    return NodeView(
        name=node.name,
        nickname=node.nickname,
        host_id=node.host_id.hex(),
        mesh_id=node.mesh.mesh_id.hex(),
        suite=node.mesh.suite.name.lower().replace("_", "-"),
        discovery=node.config.discovery,
        port=node.config.port,
        protocol_min=PROTOCOL_VERSION,
        protocol_max=PROTOCOL_VERSION,
        targets=node.targets(),
        peers=tuple(_peer(node, host, listed) for host in hosts),
        connections=tuple(_connections(node, now)),
        paths=tuple(_path(node, host, counters, now) for host in hosts if host != node.host_id),
        macs=tuple(_macs(node, now)),
        unicast_routes=tuple(_routes(node)),
        broadcast_routes=tuple(_trees(node, hosts)),
        address_conflicts=tuple(_conflicts(node)),
        notices=node.notices.recent(now),
        gossip=GossipView(
            hosts=len(directory.hosts),
            records=node.gossip.store.records(),
            bytes=node.gossip.store.total_size + node.gossip.store.own.size,
            root_hash=node.gossip.store.root_hash().hex(),
            epoch=node.gossip.store.own.epoch,
        ),
        drops=_drops(node.drops, node.engine.drops),
        flows=node.engine.flow_count(),
    )


def _drops(*counters: DropCounters) -> dict[str, int]:
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.as_dict().items():
            total[name] = total.get(name, 0) + count
    return total


def name_of(node: Node, host: HostId) -> tuple[str, str]:
    """Name and nickname of a host, for people."""
    if host == node.host_id:
        return node.name, node.nickname
    record = node.directory.hosts.get(host)
    return (format_mac(record.name), record.nickname) if record is not None else (format_mac(host[:6]), "?")


# ── peers and their links


def _listed(node: Node, host: HostId) -> _Listed:
    record = node.directory.hosts.get(host)
    address = str(record.endpoints[0]) if record is not None and record.endpoints else ""
    name, nickname = name_of(node, host)
    dialled = LinkView(name=name, nickname=nickname, address=address, outbound=True, established=True)
    return _Listed(host, dialled, replace(dialled, outbound=False))


def _peer(node: Node, host: HostId, listed: Mapping[ShortId, _Listed]) -> PeerView:
    name, nickname = name_of(node, host)
    record = node.directory.hosts.get(host)
    log = node.gossip.store.logs.get(host)
    return PeerView(
        name=name,
        nickname=nickname,
        host_id=host.hex(),
        version=node.config.version if host == node.host_id else record.version if record is not None else "",
        epoch=log.epoch if log is not None else 0,
        reachable=host == node.host_id or host in node.reach.alive,
        links=tuple(_own_links(node) if host == node.host_id else _other_links(node, host, listed)),
    )


def _own_links(node: Node) -> list[LinkView]:
    alive = node.peers.alive()
    links = []
    for host in sorted(node.links.linked_hosts() | set(alive)):
        name, nickname = name_of(node, host)
        link = node.links.link_of(host)
        address, outbound = (str(link[0]), link[1]) if link is not None else ("", False)
        links.append(
            LinkView(name=name, nickname=nickname, address=address, outbound=outbound, established=host in alive)
        )
    return links


def _other_links(node: Node, host: HostId, listed: Mapping[ShortId, _Listed]) -> list[LinkView]:
    """What the other host's own link record lists; established where the other end lists it too."""
    others = sorted(node.directory.topology.edges.get(short_id(host), ()))
    rows = [listed[short] for short in others if short in listed]
    return [row.dialled if host < row.host else row.dialling for row in rows]


# ── connections and paths


def _connections(node: Node, now: float) -> list[ConnectionView]:
    rows = [*node.links.connector.connections(now), *node.links.strangers(now)]
    return [_connection(node, row) for row in rows]


def _connection(node: Node, row: Connection) -> ConnectionView:
    if row.host is None:
        return ConnectionView(address=row.address, outbound=row.outbound, state=row.state, info=row.info)
    name, nickname = name_of(node, row.host)
    encrypted = "encrypted" if node.mesh.suite.secret else "unencrypted"
    peer = node.peers.peers.get(row.host)
    kind, attributes = "direct", {}
    if peer is not None and peer.path is not None:
        kind, attributes["mtu"] = kind_of(peer), str(mtu_of(peer))
    if peer is not None and peer.via is not None:
        attributes["via"] = via_of(node, peer)
    return ConnectionView(
        address=row.address,
        outbound=row.outbound,
        state=row.state,
        info=f"{encrypted:<11} {kind:<6}",
        name=name,
        nickname=nickname,
        attributes=attributes,
    )


def path_view(node: Node, host: HostId, now: float) -> PathView:
    """How data reaches a host now, and why so."""
    return _path(node, host, node.engine.peer_counters(), now)


def _path(node: Node, host: HostId, counters: Mapping[SlotId, PeerCounters], now: float) -> PathView:
    return view_of_path(node, host, *name_of(node, host), counters, now)


# ── MACs, addresses, routes


def _macs(node: Node, now: float) -> list[MacView]:
    directory = node.directory
    conflicts = {MacKey(conflict.segment, conflict.mac) for conflict in directory.fdb.conflicts()}
    rows = []
    for entry in directory.fdb.views():
        name, nickname = name_of(node, entry.owner)
        value = directory.attachments.get((entry.owner, entry.label)) if entry.kind is ClaimKind.ATTACHMENT else None
        in_conflict = MacKey(entry.segment, entry.mac) in conflicts
        rows.append(
            MacView(
                mac=format_mac(entry.mac),
                name=name,
                nickname=nickname,
                kind=entry.kind.name.lower(),
                local=entry.local,
                label=value.label if value is not None else "",
                addresses=value.addresses if value is not None else (),
                claim=entry.claim,
                state="frozen" if entry.frozen else "conflict" if in_conflict else "",
                last_seen_s=round(max(0.0, now - entry.last_seen), 1),
            )
        )
    return rows


def _conflicts(node: Node) -> list[str]:
    directory = node.directory
    lines = []
    for conflict in directory.addresses.conflicts():
        holders = [
            f"{directory.attachment_label(holder.host, holder.label)} on {directory.label_of(holder.host)}"
            for holder in conflict.holders
        ]
        lines.append(f"{conflict.address} is held by {' and by '.join(holders)}; the first one answers")
    return lines


def _routes(node: Node) -> list[RouteView]:
    directory = node.directory
    routes = []
    for destination, hop in directory.topology.routes().items():
        host, via = directory.host_of_short(destination), directory.host_of_short(hop)
        if host is not None and via is not None:
            routes.append(RouteView(destination=name_of(node, host)[0], via=(name_of(node, via)[0],)))
    return routes


def _trees(node: Node, hosts: list[HostId]) -> list[RouteView]:
    """To whom this host passes each source's floods; in a larger mesh of those that flooded since the graph changed."""
    directory = node.directory
    trees = []
    for host in hosts:
        if len(hosts) > ALL_TREES and host != node.host_id and not directory.topology.has_children_of(short_id(host)):
            continue
        children = [directory.host_of_short(child) for child in directory.topology.children(short_id(host))]
        via = tuple(name_of(node, child)[0] for child in children if child is not None)
        trees.append(RouteView(destination=name_of(node, host)[0], via=via))
    return trees
