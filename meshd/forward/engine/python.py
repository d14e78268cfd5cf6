"""The python engine: the packet path in readable Python on the standard library and `cryptography`.

It is the reference that the native engine is tested against, and serves where no compiler is. This file holds the tables and
the pumps; the packet path is outbound.py and inbound.py, in packet order. Everything runs on the loop's thread, one call chain
for each wake-up. Frames of one wake-up are sent in its end at the latest: nothing is ever held back for more to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from meshd.crypto.aead import AeadFactory, Suite, new_aead
from meshd.drops import DropCounters, DropReason
from meshd.errors import LocalProtocolError
from meshd.forward.engine.asking import SEGMENT, Asking
from meshd.forward.engine.inbound import Inbound
from meshd.forward.engine.interface import DatagramPort, FlowView, FramePort, Mirror, PeerCounters, Upcalls
from meshd.forward.engine.outbound import Outbound
from meshd.forward.engine.relaying import BY_RELAY, Relaying, RelayPort
from meshd.forward.engine.tables import AGGREGATE_LIMIT, MAX_RECEIVE_KEYS, Flow, Peer, ReceiveKey, SendKey
from meshd.forward.entries import MAX_ENTRY_SIZE
from meshd.forward.header import FLAG_VOUCHED, data_header_head
from meshd.forward.relay import RELAY_OVERHEAD
from meshd.forward.slots import FIRST_PEER, MAX_PEERS
from meshd.ids import Address, Endpoint, Mac, ShortId, SlotId

__all__ = ["PUMP_BYTES", "PUMP_SECONDS", "PythonEngine"]

PUMP_SECONDS = 0.001
PUMP_BYTES = 1 << 20
QUIET_SECONDS = 0.0002  # without a frame or datagram: the engine has nothing to do


class PythonEngine:
    """See `interface.Engine`. `boot`: the low 32 bits of this host's boot counter, for its floods. `clock`: monotonic seconds."""

    name = "python"
    # what the native engine has its own kinds of
    _outbound_type: type[Outbound] = Outbound
    _inbound_type: type[Inbound] = Inbound
    _relaying_type: type[Relaying] = Relaying
    _send_key_type: type[SendKey] = SendKey

    def __init__(
        self,
        frames: FramePort,
        ports: Sequence[DatagramPort],
        upcalls: Upcalls,
        *,
        origin: ShortId,
        boot: int,
        clock: Callable[[], float],
        aead_factory: AeadFactory = new_aead,
    ) -> None:
        self.drops = self._new_drops()
        self._frames = frames
        self._ports = ports
        self._clock = clock
        self._new_aead = aead_factory
        self._peers: dict[SlotId, Peer] = {}
        self._keys: dict[int, ReceiveKey] = {}
        self._overflow: dict[int, int] = {}  # by address family: what the kernel had dropped at the last read
        self._now = float("-inf")
        self._moved_at = float("inf")  # when a pump had something last
        self._fresh: set[FramePort | DatagramPort] = set()  # see `_is_first`
        self._asking = Asking(upcalls, self.drops, self._peer)
        self._outbound = self._outbound_type(self._asking, self.drops, ports, origin, boot)
        self._relaying = self._relaying_type(self._asking, self.drops, self._keys, aead_factory, origin)
        self._inbound = self._inbound_type(
            self._asking, self.drops, self._keys, self._outbound, self._relaying, frames, origin
        )
        self._outbound.several.reply = self._inbound.send_frame

    # tables

    def set_send_key(self, peer: SlotId, suite: Suite, key: bytes, receiver_index: int, relay_key: bytes = b"") -> None:
        state = self._peer(peer)
        if state.send_key is not None and state.send_key.secret == key:
            raise LocalProtocolError("the key is in use already: its nonces would start again")
        self._outbound.flush()
        state.send_key = self._send_key_type(
            self._new_aead(suite, key).seal,
            key,
            data_header_head(0, SEGMENT, receiver_index),
            data_header_head(FLAG_VOUCHED, SEGMENT, receiver_index),
            index=receiver_index,
            suite=suite,
            relay_key=relay_key,
        )
        state.counters.data_out = 0
        self._changed(state)
        self._outbound.release(state, self._now)

    def drop_send_key(self, peer: SlotId) -> None:
        self._outbound.flush()
        state = self._peer(peer)
        state.send_key = None
        self._changed(state)

    def set_path(
        self,
        peer: SlotId,
        endpoint: Address | None,
        max_datagram: int,
        via: SlotId | None = None,
        *,
        aggregate_limit: int | None = None,
        measured: bool = False,
    ) -> None:
        self._outbound.flush()  # what is in hand was made for the path before
        state = self._peer(peer)
        state.path_set = True
        state.endpoint, state.port = self._way(endpoint, via)
        state.max_datagram = max_datagram
        state.wrapping = RELAY_OVERHEAD if isinstance(state.port, RelayPort) else 0
        limit = AGGREGATE_LIMIT if aggregate_limit is None else aggregate_limit
        state.aggregate_limit = min(limit, max_datagram, MAX_ENTRY_SIZE)
        state.measured = measured
        self._changed(state)
        self._outbound.release(state, self._now)

    def add_receive_key(self, index: int, peer: SlotId, suite: Suite, key: bytes, relay_key: bytes = b"") -> None:
        """Raises LocalProtocolError for an index in use, or when MAX_RECEIVE_KEYS are there."""
        if index in self._keys or len(self._keys) >= MAX_RECEIVE_KEYS:
            raise LocalProtocolError(f"no room for receive key {index:#x}: the index is in use, or the table is full")
        cipher = self._new_aead(suite, key)
        self._keys[index] = ReceiveKey(index, self._peer(peer), cipher.open, suite=suite, relay_key=relay_key)

    def drop_receive_key(self, index: int) -> None:
        key = self._keys.pop(index, None)
        if key is not None:
            _account(key)

    def void_flows(self, mac: Mac | None = None) -> int:
        return self._asking.void_flows(mac)

    def void_trees(self) -> None:
        self._asking.void_trees()

    def raise_boot(self, boot: int) -> None:
        self._outbound.raise_boot(boot)

    def void_groups(self) -> None:
        self._asking.void_groups()

    def void_routes(self) -> None:
        self._asking.void_routes()

    # what the node sends itself

    def send_frame(self, frame: bytes) -> bool:
        return self._inbound.send_frame(frame)

    def send_control(
        self, peer: SlotId, body: bytes, endpoint: Address | None = None, via: SlotId | None = None
    ) -> bool:
        return self._outbound.control(self._peer(peer), body, *self._way(endpoint, via))

    def send_datagram(self, data: bytes, endpoint: Endpoint) -> None:
        self._outbound.datagram((data,), endpoint)

    def send_relayed(self, data: bytes, destination: ShortId, via: SlotId) -> None:
        self._outbound.datagram((data,), BY_RELAY, RelayPort(self._relaying, self._peer(via), destination))

    def replace_frames(self, frames: FramePort) -> None:
        self._frames = frames
        self._inbound.replace_frames(frames)

    def set_mirror(self, mirror: Mirror | None) -> None:
        self._outbound.mirror = self._inbound.mirror = mirror

    # who pumps

    def start(self) -> int | None:
        return None

    def stop(self) -> None:
        pass

    def pump_until(self, now: float) -> None:
        pass

    def drop_frames(self) -> None:
        pass

    def take_upcalls(self, now: float) -> bool:
        return False

    # the packet path

    def pump_frames(self, now: float) -> bool:
        """Raises OSError when the frame port does (EBADFD: the device is gone); what was read before has been sent."""
        self._now = now
        read, capture = self._frames.read, self._outbound.capture
        started, budget = self._clock(), PUMP_BYTES
        alone = self._is_first(self._frames, started)
        try:
            while budget > 0:
                data = read()
                if data is None:
                    return False
                budget -= len(data)
                capture(data, now)
                self._moved_at = self._clock()
                if alone or self._moved_at >= started + PUMP_SECONDS:
                    return True
            return True
        finally:
            self._outbound.flush()

    def pump_datagrams(self, port: DatagramPort, now: float) -> bool:
        self._now = now
        receive, take = port.receive, self._inbound.receive
        started, budget = self._clock(), PUMP_BYTES
        alone = self._is_first(port, started)
        try:
            while budget > 0:
                received = receive()
                if received is None:
                    return False
                budget -= len(received[0])
                self._count_overflow(port, received[3])
                take(received, now)
                self._moved_at = self._clock()
                if alone or self._moved_at >= started + PUMP_SECONDS:
                    return True
            return True
        finally:
            self._inbound.flush()

    def _is_first(self, port: FramePort | DatagramPort, started: float) -> bool:
        """Is this the port's first pump since the engine had nothing to do? Then it takes one frame, or one read of datagrams.

        Whether there are more the wait for the next one tells. Mostly there are not, and the read that finds nothing would
        stand between the frame and its being sent. Only where all that waits makes the descriptor readable: libpcap may hold
        some back.
        """
        if started - self._moved_at >= QUIET_SECONDS:
            self._fresh = {self._frames, *self._ports}
        if port not in self._fresh:
            return False
        self._fresh.discard(port)
        return getattr(port, "direct", False)

    # what it has seen

    def sent(self, peer: SlotId) -> PeerCounters:
        state = self._peers.get(peer)
        return state.counters if state is not None else PeerCounters()

    def peer_counters(self) -> Mapping[SlotId, PeerCounters]:
        for key in self._keys.values():
            _account(key)
        return {slot: peer.counters for slot, peer in self._peers.items()}

    def flow_count(self) -> int:
        return len(self._asking.outbound) + len(self._asking.inbound)

    def sources(self, since: float) -> Iterator[tuple[bool, Mac, float]]:
        tables = ((True, self._asking.outbound.sources(since)), (False, self._asking.inbound.sources(since)))
        return ((captured, Mac(mac), at) for captured, found in tables for mac, at in found.items())

    def flows(self, mac: Mac | None = None) -> Sequence[FlowView]:
        out, into = self._asking.outbound, self._asking.inbound
        outbound = out.flows if mac is None else out.of_mac(mac)
        inbound = into.flows if mac is None else into.of_mac(mac)
        views = [_view(flow, key, None) for key, flow in outbound.items()]
        return views + [_view(flow, key, slot) for (slot, key), flow in inbound.items()]

    # inside

    def _way(self, address: Address | None, via: SlotId | None) -> tuple[Endpoint | None, DatagramPort | None]:
        """Where to send, and out of what."""
        if isinstance(address, Endpoint):
            return address, self._outbound.port_for(address)
        if address is None or via is None:
            return None, None
        return BY_RELAY, RelayPort(self._relaying, self._peer(via), address.peer)

    def _peer(self, slot: SlotId) -> Peer:
        peer = self._peers.get(slot)
        if peer is None:
            if not FIRST_PEER <= slot < FIRST_PEER + MAX_PEERS:
                raise LocalProtocolError(f"slot {slot} is no peer's")
            peer = self._peers[slot] = self._new_peer(slot)
        return peer

    def _new_drops(self) -> DropCounters:
        return DropCounters()

    def _new_peer(self, slot: SlotId) -> Peer:
        return Peer(slot)

    def _changed(self, peer: Peer) -> None:
        """Key or path of this peer are other ones now; nothing has been sent under them yet."""

    def _count_overflow(self, port: DatagramPort, overflow: int) -> None:
        before = self._overflow.get(port.family, 0)
        if overflow != before:
            self._overflow[port.family] = overflow
            self.drops.add(DropReason.KERNEL_UDP, (overflow - before) & 0xFFFFFFFF)


def _account(key: ReceiveKey) -> None:
    """Move what came in under a key since the last time to the peer's counters: not done per datagram."""
    counters, received = key.peer.counters, key.window.received
    counters.datagrams_in += received - key.accounted
    counters.bytes_in += key.bytes
    key.accounted, key.bytes = received, 0


def _view(flow: Flow, addresses: bytes, source: SlotId | None) -> FlowView:
    return FlowView(
        outbound=source is None,
        source_slot=source,
        segment=SEGMENT,
        source=Mac(addresses[6:]),
        destination=Mac(addresses[:6]),
        slot=flow.slot,
        frames=flow.frames,
        bytes=flow.bytes,
        last_used=flow.last_used,
    )
