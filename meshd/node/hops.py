"""Next hops towards one peer that link records call good and that may be none: a relay may take datagrams and pass none on.

`Avoided`: nobody answered through it. It is left out for a while, and longer each time that it is no better afterwards, for each
try costs the frames of some two seconds. `Turns`: nobody has answered yet, so each is taken in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from meshd.ids import HostId

__all__ = ["AVOID", "MAX_AVOID", "Avoided", "Turns"]

AVOID = 60.0  # the first time
MAX_AVOID = 960.0


class Avoided:
    def __init__(self) -> None:
        self._spans: dict[HostId, tuple[float, float]] = {}  # next hop → until when, for how long

    def add(self, hop: HostId, now: float) -> None:
        """Nobody answers through it."""
        _, span = self._spans.get(hop, (now, 0.0))
        span = min(2 * span, MAX_AVOID) or AVOID
        self._spans[hop] = now + span, span

    def clear(self) -> None:
        """No other is left: all are tried again, one after the other."""
        self._spans.clear()

    def at(self, now: float) -> Collection[HostId]:
        """Those to leave out now. One that has been good for as long as it was left out before begins anew."""
        self._spans = {hop: (until, span) for hop, (until, span) in self._spans.items() if now < until + span}
        return [hop for hop, (until, _) in self._spans.items() if now < until]


class Turns:
    def __init__(self) -> None:
        self._had: set[HostId] = set()

    def next(self, route: Callable[[Collection[HostId]], HostId | None]) -> HostId | None:
        """`route`: the best next hop beside these. None where there is none at all."""
        hop = route(self._had)
        if hop is None and self._had:
            self._had.clear()
            hop = route(self._had)
        if hop is not None:
            self._had.add(hop)
        return hop

    def begin_anew(self) -> None:
        self._had.clear()
