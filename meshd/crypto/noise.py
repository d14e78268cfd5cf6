"""The Noise Protocol Framework, revision 34, as far as meshd needs it: two patterns, one DH, one cipher, one hash.

`Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` and `Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s`. A pattern is a row of the table below, a
list of tokens for each message; `HandshakeState` walks along it. Section numbers are those of the specification
(noiseprotocol.org).

Error contract: a `write_message` or `read_message` that raises has changed nothing. The same state can read the next message: a
forged answer costs the attacker a datagram and never the handshake. `copy()` lets a caller try a message and keep the result only
when its own checks of the payload succeed too.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from meshd.crypto.aead import TAG_SIZE, nonce
from meshd.errors import DecodeError, LocalProtocolError

__all__ = ["DH_SIZE", "HASH_SIZE", "IK", "XX", "DhKey", "Entropy", "HandshakeState", "NoiseError", "Pattern"]

DH_SIZE = 32
HASH_SIZE = 32

Entropy = Callable[[int], bytes]  # n -> n unpredictable bytes (os.urandom on the wire, seeded in simulations)


class NoiseError(DecodeError):
    """A handshake message that Noise refuses: short, forged, another key, psk or prologue, or an all-zero DH result."""


@dataclass(slots=True, frozen=True)
class Pattern:
    """A handshake pattern (§ 7): tokens of each message; `knows_responder`: the pre-message `<- s`."""

    name: str
    knows_responder: bool
    messages: tuple[tuple[str, ...], ...]


IK = Pattern("IKpsk2", True, (("e", "es", "s", "ss"), ("e", "ee", "se", "psk")))
XX = Pattern("XXpsk3", False, (("e",), ("e", "ee", "s", "es"), ("s", "se", "psk")))
_DH_TOKENS = ("ee", "es", "se", "ss")


@dataclass(slots=True, frozen=True)
class DhKey:
    """An X25519 key pair."""

    private: X25519PrivateKey = field(repr=False)
    public: bytes

    @classmethod
    def from_private(cls, private: bytes) -> DhKey:
        key = X25519PrivateKey.from_private_bytes(private)
        return cls(key, key.public_key().public_bytes_raw())

    def exchange(self, public: bytes) -> bytes:
        """DH (§ 4.1). Raises NoiseError for an all-zero result: a point of small order, sent on purpose only (RFC 7748 § 6.1)."""
        try:
            return self.private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise NoiseError("all-zero DH result") from None


_BLOCK = 64  # of BLAKE2s
_INNER = bytes(value ^ 0x36 for value in range(256))
_OUTER = bytes(value ^ 0x5C for value in range(256))


def _hmac(key: bytes, data: bytes) -> bytes:
    """RFC 2104, for keys of one block at most. The standard library's takes three times as long, and a handshake needs 25."""
    block = key.ljust(_BLOCK, b"\0")
    inner = hashlib.blake2s(block.translate(_INNER) + data).digest()
    return hashlib.blake2s(block.translate(_OUTER) + inner).digest()


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """HKDF of § 4.3: RFC 5869 with the chaining key as salt and no info."""
    secret = _hmac(chaining_key, material)
    result: list[bytes] = []
    block = b""
    for number in range(1, outputs + 1):
        block = _hmac(secret, block + bytes((number,)))
        result.append(block)
    return result


