"""The replay window of one receive key: which counters have been seen (RFC 6479).

A ring of 8192 bits, of which the newest 8128 are looked at: the block that the head is in may be partly old. Blocks are bytes
here (the RFC takes machine words): a bytearray of 1 KiB indexes and assigns without making Python integers. A datagram is
looked up before it is opened (cheap refusal of a flood of copies) and committed after it was authenticated (nothing forged
moves the window).

In order is the common case: a packet path tests `counter > window.head` itself and calls `check` only when that is false.
"""

from __future__ import annotations

from meshd.drops import DropReason

__all__ = ["RING_BITS", "WINDOW", "ReplayWindow"]

RING_BITS = 8192
WINDOW = 8128

_BYTES = RING_BITS // 8
_MASK = _BYTES - 1
_BIT = tuple(1 << position for position in range(8))


class ReplayWindow:
    """`head`: the highest committed counter, -1 at first. `received`, `late`, `duplicate`, `too_old` count datagrams."""

    __slots__ = ("_ring", "duplicate", "head", "late", "received", "too_old")

    def __init__(self) -> None:
        self._ring = bytearray(_BYTES)
        self.head = -1
        self.received = 0
        self.late = 0
        self.duplicate = 0
        self.too_old = 0

    @property
    def lost(self) -> int:
        """Counters up to the head that have not come in, yet or ever."""
        return self.head + 1 - self.received

    def check(self, counter: int) -> DropReason | None:
        """Before opening: may this counter be new?"""
        head = self.head
        if counter > head:
            return None
        if counter + WINDOW <= head:
            self.too_old += 1
            return DropReason.TOO_OLD
        if self._ring[(counter >> 3) & _MASK] & _BIT[counter & 7]:
            self.duplicate += 1
            return DropReason.REPLAYED
        return None

    def commit(self, counter: int) -> None:
        """After opening. The caller has had None from `check` (or has seen counter > head), with no other commit in between."""
        head = self.head
        block = counter >> 3
        self.received += 1
        if counter <= head:
            self.late += 1
        else:
            self.head = counter
            first = (head >> 3) + 1
            if block == first:
                self._ring[block & _MASK] = _BIT[counter & 7]
                return
            if block > first:
                self._clear(first, block)
        self._ring[block & _MASK] |= _BIT[counter & 7]

    def commit_run(self, end: int) -> None:
        """Commit every counter after the head and before `end`, each one opened: one call for the datagrams of a super-frame."""
        first, last = self.head + 1, end - 1
        if last < first:
            return
        ring, mask = self._ring, _MASK
        low, high = first >> 3, last >> 3
        kept = ring[low & mask] if first & 7 else 0  # the head's own block
        for block in range(max(low, high - mask), high + 1):
            ring[block & mask] = 0xFF
        if high - low <= mask:  # else the run has gone all the way round and the low block is a newer one by now
            ring[low & mask] = kept | (0xFF << (first & 7) & 0xFF)
        ring[high & mask] &= 0xFF >> (7 - (last & 7))
        self.head = last
        self.received += last - first + 1

    def _clear(self, first: int, last: int) -> None:
        """Zero the blocks first..last, which the head has just entered or jumped over."""
        if last - first + 1 >= _BYTES:
            self._ring = bytearray(_BYTES)
            return
        for block in range(first, last + 1):
            self._ring[block & _MASK] = 0
