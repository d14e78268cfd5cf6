"""Relaying (type 8, see `forward.relay`): own datagrams on their way through another host, and those of others through this one.

Sending, a `RelayPort` stands where a UDP port stands in a peer whose path leads through another host: the outbound half seals
for the peer as ever, and the port puts each datagram into one for the next hop.

Receiving, in this order; whatever came in one read, and is alike, is done at once, since a super-frame's segments come so:

  1. receiver index → the hop's session; replay look-up in the relay's window    UNKNOWN_SEGMENT, UNKNOWN_INDEX, REPLAYED, TOO_OLD
  2. open the tag; commit to the window                                          BAD_TAG
  3. for this host: what is inside, as if it had come alone, from `Relayed(source)`
  4. for another one: the next hop, asked once for each destination              RELAY_TTL, RELAY_LOOP, RELAY_NO_ROUTE
  5. sealed for that hop and sent where its *direct* path leads                  NO_SESSION, NO_PATH, KEY_EXPIRED, QUEUE_FULL …

One datagram in is at most one out, 0 B larger: nobody gains by having a relay send. Only peers with a session are served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

from cryptography.exceptions import InvalidTag

from meshd.crypto.aead import AeadFactory
from meshd.crypto.aead import nonce as pack_nonce
from meshd.drops import DropCounters, DropReason, Unsent, went_out
from meshd.errors import DecodeError
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.interface import Buffer, DatagramPort
from meshd.forward.engine.tables import (
    MAX_KEY_DATAGRAMS,
    MAX_SEND_BYTES,
    MAX_SEND_DATAGRAMS,
    Peer,
    ReceiveKey,
    RelayReceive,
    RelaySend,
    SendKey,
)
from meshd.forward.header import LAST_COUNTER, TAG_SIZE, counter_run
from meshd.forward.relay import (
    RELAY_HEADER_SIZE,
    RELAY_OVERHEAD,
    RelayHeader,
    decode_relay_header,
    hop_head,
    relay_suite,
    route_half,
)
from meshd.forward.runs import split
from meshd.ids import Endpoint, ShortId

__all__ = ["BY_RELAY", "RelayPort", "Relaying"]

BY_RELAY = Endpoint("", 0)  # what a peer has for an address while a RelayPort knows the way

_HOP_SIZE = 16  # of the header: what each hop writes anew
_ROUTE_SIZE = RELAY_HEADER_SIZE - _HOP_SIZE
_TTL_AT = 16  # in the second part
_NOTHING: list[bytes] = []


class RelayPort:
    """A `DatagramPort` that leads through another host; only `send` is of use."""

    def __init__(self, relaying: Relaying, via: Peer, destination: ShortId) -> None:
        self.family = 0
        self._relaying = relaying
        self.via = via
        self.route = route_half(destination, relaying.origin)

    def fileno(self) -> int:
        return -1

    def receive(self) -> None:
        return None

    def send(self, parts: Sequence[Buffer], segment_size: int, destination: Endpoint) -> Unsent | None:
        joined = b"".join(parts)
        size = segment_size or len(joined)
        whole, rest = divmod(len(joined), size)
        inner = list(split(whole, size).unpack_from(joined))
        if rest:
            inner.append(joined[-rest:])
        return self._relaying.send(self.via, self.route, inner, size)


class Relaying:
    """`keys`: the engine's receive keys. `origin`: this host's short id."""

    def __init__(
        self,
        asking: Asking,
        drops: DropCounters,
        keys: Mapping[int, ReceiveKey],
        new_aead: AeadFactory,
        origin: ShortId,
    ) -> None:
        self.origin = origin
        self._asking = asking
        self._drops = drops
        self._keys = keys
        self._new_aead = new_aead

    # sending: also step 5

    def send(self, via: Peer, route: bytes, inner: Sequence[bytes], size: int) -> Unsent | None:
        """Send datagrams of `size` bytes, the last one perhaps shorter, to the next hop."""
        key = via.send_key
        if key is None or not key.relay_key:
            return Unsent(DropReason.NO_SESSION, len(inner))
        if via.port is None or via.endpoint is None or isinstance(via.port, RelayPort):
            return Unsent(DropReason.NO_PATH, len(inner))
        relay = key.relay = key.relay or self._sender(key)
        size += RELAY_OVERHEAD
        limit = max(1, min(MAX_SEND_DATAGRAMS, MAX_SEND_BYTES // size))
        lost: Unsent | None = None
        for at in range(0, len(inner), limit):
            batch = inner[at : at + limit]
            unsent = self._send_batch(via, via.port, relay, route, batch, size)
            if unsent is None:
                continue
            before = lost.datagrams if lost is not None else 0
            if unsent.datagrams == len(batch):  # nothing passes any more
                return Unsent(unsent.reason, before + len(inner) - at)
            lost = Unsent(unsent.reason, before + unsent.datagrams)
        return lost

    def _send_batch(
        self, via: Peer, port: DatagramPort, relay: RelaySend, route: bytes, inner: Sequence[bytes], size: int
    ) -> Unsent | None:
        count = len(inner)
        if via.endpoint is None or relay.counter + count > MAX_KEY_DATAGRAMS:
            return Unsent(DropReason.KEY_EXPIRED, count)
        hops, nonces = counter_run(relay.head, relay.counter, count)
        relay.counter += count
        parts = [b""] * (2 * count)
        parts[::2] = covered = [hop + route + datagram for hop, datagram in zip(hops, inner, strict=True)]
        parts[1::2] = map(relay.seal, nonces, repeat(b""), covered)
        unsent = port.send(parts, size if count > 1 else 0, via.endpoint)
        sent, sent_bytes = went_out(unsent, count, size, (count - 1) * size + len(parts[-2]) + TAG_SIZE)
        via.counters.data_out += sent  # sealed under keys of the same session: they count towards its renewal
        via.counters.relayed_out += sent
        via.counters.relayed_bytes_out += sent_bytes
        return unsent

    def _sender(self, key: SendKey) -> RelaySend:
        return RelaySend(self._new_aead(relay_suite(key.suite), key.relay_key).seal, hop_head(key.index))

    # 1–2: receiving

    def open(self, raw: bytes, size: int, now: float) -> tuple[RelayHeader, Peer, bytes, list[bytes]] | None:
        """The first datagrams in this buffer, of `size` bytes each, as far as they are alike: their header and hop, the second half
        of it as it stands, and what they carry. None, counted, where already the first one is no good.
        """
        try:
            header = decode_relay_header(raw[:size])
        except DecodeError:
            self._drops.add(DropReason.TRUNCATED)
            return None
        if header.segment:
            self._drops.add(DropReason.UNKNOWN_SEGMENT)
            return None
        key = self._keys.get(header.receiver)
        if key is None or not key.relay_key:
            self._drops.add(DropReason.UNKNOWN_INDEX)
            return None
        relay = key.relay = key.relay or self._receiver(key)
        count = len(raw) // size
        carried = self._open_run(relay, header, raw, size, count) if count > 1 else _NOTHING
        if not carried:
            carried = self._open_one(relay, header, raw[:size])
        if not carried:
            return None
        self._heard(key, sum(map(len, carried)) + len(carried) * RELAY_OVERHEAD, now)
        return header, key.peer, raw[_HOP_SIZE:RELAY_HEADER_SIZE], carried

    def _open_run(self, relay: RelayReceive, header: RelayHeader, raw: bytes, size: int, count: int) -> list[bytes]:
        """Those before the first that is not authentic, if all headers are as the first one predicts; else nothing is done."""
        counter = header.counter
        if counter <= relay.window.head or counter + count > LAST_COUNTER:
            return _NOTHING
        widths = (_HOP_SIZE, _ROUTE_SIZE, size - RELAY_OVERHEAD, TAG_SIZE)
        parts = split(count, *widths).unpack_from(raw)
        routes = parts[1::4]
        hops, nonces = counter_run(raw[:8], counter, count)
        if parts[::4] != hops or routes.count(routes[0]) != count:
            return _NOTHING
        covered = split(count, size - TAG_SIZE, TAG_SIZE).unpack_from(raw)
        opened = 0
        try:
            for _ in map(relay.open, nonces, covered[1::2], covered[::2]):
                opened += 1
        except InvalidTag:
            pass  # counted when it is found out again, by itself
        if not opened:
            return _NOTHING
        relay.window.commit(counter)
        relay.window.commit_run(counter + opened)
        return list(parts[2::4][:opened])

    def _open_one(self, relay: RelayReceive, header: RelayHeader, datagram: bytes) -> list[bytes]:
        reason = relay.window.check(header.counter)
        if reason is not None:
            self._drops.add(reason)
            return _NOTHING
        try:
            relay.open(pack_nonce(header.counter), datagram[-TAG_SIZE:], datagram[:-TAG_SIZE])
        except InvalidTag:
            self._drops.add(DropReason.BAD_TAG)
            return _NOTHING
        relay.window.commit(header.counter)
        return [datagram[RELAY_HEADER_SIZE:-TAG_SIZE]]

    def _receiver(self, key: ReceiveKey) -> RelayReceive:
        return RelayReceive(self._new_aead(relay_suite(key.suite), key.relay_key).open)

    def _heard(self, key: ReceiveKey, size: int, now: float) -> None:
        """Authentic, so the hop is there, and holds the session's key."""
        counters = key.peer.counters
        counters.last_heard = now
        counters.relayed_bytes_in += size
        if key.first:
            key.first = False
            self._asking.upcalls.key_confirmed(key.index, now)

    # 4: where to

    def pass_on(self, header: RelayHeader, hop: Peer, route: bytes, carried: list[bytes], now: float) -> None:
        """Datagrams for another host, that came from this hop."""
        unsent = self._forward(header, hop, route, carried, now)
        if unsent is not None:
            self._drops.add(*unsent)

    def _forward(self, header: RelayHeader, hop: Peer, route: bytes, carried: list[bytes], now: float) -> Unsent | None:
        if header.ttl <= 1:
            return Unsent(DropReason.RELAY_TTL, len(carried))
        if header.source == self.origin:
            return Unsent(DropReason.RELAY_LOOP, len(carried))
        try:
            via = self._asking.route(header.destination, hop.slot, now)
        except OverflowError:
            return Unsent(DropReason.UPCALL_OVERLOAD, len(carried))
        if via is None:
            return Unsent(DropReason.RELAY_NO_ROUTE, len(carried))
        if via is hop:
            return Unsent(DropReason.RELAY_LOOP, len(carried))
        onward = route[:_TTL_AT] + bytes((header.ttl - 1,)) + route[_TTL_AT + 1 :]
        return self.send(via, onward, carried, max(map(len, carried)))
