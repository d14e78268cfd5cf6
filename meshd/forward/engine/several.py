"""Captured frames for several hosts: read by the node where it must, then to a group's members or along the flood tree.

  1. ARP, ND, IGMP, MLD and their kin: the node is asked, and may answer in another's place              UPCALL_OVERLOAD
  2. a group that is joined for: one plain frame for each member host; the tree where they are many      NO_MEMBERS
  3. everything else: this host's own flood tree

A plain frame to a group is delivered where it arrives and never passed on, so nothing can circle.
"""

from __future__ import annotations

from collections.abc import Callable

from meshd.drops import DropCounters, DropReason
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.tables import Peer
from meshd.forward.inspect import is_inspected, is_ip
from meshd.forward.slots import GROUP
from meshd.forward.vnet import VNET_SIZE
from meshd.ids import SlotId

__all__ = ["Several"]


class Several:
    """Part of `Outbound`, which sends. `reply` writes a frame to the frame port; the engine sets it."""

    reply: Callable[[bytes], object]

    def __init__(
        self,
        asking: Asking,
        drops: DropCounters,
        to_peer: Callable[[Peer, memoryview, float], None],
        to_tree: Callable[[memoryview, float], None],
    ) -> None:
        self._asking = asking
        self._drops = drops
        self._to_peer = to_peer
        self._to_tree = to_tree

    def capture(self, slot: SlotId, data: memoryview, now: float) -> None:
        """A captured frame, vnet header first, whose flow leads to FLOOD or GROUP."""
        frame = data[VNET_SIZE:]
        if is_inspected(frame) and not self._inspect(data, frame, now):
            return
        if slot == GROUP and is_ip(frame):
            self._to_group(data, bytes(frame[:6]), now)
        else:
            self._to_tree(data, now)

    def _inspect(self, data: memoryview, frame: memoryview, now: float) -> bool:
        """True: it goes on as its flow says."""
        found = self._asking.inspect(frame, now)
        if found is None:
            return False
        if found.reply:
            self.reply(found.reply)
        self._copies(self._asking.peers(found.peers), data, now)
        return found.forward

    def _to_group(self, data: memoryview, group: bytes, now: float) -> None:
        members = self._asking.members(group, now)
        if members is None:
            self._to_tree(data, now)
        elif not members:
            self._drops.add(DropReason.NO_MEMBERS)
        else:
            self._copies(members, data, now)

    def _copies(self, peers: list[Peer], data: memoryview, now: float) -> None:
        """Sending writes over a frame: each gets its own."""
        for peer in peers:
            self._to_peer(peer, memoryview(bytearray(data)), now)
