"""What a burst of records costs a node: counted, since a loop that is busy with records moves no packets."""

from __future__ import annotations

import pytest

from meshd.gossip.gossip import SLICE
from meshd.ids import Mac
from meshd.node.node import ALL_PARTS_S
from meshd.node.peers import PeerTable
from tests.sim.meshes import FakeSignatures, Mesh

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
