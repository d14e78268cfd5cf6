"""The two engines side by side: the same frames, datagrams, keys and faults, and the same of everything in the end.

Each example is a story of some steps, played once with each engine: host a captures frames for two peers, for its tree and for
nobody; datagrams are lost, doubled, turned around and flipped on their way to b and c; keys and paths change, MACs move.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, IPOption
from scapy.packet import Packet

from meshd.crypto.aead import Suite
from meshd.drops import DropReason
from meshd.forward.engine.interface import Verdict
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.engine.python import PythonEngine
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import parse_headers
from meshd.forward.segmentation import segments
from meshd.forward.slots import FIRST_PEER, FLOOD, LOCAL, drop_slot
from meshd.forward.vnet import VNET_SIZE, decode_vnet
from meshd.ids import Endpoint, Mac, SegmentId, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.chains import lengthened
from tests.engine.compare import compare
from tests.engine.pair import ScriptedUpcalls
from tests.engine.pair import Side as OneSide
from tests.engine.reference import arp, capture, super_frame, tcp, udp, unfinished, vnet

B, C = FIRST_PEER, SlotId(FIRST_PEER + 1)
A = FIRST_PEER  # what b and c call a
PAYLOAD = bytes(range(251)) * 260

# Where a frame goes is said by the last byte of its destination: what a decides, and what b and c decide.
OUTBOUND = {
    1: Verdict(B),
    2: Verdict(C),
    3: Verdict(FLOOD),
    4: Verdict(LOCAL),
    5: Verdict(drop_slot(DropReason.UNKNOWN_LIMITED)),
    6: Verdict(B, cached=False),
    7: Verdict(B),
    8: Verdict(B),
}
INBOUND = {7: Verdict(drop_slot(DropReason.NOT_LOCAL)), 8: Verdict(A)}


@dataclass
class Decided(ScriptedUpcalls):
    """Verdicts by destination; `moved` swaps b and c."""

    moved: bool = False

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_outbound.append((source, destination))
        verdict = OUTBOUND.get(destination[5], Verdict(B))
        swapped = {B: C, C: B}.get(verdict.slot, verdict.slot)
        return verdict._replace(slot=swapped) if self.moved else verdict

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_inbound.append((peer, source, destination))
        return INBOUND.get(destination[5], Verdict(LOCAL))


class Faults:
    """Seeded, and by destination, so that both engines meet the same ones whichever peer they send to first."""

    def __init__(self, seed: int, rate: float) -> None:
        self.rate = rate
        self.wire: dict[Endpoint, list[bytes]] = defaultdict(list)
        self.held: dict[Endpoint, list[bytes]] = defaultdict(list)
        self.rngs: dict[Endpoint, random.Random] = defaultdict(lambda: random.Random(seed))

    def __call__(self, _: Endpoint, destination: Endpoint, datagram: bytes) -> Iterable[bytes]:
        self.wire[destination].append(datagram)
        rng, held = self.rngs[destination], self.held[destination]
        if rng.random() >= self.rate:
            return (datagram,)
        match rng.randrange(5):
            case 0:
                return ()
            case 1:
                return (datagram, datagram)
            case 2:
                at = rng.randrange(len(datagram))
                return (datagram[:at] + bytes((datagram[at] ^ 1 << rng.randrange(8),)) + datagram[at + 1 :],)
            case 3:
                return (datagram[: rng.randrange(1, len(datagram))],)
            case _:
                held.append(datagram)
                return (held.pop(0),) if len(held) > 2 else ()


class Play:
    """One engine's a, b and c."""

    def __init__(self, engine: type[PythonEngine], seed: int, rate: float, suite: Suite) -> None:
        class Side(OneSide):
            engine_type = engine
            upcalls_type = Decided

        self.faults = Faults(seed, rate)
        self.network = MemoryNetwork()
        self.suite = suite
        self.a, self.b, self.c = (Side(self.network, number) for number in (1, 2, 3))
        self.a.upcalls.children = {self.a.origin: [B, C]}
        for side in (self.b, self.c):
            side.upcalls.children = {self.a.origin: []}
        self.generation = 0
        self.frames: dict[str, list[bytes]] = {"b": [], "c": [], "a": []}
        self.network.fault = self.faults
        self.sizes = {B: 1472, C: 1472}
        self.looked_at: list[tuple[object, ...]] = []
        self.rekey()

    def rekey(self) -> None:
        """New keys in every direction; the old ones still open, those before do not."""
        for number, (slot, other) in enumerate(((B, self.b), (C, self.c))):
            for way, (sender, at, receiver, back) in enumerate(((self.a, slot, other, A), (other, A, self.a, slot))):
                index = 0x1000 * (number + 1) + 0x100 * way + self.generation
                receiver.engine.drop_receive_key(index - 2)
                key = bytes([number, way, self.generation]) + bytes(29)
                receiver.engine.add_receive_key(index, back, self.suite, key)
                sender.engine.set_path(at, receiver.endpoint, self.sizes[slot] if sender is self.a else 1472)
                sender.engine.set_send_key(at, self.suite, key, index)
        self.generation += 1

    def shrink(self, size: int, aggregate: int | None) -> None:
        self.sizes[B] = size
        self.a.engine.set_path(B, self.b.endpoint, size, aggregate_limit=aggregate)

    def lose_path(self) -> None:
        """New keys bring it back."""
        self.a.engine.set_path(B, None, 0)

    def lose_key(self) -> None:
        self.a.engine.drop_send_key(B)

    def void(self) -> None:
        for side in (self.a, self.b):
            side.engine.void_flows()

    def look(self) -> None:
        for name, side in (("a", self.a), ("b", self.b)):
            side.engine.set_mirror(lambda *what, name=name: self.looked_at.append((name, *what[:2], bytes(what[2]))))

    def look_away(self) -> None:
        for side in (self.a, self.b):
            side.engine.set_mirror(None)

    def move(self, last: int) -> None:
        upcalls = self.a.upcalls
        assert isinstance(upcalls, Decided)
        upcalls.moved = not upcalls.moved
        self.a.engine.void_flows(Mac(destination(last)))

    def carry(self, *captures: bytes) -> None:
        for side in (self.a, self.b, self.c):
            side.now += 1.0
        self.a.send(*captures)
        self.deliver()

    def deliver(self) -> None:
        for name, side in (("b", self.b), ("c", self.c), ("a", self.a)):
            self.frames[name] += [frame for written in side.receive() for frame in frames_of(written)]

    def control(self, body: bytes) -> None:
        self.a.engine.send_control(B, body)
        self.deliver()

    def back(self, *captures: bytes) -> None:
        self.b.send(*captures)
        self.deliver()

    def seen(self) -> dict[str, object]:
        """Everything that somebody could tell the engines apart by."""
        result: dict[str, object] = {"wire": dict(self.faults.wire), "frames": self.frames, "looked at": self.looked_at}
        for name, side in (("a", self.a), ("b", self.b), ("c", self.c)):
            upcalls = side.upcalls
            result[f"{name} drops"] = side.drops
            result[f"{name} counters"] = dict(side.engine.peer_counters())
            result[f"{name} flows"] = {
                (flow.outbound, flow.source_slot, flow.source, flow.destination): flow for flow in side.engine.flows()
            }
            result[f"{name} asked"] = (
                upcalls.asked_outbound, upcalls.asked_inbound, upcalls.asked_children, upcalls.wanted,
                upcalls.confirmed, upcalls.handshakes, upcalls.controls,
            )  # fmt: skip
        return result


