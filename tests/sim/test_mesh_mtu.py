"""Whole hosts over paths that take less than their devices: sizes found, holes worked around, nothing lost for long."""

from __future__ import annotations

from meshd.drops import DropReason
from meshd.forward.pmtu import PRECISION, PmtuState
from meshd.testing.conditions import LinkConditions
from meshd.testing.host import SimHost
from tests.sim.meshes import BROADCAST, Mesh


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


def test_large_frames_and_floods_arrive_once_over_narrow_paths_that_reorder_and_copy() -> None:
    bad = LinkConditions(mtu=700, jitter=0.004, duplicate=0.1)
    mesh = Mesh(seed=4, hosts=4, conditions=bad)
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)
    mesh.wait(lambda: settled(mesh), 10.0)
    one, *others = mesh.boxes
    payloads = [bytes([number]) * 1372 for number in range(20)]
    for payload in payloads:
        one.send(BROADCAST, payload)
        for other in others:
            one.send(other.mac, payload[::-1] + b"unicast")
        mesh.run(0.1)
    mesh.run(1.0)
    for other in others:
        expected = [*payloads, *(payload[::-1] + b"unicast" for payload in payloads)]
        assert sorted(other.payloads()) == sorted(expected)
    mesh.assert_sane()


def test_pieces_that_are_lost_cost_their_frame_alone() -> None:
    mesh = Mesh(seed=5, hosts=2, conditions=LinkConditions(mtu=700, loss=0.05))
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.run(10.0)
    one, other = mesh.boxes
    for number in range(300):
        one.send(other.mac, number.to_bytes(2, "big") * 650)
        mesh.run(0.02)
    mesh.run(2.0)
    arrived = [int.from_bytes(payload[:2], "big") for payload in other.payloads()]
    assert 300 * 0.75 < len(arrived) == len(set(arrived)) < 300  # three pieces: 0.95 cubed
    assert all(payload == payload[:2] * 650 for payload in other.payloads())
    assert mesh.all_drops()[DropReason.FRAGMENT_LOST] > 0
    mesh.assert_sane()


def test_a_relayed_path_is_measured_over_all_its_legs() -> None:
    mesh = Mesh(seed=6, hosts=3)
    one, relay, other = mesh.hosts
    mesh.net.topology.set_pair(relay.name, other.name, LinkConditions(mtu=1000))
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)
    mesh.net.topology.cut_pair(one.name, other.name)
    mesh.run(5.0)
    box, _, far = mesh.boxes
    payloads = [bytes([number]) * 1372 for number in range(1, 60)]
    for payload in payloads:
        box.send(far.mac, payload)
        mesh.run(0.1)
    mesh.wait(lambda: set(payloads[30:]) <= set(far.payloads()), 5.0)
    assert 1000 - PRECISION < mtu(one, other) <= 1000
    assert mtu(one, relay) == 1500
    (path,) = [path for path in one.node.view(one.now).paths if path.nickname == other.name]
    assert path.mtu == mtu(one, other) - 28 - 52 - 48
