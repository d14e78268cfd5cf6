"""Where the frames of a flow go: the pure decision behind an upcall.

From (segment, source, destination) and the tables to a verdict that the engine caches. Nothing is changed here, no table, no
budget; what follows from a decision is the caller's, in this order:

  outbound  1. `Fdb.local_sight` for the source; publish and set the claim that it asks for
            2. `decide_outbound`
            3. `spends(verdict)`: take a token for the source, `UnknownBudget.take`
  inbound   1. `decide_inbound`
            2. `spends(verdict)`: take a token for (peer, source)
            The source is *not* learned from the frame: MAC → host comes from signed records. Members are trusted to forward
            what they captured, so a source that a third host claims (it has just moved) or that we claim is no reason to
            drop.
  later     a changed owner, a freeze or a thaw of a MAC: `Engine.void_flows(mac)`

Verdicts are cached unless they hang on a budget. A frame from the mesh goes to the bridge, or is redirected once to the MAC's
owner; it never enters the mesh again otherwise (a group address that comes as a plain frame is delivered, never flooded
again).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from meshd.budget import BucketTable
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.forward.engine.interface import Verdict
from meshd.forward.ethernet import is_link_local_control
from meshd.forward.fdb import Fdb
from meshd.forward.groups import is_joinable
from meshd.forward.slots import FLOOD, GROUP, LOCAL, PeerSlots, drop_slot
from meshd.ids import HostId, Mac, SegmentId, SlotId, is_multicast

__all__ = [
    "MAX_UNKNOWN_SOURCES",
    "UNKNOWN_BURST",
    "UNKNOWN_RATE",
    "TableView",
    "Tables",
    "UnknownBudget",
    "decide_inbound",
    "decide_outbound",
    "spends",
]

UNKNOWN_RATE = 10.0  # frames a second for which a source may have every host of the segment asked
UNKNOWN_BURST = 10.0
MAX_UNKNOWN_SOURCES = 4096

_ZERO_MAC = bytes(6)


class Tables(Protocol):
    """What a decision looks at. Every question is answered from memory and changes nothing."""

    @property
    def self_id(self) -> HostId: ...

    def owner(self, segment: SegmentId, mac: Mac) -> HostId | None: ...

    def frozen(self, segment: SegmentId, mac: Mac) -> bool: ...

    def attached_elsewhere(self, segment: SegmentId, mac: Mac) -> bool:
        """Whether a reachable other host has it attached, and this one has not."""
        ...

    def claimed_here(self, segment: SegmentId, mac: Mac) -> bool:
        """Whether this host itself has a claim, whoever's holds."""
        ...

    def slot(self, host: HostId) -> SlotId | None:
        """The peer's slot; None where none can be had any more."""
        ...

    def may_flood_unknown(self, peer: HostId | None, segment: SegmentId, source: Mac) -> bool:
        """Whether the budget of this source (of this peer; None: captured here) has a token."""
        ...


def decide_outbound(segment: SegmentId, source: Mac, destination: Mac, tables: Tables) -> Verdict:
    """For a frame captured here: a peer's slot, FLOOD, GROUP, or a drop slot. Never raises."""
    refused = _refuse(segment, source, destination)
    if refused is not None:
        return refused
    if tables.attached_elsewhere(segment, source):
        return _drop(DropReason.MAC_TAKEN)  # forged, or it came round a loop
    if tables.frozen(segment, source) and tables.owner(segment, source) not in (None, tables.self_id):
        return _drop(DropReason.MAC_FROZEN)  # two places have it: only the owner's is heard, or a loop would go on
    if is_multicast(destination):
        return Verdict(GROUP if is_joinable(destination) else FLOOD)
    owner = tables.owner(segment, destination)
    if owner == tables.self_id:
        return _drop(DropReason.LOCAL)
    if owner is not None:
        return _to_peer(owner, tables)
    if tables.may_flood_unknown(None, segment, source):
        return Verdict(FLOOD, cached=False)
    return _drop(DropReason.UNKNOWN_LIMITED, cached=False)


