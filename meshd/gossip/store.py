"""All logs of the mesh in one place: merging what comes in, handing out deltas, and telling the node what changed.

Merge, in the order of the guard ladder: about me → unknown origin (room for one more?) → stale epoch → gap (ask) → then record
by record: stale or duplicate → quota → signature → change → notify. Signatures are checked last, since they cost most (0.1 ms):
only a record that would change something is worth one. The first record that fails ends its batch; what was applied before it
stands and is contiguous.

A record with my own origin that I did not write means that an older life of this host was further than this one remembers (a
restored backup, a clone). Nothing is merged; `OwnLogAhead` tells the node to raise its boot epoch above.

Two different records of one origin under one sequence cannot come from an honest origin. The one with the larger hash stays, so
that all hosts still agree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2s

from meshd.crypto.identity import Verifier, host_id_of
from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError
from meshd.gossip.log import Log
from meshd.gossip.records import (
    FLOOR_KEY,
    MAX_BATCH_RECORDS,
    Batch,
    Record,
    decode_floor,
    record_hash,
    record_size,
    verify_record,
)
from meshd.ids import HostId, ShortId, short_id

__all__ = [
    "MAX_KEYS_PER_ORIGIN",
    "MAX_ORIGINS",
    "MAX_ORIGIN_BYTES",
    "MAX_TOTAL_BYTES",
    "Changed",
    "Digest",
    "Merged",
    "NoRoom",
    "OwnLogAhead",
    "Store",
    "StoreEvent",
]

MAX_ORIGINS = 4096
MAX_KEYS_PER_ORIGIN = 65536
MAX_ORIGIN_BYTES = 1 << 20
MAX_TOTAL_BYTES = 64 << 20
_NO_LIMIT = 1 << 30


@dataclass(slots=True, frozen=True)
class Changed:
    """The value of a key changed; None stands for "is not there"."""

    origin: HostId
    key: bytes
    old: bytes | None
    new: bytes | None


@dataclass(slots=True, frozen=True)
class OwnLogAhead:
    """The mesh holds records of this host, under this epoch, that this process never wrote."""

    epoch: int


@dataclass(slots=True, frozen=True)
class NoRoom:
    """A further host's log was refused: MAX_ORIGINS are held."""


StoreEvent = Changed | OwnLogAhead | NoRoom


@dataclass(slots=True, frozen=True)
class Digest:
    """What one host holds of one origin, in 8 + 8 + 8 + 8 bytes."""

    short: ShortId
    epoch: int
    known: int
    set_hash: int


@dataclass(slots=True, frozen=True)
class Merged:
    """What a merge came to. `push_from`: all beyond this sequence is news to others. `want`: (epoch, start) to ask the sender for.

    `rest`: what is left of the batch after the budget of signature checks was used up.
    """

    origin: HostId
    push_from: int | None = None
    want: tuple[int, int] | None = None
    rest: Batch | None = None
    checked: int = 0  # signatures


