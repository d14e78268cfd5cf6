"""Inbound: from received datagrams to the frame port. The functions occur in the order in which a datagram passes them.

  1. receive: the buffer is cut at the segment size of UDP_GRO
  2. type 8 is unwrapped, or passed on (relaying.py); anything else but type 4
     goes to the node, unread                                                    TRUNCATED, UNKNOWN_VERSION, UNKNOWN_SEGMENT
  3. receiver index → key; replay look-up                                        UNKNOWN_INDEX, REPLAYED, TOO_OLD
  4. open; commit to the replay window                                           BAD_TAG
  5. first one under this key: confirmed; a segment of the series at hand, or
     its entries, one by one: frame, control, flood, a piece of either           BAD_ENTRY, FLOOD_*, *FRAGMENT*, LINK_LOCAL_…
  6. flow lookup by peer, destination and source MAC: deliver, redirect, drop    UPCALL_OVERLOAD, (the slot's reason)
  7. a vouched checksum goes on as partial, at the place that the parsed
     headers have; a vouched TCP segment may begin a series                      BAD_FRAME
  8. write                                                                       TAP_DOWN

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
from meshd.forward.coalesce import Coalescer
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.interface import Buffer, FramePort, Mirror, Received
from meshd.forward.engine.outbound import Outbound
from meshd.forward.engine.relaying import Relaying
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
from meshd.forward.fragment import Reassembly
from meshd.forward.header import (
    COMMON_SIZE,
    DATA_HEADER_SIZE,
    DATA_OVERHEAD,
    FLAG_VOUCHED,
    LAST_COUNTER,
    VERSION,
    DatagramType,
    counter_run,
)
from meshd.forward.relay import CARRIED_TYPES, RELAY_FIRST_BYTE
from meshd.forward.runs import split
from meshd.forward.slots import LOCAL, slot_drop_reason
from meshd.forward.vnet import PLAIN_VNET, encode_vnet
from meshd.ids import Address, Relayed, ShortId, SlotId

__all__ = ["MIN_RUN", "Inbound"]

MIN_RUN = 3  # datagrams; below, the prediction costs more than it saves

_HEADER = Struct("<BBHIQ")
# Plain integers: in Python 3.11 naming an enum member costs as much as a struct call, and these are named per frame.
_FRAME, _CONTROL, _FLOOD = int(EntryKind.FRAME), int(EntryKind.CONTROL), int(EntryKind.FLOOD)  # 3 is a fragment
_HEAD_SIZE = 8  # of a header, without the counter
_FIRST_BYTE = VERSION << 4 | DatagramType.DATA


class Inbound:
    """The inbound half of the engine. Between pumps no series is open: `flush` ends it."""

    def __init__(
        self,
        asking: Asking,
        drops: DropCounters,
        keys: Mapping[int, ReceiveKey],
        outbound: Outbound,
        relaying: Relaying,
        frames: FramePort,
        origin: ShortId,
    ) -> None:
        self._asking = asking
        self._drops = drops
        self._keys = keys
        self._outbound = outbound
        self._relaying = relaying
        self._port = frames
        self._origin = origin
        self.mirror: Mirror | None = None
        self._floods = FloodTable()
        self._reassembly: Reassembly[SlotId] = Reassembly(drops)
        outbound.oversize.write = self._write
        self._series = Coalescer()
        self._series_flow: Flow | None = None
        self._series_key: ReceiveKey | None = None

    def replace_frames(self, frames: FramePort) -> None:
        self._port = frames

    # 1: one buffer full of datagrams

    def receive(self, received: Received, now: float) -> None:
        """All datagrams of one read. Never raises for what is in them."""
        raw, size, source, _ = received
        self._take(raw, size, source, now)

    def _take(self, raw: bytes, size: int, source: Address, now: float) -> None:
        at = self._run(raw, size, source, now) if len(raw) >= MIN_RUN * size else 0
        while at < len(raw):
            if raw[at] == RELAY_FIRST_BYTE:
                at += self._relayed(raw[at:], size, source, now)
            else:
                self._datagram(raw[at : at + size], source, now)
                at += size

    def _relayed(self, raw: bytes, size: int, source: Address, now: float) -> int:
        """Step 2 for type 8: as many from the beginning as are alike. What is inside another one is of another type."""
        if isinstance(source, Relayed):
            self._drops.add(DropReason.UNKNOWN_TYPE)
            return size
        opened = self._relaying.open(raw, size, now)
        if opened is None:
            return size
        header, hop, route, carried = opened
        if header.destination != self._origin:
            self._relaying.pass_on(header, hop, route, carried, now)
        else:
            self._carried(carried, Relayed(header.source), now)
        return len(carried) * size

    def _carried(self, carried: list[bytes], source: Relayed, now: float) -> None:
        kept = [datagram for datagram in carried if datagram[0] & 0x0F in CARRIED_TYPES]
        if len(kept) < len(carried):
            self._drops.add(DropReason.UNKNOWN_TYPE, len(carried) - len(kept))
        if kept:
            self._take(b"".join(kept), len(kept[0]), source, now)

    def _run(self, raw: bytes, size: int, source: Address, now: float) -> int:
        """Steps 2 to 5 for a buffer of equal datagrams with consecutive new counters, as a super-frame brings: all at once.

        Headers are not parsed but predicted from the first one and compared. Returns how far it got: to the last datagram, which
        may be shorter, or 0, nothing done, where anything is not as predicted; then each datagram is looked at by itself.
        """
        count = len(raw) // size
        if size < DATA_OVERHEAD or raw[0] != _FIRST_BYTE:
            return 0
        _, flags, segment, index, counter = _HEADER.unpack_from(raw)
        key = self._keys.get(index)
        if segment or key is None or counter <= key.window.head or counter + count > LAST_COUNTER:
            return 0
        parts = split(count, DATA_HEADER_SIZE, size - DATA_HEADER_SIZE).unpack_from(raw)
        headers, nonces = counter_run(raw[:_HEAD_SIZE], counter, count)
        if parts[::2] != headers:
            return 0
        try:
            plains = list(map(key.open, nonces, parts[1::2], headers))
        except InvalidTag:
            return 0  # counted when it is found out again, one by one
        key.window.commit(counter)
        key.window.commit_run(counter + count)
        key.bytes += count * size
        self._opened_run(key, counter, bool(flags & FLAG_VOUCHED), plains, source, now)
        return count * size

    def _opened_run(
        self, key: ReceiveKey, counter: int, vouched: bool, plains: list[bytes], source: Address, now: float
    ) -> None:
        """Authentic datagrams of one size: those that continue the series at hand join it, the others go one by one."""
        key.peer.counters.last_heard = now
        at = 0
        while at < len(plains):
            if vouched and key is self._series_key:
                at += self._series.take(plains[at:])
            if at < len(plains):
                self._opened(key, counter + at, vouched, plains[at], source, now)
                at += 1

    # 2–4: one datagram of any kind

    def _datagram(self, datagram: bytes, source: Address, now: float) -> None:
        if len(datagram) < DATA_OVERHEAD or datagram[0] != _FIRST_BYTE:
            self._other(datagram, source, now)
            return
        _, flags, segment, index, counter = _HEADER.unpack_from(datagram)
        if segment:
            self._drops.add(DropReason.UNKNOWN_SEGMENT)
            return
        key = self._keys.get(index)
        if key is None:
            self._drops.add(DropReason.UNKNOWN_INDEX)
            return
        reason = key.window.check(counter)
        if reason is not None:
            self._drops.add(reason)
            return
        try:
            plain = key.open(pack_nonce(counter), datagram[DATA_HEADER_SIZE:], datagram[:DATA_HEADER_SIZE])
        except InvalidTag:
            self._drops.add(DropReason.BAD_TAG)
            return
        key.window.commit(counter)
        key.bytes += len(datagram)
        self._opened(key, counter, bool(flags & FLAG_VOUCHED), plain, source, now)

    def _other(self, datagram: bytes, source: Address, now: float) -> None:
        """Not long enough for type 4, or another type: the node looks at it, unless it is no datagram of ours at all."""
        if len(datagram) < COMMON_SIZE:
            self._drops.add(DropReason.TRUNCATED)
        elif datagram[0] & 0x0F != DatagramType.DATA:
            self._asking.upcalls.receive_handshake(memoryview(datagram), source, now)
        else:
            self._drops.add(DropReason.TRUNCATED if datagram[0] == _FIRST_BYTE else DropReason.UNKNOWN_VERSION)

    # 5: entries

    def _opened(
        self,
        key: ReceiveKey,
        counter: int,
        vouched: bool,
        plain: bytes,
        source: Address,
        now: float,
        newest: bool | None = None,
    ) -> None:
        """One authentic datagram. `newest`: under its key, when it came; None: that is now."""
        peer = key.peer
        peer.counters.last_heard = now
        if key.first:
            key.first = False
            self._asking.upcalls.key_confirmed(key.index, now)
        of_series = vouched and key is self._series_key
        if of_series and self._series.take((plain,)):
            return
        last = of_series and self._series.ends_with(plain)
        self._end_series()
        if last:
            return
        try:
            for kind, body in decode_entries(plain):
                if kind == _FRAME:
                    alone = len(body) + ENTRY_HEADER_SIZE == len(plain)
                    self._frame(key, body, vouched, plain if alone else None, now)
                elif kind == _FLOOD:
                    self._flood(peer, body, vouched, now)
                elif kind == _CONTROL:
                    if newest is None:
                        newest = counter == key.window.head
                    self._asking.upcalls.receive_control(
                        peer.slot, key.index, counter, body, source, now, newest=newest
                    )
                else:
                    self._fragment(key, body, vouched, now)
        except DecodeError:
            self._drops.add(DropReason.BAD_ENTRY)

    # 6: where to

    def _frame(self, key: ReceiveKey, frame: memoryview, vouched: bool, plain: bytes | None, now: float) -> None:
        """A frame from one peer for this host. `plain`: the datagram's plaintext, if the frame is all that is in it."""
        if len(frame) < ETHERNET_SIZE:
            self._drops.add(DropReason.BAD_FRAME)
            return
        peer = key.peer
        peer.counters.frames_in += 1
        flow = self._asking.inbound_flow(peer.slot, bytes(frame[:12]), now)
        if flow is None:
            return
        flow.frames += 1
        flow.bytes += len(frame)
        flow.last_used = now
        if flow.slot == LOCAL:
            if self.mirror is not None:
                self.mirror(True, peer.slot, frame)
                plain = None  # begins no series: the next segments come here too, to be seen
            self._series_flow, self._series_key = flow, key
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
        if self.mirror is not None:
            self.mirror(True, peer.slot, frame)
        self._deliver(frame, vouched, None)

    def _fragment(self, key: ReceiveKey, body: memoryview, vouched: bool, now: float) -> None:
        """A piece of an entry; the last one that was missing brings the entry."""
        whole = self._reassembly.take(key.peer.slot, key.index, body, vouched, now)
        if whole is None:
            return
        if whole.kind == _FRAME:
            self._frame(key, whole.body, whole.vouched, None, now)
        else:
            self._flood(key.peer, whole.body, whole.vouched, now)

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
        flow, key = self._series_flow, self._series_key
        if flow is not None and key is not None:  # the first one was counted when it came
            flow.frames += count - 1
            flow.bytes += (count - 1) * len(parts[1]) + sum(map(len, parts[3:]))  # after vnet: headers, payloads
            key.peer.counters.frames_in += count - 1
        self._write(parts, count)

    # 8: write

    def _write(self, parts: Sequence[Buffer], frames: int = 1) -> bool:
        """Write a frame, or so many in one super-frame, in parts: vnet header first. EINVAL is the frame's fault, everything else
        the device's."""
        reason = DropReason.TAP_DOWN
        try:
            if self._port.write(parts):
                return True
        except OSError as error:
            reason = DropReason.BAD_FRAME if error.errno == EINVAL else reason
        self._drops.add(reason, frames)
        return False

    def send_frame(self, frame: bytes) -> bool:
        """A frame of this host's own. No series is open: nothing is received at the same time."""
        return self._write((PLAIN_VNET, frame))

    def flush(self) -> None:
        """The end of a wake-up: everything is written or sent."""
        self._end_series()
        self._outbound.flush()
