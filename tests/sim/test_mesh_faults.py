"""Hosts that leave, crash, are cut off or restored from a backup; networks that lose, reorder and let pass one way only."""

from __future__ import annotations

import pytest

from meshd.crypto.wire import MessageType
from meshd.drops import DropReason
from meshd.forward.control import Bye, ByeReason
from meshd.forward.fdb import LEARN_RATE, MAX_WAITING
from meshd.forward.path import PathState
from meshd.ids import Endpoint, Mac
from meshd.node.sightings import SWEEP_S
from meshd.testing.host import FRAME_TYPE, SimHost
from meshd.testing.network import LinkConditions
from tests.sim.meshes import BROADCAST, SEGMENT, Mesh

SEEDS = range(3)


def meshed(seed: int, hosts: int = 4, rekey_s: float = 120.0) -> Mesh:
    mesh = Mesh(seed=seed, hosts=hosts, rekey_s=rekey_s)
    mesh.start()
    mesh.wait(mesh.meshed, 3.0)
    mesh.wait(mesh.owners_right, 1.0)
    mesh.run(mesh.rng.uniform(0.5, 5.0))
    return mesh


# ── stop, kill, restart


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_a_host_that_stops_is_hidden_at_once_and_stays_hidden(hosts: int, seed: int) -> None:
    mesh = meshed(seed, hosts)
    *rest, leaver = mesh.hosts
    leaver.stop()
    took = mesh.wait(lambda: mesh.owners_right(rest) and mesh.reachable(rest), 0.5, every=0.001)
    assert took <= 0.05
    for _ in range(200):  # nor does it come back while the last records about it go round
        mesh.run(0.1)
        assert mesh.owners_right(rest)
        assert mesh.reachable(rest)
    mesh.assert_unicast(mesh.containers(rest))
    mesh.assert_floods(mesh.containers(rest))
    leaver.start()
    assert mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 8.0) <= 8.0
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hosts", [4, 8])
def test_a_goodbye_counts_at_once_where_some_hear_it_later_than_others(hosts: int, seed: int) -> None:
    """Who has not heard it yet still lists an edge to the host, as its own last record does."""
    mesh = Mesh(seed=seed, hosts=hosts, conditions=LinkConditions(delay=0.05, jitter=0.3))
    mesh.start()
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 10.0)
    mesh.run(2.0)
    *rest, leaver = mesh.hosts
    leaver.stop()
    mesh.wait(lambda: mesh.owners_right(rest) and mesh.reachable(rest), 0.5)
    for _ in range(100):
        mesh.run(0.1)
        assert mesh.owners_right(rest)
        assert mesh.reachable(rest)
    leaver.start()
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 10.0)
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_that_crashes_disturbs_nobody_and_is_hidden_and_comes_back(seed: int, power: bool) -> None:
    mesh = meshed(seed)
    *rest, victim = mesh.hosts
    epoch = victim.boot
    if power:
        mesh.net.topology.isolate(victim.name, [host.name for host in mesh.hosts])
    victim.kill()
    dead = hidden = None
    started = mesh.clock_now
    sent = 0
    while mesh.clock_now < started + 12:
        for one, other in ((0, 1), (1, 2), (2, 0)):
            mesh.boxes[one].send(mesh.boxes[other].mac, mesh.payload())
            sent += 1
        mesh.run(0.05)
        peers = [host.node.peers.peers[victim.host_id] for host in rest]
        if dead is None and all(peer.path is None for peer in peers):
            dead = mesh.clock_now - started
        if hidden is None and mesh.owners_right(rest):
            hidden = mesh.clock_now - started
    assert dead is not None
    assert dead <= 4.0
    assert hidden is not None
    assert hidden <= 10.0
    mesh.run(0.1)
    assert sum(len(box.received) for box in mesh.containers(rest)) == sent  # not one frame of the others was lost
    mesh.net.topology.heal()
    mesh.run(mesh.rng.uniform(0.0, 30.0))
    victim.start()
    assert mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 3.0) <= 3.0
    assert victim.node.gossip.store.own.epoch == epoch + 1
    assert all(host.node.gossip.store.logs[victim.host_id].epoch == epoch + 1 for host in rest)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_quick_restart_without_a_word(seed: int) -> None:
    """Nobody has missed the old life when the new one is there: no frame may go to the old keys for long."""
    mesh = meshed(seed)
    victim = mesh.hosts[1]
    victim.kill()
    mesh.run(0.2)
    victim.start()
    assert mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 3.0) <= 3.0
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_goodbye_that_the_next_life_has_overtaken_ends_nothing(seed: int) -> None:
    """It comes under a key of the former life, when the new one has been heard under its own."""
    mesh = meshed(seed)
    victim = mesh.hosts[1]
    mesh.net.topology.default = LinkConditions(delay=3.0)
    victim.stop()
    mesh.run(0.001)
    mesh.net.topology.default = LinkConditions()
    victim.start()
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 2.5)
    for _ in range(60):
        mesh.assert_unicast()
        mesh.run(0.1)
        assert mesh.meshed()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_that_said_goodbye_and_is_still_there_is_taken_back(seed: int) -> None:
    """Its link is up, so nobody chooses neighbours anew: it must be one all the same."""
    mesh = meshed(seed)
    liar, other = mesh.hosts[1:3]
    peer = other.node.peers.peers[liar.host_id]
    keypair = other.node.peers.sessions.keypair(liar.host_id)
    assert keypair is not None
    index = keypair.local_index
    other.node.peers.take_control(
        peer, Bye(ByeReason.STOPPING), index, Endpoint(liar.address, 6783), other.now, newest=True
    )
    other.wake()
    assert not mesh.fully_linked()
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 10.0)
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_founder_that_dies_again_and_again_is_back_in_no_time(seed: int) -> None:
    """It has no target, and those that do wait longer after each death: it dials whom it remembers."""
    mesh = meshed(seed)
    founder = mesh.hosts[0]
    assert not founder.targets
    for life in range(6):
        founder.kill()
        mesh.run(20.0 if life % 2 else 0.5)
        founder.start()
        assert mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 3.0) <= 3.0
    mesh.assert_unicast()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_detached_while_the_host_was_away_does_not_come_back(seed: int) -> None:
    mesh = meshed(seed)
    victim = mesh.hosts[2]
    victim.kill()
    mesh.run(15)
    gone = mesh.boxes[2]
    victim.detach(gone)
    fresh = victim.attach("fresh")
    victim.start()
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 3.0)
    mesh.run(30)
    assert mesh.owners_right()
    assert all(mesh.owner(host, gone) is None for host in mesh.hosts)
    assert all(mesh.owner(host, fresh) == victim.host_id for host in mesh.hosts)


