"""NativeEngine: the python engine with its hits moved into C (see the package's docstring for how the two share the work)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from meshd.crypto.aead import Suite
from meshd.crypto.replay import ReplayWindow
from meshd.drops import DropCounters
from meshd.errors import LocalProtocolError
from meshd.forward.engine.asking import InboundKey
from meshd.forward.engine.interface import Buffer, DatagramPort, FramePort, PeerCounters, Upcalls
from meshd.forward.engine.native import _core
from meshd.forward.engine.native.halves import (
    NativeDrops,
    NativeInbound,
    NativeOutbound,
    NativePeer,
    NativeSendKey,
    native_aead,
)
from meshd.forward.engine.native.relaying import NativeRelaying
from meshd.forward.engine.python import PythonEngine
from meshd.forward.engine.relaying import RelayPort
from meshd.forward.engine.tables import MAX_FLOWS, FlowTable, Peer, ReceiveKey
from meshd.ids import Endpoint, Relayed, ShortId, SlotId

__all__ = ["NativeEngine", "descriptor"]


class _Segmenting(Protocol):
    segmenting: bool


class NativeEngine(PythonEngine):
    """See `interface.Engine`. Ports that are `direct` are read and written by C itself, which then looks at the clock, too."""

    name = "native"
    _outbound_type = NativeOutbound
    _inbound_type = NativeInbound
    _relaying_type = NativeRelaying
    _send_key_type = NativeSendKey
    _queues = False  # what C needs Python for

    def __init__(
        self,
        frames: FramePort,
        ports: Sequence[DatagramPort],
        upcalls: Upcalls,
        *,
        origin: ShortId,
        boot: int,
        clock: Callable[[], float],
    ) -> None:
        outbound, inbound = _core.FlowTable(MAX_FLOWS), _core.FlowTable(MAX_FLOWS)
        self.core = _core.Core(outbound, inbound, self._queues)
        asked = self._asked(upcalls)
        super().__init__(frames, ports, asked, origin=origin, boot=boot, clock=clock, aead_factory=_new_aead)
        self._asking.outbound = cast(FlowTable[bytes], outbound)
        self._asking.inbound = cast(FlowTable[InboundKey], inbound)
        self._numbers = {
            port.family: self.core.add_port(port, descriptor(port), port.family, getattr(port, "segmenting", True))
            for port in ports
        }
        self._outbound_half = cast(NativeOutbound, self._outbound)
        self._outbound_half.engine = self
        self._inbound_half = cast(NativeInbound, self._inbound)
        self._native_relaying = cast(NativeRelaying, self._relaying)
        self._native_relaying.core = self.core
        self._vias: set[SlotId] = set()  # peers that others have been reached through
        self.core.relay_for(origin)

    def _asked(self, upcalls: Upcalls) -> Upcalls:
        """Whom the engine asks; the threaded one puts something in between."""
        return upcalls

    # tables

    def set_send_key(self, peer: SlotId, suite: Suite, key: bytes, receiver_index: int, relay_key: bytes = b"") -> None:
        self._outbound.flush()  # under the key before, and counted with it: then `data_out` begins anew
        self._account_peer(self._peer(peer))
        super().set_send_key(peer, suite, key, receiver_index, relay_key)

    def add_receive_key(self, index: int, peer: SlotId, suite: Suite, key: bytes, relay_key: bytes = b"") -> None:
        super().add_receive_key(index, peer, suite, key, relay_key)
        made, window = self._keys[index], _core.ReplayWindow()
        made.window = cast(ReplayWindow, window)
        self.core.add_key(index, made, window, native_aead(made.open), _native(made.peer).core)

    def drop_receive_key(self, index: int) -> None:
        key = self._keys.get(index)
        if key is not None:
            key.bytes += self.core.drop_key(index)
        super().drop_receive_key(index)

    def void_routes(self) -> None:
        super().void_routes()
        self.core.void_routes()

    # the packet path

    def pump_frames(self, now: float) -> bool:
        self._now = now
        if self._outbound.mirror is not None:
            return super().pump_frames(now)
        frames = self._frames
        try:
            return self.core.pump_frames(self, frames, descriptor(frames), now)
        finally:
            self._outbound_half.flush_own()

    def pump_datagrams(self, port: DatagramPort, now: float) -> bool:
        self._now = now
        number, frames = self._numbers[port.family], self._frames
        if self._inbound.mirror is None:
            try:
                return self.core.pump_datagrams(self, frames, descriptor(frames), number, now)
            finally:
                self._outbound_half.flush_own()
        self._overflow[port.family] = self.core.overflow(number)
        try:
            return super().pump_datagrams(port, now)
        finally:
            self.core.overflow(number, self._overflow[port.family])

    # the ways back from C; what they are given is theirs

    def native_capture(self, data: bytearray, now: float) -> None:
        self._outbound.capture(memoryview(data), now)

    def native_take(self, data: bytes, size: int, source: Endpoint, now: float) -> None:
        self._inbound_half.native_take(data, size, source, now)

    def native_opened(
        self, key: ReceiveKey, counter: int, vouched: int, newest: int, plain: bytes, source: Endpoint, now: float
    ) -> None:
        self._inbound_half.native_opened(key, counter, bool(vouched), bool(newest), plain, source, now)

    def native_write(self, parts: Sequence[Buffer], frames: int) -> None:
        self._inbound_half.native_write(parts, frames)

    def native_send(self, hop: SlotId, source: SlotId | None, data: bytes, size: int) -> None:
        if hop == source:
            self._outbound_half.native_send(self._peers[hop], data, size)
        else:
            peer = None if source is None else self._peers[source]
            self._native_relaying.native_send(self._peers[hop], peer, data, size)

    def native_clock(self) -> float:
        return self._clock()

    def native_endpoint(self, host: str, port: int) -> Endpoint:
        return Endpoint(host, port)

    def native_relayed(self, source: bytes) -> Relayed:
        return Relayed(ShortId(source))

    def flush(self) -> None:
        """What is in hand for any peer goes out, C's too."""
        self._outbound_half.flush()

    # what it has seen

    def sent(self, peer: SlotId) -> PeerCounters:
        state = self._peers.get(peer)
        if state is not None:
            self._account_peer(state)
        return super().sent(peer)

    def peer_counters(self) -> Mapping[SlotId, PeerCounters]:
        for index, key in self._keys.items():
            key.bytes += self.core.take_bytes(index)
        for peer in self._peers.values():
            self._account_peer(peer)
        for port in self._ports:
            if not self.core.segmenting(self._numbers[port.family]):
                cast(_Segmenting, port).segmenting = False  # `status` asks the port
        return super().peer_counters()

    # inside

    def _account_peer(self, peer: Peer) -> None:
        frames_out, datagrams_out, bytes_out, frames_in, heard = _native(peer).core.take()
        relayed_out, relayed_bytes_out, relayed_bytes_in = self.core.take_relayed(_native(peer).core)
        counters = peer.counters
        counters.frames_out += frames_out
        counters.frames_in += frames_in
        counters.datagrams_out += datagrams_out
        counters.data_out += datagrams_out + relayed_out
        counters.bytes_out += bytes_out
        counters.relayed_out += relayed_out
        counters.relayed_bytes_out += relayed_bytes_out
        counters.relayed_bytes_in += relayed_bytes_in
        counters.last_heard = max(counters.last_heard, heard)

    def _new_drops(self) -> DropCounters:
        return NativeDrops(self.core)

    def _new_peer(self, slot: SlotId) -> Peer:
        return NativePeer(slot, self.core.make_peer(slot))

    def _changed(self, peer: Peer) -> None:
        """C sends to a peer with a key and a path out of a socket of ours, or through such a peer; to others Python does."""
        core, key, endpoint, port = _native(peer).core, peer.send_key, peer.endpoint, peer.port
        self.core.flush(self, None)
        if peer.slot in self._vias:
            self._native_relaying.prepare(peer)
        if isinstance(key, NativeSendKey) and isinstance(port, RelayPort):
            self._vias.add(port.via.slot)
            self._native_relaying.prepare(port.via)
            via, limits = _native(port.via).core, (peer.max_datagram, peer.aggregate_limit)
            if via is not core:
                self.core.open_through(core, key.core, via, port.route, *limits)
                return
        elif isinstance(key, NativeSendKey) and endpoint and port:
            number = self._numbers[port.family]
            opened = self.core.open_peer(
                core, key.core, number, endpoint.host, endpoint.port, peer.max_datagram, peer.aggregate_limit
            )
            if opened:
                return
        self.core.close_peer(core)


def descriptor(port: FramePort | DatagramPort) -> int:
    """What C may read and write itself; -1: it asks the port."""
    return port.fileno() if getattr(port, "direct", False) else -1


def _native(peer: Peer) -> NativePeer:
    if not isinstance(peer, NativePeer):
        raise LocalProtocolError("a peer of another engine")
    return peer


def _new_aead(suite: Suite, key: bytes) -> _core.Aead:
    return _core.Aead(suite, key)
