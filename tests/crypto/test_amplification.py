"""Amplification, by enumeration: every type, right and wrong, in every state of a host, from every kind of address.

For each the host may send back at most one datagram, of at most as many bytes, to the source, until the other side has shown that
it is of the mesh (the keys that a type 2 or a type 7 proves are the first that it has).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from meshd.crypto.handshake import Initiator
from meshd.crypto.wire import Liveness, Message, MessageType, encode_message, mac1_static
from meshd.ids import Address, Endpoint, Relayed, ShortId
from tests.crypto.world import MESH, Host, World, pair

SOURCES: dict[str, Address] = {
    "stranger": Endpoint("198.18.0.1", 1234),
    "stranger, IPv6": Endpoint("2001:db8::1", 1234),
    "member": Endpoint("alice", 6783),
    "relayed": Relayed(ShortId(b"12345678")),
}


def idle(world: World, alice: Host, bob: Host) -> None:
    pass


def asking(world: World, alice: Host, bob: Host) -> None:
    """Bob waits for a type 2 and for a type 6."""
    bob.connect(alice)
    bob.bootstrap(Endpoint("somebody", 6783))


def half_open(world: World, alice: Host, bob: Host) -> None:
    """Bob waits for a type 7."""
    bob.sessions.receive(Initiator(alice.sessions._context, index=5).start(), alice.endpoint, world.now)


def confirming(world: World, alice: Host, bob: Host) -> None:
    """Bob repeats a type 7 that never arrives."""
    world.drop_if = lambda packet: isinstance(packet, bytes) and packet[0] & 15 == 7
    bob.bootstrap(alice.endpoint)
    world.run(0.1)


def established(world: World, alice: Host, bob: Host) -> None:
    alice.connect(bob)
    world.run(1)


def loaded(world: World, alice: Host, bob: Host) -> None:
    established(world, alice, bob)
    while not bob.sessions._gate.loaded(world.now):
        bob.sessions._gate.charge(0.0, world.now)


def flooded(world: World, alice: Host, bob: Host) -> None:
    established(world, alice, bob)
    while bob.sessions._gate.look(Endpoint("198.18.0.9", 1), world.now):
        pass


STATES = (idle, asking, half_open, confirming, established, loaded, flooded)


def datagrams(world: World, alice: Host, bob: Host) -> Iterator[tuple[str, bytes]]:
    """What was on the wire, again and changed; what a member and a stranger can make up, for indices in use and not."""
    for _, _, sent in list(world.wire):
        yield "replayed", sent
        for at in (4, 12, len(sent) - 20, len(sent) - 1):
            yield "flipped", sent[:at] + bytes((sent[at] ^ 1,)) + sent[at + 1 :]
    context, static = alice.sessions._context, bob.identity.x25519_public
    for liveness in (Liveness(0, 1), Liveness(9, 1), Liveness(1 << 63, 1)):
        yield "true type 1", Initiator(context, index=77, remote_static=static, liveness=liveness).start()
    yield "true type 5", Initiator(context, index=78).start()
    indices = [1, *bob.sessions._table.indices]
    sizes = {1: 108, 2: 48, 5: 48, 6: 193, 7: 161}
    for kind, size in sizes.items():
        for key in (mac1_static(static) if kind < 5 else MESH.mac1_bootstrap, bytes(32)):
            for index in indices:
                message = Message(MessageType(kind), 99, index, bytes(size))
                yield f"made up type {kind}", encode_message(message, key)
                yield f"with a mac2, type {kind}", encode_message(message, key)[:-16] + b"c" * 16
    for kind in range(16):
        for length in (4, 32, 52, 92, 148, 205, 237, 1200):
            yield f"empty type {kind}", bytes((0x10 | kind,)) + bytes(length - 1)


def answered(world: World, host: Host, datagram: bytes, source: Address) -> list[tuple[bytes, Address]]:
    world.now += 0.01
    host.sessions.receive(datagram, source, world.now)
    while host.sessions.next_event() is not None:
        pass
    return host.sessions.poll_transmit()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("source", SOURCES)
def test_never_more_out_than_in(state: Callable[[World, Host, Host], None], source: str) -> None:
    world, alice, bob = pair()
    state(world, alice, bob)
    bob.sessions.poll_transmit()
    replies = 0
    for what, datagram in list(datagrams(world, alice, bob)):
        sent = answered(world, bob, datagram, SOURCES[source])
        assert len(sent) <= 1, what
        for reply, to in sent:
            replies += 1
            assert to == SOURCES[source], what
            assert len(reply) <= len(datagram), (what, len(reply))
    if state is not flooded:
        assert replies > 0, "nothing was tried"
