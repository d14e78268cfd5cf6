"""Pin tests/vectors/datagram.json: `python -m tests.engine.make_vectors`. The layout is written out here once more, by hand."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parent.parent / "vectors" / "datagram.json"
KEY = bytes(range(32))
FRAME = bytes.fromhex("02000000000b02000000000a88b5") + b"hello mesh"


def datagram(flags: int, index: int, counter: int, plain: bytes) -> dict[str, object]:
    header = bytes([0x14, flags, 0, 0]) + index.to_bytes(4, "little") + counter.to_bytes(8, "little")
    sealed = AESGCM(KEY).encrypt(bytes(4) + counter.to_bytes(8, "little"), plain, header)
    return {
        "flags": flags,
        "index": index,
        "counter": counter,
        "plaintext": plain.hex(),
        "datagram": (header + sealed).hex(),
    }


def entry(kind: int, body: bytes) -> bytes:
    return (kind << 14 | len(body)).to_bytes(2, "little") + body


def vectors() -> dict[str, object]:
    boot, sequence = (0x01020304).to_bytes(4, "little"), (0x05060708).to_bytes(4, "little")
    flood = bytes.fromhex("a0a1a2a3a4a5a6a7") + boot + sequence + bytes([16, 0]) + FRAME
    return {
        "source": "meshd docs/protocol.md, Datagrams; AES-256-GCM of python-cryptography, by tests/engine/make_vectors.py",
        "suite": "AES_256_GCM",
        "key": KEY.hex(),
        "datagrams": [
            datagram(0, 0x11223344, 0, entry(0, FRAME)),
            datagram(1, 0x11223344, 1, entry(0, FRAME) + entry(0, FRAME[:20])),
            datagram(0, 0xFFFFFFFF, (1 << 28) - 1, entry(1, b"\x01\x02\x03")),
            datagram(0, 1, 2, entry(2, flood)),
            datagram(0, 1, 3, b""),
        ],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=2) + "\n")
