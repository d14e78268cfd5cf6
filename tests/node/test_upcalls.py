"""What the engine may ask: answers from the tables, notes for later within bounds, nothing sent and no engine table touched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshd.drops import DropReason
from meshd.forward.control import Bye, ByeReason, Pad, Probe, encode_control
from meshd.ids import Endpoint, HostId, Mac, SegmentId, ShortId, short_id
from meshd.node import upcalls as module
from meshd.node.upcalls import MAX_SIGHTS, EngineUpcalls
from tests.sim.meshes import Mesh

ZERO = SegmentId(0)
MAC = Mac(b"\x02\0\0\0\0\1")
GROUP = Mac(b"\x01\0\x5e\0\0\1")
SOMEWHERE = Endpoint("10.0.0.9", 6783)
ENGINE_CALLS = (
    "set_send_key",
    "drop_send_key",
    "set_path",
    "add_receive_key",
    "drop_receive_key",
    "void_flows",
    "void_trees",
    "void_routes",
)
SENDS = ("send_control", "send_datagram", "send_relayed")


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    """Two hosts in touch; from then on any call into the first one's engine fails."""
    mesh = Mesh(seed=3, hosts=2)
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)
    for name in (*ENGINE_CALLS, *SENDS):
        monkeypatch.setattr(mesh.hosts[0].engine, name, _forbidden)
    mesh.hosts[0].node._upcalls.take_noted()
    yield mesh
    monkeypatch.undo()


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("the engine is asking, and must not be called")


@pytest.fixture
def upcalls(mesh: Mesh) -> EngineUpcalls:
    return mesh.hosts[0].node._upcalls


@pytest.fixture
def other(mesh: Mesh) -> HostId:
    return mesh.hosts[1].host_id


def test_a_verdict_and_a_sight(mesh: Mesh, upcalls: EngineUpcalls, other: HostId) -> None:
    slots = mesh.hosts[0].node.peers.slots
    box, far = mesh.boxes
    verdict = upcalls.decide_outbound(ZERO, box.mac, far.mac, mesh.clock_now)
    assert verdict.slot == slots.slot(other)
    assert list(upcalls.noted.sights) == [(ZERO, box.mac)]
    inbound = upcalls.decide_inbound(slots.slot(other), ZERO, far.mac, box.mac, mesh.clock_now)
    assert inbound.slot != verdict.slot
    assert list(upcalls.noted.sights) == [(ZERO, box.mac)]  # what comes out of the mesh was not seen here
    assert mesh.hosts[0].node.noted


def test_a_group_address_as_source_is_not_learned(upcalls: EngineUpcalls) -> None:
    upcalls.decide_outbound(ZERO, GROUP, MAC, 1.0)
    assert not upcalls.noted


def test_notes_are_bounded(upcalls: EngineUpcalls, other: HostId, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONTROLS", 3)
    for number in range(MAX_SIGHTS + 10):
        upcalls.decide_outbound(ZERO, Mac(b"\x02\0\0" + number.to_bytes(3, "big")), MAC, 1.0)
    slot = mesh.hosts[0].node.peers.slots.slot(other)
    body = memoryview(encode_control(Probe(1, 2, 3)))
    for _ in range(5):
        upcalls.receive_control(slot, 1, 1, body, SOMEWHERE, 1.0, newest=True)
        upcalls.session_wanted(slot, 1.0)
    noted = upcalls.take_noted()
    assert (len(noted.sights), len(noted.controls), list(noted.wanted)) == (MAX_SIGHTS, 3, [other])
    assert mesh.hosts[0].node.drops[DropReason.QUEUE_FULL] == 2
    assert not upcalls.noted


def test_control_messages_are_decoded_at_once_and_kept(mesh: Mesh, upcalls: EngineUpcalls, other: HostId) -> None:
    node = mesh.hosts[0].node
    slot = node.peers.slots.slot(other)
    buffer = bytearray(encode_control(Bye(ByeReason.STOPPING)))
    upcalls.receive_control(slot, 5, 1, memoryview(buffer), SOMEWHERE, 7.0, newest=True)
    buffer[:] = bytes(len(buffer))  # it was borrowed
    ((peer, message, index, source, newest, heard),) = upcalls.noted.controls
    assert (peer.host, message, index, source, heard) == (other, Bye(ByeReason.STOPPING), 5, SOMEWHERE, 7.0)
    assert newest


@pytest.mark.parametrize("body", [b"", b"\xff", b"\x01", encode_control(Probe(1, 2, 3))[:-1]])
def test_control_messages_that_are_none(mesh: Mesh, upcalls: EngineUpcalls, other: HostId, body: bytes) -> None:
    upcalls.receive_control(
        mesh.hosts[0].node.peers.slots.slot(other), 1, 1, memoryview(body), SOMEWHERE, 1.0, newest=True
    )
    assert not upcalls.noted
    assert mesh.hosts[0].node.drops[DropReason.BAD_CONTROL] == 1


def test_padding_is_nothing(mesh: Mesh, upcalls: EngineUpcalls, other: HostId) -> None:
    body = memoryview(encode_control(Pad(9)))
    upcalls.receive_control(mesh.hosts[0].node.peers.slots.slot(other), 1, 1, body, SOMEWHERE, 1.0, newest=True)
    assert not upcalls.noted


def test_strange_handshakes_leave_nothing_to_do(mesh: Mesh, upcalls: EngineUpcalls) -> None:
    for data in (b"", b"\x01", bytes(148), b"\x01" + bytes(147), b"\x02" * 92, b"\xff" * 2000):
        upcalls.receive_handshake(memoryview(data), SOMEWHERE, mesh.clock_now)
    assert not upcalls.noted.handshakes, "in a flood the node would do nothing else"


def test_a_confirmed_key(upcalls: EngineUpcalls) -> None:
    upcalls.key_confirmed(4711, 1.0)
    assert upcalls.take_noted().confirmed == [4711]


def test_flood_children(mesh: Mesh, upcalls: EngineUpcalls, other: HostId) -> None:
    node = mesh.hosts[0].node
    assert upcalls.flood_children(short_id(node.host_id), 1.0) == [node.peers.slots.slot(other)]
    assert upcalls.flood_children(short_id(other), 1.0) == []
    assert upcalls.flood_children(ShortId(b"stranger"), 1.0) is None


def test_what_was_noted_is_done_by_the_timer(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    host = mesh.hosts[0]
    monkeypatch.undo()
    host.node._upcalls.decide_outbound(ZERO, MAC, Mac(b"\xff" * 6), mesh.clock_now)
    assert host.node.next_deadline(mesh.clock_now) == mesh.clock_now
    host.node.handle_timer(mesh.clock_now)
    assert host.node.directory.fdb.lookup(ZERO, MAC) == host.host_id
    assert not host.node.noted
