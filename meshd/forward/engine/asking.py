"""Upcalls within limits: verdicts for new flows, children for new trees, sessions for waiting frames.

A container or a peer that invents addresses turns every frame into an upcall. So each source MAC, each peer and all of them
together have a token bucket; what is over it is dropped (UPCALL_OVERLOAD) and not cached. Verdicts of peers' slots are bound to
the peer here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from meshd.budget import BucketTable, TokenBucket
from meshd.drops import DropCounters, DropReason
from meshd.forward.engine.interface import Inspected, Upcalls
from meshd.forward.engine.tables import Flow, FlowTable, Peer
from meshd.forward.slots import FIRST_PEER
from meshd.ids import Mac, SegmentId, ShortId, SlotId

__all__ = ["MAX_GROUPS", "MAX_ROUTES", "MAX_TREES", "Asking", "InboundKey"]

UPCALL_RATE = 1000.0  # a second, for each source MAC and each peer
UPCALL_BURST = 200.0
ALL_UPCALLS_RATE = 5000.0  # an upcall takes some 20 µs: a tenth of a core
ALL_UPCALLS_BURST = 2000.0
MAX_UPCALL_SOURCES = 4096
MAX_TREES = 4096
MAX_GROUPS = 4096
MAX_ROUTES = 4096
SESSION_WANTED_EVERY = 0.1  # seconds, a peer

SEGMENT = SegmentId(0)  # the only one known today
InboundKey = tuple[SlotId, bytes]


class Asking:
    """Owns the flow tables and the tree cache; asks `upcalls` for what is not there."""

    def __init__(self, upcalls: Upcalls, drops: DropCounters, peer: Callable[[SlotId], Peer]) -> None:
        self.upcalls = upcalls
        self.outbound: FlowTable[bytes] = FlowTable()
        self.inbound: FlowTable[InboundKey] = FlowTable()
        self._drops = drops
        self._peer = peer
        self._trees: OrderedDict[ShortId, list[Peer]] = OrderedDict()
        self._groups: OrderedDict[bytes, list[Peer] | None] = OrderedDict()
        self._routes: OrderedDict[ShortId, Peer | None] = OrderedDict()
        self._by_source: BucketTable[bytes] = BucketTable(UPCALL_RATE, UPCALL_BURST, MAX_UPCALL_SOURCES)
        self._by_peer: BucketTable[SlotId] = BucketTable(UPCALL_RATE, UPCALL_BURST, MAX_UPCALL_SOURCES)
        self._all = TokenBucket(ALL_UPCALLS_RATE, ALL_UPCALLS_BURST)

    def outbound_flow(self, addresses: bytes, now: float) -> Flow | None:
        """The flow of a captured frame, keyed by its first 12 bytes; None: over the limit, counted."""
        flow = self.outbound.get(addresses)
        if flow is not None:
            self.outbound.use(addresses)
            return flow
        source = addresses[6:]
        if not (self._by_source.take(source, now) and self._all.take(now)):
            self._drops.add(DropReason.UPCALL_OVERLOAD)
            return None
        verdict = self.upcalls.decide_outbound(SEGMENT, Mac(source), Mac(addresses[:6]), now)
        flow = self._new_flow(verdict.slot)
        if verdict.cached:
            self.outbound.add(addresses, flow)
        return flow

    def inbound_flow(self, peer: SlotId, addresses: bytes, now: float) -> Flow | None:
        """The flow of a frame from this peer; None: over the limit, counted."""
        key = (peer, addresses)
        flow = self.inbound.get(key)
        if flow is not None:
            self.inbound.use(key)
            return flow
        if not (self._by_peer.take(peer, now) and self._all.take(now)):
            self._drops.add(DropReason.UPCALL_OVERLOAD)
            return None
        verdict = self.upcalls.decide_inbound(peer, SEGMENT, Mac(addresses[6:]), Mac(addresses[:6]), now)
        flow = self._new_flow(verdict.slot)
        if verdict.cached:
            self.inbound.add(key, flow)
        return flow

    def children(self, origin: ShortId, asker: SlotId | None, now: float) -> Sequence[Peer] | None:
        """This host's children in the origin's tree; None: unknown origin or over the limit, counted.

        An unknown origin is not cached: it may be known a moment later. `asker` is the peer whose flood it is, None for our own.
        """
        tree = self._trees.get(origin)
        if tree is not None:
            return tree
        if asker is not None and not (self._by_peer.take(asker, now) and self._all.take(now)):
            self._drops.add(DropReason.UPCALL_OVERLOAD)
            return None
        slots = self.upcalls.flood_children(origin, now)
        if slots is None:
            self._drops.add(DropReason.FLOOD_UNKNOWN_ORIGIN)
            return None
        if len(self._trees) >= MAX_TREES:
            self._trees.popitem(last=False)
        tree = self._trees[origin] = [self._peer(slot) for slot in slots]
        return tree

    def members(self, group: bytes, now: float) -> list[Peer] | None:
        """The peers that get this group's frames; None: the flood tree. Not limited: the flow that leads here was."""
        if group in self._groups:
            return self._groups[group]
        slots = self.upcalls.group_members(SEGMENT, Mac(group), now)
        if len(self._groups) >= MAX_GROUPS:
            self._groups.popitem(last=False)
        members = self._groups[group] = None if slots is None else [self._peer(slot) for slot in slots]
        return members

    def inspect(self, frame: memoryview, now: float) -> Inspected | None:
        """What the node says to a captured frame; None: over the limit, counted."""
        if not (self._by_source.take(bytes(frame[6:12]), now) and self._all.take(now)):
            self._drops.add(DropReason.UPCALL_OVERLOAD)
            return None
        return self.upcalls.inspect(SEGMENT, frame, now)

    def peers(self, slots: Sequence[SlotId]) -> list[Peer]:
        return [self._peer(slot) for slot in slots]

    def route(self, destination: ShortId, asker: SlotId, now: float) -> Peer | None:
        """The next hop of what this peer wants relayed; None: there is none. Raises OverflowError over the limit."""
        if destination in self._routes:
            return self._routes[destination]
        if not (self._by_peer.take(asker, now) and self._all.take(now)):
            raise OverflowError
        slot = self.upcalls.relay_next(destination, now)
        if len(self._routes) >= MAX_ROUTES:
            self._routes.popitem(last=False)
        hop = self._routes[destination] = self._peer(slot) if slot is not None else None
        return hop

    def known_route(self, destination: ShortId) -> Peer | None:
        """What `route` would say without asking."""
        return self._routes.get(destination)

    def session(self, peer: Peer, now: float) -> None:
        """Frames wait for a session with this peer: say so, but not for each of them."""
        if now - peer.wanted_at >= SESSION_WANTED_EVERY:
            peer.wanted_at = now
            self.upcalls.session_wanted(peer.slot, now)

    def void_trees(self) -> None:
        self._trees.clear()

    def void_groups(self) -> None:
        self._groups.clear()

    def void_routes(self) -> None:
        self._routes.clear()

    def void_flows(self, mac: Mac | None) -> int:
        return self.outbound.void_mac(mac) + self.inbound.void_mac(mac)

    def _new_flow(self, slot: SlotId) -> Flow:
        return Flow(slot, self._peer(slot) if slot >= FIRST_PEER else None)