class HandshakeState:
    """CipherState, SymmetricState and HandshakeState of § 5 in one object: together they are six values.

    `remote_static` is what the pattern has told so far; `handshake_hash` and `split` hold once `finished`.
    """

    __slots__ = (
        "_chaining_key",
        "_entropy",
        "_ephemeral",
        "_hash",
        "_initiator",
        "_key",
        "_nonce",
        "_pattern",
        "_position",
        "_psk",
        "_remote_ephemeral",
        "_static",
        "remote_static",
    )

    def __init__(
        self,
        pattern: Pattern,
        *,
        initiator: bool,
        prologue: bytes,
        psk: bytes,
        static: DhKey,
        entropy: Entropy,
        remote_static: bytes | None = None,
    ) -> None:
        if len(psk) != 32:
            raise LocalProtocolError("a pre-shared key has 32 bytes")
        if (remote_static is not None) != (initiator and pattern.knows_responder):
            raise LocalProtocolError("the remote static key is given to the initiator of IK, to nobody else")
        name = (
            f"Noise_{pattern.name}_25519_ChaChaPoly_BLAKE2s".encode()
        )  # longer than HASH_SIZE, so it is hashed (§ 5.2)
        self._hash = hashlib.blake2s(name).digest()
        self._chaining_key = self._hash
        self._key: bytes | None = None
        self._nonce = 0
        self._pattern = pattern
        self._position = 0
        self._initiator = initiator
        self._psk = psk
        self._static = static
        self._ephemeral: DhKey | None = None
        self._remote_ephemeral: bytes | None = None
        self._entropy = entropy
        self.remote_static = remote_static
        self._mix_hash(prologue)
        if pattern.knows_responder:
            self._mix_hash(remote_static if remote_static is not None else static.public)

    @property
    def finished(self) -> bool:
        return self._position == len(self._pattern.messages)

    @property
    def handshake_hash(self) -> bytes:
        """Names this handshake uniquely (§ 11.2); the same on both sides."""
        self._expect(self.finished)
        return self._hash

    @property
    def ephemeral_public(self) -> bytes | None:
        return None if self._ephemeral is None else self._ephemeral.public

    def copy(self) -> HandshakeState:
        """An independent state at the same point; all parts are immutable, so this is cheap."""
        return copy.copy(self)

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys (§ 5.2): the initiator seals under the first, the responder under the second."""
        self._expect(self.finished)
        first, second = _hkdf(self._chaining_key, b"", 2)
        return first, second

    def write_message(self, payload: bytes) -> bytes:
        """The next message of ours. Raises NoiseError when the other side's key gives an all-zero DH result."""
        self._expect(not self.finished and self._initiator == (self._position % 2 == 0))
        trial = self.copy()
        message = trial._write(payload)
        self._adopt(trial)
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the other side's next message. Raises NoiseError; the state is then as before."""
        self._expect(not self.finished and self._initiator == (self._position % 2 == 1))
        trial = self.copy()
        payload = trial._read(message)
        self._adopt(trial)
        return payload

    def _write(self, payload: bytes) -> bytes:
        parts: list[bytes] = []
        for token in self._pattern.messages[self._position]:
            match token:
                case "e":
                    self._ephemeral = DhKey.from_private(self._entropy(DH_SIZE))
                    parts.append(self._ephemeral.public)
                    self._mix_ephemeral(self._ephemeral.public)
                case "s":
                    parts.append(self._encrypt(self._static.public))
                case _:
                    self._mix_token(token)
        parts.append(self._encrypt(payload))
        self._position += 1
        return b"".join(parts)

    def _read(self, message: bytes) -> bytes:
        rest = message
        for token in self._pattern.messages[self._position]:
            match token:
                case "e":
                    self._remote_ephemeral, rest = _take(rest, DH_SIZE)
                    self._mix_ephemeral(self._remote_ephemeral)
                case "s":
                    sealed, rest = _take(rest, DH_SIZE + TAG_SIZE)  # in both patterns a key is set before the first s
                    self.remote_static = self._decrypt(sealed)
                case _:
                    self._mix_token(token)
        payload = self._decrypt(rest)
        self._position += 1
        return payload

    def _mix_token(self, token: str) -> None:
        if token not in _DH_TOKENS:  # psk: MixKeyAndHash, § 9.2
            self._chaining_key, mixed, self._key = _hkdf(self._chaining_key, self._psk, 3)
            self._nonce = 0
            self._mix_hash(mixed)
            return
        # "es": the initiator's ephemeral and the responder's static key; and so on (§ 5.3)
        ours, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        key = self._ephemeral if ours == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else self.remote_static
        if key is None or public is None:
            raise LocalProtocolError(f"token {token} before its keys")
        self._mix_key(key.exchange(public))

    def _mix_ephemeral(self, public: bytes) -> None:
        """In a psk handshake an ephemeral key is mixed into the chaining key too (§ 9.2)."""
        self._mix_hash(public)
        self._mix_key(public)

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.blake2s(self._hash + data).digest()

    def _mix_key(self, material: bytes) -> None:
        self._chaining_key, self._key = _hkdf(self._chaining_key, material, 2)
        self._nonce = 0

    def _encrypt(self, plaintext: bytes) -> bytes:
        sealed = self._cipher().encrypt(nonce(self._nonce), plaintext, self._hash)
        self._nonce += 1
        self._mix_hash(sealed)
        return sealed

    def _decrypt(self, sealed: bytes) -> bytes:
        try:
            plaintext = self._cipher().decrypt(nonce(self._nonce), sealed, self._hash)
        except InvalidTag:
            raise NoiseError("message does not authenticate") from None
        self._nonce += 1
        self._mix_hash(sealed)
        return plaintext

    def _cipher(self) -> ChaCha20Poly1305:
        if self._key is None:  # both patterns start with e, which sets a key
            raise LocalProtocolError("no key yet")
        return ChaCha20Poly1305(self._key)

    def _adopt(self, other: HandshakeState) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def _expect(self, condition: bool) -> None:
        if not condition:
            raise LocalProtocolError(f"out of turn at message {self._position + 1} of {self._pattern.name}")


def _take(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise NoiseError("message too short")
    return data[:size], data[size:]
