"""Flood deduplication: each flooded frame is delivered and passed on once, however many ways it comes.

For each origin one window of FLOOD_WINDOW sequence numbers under the newest boot that we have seen of it. A newer boot replaces
the window (the origin restarted and counts from the beginning), an older one is a straggler and counts as a duplicate, as does
everything behind the window: better one lost broadcast than one delivered twice. The table is bounded; the origin unheard of
for longest goes.
"""

from __future__ import annotations

from collections import OrderedDict

from meshd.ids import ShortId

__all__ = ["FLOOD_TTL", "FLOOD_WINDOW", "MAX_FLOOD_ORIGINS", "FloodTable"]

FLOOD_WINDOW = 1024
FLOOD_TTL = 16  # hosts a flood may pass; trees are as deep as the overlay's diameter
MAX_FLOOD_ORIGINS = 4096

_MASK = (1 << FLOOD_WINDOW) - 1
_HALF = 1 << 31


class _Window:
    """Bit n of `seen` stands for sequence `head - n`."""

    __slots__ = ("boot", "head", "seen")

    def __init__(self, boot: int, head: int) -> None:
        self.boot = boot
        self.head = head
        self.seen = 1

    def accept(self, sequence: int) -> bool:
        ahead = (sequence - self.head + _HALF) % (2 * _HALF) - _HALF  # numbers go round (RFC 1982)
        if ahead > 0:
            self.seen = (self.seen << min(ahead, FLOOD_WINDOW) | 1) & _MASK
            self.head = sequence
            return True
        if ahead <= -FLOOD_WINDOW or self.seen >> -ahead & 1:
            return False
        self.seen |= 1 << -ahead
        return True


class FloodTable:
    """One window for each origin."""

    __slots__ = ("_limit", "_windows")

    def __init__(self, limit: int = MAX_FLOOD_ORIGINS) -> None:
        self._limit = limit
        self._windows: OrderedDict[ShortId, _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def accept(self, origin: ShortId, boot: int, sequence: int) -> bool:
        """True the first time that this flood is seen."""
        window = self._windows.get(origin)
        if window is not None and boot <= window.boot:
            self._windows.move_to_end(origin)
            return boot == window.boot and window.accept(sequence)
        self._windows[origin] = _Window(boot, sequence)
        self._windows.move_to_end(origin)
        if len(self._windows) > self._limit:
            self._windows.popitem(last=False)
        return True
