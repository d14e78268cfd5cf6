"""How large a container's super-frames may be: as much as one sealed UDP_SEGMENT send holds, see docs/architecture.md.

The kernel's own limit, 64 KB, gives 48 to 50 segments, and sealed they need two sends.
"""

from __future__ import annotations

from meshd.node.path_view import SEALED_OVERHEAD

__all__ = ["gso_max_size"]

MAX_SEALED_SEND = 63_900  # bytes of one UDP_SEGMENT send that every kernel takes
MAX_SEGMENTS = 64
_INNER_HEADERS = 60  # IP and TCP with timestamps, rounded up


def gso_max_size(mtu: int) -> int:
    """The largest super-frame that seals into one send: 45 segments at MTU 1372."""
    segments = min(MAX_SEGMENTS, MAX_SEALED_SEND // (mtu + SEALED_OVERHEAD))
    return segments * (mtu - _INNER_HEADERS)
