"""Whole sessions between two hosts on a virtual clock: establish, cross, rekey, expire, restart; without and with loss."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from meshd.crypto.events import FailReason, HandshakeFailed, SessionReady
from meshd.crypto.outgoing import MAX_BOOTSTRAPS, Attempt
from meshd.crypto.session import KEYS_PER_PEER, Timing
from meshd.crypto.sessions import MAX_OUTBOX
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.ids import Address, Endpoint, HostId, Relayed, ShortId
from tests.crypto.world import Host, World, pair

NOWHERE = Endpoint("nowhere", 6783)


def flows(world: World, sender: Host, receiver: Host, number: int = 77) -> bool:
    """Does one datagram arrive, on a link that loses nothing now?"""
    world.loss = 0.0
    sender.send(receiver, number)
    world.run(1.0)
    return number in receiver.received


def test_a_session_in_one_round_trip_both_ways() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(0.0025)
    assert bob.id in alice.engine.send_keys
    assert alice.id not in bob.engine.send_keys, "the responder waits for a first datagram"
    world.run(0.1)
    (ready,) = alice.ready()
    assert (ready.peer, ready.endpoint, ready.first) == (bob.id, bob.endpoint, True)
    assert ready.remote_static == bob.identity.x25519_public
    assert not ready.keypair.bootstrap
    (ready,) = bob.ready()
    assert (ready.peer, ready.endpoint) == (alice.id, alice.endpoint)
    assert flows(world, alice, bob, 1)
    assert flows(world, bob, alice, 2)
    assert [len(datagram) for _, _, datagram in world.wire] == [148, 92]
    assert alice.drops.as_dict() == bob.drops.as_dict() == {}


def test_without_a_datagram_the_responder_never_sends() -> None:
    world, alice, bob = pair(probes=False)
    alice.connect(bob)
    world.run(60)
    assert not bob.ready()
    assert len(bob.engine.receive_keys) == 1


def test_bootstrap_learns_who_it_is() -> None:
    world, alice, bob = pair()
    world.records.clear()
    alice.bootstrap(bob.endpoint)
    world.run(0.1)
    (ready,) = alice.ready()
    assert ready.peer == bob.id
    assert ready.keypair.bootstrap
    assert ready.remote_static == bob.identity.x25519_public
    assert bob.ready()[0].keypair.bootstrap
    assert flows(world, alice, bob, 1)
    assert flows(world, bob, alice, 2)
    assert [len(datagram) for _, _, datagram in world.wire] == [237, 237, 205]
    world.run(30)
    assert len(world.wire) == 3, "confirmed: type 7 is not repeated"


def test_type_7_is_repeated_until_confirmed_and_then_begun_again() -> None:
    world, alice, bob = pair()
    world.drop_if = lambda packet: isinstance(packet, bytes) and packet[0] & 15 == 7
    alice.bootstrap(bob.endpoint)
    world.run(9)
    kinds = [datagram[0] & 15 for _, _, datagram in world.wire]
    assert kinds[:3] == [5, 6, 7]
    assert set(kinds[2:]) == {7}
    world.run(10)
    assert [datagram[0] & 15 for _, _, datagram in world.wire].count(5) == 2
    assert bob.id not in alice.engine.send_keys
    world.drop_if = lambda packet: False
    world.run(10)
    assert flows(world, alice, bob)


def test_a_lost_probe_of_the_xx_responder_is_made_good_by_its_next_datagram() -> None:
    world, alice, bob = pair()
    world.drop_if = lambda packet: not isinstance(packet, bytes)
    alice.bootstrap(bob.endpoint)
    world.run(3)
    assert not alice.ready()
    world.drop_if = lambda packet: False
    bob.send(alice, 5)
    world.run(0.1)
    assert alice.ready()
    assert flows(world, alice, bob)


@pytest.mark.parametrize("modes", ["IK IK", "IK XX", "XX IK", "XX XX"])
@pytest.mark.parametrize("seed", range(12))
def test_crossing_handshakes_converge(modes: str, seed: int) -> None:
    world, alice, bob = pair(seed=seed, delay=(0.001, 0.4))
    for mode, host, other in zip(modes.split(), (alice, bob), (bob, alice), strict=True):
        if mode == "IK":
            host.connect(other)
        else:
            host.bootstrap(other.endpoint)
        world.run(world.rng.uniform(0, 0.3))
    world.run(20)
    assert flows(world, alice, bob, 1)
    assert flows(world, bob, alice, 2)
    assert not alice.failed()
    assert not bob.failed()


@pytest.mark.parametrize("seed", range(12))
def test_loss_of_30_percent(seed: int) -> None:
    world, alice, bob = pair(seed=seed, loss=0.3, delay=(0.001, 0.1))
    alice.connect(bob)
    if seed % 3 == 0:
        bob.connect(alice)
    if seed % 3 == 1:
        bob.bootstrap(alice.endpoint)
    for number in range(600):
        alice.send(bob, number)
        bob.send(alice, number)
        world.run(1.0)
    assert min(len(alice.received), len(bob.received)) > 350
    assert not alice.lost()
    assert not bob.lost()


@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rekey_under_traffic_loses_nothing(seed: int, crossing: bool) -> None:
    """Every datagram arrives for half an hour, also when crossing handshakes have left the two under different keys."""
    world, alice, bob = pair(seed=seed, delay=(0.001, 0.05))
    alice.connect(bob)
    if crossing:
        bob.connect(alice)
    world.run(5)
    for number in range(3600):
        assert alice.send(bob, number)
        assert bob.send(alice, number)
        world.run(0.5)
    world.run(1)
    for host in (alice, bob):
        assert sorted(number for number in host.received if number >= 0) == list(range(3600))
        assert not host.lost()
        assert len(host.ready()) >= 13
        assert len(host.engine.receive_keys) <= KEYS_PER_PEER
        # a late answer to an attempt that the other side's key has ended is dropped, and needed by nobody
        assert set(host.drops.as_dict()) <= ({"unexpected_handshake"} if crossing else set())


def test_rekey_period_turned_down_to_2_s() -> None:
    world, alice, bob = pair(timing=Timing().scaled(2.0), delay=(0.0001, 0.005))
    alice.connect(bob)
    world.run(0.1)
    for number in range(2000):
        assert alice.send(bob, number)
        assert bob.send(alice, number)
        world.run(0.01)
    assert [n for n in sorted(alice.received) if n >= 0] == list(range(2000))
    assert [n for n in sorted(bob.received) if n >= 0] == list(range(2000))
    assert 8 <= len(alice.ready()) <= 13


def test_the_initiator_rekeys_at_120_s_with_jitter() -> None:
    moments = set()
    for seed in range(6):
        world, alice, bob = pair(seed=seed)
        alice.connect(bob)
        world.run(1)
        start = world.now
        while len(alice.ready()) == 1:
            alice.send(bob, 0)
            world.run(0.5)
        moments.add(world.now - start)
        assert 107 <= world.now - start <= 132
        assert [bytes(datagram)[0] & 15 for sender, _, datagram in world.wire if sender is bob] == [2, 2]
    assert len(moments) > 1


def test_the_responder_takes_over_when_the_initiator_has_nothing_to_say() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    alice.engine.sealed[bob.id] = 0  # the initiator's probe does not count here
    for _ in range(300):
        bob.send(alice, 0)
        world.run(0.5)
    first = next(index for index, (sender, _, d) in enumerate(world.wire) if sender is bob and d[0] & 15 == 1)
    assert first == 2
    assert flows(world, bob, alice)
    assert flows(world, alice, bob)


def test_idle_keys_expire_at_180_s_and_leave_nothing_behind() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    for host in (alice, bob):
        for peer in host.engine.sealed:
            host.engine.sealed[peer] = 0
    world.run(170)
    assert alice.engine.send_keys
    assert bob.engine.receive_keys
    world.run(5)
    assert not alice.engine.send_keys
    assert alice.engine.receive_keys, "what is under way still opens"
    world.run(5)
    for host, other in ((alice, bob), (bob, alice)):
        assert not host.engine.send_keys
        assert not host.engine.receive_keys
        assert [(event.peer, event.reason) for event in host.lost()] == [(other.id, FailReason.EXPIRED)]
        world.run(6)
        assert host.sessions.next_deadline() is None
        assert host.sessions.keypair(other.id) is None
    alice.connect(bob)
    world.run(1)
    assert flows(world, bob, alice)


def test_a_cut_link_loses_the_session_and_comes_back_by_connect() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    world.loss = 1.0
    for _ in range(300):
        alice.send(bob, 0)
        world.run(1, check=False)  # the receiver's clock may run out first where nothing can be told
    assert alice.lost()[0].reason is FailReason.EXPIRED
    assert {event.reason for event in alice.failed()} == {FailReason.NO_ANSWER}
    world.loss = 0.0
    alice.connect(bob)
    world.run(6)
    assert flows(world, alice, bob)
    assert flows(world, bob, alice)


def test_retry_schedule_and_giving_up() -> None:
    world = World()
    alice, bob = world.host("alice"), world.host("bob")
    start = world.now
    sent: list[float] = []
    alice.connect(bob, [NOWHERE, bob.endpoint])
    world.loss = 1.0
    seen = 0
    while not alice.failed():
        if len(world.wire) > seen:
            seen = len(world.wire)
            sent.append(world.now - start)
        world.run(0.01)
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    for gap, base in zip(gaps, (0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0), strict=False):
        assert base - 0.02 <= gap <= base * 1.2 + 0.02
    assert {to for _, to, _ in world.wire} == {NOWHERE, bob.endpoint}
    assert alice.failed() == [HandshakeFailed(peer=bob.id, endpoint=NOWHERE, reason=FailReason.NO_ANSWER)]
    assert 90 <= world.now - start <= 97
    assert alice.sessions.next_deadline() is None
    assert not alice.sessions.handshaking(bob.id)


def test_the_second_endpoint_answers() -> None:
    world, alice, bob = pair()
    alice.connect(bob, [NOWHERE, bob.endpoint])
    world.run(1)
    assert alice.ready()[0].endpoint == bob.endpoint


def test_every_way_is_tried_before_the_waits_grow_and_relays_at_the_second_place() -> None:
    one, two, three = (Endpoint(f"10.9.0.{number}", 6783) for number in (1, 2, 3))
    relayed = Relayed(ShortId(b"relayed!"))
    cases: tuple[tuple[tuple[Address, ...], list[Address]], ...] = (
        ((one, two, three, relayed), [one, relayed, two, three]),
        ((relayed, one, two), [relayed, one, two]),
        ((one, two), [one, two]),
        ((relayed,), [relayed]),
    )
    for endpoints, order in cases:
        attempt = Attempt(peer=HostId(bytes(16)), static=bytes(32), endpoints=endpoints, started_at=0.0)
        found, rounds = [], []
        for attempt.tries in range(2 * len(order)):
            found.append(attempt.turn())
            rounds.append(attempt.round)
        assert found == 2 * order
        assert rounds == [0] * len(order) + [1] * len(order)


def test_endpoints_may_change_while_trying() -> None:
    world, alice, bob = pair()
    alice.connect(bob, [NOWHERE])
    alice.connect(bob)
    world.run(1)
    assert alice.ready()


def test_where_the_present_key_came_from_is_tried_whatever_the_list_becomes_meanwhile() -> None:
    """A host behind a NAT is nowhere else; the list is written anew with each change of the mesh's routes."""
    world, alice, bob = pair()
    bob.connect(alice)
    world.run(1)
    alice.sessions.connect(bob.id, bob.identity.x25519_public, [NOWHERE], world.now)
    world.loss = 1.0
    alice.sessions.renew(bob.id, world.now)
    alice.flush()
    world.run(0.1)
    world.loss = 0.0
    alice.sessions.connect(bob.id, bob.identity.x25519_public, [NOWHERE], world.now)
    before = len(alice.ready())
    world.run(10)
    assert len(alice.ready()) > before


