"""What `status` and `report` show: every field of the view, out of a mesh of real nodes in memory."""

from __future__ import annotations

import ipaddress

import pytest

from meshd.ids import format_mac, host_name, short_id
from meshd.node.notices import NOTICE_AGE_S
from meshd.testing.host import SimHost
from meshd.views import NodeView
from tests.sim.meshes import BROADCAST, Mesh, mesh_key

MAC_MTU = 1500 - 28 - 48


def joined(hosts: int = 3) -> Mesh:
    mesh = Mesh(seed=5, hosts=hosts)
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.run(3.0)
    return mesh


def view(mesh: Mesh, number: int = 0) -> NodeView:
    return mesh.hosts[number].node.view(mesh.clock_now)


def name(host: SimHost) -> str:
    return format_mac(host_name(host.host_id))


def test_a_host_alone() -> None:
    mesh = Mesh(seed=5, hosts=1)
    mesh.start()
    mesh.run(1.0)
    seen, host = view(mesh), mesh.hosts[0]
    assert (seen.name, seen.nickname, seen.host_id) == (name(host), "h0", host.host_id.hex())
    assert (seen.mesh_id, seen.suite) == (mesh_key(5).mesh_id.hex(), "aes-256-gcm")
    assert (seen.discovery, seen.port, seen.protocol_min, seen.protocol_max) == (True, 6783, 1, 1)
    assert (seen.targets, seen.connections, seen.paths, seen.unicast_routes) == ((), (), (), ())
    assert [peer.name for peer in seen.peers] == [name(host)]
    assert [(route.destination, route.via) for route in seen.broadcast_routes] == [(name(host), ())]
    assert (seen.address_conflicts, seen.notices, seen.drops, seen.flows) == ((), (), {}, 0)
    assert (seen.gossip.hosts, seen.gossip.epoch) == (1, 1)


def test_peers_and_their_links() -> None:
    mesh = joined()
    seen = view(mesh)
    own, *others = seen.peers
    assert own.name == name(mesh.hosts[0])
    assert {peer.name for peer in others} == {name(host) for host in mesh.hosts[1:]}
    for peer in seen.peers:
        assert (peer.version, peer.epoch, peer.reachable) == ("sim", 1, True)
        assert {link.name for link in peer.links} == {other.name for other in seen.peers} - {peer.name}
        assert all(link.established for link in peer.links)
        for link in peer.links:
            host = next(host for host in mesh.hosts if name(host) == link.name)
            assert link.address.startswith(f"{host.address}:")
            assert link.nickname == host.name


def test_connections() -> None:
    mesh = joined()
    rows = view(mesh).connections
    assert {row.nickname for row in rows} == {"h1", "h2"}
    for row in rows:
        assert (row.state, row.info.split(), row.outbound) == ("established", ["encrypted", "direct"], False)
        assert row.attributes == {"mtu": str(MAC_MTU)}
    assert view(mesh, 1).targets == ("10.0.0.1",)


def test_paths_count_what_passes() -> None:
    mesh = joined()
    box, far = mesh.boxes[:2]
    mesh.ask(box, far)
    path = next(path for path in view(mesh).paths if path.nickname == "h1")
    assert (path.name, path.kind, path.endpoint, path.state) == (
        name(mesh.hosts[1]),
        "direct",
        "10.0.0.2:6783",
        "alive",
    )
    assert path.reason in (
        "direct: the address of the control link answers",
        "direct: an address of the host's record answers",
    )
    assert path.datagrams_out > 0
    assert path.datagrams_in > 0
    assert path.mtu == MAC_MTU
    assert path.rtt_ms is not None
    assert path.rtt_ms > 0
    assert path.loss == 0
    assert path.since_s > 0
    assert path.session_age_s is not None
    assert (path.frames_out, path.frames_in) == (1, 1)
    assert min(path.bytes_out, path.bytes_in) > 60
    assert len(view(mesh).paths) == 2
    assert view(mesh).flows >= 1


def test_macs_with_owner_label_and_addresses() -> None:
    mesh = joined()
    rows = {row.mac: row for row in view(mesh).macs}
    assert set(rows) == {format_mac(box.mac) for box in mesh.boxes}
    for number, (host, box) in enumerate(zip(mesh.hosts, mesh.boxes, strict=True)):
        row = rows[format_mac(box.mac)]
        assert (row.name, row.nickname, row.kind, row.local) == (name(host), host.name, "attachment", number == 0)
        assert (row.label, row.addresses, row.state) == (box.name, box.addresses, "")
        assert row.claim == 1
        assert row.last_seen_s is not None


