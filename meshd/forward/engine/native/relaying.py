"""Relaying for the exceptions: the python engine's, over the keys, counters and windows that C has.

What is relayed first under a key comes here; its relay layer is made then, and C has it from then on. So with next hops: whatever
Python has just sent on its way, C is told where that leads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from meshd.crypto.replay import ReplayWindow
from meshd.drops import went_out
from meshd.errors import LocalProtocolError
from meshd.forward.engine.native import _core
from meshd.forward.engine.native.halves import NativePeer, NativeSendKey, native_aead
from meshd.forward.engine.relaying import Relaying
from meshd.forward.engine.tables import Peer, ReceiveKey, RelayReceive, RelaySend, SendKey
from meshd.forward.relay import RELAY_OVERHEAD, RelayHeader, hop_head, relay_suite

if TYPE_CHECKING:
    from meshd.forward.engine.tables import Operation

__all__ = ["NativeRelaySend", "NativeRelaying"]


class NativeRelaySend(RelaySend):
    """The counter is C's."""

    __slots__ = ("core",)

    def __init__(self, seal: Operation, head: bytes) -> None:
        self.core = _core.SealKey(native_aead(seal), head, head)
        super().__init__(seal, head)

    @property
    def counter(self) -> int:
        return self.core.counter

    @counter.setter
    def counter(self, value: int) -> None:
        self.core.counter = value


class NativeRelaying(Relaying):
    """`core` is set right after it is made."""

    core: _core.Core

    def pass_on(self, header: RelayHeader, hop: Peer, route: bytes, carried: list[bytes], now: float) -> None:
        super().pass_on(header, hop, route, carried, now)
        via = self._asking.known_route(header.destination)
        if isinstance(via, NativePeer):
            self.core.add_route(header.destination, via.core)

    def prepare(self, via: Peer) -> None:
        """The relay layer of its key is made before it is needed, so that C has all of what is sent through it."""
        key = via.send_key
        if key is not None and key.relay_key and key.relay is None:
            key.relay = self._sender(key)

    def native_send(self, via: Peer, source: Peer | None, data: bytes, size: int) -> None:
        """Relayed datagrams of one size, the last one perhaps shorter, for a port without a descriptor: of `source` or others."""
        count = -(-len(data) // size)
        if via.port is None or via.endpoint is None:
            raise LocalProtocolError("C sends where Python has no path")
        unsent = via.port.send((data,), size if count > 1 else 0, via.endpoint)
        if unsent is not None:
            self._drops.add(*unsent)
        sent, sent_bytes = went_out(unsent, count, size, len(data))
        via.counters.data_out += sent
        via.counters.relayed_out += sent
        via.counters.relayed_bytes_out += sent_bytes
        if source is not None:
            source.counters.datagrams_out += sent
            source.counters.data_out += sent
            source.counters.bytes_out += sent_bytes - sent * RELAY_OVERHEAD

    def _sender(self, key: SendKey) -> RelaySend:
        made = NativeRelaySend(self._new_aead(relay_suite(key.suite), key.relay_key).seal, hop_head(key.index))
        if isinstance(key, NativeSendKey):
            key.core.set_relay(made.core)
        return made

    def _receiver(self, key: ReceiveKey) -> RelayReceive:
        made, window = super()._receiver(key), _core.ReplayWindow()
        made.window = cast(ReplayWindow, window)
        self.core.add_relay_key(key.index, window, native_aead(made.open))
        return made
