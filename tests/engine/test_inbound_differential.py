"""Authentic datagrams that no engine of ours would send, opened by each engine: both make the same of them.

A member may seal anything: counters at the window's edges and far beyond, flag bits that nobody knows, entries of all kinds in one
datagram, empty and cut short ones, checksums vouched for where there are none, segments that almost continue a series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite, new_aead, nonce
from meshd.crypto.replay import WINDOW
from meshd.drops import DropReason
from meshd.forward.engine.interface import Verdict
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.python import PythonEngine
from meshd.forward.entries import EntryKind, FloodHeader, encode_entry, encode_flood
from meshd.forward.header import LAST_COUNTER, DataHeader, encode_data_header
from meshd.forward.slots import LOCAL, drop_slot
from meshd.ids import Endpoint, Mac, SegmentId, ShortId, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.compare import compare
from tests.engine.pair import KEY_AB, PEER, ScriptedUpcalls
from tests.engine.pair import Side as OneSide
from tests.engine.reference import arp, partial, tcp, udp
from tests.engine.test_differential import frames_of

INDEX, ELSEWHERE, SENDER = 7, ShortId(b"elsewher"), Endpoint("10.0.0.9", 6783)
DROPPED, ASKED_EACH_TIME = 1, 2  # last bytes of destinations
PAYLOAD = bytes(range(251)) * 6
DATAGRAMS = {size: partial(udp(PAYLOAD[:size])) for size in (0, 1, 200)}
CIPHER = new_aead(Suite.AES_256_GCM, KEY_AB)


@dataclass
class Decided(ScriptedUpcalls):
    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        self.asked_inbound.append((peer, source, destination))
        slot = drop_slot(DropReason.NOT_LOCAL) if destination[5] == DROPPED else LOCAL
        return Verdict(slot, cached=destination[5] != ASKED_EACH_TIME)


class Datagram(NamedTuple):
    """`skip`: how far its counter is from the one that comes next."""

    plain: bytes
    flags: int = 0
    skip: int = 0
    copies: int = 1
    segment: int = 0


class Play:
    """One engine, and a member that has a key to it."""

    def __init__(self, engine: type[PythonEngine]) -> None:
        class Side(OneSide):
            engine_type = engine
            upcalls_type = Decided

        self.side = Side(MemoryNetwork(), 1)
        self.side.engine.add_receive_key(INDEX, PEER, Suite.AES_256_GCM, KEY_AB)
        self.side.upcalls.children = {ELSEWHERE: []}
        self.counter = 0
        self.frames: list[bytes] = []

    def arrive(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            counter = min(max(0, self.counter + datagram.skip), (1 << 64) - 1)
            self.counter = max(self.counter, counter + 1)
            header = encode_data_header(DataHeader(datagram.flags, datagram.segment, INDEX, counter))
            sealed = header + CIPHER.seal(nonce(counter), datagram.plain, header)
            for _ in range(datagram.copies):
                self.side.port.deliver(sealed, SENDER)
        self.frames += [frame for written in self.side.receive() for frame in frames_of(written)]

    def seen(self) -> dict[str, object]:
        upcalls, engine = self.side.upcalls, self.side.engine
        return {
            "frames": self.frames,
            "drops": self.side.drops,
            "counters": dict(engine.peer_counters()),
            "flows": {(flow.source, flow.destination): flow for flow in engine.flows()},
            "asked": (upcalls.asked_inbound, upcalls.asked_children, upcalls.confirmed, upcalls.controls),
            "newest": upcalls.newest,
        }


def towards(frame: bytes, last: int) -> bytes:
    return frame[:5] + bytes((last,)) + frame[6:]


def tagged(frame: bytes, tags: int) -> bytes:
    return frame[:12] + b"\x88\xa8\x00\x05" * (tags > 1) + b"\x81\x00\x00\x07" * (tags > 0) + frame[12:]


@lru_cache(maxsize=4096)
def segment(size: int, flags: str, version: int, sequence: int, ident: int) -> bytes:
    """Its checksum is partial."""
    return partial(tcp(PAYLOAD[:size], version, ident=ident & 0xFFFF, seq=sequence & 0xFFFFFFFF, flags=flags))


destinations = st.sampled_from([3, 3, 3, DROPPED, ASKED_EACH_TIME])


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """They often continue each other; the sequence number wraps."""
    number, version = draw(st.integers(0, 4)), draw(st.sampled_from([4, 6]))
    size, step = draw(st.sampled_from([100, 100, 100, 0, 1, 99, 101])), draw(st.sampled_from([100, 100, 99]))
    flags = draw(st.sampled_from(["A", "A", "A", "PA", "FA", "EA", "CA", "SA", "R", "UA"]))
    frame = segment(size, flags, version, 0xFFFFFF00 + number * step, 1 + number)
    padding = draw(st.sampled_from([0, 0, 0, 3]))
    return towards(tagged(frame, draw(st.sampled_from([0, 0, 1, 2]))) + bytes(padding), draw(destinations))


odd_frames = st.one_of(
    st.just(bytes(arp())),
    st.builds(lambda size, last: towards(DATAGRAMS[size], last), st.sampled_from([0, 1, 200]), destinations),
    st.binary(max_size=40),
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A header field or two is another, also the IPv4 checksum's other zero."""
    frame = bytearray(draw(segments()))
    for at, value in draw(st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=2)):
        if at < len(frame):
            frame[at] = value
    return bytes(frame)


