"""The upcalls of an engine that has one peer and no node: what `bench.micro` and `bench.engine_router` drive engines with."""

from __future__ import annotations

from collections.abc import Sequence

from meshd.forward.engine.interface import Inspected, Verdict
from meshd.forward.slots import FIRST_PEER, FLOOD, LOCAL
from meshd.ids import Address, Mac, SegmentId, ShortId, SlotId, is_multicast

__all__ = ["OnePeer"]


class OnePeer:
    """Everything captured is for the one peer, everything received is for the bridge."""

    def __init__(self, origin: ShortId) -> None:
        self.origin = origin

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        return Verdict(FLOOD if is_multicast(destination) else FIRST_PEER)

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        return Verdict(LOCAL)

    def flood_children(self, origin: ShortId, now: float) -> Sequence[SlotId]:
        return [FIRST_PEER] if origin == self.origin else []

    def group_members(self, segment: SegmentId, group: Mac, now: float) -> Sequence[SlotId] | None:
        return None

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        return Inspected()

    def session_wanted(self, peer: SlotId, now: float) -> None: ...

    def key_confirmed(self, index: int, now: float) -> None: ...

    def receive_handshake(self, data: memoryview, source: Address, now: float) -> None: ...

    def receive_control(
        self, peer: SlotId, index: int, counter: int, body: memoryview, source: Address, now: float, *, newest: bool
    ) -> None: ...

    def relay_next(self, destination: ShortId, now: float) -> SlotId | None:
        return None
