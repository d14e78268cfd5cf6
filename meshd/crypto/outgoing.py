"""The handshakes that this host has begun: one attempt for each peer (IK) and for each bootstrap address (XX), retried until
given up.

    TRYING ── answer to IK ──────────────► done
       │ ▲
       │ └── not confirmed in half_open_s ──┐
       └── answer to XX (type 6) ────► CONFIRMING ── first datagram under the key ──► done

Each try is a fresh handshake (ephemeral key, index, liveness) to the next endpoint of the list, the second one through relays where
there are some; an answer to an earlier try comes too late. The waits grow from one round over the whole list to the next. After a
type 6 it is the same type 7 that is repeated, since nothing but a datagram under the new key tells that it has arrived.

A cookie that answers the last try is for the next one, which goes to the same endpoint after the first wait of the schedule. One
counts for each try, so that whoever forges cookies gets no more out of us than silence would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshd.crypto.cookie import CookieKind, CookieMemory, mac2, open_cookie
from meshd.crypto.events import FailReason, HandshakeFailed
from meshd.crypto.handshake import Context, Established, Initiator
from meshd.crypto.liveness import FIRST_CHALLENGE
from meshd.crypto.session import Timing
from meshd.crypto.table import Peer, SessionTable, SessionTimers, Timer
from meshd.crypto.wire import (
    LIVENESS_SIZE,
    MAC1_SIZE,
    NO_MAC2,
    Liveness,
    Message,
    Rejected,
    cookie_static,
    decode_liveness,
)
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.ids import Address, Endpoint, HostId, Relayed

__all__ = ["MAX_BOOTSTRAPS", "MAX_ENDPOINTS", "Attempt", "Outgoing", "bounded"]

MAX_BOOTSTRAPS = 256  # addresses asked at once
MAX_ENDPOINTS = 16  # tried of one peer; they come from its record, so from outside

Send = Callable[[bytes, Address], None]


def bounded(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """The first MAX_ENDPOINTS of them, each once, and the way through relays wherever it stands: of many addresses none may be
    reached."""
    different = dict.fromkeys(addresses)
    endpoints = [address for address in different if isinstance(address, Endpoint)][:MAX_ENDPOINTS]
    return tuple(address for address in different if isinstance(address, Relayed) or address in endpoints)


@dataclass(slots=True, eq=False)
class Attempt:
    """`peer` and `static` are None for a bootstrap. `finish`: the type 7 to repeat, while CONFIRMING."""

    peer: HostId | None
    static: bytes | None
    endpoints: tuple[Address, ...]
    started_at: float
    tries: int = 0
    machine: Initiator | None = None
    finish: bytes | None = None
    finish_since: float = 0.0
    finish_index: int = 0
    address: Address | None = None  # of the last try
    mac1: bytes = b""  # of the last try, until a cookie has answered it
    again: bool = False  # the next try goes to the same endpoint
    challenge: Liveness | None = None  # what the next type 1 carries for its liveness

    @property
    def target(self) -> HostId | Endpoint:
        """Its name: an attempt has a peer or exactly one endpoint."""
        if self.peer is not None:
            return self.peer
        (endpoint,) = self.endpoints
        if isinstance(endpoint, Relayed):
            raise LocalProtocolError("only a known peer is reached through relays")
        return endpoint

    def ways(self) -> tuple[Address, ...]:
        """In the order of a round: what leads through relays at the second place at the latest, for the list of endpoints may be
        long, and none of them open."""
        relayed = tuple(address for address in self.endpoints if isinstance(address, Relayed))
        direct = tuple(address for address in self.endpoints if isinstance(address, Endpoint))
        first = () if self.endpoints[0] in relayed else direct[:1]
        return first + relayed + direct[len(first) :]

    def turn(self) -> Address:
        """Where the next try goes."""
        ways = self.ways()
        return ways[self.tries % len(ways)]

    @property
    def round(self) -> int:
        """How often every way was tried."""
        return self.tries // max(1, len(self.endpoints))


class Outgoing:
    """`liveness`: the next one for a type 1. `remember`: is told the ephemeral key of each type 5 of ours."""

    def __init__(
        self,
        *,
        context: Context,
        table: SessionTable,
        timing: Timing,
        timers: SessionTimers,
        rng: random.Random,
        liveness: Callable[[], Liveness],
        send: Send,
        remember: Callable[[bytes], None],
    ) -> None:
        self._context = context
        self._table = table
        self._timing = timing
        self._timers = timers
        self._rng = rng
        self._send = send
        self._remember = remember
        self._next_liveness = liveness
        self._attempts: dict[HostId | Endpoint, Attempt] = {}
        self._confirming: dict[int, Attempt] = {}
        self._bootstraps = 0
        self._cookies = CookieMemory()

    def find(self, target: HostId | Endpoint) -> Attempt | None:
        return self._attempts.get(target)

    @staticmethod
    def addresses(peer: Peer) -> tuple[Address, ...]:
        """Where its present key came from first, which of a host behind a NAT no record says; then the endpoints of its record."""
        known = () if peer.endpoint is None else (peer.endpoint,)
        return bounded(known + peer.endpoints)

    def start(self, peer: Peer, now: float) -> None:
        """Towards a peer."""
        attempt = Attempt(peer=peer.id, static=peer.static, endpoints=self.addresses(peer), started_at=now)
        self._attempts[peer.id] = attempt
        self.retry(attempt, now)

    def bootstrap(self, endpoint: Endpoint, now: float) -> None:
        if self._bootstraps >= MAX_BOOTSTRAPS:
            self._report(HandshakeFailed(peer=None, endpoint=endpoint, reason=FailReason.TABLE_FULL))
            return
        self._bootstraps += 1
        attempt = self._attempts[endpoint] = Attempt(peer=None, static=None, endpoints=(endpoint,), started_at=now)
        self.retry(attempt, now)

    def retry(self, attempt: Attempt, now: float) -> None:
        """Send the next try, or the type 7 again, or give up."""
        if now >= attempt.started_at + self._timing.give_up_s:
            self._fail(attempt, FailReason.NO_ANSWER)
            return
        if not attempt.endpoints:
            self._fail(attempt, FailReason.NO_ENDPOINT)
            return
        if attempt.finish is not None and now >= attempt.finish_since + self._timing.half_open_s:
            self._confirming.pop(attempt.finish_index, None)
            attempt.finish = None  # the responder has forgotten us by now: from the beginning
        address = attempt.address if attempt.again and attempt.address is not None else attempt.turn()
        attempt.address, attempt.again = address, False
        try:
            message = attempt.finish if attempt.finish is not None else self._first_message(attempt, address, now)
        except Rejected as rejected:
            full = rejected.reason is DropReason.TABLE_FULL
            self._fail(attempt, FailReason.TABLE_FULL if full else FailReason.BAD_KEY)
            return
        self._send(message, address)
        self._timers.set((Timer.RETRY, attempt.target), now + self._wait(attempt))

    def go_round(self, attempt: Attempt, now: float) -> None:
        """A way through others has opened: the next try goes there, now, and those after it come as fast as the first ones."""
        attempt.tries, attempt.again = 0 if isinstance(attempt.endpoints[0], Relayed) else 1, False
        self.retry(attempt, now)

    def receive(self, attempt: Attempt, message: Message, now: float) -> tuple[Established, bool]:
        """An answer (type 2 or 6): the keys, and whether the other side is known to hold them. Raises Rejected."""
        machine = attempt.machine
        if machine is None:
            raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)
        finish = machine.receive(message)
        established = machine.established
        if established is None:
            raise LocalProtocolError("an answer ends a handshake")
        if finish is None:
            self.end(attempt)
            return established, True
        self._release(attempt)
        attempt.finish, attempt.finish_since, attempt.finish_index = finish, now, established.local_index
        self._confirming[established.local_index] = attempt
        return established, False

    def take_cookie(self, attempt: Attempt, datagram: bytes, now: float) -> None:
        """A type 3 for the index of the last try. Raises Rejected."""
        if not attempt.mac1 or attempt.address is None:
            raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)
        key = cookie_static(attempt.static) if attempt.static is not None else self._context.mesh.cookie_bootstrap
        kind, value = open_cookie(key, datagram, attempt.mac1)
        if kind is CookieKind.ADDRESS:
            self._cookies.put(attempt.address, value, now)
        else:
            challenge = decode_liveness(value[:LIVENESS_SIZE])
            if attempt.static is None or challenge.boot < FIRST_CHALLENGE:
                raise Rejected(DropReason.BAD_HANDSHAKE)
            attempt.challenge = challenge
        attempt.mac1 = b""
        attempt.again = True
        self._timers.set((Timer.RETRY, attempt.target), now + self._timing.retries[0])

    def confirmed(self, index: int) -> None:
        """A first datagram came in under this key: the bootstrap that made it is done."""
        attempt = self._confirming.get(index)
        if attempt is not None:
            self.end(attempt)

    def end(self, attempt: Attempt) -> None:
        self._release(attempt)
        self._confirming.pop(attempt.finish_index, None)
        self._timers.cancel((Timer.RETRY, attempt.target))
        if self._attempts.pop(attempt.target, None) is not None and attempt.peer is None:
            self._bootstraps -= 1

    def _first_message(self, attempt: Attempt, address: Address, now: float) -> bytes:
        self._release(attempt)
        index = self._table.free_index()
        liveness = None
        if attempt.static is not None:
            liveness, attempt.challenge = attempt.challenge or self._next_liveness(), None
        machine = Initiator(self._context, index=index, remote_static=attempt.static, liveness=liveness)
        message = machine.start()
        covered = message[: -len(NO_MAC2)]
        cookie = self._cookies.get(address, now)
        if cookie is not None:
            message = covered + mac2(cookie, covered)
        attempt.mac1 = covered[-MAC1_SIZE:]
        attempt.machine = machine
        self._table.indices[index] = attempt
        if attempt.static is None and machine.ephemeral_public is not None:
            self._remember(machine.ephemeral_public)
        return message

    def _wait(self, attempt: Attempt) -> float:
        """The same for all ways of a round. Jitter, so that two hosts whose tries cross do not cross for ever."""
        timing = self._timing
        base = timing.retries[min(attempt.round, len(timing.retries) - 1)]
        attempt.tries += 1
        return base * (1 + self._rng.uniform(0, timing.retry_jitter))

    def _release(self, attempt: Attempt) -> None:
        """The index of the last try is free again, unless its keys have it now."""
        machine, attempt.machine = attempt.machine, None
        if machine is not None and self._table.indices.get(machine.index) is attempt:
            del self._table.indices[machine.index]

    def _fail(self, attempt: Attempt, reason: FailReason) -> None:
        self.end(attempt)
        endpoint = attempt.endpoints[0] if attempt.endpoints else None
        self._report(HandshakeFailed(peer=attempt.peer, endpoint=endpoint, reason=reason))
        peer = None if attempt.peer is None else self._table.peers.get(attempt.peer)
        if peer is not None:
            self._table.tidy(peer)

    def _report(self, failure: HandshakeFailed) -> None:
        self._table.events.append(failure)
