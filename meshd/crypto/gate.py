"""The gate: what stands between a datagram of a stranger and the first costly act, in this order.

    look      a flood is cut before it is read: LOOK_RATE datagrams a second, and as many of addresses that belong to members
              (form and mac1 are looked at here, by `wire`)
    opening   types 1 and 5. Under load, or when the bucket of its address is empty: a cookie is asked for (mac2), or, where
              too many were given out, nothing is. With the cookie the address is proven, and has a second bucket that nobody
              can empty in its name. Then the budget: half of it is for those who open.
    answer    types 2, 6 and 7 carry an index that we chose at random and sent to the other end: that proves what a cookie
              would. Bucket, then the budget, all of it: others' floods do not keep our own handshakes from ending.
    charge    what the DH took is paid from the budget, HANDSHAKE_SHARE of the loop's time.

*Under load* begins when half of the budget is used up, and lasts LOAD_HOLD_S longer. Addresses that members have published or
linked from are `acquaint`ed: they have limits of their own, so that a flood from invented addresses leaves them alone. Whoever
invents just these addresses shares their limit and, with luck, the common one.

Any hashable thing can be an address: endpoints count by host (IPv6 by /64), others, like a relayed one, as they are. Time comes
in as `now`; `clock` measures what work costs, and without it (in simulations) work costs HANDSHAKE_COST_S.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Hashable

from meshd.budget import BucketTable, TokenBucket
from meshd.ids import Endpoint

__all__ = [
    "BUDGET_BURST_S",
    "COOKIE_BURST",
    "COOKIE_RATE",
    "HANDSHAKE_COST_S",
    "HANDSHAKE_SHARE",
    "LOAD_HOLD_S",
    "LOOK_BURST",
    "LOOK_RATE",
    "MAX_ACQUAINTED",
    "MAX_SOURCES",
    "SOURCE_BURST",
    "SOURCE_RATE",
    "WARN_EVERY_S",
    "Gate",
    "Opening",
    "bucket_key",
]

LOOK_RATE = 4000.0  # a second: form and mac1 take some 5 µs
LOOK_BURST = 400.0
COOKIE_RATE = 1000.0
COOKIE_BURST = 100.0
SOURCE_RATE = 20.0
SOURCE_BURST = 5.0
MAX_SOURCES = 4096
MAX_ACQUAINTED = 8192
HANDSHAKE_SHARE = 0.25  # of the loop's time
BUDGET_BURST_S = 0.05
HANDSHAKE_COST_S = 0.0004
LOAD_HOLD_S = 1.0
WARN_EVERY_S = 10.0
_MAX_CHARGE_S = 0.01  # one handshake: a clock that jumped must not close the gate
_LOADED_BELOW_S = BUDGET_BURST_S / 2
_ANSWERS_ONLY_BELOW_S = BUDGET_BURST_S / 4


class Opening(enum.Enum):
    """What to do with a type 1 or 5."""

    PASS = enum.auto()
    COOKIE = enum.auto()  # ask for mac2
    REFUSE = enum.auto()  # silence


def bucket_key(source: Hashable) -> Hashable:
    """Whose bucket: an IPv6 host has a /64 to invent addresses in."""
    if not isinstance(source, Endpoint):
        return source
    if ":" not in source.host:
        return source.host
    try:
        return int(ipaddress.IPv6Address(source.host)) >> 64
    except ValueError:
        return source.host


def _name(source: Hashable) -> Hashable:
    """An address without its port: NATs change ports."""
    return source.host if isinstance(source, Endpoint) else source


class _Limit:
    """So many a second for all, and as many again for the acquainted, each of them within SOURCE_RATE.

    A flood asks this for each of its datagrams, hundreds of times with one `now`: hence a bucket that is filled in passing.
    """

    __slots__ = ("_acquainted", "_at", "_burst", "_each", "_known", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, known: OrderedDict[Hashable, None]) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = float("-inf")
        self._known = known
        self._acquainted = TokenBucket(rate, burst)
        self._each: BucketTable[Hashable] = BucketTable(SOURCE_RATE, SOURCE_BURST, MAX_ACQUAINTED)

    def take(self, source: Hashable, now: float) -> bool:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return True
        name = _name(source)
        return name in self._known and self._each.take(name, now) and self._acquainted.take(now)


class Gate:
    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._known: OrderedDict[Hashable, None] = OrderedDict()
        self._acquainted: tuple[str, ...] | None = ()
        self._looks = _Limit(LOOK_RATE, LOOK_BURST, self._known)
        self._cookies = _Limit(COOKIE_RATE, COOKIE_BURST, self._known)
        self._claimed: BucketTable[Hashable] = BucketTable(SOURCE_RATE, SOURCE_BURST, MAX_SOURCES)
        self._proven: BucketTable[Hashable] = BucketTable(SOURCE_RATE, SOURCE_BURST, MAX_SOURCES)
        self._budget = TokenBucket(HANDSHAKE_SHARE, BUDGET_BURST_S)
        self._loaded_until = float("-inf")
        self._warned_at: dict[str, float] = {}

    def acquaint(self, source: Hashable) -> None:
        """This address belongs to a member, or is one that we ask ourselves."""
        name = _name(source)
        if name not in self._known:
            self._acquainted = None
        self._known[name] = None
        self._known.move_to_end(name)
        if len(self._known) > MAX_ACQUAINTED:
            self._known.popitem(last=False)

    @property
    def acquainted(self) -> tuple[str, ...]:
        """The addresses of members, those acquainted last at the end; the same object as long as there is none more."""
        if self._acquainted is None:
            self._acquainted = tuple(name for name in self._known if isinstance(name, str))
        return self._acquainted

    def look(self, source: Hashable, now: float) -> bool:
        """Whether a datagram may be read at all."""
        return self._looks.take(source, now)

    def loaded(self, now: float) -> bool:
        if self._budget.level(now) < _LOADED_BELOW_S:
            self._loaded_until = now + LOAD_HOLD_S
        return now < self._loaded_until

    def opening(self, source: Hashable, now: float, *, proven: bool) -> Opening:
        """A type 1 or 5 whose mac1 was right; `proven`: its mac2 too."""
        key = bucket_key(source)
        loaded = self.loaded(now)
        if proven:
            passes = self._proven.take(key, now) and self._budget.level(now) >= _ANSWERS_ONLY_BELOW_S
            return Opening.PASS if passes else Opening.REFUSE
        if not loaded and self._claimed.take(key, now):
            return Opening.PASS
        return self.cookie(source, now)

    def cookie(self, source: Hashable, now: float) -> Opening:
        """A cookie is due; REFUSE where too many were given out."""
        return Opening.COOKIE if self._cookies.take(source, now) else Opening.REFUSE

    def answer(self, source: Hashable, now: float) -> bool:
        """A type 2, 6 or 7 with an index that waits for it."""
        return self._proven.take(bucket_key(source), now) and self._budget.level(now) > 0

    def started(self) -> float:
        return 0.0 if self._clock is None else self._clock()

    def charge(self, started: float, now: float) -> None:
        """A handshake message was worked on since `started`."""
        cost = HANDSHAKE_COST_S if self._clock is None else self._clock() - started
        self._budget.charge(now, min(max(cost, 0.0), _MAX_CHARGE_S))

    def may_warn(self, what: str, now: float) -> bool:
        """One line of log for each kind of warning in WARN_EVERY_S."""
        if now < self._warned_at.get(what, float("-inf")) + WARN_EVERY_S:
            return False
        self._warned_at[what] = now
        return True
