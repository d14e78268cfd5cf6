"""The handshakes that others begin with this host: types 1 and 5, and the type 7 that ends what a type 5 began.

    type 1 ── record? new? ──► type 2, keys            no record, no room: silence;   not new: a cookie with a challenge
    type 5 ── seen before? ──► type 6, half open ── type 7 ──► keys
                                   └── half_open_s, or pushed out by newer ones ──► forgotten

Before either costs a DH, the `gate` is asked, and may have a cookie asked for. An anonymous type 5 has no liveness; the last
SEEN_BOOTSTRAPS of them are remembered, so that a copy is met with silence. Half-open ones push out the oldest of their kind: a
true type 7 is a round trip behind, and to push it out in that time takes more than one address is let through.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from meshd.crypto.aead import NONCE_SIZE
from meshd.crypto.cookie import CookieKind, CookieMaker, seal_cookie
from meshd.crypto.gate import Gate, Opening
from meshd.crypto.handshake import Context, Established, Responder
from meshd.crypto.liveness import LivenessTable
from meshd.crypto.noise import DH_SIZE, Entropy
from meshd.crypto.table import SessionTable, SessionTimers, Timer
from meshd.crypto.wire import MAC1_SIZE, NO_MAC2, Liveness, Message, MessageType, Rejected, encode_liveness
from meshd.drops import DropCounters, DropReason
from meshd.errors import LocalProtocolError
from meshd.ids import Address, HostId

__all__ = ["MAX_HALF_OPEN", "SEEN_BOOTSTRAPS", "Incoming"]

MAX_HALF_OPEN = 64  # type 5 answered, type 7 not yet here
SEEN_BOOTSTRAPS = 1024
_MAC2_AT = -len(NO_MAC2)


class Incoming:
    """`lookup`: static key -> peer, from records. `half_open_s`: how long a type 6 waits for its type 7."""

    def __init__(
        self,
        *,
        own: HostId,
        context: Context,
        table: SessionTable,
        timers: SessionTimers,
        half_open_s: float,
        entropy: Entropy,
        lookup: Callable[[bytes], HostId | None],
        send: Callable[[bytes, Address], None],
        gate: Gate,
        drops: DropCounters,
    ) -> None:
        self._own = own
        self._context = context
        self._table = table
        self._timers = timers
        self._half_open_s = half_open_s
        self._entropy = entropy
        self._lookup = lookup
        self._send = send
        self._gate = gate
        self._drops = drops
        self._cookies = CookieMaker(entropy)
        self._livenesses = LivenessTable(entropy)
        self._stale: HostId | None = None  # whose type 1, just looked at, was authentic and not new
        self._half_open: OrderedDict[int, Responder] = OrderedDict()  # by local index
        self._seen: OrderedDict[bytes, DropReason] = OrderedDict()  # ephemeral key of a type 5 -> what a copy of it is

    def open(self, message: Message, data: bytes, source: Address, now: float) -> tuple[HostId, Established] | None:
        """A type 1 or 5: what stands before a stranger's first DH, then the DH. The keys of a type 1. Raises Rejected."""
        opening = self._judge(data, source, now)
        if opening is Opening.REFUSE:
            raise Rejected(DropReason.RATE_LIMITED)
        if opening is Opening.COOKIE:
            self._send_cookie(message, data, CookieKind.ADDRESS, self._cookies.value(source, now), source)
            raise Rejected(DropReason.NO_COOKIE)
        started = self._gate.started()
        try:
            if message.type is MessageType.INIT:
                return self._answer_init(message, source, now)
            self._answer_bootstrap(message, source, now)
            return None
        except Rejected as rejected:
            if rejected.reason is DropReason.STALE_HANDSHAKE and self._stale is not None:
                challenge = encode_liveness(self._livenesses.challenge(self._stale, now))
                self._send_cookie(message, data, CookieKind.LIVENESS, challenge, source)
            raise
        finally:
            self._stale = None
            self._gate.charge(started, now)

    def finish(self, responder: Responder, message: Message) -> Established:
        """A type 7 for one of the half-open ones. Raises Rejected, and it stays half open."""
        responder.receive(message)
        established = responder.established
        if established is None:
            raise LocalProtocolError("a type 7 ends a handshake")
        self.end_half_open(responder.index)
        return established

    def end_half_open(self, index: int) -> None:
        del self._half_open[index]
        del self._table.indices[index]
        self._timers.cancel((Timer.HALF_OPEN, index))

    def remember(self, ephemeral: bytes, copy_is: DropReason) -> None:
        self._seen[ephemeral] = copy_is
        if len(self._seen) > SEEN_BOOTSTRAPS:
            self._seen.popitem(last=False)

    def _judge(self, data: bytes, source: Address, now: float) -> Opening:
        """mac2 is missing, right, or wrong: made before we were started anew, or forged."""
        given = data[_MAC2_AT:]
        if given == NO_MAC2:
            return self._gate.opening(source, now, proven=False)
        if self._cookies.check(source, data[:_MAC2_AT], given, now):
            return self._gate.opening(source, now, proven=True)
        return self._gate.cookie(source, now)

    def _send_cookie(self, message: Message, data: bytes, kind: CookieKind, value: bytes, source: Address) -> None:
        mac1 = data[_MAC2_AT - MAC1_SIZE : _MAC2_AT]
        key, nonce = self._context.cookie_key(message.type), self._entropy(NONCE_SIZE)
        self._send(seal_cookie(key, message.sender, nonce, mac1, kind, value), source)

    def _answer_init(self, message: Message, source: Address, now: float) -> tuple[HostId, Established]:
        authorize = partial(self._authorize, now)
        responder = Responder(self._context, allocate=self._table.free_index, authorize=authorize)
        reply = responder.receive(message)
        established = responder.established
        peer = None if established is None else self._lookup(established.remote_static)
        if reply is None or established is None or peer is None:
            raise LocalProtocolError("an authorized type 1 is answered at once")
        self._send(reply, source)
        return peer, established

    def _authorize(self, now: float, static: bytes, liveness: Liveness) -> DropReason | None:
        peer = self._lookup(static)
        if peer is None:
            return DropReason.UNKNOWN_PEER
        if peer == self._own:
            return DropReason.REFLECTED
        if not self._table.has_room(peer):
            return DropReason.TABLE_FULL
        if self._livenesses.accept(peer, liveness, now):
            return None
        self._stale = peer
        return DropReason.STALE_HANDSHAKE

    def _answer_bootstrap(self, message: Message, source: Address, now: float) -> None:
        ephemeral = message.noise[:DH_SIZE]
        if ephemeral in self._seen:
            raise Rejected(self._seen[ephemeral])
        authorize = partial(self._authorize, now)
        responder = Responder(self._context, allocate=self._table.free_index, authorize=authorize)
        reply = responder.receive(message)
        if reply is None:
            raise LocalProtocolError("a type 5 is answered at once")
        self.remember(ephemeral, DropReason.REPLAYED)
        if len(self._half_open) >= MAX_HALF_OPEN:
            self._drops.add(DropReason.TABLE_FULL)
            self.end_half_open(next(iter(self._half_open)))
        self._table.indices[responder.index] = self._half_open[responder.index] = responder
        self._timers.set((Timer.HALF_OPEN, responder.index), now + self._half_open_s)
        self._send(reply, source)