# ── restored from a backup


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("back", [1, 3])
def test_a_host_restored_from_a_backup_raises_its_epoch_and_its_records_hold(seed: int, back: int) -> None:
    mesh = meshed(seed)
    victim = mesh.hosts[1]
    for _ in range(4):
        victim.kill()
        mesh.run(0.5)
        victim.start()
        mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 10.0)
    forgotten = victim.attach("forgotten")
    mesh.wait(mesh.owners_right, 1.0)
    mesh.assert_floods()  # so that all have seen what the host restored from the backup knows nothing of
    epoch = victim.node.gossip.store.own.epoch
    victim.kill()
    victim.detach(forgotten)
    victim.boot -= back
    fresh = victim.attach("fresh")
    mesh.run(mesh.rng.choice([0.2, 20.0]))
    victim.start()
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), 10.0)
    assert victim.boot > epoch
    assert {host.node.gossip.store.logs[victim.host_id].epoch for host in mesh.hosts} == {victim.boot}
    mesh.run(30)
    assert mesh.meshed()
    assert mesh.owners_right()
    assert all(mesh.owner(host, forgotten) is None for host in mesh.hosts)
    assert all(mesh.owner(host, fresh) == victim.host_id for host in mesh.hosts)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


# ── partitions


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("length", [5.0, 60.0, 600.0])
def test_both_sides_of_a_partition_go_on_and_agree_again_when_it_heals(length: float, seed: int) -> None:
    mesh = meshed(seed)
    one, other = mesh.hosts[:2], mesh.hosts[2:]
    mesh.net.topology.partition([host.name for host in one], [host.name for host in other])
    if length > 15:
        hidden = mesh.wait(lambda: all(mesh.reachable(side) and mesh.owners_right(side) for side in (one, other)), 15)
        assert hidden <= 10.0
    mesh.run(length / 2)
    gone = mesh.boxes[0]
    one[0].detach(gone)
    changed = [one[1].attach("east"), other[0].attach("west")]
    mesh.run(length / 2)
    for side in (one, other):
        mesh.assert_unicast(mesh.containers(side))
        if length > 15:
            mesh.assert_floods(mesh.containers(side))
    mesh.net.topology.heal()
    took = mesh.wait(mesh.quiet, 20.0)
    assert took <= 10.0
    mesh.wait(mesh.meshed, 20.0)
    mesh.run(20)
    assert mesh.meshed()
    assert mesh.owners_right()
    assert all(mesh.owner(host, gone) is None for host in mesh.hosts)
    assert all(mesh.owner(host, box) is not None for host in mesh.hosts for box in changed)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


