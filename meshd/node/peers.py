"""Other hosts as the data plane sees them: their slots, the sessions with them, the paths to them.

A peer's life:

    wanted (a neighbour of the overlay, or frames wait) → handshake over its endpoints → keys into the slot → probed → alive
      ↑ the path dies: the slot loses its endpoint (drop NO_PATH), and new keys are made over all known endpoints ──┘

Sans-IO. What only this table can see, it tells its owner through `PeerEvents`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshd.config import NodeConfig
from meshd.crypto.events import (
    Event,
    HandshakeFailed,
    ReceiveKeyAdded,
    ReceiveKeyRemoved,
    SendKeyChanged,
    SendKeyRemoved,
    SessionLost,
    SessionReady,
    Stranger,
)
from meshd.crypto.identity import Identity, Verifier
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.noise import Entropy
from meshd.crypto.session import Timing
from meshd.crypto.sessions import Sessions
from meshd.crypto.wire import Liveness
from meshd.drops import DropCounters, DropReason
from meshd.forward.control import Bye, ByeReason, Control, Echo, Pad, Probe, SizeEcho, SizeProbe, encode_control
from meshd.forward.engine.interface import Engine
from meshd.forward.path import PathMonitor, PathState
from meshd.forward.pmtu import PathSizes, Pmtu
from meshd.forward.query import PathQuery, PathReport
from meshd.forward.slots import PeerSlots
from meshd.ids import Address, Endpoint, HostId, Relayed, SlotId
from meshd.node.sizes import tend_size

__all__ = ["Peer", "PeerEvents", "PeerTable"]

RETRY_FAILED_S = 5.0  # a peer whose handshake was given up is tried again after this
UDP_OVERHEAD = {4: 28, 6: 48}  # IP and UDP headers of the underlay
BOOTSTRAP_EVERY_S = 30.0
IDLE_LOOK_S = 60.0
_CONFIRM = encode_control(Pad(1))


class PeerEvents(Protocol):
    """What the table tells its owner."""

    def paths_changed(self, now: float) -> None:
        """Some path came alive, died, or changed its cost."""
        ...

    def said_bye(self, host: HostId, now: float) -> None: ...

    def asked(self, host: HostId, query: PathQuery, now: float) -> None: ...

    def reported(self, host: HostId, report: PathReport, now: float) -> None: ...

    def identified(self, endpoint: Endpoint, static: bytes, ed25519: bytes, now: float) -> None:
        """A bootstrap over UDP told who is behind an address."""
        ...

    def stranger(self, source: Endpoint, now: float) -> None:
        """Somebody with another mesh key, or none, asked who we are."""
        ...


@dataclass(slots=True)
class Peer:
    """One other host as the data plane sees it."""

    host: HostId
    slot: SlotId
    monitor: PathMonitor
    pmtu: Pmtu = field(default_factory=Pmtu)
    static: bytes = b""
    endpoints: tuple[Endpoint, ...] = ()  # of its record
    observed: Endpoint | None = None  # where its control link came from, with its port
    keep: bool = False  # a neighbour: a session and a live path are kept
    path: Endpoint | None = None  # what the slot has
    sizes: PathSizes | None = None  # the same
    session_since: float | None = None
    asleep_until: float = 0.0  # after a handshake was given up
    failure: str = ""  # why there is no session, for status
    frames_seen: int = 0  # at the last look for idle sessions
    idle_looks: int = 0

    @property
    def alive(self) -> bool:
        return self.monitor.state in (PathState.ALIVE, PathState.SUSPECT)

    def candidates(self) -> tuple[Endpoint, ...]:
        first = (self.observed,) if self.observed is not None else ()
        return tuple(dict.fromkeys(first + self.endpoints))


class PeerTable:
    """Made before the engine, given it by `bind`. `now` is the engine's clock throughout."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        identity: Identity,
        mesh: MeshKey,
        entropy: Entropy,
        rng: random.Random,
        verifier: Verifier,
        liveness: Callable[[], Liveness],
        lookup: Callable[[bytes], HostId | None],
        events: PeerEvents,
        drops: DropCounters,
        work_clock: Callable[[], float] | None = None,
    ) -> None:
        self._config = config
        self._events = events
        self._drops = drops
        self._engine: Engine
        self.slots = PeerSlots()
        self.peers: dict[HostId, Peer] = {}
        self._bootstraps: dict[Endpoint, float] = {}
        self._idle_look = float("-inf")
        self.sessions = Sessions(
            identity=identity,
            mesh=mesh,
            entropy=entropy,
            rng=rng,
            liveness=liveness,
            lookup=lookup,
            sealed=self._sealed,
            drops=drops,
            timing=Timing.for_datagrams(config.underlay_mtu).scaled(config.rekey_interval_s),
            verifier=verifier,
            work_clock=work_clock,
        )

    def bind(self, engine: Engine) -> None:
        self._engine = engine

    # ── what the owner knows

    def host_known(self, host: HostId, static: bytes, endpoints: Sequence[Endpoint], now: float) -> None:
        """The host's record: its static key and where it may be reached."""
        peer = self.admit(host)
        if peer is None:
            return
        self.sessions.acquaint(endpoints)
        peer.static = static
        peer.endpoints = tuple(endpoints)
        peer.asleep_until = now
        self._seek(peer, now)

    def observed(self, host: HostId, endpoint: Endpoint, now: float) -> None:
        """A control link is up with this host: its address is worth trying first."""
        peer = self.admit(host)
        if peer is None:
            return
        self.sessions.acquaint((endpoint,))
        peer.observed = endpoint
        peer.asleep_until = now
        self._seek(peer, now)

    def keep(self, hosts: Collection[HostId], now: float) -> None:
        """Exactly these hosts are neighbours: a path to each is kept alive."""
        for peer in self.peers.values():
            peer.keep = peer.host in hosts
        for host in hosts:
            admitted = self.admit(host)
            if admitted is not None:
                admitted.keep = True
                self._seek(admitted, now)

    def bootstrap(self, endpoint: Endpoint, now: float) -> None:
        """Nobody answers on TCP there: perhaps UDP does, and tells who it is."""
        if now >= self._bootstraps.get(endpoint, 0.0):
            self._bootstraps = {known: until for known, until in self._bootstraps.items() if until > now}
            self._bootstraps[endpoint] = now + BOOTSTRAP_EVERY_S
            self.sessions.bootstrap(endpoint, now)

    def forget(self, host: HostId, now: float) -> None:
        """The host is gone: its keys are too."""
        peer = self.peers.get(host)
        if peer is not None:
            peer.keep = False
            self._lose_path(peer, now)
            self.sessions.forget(host)
            self.carry_out(now)
            peer.asleep_until = now + RETRY_FAILED_S  # while it ends, it would still answer

    def leave(self) -> None:
        """Tell every peer that we are going."""
        body = encode_control(Bye(ByeReason.STOPPING))
        for peer in self.peers.values():
            if peer.path is not None:
                self._engine.send_control(peer.slot, body)

    def alive(self) -> dict[HostId, int]:
        """Neighbours whose path lives both ways, with its cost class."""
        return {peer.host: peer.monitor.cost for peer in self.peers.values() if peer.keep and peer.alive}

    def direct_slot(self, host: HostId) -> SlotId | None:
        """The slot of a host that has a direct path."""
        peer = self.peers.get(host)
        return peer.slot if peer is not None and peer.path is not None else None

    def admit(self, host: HostId) -> Peer | None:
        """The peer, new or known; None, counted, where the table is full.

        Slots are never given back, and a member may show up under one new identity after the other.
        """
        if not self.slots.has_room(host):
            self._drops.add(DropReason.TABLE_FULL)
            return None
        return self.peer(host)

    def peer(self, host: HostId) -> Peer:
        """For hosts that were admitted."""
        peer = self.peers.get(host)
        if peer is None:
            slot = self.slots.slot(host)
            peer = self.peers[host] = Peer(host=host, slot=slot, monitor=PathMonitor())
        return peer

    # ── time

    def next_deadline(self) -> float | None:
        deadlines = [self.sessions.next_deadline(), self._idle_look]
        for peer in self.peers.values():
            deadlines += (peer.monitor.next_deadline(), peer.pmtu.next_deadline())
            if self._lacks_session(peer):
                deadlines.append(peer.asleep_until)
        return min((when for when in deadlines if when is not None), default=None)

    def handle_timer(self, now: float) -> None:
        self.sessions.handle_timer(now)
        self.carry_out(now)
        self._tend_paths(now)
        for peer in list(self.peers.values()):
            self._seek(peer, now)
        if now >= self._idle_look:
            self._look_for_idle(now)
        self.carry_out(now)

    def take_control(self, peer: Peer, message: Control, source: Address, now: float, *, newest: bool) -> None:
        match message:
            case Probe(seq, sent_us, heard):
                self._engine.send_control(peer.slot, peer.monitor.on_probe(seq, sent_us, heard, now), source)
            case Echo(seq, sent_us, heard):
                peer.monitor.on_echo(seq, sent_us, heard, now)
            case SizeProbe(seq, size):
                self._engine.send_control(peer.slot, encode_control(SizeEcho(seq, size)), source)
            case SizeEcho(seq, size):
                peer.pmtu.on_echo(seq, size, now)
            case PathQuery():
                self._events.asked(peer.host, message, now)
            case PathReport():
                self._events.reported(peer.host, message, now)
            case Bye(reason=ByeReason.IDLE):
                self._rest(peer, now)
            case Bye():
                self.forget(peer.host, now)
                self._events.said_bye(peer.host, now)

    def send(self, host: HostId, body: bytes) -> bool:
        """A control body over the path in use; False where there is no session or path, and then one is made if it can be."""
        peer = self.peers.get(host)
        return peer is not None and peer.path is not None and self._engine.send_control(peer.slot, body)

    # ── sessions

    def _lacks_session(self, peer: Peer) -> bool:
        """True while this neighbour should have keys that work and nobody is making any."""
        if not peer.keep or not peer.static or not peer.candidates() or self.sessions.handshaking(peer.host):
            return False
        return self.sessions.keypair(peer.host) is None or peer.monitor.state is PathState.DEAD

    def _seek(self, peer: Peer, now: float) -> None:
        if now >= peer.asleep_until and self._lacks_session(peer):
            peer.asleep_until = now + RETRY_FAILED_S
            self.connect(peer, now)

    def connect(self, peer: Peer, now: float) -> None:
        """See that keys are made, over everything that is known of the peer."""
        if not peer.static or not peer.candidates():
            return
        self.sessions.connect(peer.host, peer.static, peer.candidates(), now)
        if peer.monitor.state is PathState.DEAD:
            self.sessions.renew(peer.host, now)

    def carry_out(self, now: float) -> None:
        """What the sessions want: keys into the engine, then the datagrams that depend on them."""
        while (event := self.sessions.next_event()) is not None:
            if self._refuses(event):
                continue
            match event:
                case ReceiveKeyAdded(index=index, peer=host, suite=suite, key=key, relay_key=relay_key):
                    self._engine.add_receive_key(index, self.peer(host).slot, suite, key, relay_key)
                case ReceiveKeyRemoved(index=index):
                    self._engine.drop_receive_key(index)
                case SendKeyChanged(peer=host, suite=suite, key=key, relay_key=relay_key, remote_index=index):
                    peer = self.peer(host)
                    self._engine.set_send_key(peer.slot, suite, key, index, relay_key)
                    if peer.path is not None:  # else the first probe does it: the other side waits for a datagram
                        self._engine.send_control(peer.slot, _CONFIRM)
                case SendKeyRemoved(peer=host):
                    self._engine.drop_send_key(self.peer(host).slot)
                case SessionReady():
                    self._session_ready(event, now)
                case SessionLost(peer=host, reason=reason):
                    peer = self.peer(host)
                    peer.failure = reason.value
                    peer.asleep_until = now  # that there was a session ends the pause after an attempt
                    self._lose_path(peer, now)
                case HandshakeFailed():
                    self._handshake_failed(event, now)
                case Stranger(source=source):
                    self._events.stranger(source, now)
        for data, address in self.sessions.poll_transmit():
            if isinstance(address, Relayed):
                self._drops.add(DropReason.NO_PATH)
            else:
                self._engine.send_datagram(data, address)

    def _refuses(self, event: Event) -> bool:
        """A session with a host that the table has no room for is over before it began."""
        host = None if isinstance(event, ReceiveKeyRemoved | Stranger) else event.peer
        if host is None or self.slots.has_room(host):
            return False
        if isinstance(event, ReceiveKeyAdded):
            self._drops.add(DropReason.TABLE_FULL)
            self.sessions.forget(host)
        return True

    def _session_ready(self, event: SessionReady, now: float) -> None:
        peer = self.peer(event.peer)
        peer.failure = ""
        if event.first or peer.session_since is None:
            peer.session_since = now
        if event.remote_identity is not None and isinstance(event.endpoint, Endpoint):
            self._events.identified(event.endpoint, event.remote_static, event.remote_identity, now)
        if isinstance(event.endpoint, Relayed):
            return
        usable = peer.monitor.state not in (PathState.IDLE, PathState.DEAD)
        if event.first or event.endpoint != peer.path or not usable:
            peer.monitor.start(event.endpoint, now)
            self._use_path(peer, event.endpoint, now)

    def _handshake_failed(self, event: HandshakeFailed, now: float) -> None:
        if event.peer is not None:
            peer = self.peer(event.peer)
            peer.failure = event.reason.value
            peer.asleep_until = now + RETRY_FAILED_S
            if peer.path is None:
                self._engine.set_path(peer.slot, None, 0)  # what waits for the session is old by now

    # ── paths

    def _use_path(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        peer.path, peer.sizes = endpoint, None
        overhead = UDP_OVERHEAD[6 if ":" in endpoint.host else 4]
        peer.pmtu.start(self._config.underlay_mtu, overhead, now)
        self._write_sizes(peer, now)

    def _write_sizes(self, peer: Peer, now: float) -> None:
        sizes = peer.pmtu.sizes(now)
        if peer.path is None or sizes == peer.sizes:
            return
        peer.sizes = sizes
        self._engine.set_path(
            peer.slot, peer.path, sizes.datagram, aggregate_limit=sizes.aggregate, measured=sizes.measured
        )

    def _tend_size(self, peer: Peer, now: float) -> None:
        """Path MTU: the probes that are due, and what came of those before."""

        def send(body: bytes) -> bool:
            return self._engine.send_control(peer.slot, body, peer.path)

        tend_size(peer.pmtu, peer.monitor.srtt, self._engine, peer.slot, send, now)
        self._write_sizes(peer, now)

    def _lose_path(self, peer: Peer, now: float) -> None:
        """No session: nothing to probe under, and nothing to send."""
        peer.session_since = None
        if peer.path is not None:
            peer.path = None
            peer.pmtu.stop()
            self._engine.set_path(peer.slot, None, 0)
        if peer.monitor.state is not PathState.IDLE:
            peer.monitor.stop(now)
            self._take_changes(peer, now)

    def _rest(self, peer: Peer, now: float) -> None:
        """A session that is not used, or of no use: its keys go. The slot keeps its endpoint, so that the next frame waits for
        new keys, and asks for them, instead of being dropped."""
        peer.path = peer.session_since = None
        peer.pmtu.stop()
        peer.monitor.stop(now)
        self._take_changes(peer, now)
        self.sessions.forget(peer.host)

    def _tend_paths(self, now: float) -> None:
        for peer in self.peers.values():
            body = peer.monitor.poll(now)
            if body is not None:
                self._engine.send_control(peer.slot, body, peer.monitor.endpoint)
            self._take_changes(peer, now)
            self._tend_size(peer, now)
            if peer.monitor.state is PathState.DEAD and not peer.keep:
                self._rest(peer, now)  # perhaps its end let these keys go: nobody would make others while we hold them

    def _take_changes(self, peer: Peer, now: float) -> None:
        changed = False
        while (change := peer.monitor.next_event()) is not None:
            changed = True
            if change.state is PathState.DEAD and peer.path is not None:
                peer.path = None
                peer.pmtu.stop()
                self._engine.set_path(peer.slot, None, 0)
                peer.asleep_until = now
            elif change.state is PathState.ALIVE and peer.path is None and change.endpoint is not None:
                self._use_path(peer, change.endpoint, now)
        if changed:
            self._events.paths_changed(now)

    def _look_for_idle(self, now: float) -> None:
        """A session on demand whose peer is no neighbour ends after two looks without a frame."""
        self._idle_look = now + IDLE_LOOK_S
        counters = self._engine.peer_counters()
        for peer in self.peers.values():
            counted = counters.get(peer.slot)
            frames = counted.frames_in + counted.frames_out if counted is not None else 0
            peer.idle_looks = peer.idle_looks + 1 if frames == peer.frames_seen else 0
            peer.frames_seen = frames
            if peer.idle_looks >= 2 and not peer.keep and self.sessions.keypair(peer.host) is not None:
                if peer.path is not None:
                    self._engine.send_control(peer.slot, encode_control(Bye(ByeReason.IDLE)))
                self._rest(peer, now)

    def _sealed(self, host: HostId) -> int:
        """Datagrams under the present send key, which decide about rekeying."""
        slot = self.slots.known(host)
        counters = self._engine.peer_counters().get(slot) if slot is not None else None
        return counters.data_out if counters is not None else 0