def decide_inbound(peer: HostId, segment: SegmentId, source: Mac, destination: Mac, tables: Tables) -> Verdict:
    """For a frame that `peer` sent to us: LOCAL, the slot of the owner it is redirected to, or a drop slot. Never raises.

    Owner and peer may disagree with us while a record is under way. Owner elsewhere: it goes there, even if we have a (lost)
    claim too. Owner is the peer itself: it believes the MAC is here; with a claim of ours it is delivered, without one it
    would only go round. No owner: the peer may know more than we do, so the bridge gets a few of them (unknown unicast,
    flooded to its ports), then NOT_LOCAL.
    """
    refused = _refuse(segment, source, destination)
    if refused is not None:
        return refused
    if is_multicast(destination):
        return Verdict(LOCAL)
    owner = tables.owner(segment, destination)
    if owner == tables.self_id:
        return Verdict(LOCAL)
    if owner is None:
        if tables.may_flood_unknown(peer, segment, source):
            return Verdict(LOCAL, cached=False)
        return _drop(DropReason.NOT_LOCAL, cached=False)
    if owner != peer:
        return _to_peer(owner, tables)
    return Verdict(LOCAL) if tables.claimed_here(segment, destination) else _drop(DropReason.FORWARD_LOOP)


def spends(verdict: Verdict) -> bool:
    """Whether the caller now takes a token from the source's budget."""
    return not verdict.cached and verdict.slot in (FLOOD, LOCAL)


class UnknownBudget:
    """Tokens for frames to unknown destinations: UNKNOWN_RATE a second for each source, MAX_UNKNOWN_SOURCES at a time."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets = BucketTable[tuple[HostId | None, SegmentId, Mac]](
            UNKNOWN_RATE, UNKNOWN_BURST, MAX_UNKNOWN_SOURCES
        )

    def ready(self, peer: HostId | None, segment: SegmentId, source: Mac, now: float) -> bool:
        return self._buckets.ready((peer, segment, source), now)

    def take(self, peer: HostId | None, segment: SegmentId, source: Mac, now: float) -> bool:
        return self._buckets.take((peer, segment, source), now)


@dataclass(slots=True, frozen=True)
class TableView:
    """The node's real tables at one moment, as `Tables`."""

    self_id: HostId
    fdb: Fdb
    slots: PeerSlots
    budget: UnknownBudget
    now: float

    def owner(self, segment: SegmentId, mac: Mac) -> HostId | None:
        return self.fdb.lookup(segment, mac)

    def frozen(self, segment: SegmentId, mac: Mac) -> bool:
        return self.fdb.is_frozen(segment, mac)

    def attached_elsewhere(self, segment: SegmentId, mac: Mac) -> bool:
        return self.fdb.attached_elsewhere(segment, mac)

    def claimed_here(self, segment: SegmentId, mac: Mac) -> bool:
        return self.fdb.own_claim(segment, mac) is not None

    def slot(self, host: HostId) -> SlotId | None:
        """Numbers the peer at the first need: a name for it, which no later answer depends on."""
        try:
            return self.slots.slot(host)
        except LocalProtocolError:  # MAX_PEERS in use: the hosts of the mesh decide that, so it is a drop, not a bug
            return None

    def may_flood_unknown(self, peer: HostId | None, segment: SegmentId, source: Mac) -> bool:
        return self.budget.ready(peer, segment, source, self.now)


def _refuse(segment: SegmentId, source: Mac, destination: Mac) -> Verdict | None:
    """What is wrong with the frame itself, in both directions."""
    if segment != 0:
        return _drop(DropReason.UNKNOWN_SEGMENT)
    if is_multicast(source):
        return _drop(DropReason.SOURCE_MULTICAST)
    if source == _ZERO_MAC:
        return _drop(DropReason.BAD_FRAME)  # no station has it; Linux bridges drop it too (is_valid_ether_addr)
    if is_link_local_control(destination):
        return _drop(DropReason.LINK_LOCAL_CONTROL)
    return None


def _to_peer(owner: HostId, tables: Tables) -> Verdict:
    slot = tables.slot(owner)
    return _drop(DropReason.NO_PATH, cached=False) if slot is None else Verdict(slot)


def _drop(reason: DropReason, *, cached: bool = True) -> Verdict:
    return Verdict(drop_slot(reason), cached)
