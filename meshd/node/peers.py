"""Other hosts as the data plane sees them: their slots, the sessions with them, the paths to them.

A peer's life:

    wanted (a neighbour of the overlay, or frames wait) → handshake over its endpoints and through others → keys into the slot
      ↑ no path answers any more: perhaps it has lost its keys ◄── probed, directly and through others (`pathing`) ◄──┘

Of a thousand hosts that are known most are no neighbours and have no session. What happens in time goes over the others alone
(`_tended`): neighbours, sessions, and those that keys are being made with.

Sans-IO. What only this table can see, it tells its owner through `PeerEvents`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
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
from meshd.forward.query import PathQuery, PathReport
from meshd.forward.slots import PeerSlots
from meshd.ids import Address, Endpoint, HostId, ShortId, SlotId
from meshd.node.pathing import Pathing, Route
from meshd.node.peer import Peer

__all__ = ["Peer", "PeerEvents", "PeerTable"]

RETRY_FAILED_S = 5.0  # a peer whose handshake was given up is tried again after this
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

    def identified(self, host: HostId, endpoint: Endpoint, now: float) -> None:
        """A bootstrap over UDP told who is behind an address."""
        ...

    def stranger(self, source: Endpoint, now: float) -> None:
        """Somebody with another mesh key, or none, asked who we are."""
        ...


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
        host_of: Callable[[ShortId], HostId | None],
        route: Route,
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
        self._tended: dict[HostId, Peer] = {}
        self._bootstraps: dict[Endpoint, float] = {}
        self._idle_look = float("-inf")
        self._pathing = Pathing(config=config, route=route, host_of=host_of, peer_of=self.peers.get, drops=drops)
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
        self._pathing.bind(engine)

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
        for peer in self._tended.values():
            peer.keep = peer.host in hosts
        for host in sorted(hosts):
            admitted = self.admit(host)
            if admitted is not None:
                admitted.keep = True
                self._tended[host] = admitted
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
            self._lose(peer, now)
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
        """Neighbours whose direct path lives both ways and is in use, with its cost class: the edges of this host."""
        return {peer.host: peer.paths.direct.cost for peer in self._tended.values() if peer.keep and peer.direct}

    def reached(self) -> set[HostId]:
        """Neighbours with whom frames are exchanged, directly or not."""
        return {peer.host for peer in self._tended.values() if peer.keep and peer.paths.lives}

    @property
    def tended(self) -> int:
        """How many peers there is something to do for in time."""
        return len(self._tended)

    def direct_slot(self, host: HostId) -> SlotId | None:
        """The slot of a host that has a direct path."""
        peer = self.peers.get(host)
        return peer.slot if peer is not None and peer.direct else None

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
            peer = self.peers[host] = Peer(host=host, slot=slot)
        return peer

    # ── time

    def next_deadline(self) -> float | None:
        deadlines = [self.sessions.next_deadline(), self._idle_look]
        for peer in self._tended.values():
            deadlines.append(self._pathing.next_deadline(peer))
            if self._lacks_session(peer):
                deadlines.append(peer.asleep_until)
        return min((when for when in deadlines if when is not None), default=None)

    def handle_timer(self, now: float) -> None:
        self.sessions.handle_timer(now)
        self.carry_out(now)
        self._tend_paths(now)
        for peer in list(self._tended.values()):
            self._seek(peer, now)
        if now >= self._idle_look:
            self._look_for_idle(now)
        self.carry_out(now)

    def take_control(
        self, peer: Peer, message: Control, index: int, source: Address, now: float, *, newest: bool
    ) -> None:
        """`index`: of the key that it came under."""
        match message:
            case Probe() | SizeProbe():
                self._pathing.probed(peer, message, source, now, newest=newest)
            case Echo() | SizeEcho():
                self._pathing.answered(peer, message, source, now)
            case PathQuery():
                self._events.asked(peer.host, message, now)
            case PathReport():
                self._events.reported(peer.host, message, now)
            case Bye() if self.sessions.overtaken(peer.host, index):
                pass  # of a former life, or of a session that has been renewed since: it must not end the new one
            case Bye(reason=ByeReason.IDLE):
                self._rest(peer, now)
            case Bye():
                self.forget(peer.host, now)
                self._events.said_bye(peer.host, now)

    def send(self, host: HostId, body: bytes) -> bool:
        """A control body over the path in use; False where there is no session or path."""
        peer = self.peers.get(host)
        return peer is not None and peer.path is not None and self._engine.send_control(peer.slot, body)

    def seek(self, host: HostId, now: float) -> None:
        """See that there is a session with this host, neighbour or not."""
        peer = self.admit(host)
        if peer is not None:
            self.connect(peer, now)

    # ── sessions

    def _lacks_session(self, peer: Peer) -> bool:
        """True while this neighbour should have keys that work and nobody is making any."""
        if not peer.keep or not peer.static or self.sessions.handshaking(peer.host):
            return False
        return self.sessions.keypair(peer.host) is None or peer.paths.hopeless

    def _seek(self, peer: Peer, now: float) -> None:
        if now >= peer.asleep_until and self._lacks_session(peer):
            peer.asleep_until = now + RETRY_FAILED_S
            self.connect(peer, now)

    def connect(self, peer: Peer, now: float) -> None:
        """See that keys are made, over everything that is known of the peer."""
        addresses = self._addresses(peer, now)
        if not peer.static or not addresses:
            return
        self.sessions.connect(peer.host, peer.static, addresses, now)
        self._tended[peer.host] = peer
        if peer.session_since is not None and peer.paths.silent(now):
            self.sessions.renew(peer.host, now)

    def _addresses(self, peer: Peer, now: float) -> tuple[Address, ...]:
        relayed = (peer.relayed,) if self._pathing.route(peer, now) is not None else ()
        return (*peer.candidates(), *relayed)

    def rerouted(self, now: float) -> None:
        """The topology changed: other ways lead to hosts that are not reached directly, and to those that keys are made with."""
        changed = False
        for peer in list(self._tended.values()):
            changed = self._pathing.settle(peer, now) or changed
            in_need = (
                peer.session_since is not None and not peer.direct
            )  # new keys must not wait for a path that is dead
            if peer.static and (in_need or self.sessions.handshaking(peer.host)):
                self.sessions.connect(peer.host, peer.static, self._addresses(peer, now), now)
        if changed:
            self._events.paths_changed(now)

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
                    self._lose(peer, now)
                case HandshakeFailed():
                    self._handshake_failed(event, now)
                case Stranger(source=source):
                    self._events.stranger(source, now)
        for data, address in self.sessions.poll_transmit():
            self._pathing.handshake(data, address)

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
        peer = self._tended[event.peer] = self.peer(event.peer)
        peer.failure = ""
        if event.first or peer.session_since is None:
            peer.session_since = now
        asked_by_us = event.keypair.bootstrap and event.keypair.initiator  # after its TCP did not answer
        if asked_by_us and isinstance(event.endpoint, Endpoint):
            self._events.identified(event.peer, event.endpoint, now)
        if self._pathing.ready(peer, event.endpoint, now):
            self._events.paths_changed(now)

    def _handshake_failed(self, event: HandshakeFailed, now: float) -> None:
        if event.peer is not None:
            peer = self.peer(event.peer)
            peer.failure = event.reason.value
            peer.asleep_until = now + RETRY_FAILED_S
            if peer.path is None:
                self._engine.set_path(peer.slot, None, 0)  # what waits for the session is old by now

    # ── paths

    def _lose(self, peer: Peer, now: float) -> None:
        if self._pathing.lose(peer, now):
            self._events.paths_changed(now)

    def _rest(self, peer: Peer, now: float) -> None:
        """A session that is not used, or of no use: its keys go."""
        changed = self._pathing.rest(peer, now)
        self.sessions.forget(peer.host)
        if changed:
            self._events.paths_changed(now)

    def _tend_paths(self, now: float) -> None:
        changed = False
        for peer in list(self._tended.values()):
            if self._needs_nothing(peer):
                del self._tended[peer.host]
                continue
            if self._pathing.tend(peer, now):
                changed = True
                peer.asleep_until = now  # what has changed may be worth another try at once
            if peer.session_since is None or not peer.paths.silent(now):
                continue
            if peer.paths.hopeless and not peer.keep:
                self._rest(peer, now)  # the next frame asks for new keys
            elif now >= peer.asleep_until and not self.sessions.handshaking(peer.host):
                peer.asleep_until = now + RETRY_FAILED_S
                self.connect(
                    peer, now
                )  # perhaps its end let these keys go: nobody would make others while we hold them
        if changed:
            self._events.paths_changed(now)

    def _needs_nothing(self, peer: Peer) -> bool:
        return not peer.keep and peer.session_since is None and not self.sessions.handshaking(peer.host)

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
        return self._engine.sent(slot).data_out if slot is not None else 0
