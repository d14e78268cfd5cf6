"""Cookies (type 3): what a host asks for before it does costly work for an address, and how a peer answers.

    0        1        2        3        4                 8                        20                            52
    +--------+--------+-----------------+-----------------+------------------------+-----------------------------+
    |  0x13  |   0    |        0        | receiver    u32 | nonce               12 | sealed: kind 1, value 15, 16 |
    +--------+--------+-----------------+-----------------+------------------------+-----------------------------+

AES-256-GCM-SIV; associated data = mac1 of the datagram that it answers, so that it fits that one only; the key is derived like
that datagram's mac1 key, under a label of its own. Kinds:

    1 ADDRESS   value 15 = BLAKE2s(secret, address of the asker), cut. The secret is random, lives here alone and changes every
                SECRET_S; the one before still counts. The asker's next try carries mac2, keyed by the value: so it has received
                what was sent to its address (WireGuard's paper, § 5.4.7). No state is kept here for any asker.
    2 LIVENESS  value = the liveness 12 that the next type 1 must carry, zeros 3: see `liveness`.

A cookie is smaller than what it answers (52 for 148 or 237) and is no reason for its receiver to send anything at once: it goes
into the next try.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from collections import OrderedDict
from collections.abc import Hashable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from meshd.crypto.noise import Entropy
from meshd.crypto.wire import MAC1_SIZE, VERSION, MessageType, Rejected
from meshd.drops import DropReason

__all__ = [
    "COOKIE_SIZE",
    "MAX_COOKIES",
    "SECRET_S",
    "VALUE_SIZE",
    "CookieKind",
    "CookieMaker",
    "CookieMemory",
    "cookie_receiver",
    "mac2",
    "open_cookie",
    "seal_cookie",
]

VALUE_SIZE = 15
SECRET_S = 120.0
MAX_COOKIES = 256  # that others gave us; the oldest goes

_HEAD = struct.Struct("<BBHI12s")
_FIRST_BYTE = VERSION << 4 | MessageType.COOKIE
_TAG_SIZE = 16
COOKIE_SIZE = _HEAD.size + 1 + VALUE_SIZE + _TAG_SIZE


@enum.unique
class CookieKind(enum.IntEnum):
    ADDRESS = 1
    LIVENESS = 2


def seal_cookie(key: bytes, receiver: int, nonce: bytes, mac1: bytes, kind: CookieKind, value: bytes) -> bytes:
    """The datagram. `mac1`: of the datagram that it answers; `receiver`: that one's sender index."""
    plain = bytes((kind,)) + value.ljust(VALUE_SIZE, b"\0")
    return _HEAD.pack(_FIRST_BYTE, 0, 0, receiver, nonce) + AESGCMSIV(key).encrypt(nonce, plain, mac1)


def cookie_receiver(datagram: bytes) -> int:
    """The index that a type 3 is for; its first four bytes have been looked at. Raises Rejected."""
    if len(datagram) != COOKIE_SIZE:
        raise Rejected(DropReason.TRUNCATED if len(datagram) < COOKIE_SIZE else DropReason.BAD_LENGTH)
    return int.from_bytes(datagram[4:8], "little")


def open_cookie(key: bytes, datagram: bytes, mac1: bytes) -> tuple[CookieKind, bytes]:
    """Kind and value of a cookie of the right length. Raises Rejected."""
    try:
        plain = AESGCMSIV(key).decrypt(datagram[8:20], datagram[20:], mac1)
    except InvalidTag:
        raise Rejected(DropReason.BAD_TAG) from None
    try:
        return CookieKind(plain[0]), plain[1:]
    except ValueError:
        raise Rejected(DropReason.UNKNOWN_TYPE) from None


def mac2(value: bytes, covered: bytes) -> bytes:
    """`covered`: all of the datagram before mac2."""
    return hashlib.blake2s(covered, key=value, digest_size=MAC1_SIZE).digest()


class CookieMaker:
    """The answering side: gives out values and knows them again, from nothing but the secret."""

    __slots__ = ("_entropy", "_previous", "_secret", "_since")

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._secret = b""
        self._previous = b""
        self._since = float("-inf")

    def value(self, source: Hashable, now: float) -> bytes:
        self._rotate(now)
        return _value(self._secret, source)

    def check(self, source: Hashable, covered: bytes, given: bytes, now: float) -> bool:
        """Whether `given` is the mac2 of somebody who received our cookie at this address."""
        self._rotate(now)
        return any(
            hmac.compare_digest(mac2(_value(secret, source), covered), given)
            for secret in (self._secret, self._previous)
            if secret
        )

    def _rotate(self, now: float) -> None:
        if now < self._since + SECRET_S:
            return
        self._previous = self._secret if now < self._since + 2 * SECRET_S else b""
        self._secret = self._entropy(32)
        self._since = now


def _value(secret: bytes, source: Hashable) -> bytes:
    """`source` by its text: an endpoint's and a relayed address's differ in form."""
    return hashlib.blake2s(str(source).encode(), key=secret, digest_size=VALUE_SIZE).digest()


class CookieMemory:
    """The asking side: the cookies that others gave us, by the address that we asked at."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, tuple[bytes, float]] = OrderedDict()

    def put(self, address: Hashable, value: bytes, now: float) -> None:
        self._values[address] = (value, now + SECRET_S)
        self._values.move_to_end(address)
        if len(self._values) > MAX_COOKIES:
            self._values.popitem(last=False)

    def get(self, address: Hashable, now: float) -> bytes | None:
        value, until = self._values.get(address, (None, now))
        return value if now < until else None

    def __len__(self) -> int:
        return len(self._values)
