"""The ways to peers, carried out: probes go where `PeerPaths` wants them, and what it chooses goes into the peer's slot.

    a probe, an echo, a handshake, a timer, another topology
        → PeerPaths.choose ─ direct → the slot has an endpoint
                           ─ relay  → the slot has the next hop, which `route` names, and the relay's own probes run
                           ─ none   → the slot has nothing (drop NO_PATH)

A next hop through which nobody answers is left out for a while if there is another one (`hops`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from meshd.config import NodeConfig
from meshd.drops import DropCounters, DropReason
from meshd.forward.control import Echo, Probe, SizeEcho, SizeProbe, encode_control
from meshd.forward.engine.interface import Engine
from meshd.forward.path import PathState
from meshd.forward.paths import PathKind
from meshd.forward.relay import RELAY_OVERHEAD
from meshd.ids import Address, Endpoint, HostId, Relayed, ShortId, SlotId
from meshd.node.peer import Peer
from meshd.node.sizes import tend_size

__all__ = ["UDP_OVERHEAD", "Pathing", "Route"]

UDP_OVERHEAD = {4: 28, 6: 48}  # IP and UDP headers of the underlay
Route = Callable[[HostId, Collection[HostId]], HostId | None]  # to this host, not through these → the next hop


class Pathing:
    """`route` names the next hop towards a host; `host_of` and `peer_of` know the hosts. `bind` gives it the engine."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        route: Route,
        host_of: Callable[[ShortId], HostId | None],
        peer_of: Callable[[HostId], Peer | None],
        drops: DropCounters,
    ) -> None:
        self._config = config
        self._route = route
        self._host_of = host_of
        self._peer_of = peer_of
        self._drops = drops
        self._engine: Engine

    def bind(self, engine: Engine) -> None:
        self._engine = engine

    def next_deadline(self, peer: Peer) -> float | None:
        if peer.session_since is None:
            return None  # nothing to probe under
        deadlines = (peer.paths.next_deadline(), peer.pmtu.next_deadline())
        return min((when for when in deadlines if when is not None), default=None)

    # ── what happens

    def ready(self, peer: Peer, address: Address, now: float) -> bool:
        """There are keys, made with this address. True: something changed for others."""
        peer.turns.begin_anew()
        if isinstance(address, Endpoint):
            peer.paths.handshake_from(address, now)
        return self.settle(peer, now)

    def tend(self, peer: Peer, now: float) -> bool:
        """Probes that are due, and what follows from those that were not answered. True: something changed for others."""
        if peer.session_since is None:
            return False
        for endpoint, body in peer.paths.poll(peer.candidates(), now):
            self._engine.send_control(peer.slot, body, endpoint)
        relayed = peer.paths.relay.poll(now)
        if relayed is not None:
            self._send_relayed(peer, relayed)
        changed = self.settle(peer, now)
        self._tend_size(peer, now)
        return changed

    def probed(self, peer: Peer, message: Probe | SizeProbe, source: Address, now: float, *, newest: bool) -> None:
        """The peer asks: it is answered where it asked from, and where it is known to be.

        Else whoever is first with a copy of each probe would get all the answers, and the peer would take its path for dead.
        """
        if peer.session_since is None:
            return  # it said goodbye in the same wake-up: nothing can be answered, or asked
        if isinstance(message, SizeProbe):
            self._answer(peer, encode_control(SizeEcho(message.seq, message.size)), source)
            return
        monitor = peer.paths.direct if isinstance(source, Endpoint) else peer.paths.relay
        echo = monitor.on_probe(message.seq, message.sent_us, message.heard, now)
        self._answer(peer, echo, source)
        known = peer.paths.direct.endpoint
        if isinstance(source, Endpoint) and known is not None and source != known and peer.paths.direct_lives:
            self._answer(peer, echo, known)
        if newest and isinstance(source, Endpoint):
            peer.paths.probe_from(source, now)

    def answered(self, peer: Peer, message: Echo | SizeEcho, source: Address, now: float) -> None:
        if isinstance(message, SizeEcho):
            peer.pmtu.on_echo(message.seq, message.size, now)
        elif isinstance(source, Endpoint):
            peer.paths.on_echo(message.seq, message.sent_us, message.heard, now)
        else:
            peer.paths.relay.on_echo(message.seq, message.sent_us, message.heard, now)

    def lose(self, peer: Peer, now: float) -> bool:
        """No session: nothing to probe under, and nothing to send. True: something changed for others."""
        peer.session_since = None
        peer.paths.stop(now)
        self._write(peer, now)
        return peer.news()

    def rest(self, peer: Peer, now: float) -> bool:
        """As `lose`, but the slot keeps its address, so that the next frame waits for new keys, and asks for them."""
        peer.path = peer.via = peer.session_since = None
        peer.pmtu.stop()
        peer.paths.stop(now)
        return peer.news()

    def handshake(self, data: bytes, address: Address) -> None:
        """Send a message of a handshake."""
        if isinstance(address, Endpoint):
            self._engine.send_datagram(data, address)
            return
        via = self._slot_towards(address)
        if via is None:
            self._drops.add(DropReason.RELAY_NO_ROUTE)
        else:
            self._engine.send_relayed(data, address.peer, via)

    # ── the choice

    def route(self, peer: Peer, now: float) -> HostId | None:
        """The next hop of a way through others."""
        avoided = peer.avoided.at(now)
        hop = self._route(peer.host, avoided)
        if hop is None and avoided:
            peer.avoided.clear()
            hop = self._route(peer.host, ())
        return hop

    def settle(self, peer: Peer, now: float) -> bool:
        """Choose by what is known now, and write it down. True: something changed for others."""
        if peer.session_since is None:
            return False
        paths = peer.paths
        while paths.direct.next_event() is not None:
            pass
        fine = paths.kind is PathKind.DIRECT and paths.direct.state is not PathState.DEAD
        if paths.kind is PathKind.RELAY and peer.via is not None and self._died(peer):
            peer.avoided.add(peer.via, now)
        via = None if fine else self.route(peer, now)
        paths.choose(via is not None, now)
        if paths.kind is PathKind.RELAY and (via != peer.via or paths.relay.state is PathState.IDLE):
            peer.via, peer.path = via, None
            paths.relay.start(None, now)
        self._write(peer, now)
        return peer.news()

    def _died(self, peer: Peer) -> bool:
        died = False
        while (change := peer.paths.relay.next_event()) is not None:
            died = died or change.state is PathState.DEAD
        return died

    def _write(self, peer: Peer, now: float) -> None:
        """The choice into the slot, and measure its path anew where it is another one."""
        match peer.paths.kind:
            case PathKind.DIRECT:
                address: Address | None = peer.paths.direct.endpoint
                peer.via = None
            case PathKind.RELAY:
                address = peer.relayed
            case PathKind.NONE:
                address = peer.via = None
        if address != peer.path:
            peer.path, peer.sizes = address, None
            if address is None:
                peer.pmtu.stop()
                self._engine.set_path(peer.slot, None, 0)
            else:
                peer.pmtu.start(self._config.underlay_mtu, self._overhead(peer), now)
        self._write_sizes(peer, now)

    def _overhead(self, peer: Peer) -> int:
        endpoint = peer.path
        extra = 0
        if not isinstance(endpoint, Endpoint):
            hop = self._hop(peer)
            endpoint, extra = (hop.paths.direct.endpoint if hop is not None else None), RELAY_OVERHEAD
        return UDP_OVERHEAD[6 if endpoint is not None and ":" in endpoint.host else 4] + extra

    def _write_sizes(self, peer: Peer, now: float) -> None:
        sizes = peer.pmtu.sizes(now)
        if peer.path is None or sizes == peer.sizes:
            return
        peer.sizes = sizes
        hop = self._hop(peer)
        self._engine.set_path(
            peer.slot,
            peer.path,
            sizes.datagram,
            hop.slot if hop is not None else None,
            aggregate_limit=sizes.aggregate,
            measured=sizes.measured,
        )

    def _tend_size(self, peer: Peer, now: float) -> None:
        """Path MTU: the probes that are due, and what came of those before."""
        hop = self._hop(peer)

        def send(body: bytes) -> bool:
            return self._engine.send_control(peer.slot, body, peer.path, hop.slot if hop is not None else None)

        if peer.path is not None:
            tend_size(peer.pmtu, peer.monitor.srtt, self._engine, peer.slot, send, now)
            self._write_sizes(peer, now)

    # ── sending

    def _hop(self, peer: Peer) -> Peer | None:
        return self._peer_of(peer.via) if peer.via is not None else None

    def _send_relayed(self, peer: Peer, body: bytes) -> None:
        hop = self._hop(peer)
        if hop is not None:
            self._engine.send_control(peer.slot, body, peer.relayed, hop.slot)

    def _answer(self, peer: Peer, body: bytes, source: Address) -> None:
        """Back to where it came from; through others by our own way, which need not be the peer's."""
        via = None
        if isinstance(source, Relayed):
            source, via = peer.relayed, self._slot_towards(peer.relayed)
            if via is None:
                self._drops.add(DropReason.RELAY_NO_ROUTE)
                return
        self._engine.send_control(peer.slot, body, source, via)

    def _slot_towards(self, address: Relayed) -> SlotId | None:
        """Of the next hop towards this host, for a handshake or an answer: of the one that is known to lead there, else of each in
        turn. So two hosts of whose relays only one leads anywhere need not choose it at the same moment."""
        host = self._host_of(address.peer)
        if host is None:
            return None
        peer = self._peer_of(host)
        if peer is None:
            hop = self._route(host, ())
        elif peer.paths.relay_lives:
            hop = peer.via
        else:
            hop = peer.turns.next(partial(self._route, host))
        known = self._peer_of(hop) if hop is not None else None
        return known.slot if known is not None else None
