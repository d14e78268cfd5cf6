"""Three engines in a row, a – r – b, where a and b have no path of their own."""

from __future__ import annotations

from meshd.crypto.aead import Suite
from meshd.crypto.session import relay_key
from meshd.forward.engine.interface import Verdict
from meshd.forward.relay import RELAY_OVERHEAD
from meshd.forward.slots import FIRST_PEER
from meshd.ids import Relayed, SlotId
from meshd.testing.devices import Fault, MemoryNetwork
from tests.engine.pair import Side

__all__ = ["ONE", "SIZE", "TWO", "Row"]

ONE, TWO = FIRST_PEER, SlotId(FIRST_PEER + 1)
SIZE = 1472 - RELAY_OVERHEAD


class Row:
    """a has slots for r (ONE) and b (TWO); r for a and b; b for r and a. a reaches b through r, and back."""

    side_type: type[Side] = Side

    def __init__(self, suite: Suite = Suite.AES_256_GCM, fault: Fault | None = None) -> None:
        self.network = MemoryNetwork(fault)
        self.a, self.r, self.b = (self.side_type(self.network, number) for number in (1, 2, 3))
        self.suite = suite
        self.secrets: dict[int, bytes] = {}  # by receiver index
        self.hop(self.a, self.r, ONE, ONE)
        self.hop(self.b, self.r, ONE, TWO)
        self.keys(self.a, TWO, self.b, TWO)
        self.keys(self.b, TWO, self.a, TWO)
        self.a.engine.set_path(TWO, Relayed(self.b.origin), SIZE, via=ONE)
        self.b.engine.set_path(TWO, Relayed(self.a.origin), SIZE, via=ONE)
        self.a.upcalls.outbound = self.b.upcalls.outbound = Verdict(TWO)
        self.r.upcalls.routes = {self.a.origin: ONE, self.b.origin: TWO}

    def hop(self, end: Side, relay: Side, at_end: SlotId, at_relay: SlotId) -> None:
        end.engine.set_path(at_end, relay.endpoint, 1472)
        relay.engine.set_path(at_relay, end.endpoint, 1472)
        self.keys(end, at_end, relay, at_relay)
        self.keys(relay, at_relay, end, at_end)

    def keys(self, one: Side, slot: SlotId, other: Side, back: SlotId) -> None:
        key = bytes([one.origin[0]]) * 16 + bytes([other.origin[0]]) * 16
        index = one.index_of(slot)
        self.secrets[index] = key
        other.engine.add_receive_key(index, back, self.suite, key, relay_key(key))
        one.engine.set_send_key(slot, self.suite, key, index, relay_key(key))

    def pass_on(self) -> None:
        assert self.r.receive() == []

    def carry(self, *captures: bytes) -> list[bytes]:
        self.a.send(*captures)
        self.pass_on()
        return self.b.receive()

    def on_the_wire(self) -> list[bytes]:
        return [datagram for call in self.a.port.sent for datagram in call]
