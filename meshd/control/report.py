"""The report: everything a router shows of itself, as one JSON object in the shape that Weave's `report` has, and what is new.

Pure and deterministic: the same view gives the same text. Weave's keys keep Weave's names and places, so that scripts and templates
written for it work; parts that this router does not have (IPAM, DNS, …) are absent, as a disabled service's part is. `status`, `ps`
and every `--json` are made from this object alone. Times are ages in seconds (`…S`), since no two hosts share a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshd.views import AttachmentView, BridgeView, ConnectionView, MacView, NodeView, PathView, PeerView, RouterView

__all__ = ["build_ps", "build_report", "path_body"]

Json = dict[str, Any]


def build_report(view: RouterView, *, ready: bool = True, bridge_mac: str = "") -> Json:
    """`bridge_mac`: "" where the bridge is gone."""
    node = view.node
    paths = [path_body(path) for path in node.paths]
    drops = {name: node.drops[name] for name in sorted(node.drops)}
    return {
        "Ready": ready,
        "Version": view.version,
        "VersionCheck": {"Enabled": False, "Success": False, "NewVersion": "", "NextCheckAt": None},
        "Router": _router(view, paths, drops),
        "Mesh": {"Id": node.mesh_id, "Suite": node.suite},
        "Engine": {"Name": view.engine, "Reason": view.engine_reason, "Offloads": view.offloads, "Flows": node.flows},
        "Bridge": _bridge(view, bridge_mac),
        "Paths": paths,
        "Drops": drops,
        "Attachments": [_attachment(attachment) for attachment in view.attachments],
        "AddressConflicts": list(node.address_conflicts),
        "Notices": list(node.notices),
        "Gossip": {
            "Hosts": node.gossip.hosts,
            "Records": node.gossip.records,
            "Bytes": node.gossip.bytes,
            "RootHash": node.gossip.root_hash,
            "Epoch": node.gossip.epoch,
        },
        "Loop": {"LagP99Ms": round(view.loop.lag_p99_ms, 3), "SlowCallbacks": view.loop.slow_callbacks},
        "Process": {"Pid": view.pid, "UptimeS": round(view.uptime_s, 1), "RssMiB": round(view.rss_mib, 1)},
    }


def build_ps(view: BridgeView, *, bridge_mac: str = "") -> Json:
    """The part of the report that `ps` shows, without the rest: in a large mesh that is large."""
    return {
        "Bridge": _bridge(view, bridge_mac),
        "Attachments": [_attachment(attachment) for attachment in view.attachments],
    }


def _bridge(view: RouterView | BridgeView, mac: str) -> Json:
    return {"Name": view.bridge, "Mac": mac, "MTU": view.mtu}


def _router(view: RouterView, paths: list[Json], drops: Mapping[str, int]) -> Json:
    node = view.node
    return {
        "Protocol": "meshd",
        "ProtocolMinVersion": node.protocol_min,
        "ProtocolMaxVersion": node.protocol_max,
        "Encryption": node.suite != "plain",
        "PeerDiscovery": node.discovery,
        "Name": node.name,
        "NickName": node.nickname,
        "Port": node.port,
        "Peers": [_peer(peer) for peer in node.peers],
        "UnicastRoutes": [
            {"Dest": route.destination, "Via": route.via[0] if route.via else ""} for route in node.unicast_routes
        ],
        "BroadcastRoutes": [{"Source": route.destination, "Via": list(route.via)} for route in node.broadcast_routes],
        "Connections": [_connection(connection) for connection in node.connections],
        "Targets": list(node.targets),
        "OverlayDiagnostics": {"meshd": {"Paths": paths, "Drops": dict(drops), "Flows": node.flows}},
        "TrustedSubnets": [],
        "Interface": view.capture,
        "CaptureStats": None,
        "MACs": _macs(node),
    }


def _peer(peer: PeerView) -> Json:
    return {
        "Name": peer.name,
        "NickName": peer.nickname,
        "UID": peer.host_id,
        "ShortID": peer.host_id[:16],
        "Version": peer.version,
        "Epoch": peer.epoch,
        "Reachable": peer.reachable,
        "Connections": [
            {
                "Name": link.name,
                "NickName": link.nickname,
                "Address": link.address,
                "Outbound": link.outbound,
                "Established": link.established,
            }
            for link in peer.links
        ],
    }


def _connection(connection: ConnectionView) -> Json:
    return {
        "Address": connection.address,
        "Outbound": connection.outbound,
        "State": connection.state,
        "Info": connection.info,
        "Name": connection.name,
        "NickName": connection.nickname,
        "Attrs": dict(connection.attributes),
    }


def path_body(path: PathView) -> Json:
    return {
        "Name": path.name,
        "NickName": path.nickname,
        "Kind": path.kind,
        "Via": path.via,
        "Endpoint": path.endpoint,
        "State": path.state,
        "Reason": path.reason,
        "MTU": path.mtu,
        "Measured": path.measured,
        "RttMs": None if path.rtt_ms is None else round(path.rtt_ms, 3),
        "Loss": round(path.loss, 4),
        "SinceS": round(path.since_s, 1),
        "SessionAgeS": None if path.session_age_s is None else round(path.session_age_s, 1),
        "FramesOut": path.frames_out,
        "FramesIn": path.frames_in,
        "DatagramsOut": path.datagrams_out,
        "DatagramsIn": path.datagrams_in,
        "BytesOut": path.bytes_out,
        "BytesIn": path.bytes_in,
        "RelayedBytesOut": path.relayed_bytes_out,
        "RelayedBytesIn": path.relayed_bytes_in,
    }


def _macs(node: NodeView) -> list[Json]:
    return [_mac(mac) for mac in sorted(node.macs, key=lambda mac: (not mac.local, mac.mac))]


def _mac(mac: MacView) -> Json:
    return {
        "Mac": mac.mac,
        "Name": mac.name,
        "NickName": mac.nickname,
        "LastSeenS": None if mac.last_seen_s is None else round(mac.last_seen_s, 1),
        "Kind": mac.kind,
        "Local": mac.local,
        "Label": mac.label,
        "Addresses": list(mac.addresses),
        "Claim": mac.claim,
        "State": mac.state,
    }


def _attachment(attachment: AttachmentView) -> Json:
    return {
        "Id": attachment.id,
        "Label": attachment.label,
        "Name": attachment.name,
        "Mac": attachment.mac,
        "Addresses": list(attachment.addresses),
        "Ifname": attachment.ifname,
        "HostIfname": attachment.host_ifname,
        "PortSecurity": attachment.port_security,
        "Drops": dict(attachment.drops),
    }
