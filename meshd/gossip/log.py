"""One origin's log as one host holds it: records by key, how far it reaches, and a hash of it all.

`highest` says how far the log is known without gaps, `floor` below which sequence the origin has forgotten its tombstones, and
`swept` up to which floor this copy has been compared with a snapshot. A copy whose floor is above what it has swept may still
hold a key that was deleted long ago; until a snapshot has been taken whole, it owns up to knowing nothing (`known` = 0), so
that one is sent.

The set hash is the sum (mod 2^64) of the records' hashes: it changes in constant time and does not depend on order. Equal sets
have equal sums; what a *malicious origin* could make collide are only its own records.
"""

from __future__ import annotations

from meshd.gossip.codec import MAX_U64
from meshd.gossip.records import Record, record_hash, record_size
from meshd.ids import HostId

__all__ = ["Log"]


class Log:
    __slots__ = (
        "_ascending",
        "before_snapshot",
        "covered",
        "doubtful",
        "epoch",
        "floor",
        "floor_proof",
        "highest",
        "origin",
        "public",
        "records",
        "set_hash",
        "size",
        "snapshot_floor",
        "swept",
    )

    def __init__(self, origin: HostId, public: bytes, epoch: int) -> None:
        self.origin = origin
        self.public = public
        self.restart(epoch)

    def restart(self, epoch: int) -> None:
        """Empty, under another epoch."""
        self.epoch = epoch
        self.highest = 0
        self.floor = 0
        self.floor_proof: Record | None = (
            None  # the origin's record that says so; in a snapshot it comes before its turn
        )
        self.swept = 0
        self.records: dict[bytes, Record] = {}  # in ascending order of sequence, unless _ascending is False
        self.set_hash = 0
        self.size = 0
        self._ascending = True
        # the snapshot that is being taken
        self.snapshot_floor = 0
        self.before_snapshot = 0  # `highest` when it began
        self.covered = 0  # its chunks have come in up to this sequence
        self.doubtful: dict[bytes, int] = {}  # keys that it did not list, with the sequence they had here

    @property
    def known(self) -> int:
        """From where on this copy must be sent deltas."""
        return self.highest if self.whole else 0

    def put(self, record: Record) -> Record | None:
        """Take a record that was found newer; returns what it replaces."""
        old = self.remove(record.key)
        if record.seq < self.highest:
            self._ascending = False
        self.highest = max(self.highest, record.seq)
        if record.value is None and record.seq <= self.floor:
            return old  # a tombstone that the origin has already forgotten
        self.records[record.key] = record
        self.set_hash = (self.set_hash + record_hash(record)) & MAX_U64
        self.size += record_size(record)
        return old

    def remove(self, key: bytes) -> Record | None:
        old = self.records.pop(key, None)
        if old is not None:
            self.set_hash = (self.set_hash - record_hash(old)) & MAX_U64
            self.size -= record_size(old)
        return old

    @property
    def whole(self) -> bool:
        """False while a snapshot is being taken: such a copy is not passed on, for it may hold what was deleted."""
        return self.swept >= self.floor

    def raise_floor(self, floor: int, proof: Record) -> None:
        """Forget the tombstones up to `floor`."""
        if floor <= self.floor:
            return
        self.floor = floor
        self.floor_proof = proof
        for record in [r for r in self.records.values() if r.value is None and r.seq <= floor]:
            self.remove(record.key)

    def since(self, start: int) -> list[Record]:
        """The records with sequence > start, ascending. Costs their number, not the log's."""
        if not self._ascending:
            self.records = {r.key: r for r in sorted(self.records.values(), key=lambda r: r.seq)}
            self._ascending = True
        newer: list[Record] = []
        for record in reversed(self.records.values()):
            if record.seq <= start:
                break
            newer.append(record)
        newer.reverse()
        return newer
