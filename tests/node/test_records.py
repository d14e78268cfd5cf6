"""What a burst of records costs a node: counted, since a loop that is busy with records moves no packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from meshd.crypto.identity import Identity, host_id_of
from meshd.gossip import store as store_module
from meshd.gossip.gossip import SLICE
from meshd.gossip.link import ControlLink
from meshd.gossip.messages import Message, Records
from meshd.gossip.records import Batch, Record, sign_record
from meshd.gossip.values import HOST_KEY, LINKS_KEY, LearnedValue, LinksValue, encode_value, learned_key
from meshd.ids import Mac, SegmentId, short_id
from meshd.node.changes import NO_ROOM
from meshd.node.node import ALL_PARTS_S
from meshd.node.peers import PeerTable
from tests.sim.meshes import FakeSignatures, Mesh, mesh_key

RECORDS = 200


def test_records_that_wait_do_not_bring_everything_else_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = FakeSignatures()
    mesh = Mesh(seed=5, hosts=2, signatures=signatures)
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.run(3.0)
    here, there = mesh.hosts
    ticks: list[float] = []
    tick = PeerTable.handle_timer

    def counted(peers: PeerTable, now: float) -> None:
        if peers is here.node.peers:
            ticks.append(now)
        tick(peers, now)

    monkeypatch.setattr(PeerTable, "handle_timer", counted)
    verified = signatures.verified
    for number in range(RECORDS):
        mac = Mac(b"\x02\xcc\x00\x00\x00" + bytes((number,)))
        there.node.attach(f"made{number}", label="box", mac=mac, addresses=(), now=there.now)
    there.wake()
    mesh.run(0.3)
    known = here.node.directory.attachments
    assert sum(host == there.host_id for host, _ in known) == RECORDS + 1
    assert signatures.verified - verified == RECORDS  # one each, in this many goes:
    assert len(ticks) < RECORDS / SLICE / 2
    assert not here.node.gossip.busy


def test_what_is_passed_on_of_a_burst_goes_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(seed=5, hosts=3, signatures=FakeSignatures())
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.run(3.0)
    here, there, other = mesh.hosts
    sent = 0
    seal = ControlLink.send_message

    def counted(link: ControlLink, message: Message) -> None:
        nonlocal sent
        sent += isinstance(message, Records) and link.host == other.host_id
        seal(link, message)

    monkeypatch.setattr(ControlLink, "send_message", counted)
    batch = publisher(RECORDS)
    link = next(link for link, host in here.node.gossip.links.items() if host == there.host_id)
    here.node.gossip.receive(link, Records((batch,)), here.now)
    here.wake()
    mesh.run(1.0)
    assert len(other.node.gossip.store.logs[batch.origin].records) == RECORDS
    assert sent < 5  # not one for each slice


@pytest.mark.parametrize("first", [LINKS_KEY, HOST_KEY])
def test_a_far_host_is_there_in_whatever_order_its_records_come(first: bytes) -> None:
    """Its host record may have been written again since its links, and more than a moment's records may lie between the two."""
    mesh = Mesh(seed=5, hosts=2, signatures=FakeSignatures())
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    here, there = mesh.hosts
    far = host_id_of(FAR_KEY)
    there.node.own.publish_links({here.host_id: 0, far: 0}, there.now)
    links = encode_value(LinksValue(neighbours=((short_id(there.host_id), 0),)))
    mac = Mac(b"\x02\xcc\0\0\0\1")
    own = here.node.directory.hosts[here.host_id]
    said = {LINKS_KEY: links, HOST_KEY: encode_value(replace(own, ed25519=FAR_KEY, x25519=b"\x08" * 32, endpoints=()))}
    order = [first, *(said.keys() - {first})]
    for number, key in enumerate([*order, learned_key(mac)]):
        value = said.get(key) or encode_value(LearnedValue(mac=mac, segment=SegmentId(0), claim=1))
        link = next(link for link, host in here.node.gossip.links.items() if host == there.host_id)
        here.node.gossip.receive(link, Records((batch_of([(number + 1, key, value)], start=number),)), here.now)
        here.wake()
        mesh.run(1.0)
    assert far in here.node.reach.alive
    assert here.node.directory.fdb.lookup(SegmentId(0), mac) == far


FAR_KEY = b"\x07" * 32


def publisher(count: int) -> Batch:
    """What a host far away says, `count` records."""
    return batch_of([(number + 1, b"z%d" % number, b"v") for number in range(count)])


def batch_of(records: Sequence[tuple[int, bytes, bytes]], start: int = 0) -> Batch:
    sign = FakeSignatures().signer(cast(Identity, SimpleNamespace(ed25519_public=FAR_KEY)))
    unsigned = [Record(host_id_of(FAR_KEY), 1, seq, key, value, b"") for seq, key, value in records]
    mesh_id = mesh_key(5).mesh_id
    return Batch(FAR_KEY, 1, start, True, None, tuple(sign_record(mesh_id, record, sign) for record in unsigned))


def test_everything_else_has_its_turn_while_records_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(seed=5, hosts=1)
    mesh.start()
    node, now = mesh.hosts[0].node, mesh.clock_now
    monkeypatch.setattr(type(node.gossip), "busy", property(lambda _gossip: True))
    ticks: list[float] = []
    monkeypatch.setattr(node.peers, "handle_timer", ticks.append)
    for step in range(100):
        assert node.next_deadline(now + step * 0.001) <= now + step * 0.001
        node.handle_timer(now + step * 0.001)
    assert len(ticks) >= 0.1 / ALL_PARTS_S - 1
    assert len(ticks) <= 0.1 / ALL_PARTS_S + 1


def test_a_mesh_that_knows_as_many_hosts_as_it_may_says_so_and_a_restart_of_all_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MAX_ORIGINS", 3)
    mesh = Mesh(seed=1, hosts=4)
    *known, late = mesh.hosts
    mesh.start(known)
    mesh.wait(mesh.meshed, 3.0)
    gone = known.pop()
    gone.stop()
    mesh.run(1.0)
    late.start()
    mesh.run(20.0)
    for host in known:
        assert late.host_id not in host.node.directory.hosts
        assert host.node.view(mesh.clock_now).notices == (NO_ROOM,)
    for host in mesh.up:
        host.stop()
    mesh.run(1.0)
    mesh.start([*known, late])
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 10.0)
    mesh.assert_unicast(mesh.containers([*known, late]))
    assert not any(host.node.view(mesh.clock_now).notices for host in mesh.up)
