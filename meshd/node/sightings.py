"""MACs that were captured here: claimed at their first frame, aged while none comes, looked at again where a claim had to wait.

The flows of a station are cached, so its next frames ask nobody. Whom the rate of new MACs kept out is therefore asked about every
second from what waits in the table, and those beyond that by the sweep, which looks at the sources of all flows in use.
"""

from __future__ import annotations

from meshd.errors import UserError
from meshd.forward.engine.interface import Engine
from meshd.forward.fdb import Fdb
from meshd.ids import HostId, Mac, SegmentId
from meshd.node.changes import Changes
from meshd.node.notices import Notices
from meshd.node.own import SEGMENT, OwnRecords

__all__ = ["AGAIN_S", "MAX_SWEPT", "SWEEP_S", "Sightings"]

SWEEP_S = 60.0  # learned MACs are aged, frozen ones thawed
AGAIN_S = 1.0  # a second's worth of new MACs each time
MAX_SWEPT = 1024  # MACs that a sweep asks to have claimed


class Sightings:
    def __init__(
        self,
        *,
        self_id: HostId,
        fdb: Fdb,
        own: OwnRecords,
        changes: Changes,
        notices: Notices,
        engine: Engine,
        now: float,
    ) -> None:
        self._self = self_id
        self._fdb = fdb
        self._own = own
        self._changes = changes
        self._notices = notices
        self._engine = engine
        self._swept_at = now
        self._again_at: float | None = None

    def next_deadline(self) -> float:
        sweep_at = self._swept_at + SWEEP_S
        return sweep_at if self._again_at is None else min(sweep_at, self._again_at)

    def handle_timer(self, now: float) -> None:
        if self._again_at is not None and now >= self._again_at:
            self._again_at = now + AGAIN_S
            for key in self._fdb.take_waiting():
                self.captured(key.segment, key.mac, now)
            if not self._fdb.waits:
                self._again_at = None
        if now >= self._swept_at + SWEEP_S:
            self._sweep(now)

    def captured(self, segment: SegmentId, mac: Mac, now: float) -> None:
        """A frame with this source came from the bridge."""
        try:
            self._changes.void(self._own.captured(segment, mac, now))
        except UserError:
            self._notices.add("this host announces too much already: new MACs are not announced", now)
        self._changes.take_alarms(now)
        if self._fdb.waits and self._again_at is None:
            self._again_at = now + AGAIN_S

    def _sweep(self, now: float) -> None:
        elsewhere: list[Mac] = []
        for captured, mac, at in self._engine.sources(self._swept_at):
            self._fdb.touch(SEGMENT, mac, at, local=captured)
            if captured and len(elsewhere) < MAX_SWEPT and self._fdb.lookup(SEGMENT, mac) != self._self:
                elsewhere.append(mac)
        self._swept_at = now
        self._changes.void(self._own.expire_learned(now))
        self._changes.void([key.mac for key in self._fdb.thaw(now)])
        for mac in elsewhere:
            self.captured(SEGMENT, mac, now)
