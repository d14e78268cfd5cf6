"""The key of a mesh: who holds it is a member. Made at random, or derived from a password and the mesh's name.

Stored and shown as `mk1-` and 88 base32 characters (lower case, no padding; case and white space around it do not matter):

    kind 1 (0 random, 1 from a password) · suite 1 · mesh id 16 · key 32 · checksum 5      (55 bytes, 440 bits, 88 characters)

checksum = BLAKE2s(label, the 50 bytes before it), cut to 5: one in 2^40 typing errors passes. Of the `mk1` the digit is the
version.

What follows from the key, each by HKDF-BLAKE2s (RFC 5869) under a label of its own: the `psk` of both handshakes, the mac1 key of
the bootstrap datagrams and the key of the cookies for them. A password can be guessed, so nothing derived from it may be visible
to a listener: there, mesh id and these two keys come from the mesh *name* (by way of the mesh id, so that the stored form needs
no name).

Password: Argon2id (RFC 9106) version 1.3, 64 MiB, 3 passes, 1 lane, salt = BLAKE2s(label, mesh name) cut to 16 bytes. One lane,
since the result must not depend on how many cores a small host has; about 0.3 s.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from meshd.crypto.aead import KEY_SIZE, Suite
from meshd.crypto.noise import Entropy
from meshd.errors import LocalProtocolError, UserError

__all__ = ["MESH_ID_SIZE", "MIN_PASSWORD", "MeshKey", "check_password", "hkdf"]

MESH_ID_SIZE = 16
MIN_PASSWORD = 12

_PREFIX = "mk1-"
_CHARACTERS = 88
_CHECKSUM_SIZE = 5
_ANY_VERSION = re.compile(r"mk[0-9]+-")
_HINT = "copy the whole line that `meshd key show` prints"

_ARGON2_MEMORY_KIB = 64 * 1024
_ARGON2_PASSES = 3
_ARGON2_LANES = 1


def hkdf(key: bytes, label: bytes) -> bytes:
    """HKDF-BLAKE2s (RFC 5869): 32 bytes for this label; the salt is the RFC's default, zeros."""
    secret = hmac.new(bytes(32), key, hashlib.blake2s).digest()
    return hmac.new(secret, label + b"\x01", hashlib.blake2s).digest()


def _labelled_hash(label: bytes, data: bytes, size: int) -> bytes:
    return hashlib.blake2s(bytes((len(label),)) + label + data).digest()[:size]


def check_password(password: str) -> None:
    """Raises UserError for a password that is too easy to guess offline; see docs/protocol.md, "Keys"."""
    if len(password) < MIN_PASSWORD:
        raise UserError(
            f"the password has {len(password)} characters, at least {MIN_PASSWORD} are needed",
            hint="or let meshd make a key: launch without a password",
        )
    if any("\ud800" <= letter <= "\udfff" for letter in password):  # what Python makes of other bytes in an argument
        raise UserError("the password is not UTF-8 text", hint="save its file as UTF-8, or choose plain letters")


@dataclass(slots=True, frozen=True, kw_only=True, repr=False)
class MeshKey:
    """A mesh's key and what is derived from it. Its repr shows the public mesh id and the suite only."""

    suite: Suite
    mesh_id: bytes
    key: bytes
    from_password: bool
    psk: bytes = field(init=False, compare=False)
    mac1_bootstrap: bytes = field(init=False, compare=False)
    cookie_bootstrap: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_SIZE or len(self.mesh_id) != MESH_ID_SIZE:
            raise LocalProtocolError("a mesh key has 32 bytes and its id 16")
        source = self.mesh_id if self.from_password else self.key
        object.__setattr__(self, "psk", hkdf(self.key, b"meshd psk v1"))
        object.__setattr__(self, "mac1_bootstrap", hkdf(source, b"meshd mac1 bootstrap v1"))
        object.__setattr__(self, "cookie_bootstrap", hkdf(source, b"meshd cookie bootstrap v1"))

    @classmethod
    def generate(cls, entropy: Entropy, suite: Suite = Suite.AES_256_GCM) -> MeshKey:
        return cls(suite=suite, mesh_id=entropy(MESH_ID_SIZE), key=entropy(KEY_SIZE), from_password=False)

    @classmethod
    def derive(cls, password: str, mesh_name: str, suite: Suite = Suite.AES_256_GCM) -> MeshKey:
        """From a password: takes 0.3 s and 64 MiB, so not on an event loop. Call `check_password` first, where its rule holds."""
        name = mesh_name.encode()
        argon2 = Argon2id(
            salt=_labelled_hash(b"meshd password salt v1", name, 16),
            length=KEY_SIZE,
            iterations=_ARGON2_PASSES,
            lanes=_ARGON2_LANES,
            memory_cost=_ARGON2_MEMORY_KIB,
        )
        mesh_id = _labelled_hash(b"meshd mesh id v1", name, MESH_ID_SIZE)
        return cls(suite=suite, mesh_id=mesh_id, key=argon2.derive(password.encode()), from_password=True)

    def to_text(self) -> str:
        """SECRET: for a terminal or a file of mode 0600, nothing else."""
        body = bytes((self.from_password, self.suite)) + self.mesh_id + self.key
        return _PREFIX + base64.b32encode(body + _checksum(body)).decode().lower()

    @classmethod
    def parse(cls, text: str) -> MeshKey:
        """What `to_text` made. Raises UserError, which says what is wrong and never shows the key."""
        body = _decode_text(text.strip().lower())
        kind, suite, secret = body[0], body[1], body[2:]
        if kind not in (0, 1):
            raise UserError("the mesh key is of a kind that this version of meshd does not know", hint="update meshd")
        if suite not in list(Suite):
            raise UserError(
                f"the mesh key asks for cipher suite {suite}, which this version of meshd does not know",
                hint="update meshd",
            )
        mesh_id, key = secret[:MESH_ID_SIZE], secret[MESH_ID_SIZE:]
        return cls(suite=Suite(suite), mesh_id=mesh_id, key=key, from_password=kind == 1)

    def __repr__(self) -> str:
        return f"MeshKey(mesh {self.mesh_id.hex()}, {self.suite.name.lower()})"


def _checksum(body: bytes) -> bytes:
    return _labelled_hash(b"meshd key checksum v1", body, _CHECKSUM_SIZE)


def _decode_text(text: str) -> bytes:
    """The 50 bytes behind a key's text, checksum verified."""
    if not text.startswith(_PREFIX):
        if _ANY_VERSION.match(text):
            raise UserError("the mesh key has a version that this meshd does not know", hint="update meshd")
        raise UserError("that is no mesh key: a mesh key starts with mk1-", hint=_HINT)
    digits = text[len(_PREFIX) :]
    if re.search(r"[^a-z2-7]", digits):
        raise UserError("the mesh key has a typing error: it holds a character that no key has", hint=_HINT)
    if len(digits) != _CHARACTERS:
        what = "is cut short" if len(digits) < _CHARACTERS else "is too long"
        raise UserError(f"the mesh key {what}: {len(digits)} of {_CHARACTERS} characters after mk1-", hint=_HINT)
    data = base64.b32decode(digits.upper())
    body, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
    if not hmac.compare_digest(checksum, _checksum(body)):
        raise UserError("the mesh key has a typing error: its checksum does not fit", hint=_HINT)
    return body