def frames_of(written: bytes) -> list[bytes]:
    """What the bridge gets of one write, partial checksums left out: a super-frame may be put together of more or fewer segments,
    as Python has had its hand in the first one or not."""
    flags, gso_type, _, gso_size, start, offset = decode_vnet(written)
    frame = written[VNET_SIZE:]
    if not flags:
        return [frame]
    headers = parse_headers(frame)
    assert headers is not None
    assert (headers.l4, headers.checksum_offset) == (start, offset)
    pieces = [frame]
    if gso_type:
        cut = segments(memoryview(bytearray(written)), VNET_SIZE, headers, gso_size)
        pieces = [entry[ENTRY_HEADER_SIZE:] for entry in cut]
    return [piece[: start + offset] + piece[start + offset + 2 :] for piece in pieces]


def destination(last: int) -> bytes:
    return b"\x02\x00\x00\x00\x00" + bytes((last,))


def towards(data: bytes, last: int) -> bytes:
    """The same capture for another MAC."""
    return data[:10] + destination(last) + data[16:]


# ── stories

kinds = st.integers(1, 9)
plain_frames = st.one_of(
    st.builds(lambda size, ident: capture(udp(PAYLOAD[:size], ident=ident)), st.integers(0, 1340), st.integers(0, 9)),
    st.builds(
        lambda size, version: unfinished(tcp(PAYLOAD[:size], version)), st.integers(0, 1310), st.sampled_from([4, 6])
    ),
    st.builds(lambda size: unfinished(udp(PAYLOAD[:size])), st.integers(0, 1340)),
    st.just(capture(arp())),
    st.builds(lambda size: vnet() + bytes(12) + b"\x88\xb5" + PAYLOAD[:size], st.integers(0, 1500)),
    st.builds(lambda size: vnet(1, start=14, offset=2) + bytes(12) + b"\x88\xb5" + PAYLOAD[:size], st.integers(0, 40)),
)


