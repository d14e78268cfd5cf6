"""Which types 1 are new; and CVE-2021-46873: a host whose counter went back must still be able to handshake, and nobody else."""

from __future__ import annotations

import random

from meshd.crypto.handshake import Initiator
from meshd.crypto.liveness import (
    CHALLENGE_S,
    FIRST_CHALLENGE,
    MAX_CHALLENGES,
    MAX_LIVENESSES,
    LivenessTable,
)
from meshd.crypto.wire import Liveness
from meshd.drops import DropReason
from meshd.ids import Endpoint, HostId
from tests.crypto.world import pair

ALICE, BOB = HostId(b"a" * 16), HostId(b"b" * 16)


def table() -> LivenessTable:
    return LivenessTable(random.Random(1).randbytes)


def test_only_what_is_above_the_highest() -> None:
    heard = table()
    assert heard.accept(ALICE, Liveness(5, 2), 0)
    assert not heard.accept(ALICE, Liveness(5, 2), 0)
    assert not heard.accept(ALICE, Liveness(5, 1), 0)
    assert not heard.accept(ALICE, Liveness(4, 99), 0)
    assert heard.accept(BOB, Liveness(1, 1), 0)
    assert heard.accept(ALICE, Liveness(6, 1), 0)


def test_a_challenge_counts_once_for_its_peer_for_a_while() -> None:
    heard = table()
    heard.accept(ALICE, Liveness(5, 2), 0)
    challenge = heard.challenge(ALICE, 0)
    assert challenge.boot >= FIRST_CHALLENGE
    assert heard.challenge(ALICE, CHALLENGE_S - 1) == challenge, "whoever asks does not push it away"
    assert not heard.accept(BOB, challenge, 1)
    assert not heard.accept(ALICE, challenge._replace(attempt=challenge.attempt ^ 1), 1)
    assert heard.accept(ALICE, challenge, 1)
    assert not heard.accept(ALICE, challenge, 1)
    assert not heard.accept(ALICE, Liveness(5, 2), 1), "the highest has not moved"
    other = heard.challenge(ALICE, 1)
    assert other != challenge
    assert not heard.accept(ALICE, other, 1 + CHALLENGE_S)


def test_a_counter_that_claims_to_be_a_challenge_is_none() -> None:
    heard = table()
    assert not heard.accept(ALICE, Liveness(FIRST_CHALLENGE, 1), 0)
    assert heard.accept(ALICE, Liveness(FIRST_CHALLENGE - 1, 1), 0)


def test_bounds() -> None:
    heard = table()
    for number in range(MAX_LIVENESSES + 10):
        peer = HostId(number.to_bytes(16, "little"))
        heard.accept(peer, Liveness(1, 1), 0)
        heard.challenge(peer, 0)
    assert len(heard) == MAX_LIVENESSES
    assert len(heard._challenges) == MAX_CHALLENGES


def test_old_copies_gain_nothing_by_a_challenge_and_do_not_disturb_it() -> None:
    """An attacker replays what a host sent before its backup was restored, while the host itself answers its challenge."""
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    copy = next(datagram for _, _, datagram in world.wire if datagram[0] & 15 == 1)
    alice.start(boot=0)
    alice.connect(bob)
    replayed = 0
    while not alice.ready():
        world.run(0.06, check=False)
        assert bob.arrive(copy, Endpoint("mallory", 1)) is DropReason.STALE_HANDSHAKE
        replayed += 1
    assert 3 < replayed < 12, "in its second try"
    keys = len(bob.engine.receive_keys)
    assert bob.arrive(copy, Endpoint("mallory", 1)) is DropReason.STALE_HANDSHAKE
    assert len(bob.engine.receive_keys) == keys


def test_the_right_answer_by_another_member_is_refused() -> None:
    """The challenge lies sealed under the static keys of both ends: who is not alice cannot answer for her."""
    world, alice, bob = pair()
    mallory = world.host("mallory")
    alice.connect(bob)
    world.run(1)
    alice.start(boot=0)
    alice.connect(bob)
    world.run(0.1, check=False)
    challenge = bob.sessions._incoming._livenesses.challenge(alice.id, world.now)
    forged = Initiator(
        mallory.sessions._context, index=7, remote_static=bob.identity.x25519_public, liveness=challenge
    ).start()
    assert bob.arrive(forged, mallory.endpoint) is DropReason.STALE_HANDSHAKE
    world.run(1, check=False)
    assert alice.ready()