frames = st.one_of(segments(), segments(), odd_frames, changed())
floods = st.builds(
    lambda sequence, ttl, frame: encode_flood(FloodHeader(ELSEWHERE, 1, sequence, ttl), frame),
    st.integers(0, 3),
    st.integers(0, 2),
    frames,
)
entries = st.one_of(
    frames.map(lambda frame: encode_entry(EntryKind.FRAME, frame)),
    frames.map(lambda frame: encode_entry(EntryKind.FRAME, frame)),
    st.binary(max_size=20).map(lambda body: encode_entry(EntryKind.CONTROL, body)),
    st.binary(max_size=20).map(lambda body: encode_entry(EntryKind.FRAGMENT, body)),
    floods,
    st.binary(max_size=3),
)
crowds = st.builds(
    lambda frame, count: encode_entry(EntryKind.FRAME, frame) * count,
    st.builds(lambda last: towards(bytes(14), last), destinations),
    st.sampled_from([2, 95, 96, 97, 200]),
)
plains = st.one_of(
    frames.map(lambda frame: encode_entry(EntryKind.FRAME, frame)),
    frames.map(lambda frame: encode_entry(EntryKind.FRAME, frame)),
    st.lists(entries, max_size=4).map(b"".join),
    crowds,
)
skips = st.one_of(
    st.just(0),
    st.sampled_from([-1, -2, -64, -WINDOW - 1, -WINDOW, -WINDOW + 1, 1, 63, 64, 8128, 8192, 100_000]),
)
datagrams = st.builds(
    Datagram,
    plains,
    st.sampled_from([1, 1, 1, 0, 0xFF, 0xFE]),
    skips,
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([0, 0, 0, 0, 0, 1]),
)


@st.composite
def runs(draw: st.DrawFn) -> list[Datagram]:
    """Segments that continue each other, up to one that does not."""
    size, count, version = (
        draw(st.sampled_from([1, 100, 1400])),
        draw(st.integers(1, 90)),
        draw(st.sampled_from([4, 6])),
    )
    first, ident = draw(st.sampled_from([1000, 0xFFFFFF00])), draw(st.sampled_from([1, 0xFFFE]))
    batch = []
    for number in range(count):
        frame = segment(size, "A", version, first + number * size, ident + number)
        batch.append(Datagram(encode_entry(EntryKind.FRAME, frame), 1))
    at = draw(st.integers(0, count))
    return [*batch[:at], *draw(st.lists(datagrams, max_size=2)), *batch[at:]]


Step = Callable[[Play], None]


def arrive(batch: list[Datagram]) -> Step:
    return lambda play: play.arrive(batch)


steps = st.one_of(st.lists(datagrams, min_size=1, max_size=10), runs()).map(arrive)


@given(st.lists(steps, min_size=1, max_size=6))
def test_what_members_may_seal(story: list[Step]) -> None:
    compare(story, Play(PythonEngine), Play(NativeEngine))


def test_the_last_counters_of_all() -> None:
    """No key gets there; the window is the same for whoever says so."""
    frame = encode_entry(EntryKind.FRAME, partial(tcp(b"x")))
    batch = [
        Datagram(frame, 1, skip) for skip in (0, LAST_COUNTER, 0, 0, -WINDOW, (1 << 63) - 10, 0, 0, 0, -1, -WINDOW - 1)
    ]
    compare([arrive([one]) for one in batch] + [arrive(batch)], Play(PythonEngine), Play(NativeEngine))
