"""Spreading: one store, the neighbours' outboxes, and the timers between them.

Verbs: `link_up`, `link_down`, `receive(link, message)`, `put`/`delete` for the own log; then `poll(now)` for messages to send,
`next_event` for what changed, `next_deadline`/`handle_timer` for time. At most SLICE signatures are checked in one call (each
costs 0.1 ms and the loop belongs to the packets); what is left waits in a bounded inbox, with a deadline of "now", until the
next `handle_timer`.

A message whose reading fails costs only itself. What is dropped here (inbox full, gap, bad signature) is asked for again at the
next comparison, so nothing is lost for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from meshd.budget import BucketTable, TokenBucket
from meshd.crypto.identity import Signer, Verifier
from meshd.drops import DropCounters, DropReason
from meshd.gossip.antientropy import compare, digest_messages
from meshd.gossip.inbox import Inbox
from meshd.gossip.local import FLOOR_AGE, FLOOR_TOMBSTONES, Writer
from meshd.gossip.messages import DigestMessage, Hello, Message, Records, Root, Want, WantRow
from meshd.gossip.outbox import BATCH_BYTES, RECORDS_BYTES, Outbox
from meshd.gossip.records import record_size
from meshd.gossip.store import Store, StoreEvent
from meshd.ids import HostId, LinkId, ShortId, short_id

__all__ = [
    "ANSWER_BURST",
    "ANSWER_RATE",
    "COMPARE_INTERVAL",
    "DIGEST_BURST",
    "DIGEST_RATE",
    "LINK_BACKLOG",
    "MAX_ANSWERED",
    "ROOT_BURST",
    "ROOT_RATE",
    "SLICE",
    "Gossip",
]

COMPARE_INTERVAL = 10.0  # ± 20 %
LINK_BACKLOG = 64 * 1024  # bytes that may wait in a link's socket; beyond, its outbox merges
SLICE = 4  # signatures checked in one call: with what follows from a record about as long as a pump, which has the next turn
WANT_PAUSE = (
    1.0  # the same log is asked for once in this time, of whomever: with many neighbours a gap shows many times
)
_MAX_WANTED = 4096
# Of one link: both look at all logs. An honest neighbour asks every 10 s at most, and a digest of 4096 logs has 16 parts.
ROOT_RATE = 1.0
ROOT_BURST = 8.0
DIGEST_RATE = 4.0
DIGEST_BURST = 64.0
# Bytes of records that a host has asked for, by WANT or DIGEST: 10 ms of work for 100 KB, and the question takes 30 bytes. Who
# has none of what is here gets all of it at once; then the rate must pay that off before the next question is answered.
ANSWER_RATE = 256.0 * 1024
ANSWER_BURST = 16.0 * 1024 * 1024
MAX_ANSWERED = 1024  # hosts


@dataclass(slots=True)
class _Neighbour:
    host: HostId
    hello: Hello | None
    outbox: Outbox = field(default_factory=Outbox)
    roots: TokenBucket = field(default_factory=lambda: TokenBucket(ROOT_RATE, ROOT_BURST))
    digests: TokenBucket = field(default_factory=lambda: TokenBucket(DIGEST_RATE, DIGEST_BURST))


class Gossip:
    def __init__(
        self,
        *,
        public: bytes,
        mesh_id: bytes,
        epoch: int,
        signer: Signer,
        verifier: Verifier,
        rng: Random,
        drops: DropCounters,
        now: float,
        slice_size: int = SLICE,
        floor_age: float = FLOOR_AGE,
        floor_tombstones: int = FLOOR_TOMBSTONES,
    ) -> None:
        self.store = Store(public=public, mesh_id=mesh_id, epoch=epoch, verifier=verifier, drops=drops)
        self._writer = Writer(self.store, signer, floor_age=floor_age, floor_tombstones=floor_tombstones)
        self._rng = rng
        self._drops = drops
        self._slice = slice_size
        self._neighbours: dict[LinkId, _Neighbour] = {}
        self._inbox = Inbox()
        self._wanted: dict[ShortId, float] = {}
        self._answers: BucketTable[HostId] = BucketTable(ANSWER_RATE, ANSWER_BURST, MAX_ANSWERED)
        self._compare_at = now + self._interval()

    def _interval(self) -> float:
        return COMPARE_INTERVAL * self._rng.uniform(0.8, 1.2)

    # the own log

    def put(self, key: bytes, value: bytes, now: float) -> None:
        """Say something about this host. Raises UserError when it says too much already."""
        self._push_own(self._writer.put(key, value, now))

    def delete(self, key: bytes, now: float) -> None:
        self._push_own(self._writer.delete(key, now))

    def get(self, key: bytes) -> bytes | None:
        """What this host says, writes that wait for their window included."""
        return self._writer.get(key)

    def raise_epoch(self, epoch: int, now: float) -> None:
        """The answer to OwnLogAhead: `epoch` must be above the one reported, and persisted before this call."""
        self._push_own(self._writer.raise_epoch(epoch, now))

    def _push_own(self, start: int | None) -> None:
        if start is not None:
            self._push(self.store.me, start, None)

    # links

    def link_up(self, link: LinkId, host: HostId, now: float, *, observed: str = "") -> None:
        """A link is ready; `observed` is the other end's IP address as seen here."""
        log = self.store.own
        own = self.store.delta(log.origin, 0, snapshot=log.floor > 0, max_bytes=RECORDS_BYTES)
        neighbour = _Neighbour(host, Hello(observed, () if own is None else (own,)))
        if own is not None and own.complete:
            neighbour.outbox.has(log.origin, own.epoch, own.records[-1].seq)
        elif own is not None:
            neighbour.outbox.send_from(log.origin, own.epoch, 0)
        if self.store.me < host:
            # one comparison settles both directions; if both began one, all that differs would be sent twice
            neighbour.outbox.say_root(self.store.root_hash())
        self._neighbours[link] = neighbour

    def link_down(self, link: LinkId, now: float) -> None:
        self._neighbours.pop(link, None)

    @property
    def links(self) -> dict[LinkId, HostId]:
        return {link: neighbour.host for link, neighbour in self._neighbours.items()}

    # what comes in

    def receive(self, link: LinkId, message: Message, now: float) -> None:
        """Take a message of the gossip family; others (PING, …) are the link's own and are ignored here."""
        neighbour = self._neighbours.get(link)
        if neighbour is None:
            return
        match message:
            case Hello() | Records():
                for batch in message.batches:
                    if not self._inbox.put(neighbour.host, link, batch):
                        self._drops.add(DropReason.QUEUE_FULL)
                self._work(now)
            case Root() if not neighbour.roots.take(now):
                self._drops.add(DropReason.RATE_LIMITED)
            case DigestMessage() if not neighbour.digests.take(now):
                self._drops.add(DropReason.RATE_LIMITED)
            case Root():
                if message.root_hash != self.store.root_hash():
                    neighbour.outbox.say_digests(digest_messages(self.store))
            case DigestMessage():
                self._compare(neighbour, message, now)
            case Want():
                if self._may_answer(neighbour, now):
                    for row in message.rows:
                        self._answer(neighbour, row)

    @property
    def busy(self) -> bool:
        """True while received batches wait for their turn."""
        return bool(self._inbox)

    def _work(self, now: float) -> None:
        budget = self._slice
        while self._inbox and budget > 0:
            host, link, batch = self._inbox.take()
            merged = self.store.merge(batch, budget=budget)
            budget -= merged.checked
            origin = merged.origin
            neighbour = self._neighbours.get(link)
            if merged.rest is not None:
                self._inbox.put_back(host, link, merged.rest)
            elif neighbour is not None and batch.records and origin in self.store.logs:
                neighbour.outbox.has(origin, batch.epoch, batch.records[-1].seq)
            if merged.push_from is not None:
                self._push(origin, merged.push_from, link)
            if merged.want is not None and neighbour is not None:
                self._ask(neighbour, WantRow(short_id(origin), *merged.want), now)

    def _compare(self, neighbour: _Neighbour, message: DigestMessage, now: float) -> None:
        comparison = compare(self.store, message.low, message.high, message.rows)
        if comparison.send and self._may_answer(neighbour, now):
            for origin, (epoch, start) in comparison.send.items():
                neighbour.outbox.asked(origin, epoch, start)
        for short, epoch, start in comparison.want:
            self._ask(neighbour, WantRow(short, epoch, start), now)

    def _may_answer(self, neighbour: _Neighbour, now: float) -> bool:
        """Of a host, not of a link: a new link would be a new budget."""
        if self._answers.ready(neighbour.host, now):
            return True
        self._drops.add(DropReason.RATE_LIMITED)
        return False

    def _answer(self, neighbour: _Neighbour, want: WantRow) -> None:
        origin = self.store.find(want.short)
        if origin is None or origin not in self.store.logs:
            return
        epoch = self.store.logs[origin].epoch
        if want.epoch <= epoch:
            neighbour.outbox.asked(origin, epoch, want.start if want.epoch == epoch else 0)

    def _ask(self, neighbour: _Neighbour, want: WantRow, now: float) -> None:
        if self._wanted.get(want.short, float("-inf")) > now:
            return
        if len(self._wanted) >= _MAX_WANTED:
            self._wanted = {short: until for short, until in self._wanted.items() if until > now}
            if len(self._wanted) >= _MAX_WANTED:
                return
        self._wanted[want.short] = now + WANT_PAUSE
        neighbour.outbox.ask(want)

    # what goes out

    def _neighbours_to_push(self, source: LinkId | None) -> list[_Neighbour]:
        """Plain flooding: all but the one it came from. The larger mesh's push tree goes here."""
        return [neighbour for link, neighbour in self._neighbours.items() if link != source]

    def _push(self, origin: HostId, start: int, source: LinkId | None) -> None:
        epoch = self.store.logs[origin].epoch
        for neighbour in self._neighbours_to_push(source):
            neighbour.outbox.send_from(origin, epoch, start)

    def poll(self, now: float, buffered: Mapping[LinkId, int] | None = None) -> list[tuple[LinkId, Message]]:
        """Messages to send now. `buffered`: bytes that wait in each link's socket; a link over LINK_BACKLOG gets nothing."""
        out: list[tuple[LinkId, Message]] = []
        for link, neighbour in self._neighbours.items():
            waiting = buffered.get(link, 0) if buffered else 0
            while waiting < LINK_BACKLOG:
                message = self._next_message(neighbour)
                if message is None:
                    break
                out.append((link, message))
                waiting += _weight(message)
            if neighbour.outbox.answered:
                self._answers.charge(neighbour.host, now, neighbour.outbox.answered)
                neighbour.outbox.answered = 0
        return out

    def _next_message(self, neighbour: _Neighbour) -> Message | None:
        if neighbour.hello is not None:
            hello, neighbour.hello = neighbour.hello, None
            return hello
        return neighbour.outbox.next_message(self.store) if neighbour.outbox else None

    @property
    def waiting(self) -> bool:
        """True while some link has more to say than `poll` was allowed to hand out."""
        return any(neighbour.hello is not None or neighbour.outbox for neighbour in self._neighbours.values())

    # time

    def next_deadline(self, now: float) -> float:
        if self._inbox:
            return now
        writer = self._writer.next_deadline()
        return self._compare_at if writer is None else min(self._compare_at, writer)

    def handle_timer(self, now: float) -> None:
        self._work(now)
        self._push_own(self._writer.handle_timer(now))
        if now >= self._compare_at:
            self._compare_at = now + self._interval()
            if self._neighbours:
                chosen = self._rng.choice(list(self._neighbours.values()))
                chosen.outbox.say_root(self.store.root_hash())

    def next_event(self) -> StoreEvent | None:
        return self.store.next_event()


def _weight(message: Message) -> int:
    """About what the message takes in the socket's buffer."""
    if isinstance(message, (Hello, Records)):
        return sum(BATCH_BYTES + sum(map(record_size, batch.records)) for batch in message.batches)
    return 40 * (1 + len(message.rows)) if isinstance(message, DigestMessage) else 40