@pytest.mark.parametrize("seed", range(6))
def test_two_hosts_find_each_other_again_after_ten_minutes(seed: int) -> None:
    """No third one helps, and only one of them has a target: what counts is how often a lost host is looked for."""
    mesh = meshed(seed, 2)
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.run(600 + mesh.rng.uniform(0.0, 100.0))
    mesh.net.topology.heal()
    assert mesh.wait(mesh.quiet, 12.0) <= 10.0
    mesh.wait(mesh.meshed, 12.0)
    mesh.assert_unicast()


# ── one way


@pytest.mark.parametrize("seed", SEEDS)
def test_a_one_way_cut_ends_the_edge_on_both_sides_and_heals(seed: int) -> None:
    mesh = meshed(seed, 3)
    a, b, _ = mesh.hosts
    mesh.net.topology.cut("h0", "h1")

    def without_edge() -> bool:
        return b.host_id not in a.node.peers.alive() and a.host_id not in b.node.peers.alive()

    assert mesh.wait(without_edge, 5.0) <= 4.0
    flaps = 0
    for _ in range(600):
        mesh.run(0.1)
        flaps += not without_edge()
    assert flaps == 0
    assert mesh.reachable()  # over the third
    assert mesh.owners_right()
    mesh.assert_floods()
    mesh.net.topology.heal()
    mesh.wait(mesh.meshed, 30.0)
    mesh.assert_unicast()
    mesh.assert_floods()
    mesh.assert_sane()


# ── bad networks

BAD = LinkConditions(loss=0.05, reorder=0.5, jitter=0.003, duplicate=0.1)  # REORDER_HOLD 5 ms + 3 ms: within 8 ms


def paths_dead(mesh: Mesh) -> list[str]:
    return [
        f"{host.name}: {peer.host.hex()[:4]} {peer.monitor.state}"
        for host in mesh.hosts
        for peer in host.node.peers.peers.values()
        if peer.monitor.state is PathState.DEAD
    ]


@pytest.mark.parametrize("seed", range(1))
def test_ten_minutes_of_loss_reordering_and_duplication_and_nobody_is_taken_for_dead(seed: int) -> None:
    mesh = Mesh(seed=seed, hosts=4, conditions=BAD)
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.wait(mesh.owners_right, 3.0)
    for _ in range(300):
        mesh.run(2.0)
        assert mesh.reachable()
        assert mesh.owners_right()
        assert not paths_dead(mesh)
    mesh.assert_sane()


def pour(mesh: Mesh, seconds: float, every: float) -> tuple[int, dict[tuple[int, int], list[bytes]]]:
    """Continuous frames between all pairs; what arrived, by (sender, receiver), in order."""
    pairs = [(i, j) for i in range(len(mesh.boxes)) for j in range(len(mesh.boxes)) if i != j]
    for box in mesh.boxes:
        box.received.clear()
    count = int(seconds / every)
    for number in range(count):
        for i, j in pairs:
            mesh.boxes[i].send(mesh.boxes[j].mac, b"%d %d %d" % (i, j, number))
        mesh.run(every)
    mesh.run(0.2)
    got: dict[tuple[int, int], list[bytes]] = {pair: [] for pair in pairs}
    for j, box in enumerate(mesh.boxes):
        for payload in box.payloads():
            sender, to, text = payload.split()
            assert int(to) == j
            got[int(sender), j].append(text)
    return count, got


@pytest.mark.parametrize("seed", range(2))
def test_a_minute_of_rekeys_every_two_seconds_loses_reorders_and_doubles_nothing(seed: int) -> None:
    mesh = meshed(seed, 3, rekey_s=2.0)
    rekeys = 0

    def count_answers(source: Endpoint, destination: Endpoint, data: bytes) -> list[bytes]:
        nonlocal rekeys
        rekeys += data[0] & 15 == MessageType.RESPONSE
        return [data]

    mesh.net.hooks.append(count_answers)
    count, got = pour(mesh, 60.0, 0.02)
    for numbers in got.values():
        assert numbers == [b"%d" % number for number in range(count)]
    assert rekeys >= 3 * 60 / 2.2 - 3
    assert set(mesh.all_drops()) <= {DropReason.STALE_RECORD}


