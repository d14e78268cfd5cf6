"""Who gives way when too many accepted links have not finished their handshake: the oldest one of the source that has most.

So a source that opens links and says nothing pushes out its own ones, and everybody else has all of the 5 s. A source is an IPv4
address, or the /64 of an IPv6 one. Where no source has more than another it is the oldest of all: with one accept every 50 ms
(net/tcp.py) 64 links have more than 3 s each, several round trips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meshd.crypto.gate import bucket_key
from meshd.ids import Endpoint, LinkId

__all__ = ["who_gives_way"]


def who_gives_way(half_open: Sequence[tuple[LinkId, Endpoint]]) -> LinkId:
    """`half_open`: oldest first, at least one."""
    sources = Counter(bucket_key(source) for _, source in half_open)
    most = max(sources.values())
    return next(link for link, source in half_open if sources[bucket_key(source)] == most)