@st.composite
def super_frames(draw: st.DrawFn) -> bytes:
    """Of one segment and of many, the last one of a byte and more; the largest that an entry takes, and one more."""
    version, size = (
        draw(st.sampled_from([4, 6])),
        draw(st.sampled_from([1, 60, 536, 1000, 1300, 1306, 1320, 8900, 16329, 16330])),
    )
    total = size * draw(st.integers(1, min(12, 64_000 // size))) + draw(st.integers(0, 60))
    padding = 4 * draw(st.sampled_from([0, 0, 1, 10])) if version == 4 else 0
    if draw(st.booleans()):
        flags = draw(st.sampled_from(["A", "A", "PA", "FPA", "CA", "CEPA", "EA", "SA"]))
        options = draw(
            st.sampled_from([[], [("NOP", None), ("NOP", None), ("Timestamp", (9, 8))], [("NOP", None)] * 40])
        )
        seq, ident = draw(st.sampled_from([1000, 0xFFFFF000])), draw(st.sampled_from([1, 0xFFFE]))
        packet = tcp(PAYLOAD[:total], version, None, ident, seq=seq, flags=flags, options=options)
        data = super_frame(with_options(packet, padding), size, ecn="C" in flags)
    else:
        data = super_frame(with_options(udp(PAYLOAD[:total], version), padding), size)
    return tagged(data, draw(st.sampled_from([0, 0, 0, 1, 2, 3])))


def with_options(packet: Packet, size: int) -> Packet:
    """IPv4 options of so many bytes."""
    if size:
        packet[IP].options = [IPOption(b"\x01" * size)]
    return packet


def tagged(data: bytes, tags: int) -> bytes:
    """The same capture with VLAN tags, of which two are looked behind."""
    flags, gso_type, header_length, gso_size, start, offset = decode_vnet(data)
    more = 4 * tags
    head = vnet(flags, gso_type, header_length + more, gso_size, start + more, offset)
    return head + data[10:22] + b"\x81\x00\x00\x07" * tags + data[22:]


def is_ipv6(data: bytes) -> bool:
    return data[22:24] == b"\x86\xdd"


chains = st.lists(st.sampled_from([0, 43, 44, 60]), min_size=1, max_size=9).map(tuple)
chained_frames = st.builds(
    lengthened,
    st.one_of(plain_frames, super_frames(), super_frames()).filter(is_ipv6),
    chains,
    st.sampled_from([0, 1, 20]),
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Kernel flags and headers that lie."""
    data = bytearray(draw(st.one_of(plain_frames, super_frames(), chained_frames)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3)):
        data[at % len(data)] = value
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


frames = st.one_of(plain_frames, super_frames(), plain_frames, super_frames(), mangled(), chained_frames)
captures = st.builds(
    lambda data, last: towards(data, last) if len(data) >= 22 else data,
    frames,
    st.one_of(st.sampled_from([1, 2]), kinds),
)
Step = Callable[[Play], None]


def carry(batch: list[bytes]) -> Step:
    return lambda play: play.carry(*batch)


def shrink(size: int, aggregate: int | None) -> Step:
    return lambda play: play.shrink(size, aggregate)


steps = st.one_of(
    st.lists(captures, min_size=1, max_size=12).map(carry),
    st.lists(captures, min_size=1, max_size=12).map(carry),
    st.lists(captures, min_size=1, max_size=12).map(carry),
    st.lists(plain_frames, min_size=1, max_size=3).map(lambda batch: lambda play: play.back(*batch)),
    st.just(Play.rekey),
    st.lists(captures, min_size=1, max_size=2).map(lambda few: carry(few * 50)),
    st.builds(
        shrink,
        st.sampled_from([40, 100, 552, 1000, 1400, 1472, 9000, 20_000]),
        st.sampled_from([None, None, 0, 47, 400, 1472, 9000, 20_000]),
    ),
    st.sampled_from([Play.lose_path, Play.lose_key, Play.void, Play.look, Play.look_away]),
    kinds.map(lambda last: lambda play: play.move(last)),
    st.binary(min_size=1, max_size=30).map(lambda body: lambda play: play.control(body)),
)


def both(seed: int, rate: float, suite: Suite) -> tuple[Play, Play]:
    return Play(PythonEngine, seed, rate, suite), Play(NativeEngine, seed, rate, suite)


@given(st.lists(steps, min_size=1, max_size=8), st.sampled_from(list(Suite)))
def test_without_faults(story: list[Step], suite: Suite) -> None:
    compare(story, *both(0, 0.0, suite))


def test_aggregates_on_the_largest_paths() -> None:
    """Those of stories are seldom large enough."""
    small = towards(capture(udp(PAYLOAD[:1300])), 1)
    compare([shrink(20_000, 20_000), carry([small] * 2), carry([small] * 60)], *both(0, 0.0, Suite.AES_256_GCM))


@given(st.lists(steps, min_size=1, max_size=8), st.integers(0, 1 << 30), st.sampled_from([0.05, 0.5]))
def test_with_faults(story: list[Step], seed: int, rate: float) -> None:
    compare(story, *both(seed, rate, Suite.AES_256_GCM))


class Unordered(Play):
    """Pieces, and what comes first under a key, may be overtaken on arrival."""

    def seen(self) -> dict[str, object]:
        return super().seen() | {"frames": {name: sorted(frames) for name, frames in self.frames.items()}}


@given(st.lists(steps, min_size=1, max_size=8), st.integers(0, 1 << 30), st.sampled_from([0.0, 0.05, 0.5]))
def test_what_waits_for_python_fares_like_what_need_not_wait(story: list[Step], seed: int, rate: float) -> None:
    """One capture each time: of several, those that need Python may be overtaken by those of other flows."""
    with one_by_one():
        compare(story, *(Unordered(engine, seed, rate, Suite.AES_256_GCM) for engine in (PythonEngine, ThreadedEngine)))


@contextlib.contextmanager
def one_by_one() -> Iterator[None]:
    """Every capture in a wake-up of its own."""
    send = OneSide.send

    def send_each(side: OneSide, *captures: bytes) -> None:
        for one in captures:
            send(side, one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OneSide, "send", send_each)
        yield