def test_connect_while_there_is_a_session_asks_nobody() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    alice.connect(bob)
    bob.connect(alice)
    world.run(1)
    assert len(world.wire) == 2


def test_no_endpoint_is_reported() -> None:
    _, alice, bob = pair()
    alice.connect(bob, [])
    assert [event.reason for event in alice.failed()] == [FailReason.NO_ENDPOINT]


def test_an_unusable_static_key_is_reported() -> None:
    world, alice, bob = pair()
    alice.sessions.connect(bob.id, bytes(32), [bob.endpoint], world.now)
    alice.flush()
    assert [event.reason for event in alice.failed()] == [FailReason.BAD_KEY]
    assert alice.sessions.next_deadline() is None


def test_a_session_with_ourselves_is_a_bug() -> None:
    _, alice, _ = pair()
    with pytest.raises(LocalProtocolError):
        alice.connect(alice)


def test_a_bootstrap_to_our_own_address_meets_silence() -> None:
    world, alice, _ = pair()
    alice.bootstrap(alice.endpoint)
    world.run(100)
    assert not alice.ready()
    assert alice.drops.as_dict().keys() == {"reflected"}
    assert alice.failed() == [HandshakeFailed(peer=None, endpoint=alice.endpoint, reason=FailReason.NO_ANSWER)]


