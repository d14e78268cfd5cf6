"""Noise against the published vectors, against another implementation, and against forged messages."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshd.crypto.aead import nonce
from meshd.crypto.noise import IK, XX, DhKey, HandshakeState, NoiseError, Pattern
from meshd.errors import LocalProtocolError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package is old; here it is a second opinion only
    from noise.connection import Keypair, NoiseConnection

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "crypto_noise.json").read_text())["vectors"]
PATTERNS = {"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s": IK, "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s": XX}
PSK = bytes(range(32))
SMALL_ORDER = (
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
)


def fixed(value: bytes) -> Callable[[int], bytes]:
    def entropy(size: int) -> bytes:
        assert size == len(value)
        return value

    return entropy


def pair(
    pattern: Pattern, *, psk: bytes = PSK, prologue: bytes = b"p", responder_prologue: bytes = b"p"
) -> tuple[HandshakeState, HandshakeState]:
    alice, bob = DhKey.from_private(b"\x11" * 32), DhKey.from_private(b"\x22" * 32)
    initiator = HandshakeState(
        pattern,
        initiator=True,
        prologue=prologue,
        psk=PSK,
        static=alice,
        entropy=fixed(b"\x33" * 32),
        remote_static=bob.public if pattern is IK else None,
    )
    responder = HandshakeState(
        pattern, initiator=False, prologue=responder_prologue, psk=psk, static=bob, entropy=fixed(b"\x44" * 32)
    )
    return initiator, responder


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["protocol_name"]))
def test_published_vectors(vector: dict[str, Any]) -> None:
    pattern = PATTERNS[vector["protocol_name"]]

    def state(role: str, *, initiator: bool) -> HandshakeState:
        remote = vector.get(f"{role}_remote_static")
        return HandshakeState(
            pattern,
            initiator=initiator,
            prologue=bytes.fromhex(vector[f"{role}_prologue"]),
            psk=bytes.fromhex(vector[f"{role}_psks"][0]),
            static=DhKey.from_private(bytes.fromhex(vector[f"{role}_static"])),
            entropy=fixed(bytes.fromhex(vector[f"{role}_ephemeral"])),
            remote_static=None if remote is None else bytes.fromhex(remote),
        )

    sender, receiver = state("init", initiator=True), state("resp", initiator=False)
    initiator, responder = sender, receiver
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    handshake = len(pattern.messages)
    for payload, ciphertext in messages[:handshake]:
        assert sender.write_message(payload) == ciphertext
        assert receiver.read_message(ciphertext) == payload
        sender, receiver = receiver, sender
    assert initiator.handshake_hash == responder.handshake_hash == bytes.fromhex(vector["handshake_hash"])
    assert initiator.split() == responder.split()
    keys = initiator.split()
    used = [0, 0]
    for number, (payload, ciphertext) in enumerate(messages[handshake:], start=handshake):
        direction = number % 2
        sealed = ChaCha20Poly1305(keys[direction]).encrypt(nonce(used[direction]), payload, b"")
        used[direction] += 1
        assert sealed == ciphertext


@pytest.mark.parametrize("we_start", [True, False])
@pytest.mark.parametrize(("name", "pattern"), PATTERNS.items())
def test_against_another_implementation(name: str, pattern: Pattern, we_start: bool) -> None:
    ours, theirs = DhKey.from_private(b"\x51" * 32), DhKey.from_private(b"\x52" * 32)
    we = HandshakeState(
        pattern,
        initiator=we_start,
        prologue=b"mesh",
        psk=PSK,
        static=ours,
        entropy=fixed(b"\x53" * 32),
        remote_static=theirs.public if pattern is IK and we_start else None,
    )
    other = NoiseConnection.from_name(name.encode())
    other.set_psks(PSK)
    other.set_prologue(b"mesh")
    other.set_keypair_from_private_bytes(Keypair.STATIC, b"\x52" * 32)
    if we_start:
        other.set_as_responder()
    else:
        other.set_as_initiator()
        if pattern is IK:
            other.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, ours.public)
    other.start_handshake()
    for number in range(len(pattern.messages)):
        payload = b"payload %d" % number
        if (number % 2 == 0) == we_start:
            assert other.read_message(we.write_message(payload)) == payload
        else:
            assert we.read_message(bytes(other.write_message(payload))) == payload
    assert we.finished
    assert other.handshake_finished
    assert we.handshake_hash == other.get_handshake_hash()
    assert we.remote_static == theirs.public
    first, second = we.split()
    send, receive = (first, second) if we_start else (second, first)
    assert other.decrypt(ChaCha20Poly1305(send).encrypt(nonce(0), b"hello", b"")) == b"hello"
    assert ChaCha20Poly1305(receive).decrypt(nonce(0), bytes(other.encrypt(b"hello")), b"") == b"hello"


@pytest.mark.parametrize("pattern", [IK, XX], ids=lambda pattern: str(pattern.name))
def test_a_refused_message_leaves_the_state_as_it_was(pattern: Pattern) -> None:
    sender, receiver = pair(pattern)
    for number in range(len(pattern.messages)):
        message = sender.write_message(b"payload")
        for position in range(len(message)):
            forged = bytearray(message)
            forged[position] ^= 1 << (
                position % 7
            )  # bit 7 of an X25519 key's last byte is ignored by DH but not by the hash
            with pytest.raises(NoiseError):
                receiver.read_message(bytes(forged))
        for length in range(0, len(message), 7):
            with pytest.raises(NoiseError):
                receiver.read_message(message[:length])
        with pytest.raises(NoiseError):
            receiver.read_message(message + b"\0")
        assert receiver.read_message(message) == b"payload", number
        sender, receiver = receiver, sender
    assert sender.split() == receiver.split()


@pytest.mark.parametrize("point", SMALL_ORDER, ids=["zero", "one", "p-1"])
def test_small_order_points_are_refused_not_a_crash(point: bytes) -> None:
    with pytest.raises(NoiseError):
        DhKey.from_private(b"\x11" * 32).exchange(point)
    initiator, _ = pair(IK)
    initiator.remote_static = point
    with pytest.raises(NoiseError):
        initiator.write_message(b"")
    _, responder = pair(IK)
    with pytest.raises(NoiseError):
        responder.read_message(point + bytes(80))


@pytest.mark.parametrize(("pattern", "detected_by"), [(IK, 1), (XX, 2)], ids=["IK", "XX"])
def test_another_psk_is_found_at_its_token(pattern: Pattern, detected_by: int) -> None:
    sender, receiver = pair(pattern, psk=bytes(32))
    for _ in range(detected_by):
        receiver.read_message(sender.write_message(b""))
        sender, receiver = receiver, sender
    message = sender.write_message(b"")
    with pytest.raises(NoiseError):
        receiver.read_message(message)


@pytest.mark.parametrize("pattern", [IK, XX], ids=lambda pattern: str(pattern.name))
def test_another_prologue_fails_at_the_first_message(pattern: Pattern) -> None:
    sender, receiver = pair(pattern, responder_prologue=b"q")
    with pytest.raises(NoiseError):
        receiver.read_message(sender.write_message(b""))


def test_out_of_turn_is_our_own_bug() -> None:
    initiator, responder = pair(XX)
    with pytest.raises(LocalProtocolError):
        responder.write_message(b"")
    with pytest.raises(LocalProtocolError):
        initiator.read_message(bytes(48))
    with pytest.raises(LocalProtocolError):
        initiator.split()
    with pytest.raises(LocalProtocolError):
        HandshakeState(IK, initiator=True, prologue=b"", psk=PSK, static=DhKey.from_private(PSK), entropy=fixed(PSK))


def test_repr_shows_no_private_key() -> None:
    assert "private" not in repr(DhKey.from_private(b"\x11" * 32))
