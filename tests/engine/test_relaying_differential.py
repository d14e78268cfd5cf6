"""Both engines relay the same story: the same datagrams on every wire, the same frames, drops, counters and upcalls in the end.

Host a captures frames for b and b for a, and the node of a sends control and handshakes; all of it goes through r. On every wire
datagrams are lost, doubled, turned around, cut and flipped; some are changed under a tag that is right, as a member that means ill
could. Keys, paths and routes change in between.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite, new_aead
from meshd.crypto.aead import nonce as pack_nonce
from meshd.crypto.session import relay_key
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.python import PythonEngine
from meshd.forward.engine.relaying import Relaying
from meshd.forward.relay import RELAY_FIRST_BYTE, RELAY_OVERHEAD, relay_suite
from meshd.ids import Endpoint, Relayed, ShortId, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine import pair, row
from tests.engine.compare import compare
from tests.engine.make_relay_vectors import VECTORS
from tests.engine.reference import arp, capture, complete, super_frame, tcp, udp, unfinished
from tests.engine.row import ONE, TWO

PAYLOAD = bytes(range(251)) * 260
STRANGER = Endpoint("10.0.0.66", 6783)


class Faults:
    """Seeded, and by destination, so that both engines meet the same ones."""

    def __init__(self, play: Play, seed: int, rate: float) -> None:
        self.play = play
        self.rate = rate
        self.wire: dict[Endpoint, list[bytes]] = defaultdict(list)
        self.held: dict[Endpoint, list[bytes]] = defaultdict(list)
        self.rngs: dict[Endpoint, random.Random] = defaultdict(lambda: random.Random(seed))

    def __call__(self, _: Endpoint, destination: Endpoint, datagram: bytes) -> Iterable[bytes]:
        self.wire[destination].append(datagram)
        rng, held = self.rngs[destination], self.held[destination]
        if rng.random() >= self.rate:
            return (datagram,)
        match rng.randrange(7):
            case 0:
                return ()
            case 1:
                return (datagram, datagram)
            case 2:
                return (flipped(datagram, rng.randrange(8 * len(datagram))),)
            case 3:
                return (datagram[: rng.randrange(1, len(datagram))],)
            case 4:
                held.append(datagram)
                return (held.pop(0),) if len(held) > 2 else ()
            case 5:  # another length in the middle of a run, still authentic
                return (self.changed(datagram[:-17] + datagram[-16:], 0, datagram[0]),)
            case _:
                at, value = rng.choice((1, 16, 24, 32, 32, 33, 36, 36, 37, 45)), rng.randrange(32)
                return (self.changed(datagram, at, value),)

    def changed(self, datagram: bytes, at: int, value: int) -> bytes:
        """Another byte, under a tag that is right, where there is one."""
        covered = bytearray(datagram[:-16])
        if datagram[0] != RELAY_FIRST_BYTE or len(datagram) <= RELAY_OVERHEAD or at >= len(covered):
            return datagram
        covered[at] = value
        secret = self.play.secrets[int.from_bytes(datagram[4:8], "little")]
        counter = pack_nonce(int.from_bytes(datagram[8:16], "little"))
        aead = new_aead(relay_suite(self.play.suite), relay_key(secret))
        return bytes(covered) + aead.seal(counter, b"", bytes(covered))


def flipped(datagram: bytes, bit: int) -> bytes:
    return datagram[: bit // 8] + bytes((datagram[bit // 8] ^ 1 << bit % 8,)) + datagram[bit // 8 + 1 :]


class Play(row.Row):
    """One engine's a, r and b."""

    def __init__(self, engine: type[PythonEngine], seed: int, rate: float, suite: Suite) -> None:
        class Side(pair.Side):
            engine_type = engine

        self.side_type = Side
        self.generation = 0
        self.frames: dict[str, list[bytes]] = {"a": [], "r": [], "b": []}
        super().__init__(suite)
        self.faults = self.network.fault = Faults(self, seed, rate)
        self.sides = {"a": self.a, "r": self.r, "b": self.b}

    def keys(self, one: pair.Side, slot: SlotId, other: pair.Side, back: SlotId) -> None:
        key = bytes((one.origin[0], other.origin[0], self.generation)) + bytes(29)
        index = self.generation << 16 | one.index_of(slot)
        self.secrets[index] = key
        other.engine.drop_receive_key(index - (2 << 16))
        other.engine.add_receive_key(index, back, self.suite, key, relay_key(key))
        one.engine.set_send_key(slot, self.suite, key, index, relay_key(key))

    def rekey(self) -> None:
        self.generation += 1
        self.keys(self.a, ONE, self.r, ONE)
        self.keys(self.r, TWO, self.b, ONE)
        self.keys(self.a, TWO, self.b, TWO)

    def deliver(self) -> None:
        for _ in range(2):
            for name, side in self.sides.items():
                side.now += 1.0
                self.frames[name] += [frame for written in side.receive() for frame in complete(written)]

    def there(self, *captures: bytes) -> None:
        self.a.send(*captures)
        self.deliver()

    def both(self, there: list[bytes], back: list[bytes]) -> None:
        self.a.send(*there)
        self.b.send(*back)
        self.deliver()

    def control(self, body: bytes) -> None:
        self.a.engine.send_control(TWO, body, Relayed(self.b.origin), via=ONE)
        self.deliver()

    def raw(self, data: bytes, known: bool) -> None:
        """Any bytes as what is carried, to b or to a host that nobody knows."""
        self.a.engine.send_relayed(data, self.b.origin if known else self.r.origin, ONE)
        self.deliver()

    def garbage(self, data: bytes) -> None:
        self.network.carry(STRANGER, self.r.endpoint, data)
        self.deliver()

    def route(self, back: bool) -> None:
        self.r.upcalls.routes[self.b.origin] = ONE if back else TWO
        self.r.engine.void_routes()

    def unroute(self) -> None:
        self.r.upcalls.routes.pop(self.b.origin, None)
        self.r.engine.void_routes()

    def path(self, kind: int) -> None:
        """Of r to b: none, through a, direct."""
        if kind == 1:
            self.r.engine.set_path(TWO, Relayed(self.b.origin), row.SIZE, via=ONE)
        else:
            self.r.engine.set_path(TWO, self.b.endpoint if kind else None, 1472)

    def shrink(self, size: int) -> None:
        self.a.engine.set_path(TWO, Relayed(self.b.origin), size, via=ONE)

    def direct(self) -> None:
        self.a.engine.set_path(TWO, self.b.endpoint, 1472)

    def seen(self) -> dict[str, object]:
        """Everything that somebody could tell the engines apart by."""
        result: dict[str, object] = {"wire": dict(self.faults.wire), "frames": self.frames}
        for name, side in self.sides.items():
            upcalls = side.upcalls
            result[f"{name} drops"] = side.drops
            result[f"{name} counters"] = dict(side.engine.peer_counters())
            result[f"{name} flows"] = {
                (flow.outbound, flow.source, flow.destination): flow for flow in side.engine.flows()
            }
            result[f"{name} asked"] = (
                upcalls.asked_outbound, upcalls.asked_inbound, upcalls.asked_routes, upcalls.confirmed,
                upcalls.handshakes, upcalls.controls, upcalls.newest,
            )  # fmt: skip
        return result


