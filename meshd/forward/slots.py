"""Slots: where flows point. One integer names a destination; what changes below it never voids a flow.

The first few numbers are fixed so that both engines and the tests can name them: `LOCAL` (the bridge has it, or deliver to the
bridge), `FLOOD` (this host's own flood tree), `GROUP` (the hosts that joined the group), and one slot for each drop reason. Peers
get a number from `FIRST_PEER` up at the first need and keep it as long as the process lives: session keys, endpoint, path and MTU
of a peer are written *into* its slot (`Engine.set_send_key`, `Engine.set_path`), so a rekey or a roaming peer leaves every cached
flow as it is.
"""

from __future__ import annotations

from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.ids import HostId, SlotId

__all__ = ["FIRST_PEER", "FLOOD", "GROUP", "LOCAL", "MAX_PEERS", "PeerSlots", "drop_slot", "slot_drop_reason"]

LOCAL = SlotId(0)
FLOOD = SlotId(1)
GROUP = SlotId(255)
_FIRST_DROP = 2
FIRST_PEER = SlotId(256)
MAX_PEERS = 4096  # hosts that one process ever sends to; the design is sound at 1000


def drop_slot(reason: DropReason) -> SlotId:
    """The slot of all flows that are dropped for this reason: drops are cached like every other verdict."""
    return SlotId(_FIRST_DROP + reason)


def slot_drop_reason(slot: SlotId) -> DropReason | None:
    """The reason behind a drop slot, None for every other slot."""
    return DropReason(slot - _FIRST_DROP) if _FIRST_DROP <= slot < GROUP else None


class PeerSlots:
    """Hands out one slot for each peer and keeps both directions of the mapping. Bounded by MAX_PEERS."""

    __slots__ = ("_by_peer", "_by_slot")

    def __init__(self) -> None:
        self._by_peer: dict[HostId, SlotId] = {}
        self._by_slot: list[HostId] = []

    def slot(self, peer: HostId) -> SlotId:
        """The peer's slot, made at the first call. Raises LocalProtocolError when MAX_PEERS are in use."""
        slot = self._by_peer.get(peer)
        if slot is None:
            if len(self._by_slot) >= MAX_PEERS:
                raise LocalProtocolError(f"more than {MAX_PEERS} peers")
            slot = SlotId(FIRST_PEER + len(self._by_slot))
            self._by_peer[peer] = slot
            self._by_slot.append(peer)
        return slot

    def peer(self, slot: SlotId) -> HostId:
        """The peer behind a slot. Raises LocalProtocolError for a slot that was never handed out."""
        index = slot - FIRST_PEER
        if not 0 <= index < len(self._by_slot):
            raise LocalProtocolError(f"slot {slot} is no peer's")
        return self._by_slot[index]

    def known(self, peer: HostId) -> SlotId | None:
        return self._by_peer.get(peer)

    def has_room(self, peer: HostId) -> bool:
        """Whether `slot` has, or can make, a slot for this peer."""
        return peer in self._by_peer or len(self._by_slot) < MAX_PEERS
