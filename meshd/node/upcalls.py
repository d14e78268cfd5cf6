"""What the engine asks of the node (`Upcalls`): verdicts, flood children, and where to hand what it cannot read.

No engine table is changed while the engine is asking, and nothing is sent: what an upcall leads to is *noted*, and done by the
node's `handle_timer`, which the driver calls right after the pump, because a noted thing makes the next deadline "now".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError
from meshd.forward.control import Control, Pad, decode_control
from meshd.forward.decide import TableView, UnknownBudget, decide_inbound, decide_outbound, spends
from meshd.forward.engine.interface import Inspected, Upcalls, Verdict
from meshd.forward.fdb import Fdb
from meshd.ids import Address, HostId, Mac, SegmentId, ShortId, SlotId, is_multicast
from meshd.node.layer2 import Layer2
from meshd.node.peers import Peer, PeerTable

__all__ = ["MAX_SIGHTS", "EngineUpcalls", "Noted"]

MAX_CONTROLS = 4096  # probes, echoes, byes since the last settling
MAX_SIGHTS = 1024  # MACs captured since then; more are found by the next sweep


@dataclass(slots=True)
class Noted:
    """What upcalls have left to do."""

    sights: dict[tuple[SegmentId, Mac], None] = field(default_factory=dict)
    wanted: dict[HostId, None] = field(default_factory=dict)
    confirmed: list[int] = field(default_factory=list)
    controls: list[tuple[Peer, Control, int, Address, bool, float]] = field(default_factory=list)
    handshakes: bool = False  # some came in: the sessions have something to say
    inspected: bool = False  # memberships may have changed

    def __bool__(self) -> bool:
        return bool(self.sights or self.wanted or self.confirmed or self.controls or self.handshakes or self.inspected)


class EngineUpcalls(Upcalls):
    """Answers from the tables. `children`: this host's children in an origin's flood tree, None for an unknown origin.

    `next_hop`: to whom this host passes what others want relayed to that host.
    """

    def __init__(
        self,
        *,
        self_id: HostId,
        peers: PeerTable,
        fdb: Fdb,
        children: Callable[[ShortId], Collection[HostId] | None],
        layer2: Layer2,
        next_hop: Callable[[ShortId], SlotId | None],
        drops: DropCounters,
    ) -> None:
        self._self = self_id
        self._peers = peers
        self._fdb = fdb
        self._children = children
        self._layer2 = layer2
        self._next_hop = next_hop
        self._drops = drops
        self._budget = UnknownBudget()
        self.noted = Noted()

    def take_noted(self) -> Noted:
        noted, self.noted = self.noted, Noted()
        return noted

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        if not is_multicast(source) and len(self.noted.sights) < MAX_SIGHTS:
            self.noted.sights[segment, source] = None
        verdict = decide_outbound(segment, source, destination, self._tables(now))
        if spends(verdict):
            self._budget.take(None, segment, source, now)
        return verdict

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        host = self._peers.slots.peer(peer)
        verdict = decide_inbound(host, segment, source, destination, self._tables(now))
        if spends(verdict):
            self._budget.take(host, segment, source, now)
        return verdict

    def _tables(self, now: float) -> TableView:
        return TableView(self_id=self._self, fdb=self._fdb, slots=self._peers.slots, budget=self._budget, now=now)

    def flood_children(self, origin: ShortId, now: float) -> Sequence[SlotId] | None:
        children = self._children(origin)
        if children is None:
            return None
        return [peer.slot for host in children if (peer := self._peers.admit(host)) is not None]

    def group_members(self, segment: SegmentId, group: Mac, now: float) -> Sequence[SlotId] | None:
        return self._layer2.members(group)

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        self.noted.inspected = True
        return self._layer2.inspect(segment, frame, now)

    def relay_next(self, destination: ShortId, now: float) -> SlotId | None:
        return self._next_hop(destination)

    def session_wanted(self, peer: SlotId, now: float) -> None:
        self.noted.wanted[self._peers.slots.peer(peer)] = None

    def key_confirmed(self, index: int, now: float) -> None:
        self.noted.confirmed.append(index)

    def receive_handshake(self, data: memoryview, source: Address, now: float) -> None:
        sessions = self._peers.sessions
        if sessions.receive(data, source, now) is None or sessions.pending:
            self.noted.handshakes = True  # not for what was dropped: in a flood the node would do nothing else

    def receive_control(
        self, peer: SlotId, index: int, counter: int, body: memoryview, source: Address, now: float, *, newest: bool
    ) -> None:
        known = self._peers.peers.get(self._peers.slots.peer(peer))
        if known is None:
            return
        try:
            message = decode_control(body)
        except DecodeError:
            self._drops.add(DropReason.BAD_CONTROL)
            return
        if isinstance(message, Pad):
            return
        if len(self.noted.controls) >= MAX_CONTROLS:
            self._drops.add(DropReason.QUEUE_FULL)
            return
        self.noted.controls.append((known, message, index, source, newest, now))
