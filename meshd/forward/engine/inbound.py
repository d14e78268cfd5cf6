"""Inbound: from received datagrams to the frame port. The functions occur in the order in which a datagram passes them.

  1. receive: the buffer is cut at the segment size of UDP_GRO
  2. anything but type 4 goes to the node, unread                                   TRUNCATED, UNKNOWN_VERSION, UNKNOWN_SEGMENT
  3. receiver index → key; replay look-up                                           UNKNOWN_INDEX, REPLAYED, TOO_OLD
  4. open; commit to the replay window; first one: the key is confirmed             BAD_TAG
  5. does it continue the TCP series at hand? (nearly always, under load)
     else its entries, one by one: frame, control, flood                            BAD_ENTRY, FLOOD_*, LINK_LOCAL_CONTROL
  6. flow lookup by peer, destination and source MAC: deliver, redirect, drop       UPCALL_OVERLOAD, (the slot's reason)
  7. a vouched checksum goes on as partial, at the place that the parsed headers
     have; a vouched TCP segment may begin a series                                 BAD_FRAME
  8. write                                                                          TAP_DOWN

No table is changed by bytes that are not authenticated. Only one series is open at a time and anything else ends it first, so
frames reach the bridge in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from errno import EINVAL
from struct import Struct

from cryptography.exceptions import InvalidTag

from meshd.crypto.aead import nonce as pack_nonce
from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError
from meshd.forward.coalesce import NOTHING, Coalescer
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.interface import Buffer, FramePort, Received
from meshd.forward.engine.outbound import Outbound
from meshd.forward.engine.tables import Flow, Peer, ReceiveKey
from meshd.forward.entries import (
    ENTRY_HEADER_SIZE,
    EntryKind,
    FloodHeader,
    decode_entries,
    decode_flood,
    encode_flood,
)
from meshd.forward.ethernet import ETHERNET_SIZE, is_link_local_control, parse_headers
from meshd.forward.floods import FloodTable
from meshd.forward.header import COMMON_SIZE, DATA_HEADER_SIZE, DATA_OVERHEAD, FLAG_VOUCHED, VERSION, DatagramType
from meshd.forward.slots import LOCAL, slot_drop_reason
from meshd.forward.vnet import PLAIN_VNET, encode_vnet
from meshd.ids import Endpoint, ShortId

__all__ = ["Inbound"]

_HEADER = Struct("<IIQ")  # the first four bytes as one number: they are the same for all datagrams of a stream
_FIRST_BYTE = VERSION << 4 | DatagramType.DATA


class Inbound:
    """The inbound half of the engine. Between pumps no series is open: `flush` ends it."""

    def __init__(
        self,
        asking: Asking,
        drops: DropCounters,
        keys: Mapping[int, ReceiveKey],
        outbound: Outbound,
        frames: FramePort,
        origin: ShortId,
    ) -> None:
        self._asking = asking
        self._drops = drops
        self._keys = keys
        self._outbound = outbound
        self._port = frames
        self._origin = origin
        self._floods = FloodTable()
        self._series = Coalescer()
        self._series_flow: Flow | None = None
        self._series_peer: Peer | None = None

    # 1–5: one buffer full of datagrams

    def receive(self, received: Received, now: float) -> None:
        """All datagrams of one read. Never raises for what is in them."""
        data, size, source, _ = received
        drops, series, get_header = self._drops, self._series, _HEADER.unpack_from
        word_at_hand = index_at_hand = -1
        for start in range(0, len(data), size):
            datagram = data[start : start + size]
            if len(datagram) < DATA_OVERHEAD:
                self._other(datagram, source, now)
                continue
            word, index, counter = get_header(datagram)
            if index != index_at_hand or word != word_at_hand:
                self._end_series()
                found = self._key(datagram, word, index, source, now)
                if found is None:
                    word_at_hand = index_at_hand = -1
                    continue
                word_at_hand, index_at_hand = word, index
                key, window, open_ = found, found.window, found.open
            if counter <= window.head and (reason := window.check(counter)) is not None:
                drops.add(reason)
                continue
            try:
                plain = open_(pack_nonce(counter), datagram[DATA_HEADER_SIZE:], datagram[:DATA_HEADER_SIZE])
            except InvalidTag:
                drops.add(DropReason.BAD_TAG)
                continue
            window.commit(counter)
            key.bytes += len(datagram)
            if plain.startswith(series.expected) and len(plain) == series.whole:
                series.payloads.append(plain[series.cut :])
                series.expected = next(series.run, NOTHING)
            else:
                self._opened(key, counter, bool(word >> 8 & FLAG_VOUCHED), plain, source, now)

    def _other(self, datagram: memoryview, source: Endpoint, now: float) -> None:
        """Not long enough for type 4, or another type: the node looks at it, unless it is no datagram of ours at all."""
        if len(datagram) < COMMON_SIZE:
            self._drops.add(DropReason.TRUNCATED)
        elif datagram[0] & 0x0F != DatagramType.DATA:
            self._asking.upcalls.receive_handshake(datagram, source, now)
        else:
            self._drops.add(DropReason.TRUNCATED if datagram[0] == _FIRST_BYTE else DropReason.UNKNOWN_VERSION)

    def _key(self, datagram: memoryview, word: int, index: int, source: Endpoint, now: float) -> ReceiveKey | None:
        """The key that a stream of type 4 datagrams names; None: counted, or handed to the node."""
        if word & 0xFF != _FIRST_BYTE:
            self._other(datagram, source, now)
        elif word >> 16:
            self._drops.add(DropReason.UNKNOWN_SEGMENT)
        elif index not in self._keys:
            self._drops.add(DropReason.UNKNOWN_INDEX)
        else:
            return self._keys[index]
        return None

    def _opened(self, key: ReceiveKey, counter: int, vouched: bool, plain: bytes, source: Endpoint, now: float) -> None:
        """An authentic datagram that does not simply continue the series."""
        peer = key.peer
        peer.counters.last_heard = now
        if key.first:
            key.first = False
            self._asking.upcalls.key_confirmed(key.index, now)
        if vouched and self._series.ends_with(plain):
            self._end_series()
            return
        self._end_series()
        try:
            for kind, body in decode_entries(plain):
                if kind == EntryKind.FRAME:
                    alone = len(body) + ENTRY_HEADER_SIZE == len(plain)
                    self._frame(peer, body, vouched, plain if alone else None, now)
                elif kind == EntryKind.FLOOD:
                    self._flood(peer, body, vouched, now)
                elif kind == EntryKind.CONTROL:
                    self._asking.upcalls.receive_control(peer.slot, key.index, counter, body, source, now)
                else:
                    self._drops.add(DropReason.BAD_ENTRY)
        except DecodeError:
            self._drops.add(DropReason.BAD_ENTRY)

    # 6: where to

    def _frame(self, peer: Peer, frame: memoryview, vouched: bool, plain: bytes | None, now: float) -> None:
        """A frame from one peer for this host. `plain`: the datagram's plaintext, if the frame is all that is in it."""
        if len(frame) < ETHERNET_SIZE:
            self._drops.add(DropReason.BAD_FRAME)
            return
        peer.counters.frames_in += 1
        flow = self._asking.inbound_flow(peer.slot, bytes(frame[:12]), now)
        if flow is None:
            return
        flow.frames += 1
        flow.bytes += len(frame)
        flow.last_used = now
        if flow.slot == LOCAL:
            self._series_flow, self._series_peer = flow, peer
            self._deliver(frame, vouched, plain)
        elif flow.peer is not None:
            self._outbound.redirect(flow.peer, frame, vouched, now)
        else:
            self._drops.add(slot_drop_reason(flow.slot) or DropReason.NOT_LOCAL)

    def _flood(self, peer: Peer, body: memoryview, vouched: bool, now: float) -> None:
        """A flooded frame: deliver it once, pass it on to our children in the origin's tree."""
        flood, frame = decode_flood(body)
        peer.counters.frames_in += 1
        reason = self._refuse_flood(flood, frame)
        if reason is not None:
            self._drops.add(reason)
            return
        children = self._asking.children(flood.origin, peer.slot, now)
        if children is None:
            return
        if not self._floods.accept(flood.origin, flood.boot, flood.sequence):
            self._drops.add(DropReason.FLOOD_DUPLICATE)
            return
        if flood.ttl > 1 and children:
            entry = encode_flood(flood._replace(ttl=flood.ttl - 1), frame)
            for child in children:
                if child is not peer:
                    self._outbound.entry(child, entry, vouched, now)
        self._deliver(frame, vouched, None)

    def _refuse_flood(self, flood: FloodHeader, frame: memoryview) -> DropReason | None:
        if len(frame) < ETHERNET_SIZE:
            return DropReason.BAD_FRAME
        if flood.origin == self._origin:
            return DropReason.FLOOD_DUPLICATE
        if flood.ttl == 0:
            return DropReason.FLOOD_TTL
        if is_link_local_control(frame):
            return DropReason.LINK_LOCAL_CONTROL
        return None

    # 7: checksums and series

    def _deliver(self, frame: memoryview, vouched: bool, plain: bytes | None) -> None:
        """Write a frame, or hold it as the beginning of a series."""
        if not vouched:
            self._write((PLAIN_VNET, frame))
            return
        headers = parse_headers(frame)
        if headers is None:
            self._drops.add(DropReason.BAD_FRAME)
        elif plain is None or not self._series.begin(plain, headers):
            self._write((encode_vnet(headers), frame))

    def _end_series(self) -> None:
        """Write what the series has, if there is one, before anything else is written."""
        parts, count = self._series.end()
        if not parts:
            return
        flow, peer = self._series_flow, self._series_peer
        if flow is not None and peer is not None:  # the first one was counted when it came
            flow.frames += count - 1
            flow.bytes += (count - 1) * self._series.whole
            peer.counters.frames_in += count - 1
        self._write(parts)

    # 8: write

    def _write(self, parts: Sequence[Buffer]) -> None:
        """Write a frame in parts: vnet header first. EINVAL is the frame's fault, everything else the device's."""
        try:
            if not self._port.write(parts):
                self._drops.add(DropReason.TAP_DOWN)
        except OSError as error:
            self._drops.add(DropReason.BAD_FRAME if error.errno == EINVAL else DropReason.TAP_DOWN)

    def flush(self) -> None:
        """The end of a wake-up: everything is written or sent."""
        self._end_series()
        self._outbound.flush()
