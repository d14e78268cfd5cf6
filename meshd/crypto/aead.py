"""The three suites of a mesh behind one small interface: seal and open under a 12-byte nonce.

AES-256-GCM is the default, ChaCha20-Poly1305 is for hosts without AES instructions, PLAIN authenticates and hides nothing. A
packet path calls `seal` and `open` once for each datagram, so for the first two suites these attributes *are* the bound methods
of the library object: no Python frame in between.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from meshd.errors import LocalProtocolError

__all__ = ["KEY_SIZE", "NONCE_SIZE", "TAG_SIZE", "Aead", "AeadFactory", "Buffer", "Suite", "new_aead", "nonce"]

Buffer = bytes | bytearray | memoryview

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16

_NONCE = struct.Struct("<4xQ")
# nonce(counter): four zero bytes and the counter, little-endian, 8 bytes. The struct's own method, since it runs per packet.
nonce: Callable[[int], bytes] = _NONCE.pack


@enum.unique
class Suite(enum.IntEnum):
    """What a mesh seals with; part of the prologue, so hosts with different suites cannot talk. Append only."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2
    PLAIN = 3  # AES-256-GMAC: authenticated, not secret

    @property
    def secret(self) -> bool:
        """False where a listener can read what is sealed: every status names such a mesh."""
        return self is not Suite.PLAIN


class Aead(Protocol):
    """One key. Never seal twice under one nonce. The buffers stay the caller's; the results are new."""

    def seal(self, nonce: bytes, plaintext: Buffer, aad: Buffer, /) -> bytes:
        """Ciphertext and 16-byte tag."""
        ...

    def open(self, nonce: bytes, sealed: Buffer, aad: Buffer, /) -> bytes:
        """The plaintext. Raises cryptography.exceptions.InvalidTag, also for what is too short to hold a tag."""
        ...


AeadFactory = Callable[[Suite, bytes], Aead]
_Operation = Callable[[bytes, Buffer, Buffer], bytes]


class _Bound:
    """Two bound methods and nothing else."""

    __slots__ = ("open", "seal")

    def __init__(self, seal: _Operation, open_: _Operation) -> None:
        self.seal = seal
        self.open = open_


class _Plain:
    """AES-256-GMAC: GCM of nothing, with aad || plaintext as associated data; on the wire: plaintext, tag.

    The seam between aad and plaintext is not authenticated by itself: it is fixed because every caller's aad has one length
    (the 16-byte datagram header).
    """

    __slots__ = ("_gcm",)

    def __init__(self, key: bytes) -> None:
        self._gcm = AESGCM(key)

    def seal(self, nonce: bytes, plaintext: Buffer, aad: Buffer, /) -> bytes:
        return b"".join((plaintext, self._gcm.encrypt(nonce, b"", b"".join((aad, plaintext)))))

    def open(self, nonce: bytes, sealed: Buffer, aad: Buffer, /) -> bytes:
        if len(sealed) < TAG_SIZE:
            raise InvalidTag
        plaintext = bytes(sealed[:-TAG_SIZE])
        self._gcm.decrypt(nonce, bytes(sealed[-TAG_SIZE:]), b"".join((aad, plaintext)))
        return plaintext


def new_aead(suite: Suite, key: bytes) -> Aead:
    """The real thing; simulations may pass another AeadFactory. Raises LocalProtocolError for a key of another length than 32."""
    if len(key) != KEY_SIZE:
        raise LocalProtocolError(f"an AEAD key has {KEY_SIZE} bytes, not {len(key)}")
    match suite:
        case Suite.AES_256_GCM:
            gcm = AESGCM(key)
            return _Bound(gcm.encrypt, gcm.decrypt)
        case Suite.CHACHA20_POLY1305:
            chacha = ChaCha20Poly1305(key)
            return _Bound(chacha.encrypt, chacha.decrypt)
        case Suite.PLAIN:
            return _Plain(key)
