"""Whole hosts over paths that take less than their devices: sizes found, holes worked around, nothing lost for long."""

from __future__ import annotations

from meshd.forward.pmtu import PRECISION, PmtuState
from meshd.testing.conditions import LinkConditions
from meshd.testing.host import SimHost
from tests.sim.meshes import Mesh


def mtu(host: SimHost, other: SimHost) -> int:
    """Of the underlay, as `host` sees the direction to `other`."""
    return host.node.peers.peers[other.host_id].pmtu.size


def shown(host: SimHost) -> int:
    """The inner MTU in `status`."""
    (path,) = host.node.view(host.now).paths
    return path.mtu


def settled(mesh: Mesh) -> bool:
    states = {peer.pmtu.state for host in mesh.up for peer in host.node.peers.peers.values()}
    return states == {PmtuState.COMPLETE}


def test_a_clean_path_is_measured_as_soon_as_it_lives() -> None:
    mesh = Mesh(seed=1, hosts=2)
    mesh.start()
    mesh.wait(mesh.meshed, 1.0)
    mesh.wait(lambda: settled(mesh), 0.1)
    one, other = mesh.hosts
    assert mtu(one, other) == mtu(other, one) == 1500
    assert shown(one) == 1500 - 28 - 48
    assert mesh.all_drops() == {}


def test_a_narrow_direction_is_found_and_the_other_stays_wide() -> None:
    mesh = Mesh(seed=2, hosts=2)
    one, other = mesh.hosts
    mesh.net.topology.set_link(one.name, other.name, LinkConditions(mtu=1420))
    mesh.start()
    mesh.wait(mesh.meshed, 1.0)
    mesh.wait(lambda: settled(mesh), 3.0)
    assert mtu(one, other) == 1420
    assert mtu(other, one) == 1500
    assert shown(one) == 1420 - 28 - 48


def test_a_hole_that_opens_under_traffic_is_worked_around() -> None:
    mesh = Mesh(seed=3, hosts=2)
    mesh.start()
    mesh.wait(mesh.meshed, 1.0)
    one, other = mesh.hosts
    mesh.run(3.0)
    mesh.net.topology.set_pair(one.name, other.name, LinkConditions(mtu=1000))
    box, far = mesh.boxes
    took = 0.0
    while mtu(one, other) > 1000:
        box.send(far.mac, bytes(1300))
        mesh.run(0.05)
        took += 0.05
        assert took < 3.0
    while not settled(mesh):
        box.send(far.mac, bytes(1300))
        far.send(box.mac, bytes(1300))
        mesh.run(0.05)
        took += 0.05
        assert took < 10.0
    for here, there in ((one, other), (other, one)):
        assert 1000 - PRECISION < mtu(here, there) <= 1000
    assert one.node.peers.alive() == {other.host_id: 0}
