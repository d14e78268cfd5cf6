"""Outbound: from the frame port into sealed datagrams. The functions occur in the order in which a frame passes them.

  1. capture: vnet header and frame in one buffer; runts, giants and headers that lie go        BAD_FRAME
  2. flow lookup by destination and source MAC                                                  UPCALL_OVERLOAD
  3. the slot: a drop reason, a peer, this host's flood tree, a group (several.py)              (that reason), NO_PATH
  4. a peer without a key: the frame waits as it was captured                                   NO_SESSION
  5. a super-frame is cut, each segment sealed alone, up to 64 of them sent in one call         TOO_BIG, KEY_EXPIRED
  6. any other frame: the checksum is vouched for or completed; what is larger than the path is
     cut or goes in pieces (oversize.py); small ones are aggregated with others of this wake-up,
     sealed, and put into the peer's outbox                                                     TOO_BIG
  7. the outbox goes out when it is full, when the sizes stop fitting, and at the end of the
     wake-up                                                                                    QUEUE_FULL, SEND_FAILED, TOO_BIG

Whatever goes to one peer leaves in the order of capture: what is behind in the pipeline is flushed before anything overtakes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshd.drops import DropCounters, DropReason, Unsent, went_out
from meshd.forward.checksum import complete_checksum
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.interface import Buffer, DatagramPort, Mirror
from meshd.forward.engine.oversize import Cut, Oversize
from meshd.forward.engine.several import Several
from meshd.forward.engine.tables import (
    AGGREGATE_LIMIT,
    MAX_KEY_DATAGRAMS,
    MAX_SEND_BYTES,
    MAX_SEND_DATAGRAMS,
    MAX_WAITING_BYTES,
    MAX_WAITING_FRAMES,
    Peer,
    SendKey,
    Waiting,
)
from meshd.forward.entries import (
    ENTRY_HEADER_SIZE,
    FLOOD_HEADER_SIZE,
    MAX_ENTRY_SIZE,
    EntryKind,
    FloodHeader,
    encode_entry,
    encode_flood,
)
from meshd.forward.ethernet import ETHERNET_SIZE, TCP, Headers, parse_chained, parse_headers
from meshd.forward.floods import FLOOD_TTL
from meshd.forward.header import DATA_OVERHEAD, NONCE_PREFIX, counter_run
from meshd.forward.segmentation import MIN_SEGMENT, chained_segments, segment_count, segments
from meshd.forward.slots import FLOOD, GROUP, LOCAL, slot_drop_reason
from meshd.forward.vnet import GSO_ECN, GSO_NONE, NEEDS_CSUM, VNET_SIZE, Vnet, decode_vnet, gso_kind
from meshd.ids import Endpoint, ShortId

__all__ = ["Outbound"]

_FRAME = int(EntryKind.FRAME)  # named per frame, and naming an enum member is slow in Python 3.11
_MIN_CAPTURE = VNET_SIZE + ETHERNET_SIZE


class Outbound:
    """The outbound half of the engine; the inbound half sends through `entry` and `redirect`."""

    def __init__(
        self,
        asking: Asking,
        drops: DropCounters,
        ports: Sequence[DatagramPort],
        origin: ShortId,
        boot: int,
    ) -> None:
        self._asking = asking
        self._drops = drops
        self._ports: Mapping[int, DatagramPort] = {port.family: port for port in ports}
        self._origin = origin
        self.raise_boot(boot)
        self._sequence = 0
        self.mirror: Mirror | None = None
        self.several = Several(asking, drops, self._to_peer, self._to_tree)
        self.oversize = Oversize(drops)
        self._busy: dict[Peer, None] = {}  # peers that something may be in hand for, in order of first use

    def raise_boot(self, boot: int) -> None:
        """What floods say from now on."""
        self._boot = boot & 0xFFFFFFFF

    # 1–3: capture, flow, slot

    def capture(self, data: memoryview, now: float) -> None:
        """One read from the frame port; `data` is written over. Never raises for what is in it."""
        if len(data) < _MIN_CAPTURE:
            self._drops.add(DropReason.BAD_FRAME)
            return
        addresses = bytes(data[VNET_SIZE : VNET_SIZE + 12])
        flow = self._asking.outbound_flow(addresses, now)
        if flow is None:
            return
        flow.frames += 1
        flow.bytes += len(data) - VNET_SIZE
        flow.last_used = now
        if self.mirror is not None:
            self.mirror(False, flow.slot, data[VNET_SIZE:])
        if flow.peer is not None:
            self._to_peer(flow.peer, data, now)
        elif flow.slot in (FLOOD, GROUP):
            self.several.capture(flow.slot, data, now)
        else:
            reason = DropReason.LOCAL if flow.slot == LOCAL else slot_drop_reason(flow.slot)
            self._drops.add(reason or DropReason.NO_PATH)

    # 4: to one peer, or into its queue

    def _to_peer(self, peer: Peer, data: memoryview, now: float) -> None:
        key = peer.send_key
        if key is None or peer.port is None:
            self._wait(peer, Waiting(bytes(data), captured=True, vouched=False), now)
            return
        vnet = decode_vnet(data)
        if vnet.gso_type != GSO_NONE:
            self._super_frame(peer, key, vnet, data, now)
            return
        vouched = self._settle_checksum(vnet, data)
        if vouched is not None:
            self._frame(peer, data[VNET_SIZE:], vouched, now)

    def _wait(self, peer: Peer, item: Waiting, now: float) -> None:
        if peer.path_set and peer.port is None:
            self._drops.add(DropReason.NO_PATH)
        elif len(peer.waiting) >= MAX_WAITING_FRAMES or peer.waiting_bytes + len(item.data) > MAX_WAITING_BYTES:
            self._drops.add(DropReason.NO_SESSION)
        else:
            peer.waiting.append(item)
            peer.waiting_bytes += len(item.data)
        if peer.send_key is None:
            self._asking.session(peer, now)

    def release(self, peer: Peer, now: float) -> None:
        """Key or path have changed: send what waits for them, in order; drop it if there is nowhere to send it to."""
        if peer.path_set and peer.port is None:
            self._drops.add(DropReason.NO_PATH, len(peer.waiting))
            peer.waiting.clear()
            peer.waiting_bytes = 0
        if peer.send_key is None or peer.port is None or not peer.waiting:
            return
        waiting, peer.waiting, peer.waiting_bytes = peer.waiting, type(peer.waiting)(), 0
        for item in waiting:
            if item.captured:
                self._to_peer(peer, memoryview(bytearray(item.data)), now)
            else:
                self.entry(peer, item.data, item.vouched, now)
        self.flush()

    # 5: super-frames

    def _super_frame(self, peer: Peer, key: SendKey, vnet: Vnet, data: memoryview, now: float) -> None:
        headers = self._super_headers(vnet, data)
        if headers is None:
            return
        overhead = DATA_OVERHEAD + ENTRY_HEADER_SIZE + headers.payload
        size = self._segment_size(vnet, headers, peer.max_datagram - overhead)
        if not size:
            return
        if headers.chained or overhead + size > peer.max_datagram:
            for frame in _cut_frames(data, headers, size):
                self._frame(peer, frame, not headers.chained, now)
            return
        payload = len(data) - VNET_SIZE - headers.payload
        count = segment_count(payload, size)
        self._flush_peer(peer)
        if not self._may_seal(key, count):
            return
        outer, nonces = counter_run(key.head_vouched, key.counter, count)
        key.counter += count
        parts = [b""] * (2 * count)
        parts[::2] = outer
        parts[1::2] = map(key.seal, nonces, segments(data, VNET_SIZE, headers, size), outer)
        datagram = overhead + size
        limit = 2 * min(MAX_SEND_DATAGRAMS, max(1, MAX_SEND_BYTES // (datagram + peer.wrapping)))
        for at in range(0, len(parts), limit):
            self._send(peer, parts[at : at + limit], datagram)
        peer.counters.frames_out += count

    def _super_headers(self, vnet: Vnet, data: memoryview) -> Headers | None:
        """The headers of a super-frame; None, counted, unless they are what its vnet header says."""
        headers = parse_headers(data[VNET_SIZE:]) or parse_chained(data[VNET_SIZE:])
        if (
            headers is None
            or not vnet.flags & NEEDS_CSUM
            or vnet.gso_type & ~GSO_ECN != gso_kind(headers)
            or not vnet.gso_size
            or headers.end + VNET_SIZE != len(data)
            or headers.payload >= headers.end
            or (vnet.csum_start, vnet.csum_offset) != (headers.l4, headers.checksum_offset)
        ):
            self._drops.add(DropReason.BAD_FRAME)
            return None
        return headers

    def _segment_size(self, vnet: Vnet, headers: Headers, room: int) -> int:
        """TCP is a stream and may be cut smaller than asked; a UDP datagram is one thing, which may have to go in pieces.

        Extension headers may fill a datagram: then TCP goes in pieces too. 0: does not fit, counted.
        """
        room = min(room, MAX_ENTRY_SIZE - headers.payload)
        if room >= vnet.gso_size or headers.protocol != TCP or (headers.chained and room < MIN_SEGMENT):
            return vnet.gso_size
        if room <= 0:
            self._drops.add(DropReason.TOO_BIG)
            return 0
        return room

    # 6: single frames

    def _settle_checksum(self, vnet: Vnet, data: memoryview) -> bool | None:
        """True: partial, where the headers say, and so vouched for; False: complete by now; None: BAD_FRAME, counted."""
        if not vnet.flags & NEEDS_CSUM:
            return False
        frame = data[VNET_SIZE:]
        headers = parse_headers(frame)
        if headers is not None and (vnet.csum_start, vnet.csum_offset) == (headers.l4, headers.checksum_offset):
            return True
        if complete_checksum(frame, vnet.csum_start, vnet.csum_offset):
            return False
        self._drops.add(DropReason.BAD_FRAME)
        return None

    def _frame(self, peer: Peer, frame: memoryview, vouched: bool, now: float) -> None:
        size = len(frame)
        if size > MAX_ENTRY_SIZE or size + ENTRY_HEADER_SIZE + DATA_OVERHEAD > peer.max_datagram:
            self._cut(peer, self.oversize.frame(peer, frame, vouched, now))
            return
        peer.counters.frames_out += 1
        self._aggregate(peer, encode_entry(_FRAME, frame), vouched)

    def _cut(self, peer: Peer, cut: Cut) -> None:
        peer.counters.frames_out += cut.frames
        for entry in cut.entries:
            self._aggregate(peer, entry, cut.vouched)

    def entry(self, peer: Peer, entry: bytes, vouched: bool, now: float) -> None:
        """Send an entry of kind 2 that is ready as it is."""
        if peer.send_key is None or peer.port is None:
            self._wait(peer, Waiting(entry, captured=False, vouched=vouched), now)
        elif len(entry) + DATA_OVERHEAD > peer.max_datagram:
            self._cut(peer, self.oversize.entry(peer, entry, vouched))
        else:
            peer.counters.frames_out += 1
            self._aggregate(peer, entry, vouched)

    def _aggregate(self, peer: Peer, entry: bytes, vouched: bool) -> None:
        size = len(entry)
        if peer.aggregate and (
            vouched is not peer.aggregate_vouched or DATA_OVERHEAD + peer.aggregate_size + size > peer.aggregate_limit
        ):
            self._seal_aggregate(peer)
        if not peer.aggregate and not peer.outbox:
            self._busy[peer] = None
        peer.aggregate.append(entry)
        peer.aggregate_size += size
        peer.aggregate_vouched = vouched

    def _seal_aggregate(self, peer: Peer) -> None:
        entries, peer.aggregate, peer.aggregate_size = peer.aggregate, [], 0
        key = peer.send_key
        if not entries:
            return
        if key is None:
            self._drops.add(DropReason.NO_SESSION, len(entries))
            return
        if not self._may_seal(key, 1):
            return
        plain = entries[0] if len(entries) == 1 else b"".join(entries)
        header, sealed = _seal(key, plain, peer.aggregate_vouched)
        size = len(header) + len(sealed)
        total = size + peer.wrapping
        full = len(peer.outbox) >= 2 * MAX_SEND_DATAGRAMS or peer.outbox_total + total > MAX_SEND_BYTES
        if full or size > peer.outbox_size:
            self._send_outbox(peer)
            peer.outbox_size = size
        peer.outbox += (header, sealed)
        peer.outbox_total += total
        if size < peer.outbox_size:  # UDP_SEGMENT: only the last one may be shorter
            self._send_outbox(peer)

    def _may_seal(self, key: SendKey, count: int) -> bool:
        if key.counter + count <= MAX_KEY_DATAGRAMS:
            return True
        self._drops.add(DropReason.KEY_EXPIRED, count)
        return False

    # 7: sending

    def flush(self) -> None:
        """The end of a wake-up: everything goes out."""
        busy, self._busy = self._busy, {}
        for peer in busy:
            self._flush_peer(peer)

    def _flush_peer(self, peer: Peer) -> None:
        self._seal_aggregate(peer)
        self._send_outbox(peer)
        self._busy.pop(peer, None)

    def _send_outbox(self, peer: Peer) -> None:
        parts, size = peer.outbox, peer.outbox_size
        peer.outbox, peer.outbox_size, peer.outbox_total = [], 0, 0
        if parts:
            self._send(peer, parts, size)

    def _send(self, peer: Peer, parts: list[bytes], size: int) -> None:
        """Send header and ciphertext pairs, each pair one datagram of `size` bytes, the last one perhaps shorter."""
        count = len(parts) // 2
        if peer.port is None or peer.endpoint is None:
            self._drops.add(DropReason.NO_PATH, count)
            return
        unsent = peer.port.send(parts, size if count > 1 else 0, peer.endpoint)
        if unsent is not None:
            self._drops.add(*unsent)
        sent, sent_bytes = went_out(unsent, count, size, size * (count - 1) + len(parts[-2]) + len(parts[-1]))
        counters = peer.counters
        counters.datagrams_out += sent
        counters.data_out += sent
        counters.bytes_out += sent_bytes

    # floods

    def _to_tree(self, data: memoryview, now: float) -> None:
        """A captured frame for this host's own tree: segmented if it is a super-frame, then one entry for each child."""
        children = self._asking.children(self._origin, None, now)
        if not children:
            return
        vnet = decode_vnet(data)
        if vnet.gso_type == GSO_NONE:
            vouched = self._settle_checksum(vnet, data)
            if vouched is not None:
                self._flood(children, data[VNET_SIZE:], FLOOD_TTL, vouched, now)
            return
        headers = self._super_headers(vnet, data)
        if headers is None:
            return
        room = min((child.max_datagram or AGGREGATE_LIMIT) for child in children)
        overhead = DATA_OVERHEAD + ENTRY_HEADER_SIZE + FLOOD_HEADER_SIZE + headers.payload
        size = self._segment_size(vnet, headers, room - overhead)
        if size:
            for frame in _cut_frames(data, headers, size):
                self._flood(children, frame, FLOOD_TTL, not headers.chained, now)

    def _flood(self, peers: Sequence[Peer], frame: Buffer, ttl: int, vouched: bool, now: float) -> None:
        if len(frame) + FLOOD_HEADER_SIZE > MAX_ENTRY_SIZE:
            self._drops.add(DropReason.TOO_BIG)
            return
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        entry = encode_flood(FloodHeader(self._origin, self._boot, self._sequence, ttl), frame)
        for peer in peers:
            self.entry(peer, entry, vouched, now)

    def redirect(self, peer: Peer, frame: Buffer, vouched: bool, now: float) -> None:
        """A frame from the mesh whose MAC is on another host: once more, as a flood that nobody passes on."""
        self._flood((peer,), frame, 1, vouched, now)

    # what the node sends itself

    def control(self, peer: Peer, body: bytes, endpoint: Endpoint | None, port: DatagramPort | None) -> bool:
        """One entry of kind 1, alone in its datagram, at once; False, counted, when it cannot be sent.

        To `endpoint`, or where the peer's path leads; out of `port`, or the one that the endpoint wants.
        """
        key, target = peer.send_key, endpoint or peer.endpoint
        if key is None:
            self._drops.add(DropReason.NO_SESSION)
            return False
        if target is None or len(body) > MAX_ENTRY_SIZE:
            self._drops.add(DropReason.NO_PATH if target is None else DropReason.TOO_BIG)
            return False
        if not self._may_seal(key, 1):
            return False
        header, sealed = _seal(key, encode_entry(EntryKind.CONTROL, body), vouched=False)
        if not self.datagram((header, sealed), target, port if endpoint is not None else peer.port):
            return False
        counters = peer.counters
        counters.datagrams_out += 1
        counters.data_out += 1  # sealed too: probes alone keep a session
        counters.bytes_out += len(header) + len(sealed)
        return True

    def datagram(self, parts: Sequence[Buffer], endpoint: Endpoint, port: DatagramPort | None = None) -> bool:
        """Send one datagram as it is."""
        port = port or self.port_for(endpoint)
        unsent = Unsent(DropReason.NO_PATH, 1) if port is None else port.send(parts, 0, endpoint)
        if unsent is not None:
            self._drops.add(*unsent)
        return unsent is None

    def port_for(self, endpoint: Endpoint) -> DatagramPort | None:
        return self._ports.get(6 if ":" in endpoint.host else 4)


def _cut_frames(data: memoryview, headers: Headers, size: int) -> Iterator[memoryview]:
    """The frames that a super-frame is cut into: with extension headers they are finished, else their checksums are partial."""
    cut = chained_segments if headers.chained else segments
    return (memoryview(entry)[ENTRY_HEADER_SIZE:] for entry in cut(data, VNET_SIZE, headers, size))


def _seal(key: SendKey, plain: bytes, vouched: bool) -> tuple[bytes, bytes]:
    """Header and ciphertext of one datagram under the key's next counter."""
    tail = key.counter.to_bytes(8, "little")
    key.counter += 1
    header = (key.head_vouched if vouched else key.head) + tail
    return header, key.seal(NONCE_PREFIX + tail, plain, header)
