"""What comes from outside the mesh, or was changed on the way: counted under its reason, never answered, never delivered."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from meshd.crypto.wire import MessageType
from meshd.drops import DropReason
from meshd.ids import DEFAULT_PORT, Endpoint
from meshd.testing.host import SimHost
from meshd.testing.streams import Stream
from meshd.testing.trace import TraceEvent
from tests.sim.meshes import Mesh, mesh_key

OPENING = (MessageType.INIT, MessageType.BOOTSTRAP_INIT)
FOREIGN = Endpoint("192.0.2.66", 4242)
TYPES = (
    MessageType.INIT,
    MessageType.RESPONSE,
    MessageType.DATA,
    MessageType.BOOTSTRAP_INIT,
    MessageType.BOOTSTRAP_RESPONSE,
    MessageType.BOOTSTRAP_FINISH,
)
Recorded = tuple[Endpoint, Endpoint, bytes]


class Wire:
    """Two hosts with a session, all that passed between them, and an attacker who can send from any address."""

    def __init__(self, seed: int, rekey_s: float = 120.0) -> None:
        self.mesh = Mesh(seed=seed, hosts=2, rekey_s=rekey_s)
        self.recorded: list[Recorded] = []
        self.mesh.net.hooks.append(self._record)
        self.mesh.start()
        self.mesh.wait(self.mesh.meshed, 1.0)
        a, b = self.mesh.hosts
        a.node.peers.sessions.bootstrap(self.endpoint(b), a.now)  # XX, which two hosts with a link need not use
        a._run(a.node.handle_timer)
        self.mesh.run(0.5)
        self.mesh.assert_unicast()

    def _record(self, source: Endpoint, destination: Endpoint, data: bytes) -> list[bytes]:
        if source != FOREIGN:
            self.recorded.append((source, destination, data))
        return [data]

    @staticmethod
    def endpoint(host: SimHost) -> Endpoint:
        return Endpoint(host.address, DEFAULT_PORT)

    def of_type(self, kind: MessageType) -> list[Recorded]:
        return [record for record in self.recorded if record[2][0] & 15 == kind]

    def inject(self, datagrams: Iterable[Recorded]) -> dict[DropReason, int]:
        """Send all of these within one millisecond; returns the reasons that rose, and holds that nothing was answered.

        Only types 1 and 5 may bring a cookie each, which is smaller than they are.

        The hosts' own timers may send meanwhile; what they send is the same with and without the attack, so a run without it
        is no help: instead no datagram may go to the attacker, and none more to the hosts than two quiet ones send in that time.
        """
        mesh = self.mesh
        mesh.run(0.5)
        before, delivered = mesh.all_drops(), sum(len(box.received) for box in mesh.boxes)
        sent: list[TraceEvent] = []
        mesh.net.trace.observers.append(lambda event: sent.append(event) if event.kind == "udp sent" else None)
        count = 0
        for source, destination, data in datagrams:
            count += 1
            mesh.net.send_udp(source, destination, data)
        mesh.run(0.01)
        mesh.net.trace.observers.pop()
        cookies = [event for event in sent[count:] if event.data[0] & 15 == MessageType.COOKIE]
        assert len(cookies) <= sum(event.data[0] & 15 in OPENING for event in sent[:count])
        answers = [event for event in sent[count:] if event not in cookies]
        assert not [event for event in answers if event.destination == FOREIGN]
        assert len(answers) <= 8  # a probe and its echo each way
        assert sum(len(box.received) for box in mesh.boxes) == delivered
        after = mesh.all_drops()
        return {
            reason: after[reason] - before.get(reason, 0) for reason in after if after[reason] > before.get(reason, 0)
        }

    def assert_lives(self) -> None:
        for host in self.mesh.hosts:
            (peer,) = host.node.peers.peers.values()
            assert peer.direct
        self.mesh.assert_unicast()


def flips(record: Recorded, bit: int) -> list[Recorded]:
    source, destination, data = record
    out = []
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        out.append((source, destination, bytes(flipped)))
    return out


def test_every_type_has_been_seen() -> None:
    wire = Wire(1)
    assert all(wire.of_type(kind) for kind in TYPES)


HANDSHAKE_FLIPS = {
    DropReason.TRUNCATED,  # it says now that it is of a longer type
    DropReason.BAD_MAC1,
    DropReason.UNKNOWN_TYPE,
    DropReason.UNKNOWN_VERSION,
    DropReason.UNKNOWN_SEGMENT,
    DropReason.BAD_LENGTH,
    DropReason.BAD_HANDSHAKE,
    DropReason.UNEXPECTED_HANDSHAKE,
    DropReason.STALE_HANDSHAKE,
    DropReason.UNKNOWN_INDEX,
    DropReason.REPLAYED,
    DropReason.REFLECTED,
    DropReason.NO_COOKIE,
}
DATA_FLIPS = {
    DropReason.TRUNCATED,
    DropReason.BAD_TAG,
    DropReason.UNKNOWN_INDEX,
    DropReason.UNKNOWN_TYPE,
    DropReason.UNKNOWN_VERSION,
    DropReason.UNKNOWN_SEGMENT,
    DropReason.BAD_LENGTH,
    DropReason.BAD_MAC1,
    DropReason.REPLAYED,
    DropReason.TOO_OLD,
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_every_flipped_byte_of_every_type_is_dropped(kind: MessageType, bit: int) -> None:
    wire = Wire(bit)
    record = wire.of_type(kind)[-1]
    rose = wire.inject(flips(record, bit))
    assert sum(rose.values()) >= len(record[2])
    assert set(rose) <= (DATA_FLIPS if kind is MessageType.DATA else HANDSHAKE_FLIPS)
    wire.assert_lives()


@pytest.mark.parametrize("kind", TYPES)
def test_truncated_and_lengthened_datagrams_are_dropped(kind: MessageType) -> None:
    wire = Wire(2)
    source, destination, data = wire.of_type(kind)[-1]
    cut = [(source, destination, data[:size]) for size in range(1, len(data))]
    more = [(source, destination, data + bytes(extra)) for extra in (1, 16, 1000)]
    rose = wire.inject([*cut, *more])
    assert sum(rose.values()) == len(cut) + len(more)
    allowed = {DropReason.TRUNCATED, DropReason.BAD_LENGTH, DropReason.BAD_MAC1}
    allowed |= {DropReason.BAD_TAG, DropReason.REPLAYED} if kind is MessageType.DATA else set()
    assert set(rose) <= allowed
    wire.assert_lives()


@pytest.mark.parametrize("foreign", [False, True], ids=["same source", "foreign source"])
def test_everything_replayed_is_dropped(foreign: bool) -> None:
    wire = Wire(3)
    records = [record for record in wire.recorded if record[2][0] & 15 in TYPES]
    again = [(FOREIGN if foreign else source, destination, data) for source, destination, data in records]
    rose = wire.inject(again)
    cookies = 0 if foreign else rose[DropReason.STALE_HANDSHAKE]  # come to hosts that ask for nothing
    assert sum(rose.values()) == len(records) + cookies
    assert set(rose) <= {
        DropReason.REPLAYED,
        DropReason.STALE_HANDSHAKE,
        DropReason.UNEXPECTED_HANDSHAKE,
        DropReason.UNKNOWN_INDEX,
    }
    assert rose[DropReason.REPLAYED] > 0
    wire.assert_lives()


def test_everything_reflected_is_dropped() -> None:
    wire = Wire(4)
    records = list(wire.recorded)
    rose = wire.inject([(destination, source, data) for source, destination, data in records])
    assert sum(rose.values()) == len(records)
    assert set(rose) <= {
        DropReason.REFLECTED,
        DropReason.BAD_MAC1,
        DropReason.UNEXPECTED_HANDSHAKE,
        DropReason.UNKNOWN_INDEX,
        DropReason.REPLAYED,
    }
    wire.assert_lives()


def test_datagrams_under_old_keys_are_dropped() -> None:
    """With rekeys every 2 s keys are gone after 3 s; what was held back that long opens nowhere."""
    wire = Wire(5, rekey_s=2.0)
    held: list[Recorded] = []

    def hold_back(source: Endpoint, destination: Endpoint, data: bytes) -> list[bytes]:
        if data[0] & 15 != MessageType.DATA:
            return [data]
        held.append((source, destination, data))
        return []

    wire.mesh.net.hooks.append(hold_back)
    for number in range(3):
        wire.mesh.boxes[0].send(wire.mesh.boxes[1].mac, b"late %d" % number)
    wire.mesh.run(0.001)
    wire.mesh.net.hooks.pop()
    assert len(held) >= 1
    wire.mesh.run(10.0)
    rose = wire.inject(held)
    assert rose == {DropReason.UNKNOWN_INDEX: len(held)}
    wire.assert_lives()


def test_garbage_of_every_first_byte_is_dropped() -> None:
    wire = Wire(6)
    rng = wire.mesh.rng
    target = wire.endpoint(wire.mesh.hosts[0])
    rose = wire.inject(
        [(FOREIGN, target, bytes([first]) + rng.randbytes(n)) for first in range(256) for n in (0, 40, 147)]
    )
    assert sum(rose.values()) == 3 * 256
    assert {DropReason.UNKNOWN_TYPE, DropReason.UNKNOWN_VERSION, DropReason.TRUNCATED} <= set(rose)
    wire.assert_lives()


# ── TCP


class Attacker:
    """One end of a stream that says what it was told, and notes what it hears."""

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.heard = b""
        self.ended = False
        self.stream: Stream

    def connected(self) -> None:
        self.stream.write(self.first)

    def failed(self, error: str) -> None:
        self.ended = True

    def received(self, data: bytes) -> None:
        self.heard += data

    def lost(self, error: str) -> None:
        self.ended = True


def attack(mesh: Mesh, first: bytes, wait: float) -> Attacker:
    attacker = Attacker(first)
    attacker.stream = mesh.net.dial("10.0.0.99", Endpoint(mesh.hosts[0].address, DEFAULT_PORT), attacker)
    mesh.run(wait)
    return attacker


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\x00",
        b"\xff" * 70_000,
        b"\x01\x00\x00",
        b"SSH-2.0-x\r\n",
        bytes(150),
    ],
    ids=["http", "empty frame", "oversized", "tiny frame", "ssh", "zeros"],
)
def test_garbage_on_the_tcp_port_is_closed_counted_and_not_answered(first: bytes) -> None:
    mesh = Mesh(seed=1, hosts=2)
    mesh.net.add_host("attacker", "10.0.0.99")
    mesh.start()
    mesh.wait(mesh.meshed, 1.0)
    attacker = attack(mesh, first, 6.0)
    assert attacker.ended
    assert attacker.heard == b""
    garbage = {DropReason.LINK_GARBAGE, DropReason.LINK_LIMIT, DropReason.TRUNCATED, DropReason.BAD_LENGTH}
    garbage |= {DropReason.UNKNOWN_VERSION, DropReason.UNKNOWN_TYPE, DropReason.BAD_MAC1}
    counted = mesh.drops(mesh.hosts[0])
    assert sum(count for reason, count in counted.items() if reason in garbage) == 1
    assert mesh.meshed()
    mesh.assert_unicast()


def test_a_silent_stranger_is_closed_after_the_deadline_and_cannot_fill_the_door() -> None:
    mesh = Mesh(seed=1, hosts=2)
    mesh.net.add_host("attacker", "10.0.0.99")
    mesh.start(mesh.hosts[:1])
    attackers = [attack(mesh, b"\x40", 0.0) for _ in range(80)]
    mesh.run(1.0)
    assert sum(attacker.ended for attacker in attackers) == 80 - 64
    assert mesh.drops(mesh.hosts[0])[DropReason.LINK_LIMIT] == 80 - 64
    mesh.run(5.0)
    assert all(attacker.ended and not attacker.heard for attacker in attackers)
    mesh.start(mesh.hosts[1:])
    mesh.wait(mesh.meshed, 5.0)


# ── other meshes, ourselves, nobody


@pytest.mark.parametrize("seed", range(3))
def test_another_mesh_key_makes_no_link_no_session_and_no_answer_and_each_side_says_so(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "meshd.links")
    mesh = Mesh(seed=seed, hosts=2, keys=lambda number: mesh_key(100 + number))
    mesh.net.trace.observers.append(heard := _Heard())
    mesh.start()
    mesh.run(20.0)
    a, b = mesh.hosts
    assert not a.node.links.linked_hosts()
    assert not b.node.links.linked_hosts()
    assert b.host_id not in a.node.gossip.store.logs
    assert a.host_id not in b.node.gossip.store.logs
    assert heard.bytes_from(a.address) == 0  # b dials, and a stays mute
    assert heard.bytes_from(b.address) > 0
    (dialled,) = b.node.view(b.now).connections
    assert dialled.state == "retrying"
    assert "no answer to our key: other mesh key, or port closed; `meshd key set`" in dialled.info
    (stranger,) = a.node.view(a.now).connections
    assert stranger.state == "failed"
    assert stranger.address == b.address
    assert "tried with another mesh key" in stranger.info
    assert any(f"{b.address}" in text and "another mesh key" in text for text in caplog.messages)
    assert any("no answer to our key" in text for text in caplog.messages)
    assert a.node.drops[DropReason.BAD_MAC1] > 0
    before = len(caplog.messages)
    mesh.run(100.0)
    assert len(caplog.messages) - before <= 2 * 11  # a line in 10 s each


class _Heard:
    """How many bytes each address has said, over TCP or UDP."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}

    def __call__(self, event: TraceEvent) -> None:
        if event.kind in ("udp sent", "tcp data"):
            self._bytes[event.source.host] = self._bytes.get(event.source.host, 0) + len(event.data)

    def bytes_from(self, address: str) -> int:
        return self._bytes.get(address, 0)


def test_ourself_and_dead_addresses_as_targets() -> None:
    mesh = Mesh(seed=1, hosts=1, targets=lambda _: ["10.0.0.1", "10.0.0.77", "10.0.0.88", "nowhere.example"])
    mesh.net.add_host("closed", "10.0.0.88")
    mesh.start()
    mesh.run(15.0)
    (host,) = mesh.hosts
    rows = {row.address: row for row in host.node.view(host.now).connections}
    assert (rows["10.0.0.1:6783"].state, rows["10.0.0.1:6783"].info) == (
        "failed",
        "cannot connect to ourself, retry: never",
    )
    assert rows["10.0.0.77:6783"].state == "retrying"
    assert rows["10.0.0.88:6783"].state == "retrying"
    assert "refused" in rows["10.0.0.88:6783"].info
    assert rows["nowhere.example"].state == "retrying"
    assert host.node.targets() == ("10.0.0.1", "10.0.0.77", "10.0.0.88", "nowhere.example")
