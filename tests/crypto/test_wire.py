"""Sizes, byte-exact vectors, and the codec's fix-point."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.handshake import Context, Initiator, Responder
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.wire import (
    LIVENESS_SIZE,
    Liveness,
    Mac1Keys,
    Message,
    MessageType,
    Rejected,
    decode_header,
    decode_liveness,
    decode_message,
    encode_liveness,
    encode_message,
    message_size,
)
from meshd.drops import DropReason

KEYS = Mac1Keys(b"s" * 32, b"b" * 32)
NOISE_SIZE = {1: 108, 2: 48, 5: 48, 6: 193, 7: 161}
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "crypto_handshake.json").read_text())


def key_for(kind: int) -> bytes:
    return KEYS.static if kind < 5 else KEYS.bootstrap


def test_sizes() -> None:
    sizes = {int(kind): message_size(kind) for kind in map(MessageType, NOISE_SIZE)}
    assert sizes == {1: 148, 2: 92, 5: 237, 6: 237, 7: 205}
    assert sizes[2] <= sizes[1], "no reply is larger than what asked for it"
    assert sizes[7] <= sizes[6] <= sizes[5]


@given(
    st.sampled_from(sorted(NOISE_SIZE)),
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64),
)
def test_round_trip(kind: int, sender: int, receiver: int, seed: int) -> None:
    noise = random.Random(seed).randbytes(NOISE_SIZE[kind])
    message = Message(MessageType(kind), sender, 0 if kind in (1, 5) else receiver, noise)
    data = encode_message(message, key_for(kind))
    assert decode_message(memoryview(data), KEYS) == message
    assert encode_message(decode_message(data, KEYS), key_for(kind)) == data
    with pytest.raises(Rejected) as caught:
        decode_message(data, Mac1Keys(b"x" * 32, b"y" * 32))
    assert caught.value.reason is DropReason.BAD_MAC1


@given(st.binary(max_size=260))
def test_any_bytes_are_only_ever_rejected(data: bytes) -> None:
    for candidate in (data, b"\x11\0\0\0" + data):
        with pytest.raises(Rejected):
            decode_message(candidate, KEYS)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", DropReason.TRUNCATED),
        ("110000", DropReason.TRUNCATED),
        ("01000000", DropReason.UNKNOWN_VERSION),
        ("21000000", DropReason.UNKNOWN_VERSION),
        ("10000000", DropReason.UNKNOWN_TYPE),
        ("19000000", DropReason.UNKNOWN_TYPE),
        ("11010000", DropReason.UNKNOWN_TYPE),
        ("11000100", DropReason.UNKNOWN_SEGMENT),
        ("11000001", DropReason.UNKNOWN_SEGMENT),
    ],
)
def test_bad_headers(header: str, reason: DropReason) -> None:
    with pytest.raises(Rejected) as caught:
        decode_header(bytes.fromhex(header))
    assert caught.value.reason is reason


@pytest.mark.parametrize("kind", [3, 4, 8])
def test_types_that_are_not_handshakes(kind: int) -> None:
    assert decode_header(bytes((0x10 | kind, 0, 0, 0))) is MessageType(kind)
    with pytest.raises(Rejected) as caught:
        decode_message(bytes((0x10 | kind, 0, 0, 0)) + bytes(200), KEYS)
    assert caught.value.reason is DropReason.UNKNOWN_TYPE


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_liveness(boot: int, attempt: int) -> None:
    data = encode_liveness(Liveness(boot, attempt))
    assert len(data) == LIVENESS_SIZE == 12
    assert decode_liveness(data) == (boot, attempt)
    with pytest.raises(Rejected):
        decode_liveness(data + b"x")


def test_liveness_is_ordered_by_boot_first() -> None:
    assert Liveness(2, 0) > Liveness(1, 99) > Liveness(1, 98)


def _counting(start: int) -> Context:
    """A host whose every secret is a run of one byte value: start + 0, + 1 … in order of use."""
    values = iter(range(start, 256))
    identity = Identity(bytes((next(values),)) * 32, bytes((next(values),)) * 32)
    mesh = MeshKey.parse(VECTORS["mesh_key"])
    return Context(identity, mesh, lambda size: bytes((next(values),)) * size)


@pytest.mark.parametrize("pattern", ["ik", "xx"])
def test_byte_exact_vectors(pattern: str) -> None:
    """Both hosts, all inputs fixed: every datagram and the keys after it, as docs/protocol.md describes them."""
    alice, bob = _counting(0x10), _counting(0x20)
    static = bob.identity.x25519_public if pattern == "ik" else None
    initiator = Initiator(
        alice, index=0x01020304, remote_static=static, liveness=None if static is None else Liveness(5, 6)
    )
    responder = Responder(bob, allocate=lambda: 0x0A0B0C0D, authorize=lambda key, liveness: None)
    sent: list[str] = []
    datagram: bytes | None = initiator.start()
    machines: list[tuple[Initiator | Responder, Context]] = [(responder, bob), (initiator, alice)]
    while datagram is not None:
        sent.append(datagram.hex())
        machine, context = machines[len(sent) % 2 == 0]
        datagram = machine.receive(context.read(datagram))
    assert initiator.established is not None
    assert responder.established is not None
    assert initiator.established.send_key == responder.established.receive_key
    assert initiator.established.receive_key == responder.established.send_key
    assert {
        "datagrams": sent,
        "initiator_seals": initiator.established.send_key.hex(),
        "responder_seals": responder.established.send_key.hex(),
        "handshake_hash": responder.established.handshake_hash.hex(),
    } == VECTORS[pattern]
