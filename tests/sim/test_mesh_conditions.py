"""One fault of the network at a time, from mild to total: loss, reordering, copies, flipped bits; and hosts that stand still."""

from __future__ import annotations

from functools import partial

import pytest

from meshd.crypto.wire import MessageType
from meshd.drops import DropReason
from meshd.forward.path import PathState
from meshd.ids import Endpoint
from meshd.testing.conditions import LinkConditions
from meshd.testing.host import SimContainer, SimHost
from tests.sim.meshes import BROADCAST, Mesh

DELAY = 0.001


def meshed(conditions: LinkConditions, hosts: int = 3, seed: int = 1) -> Mesh:
    mesh = Mesh(seed=seed, hosts=hosts, conditions=conditions)
    mesh.start()
    mesh.wait(mesh.meshed, 20.0)
    mesh.wait(mesh.owners_right, 5.0)
    mesh.run(2.0)
    return mesh


def dead(host: SimHost) -> bool:
    return any(peer.monitor.state is PathState.DEAD for peer in host.node.peers.peers.values())


def known(mesh: Mesh, box: SimContainer) -> bool:
    """Everybody knows who has it."""
    return all(mesh.owner(one, box) for one in mesh.hosts)


# ── loss


@pytest.mark.parametrize(("loss", "limit"), [(0.01, 1.0), (0.05, 1.0), (0.20, 3.0)])
def test_hosts_join_and_hear_of_containers_in_time_whatever_is_lost(loss: float, limit: float) -> None:
    """99 of 100 containers are known everywhere within the limit; nobody is taken for dead at 5 %, or hidden at 20 %."""
    mesh = meshed(LinkConditions(loss=loss), hosts=4)
    took = []
    for number in range(100):
        host = mesh.hosts[number % 4]
        box = host.attach(f"more{number}")
        took.append(mesh.wait(partial(known, mesh, box), 10.0))
        assert mesh.reachable()
        assert loss > 0.05 or not any(map(dead, mesh.hosts))
    assert sorted(took)[98] <= limit


# ── order


def test_a_datagram_that_5000_others_have_overtaken_still_arrives_and_one_behind_the_window_does_not() -> None:
    mesh = meshed(LinkConditions(), hosts=2)
    one, other = mesh.boxes
    held: list[tuple[Endpoint, Endpoint, bytes]] = []

    def hold(source: Endpoint, destination: Endpoint, data: bytes) -> list[bytes]:
        if data[0] & 15 != MessageType.DATA or source.host != mesh.hosts[0].address:
            return [data]
        held.append((source, destination, data))
        return []

    mesh.net.hooks.append(hold)
    for payload in (b"late", b"too late"):
        one.send(other.mac, payload)
        mesh.run(2 * DELAY)
    mesh.net.hooks.clear()
    late, too_late = (next(each for each in held if each[2] == wanted) for wanted in (held[0][2], held[-1][2]))
    for count in (5000, 5000):
        before = len(other.received)
        for _ in range(count):
            one.send(other.mac, mesh.payload())
            mesh.run(DELAY / 10)
        mesh.run(0.1)
        assert len(other.received) == before + count
        mesh.net.send_udp(*late)
        mesh.run(0.1)
        late = too_late
    assert other.payloads().count(b"late") == 1
    assert b"too late" not in other.payloads()
    assert mesh.hosts[1].engine.drops[DropReason.TOO_OLD] == 1


@pytest.mark.parametrize(
    "conditions",
    [LinkConditions(duplicate=0.1), LinkConditions(duplicate=1.0), LinkConditions(reorder=0.5, jitter=0.003)],
    ids=["10 % twice", "all twice", "half held back"],
)
def test_copies_and_reordering_cost_nothing_and_double_nothing(conditions: LinkConditions) -> None:
    mesh = meshed(conditions, hosts=3)
    for _ in range(100):
        mesh.assert_unicast()
        mesh.assert_floods()
    assert bool(mesh.all_drops().get(DropReason.REPLAYED)) == bool(conditions.duplicate)
    assert not any(map(dead, mesh.hosts))
    mesh.assert_sane()


# ── bits


