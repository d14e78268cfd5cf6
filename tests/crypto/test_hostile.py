"""What strangers, forgers, mirrors and members of other meshes send: dropped under a name, never answered, never an exception."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.crypto.aead import Suite
from meshd.crypto.cookie import COOKIE_SIZE
from meshd.crypto.events import Stranger
from meshd.crypto.gate import WARN_EVERY_S
from meshd.crypto.handshake import Initiator
from meshd.crypto.identity import Identity
from meshd.crypto.incoming import MAX_HALF_OPEN, SEEN_BOOTSTRAPS
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.noise import DH_SIZE
from meshd.crypto.wire import Liveness, Message, MessageType, encode_message, mac1_static
from meshd.drops import DropReason
from meshd.ids import Endpoint, HostId
from tests.crypto.world import MESH, Host, World, pair

MALLORY = Endpoint("mallory", 666)
STRANGERS = (
    Endpoint(f"stranger {number}", 666) for number in itertools.count()
)  # never the same, so no bucket is empty
KINDS = [1, 2, 5, 6, 7]


def captured(kind: int) -> tuple[World, Host, bytes]:
    """A world in which a true message of this type is about to arrive: the receiver still waits for it."""
    world, alice, bob = pair()
    world.drop_if = lambda packet: isinstance(packet, bytes) and packet[0] & 15 == kind
    if kind < 5:
        alice.connect(bob)
    else:
        alice.bootstrap(bob.endpoint)
    world.run(0.2)
    sender, to, datagram = next(entry for entry in world.wire if entry[2][0] & 15 == kind)
    receiver = world.hosts[to]
    assert sender is not receiver
    world.wire.clear()
    return world, receiver, datagram


def dropped(world: World, host: Host, datagram: bytes, source: Endpoint | None = None) -> DropReason:
    """Feed it; nothing may come of it but one count, and a cookie where one is due."""
    source = next(STRANGERS) if source is None else source
    world.now += 0.002  # slow enough for the time that is kept for handshakes
    before = dict(host.drops.items())
    events, wire = len(host.events), len(world.wire)
    reason = host.sessions.receive(datagram, source, world.now)
    host.flush()
    assert reason is not None
    assert [event for event in host.events[events:] if not isinstance(event, Stranger)] == []
    if reason in (DropReason.STALE_HANDSHAKE, DropReason.NO_COOKIE):
        ((_, to, cookie),) = world.wire[wire:]
        assert (to, len(cookie)) == (source, COOKIE_SIZE)
        assert len(cookie) < len(datagram)
    else:
        assert len(world.wire) == wire
    after = dict(host.drops.items())
    assert after.pop(reason) == before.pop(reason, 0) + 1
    assert after == before
    return reason


def flips(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    for position in range(len(datagram)):
        for bit in (0, 3, 7):
            forged = bytearray(datagram)
            forged[position] ^= 1 << bit
            yield position, bytes(forged)


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_byte_is_dropped_and_the_true_message_still_counts(kind: int) -> None:
    world, receiver, datagram = captured(kind)
    for position, forged in flips(datagram):
        reason = dropped(world, receiver, forged)
        if position >= len(datagram) - 16 and kind in (1, 5):
            assert reason is DropReason.NO_COOKIE
        elif position > 3:
            assert reason is DropReason.BAD_MAC1
        else:
            assert reason in {
                DropReason.UNKNOWN_VERSION,
                DropReason.UNKNOWN_TYPE,
                DropReason.UNKNOWN_SEGMENT,
                DropReason.TRUNCATED,
                DropReason.BAD_LENGTH,
                DropReason.BAD_MAC1,
            }
    assert receiver.sessions.receive(datagram, MALLORY, world.now) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_byte_under_a_right_mac1(kind: int) -> None:
    """mac1 is no secret from members, so a forger may have it: now Noise, the index or the liveness must refuse."""
    world, receiver, datagram = captured(kind)
    key = mac1_static(receiver.identity.x25519_public) if kind < 5 else MESH.mac1_bootstrap
    true = receiver.sessions._context.read(datagram)
    for _, noise in flips(true.noise):
        assert dropped(world, receiver, encode_message(true._replace(noise=noise), key)) is DropReason.BAD_HANDSHAKE
    if true.receiver:
        other = encode_message(true._replace(receiver=true.receiver ^ 1), key)
        assert dropped(world, receiver, other) is DropReason.UNEXPECTED_HANDSHAKE
    assert dropped(world, receiver, encode_message(true._replace(sender=0), key)) is DropReason.BAD_HANDSHAKE
    assert receiver.sessions.receive(datagram, MALLORY, world.now) is None


@pytest.mark.parametrize("kind", KINDS)
def test_other_lengths_are_dropped_before_anything(kind: int) -> None:
    world, receiver, datagram = captured(kind)
    for length in range(len(datagram)):
        assert dropped(world, receiver, datagram[:length]) is DropReason.TRUNCATED
    for extra in (1, 16, 1200):
        assert dropped(world, receiver, datagram + bytes(extra)) is DropReason.BAD_LENGTH
    assert receiver.sessions.receive(datagram, MALLORY, world.now) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_of_no_use(kind: int) -> None:
    world, receiver, datagram = captured(kind)
    assert receiver.sessions.receive(datagram, MALLORY, world.now) is None
    receiver.flush()
    expected = {1: DropReason.STALE_HANDSHAKE, 5: DropReason.REPLAYED}.get(kind, DropReason.UNEXPECTED_HANDSHAKE)
    assert dropped(world, receiver, datagram) is expected
    world.hosts.pop(next(e for e, host in world.hosts.items() if host is not receiver))
    world.run(400, check=False)
    world.wire.clear()
    assert dropped(world, receiver, datagram) is expected, "much later, too"


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_message_coming_back(kind: int) -> None:
    world, receiver, datagram = captured(kind)
    sender = next(host for host in world.hosts.values() if host is not receiver)
    reason = dropped(world, sender, datagram)
    assert reason is (DropReason.BAD_MAC1 if kind < 5 else DropReason.REFLECTED)


def test_our_own_bootstrap_coming_back_late() -> None:
    world, alice, _ = pair()
    alice.bootstrap(Endpoint("nowhere", 1))
    first = world.wire[0][2]
    world.run(100)
    assert alice.failed()
    world.wire.clear()
    assert dropped(world, alice, first) is DropReason.REFLECTED


@pytest.mark.parametrize("how", ["connect", "bootstrap"])
@pytest.mark.parametrize("other", ["key", "suite"])
def test_another_mesh_gets_no_answer(how: str, other: str) -> None:
    world = World()
    if other == "key":
        foreign = MeshKey.generate(random.Random(8).randbytes)
    else:
        foreign = MeshKey(suite=Suite.CHACHA20_POLY1305, mesh_id=MESH.mesh_id, key=MESH.key, from_password=False)
    alice, bob = world.host("alice"), world.host("bob", foreign)
    if how == "connect":
        alice.connect(bob)
    else:
        alice.bootstrap(bob.endpoint)
    world.run(100)
    assert all(sender is alice for sender, _, _ in world.wire)
    expected = "bad_mac1" if (how, other) == ("bootstrap", "key") else "bad_handshake"
    assert bob.drops.as_dict().keys() == {expected}
    assert len(alice.failed()) == 1
    assert not alice.ready()
    warnings = [event for event in bob.events if isinstance(event, Stranger)]
    assert bob.events == warnings
    assert len(warnings) <= 100 / WARN_EVERY_S
    assert bool(warnings) == ((how, other) == ("bootstrap", "key"))


@pytest.mark.parametrize("how", ["connect", "bootstrap"])
def test_a_wrong_password_makes_no_session(how: str) -> None:
    """With a password the mesh id and mac1 key come from the mesh name, so it is the psk that fails: at its token."""
    world = World()
    right, wrong = (
        MeshKey(suite=Suite.PLAIN, mesh_id=bytes(16), key=bytes((n,)) * 32, from_password=True) for n in (1, 2)
    )
    alice, bob = world.host("alice", right), world.host("bob", wrong)
    if how == "connect":
        alice.connect(bob)
    else:
        alice.bootstrap(bob.endpoint)
    world.run(100)
    finder = alice if how == "connect" else bob
    assert finder.drops[DropReason.BAD_HANDSHAKE] > 0
    assert not alice.ready()
    assert not bob.ready()


def test_a_member_without_a_record_is_not_answered_by_ik() -> None:
    world = World()
    alice, bob = world.host("alice", known=False), world.host("bob")
    alice.connect(bob)
    world.run(3)
    assert all(sender is alice for sender, _, _ in world.wire)
    assert bob.drops.as_dict().keys() == {"unknown_peer"}
    world.records[alice.identity.x25519_public] = alice.id  # its record has come in
    world.run(6)
    assert alice.ready()


def test_small_order_keys_from_a_member() -> None:
    """An ephemeral key of small order passes mac1 and shows itself in a DH."""
    world, alice, bob = pair()
    init = Message(MessageType.INIT, 9, 0, bytes(108))
    key = mac1_static(bob.identity.x25519_public)
    assert dropped(world, bob, encode_message(init, key)) is DropReason.BAD_HANDSHAKE
    attacker = Initiator(
        alice.sessions._context, index=9, remote_static=bob.identity.x25519_public, liveness=Liveness(1, 1)
    )
    message = bob.sessions._context.read(attacker.start())
    twisted = bytes(DH_SIZE) + message.noise[DH_SIZE:]
    assert dropped(world, bob, encode_message(message._replace(noise=twisted), key)) is DropReason.BAD_HANDSHAKE


def test_a_clone_of_ourselves_is_refused() -> None:
    world = World()
    alice, twin = world.host("alice", seed=1), world.host("bob")
    twin.identity = Identity.generate(random.Random("alice").randbytes)
    twin.start(boot=1, seed=2)
    twin.bootstrap(alice.endpoint)
    world.run(3)
    assert twin.drops[DropReason.REFLECTED] > 0
    assert not twin.ready()
    world.records[twin.identity.x25519_public] = alice.id
    twin.sessions.connect(HostId(bytes(16)), alice.identity.x25519_public, [alice.endpoint], world.now)
    twin.flush()
    world.run(1)
    assert alice.drops[DropReason.REFLECTED] + alice.drops[DropReason.BAD_MAC1] > 0


def test_half_open_bootstraps_are_bounded_and_run_out() -> None:
    world, alice, bob = pair()
    context = alice.sessions._context
    for number in range(MAX_HALF_OPEN):
        first = Initiator(context, index=number + 1).start()
        assert bob.sessions.receive(first, next(STRANGERS), world.now) is None
        world.now += 0.01
    bob.flush()
    assert bob.sessions.receive(Initiator(context, index=999).start(), next(STRANGERS), world.now) is None
    assert bob.drops.as_dict() == {"table_full": 1}
    assert len(bob.sessions._incoming._half_open) == MAX_HALF_OPEN
    world.run(11)
    assert not bob.sessions._incoming._half_open
    assert not bob.sessions._table.indices


def test_memories_are_bounded() -> None:
    _, _, bob = pair()
    for number in range(SEEN_BOOTSTRAPS + 50):
        bob.sessions._incoming.remember(number.to_bytes(32, "little"), DropReason.REPLAYED)
    assert len(bob.sessions._incoming._seen) == SEEN_BOOTSTRAPS


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x21]))
def test_noise_from_the_network(data: bytes, first: int) -> None:
    world, _, bob = pair()
    dropped(world, bob, data)
    dropped(world, bob, bytes((first,)) + data)
    dropped(world, bob, (bytes((first, 0, 0, 0)) + data).ljust(237, b"\0")[:237])
