"""All data sessions of one host, sans-IO: who is asked for keys, who is answered, when keys are renewed.

    connect, bootstrap, renew, forget     what the owner wants
    acquaint                              addresses that belong to members
    receive(datagram)                     types 1, 2, 3, 5, 6, 7; a drop is counted under its reason
    confirm(index)                        the engine opened a first datagram under a receive key
    next_deadline, handle_timer           retries, rekeys, expiry
    next_event, poll_transmit             what comes of it: carry out the events first, see `events`

Order of a received datagram: a flood's limit (`gate`), form, mac1 (`wire`), our own coming back, then by type: 1 and 5 open a
handshake (`incoming`), the others must carry the index of one that waits for them (`outgoing`, but for type 7).

Crossing handshakes may both complete; both keys then work (see `session`). A handshake of our own ends early once a newer key
from the other side is confirmed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from meshd.crypto.aead import Buffer
from meshd.crypto.cookie import cookie_receiver
from meshd.crypto.events import Event, FailReason, HandshakeFailed, Stranger
from meshd.crypto.gate import Gate
from meshd.crypto.handshake import Context, Established, Responder
from meshd.crypto.identity import Identity, Verifier, host_id_of, verify_signature
from meshd.crypto.incoming import Incoming
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.noise import Entropy
from meshd.crypto.outgoing import Attempt, Outgoing, bounded
from meshd.crypto.session import KeyPair, Timing
from meshd.crypto.table import Peer, SessionTable, SessionTimers, Timer
from meshd.crypto.timers import Timers
from meshd.crypto.wire import Liveness, Message, MessageType, Rejected, decode_header
from meshd.drops import DropCounters, DropReason
from meshd.errors import LocalProtocolError
from meshd.ids import Address, Endpoint, HostId, Relayed

__all__ = ["MAX_OUTBOX", "Sessions"]

MAX_OUTBOX = 4096  # datagrams between two calls of poll_transmit


class Sessions:
    """`lookup`: static key -> peer, from records. `sealed`: how many datagrams were sealed under a peer's present send key.

    `liveness`: the next one for a type 1, see `LivenessCounter`. `work_clock`: see `Gate`.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        mesh: MeshKey,
        entropy: Entropy,
        rng: random.Random,
        liveness: Callable[[], Liveness],
        lookup: Callable[[bytes], HostId | None],
        sealed: Callable[[HostId], int],
        drops: DropCounters,
        timing: Timing | None = None,
        verifier: Verifier = verify_signature,
        work_clock: Callable[[], float] | None = None,
    ) -> None:
        self._own = identity.host_id
        self._timing = timing = timing if timing is not None else Timing()
        self._sealed = sealed
        self._drops = drops
        self._outbox: list[tuple[bytes, Address]] = []
        self._gate = Gate(work_clock)
        self._timers: SessionTimers = Timers()
        self._context = Context(identity, mesh, entropy, verifier)
        self._table = SessionTable(
            suite=mesh.suite,
            timing=timing,
            timers=self._timers,
            entropy=entropy,
            rng=rng,
            busy=self.handshaking,
        )
        self._incoming = Incoming(
            own=self._own,
            context=self._context,
            table=self._table,
            timers=self._timers,
            half_open_s=timing.half_open_s,
            entropy=entropy,
            lookup=lookup,
            send=self._send,
            gate=self._gate,
            drops=drops,
        )
        self._outgoing = Outgoing(
            context=self._context,
            table=self._table,
            timing=timing,
            timers=self._timers,
            rng=rng,
            liveness=liveness,
            send=self._send,
            remember=self._remember_own,
        )
        self._polling = False

    # what the owner wants

    def connect(self, peer: HostId, static: bytes, endpoints: Sequence[Address], now: float) -> None:
        """See that there is a session with this peer; while there is one, only take note of key and endpoints."""
        if peer == self._own:
            raise LocalProtocolError("a session with ourselves")
        try:
            state = self._table.peer(peer, static)
        except Rejected:
            self._table.events.append(HandshakeFailed(peer=peer, endpoint=None, reason=FailReason.TABLE_FULL))
            return
        self.acquaint(endpoints)
        state.static = static
        state.endpoints = bounded(endpoints)
        attempt = self._outgoing.find(peer)
        if attempt is not None:
            opened = any(isinstance(way, Relayed) and way not in attempt.endpoints for way in state.endpoints)
            attempt.static, attempt.endpoints = static, self._outgoing.addresses(state)
            if opened:
                # After an outage the next tries may be seconds away, and only every second one goes through others.
                self._outgoing.go_round(attempt, now)
        elif state.slots.current is None:
            self._outgoing.start(state, now)

    def renew(self, peer: HostId, now: float) -> None:
        """Make new keys although there are some: the path has gone quiet, perhaps the peer restarted and has lost its own."""
        state = self._table.peers.get(peer)
        if state is not None and not self.handshaking(peer):
            self._outgoing.start(state, now)

    def bootstrap(self, endpoint: Endpoint, now: float) -> None:
        """Ask whoever is behind this address who it is, and for keys."""
        self.acquaint((endpoint,))
        if self._outgoing.find(endpoint) is None:
            self._outgoing.bootstrap(endpoint, now)

    def forget(self, peer: HostId) -> None:
        """Drop all keys and any handshake. The last liveness stays known: what it refused, it refuses still."""
        attempt = self._outgoing.find(peer)
        if attempt is not None:
            self._outgoing.end(attempt)
        state = self._table.peers.get(peer)
        if state is not None:
            self._table.apply(state, state.slots.clear(), reason=FailReason.FORGOTTEN)

    def overtaken(self, peer: HostId, index: int) -> bool:
        """Whether this peer has sealed something under a newer key than the one of this index: it has begun anew since."""
        state = self._table.peers.get(peer)
        return state is not None and state.slots.overtaken(index)

    def acquaint(self, addresses: Iterable[Address]) -> None:
        """These addresses belong to members, or are asked by us: a flood from elsewhere does not drown theirs."""
        for address in addresses:
            self._gate.acquaint(address)

    @property
    def acquainted(self) -> tuple[str, ...]:
        return self._gate.acquainted

    # what comes in

    def receive(self, datagram: Buffer, source: Address, now: float) -> DropReason | None:
        """One datagram of a handshake type (borrowed until the return). Returns, and has counted, why it was dropped."""
        if not self._gate.look(source, now):
            self._drops.add(DropReason.RATE_LIMITED)
            return DropReason.RATE_LIMITED
        data = bytes(datagram)
        try:
            self._receive(data, source, now)
        except Rejected as rejected:
            self._drops.add(rejected.reason)
            if rejected.reason is DropReason.BAD_MAC1:
                self._warn_of_stranger(data, source, now)
            return rejected.reason
        return None

    @property
    def pending(self) -> bool:
        """There is something for `next_event` or `poll_transmit`."""
        return bool(self._outbox or self._table.events)

    def _receive(self, data: bytes, source: Address, now: float) -> None:
        kind = decode_header(data)
        if kind is MessageType.COOKIE:
            self._receive_cookie(data, now)
            return
        message = self._context.read(data, cookies=True)
        if message.sender in self._table.indices:
            raise Rejected(DropReason.REFLECTED)
        if kind is MessageType.INIT or kind is MessageType.BOOTSTRAP_INIT:
            opened = self._incoming.open(message, data, source, now)
            if opened is not None:
                peer, established = opened
                self._install(
                    self._table.peer(peer, established.remote_static), established, source, now, may_send=False
                )
            return
        waiting = self._table.indices.get(message.receiver)
        if not isinstance(waiting, Responder if kind is MessageType.BOOTSTRAP_FINISH else Attempt):
            raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)
        if not self._gate.answer(source, now):
            raise Rejected(DropReason.RATE_LIMITED)
        started = self._gate.started()
        try:
            if isinstance(waiting, Attempt):
                self._receive_answer(waiting, message, source, now)
            elif isinstance(waiting, Responder):
                established = self._incoming.finish(waiting, message)
                self._install(self._peer_of_identity(established), established, source, now, may_send=True)
        finally:
            self._gate.charge(started, now)

    def _receive_cookie(self, data: bytes, now: float) -> None:
        attempt = self._table.indices.get(cookie_receiver(data))
        if not isinstance(attempt, Attempt):
            raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)
        self._outgoing.take_cookie(attempt, data, now)

    def _warn_of_stranger(self, data: bytes, source: Address, now: float) -> None:
        """A type 1 with a wrong mac1 is one meant for another host that was at this address once; a type 5 is for any."""
        asks_anybody = decode_header(data) is MessageType.BOOTSTRAP_INIT
        if asks_anybody and isinstance(source, Endpoint) and self._gate.may_warn("stranger", now):
            self._table.events.append(Stranger(source=source))

    def confirm(self, index: int, now: float) -> None:
        """The engine has opened a first datagram under this receive key."""
        peer = self._table.indices.get(index)
        if not isinstance(peer, Peer):
            return  # removed meanwhile
        self._outgoing.confirmed(index)
        became_current = self._table.confirm(peer, index, now)
        attempt = self._outgoing.find(peer.id)
        if became_current and attempt is not None:
            self._outgoing.end(attempt)

    # time

    def next_deadline(self) -> float | None:
        return self._timers.next()

    def handle_timer(self, now: float) -> None:
        while (due := self._timers.pop_due(now)) is not None:
            match due:
                case (Timer.RETRY, (bytes() | Endpoint()) as target):
                    attempt = self._outgoing.find(target)
                    if attempt is not None:
                        self._outgoing.retry(attempt, now)
                case (Timer.EXPIRE, bytes() as peer):
                    state = self._table.peers[peer]
                    self._table.apply(state, state.slots.expire(now))
                case (Timer.REKEY, bytes() as peer):
                    self._check_counts(self._table.peers[peer], now)
                case (Timer.HALF_OPEN, int() as index):
                    self._incoming.end_half_open(index)
                case _:
                    self._poll_counts(now)

    # what comes of it

    def next_event(self) -> Event | None:
        events = self._table.events
        return events.popleft() if events else None

    def poll_transmit(self) -> list[tuple[bytes, Address]]:
        """The datagrams to send now, after the events that came before them."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def keypair(self, peer: HostId) -> KeyPair | None:
        """What is sealed under for this peer, for status."""
        state = self._table.peers.get(peer)
        return None if state is None else state.slots.current

    def handshaking(self, peer: HostId) -> bool:
        return self._outgoing.find(peer) is not None

    # the end of a handshake

    def _receive_answer(self, attempt: Attempt, message: Message, source: Address, now: float) -> None:
        established, confirmed = self._outgoing.receive(attempt, message, now)
        if attempt.peer is not None:
            peer = self._table.peer(attempt.peer, established.remote_static)
        else:
            try:
                peer = self._peer_of_identity(established)
            except Rejected:
                self._outgoing.end(attempt)
                raise
        self._install(peer, established, source, now, may_send=confirmed)
        if not confirmed:
            self._outgoing.retry(attempt, now)  # sends the type 7

    def _peer_of_identity(self, established: Established) -> Peer:
        if established.remote_identity is None:
            raise LocalProtocolError("an XX handshake proves an identity")
        peer = host_id_of(established.remote_identity)
        if peer == self._own:
            raise Rejected(DropReason.REFLECTED)  # a clone: another host with our identity file
        return self._table.peer(peer, established.remote_static)

    def _install(self, peer: Peer, keys: Established, source: Address, now: float, *, may_send: bool) -> None:
        self._table.install(peer, keys, source, now, may_send=may_send)
        if not self._polling:
            self._polling = True
            self._timers.set((Timer.COUNTS, None), now + self._timing.poll_s)

    # renewing

    def _poll_counts(self, now: float) -> None:
        for peer in list(self._table.peers.values()):
            self._check_counts(peer, now)
        self._polling = bool(self._table.peers)
        if self._polling:
            self._timers.set((Timer.COUNTS, None), now + self._timing.poll_s)

    def _check_counts(self, peer: Peer, now: float) -> None:
        """Time or count has come for a new key, if the present one has sealed anything."""
        if peer.slots.current is None:
            return
        sealed = self._sealed(peer.id)
        if peer.slots.rekey_due(now, sealed) and not self.handshaking(peer.id):
            self._outgoing.start(peer, now)
        if sealed >= self._timing.refuse_datagrams:
            self._table.apply(peer, peer.slots.refuse(), reason=FailReason.USED_UP)

    # bookkeeping

    def _send(self, datagram: bytes, endpoint: Address) -> None:
        if len(self._outbox) >= MAX_OUTBOX:
            self._drops.add(DropReason.QUEUE_FULL)
            return
        self._outbox.append((datagram, endpoint))

    def _remember_own(self, ephemeral: bytes) -> None:
        self._incoming.remember(ephemeral, DropReason.REFLECTED)
