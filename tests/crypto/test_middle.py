"""A member in the middle: splices, swaps and borrowed identities fail closed, and the true message still counts."""

from __future__ import annotations

import pytest

from meshd.crypto.handshake import Context, Initiator
from meshd.crypto.identity import Identity
from meshd.crypto.noise import DH_SIZE
from meshd.crypto.wire import Liveness, Message, MessageType, encode_message, mac1_static
from meshd.drops import DropReason
from meshd.ids import Endpoint
from tests.crypto.world import MESH, Host, pair

MALLORY = Endpoint("mallory", 666)


class Borrowed(Context):
    """A member's context that shows another one's binding."""

    def __init__(self, host: Host, binding: bytes) -> None:
        super().__init__(host.identity, MESH, host.sessions._context.entropy)
        self.binding = binding


def answer_on_its_way(how: str, seed: int) -> tuple[Host, Host, bytes]:
    """Alice has asked; the true answer of bob is held back. Another seed: another conversation of the same two."""
    world, alice, bob = pair(seed=seed)
    kind = 2 if how == "connect" else 6
    world.drop_if = lambda packet: isinstance(packet, bytes) and packet[0] & 15 == kind
    if how == "connect":
        alice.connect(bob)
    else:
        alice.bootstrap(bob.endpoint)
    world.run(0.1)
    (answer,) = [datagram for _, _, datagram in world.wire if datagram[0] & 15 == kind]
    return alice, bob, answer


@pytest.mark.parametrize("how", ["connect", "bootstrap"])
def test_the_answer_to_another_handshake_is_refused(how: str) -> None:
    """tinc's `splice`: two conversations of the same hosts, joined at the answer."""
    alice, bob, answer = answer_on_its_way(how, 1)
    _, _, foreign = answer_on_its_way(how, 2)
    key = mac1_static(alice.identity.x25519_public) if how == "connect" else MESH.mac1_bootstrap
    true, other = alice.sessions._context.read(answer), alice.sessions._context.read(foreign)
    assert true.noise != other.noise
    mixed = true.noise[:DH_SIZE] + other.noise[DH_SIZE:]
    swapped = other.noise[:DH_SIZE] + true.noise[DH_SIZE:]
    for noise in (other.noise, mixed, swapped):
        forged = encode_message(true._replace(noise=noise), key)
        assert alice.arrive(forged, MALLORY) is DropReason.BAD_HANDSHAKE
    assert alice.arrive(answer, bob.endpoint) is None


def test_a_first_message_with_anothers_ephemeral_key_is_refused() -> None:
    _, alice, bob = pair()
    context, static = alice.sessions._context, bob.identity.x25519_public
    one, other = (
        bob.sessions._context.read(
            Initiator(context, index=index, remote_static=static, liveness=Liveness(1, index)).start()
        )
        for index in (1, 2)
    )
    swapped = Message(MessageType.INIT, 3, 0, other.noise[:DH_SIZE] + one.noise[DH_SIZE:])
    assert bob.arrive(encode_message(swapped, mac1_static(static)), MALLORY) is DropReason.BAD_HANDSHAKE


def test_a_member_cannot_take_another_ones_identity() -> None:
    """The binding is over the X25519 key of this very handshake: a borrowed one does not fit."""
    world, alice, bob = pair()
    mallory = world.host("mallory")
    thief = Borrowed(mallory, alice.identity.binding(MESH.mesh_id))
    machine = Initiator(thief, index=9)
    bob.arrive(machine.start(), mallory.endpoint)
    (answer,) = [datagram for _, to, datagram in world.wire if to == mallory.endpoint]
    finish = machine.receive(mallory.sessions._context.read(answer))
    assert finish is not None
    assert bob.arrive(finish, mallory.endpoint) is DropReason.BAD_HANDSHAKE
    assert bob.engine.receive_keys == {}


def test_a_responder_that_shows_another_ones_binding_is_refused() -> None:
    world, alice, bob = pair()
    bob.sessions._context.binding = Identity.generate(world.rng.randbytes).binding(MESH.mesh_id)
    alice.bootstrap(bob.endpoint)
    world.run(3)
    assert alice.drops.as_dict().keys() == {"bad_handshake"}
    assert not alice.ready()


def test_a_message_for_one_host_means_nothing_to_another() -> None:
    """Unknown key share: what alice says to bob, mallory cannot pass on as said to carol."""
    world, alice, bob = pair()
    carol = world.host("carol")
    first = Initiator(
        alice.sessions._context, index=1, remote_static=bob.identity.x25519_public, liveness=Liveness(1, 1)
    ).start()
    assert carol.arrive(first, alice.endpoint) is DropReason.BAD_MAC1
    message = bob.sessions._context.read(first)
    again = encode_message(message, mac1_static(carol.identity.x25519_public))
    assert carol.arrive(again, alice.endpoint) is DropReason.BAD_HANDSHAKE
