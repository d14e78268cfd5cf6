"""Who looks at the inner frames at the moment (`meshd capture`), each with a selection and a bounded queue of its own.

The engine's mirror is on only while somebody looks. A reader that does not keep up loses frames, which are counted and told, and
never holds anything up: the queue has MAX_QUEUED frames and MAX_QUEUED_BYTES at most.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable

from meshd.daemon.selection import Selection
from meshd.errors import UserError
from meshd.forward.engine.interface import Buffer, Engine
from meshd.forward.slots import FIRST_PEER, FLOOD, GROUP, LOCAL, slot_drop_reason
from meshd.ids import SlotId
from meshd.views import FrameView

__all__ = ["MAX_MIRRORS", "MAX_QUEUED", "MAX_QUEUED_BYTES", "Mirror", "Mirrors"]

MAX_MIRRORS = 8
MAX_QUEUED = 1024
MAX_QUEUED_BYTES = 4 << 20


class Mirror:
    """One who looks; the `FrameStream` of the control server."""

    def __init__(self, selection: Selection, ended: Callable[[Mirror], None]) -> None:
        self.title = selection.title
        self.lost = 0  # frames that there was no room for
        self._takes = selection.takes
        self._ended = ended
        self._queue: collections.deque[FrameView] = collections.deque()
        self._bytes = 0
        self._closed = False
        self._woken = asyncio.Event()

    def show(self, slot: SlotId, frame: bytes, inward: bool, peer: str, note: str) -> None:
        if not self._takes(slot, frame):
            return
        if len(self._queue) >= MAX_QUEUED or self._bytes + len(frame) > MAX_QUEUED_BYTES:
            self.lost += 1
            return
        self._queue.append(FrameView(time=time.time(), inward=inward, peer=peer, note=note, frame=frame))
        self._bytes += len(frame)
        self._woken.set()

    async def frames(self, seconds: float) -> list[FrameView] | None:
        """What has come; waits at most so long for it. None: the router ends."""
        if not self._queue and not self._closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), seconds)
        if self._closed and not self._queue:
            return None
        taken = list(self._queue)
        self._queue.clear()
        self._bytes = 0
        self._woken.clear()
        return taken

    def close(self) -> None:
        """Nobody looks any more, or the router ends. May be called again."""
        self._closed = True
        self._woken.set()
        self._ended(self)


class Mirrors:
    """All who look. `label`: the name of the peer behind a slot."""

    def __init__(self, engine: Engine, label: Callable[[SlotId], str]) -> None:
        self._engine = engine
        self._label = label
        self._mirrors: list[Mirror] = []

    def open(self, selection: Selection) -> Mirror:
        """Raises UserError when too many look already."""
        if len(self._mirrors) >= MAX_MIRRORS:
            raise UserError(f"{MAX_MIRRORS} captures run at this router already", hint="end one of them")
        mirror = Mirror(selection, self._ended)
        self._mirrors.append(mirror)
        self._engine.set_mirror(self._show)
        return mirror

    def _ended(self, mirror: Mirror) -> None:
        if mirror in self._mirrors:
            self._mirrors.remove(mirror)
        if not self._mirrors:
            self._engine.set_mirror(None)

    def _show(self, inward: bool, slot: SlotId, frame: Buffer) -> None:
        """What the engine calls for each frame. Both ends here: the bridge has delivered it, and the mesh does not carry it."""
        if slot == LOCAL:
            return
        peer, note = self._told(slot)
        copy = bytes(frame)
        for mirror in self._mirrors:
            mirror.show(slot, copy, inward, peer, note)

    def _told(self, slot: SlotId) -> tuple[str, str]:
        if slot >= FIRST_PEER:
            return self._label(slot), ""
        if slot == FLOOD:
            return "", "to all"
        if slot == GROUP:
            return "", "to the group"
        reason = slot_drop_reason(slot)
        return "", f"dropped: {reason.name.lower()}" if reason is not None else ""

    def close(self) -> None:
        for mirror in list(self._mirrors):
            mirror.close()