def test_a_tenth_of_all_datagrams_with_a_flipped_bit_is_a_tenth_lost_and_nothing_worse() -> None:
    mesh = meshed(LinkConditions())
    keys = {host.name: host.node.peers.sessions.keypair(mesh.hosts[0].host_id) for host in mesh.hosts[1:]}
    mesh.net.topology.default = LinkConditions(flip=0.1)
    sent = set()
    for _ in range(1000):
        sent.add(payload := mesh.payload())
        mesh.boxes[0].send(mesh.boxes[1].mac, payload)
        mesh.boxes[0].send(BROADCAST, payload)
        mesh.run(0.01)
    got = mesh.boxes[1].payloads()
    assert set(got) <= sent
    assert len(got) >= 1600
    assert mesh.all_drops()[DropReason.BAD_TAG] > 100
    assert mesh.reachable()
    for host in mesh.hosts[1:]:
        assert host.node.peers.sessions.keypair(mesh.hosts[0].host_id) == keys[host.name]


# ── nothing at all for a while


def test_thirty_seconds_without_the_network_are_forgotten_within_ten() -> None:
    mesh = meshed(LinkConditions(), hosts=4)
    mesh.net.topology.default = LinkConditions(loss=1.0)
    mesh.run(30.0)
    mesh.net.topology.default = LinkConditions()
    assert mesh.wait(mesh.quiet, 20.0) <= 10.0
    mesh.wait(mesh.meshed, 20.0)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


@pytest.mark.parametrize("seconds", [5.0, 60.0, 600.0])
def test_a_host_that_stood_still_takes_nobody_for_dead_and_goes_on(seconds: float) -> None:
    """The others may have taken *it* for dead, and rightly so; they talk all the while."""
    mesh = meshed(LinkConditions(), hosts=4)
    paused, *others = mesh.hosts
    epoch, boot = paused.node.gossip.store.own.epoch, paused.boot
    paused.pause()
    mesh.run(seconds / 2)
    if seconds > 20:
        mesh.wait(lambda: mesh.owners_right(others), 1.0)
    mesh.assert_unicast(mesh.containers(others))
    mesh.run(seconds / 2)
    paused.resume()
    everybody = {host.host_id for host in mesh.hosts}
    for _ in range(200):
        assert not dead(paused)
        assert set(paused.node.reach.alive) | {paused.host_id} == everybody
        mesh.run(0.1)
    assert mesh.meshed()
    assert mesh.owners_right()
    assert (paused.node.gossip.store.own.epoch, paused.boot) == (epoch, boot)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


def test_after_an_hour_of_suspension_keys_are_new_and_the_old_ones_seal_and_open_nothing() -> None:
    mesh = meshed(LinkConditions(), hosts=2)
    sleeper, awake = mesh.hosts
    mesh.assert_unicast()
    sealed: list[tuple[float, Endpoint, bytes]] = []

    def record(source: Endpoint, destination: Endpoint, data: bytes) -> list[bytes]:
        if data[0] & 15 == MessageType.DATA:
            sealed.append((mesh.clock_now, source, data[4:8]))
        return [data]

    mesh.net.hooks.append(record)
    mesh.run(5.0)
    old = {index for _, source, index in sealed if source.host == sleeper.address}
    sleeper.pause()
    for _ in range(3600):
        mesh.boxes[1].send(mesh.boxes[0].mac, b"from before")
        mesh.run(1.0)
    sleeper._frames.to_engine.append(bytes(10) + mesh.boxes[1].mac + mesh.boxes[0].mac + b"\x88\xb5" + b"first")
    woken = mesh.clock_now
    sleeper.resume()
    took = mesh.wait(lambda: sleeper.node.peers.sessions.keypair(awake.host_id) is not None, 10.0)
    assert took <= 5.0
    mesh.run(1.0)
    after = {index for when, source, index in sealed if source.host == sleeper.address and when >= woken}
    assert after
    assert not after & old
    assert b"from before" not in mesh.boxes[0].payloads()
    mesh.wait(mesh.meshed, 10.0)
    mesh.assert_unicast()
    mesh.assert_sane()