def test_restart_of_one_side_with_a_higher_boot_counter() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    bob.start(boot=2)
    bob.connect(alice)
    world.run(1, check=False)
    assert flows(world, alice, bob)
    assert flows(world, bob, alice)


def test_a_restart_with_an_old_boot_counter_takes_one_try_more() -> None:
    """A backup was restored: the peer is challenged, and keeps what it has heard."""
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    old = next(datagram for _, _, datagram in world.wire if datagram[0] & 15 == 1)
    alice.start(boot=0)
    alice.connect(bob)
    world.run(1, check=False)
    assert [datagram[0] & 15 for _, _, datagram in world.wire] == [1, 2, 1, 3, 1, 2]
    assert bob.drops.as_dict() == {"stale_handshake": 1}
    assert alice.ready()
    world.run(3600)
    assert flows(world, alice, bob, 1), "and so again at each renewal"
    world.wire.clear()
    assert bob.sessions.receive(old, alice.endpoint, world.now) is DropReason.STALE_HANDSHAKE


def test_renew_makes_new_keys_after_the_peer_lost_its_own() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    bob.start(boot=2)
    alice.send(bob, 1)
    world.run(1, check=False)
    assert bob.received == []
    alice.sessions.renew(bob.id, world.now)
    alice.sessions.renew(bob.id, world.now)  # one is enough
    alice.flush()
    world.run(1, check=False)
    assert flows(world, alice, bob)
    assert flows(world, bob, alice)


