"""Writing the own log: the first change goes out at once, further ones collect for 50 ms.

A container that starts changes several things within milliseconds; ten of them starting together would make ten signatures and
ten floods each. So a write opens a window: until it closes, writes replace each other by key, then what is left is signed
together.

The floor: tombstones are kept for receivers that lag; after 10 min, or when there are more than 256 of them, the log's floor
rises over the old ones (over the older half when it was their number), and they are forgotten.
"""

from __future__ import annotations

from collections import deque

from meshd.crypto.identity import Signer
from meshd.errors import LocalProtocolError, UserError
from meshd.gossip.records import (
    FLOOR_KEY,
    MAX_KEY,
    MAX_VALUE,
    Record,
    encode_floor,
    sign_record,
)
from meshd.gossip.store import MAX_KEYS_PER_ORIGIN, MAX_ORIGIN_BYTES, Store
from meshd.gossip.values import HOST_KEY, LINKS_KEY

__all__ = ["COLLECT_TIME", "FLOOR_AGE", "FLOOR_TOMBSTONES", "Writer"]

COLLECT_TIME = 0.05
FLOOR_AGE = 600.0
FLOOR_TOMBSTONES = 256
_QUOTA_MARGIN = 64 * 1024  # below the quota, so that tombstones, the floor and the essential records always fit
_ESSENTIAL = (HOST_KEY, LINKS_KEY)  # two, of a few hundred bytes: without them this host is nowhere


class Writer:
    """Every write returns the sequence beyond which there is news to push, None while it waits in the window."""

    def __init__(
        self, store: Store, signer: Signer, *, floor_age: float = FLOOR_AGE, floor_tombstones: int = FLOOR_TOMBSTONES
    ) -> None:
        self._store = store
        self._signer = signer
        self._floor_age = floor_age
        self._floor_tombstones = floor_tombstones
        self._pending: dict[bytes, bytes | None] = {}
        self._window_ends = float("-inf")
        self._tombstones: deque[tuple[float, int]] = deque()  # (when, sequence); bounded by _raise_floor

    def put(self, key: bytes, value: bytes, now: float) -> int | None:
        if not 0 < len(key) <= MAX_KEY or key == FLOOR_KEY or len(value) > MAX_VALUE:
            raise LocalProtocolError(f"no record may have a key of {len(key)} and a value of {len(value)} bytes")
        held = self.get(key)
        growth = len(key) + len(value) if held is None else len(value) - len(held)
        # what does not grow must be said, however full the log is
        if key not in _ESSENTIAL and growth > 0 and self._room() < growth:
            raise UserError("this host announces too much already", hint="detach containers that are no longer needed")
        return self._write(key, value, now)

    def delete(self, key: bytes, now: float) -> int | None:
        if key == FLOOR_KEY:
            raise LocalProtocolError("the floor is not deleted")
        return self._write(key, None, now)

    def get(self, key: bytes) -> bytes | None:
        """What this host says under `key`, writes that still wait included."""
        return self._pending[key] if key in self._pending else self._store.value(self._store.me, key)

    def next_deadline(self) -> float | None:
        deadlines = [self._window_ends] if self._pending else []
        if self._tombstones:
            deadlines.append(self._tombstones[0][0] + self._floor_age)
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> int | None:
        before = self._store.own.highest
        if self._pending and now >= self._window_ends:
            self._commit(now)
        if self._tombstones and now >= self._tombstones[0][0] + self._floor_age:
            self._raise_floor(now)
        return before if self._store.own.highest > before else None

    def raise_epoch(self, epoch: int, now: float) -> int:
        """Begin a new log under a higher epoch with what this host says now; the old one is replaced everywhere."""
        own = self._store.own
        if epoch <= own.epoch:
            raise LocalProtocolError("an epoch only rises")
        said = {key: record.value for key, record in own.records.items() if key != FLOOR_KEY}
        said.update(self._pending)
        self._pending = {key: value for key, value in said.items() if value is not None}
        gone = [key for key, value in said.items() if value is None]
        values = {key: record.value for key, record in own.records.items()}
        own.restart(epoch)
        self._tombstones.clear()
        self._commit(now, values)
        for key in gone:
            self._store.own_changed(key, values.get(key), None)
        return 0

    def _room(self) -> int:
        own = self._store.own
        if len(own.records) + len(self._pending) >= MAX_KEYS_PER_ORIGIN - self._floor_tombstones:
            return -1
        waiting = sum(len(key) + len(value or b"") for key, value in self._pending.items())
        return MAX_ORIGIN_BYTES - _QUOTA_MARGIN - own.size - waiting

    def _write(self, key: bytes, value: bytes | None, now: float) -> int | None:
        if self.get(key) == value:
            return None
        self._pending[key] = value
        if now < self._window_ends:
            return None
        before = self._store.own.highest
        self._commit(now)
        return before

    def _commit(self, now: float, earlier: dict[bytes, bytes | None] | None = None) -> None:
        pending, self._pending = self._pending, {}
        self._window_ends = now + COLLECT_TIME
        for key, value in pending.items():
            held = self._store.value(self._store.me, key) if earlier is None else earlier.get(key)
            if value == held and earlier is None:
                continue  # changed and changed back within the window
            self._append(key, value)
            self._store.own_changed(key, held, value)
            if value is None:
                self._tombstones.append((now, self._store.own.highest))
        if len(self._tombstones) > self._floor_tombstones:
            self._raise_floor(now)

    def _append(self, key: bytes, value: bytes | None) -> Record:
        own = self._store.own
        record = Record(own.origin, own.epoch, own.highest + 1, key, value, b"")
        signed = sign_record(self._store.mesh_id, record, self._signer)
        own.put(signed)
        return signed

    def _raise_floor(self, now: float) -> None:
        floor = 0
        surplus = len(self._tombstones) // 2 if len(self._tombstones) > self._floor_tombstones else 0
        while self._tombstones and (surplus > 0 or now >= self._tombstones[0][0] + self._floor_age):
            floor = self._tombstones.popleft()[1]
            surplus -= 1
        own = self._store.own
        own.raise_floor(floor, self._append(FLOOR_KEY, encode_floor(floor)))
        own.swept = floor
        self._store.own_changed(FLOOR_KEY, None, None)
