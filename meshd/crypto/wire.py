"""Handshake datagrams, types 1, 2 and 5 to 7: layout, exact sizes, mac1. Little-endian; numbers are append-only.

    byte 0          1         2..3
    version type    flags     segment          first four bytes of every datagram (version in the high half)

    type                      parts after the first four bytes                                             size
    1 init      (IK 1)        sender 4, Noise 108 (e 32, static 48, payload 12+16), mac1 16, mac2 16         148
    2 response  (IK 2)        sender 4, receiver 4, Noise 48 (e 32, empty 16), mac1, mac2                     92
    5 bootstrap (XX 1)        sender 4, Noise 48 (e 32, empty 16), zeros 149, mac1, mac2                     237
    6 bootstrap (XX 2)        sender 4, receiver 4, Noise 193 (e 32, static 48, binding 97+16), mac1, mac2   237
    7 bootstrap (XX 3)        sender 4, receiver 4, Noise 161 (static 48, binding 97+16), mac1, mac2         205

Type 3 is in `cookie`, types 4 (data) and 8 (relay) are the packet engine's. Type 5 is padded to the size of type 6, so
that no reply is larger than what asked for it. Sizes are exact: another length is dropped unparsed, an extension takes a new
type.

mac1 is BLAKE2s-128 over everything before it, keyed: for 1 and 2 with a hash of the receiver's static key, for 5 to 7 with a
key of the mesh. It keeps strangers from costing us a DH and is no authentication. mac2 is zero, or in types 1 and 5 a MAC under
the cookie that the receiver gave out (`cookie`).
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import NamedTuple

from meshd.crypto.aead import TAG_SIZE, Buffer
from meshd.crypto.identity import BINDING_SIZE
from meshd.crypto.noise import DH_SIZE
from meshd.drops import DropReason
from meshd.errors import DecodeError

__all__ = [
    "HEADER_SIZE",
    "LIVENESS_SIZE",
    "MAC1_SIZE",
    "MAX_HANDSHAKE_SIZE",
    "NO_MAC2",
    "VERSION",
    "Liveness",
    "LivenessCounter",
    "Mac1Keys",
    "Message",
    "MessageType",
    "Rejected",
    "cookie_static",
    "decode_header",
    "decode_liveness",
    "decode_message",
    "encode_liveness",
    "encode_message",
    "mac1_static",
    "message_size",
]

VERSION = 1
HEADER_SIZE = 4
MAC1_SIZE = 16
_MAC2_SIZE = 16
NO_MAC2 = bytes(_MAC2_SIZE)
_INDEX_SIZE = 4
_MAC1_LABEL = b"meshd mac1 v1"
_COOKIE_LABEL = b"meshd cookie v1"

_HEADER = struct.Struct("<BBH")
_ONE_INDEX = struct.Struct("<BBHI")
_TWO_INDICES = struct.Struct("<BBHII")
_LIVENESS = struct.Struct("<QI")
LIVENESS_SIZE = _LIVENESS.size


class Rejected(DecodeError):
    """A message from outside is refused; `reason` is what to count. Nothing was changed by it and nothing is answered."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.name.lower())
        self.reason = reason


@enum.unique
class MessageType(enum.IntEnum):
    """All datagram types, the low four bits of the first byte. Append only. Through this file pass INIT, RESPONSE, BOOTSTRAP_*."""

    INIT = 1
    RESPONSE = 2
    COOKIE = 3
    DATA = 4
    BOOTSTRAP_INIT = 5
    BOOTSTRAP_RESPONSE = 6
    BOOTSTRAP_FINISH = 7
    RELAY = 8


@dataclass(slots=True, frozen=True)
class _Layout:
    """`receiver`: has a receiver index; `noise` and `padding`: bytes of the Noise message and of zeros after it."""

    receiver: bool
    noise: int
    padding: int = 0

    @property
    def start(self) -> int:
        return HEADER_SIZE + _INDEX_SIZE * (2 if self.receiver else 1)

    @property
    def mac1_at(self) -> int:
        return self.start + self.noise + self.padding

    @property
    def size(self) -> int:
        return self.mac1_at + MAC1_SIZE + _MAC2_SIZE


_EPHEMERAL = DH_SIZE
_STATIC = DH_SIZE + TAG_SIZE
_BINDING = BINDING_SIZE + TAG_SIZE
_LAYOUTS = {
    MessageType.INIT: _Layout(False, _EPHEMERAL + _STATIC + LIVENESS_SIZE + TAG_SIZE),
    MessageType.RESPONSE: _Layout(True, _EPHEMERAL + TAG_SIZE),
    MessageType.BOOTSTRAP_INIT: _Layout(
        False, _EPHEMERAL + TAG_SIZE, padding=_INDEX_SIZE + _STATIC + _BINDING - TAG_SIZE
    ),
    MessageType.BOOTSTRAP_RESPONSE: _Layout(True, _EPHEMERAL + _STATIC + _BINDING),
    MessageType.BOOTSTRAP_FINISH: _Layout(True, _STATIC + _BINDING),
}
MAX_HANDSHAKE_SIZE = max(layout.size for layout in _LAYOUTS.values())
_IK_TYPES = (MessageType.INIT, MessageType.RESPONSE)
_OPENING = (MessageType.INIT, MessageType.BOOTSTRAP_INIT)
# The first four bytes as they should be, so that most datagrams need no parsing of them.
_USUAL = {_HEADER.pack(VERSION << 4 | kind, 0, 0): kind for kind in MessageType}


