"""The byte-exact vectors: each is made again from the code, and each is held to docs/protocol.md by a second, shorter hand.

The second hand makes what it expects with hashlib, hmac, base64 and the AEADs alone: it is what another implementation would write
after reading the text.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from meshd.errors import DecodeError
from meshd.forward.entries import decode_entries
from tests.vectors.build import BUILDERS, FOLDER

ROOT = Path(__file__).parent.parent

# Files that are made or held elsewhere, and by what.
HELD = {
    "control.json": "tests/forward/test_control.py",
    "crypto_handshake.json": "tests/crypto/test_wire.py",
    "crypto_noise.json": "tests/crypto/test_noise.py",
    "datagram.json": "tests/engine/make_vectors.py",
    "gossip.json": "tests/gossip/test_messages.py",
    "relay.json": "tests/engine/make_relay_vectors.py",
}


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return loaded


KEYS = load("keys.json")


@pytest.mark.parametrize("name", BUILDERS)
def test_the_code_still_makes_them(name: str) -> None:
    assert BUILDERS[name]() == load(name)


def test_every_file_is_made_or_held_by_something() -> None:
    files = {path.name for path in FOLDER.glob("*.json")}
    assert files == {*BUILDERS, *HELD}
    for name, holder in HELD.items():
        assert name in (ROOT / holder).read_text(), f"{holder} does not name {name}"


def test_every_file_says_where_it_is_from() -> None:
    assert [path.name for path in FOLDER.glob("*.json") if not json.loads(path.read_text())["source"]] == []


# the second hand


def blake2s(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def labelled(label: bytes, data: bytes, size: int) -> bytes:
    return blake2s(bytes((len(label),)) + label + data)[:size]


def hkdf(key: bytes, label: bytes) -> bytes:
    extracted = hmac.new(bytes(32), key, "blake2s").digest()
    return hmac.new(extracted, label + b"\x01", "blake2s").digest()


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_identities(role: str) -> None:
    row = KEYS[role]
    stored = bytes.fromhex(row["stored"])
    assert stored[:1] == b"\x01"
    ed25519 = Ed25519PrivateKey.from_private_bytes(stored[1:33]).public_key()
    x25519 = X25519PrivateKey.from_private_bytes(stored[33:]).public_key().public_bytes_raw()
    public = ed25519.public_bytes_raw()
    host = blake2s(public)[:16]
    assert (row["ed25519"], row["x25519"]) == (public.hex(), x25519.hex())
    assert (row["host_id"], row["short_id"], row["name"]) == (host.hex(), host[:8].hex(), host[:6].hex(":"))
    binding = bytes.fromhex(row["binding"])
    assert (binding[:32], binding[96:]) == (public, b"\x01")
    ed25519.verify(binding[32:96], b"meshd binding v1" + bytes.fromhex(KEYS["mesh"]["mesh_id"]) + x25519)
    assert row["mac1"] == blake2s(b"meshd mac1 v1" + x25519).hex()
    assert row["cookie"] == blake2s(b"meshd cookie v1" + x25519).hex()


@pytest.mark.parametrize(("name", "kind"), [("mesh", 0), ("password", 1)])
def test_mesh_keys(name: str, kind: int) -> None:
    row = KEYS[name]
    mesh_id, key = bytes.fromhex(row["mesh_id"]), bytes.fromhex(row["key"])
    body = bytes((kind, 1)) + mesh_id + key
    checksum = labelled(b"meshd key checksum v1", body, 5)
    assert row["text"] == "mk1-" + base64.b32encode(body + checksum).decode().lower()
    assert row["psk"] == hkdf(key, b"meshd psk v1").hex()
    assert row["mac1_bootstrap"] == hkdf(mesh_id if kind else key, b"meshd mac1 bootstrap v1").hex()
    assert row["cookie_bootstrap"] == hkdf(mesh_id if kind else key, b"meshd cookie bootstrap v1").hex()
    assert row["prologue"] == (b"meshd" + bytes((1, 1)) + mesh_id).hex()


def test_password_derivation() -> None:
    row = KEYS["password"]
    name = row["mesh_name"].encode()
    salt = labelled(b"meshd password salt v1", name, 16)
    derived = Argon2id(salt=salt, length=32, iterations=3, lanes=1, memory_cost=64 * 1024).derive(
        row["password"].encode()
    )
    assert row["key"] == derived.hex()
    assert row["mesh_id"] == labelled(b"meshd mesh id v1", name, 16).hex()


def test_cookies() -> None:
    """Made anew from secret, address and the datagrams that they answer; and what the next try does with them."""
    vectors = load("cookie.json")
    key = bytes.fromhex(vectors["secret"])
    value = hashlib.blake2s(vectors["address"].encode(), key=key, digest_size=15).digest()
    static, bootstrap = KEYS["responder"]["cookie"], KEYS["mesh"]["cookie_bootstrap"]
    for row, cookie_key in zip(vectors["cookies"], (static, bootstrap, static), strict=True):
        answers, nonce = bytes.fromhex(row["answers"]), b"\x22" * 12
        plain = bytes((row["kind"],)) + bytes.fromhex(row["value"]).ljust(15, b"\0")
        sealed = AESGCMSIV(bytes.fromhex(cookie_key)).encrypt(nonce, plain, answers[-32:-16])
        assert row["datagram"] == (bytes((0x13, 0, 0, 0)) + answers[4:8] + nonce + sealed).hex()
        assert len(row["datagram"]) == 2 * 52
        if row["kind"] == 1:
            assert row["value"] == value.hex()
        else:
            assert bytes.fromhex(row["value"])[7] & 0x80
    first = bytes.fromhex(vectors["cookies"][0]["answers"])
    mac2 = hashlib.blake2s(first[:-16], key=value, digest_size=16).digest()
    assert vectors["next_try_with_mac2"] == (first[:-16] + mac2).hex()


def test_handshake_datagrams_begin_and_end_as_the_layout_says() -> None:
    """Types, indices, mac1 under the right key, mac2 of zeros; the Noise part in between is held by the published vectors."""
    vectors = load("crypto_handshake.json")
    assert vectors["mesh_key"] == KEYS["mesh"]["text"]
    bootstrap = KEYS["mesh"]["mac1_bootstrap"]
    mac1_keys = [KEYS["responder"]["mac1"], KEYS["initiator"]["mac1"], bootstrap, bootstrap, bootstrap]
    datagrams = vectors["ik"]["datagrams"] + vectors["xx"]["datagrams"]
    for kind, size, key, text in zip((1, 2, 5, 6, 7), (148, 92, 237, 237, 205), mac1_keys, datagrams, strict=True):
        datagram = bytes.fromhex(text)
        assert len(datagram) == size
        assert datagram[:4] == bytes((0x10 | kind, 0, 0, 0))
        covered, mac1, mac2 = datagram[:-32], datagram[-32:-16], datagram[-16:]
        assert mac1 == hashlib.blake2s(covered, key=bytes.fromhex(key), digest_size=16).digest()
        assert mac2 == bytes(16)
        sender, receiver = covered[4:8], covered[8:12]
        assert sender == bytes.fromhex("04030201" if kind in (1, 5, 7) else "0d0c0b0a")
        if kind in (2, 6, 7):
            assert receiver == bytes.fromhex("0d0c0b0a" if kind == 7 else "04030201")
        if kind == 5:
            assert covered[56:] == bytes(149)


def seal(suite: str, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
    match suite:
        case "AES_256_GCM":
            return AESGCM(key).encrypt(nonce, plain, aad)
        case "CHACHA20_POLY1305":
            return ChaCha20Poly1305(key).encrypt(nonce, plain, aad)
    assert suite == "PLAIN"
    return plain + AESGCM(key).encrypt(nonce, b"", aad + plain)


def test_sealed_datagrams() -> None:
    vectors = load("sealed.json")
    key = bytes.fromhex(vectors["key"])
    assert {row["suite"] for row in vectors["datagrams"]} == {"AES_256_GCM", "CHACHA20_POLY1305", "PLAIN"}
    for row in vectors["datagrams"]:
        header, nonce, plain = (bytes.fromhex(row[field]) for field in ("header", "nonce", "plaintext"))
        assert len(header) == 16
        assert header[:1] == b"\x14"
        assert nonce == bytes(4) + header[8:]
        assert row["datagram"] == (header + seal(row["suite"], key, nonce, plain, header)).hex()


def test_entries() -> None:
    vectors = load("entries.json")
    for row in vectors["plain"]:
        body = bytes.fromhex(row["body"])
        assert row["entry"] == ((row["kind"] << 14 | len(body)).to_bytes(2, "little") + body).hex()
    for row in vectors["floods"]:
        body = bytes.fromhex(row["origin"])
        body += row["boot"].to_bytes(4, "little") + row["sequence"].to_bytes(4, "little") + bytes((row["ttl"], 0))
        body += bytes.fromhex(row["frame"])
        assert row["entry"] == ((2 << 14 | len(body)).to_bytes(2, "little") + body).hex()
    for row in vectors["fragments"]:
        entry, at = bytes.fromhex(row["entry"]), 0
        assert len(row["pieces"]) > 1
        for piece in map(bytes.fromhex, row["pieces"]):
            data = piece[6:]
            word = at | (0x8000 if at + len(data) == len(entry) else 0)
            body = row["id"].to_bytes(2, "little") + word.to_bytes(2, "little") + entry[at : at + len(data)]
            assert piece == (3 << 14 | len(body)).to_bytes(2, "little") + body
            assert len(piece) <= row["room"]
            at += len(data)
        assert at == len(entry)


@pytest.mark.parametrize("plain", load("entries.json")["bad"])
def test_entries_that_do_not_fit(plain: str) -> None:
    with pytest.raises(DecodeError):
        list(decode_entries(bytes.fromhex(plain)))


@pytest.mark.parametrize("conversation", ["unknown", "known"])
def test_control_links(conversation: str) -> None:
    """Framing, the handshake in its datagrams' form, implicit counters from 0 under each key, sealed without associated data."""
    handshake = load("crypto_handshake.json")["xx" if conversation == "unknown" else "ik"]
    counters: dict[str, int] = {}
    clear: list[str] = []
    senders: dict[str, str] = {}
    for row in load("link.json")[conversation]:
        frame = bytes.fromhex(row["frame"])
        assert int.from_bytes(frame[:2], "little") == len(frame) - 2
        if "key" not in row:
            assert counters == {}, "nothing is in the clear after the handshake"
            clear.append(frame[2:].hex())
            continue
        key, counter = row["key"], row["counter"]
        assert counter == counters.get(key, 0)
        assert senders.setdefault(key, row["from"]) == row["from"], "a key has one direction"
        counters[key] = counter + 1
        nonce = bytes(4) + counter.to_bytes(8, "little")
        assert AESGCM(bytes.fromhex(key)).encrypt(nonce, bytes.fromhex(row["message"]), b"") == frame[2:]
    assert clear == handshake["datagrams"]
    first = {handshake["initiator_seals"]: "dialler", handshake["responder_seals"]: "acceptor"}
    assert first.items() <= senders.items()
    assert len(counters) == (4 if conversation == "unknown" else 2)


def test_records_of_the_conversation_are_signed_by_their_origin() -> None:
    """docs/protocol.md, Records: the signing message, written out once more."""
    record = load("gossip.json")["record"]
    message = bytes.fromhex(record["signed_message"])
    mesh_id, origin = bytes(range(0x40, 0x50)), bytes.fromhex(record["origin"])
    head = b"meshd record v1" + mesh_id + origin + (5).to_bytes(8, "little") + (1).to_bytes(8, "little")
    value = bytes.fromhex(load("gossip.json")["values"]["host"]["value"])
    assert message == head + b"\x01h" + b"\x01" + value
    public = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
    assert origin == blake2s(public)[:16]
    Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(record["signature"]), message)
    without_mesh = message.replace(mesh_id, b"", 1)
    assert record["hash"] == f"{int.from_bytes(hashlib.blake2s(without_mesh, digest_size=8).digest(), 'little'):016x}"