@pytest.mark.parametrize("seed", range(2))
def test_rekeys_on_a_bad_network_lose_no_more_than_the_network_and_double_nothing(seed: int) -> None:
    mesh = Mesh(seed=seed, hosts=3, conditions=BAD, rekey_s=2.0)
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.wait(mesh.owners_right, 3.0)
    count, got = pour(mesh, 60.0, 0.02)
    for numbers in got.values():
        assert len(numbers) == len(set(numbers))
        assert len(numbers) / count >= 0.93  # 5 % ± 3 σ is 1.2 %
    drops = mesh.all_drops()
    assert drops[DropReason.REPLAYED] > 100  # the network's duplicates
    assert set(drops) <= {
        DropReason.REPLAYED,
        DropReason.STALE_RECORD,
        DropReason.STALE_HANDSHAKE,
        DropReason.UNEXPECTED_HANDSHAKE,
        DropReason.UNKNOWN_PEER,  # while they join: a record that is still on its way
    }


def test_a_broadcast_on_a_bad_network_comes_at_most_once() -> None:
    mesh = Mesh(seed=3, hosts=4, conditions=BAD)
    mesh.start()
    mesh.wait(mesh.owners_right, 10.0)
    for _ in range(200):
        mesh.boxes[0].send(BROADCAST, mesh.payload())
        mesh.run(0.02)
    for box in mesh.boxes[1:]:
        assert 170 <= len(box.received) == len(set(box.received)) <= 200


# ── containers


@pytest.mark.parametrize("seed", SEEDS)
def test_traffic_follows_a_container_that_moves(seed: int) -> None:
    mesh = meshed(seed)
    asker, mover = mesh.boxes[0], mesh.boxes[1]
    for to in (mesh.hosts[2], mesh.hosts[3], mesh.hosts[0], mesh.hosts[1]):
        mesh.ask(asker, mover)
        assert mover.host is not None
        mover.host.move(mover, to)
        start = mesh.clock_now
        sent = mesh.payload()
        while sent not in mover.payloads():
            assert mesh.clock_now < start + 1.0
            sent = mesh.payload()
            asker.send(mover.mac, sent)
            mesh.run(0.01)
        mesh.wait(mesh.owners_right, 1.0)
        mesh.assert_unicast()
    mesh.assert_sane()


def claimants(mesh: Mesh) -> tuple[SimHost, SimHost]:
    one, other = sorted(mesh.hosts[1:3], key=lambda host: host.host_id)
    return one, other


@pytest.mark.parametrize("seed", SEEDS)
def test_one_mac_live_on_two_hosts_freezes_with_one_winner_everywhere(seed: int) -> None:
    mesh = meshed(seed)
    one, other = claimants(mesh)
    first = one.attach("twin")
    second = other.attach("twin too", mac=first.mac)
    for _ in range(100):
        first.send(mesh.boxes[0].mac, mesh.payload())
        second.send(mesh.boxes[0].mac, mesh.payload())
        mesh.run(0.2)
    owners = {host.node.directory.fdb.lookup(SEGMENT, first.mac) for host in mesh.hosts}
    assert len(owners) == 1
    assert owners <= {one.host_id, other.host_id}
    for host in mesh.hosts:
        assert host.node.directory.fdb.is_frozen(SEGMENT, first.mac)
        assert any("frozen" in notice for notice in host.node.view(host.now).notices)
        state = {row.mac: row.state for row in host.node.view(host.now).macs}
        assert list(state.values()).count("frozen") == 1
    loser = other if one.host_id in owners else one
    assert loser.engine.drops[DropReason.MAC_FROZEN] > 0
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_forged_source_takes_nothing_from_a_silent_container(seed: int) -> None:
    """It never speaks, so nothing would put right what one forged frame did."""
    mesh = meshed(seed)
    one, other = claimants(mesh)
    silent, forger = one.attach("silent"), other.attach("forger")
    mesh.wait(mesh.owners_right, 1.0)
    for destination in (BROADCAST, mesh.boxes[0].mac, silent.mac):
        other.from_container(forger, destination + silent.mac + FRAME_TYPE + mesh.payload())
        mesh.run(1.0)
    assert mesh.owners_right()
    assert other.engine.drops[DropReason.MAC_TAKEN] == 3
    sent = mesh.payload()
    mesh.boxes[0].send(silent.mac, sent)
    mesh.run(0.5)
    assert silent.payloads() == [sent]
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_more_stations_at_once_than_may_be_learned_in_a_second_are_learned_soon_after(seed: int) -> None:
    """Their flows go on and ask nobody again; who is not announced gets ten frames a second from each sender."""
    mesh = meshed(seed, hosts=2)
    host, (far, here) = mesh.hosts[1], mesh.boxes
    stations = [Mac(b"\x02\xaa" + number.to_bytes(4, "big")) for number in range(3 * int(LEARN_RATE))]

    def all_speak() -> None:
        for number, station in enumerate(stations):
            host.from_container(here, far.mac + station + FRAME_TYPE + b"hello")
            if number % 50 == 0:
                mesh.run(0.1)  # or the other host would have more new flows at once than it answers upcalls for

    all_speak()
    mesh.run(0.5)
    fdb = mesh.hosts[0].node.directory.fdb
    assert sum(fdb.lookup(SEGMENT, station) == host.host_id for station in stations) < len(stations)
    for _ in range(20):
        all_speak()
        mesh.run(1.0)
    assert all(fdb.lookup(SEGMENT, station) == host.host_id for station in stations)
    mesh.assert_sane()


