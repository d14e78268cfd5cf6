"""Fragments (entries of kind 3): a frame or flood that is larger than one datagram of its path, in pieces.

    body   +--------+-----------------+---- … ----+
           | id u16 | last:1 offset:15 | bytes     |      little-endian
           +--------+-----------------+---- … ----+

What is cut is the *whole entry*, header included: its first two bytes tell kind and length of what comes out, so a fragment needs
no field for them. All pieces of one entry go out under one key, so (sender, key, id) names the entry, and an id is free again
long before 65 536 others were used.

A receiver takes pieces in any order, and no piece twice: what overlaps makes the whole entry worthless, as in RFC 5722, since
one of the two must be wrong; a mere copy is passed over. Pieces but the last are at least 128 B, so that no sender makes us keep
thousands of small ones. An entry that is not whole after 1 s is given up. Every peer has room for so many entries and bytes of
its own: who sends too much loses its own oldest.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError
from meshd.forward.entries import ENTRY_HEADER_SIZE, MAX_ENTRY_SIZE, EntryKind, decode_entries, encode_entry

__all__ = [
    "FRAGMENT_HEADER_SIZE",
    "FRAGMENT_TIMEOUT",
    "MAX_ALL_FRAGMENT_BYTES",
    "MAX_FRAGMENTED",
    "MAX_FRAGMENT_BYTES",
    "MIN_FRAGMENT",
    "Fragment",
    "Reassembled",
    "Reassembly",
    "decode_fragment",
    "fragments",
]

FRAGMENT_TIMEOUT = 1.0  # from the first piece that came
MIN_FRAGMENT = 128  # bytes of every piece but the last
MAX_FRAGMENTED = 64  # entries in pieces, a peer
MAX_FRAGMENT_BYTES = 256 * 1024  # of them, a peer
MAX_ALL_FRAGMENT_BYTES = 8 << 20  # of all peers

FRAGMENT_HEADER_SIZE = 4
_HEADER = struct.Struct("<HH")
_LAST = 0x8000
_WHOLE = ENTRY_HEADER_SIZE + MAX_ENTRY_SIZE

P = TypeVar("P", bound=Hashable)


class Fragment(NamedTuple):
    identification: int
    offset: int
    last: bool
    data: memoryview


class Reassembled(NamedTuple):
    """An entry that is whole: kind FRAME or FLOOD."""

    kind: int
    body: memoryview
    vouched: bool


# sending


def fragments(entry: bytes, identification: int, room: int) -> Iterator[bytes]:
    """Entries of kind 3 of at most `room` bytes each, header included, and of one size but for the last.

    None at all where the pieces would be smaller than a receiver takes.
    """
    most = room - ENTRY_HEADER_SIZE - FRAGMENT_HEADER_SIZE
    if most < 2 * MIN_FRAGMENT:  # cut evenly, a piece may be half of that
        return
    count = -(-len(entry) // most)
    size = -(-len(entry) // count)
    for at in range(0, len(entry), size):
        last = _LAST if at + size >= len(entry) else 0
        yield encode_entry(EntryKind.FRAGMENT, _HEADER.pack(identification, last | at) + entry[at : at + size])


# receiving


def decode_fragment(body: memoryview) -> Fragment:
    """Raises DecodeError for a piece that no sender makes: empty, too small, or beyond the largest entry."""
    if len(body) <= FRAGMENT_HEADER_SIZE:
        raise DecodeError("a fragment without bytes")
    identification, word = _HEADER.unpack_from(body)
    offset, last, data = word & ~_LAST, bool(word & _LAST), body[FRAGMENT_HEADER_SIZE:]
    if offset + len(data) > _WHOLE or (len(data) < MIN_FRAGMENT and not last):
        raise DecodeError(f"a fragment of {len(data)} bytes at {offset}")
    return Fragment(identification, offset, last, data)


class _Partial:
    """One entry, not whole yet."""

    __slots__ = ("begun", "pieces", "size", "total", "vouched")

    def __init__(self, begun: float, vouched: bool) -> None:
        self.begun = begun
        self.vouched = vouched
        self.pieces: dict[int, bytes] = {}  # by offset, without overlap
        self.size = 0
        self.total: int | None = None  # known with the last piece

    def has(self, fragment: Fragment) -> bool:
        """Whether it is a copy."""
        known, end = self.pieces.get(fragment.offset), fragment.offset + len(fragment.data)
        return known is not None and fragment.data == known and fragment.last is (end == self.total)

    def fits(self, fragment: Fragment) -> bool:
        """Whether the piece agrees with the others."""
        end = fragment.offset + len(fragment.data)
        if self.total is not None and (fragment.last or end > self.total):
            return False
        if fragment.last and any(at + len(piece) > end for at, piece in self.pieces.items()):
            return False
        return all(at >= end or at + len(piece) <= fragment.offset for at, piece in self.pieces.items())

    def add(self, fragment: Fragment) -> None:
        self.pieces[fragment.offset] = bytes(fragment.data)
        self.size += len(fragment.data)
        if fragment.last:
            self.total = fragment.offset + len(fragment.data)

    def whole(self) -> bytes:
        return b"".join(self.pieces[at] for at in sorted(self.pieces))


class _Sender:
    """What one peer has under way, oldest first, by key and id."""

    __slots__ = ("partials", "size")

    def __init__(self) -> None:
        self.partials: OrderedDict[tuple[int, int], _Partial] = OrderedDict()
        self.size = 0


class Reassembly(Generic[P]):
    """All peers' fragments. Drops: FRAGMENT_LOST, one for each entry given up; BAD_FRAGMENT, one for each piece that cannot be."""

    def __init__(self, drops: DropCounters) -> None:
        self._drops = drops
        self._senders: dict[P, _Sender] = {}
        self._swept = float("-inf")
        self.size = 0  # bytes held

    def take(self, peer: P, key: int, body: memoryview, vouched: bool, now: float) -> Reassembled | None:
        """One entry of kind 3 from a peer, under its key with this index; what it completes. Never raises."""
        self.expire(now)
        try:
            fragment = decode_fragment(body)
        except DecodeError:
            self._drops.add(DropReason.BAD_FRAGMENT)
            return None
        sender = self._senders.setdefault(peer, _Sender())
        name = (key, fragment.identification)
        partial = sender.partials.get(name)
        if partial is None:
            partial = sender.partials[name] = _Partial(now, vouched)
        elif partial.has(fragment):
            self._drops.add(DropReason.BAD_FRAGMENT)
            return None
        if partial.vouched is not vouched or not partial.fits(fragment):
            self._drops.add(DropReason.BAD_FRAGMENT)
            self._forget(peer, sender, name)
            return None
        partial.add(fragment)
        sender.size += len(fragment.data)
        self.size += len(fragment.data)
        if partial.size == partial.total:
            self._forget(peer, sender, name)
            return self._whole(partial)
        self._make_room(peer, sender)
        return None

    def expire(self, now: float) -> None:
        """Give up what is too old. Called with each fragment, so it looks at all peers twice a second at most."""
        if now - self._swept < FRAGMENT_TIMEOUT / 2:
            return
        self._swept = now
        for peer, sender in list(self._senders.items()):
            while sender.partials:
                name, partial = next(iter(sender.partials.items()))
                if now - partial.begun < FRAGMENT_TIMEOUT:
                    break
                self._give_up(peer, sender, name)

    def _make_room(self, peer: P, sender: _Sender) -> None:
        while sender.partials and (
            len(sender.partials) > MAX_FRAGMENTED
            or sender.size > MAX_FRAGMENT_BYTES
            or self.size > MAX_ALL_FRAGMENT_BYTES
        ):
            self._give_up(peer, sender, next(iter(sender.partials)))

    def _whole(self, partial: _Partial) -> Reassembled | None:
        try:
            entries = list(decode_entries(partial.whole()))
        except DecodeError:
            entries = []
        if len(entries) == 1 and entries[0][0] in (EntryKind.FRAME, EntryKind.FLOOD):
            return Reassembled(*entries[0], partial.vouched)
        self._drops.add(DropReason.BAD_FRAGMENT)
        return None

    def _give_up(self, peer: P, sender: _Sender, name: tuple[int, int]) -> None:
        self._drops.add(DropReason.FRAGMENT_LOST)
        self._forget(peer, sender, name)

    def _forget(self, peer: P, sender: _Sender, name: tuple[int, int]) -> None:
        partial = sender.partials.pop(name)
        sender.size -= partial.size
        self.size -= partial.size
        if not sender.partials:
            self._senders.pop(peer, None)
