"""Who a host is: an Ed25519 key that signs its records, and an X25519 key that its handshakes use.

The host id is the first half of BLAKE2s(Ed25519 public key). The two keys are tied together by a *binding*, which the XX
handshake carries where no record of the host is known yet: Ed25519 key 32, signature 64 over (label, mesh id, X25519 key),
format version 1. The signature covers the mesh id, so the binding of one mesh says nothing in another.

Signing and verifying are function types, so that a simulation of a thousand hosts can pass counted fakes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meshd.crypto.noise import DhKey, Entropy
from meshd.errors import DecodeError
from meshd.ids import HOST_ID_SIZE, HostId

__all__ = [
    "BINDING_SIZE",
    "IDENTITY_SIZE",
    "Identity",
    "Signer",
    "Verifier",
    "host_id_of",
    "make_binding",
    "verify_binding",
    "verify_signature",
]

Signer = Callable[[bytes], bytes]  # message -> signature (64)
Verifier = Callable[[bytes, bytes, bytes], bool]  # public key (32), signature, message

IDENTITY_SIZE = 65  # version 1, Ed25519 seed 32, X25519 private 32
BINDING_SIZE = 97
_IDENTITY_VERSION = 1
_BINDING_VERSION = 1
_BINDING_LABEL = b"meshd binding v1"


def host_id_of(ed25519_public: bytes) -> HostId:
    return HostId(hashlib.blake2s(ed25519_public).digest()[:HOST_ID_SIZE])


def verify_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    """The real Verifier. False for anything that is no valid signature, a malformed key included."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def make_binding(signer: Signer, ed25519_public: bytes, mesh_id: bytes, x25519_public: bytes) -> bytes:
    """The identity half of the XX payload, 97 bytes."""
    return ed25519_public + signer(_BINDING_LABEL + mesh_id + x25519_public) + bytes((_BINDING_VERSION,))


def verify_binding(
    binding: bytes, mesh_id: bytes, x25519_public: bytes, verifier: Verifier = verify_signature
) -> bytes:
    """The Ed25519 key that vouches for this X25519 key in this mesh. Raises DecodeError."""
    if len(binding) != BINDING_SIZE:
        raise DecodeError(f"a binding has {BINDING_SIZE} bytes, not {len(binding)}")
    public, signature, version = binding[:32], binding[32:96], binding[96]
    if version != _BINDING_VERSION:
        raise DecodeError(f"unknown binding version {version}")
    if not verifier(public, signature, _BINDING_LABEL + mesh_id + x25519_public):
        raise DecodeError("the binding's signature does not verify")
    return public


class Identity:
    """A host's two secret keys. Its repr shows the host id only."""

    __slots__ = ("_ed25519", "_private", "dh", "ed25519_public", "host_id")

    def __init__(self, ed25519_private: bytes, x25519_private: bytes) -> None:
        self._private = ed25519_private + x25519_private
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(ed25519_private)
        self.dh = DhKey.from_private(x25519_private)
        self.ed25519_public = self._ed25519.public_key().public_bytes_raw()
        self.host_id = host_id_of(self.ed25519_public)

    @classmethod
    def generate(cls, entropy: Entropy) -> Identity:
        return cls(entropy(32), entropy(32))

    @classmethod
    def from_bytes(cls, data: bytes) -> Identity:
        """What `to_bytes` made. Raises DecodeError, whose text never shows a byte of it."""
        if len(data) != IDENTITY_SIZE:
            raise DecodeError(f"a stored identity has {IDENTITY_SIZE} bytes, not {len(data)}")
        if data[0] != _IDENTITY_VERSION:
            raise DecodeError(f"unknown version {data[0]} of a stored identity")
        return cls(data[1:33], data[33:])

    def to_bytes(self) -> bytes:
        """SECRET: for a file of mode 0600, nothing else."""
        return bytes((_IDENTITY_VERSION,)) + self._private

    @property
    def x25519_public(self) -> bytes:
        return self.dh.public

    def sign(self, message: bytes) -> bytes:
        return self._ed25519.sign(message)

    def binding(self, mesh_id: bytes) -> bytes:
        return make_binding(self.sign, self.ed25519_public, mesh_id, self.dh.public)

    def __repr__(self) -> str:
        return f"Identity({self.host_id.hex()})"
