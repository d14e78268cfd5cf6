"""Pin tests/vectors/relay.json: `python -m tests.engine.make_relay_vectors`. Key derivation and layout written out by hand."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

VECTORS = Path(__file__).parent.parent / "vectors" / "relay.json"
SESSION_KEY = bytes(range(32))
DESTINATION, SOURCE = bytes.fromhex("d0d1d2d3d4d5d6d7"), bytes.fromhex("a0a1a2a3a4a5a6a7")
INNER = bytes([0x14, 0, 0, 0]) + (5).to_bytes(4, "little") + (9).to_bytes(8, "little") + bytes(range(40))


def relay_key(key: bytes) -> bytes:
    secret = hmac.new(bytes(32), key, hashlib.blake2s).digest()
    return hmac.new(secret, b"meshd relay v1\x01", hashlib.blake2s).digest()


def datagram(suite: str, receiver: int, counter: int, ttl: int, inner: bytes) -> dict[str, object]:
    key = relay_key(SESSION_KEY)
    cipher = ChaCha20Poly1305(key) if suite == "CHACHA20_POLY1305" else AESGCM(key)
    hop = bytes([0x18, 0, 0, 0]) + receiver.to_bytes(4, "little") + counter.to_bytes(8, "little")
    covered = hop + DESTINATION + SOURCE + bytes([ttl, 0, 0, 0]) + inner
    tag = cipher.encrypt(bytes(4) + counter.to_bytes(8, "little"), b"", covered)
    return {
        "suite": suite,
        "receiver": receiver,
        "counter": counter,
        "ttl": ttl,
        "inner": inner.hex(),
        "datagram": (covered + tag).hex(),
    }


def vectors() -> dict[str, object]:
    return {
        "source": "meshd docs/protocol.md, Relayed datagrams; python-cryptography, by tests/engine/make_relay_vectors.py",
        "session_key": SESSION_KEY.hex(),
        "relay_key": relay_key(SESSION_KEY).hex(),
        "destination": DESTINATION.hex(),
        "source_id": SOURCE.hex(),
        "datagrams": [
            datagram("AES_256_GCM", 0x11223344, 0, 16, INNER),
            datagram("PLAIN", 0x11223344, 1, 15, INNER),
            datagram("CHACHA20_POLY1305", 0xFFFFFFFF, (1 << 28) - 1, 1, bytes([0x11]) + bytes(147)),
        ],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=2) + "\n")
