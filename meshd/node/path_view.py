"""How data reaches each host, and why so: what `status` and `report` show of paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshd.forward.engine.interface import PeerCounters
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import ETHERNET_SIZE
from meshd.forward.header import DATA_OVERHEAD
from meshd.forward.path import PathState
from meshd.forward.paths import PathKind
from meshd.ids import HostId, SlotId
from meshd.node.peer import Peer
from meshd.views import PathView

if TYPE_CHECKING:
    from meshd.node.node import Node

__all__ = ["SEALED_OVERHEAD", "kind_of", "mtu_of", "path_view", "via_of"]

SEALED_OVERHEAD = ETHERNET_SIZE + ENTRY_HEADER_SIZE + DATA_OVERHEAD  # from UDP payload to inner IP packet


def kind_of(peer: Peer) -> str:
    return "relay" if peer.paths.kind is PathKind.RELAY else "direct"


def via_of(node: Node, peer: Peer) -> str:
    """The label of the host through which this one is reached, empty where it is reached directly."""
    return node.directory.label_of(peer.via) if peer.via is not None else ""


def mtu_of(peer: Peer) -> int:
    return peer.sizes.datagram - SEALED_OVERHEAD if peer.sizes is not None and peer.path is not None else 0


def path_view(
    node: Node, host: HostId, name: str, nickname: str, counters: Mapping[SlotId, PeerCounters], now: float
) -> PathView:
    """How data reaches a host now, and why so. `counters`: the engine's, of all peers."""
    peer = node.peers.peers.get(host) or Peer(host=host, slot=node.peers.slots.known(host) or SlotId(0))
    counted = counters.get(peer.slot, PeerCounters())
    seen = peer.monitor.view()
    relayed = peer.paths.kind is PathKind.RELAY
    since = peer.paths.since if peer.session_since is not None and peer.paths.since is not None else seen.since
    return PathView(
        name=name,
        nickname=nickname,
        kind=kind_of(peer),
        via=via_of(node, peer),
        endpoint=_endpoint(node, peer),
        state="no session" if node.peers.sessions.keypair(host) is None else seen.state.value,
        reason=_relay_reason(node, peer, now) if relayed else _direct_reason(node, peer),
        mtu=mtu_of(peer),
        measured=peer.sizes is not None and peer.sizes.measured,
        rtt_ms=round(seen.srtt * 1000, 3) if seen.srtt is not None else None,
        loss=round(seen.loss, 4),
        since_s=round(now - since, 1) if since is not None else 0.0,
        session_age_s=round(now - peer.session_since, 1) if peer.session_since is not None else None,
        frames_out=counted.frames_out,
        frames_in=counted.frames_in,
        datagrams_out=counted.datagrams_out,
        datagrams_in=counted.datagrams_in,
        bytes_out=counted.bytes_out,
        bytes_in=counted.bytes_in,
        relayed_bytes_out=counted.relayed_bytes_out,
        relayed_bytes_in=counted.relayed_bytes_in,
    )


def _endpoint(node: Node, peer: Peer) -> str:
    """Where datagrams for it leave to: of a relayed path, the relay's endpoint."""
    if peer.via is not None:
        hop = node.peers.peers.get(peer.via)
        return str(hop.paths.direct.endpoint or "") if hop is not None else ""
    return str(peer.paths.direct.endpoint or "")


def _relay_reason(node: Node, peer: Peer, now: float) -> str:
    """`relayed via host3: no answer on 10.0.0.2:6783 for 12 s`."""
    relay = node.directory.hosts.get(peer.via) if peer.via is not None else None
    nickname = relay.nickname if relay is not None else "?"
    direct = peer.paths.direct
    if direct.endpoint is None:
        why = "no address of its own has answered"
    elif direct.state in (PathState.ALIVE, PathState.SUSPECT):
        why = f"{direct.endpoint} answers again, and must for a while"
    else:
        last = direct.view().last_echo
        why = f"no answer on {direct.endpoint}" + (f" for {max(0, now - last):.0f} s" if last is not None else "")
    return f"relayed via {nickname}: {why}"


def _direct_reason(node: Node, peer: Peer) -> str:
    """Why this path, or why none."""
    if node.peers.sessions.keypair(peer.host) is None:
        if node.peers.sessions.handshaking(peer.host):
            return "handshake under way"
        return peer.failure or (
            "no frame wanted it yet" if not peer.keep else "no address known, and no way through others"
        )
    if peer.paths.direct.state in (PathState.DEAD, PathState.IDLE):
        return "no answer to our probes, and no way through others: new keys are being made over all known addresses"
    where = peer.paths.direct.endpoint
    if peer.observed is not None and where == peer.observed:
        source = "the address of the control link"
    elif where in peer.endpoints:
        source = "an address of the host's record"
    else:
        source = "the address it was heard from"
    return f"direct: {source}" + (" answers" if peer.paths.direct_lives else ", not answered yet")
