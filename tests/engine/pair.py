"""Engines joined by a memory network, with upcalls that a test scripts: what all tests of this folder are written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from meshd.crypto.aead import Suite
from meshd.forward.engine.interface import Engine, Inspected, Verdict
from meshd.forward.engine.python import PythonEngine
from meshd.forward.slots import FIRST_PEER, LOCAL
from meshd.ids import Address, Endpoint, Mac, SegmentId, ShortId, SlotId
from meshd.testing.devices import Fault, MemoryFrames, MemoryNetwork, MemoryPort

__all__ = ["KEY_AB", "KEY_BA", "PEER", "Pair", "ScriptedUpcalls", "Side", "still"]

PEER = FIRST_PEER  # each side's slot for the other one
KEY_AB, KEY_BA = b"\x11" * 32, b"\x22" * 32
NOW = 100.0


def still() -> float:
    """A clock that does not move: no pump ends before its port is empty."""
    return 0.0


@dataclass
class ScriptedUpcalls:
    """Answers from fields; keeps what it was asked."""

    outbound: Verdict = field(default=Verdict(PEER))
    inbound: Verdict = field(default=Verdict(LOCAL))
    children: dict[ShortId, list[SlotId] | None] = field(default_factory=dict)
    asked_outbound: list[tuple[Mac, Mac]] = field(default_factory=list)
    asked_inbound: list[tuple[SlotId, Mac, Mac]] = field(default_factory=list)
    asked_children: list[ShortId] = field(default_factory=list)
    members: dict[bytes, list[SlotId] | None] = field(default_factory=dict)
    inspected: Inspected = field(default=Inspected())
    asked_members: list[Mac] = field(default_factory=list)
    asked_inspect: list[bytes] = field(default_factory=list)
    wanted: list[SlotId] = field(default_factory=list)
    confirmed: list[int] = field(default_factory=list)
    handshakes: list[tuple[bytes, Address]] = field(default_factory=list)
    controls: list[tuple[SlotId, int, int, bytes, Address]] = field(default_factory=list)
    newest: list[bool] = field(default_factory=list)
    routes: dict[ShortId, SlotId] = field(default_factory=dict)
    asked_routes: list[ShortId] = field(default_factory=list)

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_outbound.append((source, destination))
        return self.outbound

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_inbound.append((peer, source, destination))
        return self.inbound

    def flood_children(self, origin: ShortId, now: float) -> Sequence[SlotId] | None:
        self.asked_children.append(origin)
        return self.children.get(origin)

    def group_members(self, segment: SegmentId, group: Mac, now: float) -> Sequence[SlotId] | None:
        self.asked_members.append(group)
        return self.members.get(group)

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        self.asked_inspect.append(bytes(frame))
        return self.inspected

    def session_wanted(self, peer: SlotId, now: float) -> None:
        self.wanted.append(peer)

    def key_confirmed(self, index: int, now: float) -> None:
        self.confirmed.append(index)

    def receive_handshake(self, data: memoryview, source: Address, now: float) -> None:
        self.handshakes.append((bytes(data), source))

    def receive_control(
        self, peer: SlotId, index: int, counter: int, body: memoryview, source: Address, now: float, *, newest: bool
    ) -> None:
        self.controls.append((peer, index, counter, bytes(body), source))
        self.newest.append(newest)

    def relay_next(self, destination: ShortId, now: float) -> SlotId | None:
        self.asked_routes.append(destination)
        return self.routes.get(destination)


class Side:
    """One host: frame port, datagram port, upcalls, engine."""

    engine_type: ClassVar[type[PythonEngine]] = PythonEngine  # conftest.py runs every test with each
    upcalls_type: ClassVar[type[ScriptedUpcalls]] = ScriptedUpcalls

    def __init__(self, network: MemoryNetwork, number: int) -> None:
        self.endpoint = Endpoint(f"10.0.0.{number}", 6783)
        self.origin = ShortId(bytes([number]) * 8)
        self.frames = MemoryFrames()
        self.port: MemoryPort = network.port(self.endpoint)
        self.upcalls = self.upcalls_type()
        self.now = NOW
        engine = self.engine_type(self.frames, [self.port], self.upcalls, origin=self.origin, boot=7, clock=still)
        self.engine: Engine = engine

    def know(self, other: Side, slot: SlotId, key: bytes, suite: Suite = Suite.AES_256_GCM, size: int = 1472) -> None:
        """Both ends of one direction: this side may send to the other one, whose slot is `slot`."""
        index = self.index_of(slot)
        self.engine.set_path(slot, other.endpoint, size)
        other.engine.add_receive_key(index, SlotId(slot), suite, key)
        self.engine.set_send_key(slot, suite, key, index)

    def index_of(self, slot: SlotId) -> int:
        return self.origin[0] << 8 | slot - FIRST_PEER

    def send(self, *captures: bytes) -> None:
        """Frames (vnet header in front) come out of the bridge, in one wake-up."""
        self.frames.to_engine.extend(captures)
        while self.engine.pump_frames(self.now):
            pass

    def receive(self) -> list[bytes]:
        """One wake-up of the datagram port; what the bridge gets, vnet headers in front."""
        while self.engine.pump_datagrams(self.port, self.now):
            pass
        return self.frames.take()

    @property
    def drops(self) -> dict[str, int]:
        return self.engine.drops.as_dict()


class Pair:
    """Two hosts with keys and paths to each other."""

    def __init__(self, fault: Fault | None = None, suite: Suite = Suite.AES_256_GCM, size: int = 1472) -> None:
        self.network = MemoryNetwork(fault)
        self.a, self.b = Side(self.network, 1), Side(self.network, 2)
        self.a.know(self.b, PEER, KEY_AB, suite, size)
        self.b.know(self.a, PEER, KEY_BA, suite, size)

    def carry(self, *captures: bytes) -> list[bytes]:
        """From a's bridge to b's."""
        self.a.send(*captures)
        return self.b.receive()