class Message(NamedTuple):
    """A handshake message whose mac1 was right. `receiver` is 0 in the types that open a handshake."""

    type: MessageType
    sender: int
    receiver: int
    noise: bytes


class Mac1Keys(NamedTuple):
    """The two mac1 keys under which datagrams for one host come in."""

    static: bytes  # types 1 and 2, from the host's X25519 key
    bootstrap: bytes  # types 5 to 7, from the mesh key


class Liveness(NamedTuple):
    """Ordered: a type 1 counts only when its liveness is above its sender's last. `boot` is persisted and grows at each start."""

    boot: int
    attempt: int


class LivenessCounter:
    """The next liveness for every type 1 of this host, over UDP and TCP alike: none is ever taken for a copy of another."""

    __slots__ = ("_last",)

    def __init__(self, boot: int) -> None:
        self._last = Liveness(boot, 0)

    def __call__(self) -> Liveness:
        self._last = Liveness(self._last.boot, self._last.attempt + 1)
        return self._last

    def raise_boot(self, boot: int) -> None:
        """A higher boot counter is on disk: the mesh remembers a later life of this host than the disk did."""
        self._last = Liveness(boot, 0)


def message_size(kind: MessageType) -> int:
    """The exact size of a handshake datagram. KeyError for a type that is none."""
    return _LAYOUTS[kind].size


def mac1_static(static: bytes) -> bytes:
    """The mac1 key of types 1 and 2 towards the host with this X25519 key."""
    return hashlib.blake2s(_MAC1_LABEL + static).digest()


def cookie_static(static: bytes) -> bytes:
    """The key of the cookies by which the host with this X25519 key answers a type 1."""
    return hashlib.blake2s(_COOKIE_LABEL + static).digest()


def encode_liveness(liveness: Liveness) -> bytes:
    return _LIVENESS.pack(*liveness)


def decode_liveness(payload: bytes) -> Liveness:
    """Raises Rejected."""
    if len(payload) != LIVENESS_SIZE:
        raise Rejected(DropReason.BAD_HANDSHAKE)
    return Liveness(*_LIVENESS.unpack(payload))


def encode_message(message: Message, mac1_key: bytes) -> bytes:
    layout = _LAYOUTS[message.type]
    first = VERSION << 4 | message.type
    if layout.receiver:
        head = _TWO_INDICES.pack(first, 0, 0, message.sender, message.receiver)
    else:
        head = _ONE_INDEX.pack(first, 0, 0, message.sender)
    covered = head + message.noise + bytes(layout.padding)
    return covered + _mac1(mac1_key, covered) + NO_MAC2


def decode_message(data: Buffer, keys: Mac1Keys, *, cookies: bool = False) -> Message:
    """Check form, then mac1, then parse: the order of docs/protocol.md, "Gate". Raises Rejected.

    `cookies`: the caller looks at the mac2 of types 1 and 5; without, it must be zero.
    """
    data = bytes(data)
    kind = decode_header(data)
    layout = _LAYOUTS.get(kind)
    if layout is None:
        raise Rejected(DropReason.UNKNOWN_TYPE)
    if len(data) != layout.size:
        raise Rejected(DropReason.TRUNCATED if len(data) < layout.size else DropReason.BAD_LENGTH)
    end = layout.mac1_at
    key = keys.static if kind in _IK_TYPES else keys.bootstrap
    given = data[end : end + MAC1_SIZE] if cookies and kind in _OPENING else data[end:]
    if not hmac.compare_digest(given, (_mac1(key, data[:end]) + NO_MAC2)[: len(given)]):
        raise Rejected(DropReason.BAD_MAC1)
    if any(data[end - layout.padding : end]):
        raise Rejected(DropReason.BAD_HANDSHAKE)
    receiver = 0
    if layout.receiver:
        _, _, _, sender, receiver = _TWO_INDICES.unpack_from(data)
    else:
        _, _, _, sender = _ONE_INDEX.unpack_from(data)
    if sender == 0:
        raise Rejected(DropReason.BAD_HANDSHAKE)
    return Message(kind, sender, receiver, data[layout.start : layout.start + layout.noise])


def decode_header(data: Buffer) -> MessageType:
    """The type in the first four bytes; version, segment and flags must be known. Raises Rejected."""
    usual = _USUAL.get(bytes(data[:HEADER_SIZE]))
    if usual is not None:
        return usual
    if len(data) < HEADER_SIZE:
        raise Rejected(DropReason.TRUNCATED)
    first, flags, segment = _HEADER.unpack_from(data)
    if first >> 4 != VERSION:
        raise Rejected(DropReason.UNKNOWN_VERSION)
    try:
        kind = MessageType(first & 0x0F)
    except ValueError:
        raise Rejected(DropReason.UNKNOWN_TYPE) from None
    if segment != 0:
        raise Rejected(DropReason.UNKNOWN_SEGMENT)
    if flags and kind not in (MessageType.DATA, MessageType.RELAY):
        raise Rejected(DropReason.UNKNOWN_TYPE)  # a variant of this type that no version 1 host sends
    return kind


def _mac1(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=MAC1_SIZE).digest()