# ── stories

frames = st.one_of(
    st.builds(lambda size, ident: capture(udp(PAYLOAD[:size], ident=ident)), st.integers(0, 1300), st.integers(0, 9)),
    st.builds(lambda size: unfinished(tcp(PAYLOAD[:size])), st.integers(0, 1270)),
    st.just(capture(arp())),
    st.builds(
        lambda size, count, rest, version: super_frame(tcp(PAYLOAD[: size * count + rest], version), size),
        st.sampled_from([60, 536, 1000, 1290, 1300, 1320]), st.integers(1, 12), st.integers(0, 60), st.sampled_from([4, 6]),
    ),
    st.builds(
        lambda size, count: super_frame(udp(PAYLOAD[: size * count + 7]), size), st.sampled_from([60, 1200]), st.integers(1, 9)
    ),
)  # fmt: skip
batches = st.lists(frames, min_size=1, max_size=8)
Step = Callable[[Play], None]


def there(batch: list[bytes]) -> Step:
    return lambda play: play.there(*batch)


busy = batches.map(there)
steps = st.one_of(
    busy,
    busy,
    busy,
    st.builds(lambda there, back: lambda play: play.both(there, back), batches, batches),
    st.just(Play.rekey),
    st.just(Play.unroute),
    st.just(Play.direct),
    st.booleans().map(lambda back: lambda play: play.route(back)),
    st.sampled_from([0, 1, 2, 2]).map(lambda kind: lambda play: play.path(kind)),
    st.sampled_from([100, 552, 1000, 1400, row.SIZE]).map(lambda size: lambda play: play.shrink(size)),
    st.binary(min_size=1, max_size=30).map(lambda body: lambda play: play.control(body)),
    st.builds(
        lambda data, known: lambda play: play.raw(data, known), st.binary(min_size=4, max_size=60), st.booleans()
    ),
    st.binary(min_size=1, max_size=70).map(lambda data: lambda play: play.garbage(b"\x18" + data)),
)


