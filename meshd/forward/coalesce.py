"""Putting received TCP segments together again, so that the container's kernel gets one super-frame instead of 45 frames.

Only for segments whose checksum the sender's kernel vouched for: a super-frame carries NEEDS_CSUM, and the kernel delivers
whatever stands in it as good. A segment belongs to the series if its headers are, byte for byte, those that `header_blocks`
predicts from the first one: same addresses, ports, acknowledgement, window, TOS, TTL, options and size, next sequence number and
identification. One `startswith` a segment says all that. The last one may be shorter and may have PSH or FIN. Whatever else comes
ends the series first, so frames keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from meshd.forward.checksum import ones_sum
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import ETHERNET_SIZE, TCP, Headers
from meshd.forward.segmentation import ACK, FIN, PSH, TCP_FLAGS_OFFSET, fit_headers, header_blocks
from meshd.forward.vnet import encode_vnet

__all__ = ["MAX_SERIES", "MAX_SUPER_FRAME", "Coalescer"]

Buffer = bytes | bytearray | memoryview

MAX_SUPER_FRAME = 65535  # IPv4's total length; the Ethernet header comes on top
MAX_SERIES = 64  # segments: what one send brings
_ECE = 0x40  # the only other flag of a series: it stays constant over a window


class Coalescer:
    """At most one series at a time. All that it holds are plaintexts of datagrams: entry header and frame."""

    __slots__ = ("_blocks", "_cut", "_first", "_headers", "_last_flags", "_payloads", "whole")

    def __init__(self) -> None:
        self._first = b""
        self._headers: Headers | None = None
        self._blocks: Sequence[
            bytes
        ] = ()  # the header blocks that come next, one for each segment that there is room for
        self._cut = itemgetter(slice(0, None))  # a plaintext's payload
        self._payloads: list[Buffer] = []
        self._last_flags = 0
        self.whole = 0  # size of every plaintext of the series but the last

    def begin(self, plain: bytes, headers: Headers) -> bool:
        """Start a series with this vouched segment if it may be in one. The series before has been ended."""
        cut = ENTRY_HEADER_SIZE + headers.payload
        size = len(plain) - cut
        l3, l4 = ENTRY_HEADER_SIZE + headers.l3, ENTRY_HEADER_SIZE + headers.l4
        if headers.protocol != TCP or size <= 0 or headers.end + ENTRY_HEADER_SIZE != len(plain):
            return False
        if plain[l4 + TCP_FLAGS_OFFSET] & ~_ECE != ACK or (headers.version == 4 and ones_sum(plain[l3:l4])):
            return False
        room = min(MAX_SERIES, (MAX_SUPER_FRAME + ETHERNET_SIZE - headers.payload) // size)
        self._first, self._headers, self._last_flags = plain, headers, 0
        self._cut, self.whole = itemgetter(slice(cut, None)), len(plain)
        self._payloads = [plain[cut:]]
        self._blocks = header_blocks(plain[:cut], headers, size, room)[1:]
        return True

    def take(self, plains: Sequence[bytes]) -> int:
        """How many of these, from the first on, are the next segments of the series; they are in it when this returns."""
        if not self._blocks or len(plains[0]) != self.whole:
            return 0
        count = min(len(plains), len(self._blocks))
        fits = list(map(bytes.startswith, plains, self._blocks))
        if not all(fits):
            count = fits.index(False)
        self._payloads.extend(map(self._cut, plains[:count]))
        self._blocks = self._blocks[count:]
        return count

    def ends_with(self, plain: bytes) -> bool:
        """Take this segment as the last of the series, shorter or with PSH or FIN, if it is one; the caller then ends it."""
        headers = self._headers
        size = len(self._cut(plain))
        if headers is None or not self._blocks or size <= 0 or len(plain) > self.whole:
            return False
        flags_at = ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET
        flags = plain[flags_at] & (PSH | FIN)
        block = bytearray(self._blocks[0])
        fit_headers(block, headers, size)
        block[flags_at] |= flags
        if not plain.startswith(block):
            return False
        self._payloads.append(self._cut(plain))
        self._last_flags = flags
        return True

    def end(self) -> tuple[list[Buffer], int]:
        """The parts of the (super-)frame to write, vnet header first, and how many segments are in it; ([], 0) if there is none."""
        headers, payloads, first = self._headers, self._payloads, self._first
        if headers is None:
            return [], 0
        self._headers, self._payloads, self._blocks = None, [], ()
        if len(payloads) == 1:
            return [encode_vnet(headers), memoryview(first)[ENTRY_HEADER_SIZE:]], 1
        cut = ENTRY_HEADER_SIZE + headers.payload
        block = bytearray(first[:cut])
        fit_headers(block, headers, sum(map(len, payloads)))
        block[ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET] |= self._last_flags
        return [encode_vnet(headers, self.whole - cut), memoryview(block)[ENTRY_HEADER_SIZE:], *payloads], len(payloads)