def test_stations_beyond_those_that_wait_to_be_learned_are_found_by_the_sweep() -> None:
    mesh = meshed(1, hosts=2)
    host, (far, here) = mesh.hosts[1], mesh.boxes
    stations = [Mac(b"\x02\xaa" + number.to_bytes(4, "big")) for number in range(MAX_WAITING + 8 * int(LEARN_RATE))]
    for number, station in enumerate(stations):
        host.from_container(here, far.mac + station + FRAME_TYPE + b"hello")
        if number % 50 == 0:
            mesh.run(0.1)
    fdb = host.node.directory.fdb
    mesh.run(MAX_WAITING / LEARN_RATE + 5.0)
    learned = [fdb.lookup(SEGMENT, station) == host.host_id for station in stations]
    assert MAX_WAITING <= learned.count(True) < len(stations)
    mesh.run(SWEEP_S)
    assert all(fdb.lookup(SEGMENT, station) == host.host_id for station in stations)
    mesh.assert_sane()


def test_a_host_with_a_hundred_containers_goes_and_no_other_flow_is_asked_for_again() -> None:
    """Verdicts come at a rate: were all flows void, those between the others would lose frames for it."""
    mesh = meshed(1, hosts=3)
    one, other, third = mesh.hosts
    far, here, _ = mesh.boxes
    for number in range(100):
        third.attach(f"web{number}")
    stations = [Mac(b"\x02\xaa" + number.to_bytes(4, "big")) for number in range(300)]
    mesh.run(2.0)

    def speak(some: list[Mac]) -> bytes:
        payload = mesh.payload()
        for station in some:
            other.from_container(here, far.mac + station + FRAME_TYPE + payload)
        mesh.run(0.5)
        return payload

    for _ in range(2):  # the first time they are learned, which voids their flows
        for at in range(0, len(stations), 50):
            speak(stations[at : at + 50])
        mesh.run(10.0)
    third.stop()
    mesh.wait(lambda: third.host_id not in one.node.reach.alive, 1.0)
    sent = speak(stations)
    assert far.payloads().count(sent) == len(stations)
    mesh.assert_sane()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_address_held_twice_is_shown_everywhere_and_the_holder_is_named(seed: int) -> None:
    mesh = meshed(seed)
    one, other = claimants(mesh)
    one.attach("web", addresses=("10.1.0.77/24",))
    assert one.node.directory.address_holder("10.1.0.77/24", "web") is None
    mesh.wait(mesh.owners_right, 1.0)
    for host in mesh.hosts:
        text = host.node.directory.address_holder("10.1.0.77/24", "db")
        assert text is not None
        assert "web" in text
        assert ("this host" in text) == (host is one)
        assert (one.name in text) == (host is not one)
        assert not host.node.view(host.now).address_conflicts
    other.attach("db", addresses=("10.1.0.77/24",))
    mesh.wait(mesh.owners_right, 1.0)
    for host in mesh.hosts:
        (line,) = host.node.view(host.now).address_conflicts
        assert line.startswith("10.1.0.77 is held by web on ")
        assert f"({one.name})" in line
        assert f"({other.name})" in line
    mesh.assert_sane()