def both(seed: int, rate: float, suite: Suite) -> tuple[Play, Play]:
    return Play(PythonEngine, seed, rate, suite), Play(NativeEngine, seed, rate, suite)


@given(st.lists(steps, min_size=1, max_size=8), st.sampled_from(list(Suite)))
def test_without_faults(story: list[Step], suite: Suite) -> None:
    compare(story, *both(0, 0.0, suite))


@given(st.lists(steps, min_size=1, max_size=8), st.integers(0, 1 << 30), st.sampled_from([0.05, 0.5]))
def test_with_faults(story: list[Step], seed: int, rate: float) -> None:
    compare(story, *both(seed, rate, Suite.AES_256_GCM))


# ── what is a hit


def test_at_the_source_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through a relay is captured, sealed and wrapped in C; after a change of keys or paths it is again."""
    handed_over: list[int] = []
    capture_ = NativeEngine.native_capture

    def native_capture(self: NativeEngine, data: bytearray, now: float) -> None:
        handed_over.append(len(data))
        capture_(self, data, now)

    monkeypatch.setattr(NativeEngine, "native_capture", native_capture)
    play = Play(NativeEngine, 0, 0.0, Suite.AES_256_GCM)
    bulk, small = super_frame(tcp(PAYLOAD[:20_000]), 1300), capture(udp(b"small"))
    play.there(bulk)
    assert len(handed_over) == 1  # no flow
    for change in (Play.rekey, Play.direct, lambda play: play.shrink(1400), lambda play: play.shrink(row.SIZE)):
        change(play)
        play.there(small, bulk, small)
    assert len(handed_over) == 1
    play.a.engine.set_path(ONE, None, 0)
    play.there(bulk, small)
    assert len(handed_over) == 3
    assert play.a.drops == {"no_path": 17}


def test_python_sees_what_is_relayed_first_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the relay and at the destination, under each key; again after keys or routes have changed."""
    handed_over: list[int] = []
    take = NativeEngine.native_take

    def native_take(self: NativeEngine, data: bytes, size: int, source: Endpoint, now: float) -> None:
        handed_over.append(data[0])
        take(self, data, size, source, now)

    monkeypatch.setattr(NativeEngine, "native_take", native_take)
    play = Play(NativeEngine, 0, 0.0, Suite.AES_256_GCM)
    bulk = super_frame(tcp(PAYLOAD[:20_000]), 1300)
    play.there(capture(arp()))
    for change in (Play.rekey, lambda play: play.route(False), lambda play: play.path(2)):
        assert set(handed_over) == {RELAY_FIRST_BYTE}
        handed_over.clear()
        play.there(bulk)
        assert not handed_over
        change(play)
        play.there(bulk)
    assert not handed_over  # another path is no news
    assert sum(map(len, play.frames["b"])) > 3 * 20_000


@pytest.mark.parametrize("number", range(3))
def test_pinned_in_c(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/vectors/relay.json: at the destination, once C has the key."""
    vectors = json.loads(VECTORS.read_text())
    pinned = vectors["datagrams"][number]
    suite, session = Suite[pinned["suite"]], bytes.fromhex(vectors["session_key"])
    datagram = bytes.fromhex(pinned["datagram"])

    class Destination(pair.Side):
        engine_type = NativeEngine

    side = Destination(MemoryNetwork(), 1)
    side.engine = NativeEngine(
        side.frames, [side.port], side.upcalls, origin=ShortId(datagram[16:24]), boot=7, clock=pair.still
    )
    side.engine.add_receive_key(pinned["receiver"], ONE, suite, session, relay_key(session))
    earlier = (pinned["counter"] ^ 1).to_bytes(8, "little")
    greeting = b"\x11" + bytes(50)
    first = datagram[:8] + earlier + datagram[16:36] + greeting
    tag = new_aead(relay_suite(suite), relay_key(session)).seal(bytes(4) + earlier, b"", first)
    side.port.deliver(first + tag, STRANGER)
    side.receive()
    monkeypatch.setattr(Relaying, "open", None)
    for changed in (flipped(datagram, 8 * len(datagram) - 1), datagram, datagram):
        side.port.deliver(changed, STRANGER)
    side.receive()
    source = Relayed(ShortId(bytes.fromhex(vectors["source_id"])))
    inner = bytes.fromhex(pinned["inner"])
    sealed = (
        inner[0] == 0x14
    )  # for an index that this host does not have: who was asked for it shows that it was opened
    assert side.upcalls.handshakes == [(greeting, source)] + ([] if sealed else [(inner, source)])
    assert side.drops == {"bad_tag": 1, "replayed": 1} | ({"unknown_index": 1} if sealed else {})