def test_routes_and_trees() -> None:
    mesh = joined()
    seen = view(mesh)
    assert {(route.destination, route.via) for route in seen.unicast_routes} == {
        (name(host), (name(host),)) for host in mesh.hosts[1:]
    }
    trees = {route.destination: set(route.via) for route in seen.broadcast_routes}
    assert trees[name(mesh.hosts[0])] == {name(host) for host in mesh.hosts[1:]}
    assert trees[name(mesh.hosts[1])] == trees[name(mesh.hosts[2])] == set()


def test_all_agree_on_the_records() -> None:
    mesh = joined()
    assert len({view(mesh, number).gossip.root_hash for number in range(3)}) == 1
    gossip = view(mesh).gossip
    assert gossip.hosts == 3
    assert gossip.records >= 9
    assert gossip.bytes > 0


def test_a_host_that_died() -> None:
    mesh = joined()
    mesh.hosts[1].kill()
    mesh.run(30.0)
    seen = view(mesh)
    peer = next(peer for peer in seen.peers if peer.nickname == "h1")
    assert not peer.reachable
    assert all(row.nickname != "h1" for row in seen.macs)
    path = next(path for path in seen.paths if path.nickname == "h1")
    assert path.state in ("no session", "dead")
    assert path.reason != ""
    assert path.endpoint == "" or ipaddress.ip_address(path.endpoint.rpartition(":")[0])
    assert all(row.state != "established" for row in seen.connections if row.address.startswith("10.0.0.2"))
    mesh.hosts[1].start()
    mesh.wait(mesh.meshed, 30.0)
    peer = next(peer for peer in view(mesh).peers if peer.nickname == "h1")
    assert (peer.reachable, peer.epoch) == (True, 2)


def test_an_address_that_two_have() -> None:
    mesh = joined(2)
    mesh.hosts[1].attach("twin", addresses=mesh.boxes[0].addresses)
    mesh.run(2.0)
    (line,) = view(mesh).address_conflicts
    assert line.startswith("10.1.0.1 is held by ")
    assert "box0 on " in line
    assert "twin on " in line
    assert view(mesh, 1).address_conflicts == (line,)  # all see the same one first


def test_another_mesh_key_is_shown_on_both_sides() -> None:
    mesh = Mesh(seed=5, hosts=2, keys=lambda number: mesh_key(number))
    mesh.start()
    mesh.run(3.0)
    for number in range(2):
        (row,) = view(mesh, number).connections
        assert "mesh key" in row.info
        assert "meshd key set" in row.info or row.outbound
        assert (row.name, row.state in ("failed", "retrying")) == ("", True)


def test_notices_are_shown_for_a_while() -> None:
    mesh = joined(2)
    node = mesh.hosts[0].node
    node.notices.add("something to know", mesh.clock_now)
    assert view(mesh).notices == ("something to know",)
    assert node.view(mesh.clock_now + NOTICE_AGE_S).notices == ()


def test_looking_changes_nothing() -> None:
    mesh = joined()
    before = view(mesh)
    assert view(mesh) == before
    assert not mesh.hosts[0].node.touched


def test_in_a_larger_mesh_only_the_trees_in_use_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = joined(4)
    topology = mesh.hosts[0].node.directory.topology
    assert len(view(mesh).broadcast_routes) == 4
    searches = topology.searches
    assert len(view(mesh).broadcast_routes) == 4
    assert topology.searches == searches  # nothing has changed: nothing is searched for
    monkeypatch.setattr("meshd.node.view.ALL_TREES", 3)
    topology.set_links(short_id(mesh.hosts[3].host_id), None)  # all that was known is void
    assert [route.destination for route in view(mesh).broadcast_routes] == [name(mesh.hosts[0])]
    assert topology.searches <= searches + 2  # ways and the own tree, however many hosts there are
    mesh.boxes[1].send(BROADCAST, b"to all")
    mesh.run(0.5)
    assert {route.destination for route in view(mesh).broadcast_routes} >= {name(mesh.hosts[0]), name(mesh.hosts[1])}
