"""The two halves of the packet path for the exceptions: the python engine's, sending through C where C sends too.

A peer that C may send to ("open") has one aggregate for both, in C: whoever adds to it, frames leave in the order in which they
came. What goes past the aggregate (super-frames) flushes it first, as the python engine does; control overtakes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshd.crypto.aead import Suite
from meshd.drops import DropCounters
from meshd.errors import LocalProtocolError
from meshd.forward.engine.inbound import Inbound
from meshd.forward.engine.interface import Buffer
from meshd.forward.engine.native import _core
from meshd.forward.engine.outbound import Outbound
from meshd.forward.engine.tables import Operation, Peer, ReceiveKey, SendKey
from meshd.forward.header import DATA_HEADER_SIZE
from meshd.ids import Endpoint, SlotId

if TYPE_CHECKING:
    from meshd.forward.engine.native.engine import NativeEngine

__all__ = ["NativeDrops", "NativeInbound", "NativeOutbound", "NativePeer", "NativeSendKey", "native_aead"]


class NativePeer(Peer):
    """`core`: what C knows of it."""

    __slots__ = ("core",)

    def __init__(self, slot: SlotId, core: _core.Peer) -> None:
        super().__init__(slot)
        self.core = core


class NativeSendKey(SendKey):
    """The counter is C's."""

    __slots__ = ("core",)

    def __init__(
        self,
        seal: Operation,
        secret: bytes,
        head: bytes,
        head_vouched: bytes,
        *,
        index: int,
        suite: Suite,
        relay_key: bytes,
    ) -> None:
        self.core = _core.SealKey(native_aead(seal), head, head_vouched)
        super().__init__(seal, secret, head, head_vouched, index=index, suite=suite, relay_key=relay_key)

    @property
    def counter(self) -> int:
        return self.core.counter

    @counter.setter
    def counter(self, value: int) -> None:
        self.core.counter = value


class NativeDrops(DropCounters):
    """What C has dropped is added when somebody reads."""

    __slots__ = ("_core",)

    def __init__(self, core: _core.Core) -> None:
        super().__init__()
        self._core = core

    def _read(self) -> list[int]:
        for reason, count in self._core.take_drops().items():
            self._counts[reason] += count
        return self._counts


class NativeOutbound(Outbound):
    """`engine` is set right after it is made."""

    engine: NativeEngine

    def native_send(self, peer: Peer, data: bytes, size: int) -> None:
        """Datagrams of one size, the last one perhaps shorter, for a port without a descriptor."""
        parts: list[bytes] = []
        for at in range(0, len(data), size):
            parts += (data[at : at + DATA_HEADER_SIZE], data[at + DATA_HEADER_SIZE : at + size])
        self._send(peer, parts, size)

    def flush_own(self) -> None:
        """The end of a wake-up, for peers that Python sends to; C has flushed its own."""
        if self._busy:
            super().flush()

    def flush(self) -> None:
        super().flush()
        self.engine.core.flush(self.engine, None)

    def _aggregate(self, peer: Peer, entry: bytes, vouched: bool) -> None:
        if isinstance(peer, NativePeer) and peer.core.open:
            self.engine.core.aggregate(self.engine, peer.core, entry, vouched)
        else:
            super()._aggregate(peer, entry, vouched)

    def _flush_peer(self, peer: Peer) -> None:
        super()._flush_peer(peer)
        if isinstance(peer, NativePeer):
            self.engine.core.flush(self.engine, peer.core)


class NativeInbound(Inbound):
    """C has ended its series before it calls, and finds none open afterwards."""

    def native_take(self, data: bytes, size: int, source: Endpoint, now: float) -> None:
        """Datagrams of one size, the last one perhaps shorter."""
        self._take(data, size, source, now)
        self._end_series()

    def native_opened(
        self, key: ReceiveKey, counter: int, vouched: bool, newest: bool, plain: bytes, source: Endpoint, now: float
    ) -> None:
        self._opened(key, counter, vouched, plain, source, now, newest)
        self._end_series()

    def native_write(self, parts: Sequence[Buffer], frames: int) -> None:
        self._write(parts, frames)


def native_aead(operation: Operation) -> _core.Aead:
    """The key behind a bound `seal` or `open`."""
    aead = getattr(operation, "__self__", None)
    if not isinstance(aead, _core.Aead):
        raise LocalProtocolError("a key of another engine")
    return aead
