"""Token buckets: how often a source may ask for something that costs us work or bandwidth.

A bucket fills at `rate` tokens a second up to `burst`; what happens takes a token, and when there is none it does not happen.
`ready` asks without taking, so that a pure decision can be made first and paid for by its caller afterwards. A `BucketTable`
holds one bucket for each key and at most `limit` of them; the one used longest ago goes first. A key that was pushed out
starts with a full bucket again, so a table bounds honest sources, not one that invents a new name for every frame: such a
source meets the budget that all sources share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from meshd.errors import LocalProtocolError

__all__ = ["BucketTable", "TokenBucket"]

K = TypeVar("K", bound=Hashable)


class TokenBucket:
    """Full at first. `now` is monotonic seconds; a step backwards adds nothing and takes nothing away."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        if rate < 0 or burst <= 0:
            raise LocalProtocolError(f"a bucket of rate {rate} and burst {burst} lets nothing through")
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None  # the first question sets the clock

    def level(self, now: float) -> float:
        """The tokens there are at `now`; changes nothing."""
        if self._at is None or now <= self._at:
            return self._tokens
        return min(self._burst, self._tokens + (now - self._at) * self._rate)

    def ready(self, now: float, cost: float = 1.0) -> bool:
        """Whether `take` would succeed; changes nothing."""
        return self.level(now) >= cost

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are there; False, with nothing taken, if not."""
        self._tokens = self.level(now)
        self._at = now if self._at is None else max(self._at, now)
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True

    def charge(self, now: float, cost: float) -> None:
        """Take `cost` whether it is there or not, for work whose price is known afterwards: the rate pays the debt off."""
        self._tokens = self.level(now) - cost
        self._at = now if self._at is None else max(self._at, now)


class BucketTable(Generic[K]):
    """One bucket for each key, at most `limit`; `evicted` counts those that had to go for a new one."""

    __slots__ = ("_buckets", "_burst", "_limit", "_rate", "evicted")

    def __init__(self, rate: float, burst: float, limit: int) -> None:
        if limit < 1:
            raise LocalProtocolError("a bucket table needs room for one bucket")
        TokenBucket(rate, burst)  # the same checks, at construction rather than at the first key
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def ready(self, key: K, now: float, cost: float = 1.0) -> bool:
        """Whether `take` would succeed; makes no bucket and does not count as use."""
        bucket = self._buckets.get(key)
        return self._burst >= cost if bucket is None else bucket.ready(now, cost)

    def take(self, key: K, now: float, cost: float = 1.0) -> bool:
        return self._used(key).take(now, cost)

    def charge(self, key: K, now: float, cost: float) -> None:
        self._used(key).charge(now, cost)

    def _used(self, key: K) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._buckets.popitem(last=False)
                self.evicted += 1
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst)
        else:
            self._buckets.move_to_end(key)
        return bucket
