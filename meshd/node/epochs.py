"""A later life of this host is known to the mesh: the boot counter, which is the epoch of its log, has to go beyond it.

    others have records of ours under an epoch that we never wrote ──► persist a higher boot counter ──► say all again under it

After a backup was put back that happens once. Where two hosts run with one identity it never ends, for each of them finds the
other's log ahead; and every raise is a write to the disk and a whole log on its way to every host. So two are made at once, and
then one follows RAISE_EVERY_S after the last but one; whoever needs a third within OFTEN_S tells its user why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from meshd.node.notices import Notices

__all__ = ["RAISE_EVERY_S", "Epochs"]

RAISE_EVERY_S = 10.0
OFTEN_S = 60.0
PERSIST_S = 10.0  # not on disk by then: asked for again
AT_ONCE = 2  # a backup may have been put back while the mesh was in two parts, which know different lives
CLONE = (
    "another host runs with this host's identity, a copy of its files: `meshd reset` on one of the two gives it its own"
)


class Epochs:
    """`own`: the epoch of the log as it is now."""

    def __init__(self, own: Callable[[], int], notices: Notices) -> None:
        self._own = own
        self._notices = notices
        self._ahead = -1  # the highest epoch of ours that others had records of
        self._asked = 0
        self._asked_at: deque[float] = deque(maxlen=AT_ONCE)

    def ahead(self, epoch: int) -> None:
        """Others have records of ours under this epoch."""
        self._ahead = max(self._ahead, epoch)

    def next_deadline(self) -> float | None:
        if self._ahead < self._own():
            return None
        if self._on_its_way:
            return self._asked_at[-1] + PERSIST_S
        return self._asked_at[0] + RAISE_EVERY_S if len(self._asked_at) == AT_ONCE else float("-inf")

    def poll(self, now: float) -> int | None:
        """The boot counter to be persisted now, at least."""
        due = self.next_deadline()
        if due is None:
            return None
        if not self._on_its_way and len(self._asked_at) == AT_ONCE and now < self._asked_at[0] + OFTEN_S:
            self._notices.add(CLONE, now)
        if now < due:
            return None
        self._asked = self._ahead + 1
        self._asked_at.append(now)
        return self._asked

    @property
    def _on_its_way(self) -> bool:
        return self._ahead < self._asked and self._own() < self._asked
