"""Cookies: sealed to the datagram that they answer, known again from the secret alone, of use for one address and some time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from meshd.crypto.cookie import (
    COOKIE_SIZE,
    MAX_COOKIES,
    SECRET_S,
    VALUE_SIZE,
    CookieKind,
    CookieMaker,
    CookieMemory,
    cookie_receiver,
    mac2,
    open_cookie,
    seal_cookie,
)
from meshd.crypto.gate import LOAD_HOLD_S
from meshd.crypto.wire import NO_MAC2, MessageType, Rejected, message_size
from meshd.drops import DropReason
from meshd.ids import Endpoint
from tests.crypto.world import Host, World, pair

KEY, NONCE, MAC1 = bytes(range(32)), bytes(12), b"m" * 16
A, B = Endpoint("192.0.2.1", 6783), Endpoint("192.0.2.2", 6783)


def test_round_trip() -> None:
    value = bytes(range(VALUE_SIZE))
    datagram = seal_cookie(KEY, 0x01020304, NONCE, MAC1, CookieKind.ADDRESS, value)
    assert len(datagram) == COOKIE_SIZE == 52
    assert cookie_receiver(datagram) == 0x01020304
    assert open_cookie(KEY, datagram, MAC1) == (CookieKind.ADDRESS, value)


def test_it_fits_no_other_datagram_and_no_other_key() -> None:
    datagram = seal_cookie(KEY, 1, NONCE, MAC1, CookieKind.LIVENESS, bytes(12))
    for key, mac1 in ((KEY, b"n" * 16), (bytes(32), MAC1)):
        with pytest.raises(Rejected) as caught:
            open_cookie(key, datagram, mac1)
        assert caught.value.reason is DropReason.BAD_TAG


def test_every_flipped_bit_and_every_other_length() -> None:
    datagram = seal_cookie(KEY, 1, NONCE, MAC1, CookieKind.ADDRESS, bytes(VALUE_SIZE))
    for position in range(8, COOKIE_SIZE):
        forged = bytearray(datagram)
        forged[position] ^= 0x10
        with pytest.raises(Rejected):
            open_cookie(KEY, bytes(forged), MAC1)
    for length in (*range(4, COOKIE_SIZE), COOKIE_SIZE + 1):
        with pytest.raises(Rejected) as caught:
            cookie_receiver(datagram.ljust(length, b"\0")[:length])
        assert caught.value.reason in (DropReason.TRUNCATED, DropReason.BAD_LENGTH)


def test_an_unknown_kind_is_refused() -> None:
    of_a_later_version: Any = 3
    datagram = seal_cookie(KEY, 1, NONCE, MAC1, of_a_later_version, bytes(VALUE_SIZE))
    with pytest.raises(Rejected) as caught:
        open_cookie(KEY, datagram, MAC1)
    assert caught.value.reason is DropReason.UNKNOWN_TYPE


def test_a_value_is_of_one_address_and_known_for_one_to_two_lives_of_the_secret() -> None:
    maker = CookieMaker(random.Random(1).randbytes)
    value = maker.value(A, 0)
    given = mac2(value, b"datagram")
    assert len(value) == VALUE_SIZE
    assert maker.check(A, b"datagram", given, SECRET_S - 1)
    assert not maker.check(B, b"datagram", given, SECRET_S - 1)
    assert not maker.check(A._replace(port=1), b"datagram", given, SECRET_S - 1)
    assert not maker.check(A, b"other", given, SECRET_S - 1)
    assert not maker.check(A, b"datagram", NO_MAC2, SECRET_S - 1)
    assert maker.check(A, b"datagram", given, 2 * SECRET_S - 1), "under the secret before"
    assert maker.value(A, 2 * SECRET_S - 1) != value
    assert not maker.check(A, b"datagram", given, 3 * SECRET_S)


def test_after_a_long_pause_no_old_secret_counts() -> None:
    maker = CookieMaker(random.Random(1).randbytes)
    given = mac2(maker.value(A, 0), b"datagram")
    assert not maker.check(A, b"datagram", given, 10 * SECRET_S)


def test_memory() -> None:
    memory = CookieMemory()
    memory.put(A, b"a" * 15, 0)
    assert memory.get(A, SECRET_S - 1) == b"a" * 15
    assert memory.get(A, SECRET_S) is None
    assert memory.get(B, 0) is None
    for number in range(MAX_COOKIES + 10):
        memory.put(Endpoint("192.0.2.3", number), b"b" * 15, 1)
    assert len(memory) == MAX_COOKIES


# between two hosts


def load(host: Host, world: World) -> None:
    """More handshakes than there is time for."""
    while not host.sessions._gate.loaded(world.now):
        host.sessions._gate.charge(0.0, world.now)


def kinds(world: World) -> list[int]:
    return [datagram[0] & 15 for _, _, datagram in world.wire]


@pytest.mark.parametrize(("how", "types"), [("connect", [1, 3, 1, 2]), ("bootstrap", [5, 3, 5, 6, 7])])
def test_under_load_a_handshake_takes_one_try_more(how: str, types: list[int]) -> None:
    world, alice, bob = pair()
    load(bob, world)
    started = world.now
    if how == "connect":
        alice.connect(bob)
    else:
        alice.bootstrap(bob.endpoint)
    world.run(LOAD_HOLD_S / 2)
    assert kinds(world) == types
    assert alice.ready()
    assert world.now - started < 1
    assert bob.drops.as_dict() == {"no_cookie": 1}
    assert alice.drops.as_dict() == {}


def test_the_cookie_is_kept_for_the_next_handshake() -> None:
    world, alice, bob = pair()
    load(bob, world)
    alice.connect(bob)
    world.run(2)
    world.wire.clear()
    load(bob, world)
    alice.sessions.renew(bob.id, world.now)
    alice.flush()
    world.run(1)
    assert kinds(world) == [1, 2]


def test_a_cookie_of_an_earlier_life_is_replaced() -> None:
    world, alice, bob = pair()
    load(bob, world)
    alice.connect(bob)
    world.run(2)
    bob.start(boot=2, seed=5)
    world.wire.clear()
    alice.sessions.renew(bob.id, world.now)
    alice.flush()
    world.run(1, check=False)
    assert kinds(world) == [1, 3, 1, 2]
    assert bob.drops.as_dict() == {"no_cookie": 1}


def test_load_and_an_old_boot_counter_together() -> None:
    world, alice, bob = pair()
    alice.connect(bob)
    world.run(1)
    alice.start(boot=0)
    load(bob, world)
    world.wire.clear()
    alice.connect(bob)
    world.run(2, check=False)
    assert kinds(world) == [1, 3, 1, 3, 1, 2]
    assert alice.ready()


def test_with_several_addresses_the_next_try_goes_where_the_cookie_came_from() -> None:
    world, alice, bob = pair()
    load(bob, world)
    alice.connect(bob, [bob.endpoint, Endpoint("nowhere", 1)])
    world.run(0.5)
    assert [to for sender, to, _ in world.wire if sender is alice] == [bob.endpoint] * 2
    assert alice.ready()


def test_cookies_that_answer_nothing() -> None:
    world, alice, bob = pair()
    load(bob, world)
    world.drop_if = lambda packet: isinstance(packet, bytes) and packet[0] & 15 == 3
    alice.connect(bob)
    world.run(0.1)
    first = next(datagram for _, _, datagram in world.wire if datagram[0] & 15 == 3)
    assert alice.arrive(seal_cookie(bytes(32), cookie_receiver(first), NONCE, MAC1, CookieKind.ADDRESS, b""), B)
    world.run(0.3)
    second = [datagram for _, _, datagram in world.wire if datagram[0] & 15 == 3][1]
    sent = len(world.wire)
    assert alice.arrive(first, bob.endpoint) is DropReason.UNEXPECTED_HANDSHAKE, "of an earlier try"
    assert alice.arrive(second, bob.endpoint) is None
    assert alice.arrive(second, bob.endpoint) is DropReason.UNEXPECTED_HANDSHAKE, "one for each try"
    assert len(world.wire) == sent, "and none is answered at once"
    assert bob.arrive(second, alice.endpoint) is DropReason.UNEXPECTED_HANDSHAKE
    assert message_size(MessageType.INIT) > len(second)