def test_forget_drops_everything_at_once() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    alice.sessions.forget(bob.id)
    alice.flush()
    assert not alice.engine.receive_keys
    assert not alice.engine.send_keys
    assert [event.reason for event in alice.lost()] == [FailReason.FORGOTTEN]
    alice.connect(bob, [NOWHERE])
    alice.sessions.forget(bob.id)
    assert not alice.sessions.handshaking(bob.id)
    world.run(6, check=False)  # bob has not been told
    assert alice.sessions.next_deadline() is None


def test_a_bootstrap_that_is_under_way_is_not_begun_again() -> None:
    world, alice, _ = pair()
    alice.bootstrap(NOWHERE)
    alice.bootstrap(NOWHERE)
    assert len(world.wire) == 1


def test_counts_renew_and_then_refuse_a_key() -> None:
    timing = dataclasses.replace(Timing(), rekey_datagrams=1000)
    world, alice, bob = pair(timing=timing)
    alice.connect(bob)
    world.run(1)
    alice.engine.sealed[bob.id] = 1000
    world.run(6)
    assert len(alice.ready()) == 2
    alice.engine.sealed[bob.id] = 2000
    world.loss = 1.0
    world.run(6)
    assert [event.reason for event in alice.lost()] == [FailReason.USED_UP]
    assert bob.id not in alice.engine.send_keys
    bob.send(alice, 5)
    world.loss = 0.0
    world.run(10)
    assert flows(world, alice, bob), "the renewal that was begun ends the outage"


def test_tables_are_bounded() -> None:
    _, alice, _ = pair()
    for number in range(MAX_BOOTSTRAPS + 1):
        alice.bootstrap(Endpoint("nowhere", number + 1))
    assert [event.reason for event in alice.failed()] == [FailReason.TABLE_FULL]
    for _ in range(MAX_OUTBOX + 1):
        alice.sessions._send(b"", NOWHERE)
    assert len(alice.sessions.poll_transmit()) == MAX_OUTBOX
    assert alice.drops[DropReason.QUEUE_FULL] == 1


@pytest.mark.parametrize("duplicate", [0.3])
def test_duplicated_datagrams_are_harmless(duplicate: float) -> None:
    world, alice, bob = pair(seed=5, delay=(0.001, 0.3))
    world.duplicate = duplicate
    alice.connect(bob)
    bob.bootstrap(alice.endpoint)
    for number in range(400):
        alice.send(bob, number)
        bob.send(alice, number)
        world.run(1)
    assert flows(world, alice, bob)
    assert flows(world, bob, alice)
    assert set(alice.drops.as_dict()) | set(bob.drops.as_dict()) <= {
        "stale_handshake",
        "replayed",
        "unexpected_handshake",
        "reflected",
    }


def test_events_hide_keys() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    key = alice.engine.send_keys[bob.id][1]
    assert any(isinstance(event, SessionReady) for event in alice.events)
    assert all(repr(key) not in repr(event) for event in alice.events)
