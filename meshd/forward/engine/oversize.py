"""What becomes of a frame that is too large for its peer's path.

1. TCP is cut into segments that fit, as if the sender's kernel had left that to us: the stream does not stall, and nobody need
   know; not where it is signed
2. IPv4 with DF and IPv6: the sender is told (forward/toobig.py), if the size is measured and it was not told too often
3. the frame itself goes in pieces (forward/fragment.py)                                        drop: TOO_BIG
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshd.budget import BucketTable
from meshd.drops import DropCounters, DropReason
from meshd.forward.checksum import is_right
from meshd.forward.engine.interface import Buffer
from meshd.forward.engine.tables import Peer
from meshd.forward.entries import ENTRY_HEADER_SIZE, MAX_ENTRY_SIZE, EntryKind, encode_entry
from meshd.forward.ethernet import TCP, Headers, parse_headers
from meshd.forward.fragment import fragments
from meshd.forward.header import DATA_OVERHEAD
from meshd.forward.segmentation import MIN_SEGMENT, TCP_FLAGS_OFFSET, segments
from meshd.forward.toobig import too_big
from meshd.forward.vnet import PLAIN_VNET

__all__ = ["MAX_TOLD_SOURCES", "TOO_BIG_BURST", "TOO_BIG_RATE", "Cut", "Oversize"]

TOO_BIG_RATE = 10.0  # answers a second, for each source MAC
TOO_BIG_BURST = 10.0
MAX_TOLD_SOURCES = 1024

_SYN, _RST, _URG = 0x02, 0x04, 0x20
_TCP_SIZE = 20
_END_OF_OPTIONS, _NO_OPERATION = 0, 1
_SIGNATURES = (19, 29)  # MD5 (RFC 2385), TCP-AO (RFC 5925)


class Cut(NamedTuple):
    """What to send instead: entries of how many frames, and whether they are vouched for. None, counted, where nothing helps."""

    entries: list[bytes]
    frames: int
    vouched: bool


class Oversize:
    """`write` hands a frame to the bridge; whoever owns the frame port sets it."""

    def __init__(self, drops: DropCounters) -> None:
        self._drops = drops
        self._told: BucketTable[bytes] = BucketTable(TOO_BIG_RATE, TOO_BIG_BURST, MAX_TOLD_SOURCES)
        self.write: Callable[[Sequence[Buffer]], bool] = lambda parts: False

    def frame(self, peer: Peer, frame: memoryview, vouched: bool, now: float) -> Cut:
        """A captured frame."""
        segments = self._segments(peer, frame, vouched)
        if segments:
            return Cut(segments, len(segments), True)
        if len(frame) > MAX_ENTRY_SIZE:
            self._drops.add(DropReason.TOO_BIG)
            return Cut([], 0, vouched)
        self._tell(peer, frame, now)
        return self.entry(peer, encode_entry(EntryKind.FRAME, frame), vouched)

    def entry(self, peer: Peer, entry: bytes, vouched: bool) -> Cut:
        """An entry of any kind, into pieces."""
        pieces = list(fragments(entry, peer.fragment_id, peer.max_datagram - DATA_OVERHEAD))
        if pieces:
            peer.fragment_id = (peer.fragment_id + 1) & 0xFFFF
        else:
            self._drops.add(DropReason.TOO_BIG)
        return Cut(pieces, bool(pieces), vouched)

    def _segments(self, peer: Peer, frame: memoryview, vouched: bool) -> list[bytes]:
        """Entries, vouched for, that together are this TCP frame; none if it is no such thing."""
        headers = parse_headers(frame)
        if headers is None or headers.protocol != TCP or frame[headers.l4 + TCP_FLAGS_OFFSET] & (_SYN | _RST | _URG):
            return []
        size = _room(peer) - headers.payload
        if size < MIN_SEGMENT or headers.payload >= headers.end:
            return []
        if _is_signed(frame, headers) or (not vouched and not is_right(frame, headers)):
            return []  # a signature is over the whole segment; a checksum that is wrong must arrive wrong
        return segments(frame[: headers.end], 0, headers, size)

    def _tell(self, peer: Peer, frame: Buffer, now: float) -> None:
        """Tell the sender of a captured frame, where that is right, what the path takes."""
        if not peer.measured:
            return
        answer = too_big(frame, _room(peer))
        if answer is not None and self._told.take(bytes(frame[6:12]), now):
            self.write((PLAIN_VNET, answer))


def _is_signed(frame: Buffer, headers: Headers) -> bool:
    """Whether TCP's options have a signature."""
    at = headers.l4 + _TCP_SIZE
    while at < headers.payload and frame[at] != _END_OF_OPTIONS:
        if frame[at] in _SIGNATURES:
            return True
        if frame[at] == _NO_OPERATION:
            at += 1
            continue
        length = frame[at + 1] if at + 1 < headers.payload else 0
        if length < 2:
            break
        at += length
    return False


def _room(peer: Peer) -> int:
    """The largest frame of one datagram."""
    return min(MAX_ENTRY_SIZE, peer.max_datagram - DATA_OVERHEAD - ENTRY_HEADER_SIZE)
