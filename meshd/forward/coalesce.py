"""Putting received TCP segments together again, so that the container's kernel gets one super-frame instead of 45 frames.

Only for segments whose checksum the sender's kernel vouched for: a super-frame carries NEEDS_CSUM, and the kernel delivers
whatever stands in it as good. A segment belongs to the series if its headers are, byte for byte, those that `header_run`
predicts from the segment before: same addresses, ports, acknowledgement, window, TOS, TTL, options and size, next sequence
number and identification. One `startswith` says all that. The last one may be shorter and may have PSH or FIN. Whatever else
comes ends the series first, so frames keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from meshd.forward.checksum import ones_sum
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import ETHERNET_SIZE, TCP, Headers
from meshd.forward.segmentation import ACK, FIN, PSH, TCP_FLAGS_OFFSET, fit_headers, header_run
from meshd.forward.vnet import encode_vnet

__all__ = ["MAX_SUPER_FRAME", "NOTHING", "Coalescer"]

Buffer = bytes | bytearray | memoryview

MAX_SUPER_FRAME = 65535  # IPv4's total length; the Ethernet header comes on top
NOTHING: tuple[bytes, ...] = ()  # what no bytes start with
_ECE = 0x40  # the only other flag of a series: it stays constant over a window


class Coalescer:
    """At most one series at a time. All that it holds are plaintexts of datagrams: entry header and frame.

    The packet path itself tests `plain.startswith(expected) and len(plain) == whole` and then does

        payloads.append(plain[cut:]); expected = next(run, NOTHING)

    because that happens for every segment. `expected` is NOTHING while there is no series, or when it may not grow any more.
    """

    __slots__ = ("_first", "_headers", "_last_flags", "cut", "expected", "payloads", "run", "whole")

    def __init__(self) -> None:
        self._first = b""
        self._headers: Headers | None = None
        self._last_flags = 0
        self.cut = 0
        self.whole = 0
        self.expected: bytes | tuple[bytes, ...] = NOTHING
        self.payloads: list[Buffer] = []
        self.run: Iterator[bytes] = iter(())

    @property
    def open(self) -> bool:
        """Whether there is a series at hand."""
        return self._headers is not None

    def begin(self, plain: bytes, headers: Headers) -> bool:
        """Start a series with this vouched segment if it may be in one. The series before has been ended."""
        cut = ENTRY_HEADER_SIZE + headers.payload
        size = len(plain) - cut
        l3, l4 = ENTRY_HEADER_SIZE + headers.l3, ENTRY_HEADER_SIZE + headers.l4
        if headers.protocol != TCP or size <= 0 or headers.end + ENTRY_HEADER_SIZE != len(plain):
            return False
        if plain[l4 + TCP_FLAGS_OFFSET] & ~_ECE != ACK or (headers.version == 4 and ones_sum(plain[l3:l4])):
            return False
        room = (MAX_SUPER_FRAME + ETHERNET_SIZE - headers.payload) // size
        self._first, self._headers, self._last_flags = plain, headers, 0
        self.cut, self.whole = cut, len(plain)
        self.payloads = [plain[cut:]]
        self.run = islice(header_run(plain[:cut], headers, size), 1, room)
        self.expected = next(self.run, NOTHING)
        return True

    def ends_with(self, plain: bytes) -> bool:
        """Take this segment as the last of the series, shorter or with PSH or FIN, if it is one; the caller then ends it."""
        headers, expected = self._headers, self.expected
        size = len(plain) - self.cut
        if headers is None or not isinstance(expected, bytes) or size <= 0 or len(plain) > self.whole:
            return False
        flags_at = ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET
        flags = plain[flags_at] & (PSH | FIN)
        block = bytearray(expected)
        fit_headers(block, headers, size)
        block[flags_at] |= flags
        if not plain.startswith(block):
            return False
        self.payloads.append(plain[self.cut :])
        self._last_flags = flags
        return True

    def end(self) -> tuple[list[Buffer], int]:
        """The parts of the (super-)frame to write, vnet header first, and how many segments are in it; ([], 0) if there is none."""
        headers, payloads, first = self._headers, self.payloads, self._first
        if headers is None:
            return [], 0
        self._headers, self.payloads, self.expected = None, [], NOTHING
        if len(payloads) == 1:
            return [encode_vnet(headers), memoryview(first)[ENTRY_HEADER_SIZE:]], 1
        size = self.whole - self.cut
        block = bytearray(first[: self.cut])
        fit_headers(block, headers, sum(map(len, payloads)))
        block[ENTRY_HEADER_SIZE + headers.l4 + TCP_FLAGS_OFFSET] |= self._last_flags
        return [encode_vnet(headers, size), memoryview(block)[ENTRY_HEADER_SIZE:], *payloads], len(payloads)