class Store:
    """`own` is this host's log; it is written by `local.Writer` only."""

    def __init__(self, *, public: bytes, mesh_id: bytes, epoch: int, verifier: Verifier, drops: DropCounters) -> None:
        self.me = host_id_of(public)
        self.mesh_id = mesh_id
        self.drops = drops
        self.own = Log(self.me, public, epoch)
        self.logs: dict[HostId, Log] = {self.me: self.own}
        self.total_size = 0  # of the others' logs
        self._verifier = verifier
        self._by_short: dict[ShortId, HostId] = {short_id(self.me): self.me}
        self._changed: dict[tuple[HostId, bytes], tuple[bytes | None, bytes | None]] = {}  # bounded by the keys held
        self._ahead: deque[int] = deque(maxlen=1)
        self._refused = False  # an origin, for want of room
        self._root: bytes | None = None  # as long as nothing changes
        self._digests: list[Digest] | None = None

    # what is here

    def value(self, origin: HostId, key: bytes) -> bytes | None:
        log = self.logs.get(origin)
        record = log.records.get(key) if log is not None else None
        return None if record is None else record.value

    def find(self, short: ShortId) -> HostId | None:
        return self._by_short.get(short)

    def records(self) -> int:
        return sum(len(log.records) for log in self.logs.values())

    def root_hash(self) -> bytes:
        """8 bytes that are equal wherever all logs are equal."""
        if self._root is None:
            digest = blake2s(digest_size=8)
            for origin, log in sorted(self.logs.items()):
                if log.highest:
                    digest.update(origin)
                    digest.update(b"".join(n.to_bytes(8, "little") for n in (log.epoch, log.known, log.set_hash)))
            self._root = digest.digest()
        return self._root

    def digests(self) -> Sequence[Digest]:
        """Of all logs, in order of short ids."""
        if self._digests is None:
            self._digests = [
                Digest(short, log.epoch, log.known, log.set_hash)
                for short, log in sorted((short_id(origin), log) for origin, log in self.logs.items())
                if log.highest
            ]
        return self._digests

    def delta(self, origin: HostId, start: int, *, snapshot: bool, max_bytes: int) -> Batch | None:
        """The oldest live records beyond `start`, as many as fit, None if there are none. `snapshot`: see `gossip.outbox`."""
        log = self.logs[origin]
        newer = log.since(start)
        size = count = 0
        for record in newer:
            size += record_size(record)
            if count == MAX_BATCH_RECORDS or (count and size > max_bytes):
                break
            count += 1
        if not count:
            return None
        floor = log.floor_proof if snapshot else None
        return Batch(log.public, log.epoch, start, count == len(newer), floor, tuple(newer[:count]))

    # what comes in

    def merge(self, batch: Batch, *, budget: int = _NO_LIMIT) -> Merged:
        """Merge one batch, checking at most `budget` signatures. Never raises for what is in it."""
        origin = batch.origin
        if origin == self.me:
            return Merged(origin, checked=self._about_me(batch))
        log = self.logs.get(origin)
        if log is None or batch.epoch > log.epoch:
            if log is None and not self._admits(origin):
                self.drops.add(DropReason.RECORD_QUOTA)
                self._refused = self._refused or len(self.logs) >= MAX_ORIGINS
                return Merged(origin)
            if batch.start:
                return Merged(origin, want=(batch.epoch, 0))
            log = Log(origin, batch.public, batch.epoch)
        elif batch.epoch < log.epoch:
            self.drops.add(DropReason.STALE_RECORD, max(1, len(batch.records)))
            return Merged(origin)
        elif batch.start > log.highest:
            return Merged(origin, want=(log.epoch, log.known))
        return self._apply(log, batch, budget)

    def _admits(self, origin: HostId) -> bool:
        # two ids with one short id would be one host on the wire: the first one known stays
        return len(self.logs) < MAX_ORIGINS and short_id(origin) not in self._by_short

    def _apply(self, log: Log, batch: Batch, budget: int) -> Merged:
        floor, checked = self._check_floor(log, batch)
        if floor is None:
            return Merged(log.origin, checked=checked)
        before, was_whole = log.highest, log.whole
        applied = 0
        limit = max(
            budget, 2 * checked
        )  # a floor that takes all of it leaves one for a record, or it would never come to that
        out_of_budget = False
        for record in batch.records:
            if self._is_news(log, record):
                if checked >= limit:
                    out_of_budget = True
                    break
                checked += 1
                if not self._take(log, record, batch):
                    break
            applied += 1
        rest = None
        if out_of_budget:
            start = batch.records[applied - 1].seq if applied else batch.start
            rest = replace(batch, start=start, records=batch.records[applied:])
        if floor and log.highest:
            whole = applied == len(batch.records)
            done = replace(batch, records=batch.records[:applied], complete=batch.complete and whole)
            self._snapshot(log, done, floor, before)
        push_from = before if log.highest > before else None
        if log.whole and not was_whole:
            push_from = log.before_snapshot
        return Merged(log.origin, push_from=push_from, rest=rest, checked=checked)

    def _is_news(self, log: Log, record: Record) -> bool:
        """What is none is no drop either: with several neighbours most records come more than once."""
        held = log.records.get(record.key)
        if held is None:
            # absent, known that far and above the floor: truly missing here (its tombstone would still be held)
            return record.seq > min(log.floor, log.highest)
        if held.seq == record.seq:
            return record_hash(record) > record_hash(held)
        return record.seq > held.seq

    def _take(self, log: Log, record: Record, batch: Batch) -> bool:
        """Quota, signature, change, notify. False ends the batch."""
        held = log.records.get(record.key)
        growth = record_size(record) - (record_size(held) if held is not None else 0)
        if growth > 0 and (
            log.size + growth > MAX_ORIGIN_BYTES
            or self.total_size + growth > MAX_TOTAL_BYTES
            or (held is None and len(log.records) >= MAX_KEYS_PER_ORIGIN)
        ):
            self.drops.add(DropReason.RECORD_QUOTA)
            return False
        if not verify_record(self.mesh_id, record, log.public, self._verifier):
            self.drops.add(DropReason.BAD_SIGNATURE)
            return False
        floor = 0
        if record.key == FLOOR_KEY:
            try:
                floor = decode_floor(record.value)
            except DecodeError:
                self.drops.add(DropReason.BAD_RECORD)
                return False
            if floor >= record.seq:
                self.drops.add(DropReason.BAD_RECORD)
                return False
        self._install(log)
        size = log.size
        old = log.put(record)
        self._raise_floor(log, floor, record, batch)
        self.total_size += log.size - size
        self._root = self._digests = None
        self._note(log.origin, record.key, None if old is None else old.value, record.value)
        return True

    def _raise_floor(self, log: Log, floor: int, proof: Record, batch: Batch) -> None:
        if floor > log.floor:
            if log.whole and batch.start >= floor:
                log.swept = floor  # known beyond the new floor before it came: every tombstone below has been seen
            log.raise_floor(floor, proof)

    def _install(self, log: Log) -> None:
        """Put a log in place at its first verified record; a newer epoch replaces the whole older log."""
        held = self.logs.get(log.origin)
        if held is log:
            return
        if held is not None:
            self.total_size -= held.size
            for record in held.records.values():
                self._note(log.origin, record.key, record.value, None)
        self.logs[log.origin] = log
        self._by_short[short_id(log.origin)] = log.origin

    # floors and snapshots

    def _check_floor(self, log: Log, batch: Batch) -> tuple[int | None, int]:
        """The floor that rides along, 0 if none does, None if it is not the origin's; and how many signatures were checked."""
        if batch.floor is None:
            return 0, 0
        try:
            floor = decode_floor(batch.floor.value)
        except DecodeError:
            self.drops.add(DropReason.BAD_RECORD)
            return None, 0
        if batch.floor.key != FLOOR_KEY or floor >= batch.floor.seq:
            self.drops.add(DropReason.BAD_RECORD)
            return None, 0
        if log.floor_proof == batch.floor:
            return floor, 0
        if not verify_record(self.mesh_id, batch.floor, log.public, self._verifier):
            self.drops.add(DropReason.BAD_SIGNATURE)
            return None, 1
        return floor, 1

    def _snapshot(self, log: Log, batch: Batch, floor: int, before: int) -> None:
        """Note which keys a snapshot's chunk leaves out; once it is whole, they are gone.

        Not at once: a key may be left out because its newer record stands in a later chunk.
        """
        if batch.floor is None:
            return
        if batch.start == 0:
            log.doubtful = {}
            if log.whole:
                log.before_snapshot = before
            log.covered = 0
            log.snapshot_floor = floor
        if batch.start > log.covered or floor != log.snapshot_floor or floor < log.floor:
            return  # a chunk is missing or of another snapshot: the next comparison asks for all of it again
        last = batch.records[-1].seq if batch.records else batch.start
        listed = {record.key for record in batch.records}
        for record in log.records.values():
            if batch.start < record.seq <= min(last, floor) and record.key not in listed:
                log.doubtful[record.key] = record.seq
        log.covered = max(log.covered, last)
        size = log.size
        self._root = self._digests = None
        log.raise_floor(floor, batch.floor)
        if batch.complete:
            for key, seq in log.doubtful.items():
                held = log.records.get(key)
                if held is not None and held.seq == seq:
                    log.remove(key)
                    self._note(log.origin, key, held.value, None)
            log.doubtful = {}
            log.swept = floor
        self.total_size += log.size - size

    # about me

    def _about_me(self, batch: Batch) -> int:
        """Returns how many signatures were checked."""
        for record in batch.records:
            if self._written_by_me(record):
                continue
            if verify_record(self.mesh_id, record, self.own.public, self._verifier):
                self._ahead.append(record.epoch)
            else:
                self.drops.add(DropReason.BAD_SIGNATURE)
            return 1
        return 0

    def _written_by_me(self, record: Record) -> bool:
        """False only for what this process cannot have written: a later epoch or sequence, or one that contradicts the log."""
        own = self.own
        if record.epoch != own.epoch:
            return record.epoch < own.epoch
        if record.seq > own.highest:
            return False
        held = own.records.get(record.key)
        if held is None:
            return record.seq <= own.floor
        return held.seq > record.seq or record_hash(held) == record_hash(record)

    # telling

    def own_changed(self, key: bytes, old: bytes | None, new: bytes | None) -> None:
        """The writer changed the own log."""
        self._root = self._digests = None
        self._note(self.me, key, old, new)

    def _note(self, origin: HostId, key: bytes, old: bytes | None, new: bytes | None) -> None:
        earlier = self._changed.pop((origin, key), None)
        if earlier is not None:
            old = earlier[0]
        if old != new:
            self._changed[origin, key] = (old, new)

    def next_event(self) -> StoreEvent | None:
        """One event; changes of one key that nobody has fetched yet are one."""
        if self._ahead:
            return OwnLogAhead(self._ahead.popleft())
        if self._refused:
            self._refused = False
            return NoRoom()
        if not self._changed:
            return None
        (origin, key) = next(iter(self._changed))
        old, new = self._changed.pop((origin, key))
        return Changed(origin, key, old, new)
