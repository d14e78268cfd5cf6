"""What still has to go out on one link: for each origin the start of a range, never a queue of messages.

However many changes happen while a link is slow, an origin takes one entry, and what is sent in the end is its newest state.
The upper end of a range is always "the newest record there is". `known` remembers how far the neighbour has shown or been sent
each log, so that nothing is sent back to where it came from, nor twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshd.gossip.messages import MAX_WANT_ROWS, DigestMessage, Message, Records, Root, Want, WantRow
from meshd.gossip.records import Batch, record_size
from meshd.gossip.store import Store
from meshd.ids import HostId, ShortId

__all__ = ["BATCH_BYTES", "RECORDS_BYTES", "Outbox"]

RECORDS_BYTES = 50_000  # of records in one message; what msgpack and the batch headers add stays below MAX_MESSAGE
BATCH_BYTES = 160  # public key, floor record, numbers
_MAX_BATCHES = 250


@dataclass(slots=True)
class _Range:
    epoch: int
    start: int
    snapshot_floor: int = 0  # the floor of the snapshot that is under way, 0 if none is
    asked: bool = False


class Outbox:
    """`answered`: bytes of records that were sent because the neighbour asked, until somebody takes them from it."""

    __slots__ = ("_digests", "_known", "_ranges", "_root", "_wants", "answered")

    def __init__(self) -> None:
        self.answered = 0
        self._ranges: dict[HostId, _Range] = {}
        self._known: dict[HostId, tuple[int, int]] = {}
        self._wants: dict[ShortId, WantRow] = {}
        self._digests: list[DigestMessage] = []
        self._root: Root | None = None

    def __bool__(self) -> bool:
        return bool(self._ranges or self._wants or self._digests or self._root)

    def send_from(self, origin: HostId, epoch: int, start: int) -> None:
        """The neighbour is to get all beyond `start`."""
        held = self._ranges.get(origin)
        if held is None or held.epoch != epoch:
            self._ranges[origin] = _Range(epoch, start)
        elif start < held.start and not held.snapshot_floor:
            held.start = start

    def asked(self, origin: HostId, epoch: int, start: int) -> None:
        """The neighbour says how far it is: that replaces what was thought of it."""
        held = self._ranges.get(origin)
        if held is not None and held.epoch == epoch and held.snapshot_floor and start < held.snapshot_floor:
            return  # the snapshot that mends it is on its way
        self._known[origin] = (epoch, start)
        self._ranges[origin] = _Range(epoch, start, asked=True)

    def has(self, origin: HostId, epoch: int, known: int) -> None:
        """The neighbour has shown that it holds this much."""
        self._known[origin] = max(self._known.get(origin, (0, 0)), (epoch, known))

    def ask(self, want: WantRow) -> None:
        self._wants[want.short] = want

    def say_root(self, root_hash: bytes) -> None:
        self._root = Root(root_hash)

    def say_digests(self, digests: list[DigestMessage]) -> None:
        self._digests = digests

    def next_message(self, store: Store) -> Message | None:
        """The most urgent message: questions first, since they are small and their answers long."""
        if self._wants:
            rows = [self._wants.pop(short) for short in list(self._wants)[:MAX_WANT_ROWS]]
            return Want(tuple(rows))
        if self._root is not None:
            root, self._root = self._root, None
            return root
        if self._digests:
            return self._digests.pop(0)
        return self._next_records(store)

    def _next_records(self, store: Store) -> Records | None:
        batches: list[Batch] = []
        room = RECORDS_BYTES
        while self._ranges and room > 0 and len(batches) < _MAX_BATCHES:
            origin = next(iter(self._ranges))
            batch = self._next_batch(store, origin, self._ranges[origin], room)
            if batch is None:
                del self._ranges[origin]
                continue
            size = BATCH_BYTES + sum(record_size(record) for record in batch.records)
            if batches and size > room:
                break
            batches.append(batch)
            room -= size
            self.answered += size if self._ranges[origin].asked else 0
            self._sent(origin, self._ranges[origin], batch)
        return Records(tuple(batches)) if batches else None

    def _next_batch(self, store: Store, origin: HostId, wanted: _Range, room: int) -> Batch | None:
        log = store.logs.get(origin)
        if log is None or not log.whole:
            return None  # once it is whole, merging says from where to push
        if wanted.epoch != log.epoch:
            wanted.epoch, wanted.start, wanted.snapshot_floor = log.epoch, 0, 0
        epoch, known = self._known.get(origin, (0, 0))
        if epoch > log.epoch:
            return None
        if epoch == log.epoch and not wanted.snapshot_floor:
            wanted.start = max(wanted.start, known)
        if wanted.start >= log.highest:
            return None
        if wanted.start < log.floor and wanted.snapshot_floor != log.floor:
            # the origin has forgotten tombstones that the neighbour may not have seen: only the whole log tells it
            wanted.start, wanted.snapshot_floor = 0, log.floor
        return store.delta(origin, wanted.start, snapshot=bool(wanted.snapshot_floor), max_bytes=room - BATCH_BYTES)

    def _sent(self, origin: HostId, wanted: _Range, batch: Batch) -> None:
        wanted.start = batch.records[-1].seq
        if batch.complete:
            del self._ranges[origin]
        if not wanted.snapshot_floor or batch.complete:
            self._known[origin] = max(self._known.get(origin, (0, 0)), (batch.epoch, wanted.start))
